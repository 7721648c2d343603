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
    """Images from an `.npz` file with `x_train`, `y_train`, `x_test` and `y_test`.

    `x_*` are uint8 (n, height, width, 3) RGB; `y_*` are integers (n,) or (n, 1), 0..K-1. Ids are row numbers;
    class names are the numbers.

    Raises:
        DataError: an array is missing, holds objects, or has another shape or type.
    """
    arrays = _read_arrays(path)
    splits = {name: _split(path, name, arrays[f"x_{name}"], arrays[f"y_{name}"]) for name in ("train", "test")}
    classes = 1 + max(int(split.labels.max()) for split in splits.values())
    present = np.unique(splits["train"].labels)
    if len(present) < classes:
        absent = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise DataError(f"{path}: y_train has no image of class {absent}, expected every class from 0 to {classes - 1}")
    return ImageDataset(path.stem, tuple(map(str, range(classes))), splits)


def _split(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> Split:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not x.size:
        raise DataError(
            f"{path}: x_{name} is {x.dtype} {x.shape}, expected uint8 (n, height, width, 3) with values 0..255"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise DataError(f"{path}: y_{name} is {y.dtype} {y.shape}, expected integers ({len(x)},)")
    if y.min() < 0:
        raise DataError(f"{path}: y_{name} holds the label {y.min()}, expected labels from 0")
    return Split(PixelArray(x), y.astype(np.int64), np.arange(len(x)))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in ARRAYS:
                if name not in held:
                    raise DataError(f"{path} holds no array {name} (it holds: {', '.join(held[:20])})")
            return {name: _read_array(archive, archive.getinfo(f"{name}.npy")) for name in ARRAYS}
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
