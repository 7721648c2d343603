"""Labelled images: `Images`, in memory or in files, and the splits and data sets that they make up."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from featurize.core.balance import is_imbalanced
from featurize.core.errors import UsageError, suggestion
from featurize.images.arrays import check_name, checked, read_npz, read_rows
from featurize.images.resize import resized

if TYPE_CHECKING:
    from hashlib import _Hash

BATCH_ROWS = 1_000  # images that are read at once if all are needed in turn
CLASSES_SHOWN = 12


class Images(Protocol):
    """Images that may not be in memory. Indexing selects rows without reading them."""

    @property
    def root(self) -> Path | None:
        """The folder of the image files; None for images from other sources."""
        ...

    @property
    def paths(self) -> np.ndarray | None:
        """The names of the image files below `root`, bytes (n,); None for images from other sources."""
        ...

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of every image, which `np.asarray` reads then; None if each file has its own."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Self:
        """Some of the images, by a slice, row numbers or a mask."""
        ...

    def read(self, size: int, kernel: str, aspect: str) -> tuple[np.ndarray, dict[int, str]]:
        """Read the images at one size.

        Args:
            size: height and width of the result, in pixels.
            kernel: one of `resize.KERNELS`.
            aspect: one of `resize.ASPECTS`, for images that are not square.

        Returns:
            uint8 (n, size, size, 3), RGB; and the reason for each row that was skipped, whose pixels are black.
        """
        ...

    @property
    def digests(self) -> np.ndarray:
        """The SHA-256 of each image, uint8 (n, 32): of its file, or of its height, width and pixels."""
        ...

    def update_digest(self, digest: "_Hash") -> None:
        """Feed the content of the images to a digest."""
        ...


@dataclass(frozen=True)
class PixelArray:
    """Images in memory: uint8 (n, height, width, 3), RGB."""

    pixels: np.ndarray
    root = None
    paths = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> "PixelArray":
        return PixelArray(self.pixels[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pixels, dtype, copy=copy)

    def read(self, size: int, kernel: str, aspect: str) -> tuple[np.ndarray, dict[int, str]]:
        """See `Images.read`; nothing is skipped."""
        return resized(self.pixels, size, kernel, aspect), {}

    @cached_property
    def digests(self) -> np.ndarray:
        """See `Images.digests`."""
        return digests_of_pixels(self)

    def update_digest(self, digest: "_Hash") -> None:
        """See `Images.update_digest`."""
        update_with_pixels(digest, self)


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of their source.

    Attributes:
        images: `Images`; an array, uint8 (n, height, width, 3), RGB, becomes a `PixelArray`.
        labels: int64 (n,), 0..K-1.
        ids: int64 (n,), the record's index in the source; for image files, the index in their order.
        groups: int64 (n,), the number of each image's group, such as a patient; None if every image stands for
            itself.
        folds: int64 (n,), the fold in which each image is tested; None without a cross-validation.
    """

    images: Images
    labels: np.ndarray
    ids: np.ndarray
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    def __post_init__(self) -> None:
        if isinstance(self.images, np.ndarray):
            object.__setattr__(self, "images", PixelArray(self.images))

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> "Split":
        """The first `count` images, or all of them."""
        return self[:count]

    def __getitem__(self, rows: Any) -> "Split":
        """Some of the images, by a slice, row numbers or a mask."""
        groups = None if self.groups is None else self.groups[rows]
        folds = None if self.folds is None else self.folds[rows]
        return Split(self.images[rows], self.labels[rows], self.ids[rows], groups, folds)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of ids, labels, groups, folds, and the pixels or the content of the files."""
        digest = hashlib.sha256()
        arrays = [self.ids, self.labels, self.groups, self.folds]
        for values in (array for array in arrays if array is not None):
            digest.update(f"{values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        self.images.update_digest(digest)
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images in the splits `train` and `test`; `load_dataset(source, **split_options)` loads them again.

    `whole` is false for the first images of a larger data set.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    source: str = ""
    split_options: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the class names and every split; the data set's name is not part of it."""
        content = [self.class_names, {name: split.digest for name, split in self.splits.items()}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_arrays(
        cls,
        x_train: Any,
        y_train: Any,
        x_test: Any,
        y_test: Any,
        class_names: Sequence[str] | None = None,
        name: str = "images",
    ) -> "ImageDataset":
        """Images that are already in memory; the arrays are not copied.

        Args:
            x_train: uint8 (n, height, width, 3) RGB, or grey (n, height, width) or (n, height, width, 1).
            y_train: integers (n,) or (n, 1), 0..K-1, or strings.
            x_test: as `x_train`; height and width may differ.
            y_test: as `y_train`.
            class_names: K names; without them the numbers or the sorted strings are the names.
            name: of the data set, with which the names of its caches begin.

        Raises:
            DataError: an array has another shape or type, or `y_train` lacks a class.
            UsageError: the name has slashes.
        """
        check_name(name)
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        if class_names is not None:
            arrays["class_names"] = class_names
        return cls._from({key: np.asarray(array) for key, array in arrays.items()}, name)

    @classmethod
    def from_datasets(
        cls,
        dataset_dict: Mapping[str, Any],
        image: str = "img",
        label: str = "label",
        *,
        train: str = "train",
        test: str = "test",
        name: str = "images",
    ) -> "ImageDataset":
        """Images of one size in a `DatasetDict` of the library `datasets` (Hugging Face), read into memory.

        Args:
            dataset_dict: two splits by name.
            image: the column of images.
            label: the column of labels: integers, whose names are taken from the column's `ClassLabel`, or strings.
            train: the split for training.
            test: the split for testing.
            name: of the data set, with which the names of its caches begin.

        Raises:
            UsageError: there is no such split or column, or the name has slashes.
            DataError: an image or a label is not usable, or images have several sizes.
        """
        check_name(name)
        rows = {}
        for split, key in (("train", train), ("test", test)):
            if key not in dataset_dict:
                raise UsageError(f"{split} {key}: no such split; {suggestion(key, list(dataset_dict))}")
            rows[split] = _Pairs(dataset_dict[key], (image, label))
            columns = list(getattr(dataset_dict[key], "column_names", None) or (image, label))
            for parameter, column in (("image", image), ("label", label)):
                if column not in columns:
                    raise UsageError(f"{parameter} {column}: no such column; {suggestion(column, columns)}")
        features = getattr(dataset_dict[train], "features", None) or {}
        return cls._from(read_rows(rows, getattr(features.get(label), "names", None)), name)

    @classmethod
    def from_torchvision(cls, train: Any, test: Any, *, name: str = "images") -> "ImageDataset":
        """Images of one size in two data sets of torchvision, or others like them, read into memory.

        Args:
            train: has a length, and gives pairs of an image (of Pillow, or uint8 (height, width, 3)) and a label;
                `train.classes`, if it exists, are the names of the classes.
            test: the same for testing.
            name: of the data set, with which the names of its caches begin.

        Raises:
            DataError: an image or a label is not usable, such as a tensor, or images have several sizes.
            UsageError: the name has slashes.
        """
        check_name(name)
        rows = {"train": _Pairs(train, (0, 1)), "test": _Pairs(test, (0, 1))}
        return cls._from(read_rows(rows, getattr(train, "classes", None)), name)

    @classmethod
    def from_npz(cls, path: Path) -> "ImageDataset":
        """Images from an `.npz` file with the arrays of `from_arrays`; it is named after the file.

        Raises:
            DataError: an array is missing, holds objects, or has another shape or type.
        """
        return cls._from(read_npz(path), path.stem, f"{path}: ")

    @classmethod
    def _from(cls, arrays: Mapping[str, np.ndarray], name: str, where: str = "") -> "ImageDataset":
        """The data set in arrays as `arrays.checked` takes them; ids are row numbers.

        Args:
            arrays: images, labels, and perhaps class names.
            name: of the data set.
            where: the beginning of error messages.

        Raises:
            DataError: an array has another shape or type.
        """
        class_names, found = checked(arrays, where)
        splits = {}
        for split, (images, labels) in found.items():
            splits[split] = Split(PixelArray(images), labels, np.arange(len(labels)))
        return cls(name, class_names, splits)

    def first(self, **counts: int | None) -> "ImageDataset":
        """The first images of each split: `dataset.first(train=2000, test=None)`."""
        splits = {name: split.first(counts.get(name)) for name, split in self.splits.items()}
        all_rows = all(len(split) == len(self.splits[name]) for name, split in splits.items())
        return replace(self, splits=splits, whole=self.whole and all_rows)


class _Pairs:
    """The rows of another library's data set as pairs of image and label, read one at a time."""

    def __init__(self, rows: Any, keys: tuple[Any, Any]) -> None:
        self.rows = rows
        self.keys = keys

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        image, label = self.keys
        for number in range(len(self.rows)):  # not all data sets end an iteration over them by an IndexError
            row = self.rows[number]
            yield row[image], row[label]


def update_with_pixels(digest: "_Hash", images: Any) -> None:
    """Feed images of one shape to a digest, `BATCH_ROWS` at a time.

    Args:
        digest: of the split.
        images: `Images` that `np.asarray` reads.
    """
    shape = (len(images), *np.asarray(images[:1]).shape[1:])
    digest.update(f"{np.dtype(np.uint8).str} {shape}".encode())
    for start in range(0, len(images), BATCH_ROWS):
        digest.update(np.ascontiguousarray(images[start : start + BATCH_ROWS]).data)


def digests_of_pixels(images: Any) -> np.ndarray:
    """The SHA-256 of the height, the width and the pixels of each image, uint8 (n, 32); see `update_with_pixels`."""
    digests = np.empty((len(images), 32), np.uint8)
    for start in range(0, len(images), BATCH_ROWS):
        for row, pixels in enumerate(np.asarray(images[start : start + BATCH_ROWS]), start):
            digest = hashlib.sha256(f"pixels {pixels.shape[0]} {pixels.shape[1]}\n".encode())
            digest.update(np.ascontiguousarray(pixels).data)
            digests[row] = np.frombuffer(digest.digest(), np.uint8)
    return digests


def class_counts(dataset: ImageDataset) -> list[str]:
    """Describe the number of images in each class: one line a split, and one more for imbalanced training images."""
    lines = []
    for name, split in dataset.splits.items():
        counts = np.bincount(split.labels, minlength=len(dataset.class_names))
        lines.append(f"{name}: {len(split):,} images of {len(counts):,} classes, {_describe(counts, dataset)}")
        if name == "train" and is_imbalanced(counts):
            lines.append(
                f"the largest class has {counts.max() / counts.min():.1f} times as many training images as the "
                "smallest: consider frozenbench classify --class-weight balanced"
            )
    return lines


def _describe(counts: np.ndarray, dataset: ImageDataset) -> str:
    """The number of images in each class, or the range of the numbers if there are many classes."""
    smallest = len(counts) - 1 - int(np.argmin(counts[::-1]))
    largest = int(np.argmax(counts))
    names = dataset.class_names
    if counts[smallest] == counts[largest]:
        return f"{counts[largest]:,} each"
    if len(counts) <= CLASSES_SHOWN:
        return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    return f"{counts[smallest]:,} ({names[smallest]}) to {counts[largest]:,} ({names[largest]})"
