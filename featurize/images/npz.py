"""Images in an `.npz` file, read so that a damaged or hostile file costs neither memory nor code execution."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from featurize.core.errors import DataError
from featurize.images.dataset import ImageDataset, PixelArray, Split

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_npz(path: Path) -> ImageDataset:
    """Images from an `.npz` file with `x_train`, `y_train`, `x_test` and `y_test`, and perhaps `class_names`.

    `x_*` are uint8 (n, height, width, 3) RGB, or grey (n, height, width) or (n, height, width, 1). `y_*` are
    integers (n,) or (n, 1), 0..K-1, or strings. `class_names` are K strings; without them the numbers or the sorted
    strings are the names. Ids are row numbers.

    Raises:
        DataError: an array is missing, holds objects, or has another shape or type.
    """
    arrays = _read_arrays(path)
    labels = {name: _flat_labels(path, name, arrays[f"y_{name}"]) for name in ("train", "test")}
    present = np.unique(labels["train"])  # not all up to the largest label: it may be absurd
    for found in labels.values():
        unknown = np.setdiff1d(found, present)
        if len(unknown):
            raise DataError(f"{path}: y_train has no image of class {unknown[0]}, which y_test has")
    if present.dtype.kind != "U" and present[-1] != len(present) - 1:
        absent = np.setdiff1d(np.arange(len(present)), present)[0]
        raise DataError(f"{path}: y_train has no image of class {absent}, expected every class from 0 to {present[-1]}")
    class_names = tuple(map(str, present.tolist()))
    labels = {name: np.searchsorted(present, found) for name, found in labels.items()}
    if (given := arrays.get("class_names")) is not None:
        if given.dtype.kind != "U" or given.shape != (len(class_names),):
            raise DataError(
                f"{path}: class_names is {given.dtype} {given.shape}, expected strings ({len(class_names)},), one for "
                "each class"
            )
        class_names = tuple(given.tolist())
    splits = {}
    for name, found in labels.items():
        images = _rgb(path, name, arrays[f"x_{name}"])
        if len(images) != len(found):
            raise DataError(f"{path}: y_{name} has {len(found):,} labels for {len(images):,} images of x_{name}")
        splits[name] = Split(PixelArray(images), found.astype(np.int64), np.arange(len(found)))
    return ImageDataset(path.stem, class_names, splits)


def _rgb(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    """Images (n, height, width, 3); grey ones get three equal channels."""
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size:
        raise DataError(
            f"{path}: x_{name} is {x.dtype} {x.shape}, expected uint8 (n, height, width, 3) with values 0..255, or "
            "grey images (n, height, width)"
        )
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x


def _flat_labels(path: Path, name: str, y: np.ndarray) -> np.ndarray:
    """Labels (n,), integers from 0 or strings."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "iuU" or y.ndim != 1 or not len(y):
        raise DataError(f"{path}: y_{name} is {y.dtype} {y.shape}, expected integers or strings (n,)")
    if y.dtype.kind != "U" and y.min() < 0:
        raise DataError(f"{path}: y_{name} holds the label {y.min()}, expected labels from 0")
    return y


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in ARRAYS:
                if name not in held:
                    raise DataError(f"{path} holds no array {name} (it holds: {', '.join(held[:20])})")
            wanted = [name for name in (*ARRAYS, "class_names") if name in held]
            return {name: _read_array(archive, archive.getinfo(f"{name}.npy")) for name in wanted}
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read as plain arrays: {error}; write it with np.savez(path, x_train=..., ...)"
        ) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one array, after checking that its header does not claim more than the member holds.

    `np.load` would allocate whatever the header claims.
    """
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} holds objects, or its size does not match its shape {shape}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
