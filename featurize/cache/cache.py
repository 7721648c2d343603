"""The feature cache: features, labels and ids of every split in one sealed HDF5 file.

In front of the HDF5 content stands a block of text (HDF5's user block): a line that names the
format, the SHA-256 of everything behind it, and a JSON object with all that a reader needs, the
place of every array included. The reader checks the seal and takes the numbers from those places.
libhdf5 writes the structure around them, for other tools, and never parses a file here: damaged
ones crash it, hang it, or are read as zeros. FORMAT.md describes the format and the promises.
"""

import functools
import glob
import hashlib
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from featurize.cache import linked
from featurize.cache.hdf5 import LIBVER, room_for
from featurize.cache.linked import LinkedRows
from featurize.cache.shards import PLAN, SEAL_BYTES, Shards, discard, locked
from featurize.cache.spec import SCHEMA_VERSION, ExtractionSpec
from featurize.core.environment import library_versions
from featurize.core.errors import CacheError, CacheMismatchError, UsageError, suggestion
from featurize.core.files import data_root, write_whole, written_whole
from featurize.images import ImageDataset, ImageFiles, Split

logger = logging.getLogger("frozenbench")

MAGIC = b"frozenbench feature cache"
SMALLEST_BLOCK, LARGEST_BLOCK = 1 << 9, 1 << 26  # HDF5 wants a power of two
VERSIONS_OF = ("frozenbench", "tensorflow", "keras", "mnn", "numba", "numpy", "h5py", "pillow")
REMAKE = "make it again with python -m featurize ... --overwrite"


@dataclass(frozen=True)
class Columns:
    """The columns `start` to `stop` (exclusive) hold the vector of the layer `name`.

    `shape` is (rows, columns, channels) of the cells that the vector was pooled to, or (d,) where
    nothing is left of the place.
    """

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The column after the last one."""
        return self.start + math.prod(self.shape)


@dataclass(frozen=True)
class CacheInfo:
    """What a cache says of itself, without its features.

    `skipped` holds the path of each image file that could not be read, and why; `digests` are those of
    the splits with them. `shards` is the folder of the features of a large cache, which links to them.
    """

    path: Path
    spec: ExtractionSpec
    dataset: str
    weights: str
    class_names: tuple[str, ...]
    layers: tuple[Columns, ...]
    rows: dict[str, int]
    digests: dict[str, str]
    skipped: dict[str, list[tuple[str, str]]]
    shards: Path | None
    source: dict[str, Any]
    seconds: float
    images_per_second: float
    versions: dict[str, str]
    device: str
    engine_choice: str

    @property
    def dim(self) -> int:
        """Length of a vector, all layers together."""
        return self.layers[-1].stop

    @property
    def image(self) -> tuple[int, ...] | None:
        """The shape (rows, columns, channels) of the images that the vectors are; None for a network's vectors."""
        return None if self.spec.weights_digest else self.layers[0].shape

    def columns(self, layers: Sequence[str] = ()) -> tuple[Columns, ...]:
        """Some layers, or all, side by side from column 0.

        Raises:
            UsageError: there is no such layer.
        """
        known = [columns.name for columns in self.layers]
        for layer in layers:
            if layer not in known:
                raise UsageError(f"--layers {layer}: not in {self.path}; {suggestion(layer, known)}")
        result, start = [], 0
        for columns in self.layers:
            if not layers or columns.name in layers:
                result.append(Columns(columns.name, start, columns.shape))
                start = result[-1].stop
        return tuple(result)

    def mirror(self, layers: Sequence[str] = ()) -> np.ndarray | None:
        """The order of the columns of some layers, or all, in which a row is the mirrored image's, if it is another.

        With mirror averaging, mirroring the image swaps the two vectors that are averaged, each mirrored:
        the cells change places from left to right, and nothing else happens.
        """
        parts = self.columns(layers)
        order = np.arange(parts[-1].stop)
        cells = [order[part.start : part.stop].reshape(part.shape) for part in parts]
        mirrored = np.concatenate([(each[:, ::-1] if each.ndim == 3 else each).ravel() for each in cells])
        return mirrored if self.spec.flip and (mirrored != order).any() else None

    def as_json(self) -> dict[str, Any]:
        """The facts that `--json` prints."""
        return {
            "path": str(self.path),
            "fingerprint": self.spec.fingerprint,
            "engine": self.spec.engine,
            "backbone": self.spec.backbone,
            "weights": self.weights,
            "dataset": self.dataset,
            "image_size": self.spec.image_size,
            "layers": [asdict(columns) for columns in self.layers],
            "dim": self.dim,
            "splits": {name: {"rows": rows} for name, rows in self.rows.items()},
            "skipped": self.skipped,
            "shards": str(self.shards) if self.shards else None,
            "class_names": list(self.class_names),
            "spec": asdict(self.spec),
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "versions": self.versions,
            "device": self.device,
            "engine_choice": self.engine_choice,
        }


@dataclass(frozen=True)
class Features:
    """The features of one split.

    Attributes:
        x: float32 (n, d).
        y: int64 (n,), 0..K-1.
        ids: int64 (n,).
        class_names: K names.
        fingerprint: of the cache that they come from.
        layers: which columns belong to which layer.
        mirror: int64 (d,), which column holds each number of the mirrored image: its vector is
            `x[:, mirror]`. None where that is not so, or no different from `x`.
        image: the shape (rows, columns, channels) of the images that the rows of `x` are; None for a
            network's vectors.
    """

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    layers: tuple[Columns, ...]
    mirror: np.ndarray | None = None
    image: tuple[int, ...] | None = None

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.x.shape[1]

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield the vectors, float32 (n, d), at once."""
        yield self.x


class FeatureRows(Protocol):
    """Features of some rows of a split, in memory (`Features`) or read in blocks; see `Features` for the attributes."""

    @property
    def y(self) -> np.ndarray: ...

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def layers(self) -> tuple[Columns, ...]: ...

    @property
    def mirror(self) -> np.ndarray | None: ...

    @property
    def image(self) -> tuple[int, ...] | None: ...

    @property
    def dim(self) -> int: ...

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield the vectors, float32 (b, d), a block of rows at a time, in order."""
        ...


def features_folder() -> Path:
    """Where feature caches are written and looked for unless a path is given."""
    return data_root() / "features"


def parts_folder(path: Path) -> Path:
    """Where the unfinished extraction of the cache at `path` is kept."""
    return path.with_name(path.name + ".parts")


@contextmanager
def new_cache(
    path: Path,
    spec: ExtractionSpec,
    dataset: ImageDataset,
    layers: Sequence[Columns],
    *,
    overwrite: bool = False,
    shards_at: Path | None = None,
) -> Iterator[Shards]:
    """Shards to write a cache's rows to, those of an interrupted extraction among them.

    One process at a time holds them, the others wait. Whatever ends the block, shards that are there
    stay until `finish` has made the cache of them.

    Args:
        path: of the cache.
        spec: what determines the values.
        dataset: whose images the rows are of.
        layers: which columns belong to which layer.
        overwrite: discard the unfinished extraction there if it is one of other choices.
        shards_at: the folder for shards, which may be remote; beside the cache if not given.

    Raises:
        CacheError: the disk is full or the folder cannot be written to.
        CacheMismatchError: the unfinished extraction there is one of other choices.
    """
    folder = parts_folder(path)
    place = folder if shards_at is None else shards_at / folder.name
    try:
        with locked(folder):
            rows = {name: len(split) for name, split in dataset.splits.items()}
            shards = Shards(place, spec.fingerprint, rows, layers[-1].stop, spec.dtype)
            try:
                _check_plan(folder, spec, overwrite)
                if overwrite:
                    _take_back(path, spec, shards)
                if place != folder:
                    place.mkdir(parents=True, exist_ok=True)
                    _check_plan(place, spec, overwrite)
                shards.resume()
                _check_space(path, shards)
                yield shards
            finally:
                if not any(place.glob("*.h5")):
                    discard(folder)
                    if place != folder:
                        discard(place)
    except OSError as error:
        raise CacheError(
            f"{path} could not be written: {error}; what is finished stays in {place}, and the same command goes on "
            "from there"
        ) from error


def _take_back(path: Path, spec: ExtractionSpec, shards: Shards) -> None:
    """Put the shards that a finished cache links to where they came from: those that are damaged are computed again."""
    try:
        with _unsealed(path) as (header, _):
            parts, same = list(header.linked.values()), header.info.spec == spec
    except CacheError:
        return
    if parts and same and shards.folder == parts_folder(path):
        old = parts[0].shards
        there = {
            split: {start: shard for start, shard in held.items() if old.path(split, start).exists()}
            for split, held in old.held.items()
        }
        linked.link(replace(old, held=there), shards.folder)


def discard_leftovers(path: Path, spec: ExtractionSpec) -> None:
    """Remove the shards that a process left which was killed between naming its cache and tidying up."""
    folder = parts_folder(path)
    if folder.exists() and (_plan(folder) == spec or not any(folder.glob("*.h5"))):
        with locked(folder):
            discard(folder)


def finish(
    path: Path,
    shards: Shards,
    spec: ExtractionSpec,
    dataset: ImageDataset,
    weights: str,
    layers: Sequence[Columns],
    *,
    skipped: Mapping[str, Mapping[int, str]] | None = None,
    **facts: Any,
) -> None:
    """Make the cache of its shards, seal it, give it its name and remove the shards.

    From `linked.LINKED_FROM` bytes on, it links to them instead, in a folder beside it.

    Args:
        path: of the cache.
        shards: with every row of every split.
        spec: what determined the values.
        dataset: whose labels, ids and digests go with them.
        weights: where the backbone's weights come from.
        layers: which columns belong to which layer.
        skipped: the rows of each split that are left out, as their files could not be read, and why.
        facts: `seconds`, `images_per_second`, `device`, `engine_choice` and `source`.
    """
    missing = [name for name, rows in shards.rows.items() if shards.done[name] != rows]
    if missing:
        raise CacheError(f"{path}: rows of {missing[0]} are missing; this is an error in the program")
    skipped = skipped or {}
    left_out = {name: np.isin(np.arange(rows), list(skipped.get(name, ()))) for name, rows in shards.rows.items()}
    splits = {name: split[~left_out[name]] for name, split in dataset.splits.items()}
    apart: dict[str, LinkedRows] = {}
    folder = linked.linked_folder(path, spec.fingerprint)
    if _links(path, shards):
        kept = linked.link(shards, folder)
        apart = {name: LinkedRows(kept, name, np.flatnonzero(rows)) for name, rows in left_out.items()}
    with written_whole(path, parts_folder(path)) as temporary:
        header = {
            "spec": json.loads(spec.to_json()),
            "fingerprint": spec.fingerprint,
            "dataset": dataset.name,
            "weights": weights,
            "class_names": dataset.class_names,
            "layers": [asdict(columns) for columns in layers],
            "rows": {name: len(split) for name, split in splits.items()},
            "skipped": {
                name: [[_path_of(dataset.splits[name], row), why] for row, why in rows.items()]
                for name, rows in skipped.items()
            },
            "digests": {name: split.digest for name, split in dataset.splits.items()},
            "versions": library_versions(VERSIONS_OF),
            "linked": linked.as_json(apart) if apart else None,
            **facts,
        }
        block = SMALLEST_BLOCK
        while block < len(json.dumps(header)) + 4096:  # room for the places of the arrays
            block *= 2
        header["arrays"] = _write_structure(temporary, block, header, splits, shards, apart)
        with temporary.open("r+b") as file:
            for name, split in splits.items():
                places = header["arrays"][name]
                if not apart:
                    file.seek(places["features"])
                    _copy_rows(shards, name, left_out[name], file)
                for part, values in _columns_beside(split).items():
                    file.seek(places[part])
                    file.write(values.tobytes())
            _write_seal(file, block, header)
    shards.clear()
    for other in path.parent.glob(f"{glob.escape(path.name)}.shards-*"):  # of caches that were at this place before
        if other != folder or not apart:
            shutil.rmtree(other)


def _links(path: Path, shards: Shards) -> bool:
    """Whether the cache is to link to its shards: to many bytes, beside it."""
    size = sum(shards.rows.values()) * shards.dim * np.dtype(shards.dtype).itemsize
    return size >= linked.LINKED_FROM and shards.folder == parts_folder(path)


def _copy_rows(shards: Shards, split: str, left_out: np.ndarray, file: Any) -> None:
    """Write a split's rows, but those left out (bool (n,)), into a file."""
    first = 0
    for rows in shards.read(split):
        kept = ~left_out[first : first + len(rows)]
        file.write(np.ascontiguousarray(rows if kept.all() else rows[kept]).data.cast("B"))
        first += len(rows)


def _path_of(split: Split, row: int) -> str:
    assert isinstance(split.images, ImageFiles)  # only files are left out
    return os.fsdecode(split.images.paths[row])


def _columns_beside(split: Split) -> dict[str, np.ndarray]:
    """What stands beside a split's features, each (n,), as it is written."""
    columns = {"labels": split.labels.astype("<i8"), "ids": split.ids.astype("<i8")}
    if isinstance(split.images, ImageFiles):
        paths = split.images.paths
        columns["paths"] = paths.astype(h5py.string_dtype("utf-8", max(1, int(np.char.str_len(paths).max()))))
    return columns


def _write_structure(
    temporary: Path,
    block: int,
    header: dict[str, Any],
    splits: Mapping[str, Split],
    shards: Shards,
    apart: Mapping[str, LinkedRows],
) -> dict[str, dict[str, int]]:
    """The HDF5 structure with room for the arrays; returns each array's offset in the file."""
    places: dict[str, dict[str, int]] = {}
    with _PatientFile(temporary, "r+") as raw:
        with h5py.File(raw, "w", libver=LIBVER, userblock_size=block) as file:
            file.attrs["schema_version"] = SCHEMA_VERSION
            for key, value in header.items():
                if key == "linked":  # maybe too large for an attribute, and what the datasets themselves say
                    continue
                file.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
            for name, split in splits.items():
                group = file.create_group(name)
                group.attrs["digest"] = header["digests"][name]
                numbers, places[name] = np.dtype(shards.dtype).newbyteorder("<"), {}
                if apart:
                    apart[name].create(group)
                else:
                    places[name]["features"] = room_for(group, "features", (len(split), shards.dim), numbers)
                for part, values in _columns_beside(split).items():
                    places[name][part] = room_for(group, part, values.shape, values.dtype)
        raw.raise_error()
    return places


def _write_seal(file: Any, block: int, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    first = MAGIC + f" {SCHEMA_VERSION} {block}\n".encode()
    behind = (text + b"\n").ljust(block - len(first) - SEAL_BYTES, b"\n")
    digest = hashlib.sha256(behind)
    file.seek(block)
    while piece := file.read(1 << 20):
        digest.update(piece)
    file.seek(0)
    file.write(first + digest.hexdigest().encode() + b"\n" + behind)


def read_info(path: Path) -> CacheInfo:
    """What a cache says of itself, after its seal has been checked.

    Raises:
        CacheError: no such file, a damaged one, or not a feature cache of this version.
    """
    with _unsealed(path) as (header, _):
        return header.info


def load_features(path: Path, split: str, layers: Sequence[str] = ()) -> Features:
    """The features of one split as float32, all columns or those of some layers.

    Raises:
        CacheError: the file is damaged or no feature cache, or holds values that are not finite.
        UsageError: it has no such split or layer.
    """
    with _unsealed(path) as (header, file):
        return _rows(header, file, split, layers)


def read_rows(path: Path, split: str, start: int, stop: int, layers: Sequence[str] = ()) -> Features:
    """The features of some rows of a split, as `load_features` gives all of them: for what does not fit into memory.

    The seal of a file is checked once by a process, and again when the file is another one by its size or
    time of change.

    Raises:
        CacheError: the file is damaged or no feature cache, or these rows hold values that are not finite.
        UsageError: it has no such split or layer.
    """
    header = _unsealed_before(path)
    with path.open("rb") as file:
        return _rows(header, file, split, layers, start, stop)


def read_labels(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the ids of a split, int64 (n,) each, without its features; the seal as in `read_rows`.

    Raises:
        CacheError: the file is damaged or no feature cache.
        UsageError: it has no such split.
    """
    header = _unsealed_before(path)
    with path.open("rb") as file:
        return _labels(header, file, split, slice(None))


def _unsealed_before(path: Path) -> "_Header":
    """The header; the seal is checked unless this process has done so."""
    try:
        there = path.stat()
    except OSError:
        with _unsealed(path) as (header, _):  # which says what is wrong
            return header
    return _once_unsealed(path.absolute(), there.st_size, there.st_mtime_ns, there.st_ino)


@functools.lru_cache(8)
def _once_unsealed(path: Path, size: int, changed: int, inode: int) -> "_Header":
    with _unsealed(path) as (header, _):
        return header


def _rows(
    header: "_Header",
    file: Any,
    split: str,
    layers: Sequence[str],
    start: int = 0,
    stop: int | None = None,
) -> Features:
    """Rows of an open cache, all of a split unless told otherwise."""
    info = header.info
    labels, ids = _labels(header, file, split, slice(start, stop))
    parts = info.columns(layers)
    chosen = [columns for columns in info.layers if not layers or columns.name in layers]
    start, stop, _ = slice(start, stop).indices(info.rows[split])
    if header.linked:
        stored = header.linked[split].read(start, stop)
    else:
        place, dtype = header.arrays[split]["features"], np.dtype(info.spec.dtype).newbyteorder("<")
        stored = _array(file, place, start, stop, info.dim, dtype).reshape(-1, info.dim)
    x = np.concatenate([stored[:, columns.start : columns.stop] for columns in chosen], axis=1, dtype=np.float32)
    if not np.isfinite(x).all():
        row = int(np.argmin(np.isfinite(x).all(axis=1)))
        raise CacheError(
            f"{info.path}: the {split} vector of image {ids[row]} holds a value that is not finite; {REMAKE}"
        )
    return Features(
        x,
        labels,
        ids,
        info.class_names,
        info.spec.fingerprint,
        parts,
        info.mirror(layers),
        info.image,
    )


@dataclass(frozen=True)
class _Header:
    """What stands in front of a cache: its facts, each array's offset, and, if it links to shards, the features."""

    info: CacheInfo
    arrays: dict[str, dict[str, int]]
    linked: dict[str, LinkedRows]


def _labels(header: _Header, file: Any, split: str, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """The labels and ids of rows of an open cache."""
    info, arrays = header.info, header.arrays
    if split not in info.rows:
        raise UsageError(f"{info.path} has no split {split}; it has {', '.join(info.rows)}")
    start, stop, _ = rows.indices(info.rows[split])
    labels, ids = (_array(file, arrays[split][part], start, stop, 1, np.dtype("<i8")) for part in ("labels", "ids"))
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(info.class_names):
        raise CacheError(
            f"{info.path}: /{split}/labels run from {labels.min()} to {labels.max()}, expected 0 to "
            f"{len(info.class_names) - 1}; {REMAKE}"
        )
    return labels, ids


def _array(file: Any, place: int, start: int, stop: int, width: int, dtype: np.dtype) -> np.ndarray:
    """The numbers of the rows from `start` to `stop`, `width` each, of the array that begins at `place`."""
    file.seek(place + start * width * dtype.itemsize)
    return np.frombuffer(file.read(max(0, stop - start) * width * dtype.itemsize), dtype)


@contextmanager
def _unsealed(path: Path) -> Iterator[tuple[_Header, Any]]:
    """The header and the open file, both checked."""
    if not path.is_file():
        raise CacheError(f"{path}: no such feature cache; make one with python -m featurize --out {path}")
    with path.open("rb") as file:
        first = file.readline(SMALLEST_BLOCK)
        words = first.removeprefix(MAGIC).split()
        if not first.startswith(MAGIC) or len(words) != 2 or not all(word.isdigit() for word in words):
            raise CacheError(f"{path} is not a feature cache of frozenbench, or its beginning is damaged; {REMAKE}")
        if int(words[0]) != SCHEMA_VERSION:
            raise CacheError(
                f"{path} has the layout version {int(words[0])}, expected {SCHEMA_VERSION}: it was made "
                f"by another version of frozenbench; {REMAKE}"
            )
        block, size = int(words[1]), path.stat().st_size
        seal, digest = file.read(SEAL_BYTES), hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        if seal != digest.hexdigest().encode() + b"\n" or not len(first) + SEAL_BYTES < block <= min(
            LARGEST_BLOCK, size
        ):
            raise CacheError(f"{path} is damaged: its content does not belong to its seal; {REMAKE}")
        file.seek(len(first) + SEAL_BYTES)
        try:
            header = _parse_header(path, json.loads(file.read(block - file.tell())), size)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
            raise CacheError(f"{path} is sealed, but no feature cache of frozenbench ({error}); {REMAKE}") from error
        yield header, file


def _parse_header(path: Path, header: Any, size: int) -> _Header:
    """The header's facts, and the arrays' offsets, which all lie inside the file."""
    spec = ExtractionSpec.from_json(json.dumps(header["spec"]))
    if spec.fingerprint != header["fingerprint"]:
        raise ValueError("its fingerprint does not belong to its specification")
    layers = tuple(Columns(str(c["name"]), int(c["start"]), tuple(map(int, c["shape"]))) for c in header["layers"])
    if [columns.start for columns in layers] != [0, *(columns.stop for columns in layers[:-1])]:
        raise ValueError("its layers' columns do not follow one another")
    if tuple(columns.name for columns in layers) != spec.layers or any(min(c.shape) < 1 for c in layers):
        raise ValueError("its layers are not those of its specification")
    if spec.dtype not in ("float32", "float16"):
        raise ValueError(f"its type is {spec.dtype}, expected float32 or float16")
    if any(len(columns.shape) not in (1, 3) for columns in layers):
        raise ValueError("a layer's shape is neither (rows, columns, channels) nor (length,)")
    dim, item = layers[-1].stop, np.dtype(spec.dtype).itemsize
    if dim * item > size and not header.get("linked"):
        raise ValueError("one vector alone is larger than the file")
    arrays = {
        str(name): {str(part): int(at) for part, at in places.items()} for name, places in header["arrays"].items()
    }
    rows = {name: int(header["rows"][name]) for name in arrays}
    apart = {}
    if facts := header.get("linked"):
        apart = linked.from_json(facts, path, spec.fingerprint, dim, spec.dtype)
        if {name: len(found) for name, found in apart.items()} != rows:
            raise ValueError("its shards do not hold its rows")
    for name, places in arrays.items():
        for part, width in (("features", dim * item), ("labels", 8), ("ids", 8))[bool(apart) :]:
            if rows[name] < 0 or places[part] < 0 or places[part] + rows[name] * width > size:
                raise ValueError(f"/{name}/{part} lies outside the file")
    info = CacheInfo(
        path=path,
        spec=spec,
        dataset=str(header["dataset"]),
        weights=str(header["weights"]),
        class_names=tuple(map(str, header["class_names"])),
        layers=layers,
        rows=rows,
        digests={name: str(header["digests"][name]) for name in arrays},
        skipped={name: [(str(path), str(why)) for path, why in header["skipped"].get(name, [])] for name in arrays},
        shards=next(iter(apart.values())).shards.folder if apart else None,
        source=dict(header["source"]),
        seconds=float(header["seconds"]),
        images_per_second=float(header["images_per_second"]),
        versions={str(name): str(value) for name, value in header["versions"].items()},
        device=str(header["device"]),
        engine_choice=str(header.get("engine_choice", "")),
    )
    return _Header(info, arrays, apart)


def _check_plan(folder: Path, spec: ExtractionSpec, overwrite: bool) -> None:
    """Make sure that the unfinished extraction in the folder, if any, is one of this specification."""
    there = _plan(folder)
    if there == spec:
        return
    if there is not None and not overwrite:
        raise CacheMismatchError(_difference(f"the unfinished extraction in {folder}", there, spec))
    for leftover in folder.glob("*.h5"):
        leftover.unlink()
    write_whole(folder / PLAN, spec.to_json().encode())


def _plan(folder: Path) -> ExtractionSpec | None:
    """The specification of the unfinished extraction in the folder; None where there is none to go on with."""
    try:
        return ExtractionSpec.from_json((folder / PLAN).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        logger.warning(
            "%s is damaged or of an earlier version; the unfinished extraction beside it is begun again", folder / PLAN
        )
        return None


def _check_space(path: Path, shards: Shards) -> None:
    """Raise CacheError when the disk cannot take the rest of the shards and the cache made of them."""
    width = shards.dim * np.dtype(shards.dtype).itemsize
    total = sum(shards.rows.values())
    missing = total - sum(shards.done.values())
    here = 0 if shards.folder != parts_folder(path) else missing * width
    copied = 0 if _links(path, shards) else total * width
    free, needed = shutil.disk_usage(parts_folder(path)).free, here + copied + total * 16 + (1 << 20)
    if free < needed:
        raise CacheError(
            f"{path} needs {needed / 1e6:,.0f} MB, its disk has {free / 1e6:,.0f} MB free; free some space, or choose "
            "another place (--out), a shorter vector (--pool avg) or --dtype float16"
        )


def began_with(path: Path) -> ExtractionSpec | None:
    """The specification of the cache at `path`, or of the unfinished extraction there; None where there is neither."""
    try:
        return read_info(path).spec if path.exists() else _plan(parts_folder(path))
    except (CacheError, OSError):  # said when it is to be used
        return None


def check_same(path: Path, spec: ExtractionSpec) -> CacheInfo:
    """The cache at `path`, if `spec` is what made it.

    Raises:
        CacheMismatchError: it was made by other choices; the message names the first that differs.
        CacheError: it is not a feature cache.
    """
    info = read_info(path)
    if info.spec != spec:
        raise CacheMismatchError(_difference(str(path), info.spec, spec))
    return info


class _PatientFile(io.FileIO):
    """A file that keeps the first failed write to itself until it is asked.

    libhdf5 crashes the interpreter when a write fails under it (measured: a full disk, h5py 3.14),
    so it is told that all went well, and the file is then thrown away.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def raise_error(self) -> None:
        """Raise the OSError of the first write that failed, if any did."""
        if self.error is not None:
            raise self.error


def _difference(what: str, there: ExtractionSpec, asked: ExtractionSpec) -> str:
    (name, old, new), *others = there.differences(asked)
    more = f" (and {len(others)} more: {', '.join(other[0] for other in others)})" if others else ""
    return (
        f"{what} was made with {name} {_shown(old)}, asked for {_shown(new)}{more}; "
        "keep it and write elsewhere with --out PATH, or replace it with --overwrite"
    )


def _shown(value: Any) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text[:12] + "..." if len(text) == 64 else text or "(none)"
