"""Images that come as arrays: from Python, from data sets of other libraries, or in an `.npz` file.

A file is read so that a damaged or hostile one costs neither memory nor code execution.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.errors import DataError, UsageError
from featurize.images.decode import as_rgb

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
    tokenize.TokenError,  # of numpy's parser of headers
)
"""What a damaged `.npz` file makes the libraries raise."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays `x_train`, `y_train`, `x_test` and `y_test` of an `.npz` file, and `class_names` if it has them.

    Raises:
        DataError: an array is missing, holds objects, or the file is damaged.
    """
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


def read_rows(
    rows: Mapping[str, Iterable[tuple[Any, Any]]], class_names: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """The rows of another library's data set as arrays for `checked`, read one at a time.

    Args:
        rows: the splits `train` and `test`: pairs of an image, a Pillow image or uint8 (height, width, 3) or
            (height, width), and a label, an integer or a string. They have a length.
        class_names: K names, or None.

    Raises:
        DataError: an image is something else, or has another size than the first one.
    """
    arrays = {}
    for split, pairs in rows.items():
        arrays[f"x_{split}"], arrays[f"y_{split}"] = _read_rows(split, pairs)
    if class_names is not None:
        arrays["class_names"] = np.asarray(class_names)
    return arrays


def checked(
    arrays: Mapping[str, np.ndarray], where: str = ""
) -> tuple[tuple[str, ...], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The class names, and the images and labels of each split.

    Args:
        arrays: `x_train` and `x_test`, uint8 (n, height, width, 3) RGB, or grey (n, height, width) or
            (n, height, width, 1); `y_train` and `y_test`, integers (n,) or (n, 1), 0..K-1, or strings; and perhaps
            `class_names`, K strings. Without them the numbers or the sorted strings are the names.
        where: the beginning of error messages.

    Returns:
        K names; and for each split uint8 (n, height, width, 3), copied only if grey, with int64 (n,), 0..K-1.

    Raises:
        DataError: an array has another shape or type, or `y_train` lacks a class.
    """
    labels = {split: _flat_labels(f"{where}y_{split}", arrays[f"y_{split}"]) for split in ("train", "test")}
    present = np.unique(labels["train"])  # not all up to the largest label: it may be absurd
    for found in labels.values():
        unknown = np.setdiff1d(found, present)
        if len(unknown):
            raise DataError(f"{where}y_train has no image of class {unknown[0]}, which y_test has")
    if present.dtype.kind != "U" and present[-1] != len(present) - 1:
        absent = np.setdiff1d(np.arange(len(present)), present)[0]
        raise DataError(f"{where}y_train has no image of class {absent}, expected every class from 0 to {present[-1]}")
    class_names = tuple(map(str, present.tolist()))
    if (given := arrays.get("class_names")) is not None:
        if given.dtype.kind != "U" or given.shape != (len(class_names),):
            raise DataError(
                f"{where}class_names is {given.dtype} {given.shape}, expected strings ({len(class_names)},), one for "
                "each class of y_train"
            )
        class_names = tuple(given.tolist())
    splits = {}
    for split, found in labels.items():
        images = _rgb(f"{where}x_{split}", arrays[f"x_{split}"])
        if len(images) != len(found):
            raise DataError(f"{where}y_{split} has {len(found):,} labels for {len(images):,} images of x_{split}")
        splits[split] = (images, np.searchsorted(present, found).astype(np.int64))
    return class_names, splits


def check_name(name: str) -> None:
    """Raise UsageError for a name of a data set that cannot begin the name of a file."""
    if not name or Path(name).name != name:
        raise UsageError(f"name {name!r}: expected a name without slashes, with which the names of caches begin")


def _read_rows(split: str, pairs: Iterable[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (n, height, width, 3), and the labels, (n,), of a split."""
    try:
        count = len(pairs)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(
            f"the {split} images have no length: they are a stream; load them as a whole (without streaming=True)"
        ) from error
    images = np.empty((0, 0, 0, 3), np.uint8)
    labels = []
    for number, (image, label) in enumerate(pairs):
        pixels = _pixels(f"{split} image {number}", image)
        if number == 0:
            images = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{split} image {number} is {_size(pixels)} pixels, expected {_size(images[0])} like the first one; "
                "bring all to one size, or save them in class folders for load_dataset"
            )
        images[number] = pixels
        labels.append(label)
    return images, np.asarray(labels)


def _pixels(what: str, image: Any) -> np.ndarray:
    """A Pillow image or an array as uint8 (height, width, 3)."""
    if hasattr(image, "has_transparency_data"):  # only Pillow's images have it, and Pillow loads slowly
        return np.asarray(as_rgb(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        pixels = image.reshape(*image.shape[:2], -1)
        if pixels.shape[2] in (1, 3):
            return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    kind = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
    raise DataError(
        f"{what} is {kind}, expected a Pillow image, or an array uint8 (height, width, 3); leave out transformations "
        "to tensors"
    )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"


def _rgb(what: str, x: np.ndarray) -> np.ndarray:
    """Images (n, height, width, 3); grey ones get three equal channels."""
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size:
        raise DataError(
            f"{what} is {x.dtype} {x.shape}, expected uint8 (n, height, width, 3) with values 0..255, or "
            "grey images (n, height, width)"
        )
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x


def _flat_labels(what: str, y: np.ndarray) -> np.ndarray:
    """Labels (n,), integers from 0 or strings."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.flat):  # a column of pandas
        y = y.astype(str)
    if y.dtype.kind not in "iuU" or y.ndim != 1 or not len(y):
        raise DataError(f"{what} is {y.dtype} {y.shape}, expected integers or strings (n,)")
    if y.dtype.kind != "U" and y.min() < 0:
        raise DataError(f"{what} holds the label {y.min()}, expected labels from 0")
    return y


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
