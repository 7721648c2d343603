"""Named arrays as sources of vectors: `.npz` and `.safetensors`; no pickle is loaded."""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featurize.core.errors import DataError, first_line
from featurize.formats.rows import BLOCK_BYTES, METADATA
from featurize.formats.sources import ColumnNames, VectorRows, own_facts
from featurize.images.arrays import UNREADABLE

USUAL = {
    "vector": "x",
    "label": "y",
    "split": "split",
    "path": "paths",
    "id": "ids",
    "group": "groups",
    "fold": "folds",
}
SPLITS = ("train", "test")
TENSOR_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1",
}  # fmt: skip
CLASS_NAMES = "class_names"


class Archive(Protocol):
    """Named arrays in a file."""

    def names(self) -> list[str]:
        """The names of the arrays."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        ...

    def dtype(self, name: str) -> np.dtype:
        """The type of an array."""
        ...

    def whole(self, name: str) -> np.ndarray:
        """An array in memory."""
        ...

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Yield an array, (m, ...) at a time, `rows` rows at most."""
        ...

    def metadata(self) -> str:
        """What an export of ours says about itself; empty for other files."""
        ...


def read_archive(file: Path, names: ColumnNames) -> VectorRows:
    """The vectors of a file of arrays: with `x_train` and `x_test`, or with `x` alone.

    Raises:
        UsageError: an array does not exist.
        DataError: the file cannot be read, or an array has another type or length than it should.
    """
    with reading(file):
        archive = OPENERS[file.suffix](file)
        held = archive.names()
        metadata = own_facts(archive.metadata())
    paired = [name.removesuffix("_train") for name in held if name.endswith("_train")]
    paired = [name for name in paired if f"{name}_test" in held]
    suffixes = [""]
    present = held
    if (names.vector or USUAL["vector"]) in paired:
        suffixes = [f"_{split}" for split in SPLITS]
        present = paired
    found = names.found_in(file, present, USUAL, ("vector", "label"))
    parts = [found["vector"] + suffix for suffix in suffixes]
    with reading(file):
        counts = [_check_vectors(file, archive, part) for part in parts]
        columns = {}
        for name in found.keys() - {"vector"}:
            values = [_column(file, archive, found[name] + suffix) for suffix in suffixes]
            for part, count, array in zip(parts, counts, values, strict=True):
                if len(array) != count:
                    raise DataError(
                        f"{file}: {found[name]} has {len(array):,} rows for the {count:,} vectors of {part}"
                    )
            columns[name] = np.concatenate(values)
        if CLASS_NAMES in held and "class_names" not in metadata:
            metadata["class_names"] = _column(file, archive, CLASS_NAMES).tolist()
    dim = archive.shape(parts[0])[1]
    if any(archive.shape(part)[1] != dim for part in parts):
        lengths = " and ".join(f"{archive.shape(part)[1]} in {part}" for part in parts)
        raise DataError(f"{file}: the vectors differ in length: {lengths} numbers")
    splits = columns.get("split")
    if len(parts) > 1:
        splits = np.repeat(SPLITS, counts)

    def blocks() -> Iterator[np.ndarray]:
        with reading(file):
            for part in parts:
                yield from archive.blocks(part, max(1, BLOCK_BYTES // (4 * dim)))

    half = all(archive.dtype(part) == np.float16 for part in parts)
    return VectorRows(
        file,
        dim,
        "float16" if half else "float32",
        columns["label"],
        blocks,
        splits,
        columns.get("path"),
        columns.get("id"),
        columns.get("group"),
        columns.get("fold"),
        metadata,
    )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what a damaged file makes the libraries raise into a DataError."""
    from safetensors import SafetensorError

    try:
        yield
    except (*UNREADABLE, SafetensorError) as error:
        raise DataError(f"{file} cannot be read as plain arrays: {first_line(error)}") from error


class _Npz:
    """The arrays of an `.npz` file. `np.load` would allocate whatever a header claims."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with zipfile.ZipFile(file) as archive:
            self.members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            self.headers: dict[str, tuple[tuple[int, ...], bool, np.dtype, int]] = {}

    def names(self) -> list[str]:
        return list(self.members)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._header(name)[0]

    def dtype(self, name: str) -> np.dtype:
        return self._header(name)[2]

    def whole(self, name: str) -> np.ndarray:
        self._header(name)
        with zipfile.ZipFile(self.file) as archive, archive.open(self.members[name]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        shape, is_fortran, dtype, start = self._header(name)
        if is_fortran:  # columns follow one another
            yield self.whole(name)
            return
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        with zipfile.ZipFile(self.file) as archive, archive.open(self.members[name]) as file:
            file.read(start)
            for first in range(0, shape[0], rows):
                count = min(rows, shape[0] - first)
                content = file.read(count * row_bytes)
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    def metadata(self) -> str:
        if METADATA not in self.members or self.shape(METADATA) != () or self.dtype(METADATA).kind != "U":
            return ""
        return str(self.whole(METADATA))

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """Shape, order, type and length of the header, after checking that the member holds what it claims."""
        if name not in self.headers:
            with zipfile.ZipFile(self.file) as archive:
                member = archive.getinfo(self.members[name])
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        read = np.lib.format.read_array_header_2_0
                    shape, is_fortran, dtype = read(file)
                    start = file.tell()
            if dtype.hasobject:
                raise ValueError(f"{name} holds Python objects, which only a pickle can store and which may run code")
            if math.prod(shape) * dtype.itemsize != member.file_size - start:
                raise ValueError(f"the size of {name} does not match its shape {shape}")
            self.headers[name] = (shape, is_fortran, dtype, start)
        return self.headers[name]


class _Safetensors:
    """The tensors of a `.safetensors` file; the library checks the header."""

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        self.opened: Any = safe_open(file, framework="numpy")

    def names(self) -> list[str]:
        return list(self.opened.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        kind = self.opened.get_slice(name).get_dtype()
        if kind not in TENSOR_TYPES:
            raise ValueError(f"{name} holds {kind}, expected one of {', '.join(TENSOR_TYPES)}")
        return np.dtype(TENSOR_TYPES[kind])

    def whole(self, name: str) -> np.ndarray:
        return self.opened.get_tensor(name)

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        tensor = self.opened.get_slice(name)
        count = tensor.get_shape()[0]
        for first in range(0, count, rows):
            yield tensor[first : min(first + rows, count)]

    def metadata(self) -> str:
        return str((self.opened.metadata() or {}).get(METADATA, ""))


OPENERS: dict[str, Callable[[Path], Archive]] = {".npz": _Npz, ".safetensors": _Safetensors}
"""Suffix -> what opens a file of arrays."""


def _check_vectors(file: Path, archive: Archive, name: str) -> int:
    """The number of vectors in an array.

    Raises:
        DataError: it does not hold vectors.
    """
    shape = archive.shape(name)
    kind = archive.dtype(name)
    if len(shape) != 2 or kind.kind not in "fiu" or shape[1] < 1:
        raise DataError(f"{file}: {name} is {kind} {shape}, expected numbers (n, d), one row for each image")
    return shape[0]


def _column(file: Path, archive: Archive, name: str) -> np.ndarray:
    """An array of integers or text, (n,); text may be rows of UTF-8 bytes, padded with zeros."""
    kind, shape = archive.dtype(name), archive.shape(name)
    values: Any = archive.whole(name)
    if kind == np.uint8 and len(shape) == 2 and shape[1]:
        values = np.ascontiguousarray(values).view(f"S{shape[1]}")[:, 0]
    if values.ndim == 2 and shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise DataError(f"{file}: {name} is {kind} {shape}, expected integers or text (n,)")
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "backslashreplace")
    return values.astype(np.int64) if values.dtype.kind in "iu" else values
