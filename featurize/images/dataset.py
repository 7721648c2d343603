"""Labelled images: `Images`, in memory or in files, and the splits and data sets that they make up."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from featurize.core.balance import is_imbalanced
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
    """Labelled images in the splits `train` and `test`; `load_dataset(source, **split_options)` loads them again."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    source: str = ""
    split_options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the class names and every split; the data set's name is not part of it."""
        content = [self.class_names, {name: split.digest for name, split in self.splits.items()}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def first(self, **counts: int | None) -> "ImageDataset":
        """The first images of each split: `dataset.first(train=2000, test=None)`."""
        splits = {name: split.first(counts.get(name)) for name, split in self.splits.items()}
        return replace(self, splits=splits)


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


def class_counts(dataset: ImageDataset) -> list[str]:
    """Describe the number of images in each class: one line a split, and one more for imbalanced training images."""
    lines = []
    for name, split in dataset.splits.items():
        counts = np.bincount(split.labels, minlength=len(dataset.class_names))
        lines.append(f"{name}: {len(split):,} images of {len(counts):,} classes, {_describe(counts, dataset)}")
        if name == "train" and is_imbalanced(counts):
            lines.append(
                f"the largest class has {counts.max() / counts.min():.1f} times as many training images as the "
                "smallest: consider python -m classify --class-weight balanced"
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
