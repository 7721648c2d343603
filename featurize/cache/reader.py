"""Reading a cache: the seal first, then the numbers."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featurize.cache.features import CacheInfo, Features
from featurize.cache.format import REMAKE, read_array, read_seal
from featurize.cache.header import MALFORMED, Header, parse_header
from featurize.core.errors import CacheError, UsageError
from featurize.core.files import data_root


def features_folder() -> Path:
    """The default folder of feature caches."""
    return data_root() / "features"


def read_info(path: Path | str) -> CacheInfo:
    """The description of a cache, after its seal has been checked.

    Raises:
        UsageError: there is no such file.
        CacheError: the file is damaged, or is not a feature cache of this version.
    """
    with opened(Path(path)) as (header, _):
        return header.info


def load_features(path: Path | str, split: str, layers: Sequence[str] = ()) -> Features:
    """The features of one split as float32, with all columns or those of some layers.

    Raises:
        CacheError: the file is damaged, is not a feature cache, or holds values that are not finite.
        UsageError: there is no such file, or it has no such split or layer.
    """
    with opened(Path(path)) as (header, file):
        return _rows(header, file, split, [layers] if isinstance(layers, str) else layers, 0, None)


def read_rows(path: Path, split: str, start: int, stop: int, layers: Sequence[str] = ()) -> Features:
    """The rows `start` to `stop` (exclusive) of a split, for features that exceed memory.

    A process checks the seal of a file once, and again when the file's size, time of change or inode differs.

    Raises:
        CacheError: the file is damaged, is not a feature cache, or these rows hold values that are not finite.
        UsageError: it has no such split or layer.
    """
    header = _checked_header(path)
    with path.open("rb") as file:
        return _rows(header, file, split, layers, start, stop)


def read_labels(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The labels, ids and groups of a split, int64 (n,) each, without its features; the seal as in `read_rows`.

    The groups are None if every image stands for itself.

    Raises:
        CacheError: the file is damaged or is not a feature cache.
        UsageError: it has no such split.
    """
    header = _checked_header(path)
    with path.open("rb") as file:
        labels, ids = _labels(header, file, split, 0, None)
        return labels, ids, integers(header, file, split, "groups", 0, len(labels))


def read_paths(path: Path, split: str) -> np.ndarray | None:
    """The names of a split's image files below the data set's folder, bytes (n,); None for images of other sources.

    Raises:
        CacheError: the file is damaged or is not a feature cache.
        UsageError: it has no such split.
    """
    header = _checked_header(path)
    rows = header.info.rows
    if split not in rows:
        raise UsageError(f"{path} has no split {split}; it has {', '.join(rows)}")
    width = header.path_bytes[split]
    if not width:
        return None
    offset = header.arrays[split]["paths"]
    with path.open("rb") as file:
        return read_array(file, offset, 0, rows[split], 1, np.dtype(f"S{width}"))


@contextmanager
def opened(path: Path) -> Iterator[tuple[Header, BinaryIO]]:
    """The parsed header and the open file, both checked."""
    if path.is_dir():
        caches = sorted(each.name for each in path.glob("*.h5"))
        holds = f"it holds {', '.join(caches[:5])}" if caches else f"give a file name, such as {path / 'features.h5'}"
        raise UsageError(f"{path} is a folder, expected the path of a feature cache; {holds}")
    if not path.is_file():
        raise UsageError(f"{path}: no such feature cache; make one with frozenbench featurize --out {path}")
    with path.open("rb") as file:
        try:
            header = parse_header(path, read_seal(path, file), path.stat().st_size)
        except MALFORMED as error:
            raise CacheError(
                f"{path} is sealed, but is not a feature cache of frozenbench ({error}); {REMAKE}"
            ) from error
        yield header, file


def _checked_header(path: Path) -> Header:
    """The header, whose seal this process may have checked before."""
    try:
        found = path.stat()
    except OSError:
        with opened(path) as (header, _):  # raises the error that says what is wrong
            return header
    return _header_of_version(path.absolute(), found.st_size, found.st_mtime_ns, found.st_ino)


@functools.lru_cache(8)
def _header_of_version(path: Path, size: int, changed: int, inode: int) -> Header:
    """The header; the other arguments tell one version of the file from the next."""
    with opened(path) as (header, _):
        return header


def _rows(header: Header, file: BinaryIO, split: str, layers: Sequence[str], start: int, stop: int | None) -> Features:
    """Rows of an open cache, up to the last one if `stop` is None."""
    info = header.info
    labels, ids = _labels(header, file, split, start, stop)
    start, stop, _ = slice(start, stop).indices(info.rows[split])
    stored = _stored(header, file, split, start, stop)
    parts = [stored[:, columns.start : columns.stop] for columns in info.stored_columns(layers)]
    x = np.concatenate(parts, axis=1, dtype=np.float32)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        bad = ids[int(np.argmin(finite))]
        raise CacheError(f"{info.path}: the {split} vector of image {bad} holds a value that is not finite; {REMAKE}")
    return Features(
        x=x,
        y=labels,
        ids=ids,
        class_names=info.class_names,
        fingerprint=info.spec.fingerprint,
        layers=info.columns(layers),
        mirror=info.mirror(layers),
        image=info.image,
        groups=integers(header, file, split, "groups", start, stop),
        folds=integers(header, file, split, "folds", start, stop),
    )


def stored_vectors(header: Header, file: BinaryIO, split: str, rows: np.ndarray) -> np.ndarray:
    """The vectors of some rows of an open cache, as they are stored.

    Args:
        header: of the cache.
        file: the cache.
        split: of the rows.
        rows: int64 (m,), in any order.

    Returns:
        (m, d), in the order of `rows`.

    Raises:
        CacheError: a shard of a large cache is missing or damaged.
    """
    ascending, places = np.unique(rows, return_inverse=True)
    if header.linked:
        return header.linked[split].select(ascending)[places]
    found = np.empty((len(ascending), header.info.dim), np.dtype(header.info.spec.dtype).newbyteorder("<"))
    ends = np.flatnonzero(np.diff(ascending) != 1) + 1  # consecutive rows are read in one go
    for begin, end in zip([0, *ends], [*ends, len(ascending)], strict=True):
        if end > begin:
            found[begin:end] = _stored(header, file, split, int(ascending[begin]), int(ascending[end - 1]) + 1)
    return found[places]


def image_digests(header: Header, file: BinaryIO, split: str) -> np.ndarray | None:
    """The SHA-256 of each image of a split of an open cache, uint8 (n, 32); None if the cache does not have them."""
    offset = header.arrays[split].get("sha256")
    if offset is None:
        return None
    return read_array(file, offset, 0, header.info.rows[split], 32, np.dtype(np.uint8)).reshape(-1, 32)


def _stored(header: Header, file: BinaryIO, split: str, start: int, stop: int) -> np.ndarray:
    """Consecutive vectors of an open cache as they are stored, (m, d)."""
    if header.linked:
        return header.linked[split].read(start, stop)
    dtype = np.dtype(header.info.spec.dtype).newbyteorder("<")
    flat = read_array(file, header.arrays[split]["features"], start, stop, header.info.dim, dtype)
    return flat.reshape(-1, header.info.dim)


def integers(header: Header, file: BinaryIO, split: str, name: str, start: int, stop: int) -> np.ndarray | None:
    """The numbers of an optional array of an open cache, int64; None if the cache does not have it."""
    offset = header.arrays[split].get(name)
    return None if offset is None else read_array(file, offset, start, stop, 1, np.dtype("<i8"))


def _labels(header: Header, file: BinaryIO, split: str, start: int, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The labels and ids of rows of an open cache."""
    info = header.info
    if split not in info.rows:
        raise UsageError(f"{info.path} has no split {split}; it has {', '.join(info.rows)}")
    start, stop, _ = slice(start, stop).indices(info.rows[split])
    offsets = header.arrays[split]
    labels = read_array(file, offsets["labels"], start, stop, 1, np.dtype("<i8"))
    ids = read_array(file, offsets["ids"], start, stop, 1, np.dtype("<i8"))
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(info.class_names):
        raise CacheError(
            f"{info.path}: /{split}/labels run from {labels.min()} to {labels.max()}, expected 0 to "
            f"{len(info.class_names) - 1}; {REMAKE}"
        )
    return labels, ids
