"""Writing a cache: rows go into sealed shards, and finished shards become one sealed file.

A kill at any moment leaves the old cache or the new one, and the finished shards. The order of the last
steps makes sure of that: the file is written beside the shards, sealed, flushed and renamed; only then are
the shards removed.
"""

import glob
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from featurize.cache import linked
from featurize.cache.existing import parts_folder, read_plan
from featurize.cache.features import CacheInfo
from featurize.cache.format import LIBVER, PatientFile, block_size, create_contiguous, write_seal
from featurize.cache.header import CacheContent, SplitRecords, make_header
from featurize.cache.linked import LinkedRows
from featurize.cache.reader import opened, read_info
from featurize.cache.reuse import TakenRows
from featurize.cache.shards import LOCK, PLAN, SHARD_BYTES, RowAppender, Shards, discard
from featurize.cache.spec import SCHEMA_VERSION, ExtractionSpec, explain_difference
from featurize.core.errors import CacheError, CacheMismatchError
from featurize.core.files import locked, write_whole, written_whole

logger = logging.getLogger("frozenbench")
BITS = "computed.bits"
"""The file that says which rows an unfinished extraction computes, if it takes others from caches."""


class CacheWriter:
    """An unfinished cache, made by `open_writer`.

    Attributes:
        path: of the finished cache.
        spec: what determines the values.
        content: everything but the features.
        shards: of the rows to compute, which are numbered by themselves.
        taken: where the other rows come from.
    """

    def __init__(
        self,
        path: Path,
        spec: ExtractionSpec,
        content: CacheContent,
        shards: Shards,
        taken: TakenRows | None = None,
    ) -> None:
        self.path = path
        self.spec = spec
        self.content = content
        self.shards = shards
        self.taken = TakenRows.none(content.rows) if taken is None else taken

    @property
    def total_rows(self) -> int:
        """The number of rows to compute, of all splits."""
        return sum(self.shards.rows.values())

    @property
    def finished_rows(self) -> int:
        """The number of rows that shards hold."""
        return sum(self.shards.done.values())

    def missing(self, split: str) -> list[tuple[int, int]]:
        """The ranges of rows to compute that are still missing: start, stop (exclusive)."""
        return self.shards.missing(split)

    def skipped(self, split: str) -> np.ndarray:
        """The rows of the split whose images were skipped, int64 (m,)."""
        return self.taken.missing(split)[self.shards.skipped(split)]

    def append(self, split: str, start: int) -> RowAppender:
        """A context manager that takes computed rows from `start` on, block by block."""
        return RowAppender(self.shards, split, start)

    def discard(self) -> None:
        """Remove the finished rows."""
        self.shards.clear()

    def commit(self, skipped: Mapping[str, Mapping[int, str]] | None = None, **facts: Any) -> CacheInfo:
        """Make the cache from its shards, seal it, name it, and remove the shards.

        A cache of `linked.LINKED_FROM` bytes or more links to its shards, in a folder beside it.

        Args:
            skipped: the rows of each split whose images were skipped, and why.
            facts: `seconds`, `images_per_second`, `device`, `engine_choice`, `certificate` and `source`.

        Returns:
            The description of the finished cache.

        Raises:
            CacheError: rows are missing, or a shard is damaged.
            OSError: the disk is full or the folder cannot be written to.
        """
        skipped = skipped or {}
        for split, rows in self.shards.rows.items():
            if self.shards.done[split] != rows:
                raise CacheError(f"{self.path}: rows of {split} are missing; this is an error in the program")
        keep = {
            split: ~np.isin(np.arange(rows), list(skipped.get(split, ()))) for split, rows in self.content.rows.items()
        }
        records = {split: self.content.splits[split].select(rows) for split, rows in keep.items()}
        entries, origins = self.taken.origins()
        if entries:
            facts = {**facts, "taken": entries}
            records = {split: replace(each, origins=origins[split][keep[split]]) for split, each in records.items()}
        folder = linked.linked_folder(self.path, self.spec.fingerprint)
        links: dict[str, LinkedRows] = {}
        if _is_linked(self.path, self.shards, self.content):
            shards = self._all_shards(folder) if entries else linked.link(self.shards, folder)
            links = {split: LinkedRows(shards, split, np.flatnonzero(~rows)) for split, rows in keep.items()}
        with written_whole(self.path, parts_folder(self.path)) as temporary:
            header = make_header(self.spec, self.content, records, skipped, links, facts)
            block = block_size(header)
            header["arrays"] = self._write_structure(temporary, block, header, records, links)
            with temporary.open("r+b") as file:
                for split, offsets in header["arrays"].items():
                    if not links:
                        file.seek(offsets["features"])
                        self._copy_rows(split, keep[split], file)
                    for name, values in records[split].arrays().items():
                        file.seek(offsets[name])
                        file.write(values.tobytes())
                write_seal(file, block, header)
        self.shards.clear()
        self._remove_old_shards(folder if links else None)
        return read_info(self.path)

    def _write_structure(
        self,
        temporary: Path,
        block: int,
        header: Mapping[str, Any],
        records: Mapping[str, SplitRecords],
        links: Mapping[str, LinkedRows],
    ) -> dict[str, dict[str, int]]:
        """Write the HDF5 structure with room for the arrays; returns each array's offset in the file."""
        offsets: dict[str, dict[str, int]] = {}
        with PatientFile(temporary, "r+") as raw:
            with h5py.File(raw, "w", libver=LIBVER, userblock_size=block) as file:
                file.attrs["schema_version"] = SCHEMA_VERSION
                for key, value in header.items():
                    if key not in ("linked", "taken"):  # these may exceed an attribute
                        file.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
                for split, rows in records.items():
                    group = file.create_group(split)
                    group.attrs["digest"] = rows.digest
                    offsets[split] = {}
                    if links:
                        links[split].create(group)
                    else:
                        shape = (len(rows), self.shards.dim)
                        dtype = self.shards.stored_dtype
                        offsets[split]["features"] = create_contiguous(group, "features", shape, dtype)
                    for name, values in rows.arrays().items():
                        offsets[split][name] = create_contiguous(group, name, values.shape, values.dtype)
            raw.raise_error()
        return offsets

    def _copy_rows(self, split: str, keep: np.ndarray, file: BinaryIO) -> None:
        """Write the kept rows of a split, bool (n,), into the file."""
        first = 0
        for rows in self._all_rows(split):
            kept = keep[first : first + len(rows)]
            chosen = rows if kept.all() else rows[kept]
            file.write(np.ascontiguousarray(chosen).data.cast("B"))
            first += len(rows)

    def _all_rows(self, split: str) -> Iterator[np.ndarray]:
        """Yield the rows of a split in order, (m, dim), computed ones from the shards and others from their caches."""
        to_compute = self.taken.missing(split)
        first = begin = 0
        for computed in self.shards.read(split):
            rows = to_compute[first : first + len(computed)]
            yield from self._blocks(split, begin, int(rows[-1]) + 1, rows, computed)
            begin = int(rows[-1]) + 1
            first += len(computed)
        yield from self._blocks(split, begin, self.content.rows[split], to_compute[:0], None)

    def _blocks(
        self, split: str, begin: int, end: int, rows: np.ndarray, computed: np.ndarray | None
    ) -> Iterator[np.ndarray]:
        """Yield the rows `begin` to `end` (exclusive), some of which, `rows`, are `computed` (m, dim)."""
        if computed is not None and len(computed) == end - begin:
            yield computed
            return
        length = max(1, SHARD_BYTES // self.shards.row_bytes)
        for start in range(begin, end, length):
            numbers = np.arange(start, min(start + length, end))
            block = np.empty((len(numbers), self.shards.dim), self.shards.stored_dtype)
            low, high = np.searchsorted(rows, (start, start + len(numbers)))
            if computed is not None:
                block[rows[low:high] - start] = computed[low:high]
            others = np.delete(numbers, rows[low:high] - start)
            if len(others):
                block[others - start] = self.taken.read(split, others)
            yield block

    def _all_shards(self, folder: Path) -> Shards:
        """Write all rows as shards of a large cache."""
        folder.mkdir(exist_ok=True)
        shards = replace(self.shards, folder=folder, plan=self.spec.fingerprint, rows=self.content.rows, held={})
        for split in self.content.rows:
            shards.held[split] = {}
            start = 0
            for rows in self._all_rows(split):
                shards.add(split, start, rows)
                start += len(rows)
        return shards

    def _remove_old_shards(self, current: Path | None) -> None:
        """Remove the linked shards of earlier caches at this path."""
        for folder in self.path.parent.glob(f"{glob.escape(self.path.name)}.shards-*"):
            if folder != current:
                shutil.rmtree(folder)


@contextmanager
def open_writer(
    path: Path,
    spec: ExtractionSpec,
    content: CacheContent,
    *,
    overwrite: bool = False,
    shards_at: Path | None = None,
    taken: TakenRows | None = None,
) -> Iterator[CacheWriter]:
    """Open a cache for writing and resume its unfinished extraction, if there is one.

    One process at a time holds the writer; others wait. However the block ends, finished shards stay on
    disk until `CacheWriter.commit` has made the cache from them.

    Args:
        path: of the cache.
        spec: what determines the values.
        content: everything but the features.
        overwrite: discard an unfinished extraction with another specification.
        shards_at: the folder for shards, which may be remote; beside the cache by default.
        taken: the rows that other caches hold; none by default.

    Raises:
        CacheError: the disk is full or the folder cannot be written to.
        CacheMismatchError: the unfinished extraction has another specification.
    """
    folder = parts_folder(path)
    remote = None if shards_at is None else shards_at / folder.name
    shards_folder = remote or folder
    if taken is None:
        taken = TakenRows.none(content.rows)
    try:
        with locked(folder / LOCK):
            try:
                _take_over(folder, spec, overwrite)
                if remote:
                    remote.mkdir(parents=True, exist_ok=True)
                    _take_over(remote, spec, overwrite)
                elif overwrite:
                    _recover_linked_shards(path, spec)
                shards, taken = _divided(folder, Shards(shards_folder, "", {}, content.dim, spec.dtype), spec, taken)
                _check_space(path, shards, content)
                yield CacheWriter(path, spec, content, shards, taken)
            finally:
                if not any(shards_folder.glob("*.h5")):  # nothing to resume
                    discard(folder)
                    if remote:
                        discard(remote)
    except OSError as error:
        if not folder.exists():  # nothing was finished
            raise CacheError(
                f"{path} could not be written: {error}; choose a folder with the permission and the space (--out)"
            ) from error
        raise CacheError(
            f"{path} could not be written: {error}; finished rows stay in {shards_folder}, and the same command "
            "resumes from there"
        ) from error


def _take_over(folder: Path, spec: ExtractionSpec, overwrite: bool) -> None:
    """Make the folder one of this specification: keep its shards if they match, or begin anew."""
    recorded = read_plan(folder)
    if recorded == spec:
        return
    if recorded is not None and not overwrite:
        raise CacheMismatchError(explain_difference(f"the unfinished extraction in {folder}", recorded, spec))
    for leftover in (*folder.glob("*.h5"), folder / BITS):
        leftover.unlink(missing_ok=True)
    write_whole(folder / PLAN, spec.to_json().encode())


def _divided(folder: Path, shards: Shards, spec: ExtractionSpec, taken: TakenRows) -> tuple[Shards, TakenRows]:
    """The shards of the rows to compute, and where the others come from.

    The unfinished extraction goes on with the rows that it began with, unless fewer remain if it begins anew.

    Args:
        folder: of the unfinished extraction.
        shards: their folder and type.
        spec: of the cache.
        taken: the rows that other caches hold.
    """
    file = folder / BITS
    begun = taken.computing(file.read_bytes() if file.exists() else None)
    if begun is not None:
        found = _shards_of(begun, shards, spec)
        finished = found.resume()
        if begun.to_compute - finished <= taken.to_compute:
            return found, begun
    if any(shards.folder.glob("*.h5")):
        logger.info("other caches hold other vectors than when this extraction was interrupted: it begins anew")
    shards.clear()
    write_whole(file, taken.bits())
    found = _shards_of(taken, shards, spec)
    found.resume()
    return found, taken


def _shards_of(taken: TakenRows, shards: Shards, spec: ExtractionSpec) -> Shards:
    """Shards of the rows to compute: numbered by themselves, they are never mistaken for those of other rows."""
    plan = spec.fingerprint
    if taken.to_compute < taken.total:
        plan = hashlib.sha256(plan.encode() + taken.bits()).hexdigest()
    return replace(shards, plan=plan, rows={split: len(taken.missing(split)) for split in taken.source_of}, held={})


def _recover_linked_shards(path: Path, spec: ExtractionSpec) -> None:
    """Move the shards of a finished, linked cache back, so that only damaged ones are computed again."""
    if not path.is_file():
        return
    try:
        with opened(path) as (header, _):
            pass
    except CacheError:
        return
    if not header.linked or header.info.spec != spec:
        return
    old = next(iter(header.linked.values())).shards
    present = {
        split: {start: shard for start, shard in held.items() if old.path(split, start).exists()}
        for split, held in old.held.items()
    }
    linked.link(replace(old, held=present), parts_folder(path))


def _is_linked(path: Path, shards: Shards, content: CacheContent) -> bool:
    """Whether the cache will link to its shards: if they are large and lie beside it."""
    size = sum(content.rows.values()) * shards.row_bytes
    return size >= linked.LINKED_FROM and shards.folder == parts_folder(path)


def _check_space(path: Path, shards: Shards, content: CacheContent) -> None:
    """Raise CacheError if the disk cannot take the missing shards and the cache made from them."""
    total = sum(content.rows.values())
    to_compute = sum(shards.rows.values())
    missing = to_compute - sum(shards.done.values())
    known = any(records.sha256 is not None for records in content.splits.values())
    needed = total * (56 if known else 16) + (1 << 20)  # labels, ids, perhaps digests and origins; and the header
    if shards.folder == parts_folder(path):
        needed += missing * shards.row_bytes
    if not _is_linked(path, shards, content) or to_compute < total:
        needed += total * shards.row_bytes
    free = shutil.disk_usage(parts_folder(path)).free
    if free < needed:
        raise CacheError(
            f"{path} needs {needed / 1e6:,.0f} MB, its disk has {free / 1e6:,.0f} MB free; free some space, or choose "
            "another disk (--out), a shorter vector (--pool avg) or --dtype float16"
        )
