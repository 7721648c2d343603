"""Vectors that other caches hold: found by the SHA-256 of each image, and copied instead of computed."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from featurize.cache.features import FILES_SHOWN, CacheInfo
from featurize.cache.format import SEAL_BYTES, glance
from featurize.cache.header import MALFORMED, Header, parse_header
from featurize.cache.reader import image_digests, integers, opened, stored_vectors
from featurize.cache.shards import SHARD_BYTES
from featurize.cache.spec import ExtractionSpec, explain_difference
from featurize.core.errors import CacheError, CacheMismatchError

logger = logging.getLogger("frozenbench")
COMPUTED = -1
REMEDY = "leave it out, or compute everything with --no-reuse"


@dataclass(frozen=True)
class Source:
    """An open cache whose seal has been checked. Its rows are counted over all its splits.

    Attributes:
        header: parsed.
        file: the cache; it stays the same one when another takes its name.
        seal: SHA-256 (hexadecimal) of its content.
        digests: of its images, uint8 (n, 32).
        origins: int64 (n,), see `SplitRecords`.
    """

    header: Header
    file: BinaryIO
    seal: str
    digests: np.ndarray
    origins: np.ndarray

    @property
    def info(self) -> CacheInfo:
        """The description of the cache."""
        return self.header.info

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows, int64 (m,), as they are stored: (m, d).

        Raises:
            CacheError: a shard of a large cache is missing or damaged, or a value is not finite.
        """
        found = np.empty((len(rows), self.info.dim), np.dtype(self.info.spec.dtype).newbyteorder("<"))
        first = 0
        for split, count in self.info.rows.items():
            inside = np.flatnonzero((rows >= first) & (rows < first + count))
            found[inside] = stored_vectors(self.header, self.file, split, rows[inside] - first)
            first += count
        if not np.isfinite(found).all():
            raise CacheError(f"{self.info.path} holds a value that is not finite; {REMEDY}")
        return found

    def maker(self, origin: int) -> dict[str, Any]:
        """The facts about the cache that computed vectors: this one, or one that it took them from."""
        if origin:
            return self.info.taken[origin - 1]
        info = self.info
        return {"file": info.path.name, "sha256": self.seal, "versions": info.versions, "device": info.device}


class TakenRows:
    """For each image of a data set, the cache that holds its vector, or none.

    Args:
        digests: of the images of each split, uint8 (n, 32).

    Attributes:
        sources: the caches, open.
        source_of: for each split the index of the source, int32 (n,); `COMPUTED` for images that no source knows.
        row_of: for each split the row of the source, int64 (n,).
    """

    def __init__(self, digests: Mapping[str, np.ndarray]) -> None:
        self.digests = dict(digests)
        self.sources: list[Source] = []
        self.source_of = {split: np.full(len(known), COMPUTED, np.int32) for split, known in digests.items()}
        self.row_of = {split: np.zeros(len(known), np.int64) for split, known in digests.items()}

    @classmethod
    def none(cls, rows: Mapping[str, int]) -> Self:
        """All rows of each split are to be computed, and their images are not known."""
        return cls({split: np.broadcast_to(np.uint8(0), (count, 32)) for split, count in rows.items()})

    def missing(self, split: str) -> np.ndarray:
        """The rows to compute, ascending, int64 (m,)."""
        return np.flatnonzero(self.source_of[split] == COMPUTED)

    @property
    def total(self) -> int:
        """The number of all rows."""
        return sum(len(numbers) for numbers in self.source_of.values())

    @property
    def to_compute(self) -> int:
        """The number of rows to compute."""
        return sum(len(self.missing(split)) for split in self.source_of)

    @property
    def counts(self) -> list[int]:
        """The number of rows from each source."""
        numbers = np.concatenate(list(self.source_of.values()))
        return [int(np.count_nonzero(numbers == number)) for number in range(len(self.sources))]

    @property
    def main(self) -> Source | None:
        """The source of most rows, None if there is none."""
        return self.sources[int(np.argmax(self.counts))] if any(self.counts) else None

    @property
    def seconds(self) -> float:
        """What computing the taken rows took, as their caches say."""
        pairs = zip(self.counts, self.sources, strict=True)
        return sum(count / (source.info.images_per_second or np.inf) for count, source in pairs)

    @property
    def in_words(self) -> str:
        """How many vectors come from where, in one line."""
        used = [source.info.path.name for source, count in zip(self.sources, self.counts, strict=True) if count]
        names = ", ".join(used[:FILES_SHOWN]) + (", ..." if len(used) > FILES_SHOWN else "")
        rest = f"{self.to_compute:,} to compute" if self.to_compute else "none to compute"
        return f"{self.total - self.to_compute:,} of {self.total:,} vectors from {names}, {rest}"

    def held_by(self, digests: np.ndarray) -> int:
        """The number of rows to compute whose images are among `digests`, uint8 (n, 32)."""
        return sum(int((rows >= 0).sum()) for rows in self._find(digests).values())

    def lacks(self, digests: np.ndarray) -> int:
        """The number of `digests`, uint8 (n, 32), that are not those of images of this data set."""
        ours = np.concatenate(list(self.digests.values()))
        return int((_find_rows(ours, digests) < 0).sum())

    def add(self, source: Source) -> None:
        """Take from a source the vectors of all images that no earlier one knows, after reading each of them once.

        Raises:
            CacheError: a vector cannot be read, or is not finite.
        """
        found = self._find(source.digests)
        rows = np.concatenate([each[each >= 0] for each in found.values()])
        for some in np.array_split(np.sort(rows), 1 + len(rows) * source.info.dim * 4 // SHARD_BYTES):
            source.read(some)
        for split, each in found.items():
            missing = self.missing(split)
            known = each >= 0
            self.source_of[split][missing[known]] = len(self.sources)
            self.row_of[split][missing[known]] = each[known]
        self.sources.append(source)

    def read(self, split: str, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows that are not to be computed, int64 (m,): (m, d). Errors are those of `Source.read`."""
        owners = self.source_of[split][rows]
        parts = {
            number: self.sources[number].read(self.row_of[split][rows[owners == number]]) for number in set(owners)
        }
        found = np.empty((len(rows), self.sources[0].info.dim), next(iter(parts.values())).dtype)
        for number, part in parts.items():
            found[owners == number] = part
        return found

    def bits(self) -> bytes:
        """One bit for each row of all splits: whether it is to be computed."""
        return np.packbits(np.concatenate(list(self.source_of.values())) == COMPUTED).tobytes()

    def computing(self, bits: bytes | None) -> "TakenRows | None":
        """The same with exactly those rows to compute that `bits` say, or all; None if no source holds the others."""
        computed = np.concatenate(list(self.source_of.values())) == COMPUTED
        asked = np.ones(len(computed), bool)
        if bits is not None:
            asked = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(bool)[: len(computed)]
        if len(asked) != len(computed) or (computed & ~asked).any():
            return None
        other = TakenRows(self.digests)
        other.sources, other.row_of = self.sources, self.row_of
        first = 0
        for split, numbers in self.source_of.items():
            other.source_of[split] = np.where(asked[first : first + len(numbers)], COMPUTED, numbers)
            first += len(numbers)
        return other

    def origins(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """The caches that computed the taken vectors, and the `SplitRecords.origins` of each split."""
        entries: dict[str, dict[str, Any]] = {}
        origins = {split: np.zeros(len(numbers), np.int64) for split, numbers in self.source_of.items()}
        for number, source in enumerate(self.sources):
            for split, owners in self.source_of.items():
                rows = np.flatnonzero(owners == number)
                of_source = source.origins[self.row_of[split][rows]]
                for origin in np.unique(of_source).tolist():
                    maker = source.maker(origin)
                    entry = entries.setdefault(maker["sha256"], {**maker, "rows": {}})
                    chosen = rows[of_source == origin]
                    entry["rows"][split] = entry["rows"].get(split, 0) + len(chosen)
                    origins[split][chosen] = list(entries).index(maker["sha256"]) + 1
        return list(entries.values()), origins

    def _find(self, digests: np.ndarray) -> dict[str, np.ndarray]:
        """For each split and row to compute, the row of `digests` that is its image's, or -1."""
        return {split: _find_rows(digests, ours[self.missing(split)]) for split, ours in self.digests.items()}


@contextmanager
def taken_rows(
    path: Path,
    spec: ExtractionSpec,
    digests: Mapping[str, np.ndarray],
    files: Iterable[Path] = (),
    is_usable: Callable[[CacheInfo], bool] = lambda info: True,
) -> Iterator[TakenRows]:
    """Find the vectors of images in other caches, which stay open inside the block.

    These are `files`, then the cache at `path`, then the others in its folder, as long as images are missing. The
    latter must have the same specification but for the data; a damaged one is a warning.

    Args:
        path: of the new cache.
        spec: of the new cache.
        digests: of its images, for each split uint8 (n, 32).
        files: further caches.
        is_usable: whether the new cache may have vectors of a cache with the same specification.

    Raises:
        UsageError: one of `files` does not exist.
        CacheError: one of `files` is damaged, has another specification, or does not know its images.
    """
    with ExitStack() as stack:
        taken = TakenRows(digests)
        for file in files:
            source = stack.enter_context(_checked(file))
            same_data = replace(spec, dataset_digest=source.info.spec.dataset_digest)
            if source.info.spec != same_data:
                raise CacheMismatchError(explain_difference(f"--reuse {file}", source.info.spec, same_data, REMEDY))
            if not is_usable(source.info):
                raise CacheMismatchError(f"--reuse {file} was made with a larger --max-pixels; {REMEDY}")
            taken.add(source)
        others = sorted(other for other in path.parent.glob("*.h5") if other != path)
        for neighbour in [path, *others]:
            if taken.to_compute and _is_worth_opening(neighbour, path, spec, taken, is_usable):
                try:
                    taken.add(stack.enter_context(_checked(neighbour)))
                except CacheError as error:
                    logger.warning("no vectors are taken from %s: %s", neighbour.name, error)
        yield taken


def lost_rows(path: Path, taken: TakenRows) -> tuple[CacheInfo, int | None]:
    """The description of the cache at `path`, and how many of its vectors are of images that a new one will not have.

    The number is None if the cache does not have the digests of its images.
    """
    with opened(path) as (header, file):
        parts = [image_digests(header, file, split) for split in header.info.rows]
    known = [part for part in parts if part is not None]
    return header.info, taken.lacks(np.concatenate(known)) if len(known) == len(parts) else None


@contextmanager
def _checked(path: Path) -> Iterator[Source]:
    """A cache whose seal is right, open."""
    with opened(path) as (header, file):
        parts, origins = [], []
        for split, rows in header.info.rows.items():
            part = image_digests(header, file, split)
            if part is None:
                raise CacheError(
                    f"{path} does not have the SHA-256 of its images, like caches of version 0.1; {REMEDY}"
                )
            parts.append(part)
            found = integers(header, file, split, "origins", 0, rows)
            origins.append(np.zeros(rows, np.int64) if found is None else found)
        origin = np.concatenate(origins)
        if len(origin) and not 0 <= origin.min() <= origin.max() <= len(header.info.taken):
            raise CacheError(f"{path} does not say where its vectors come from; {REMEDY}")
        file.seek(0)
        file.readline()
        seal = file.read(SEAL_BYTES).decode().strip()
        yield Source(header, file, seal, np.concatenate(parts), origin)


def _is_worth_opening(
    path: Path, replaced: Path, spec: ExtractionSpec, taken: TakenRows, is_usable: Callable[[CacheInfo], bool]
) -> bool:
    """Whether a cache seems to hold vectors that are missing; its seal, which takes longer, is checked afterwards."""
    try:
        header = parse_header(path, glance(path), path.stat().st_size)
        info = header.info
        if (
            not info.spec.is_same_network(spec)
            or not is_usable(info)
            or (path == replaced and info.spec == spec and info.shards)
        ):
            return False
        with path.open("rb") as file:
            parts = [image_digests(header, file, split) for split in info.rows]
        return any(part is not None and taken.held_by(part) for part in parts)
    except (OSError, *MALFORMED):
        return False


def _find_rows(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of each digest of `wanted`, uint8 (m, 32), in `known`, uint8 (n, 32): int64 (m,), -1 for none.

    Eight bytes lead to a row, and all 32 must agree. So an image whose first eight bytes are those of another one,
    by chance or on purpose, is not found.
    """
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    keys, asked = (np.ascontiguousarray(digests).view("<u8")[:, 0] for digests in (known, wanted))
    order = np.argsort(keys, kind="stable")
    places = np.searchsorted(keys[order], asked)
    rows = order[np.minimum(places, len(known) - 1)]
    return np.where((known[rows] == wanted).all(axis=1), rows, -1)
