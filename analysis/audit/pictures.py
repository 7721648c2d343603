"""The pictures behind a cache, read through the cache's record of where they came from."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.audit.suspects import Rows
from featurize.cache import CacheInfo
from featurize.core.errors import DataError, FrozenbenchError
from featurize.images import Split, recorded_dataset

BATCH = 1_000
SHOWN_SIZE = 96  # pixels: the side of image files here, and of thumbnails
OUTLINE_SIZE = 32
GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Pictures:
    """What the audit keeps of each picture, in the order of the cache's rows.

    Attributes:
        digests: SHA-256 of the decoded pixels, bytes (n,); of image files, at `SHOWN_SIZE`.
        outlines: grey, uint8 (n, OUTLINE_SIZE, OUTLINE_SIZE).
        smallest: the shorter side of each picture in its source, in pixels, int64 (n,).
    """

    digests: np.ndarray
    outlines: np.ndarray
    smallest: np.ndarray


class PictureSource:
    """The pictures of a cache, read again where the cache found them.

    Raises:
        DataError: they are gone, or have changed.
    """

    def __init__(self, info: CacheInfo, rows: Rows) -> None:
        self._info = info
        try:
            dataset = recorded_dataset(info.source)
            self._splits = {name: _recorded(info, dataset.splits[name], name) for name in info.rows}
        except (FrozenbenchError, OSError, KeyError) as error:
            raise DataError(f"the pictures cannot be read ({error})") from error
        self._places = np.empty(len(rows), np.int64)  # of each row in its split
        self._names = rows.splits
        for name, split in self._splits.items():
            own = np.flatnonzero(rows.splits == name)
            order = np.argsort(split.ids, kind="stable")
            found = order[np.searchsorted(split.ids, rows.ids[own], sorter=order).clip(max=len(order) - 1)]
            if (split.ids[found] != rows.ids[own]).any():
                raise DataError(f"the pictures of the split {name} are not those of {info.path}")
            self._places[own] = found

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Pictures by the numbers of their rows (m,), uint8 (m, height, width, 3).

        Raises:
            DataError: a file has changed or is gone.
        """
        parts, order = [], []
        for name, split in self._splits.items():
            own = np.flatnonzero(self._names[numbers] == name)
            if len(own):
                parts.append(self._pixels(split[self._places[numbers[own]]]))
                order.append(own)
        return np.concatenate(parts)[np.argsort(np.concatenate(order))]

    def summary(self) -> Pictures:
        """Read every picture once."""
        count = len(self._places)
        digests = np.empty(count, "S32")
        outlines = np.empty((count, OUTLINE_SIZE, OUTLINE_SIZE), np.uint8)
        smallest = np.empty(count, np.int64)
        for numbers in _batches(self._names):
            pixels = self.read(numbers)
            digests[numbers] = [hashlib.sha256(each.tobytes()).digest() for each in pixels]
            outlines[numbers] = outlines_of(pixels)
            split = self._splits[str(self._names[numbers[0]])]
            smallest[numbers] = _smallest(split[self._places[numbers]])
        return Pictures(digests, outlines, smallest)

    def _pixels(self, split: Split) -> np.ndarray:
        if split.images.shape is not None:
            return np.asarray(split.images)
        spec = self._info.spec
        pixels, problems = split.images.read(SHOWN_SIZE, spec.resize, spec.aspect)
        if problems:
            row, problem = next(iter(problems.items()))
            path = b"" if split.images.paths is None else split.images.paths[row]
            raise DataError(f"{split.images.root}/{os.fsdecode(path)}: {problem}")
        return pixels


def outlines_of(pixels: np.ndarray) -> np.ndarray:
    """Pictures (n, height, width, 3) in grey at `OUTLINE_SIZE`, uint8 (n, 32, 32)."""
    from featurize.images import resized

    if pixels.shape[1:3] != (OUTLINE_SIZE, OUTLINE_SIZE):
        pixels = resized(pixels, OUTLINE_SIZE, "bilinear", "stretch")
    return np.asarray((pixels @ GREY).round(), np.uint8)


def _recorded(info: CacheInfo, split: Split, name: str) -> Split:
    """The images of a split that were extracted, those that were skipped included."""
    recorded = split.first(info.source.get("images", {}).get(name))
    if recorded.digest != info.digests[name]:
        raise DataError(f"the {name} images at {info.source['data']} have changed since the extraction")
    return recorded


def _batches(splits: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of all rows, at most `BATCH` at once, of one split each."""
    for name in dict.fromkeys(splits.tolist()):
        own = np.flatnonzero(splits == name)
        for start in range(0, len(own), BATCH):
            yield own[start : start + BATCH]


def _smallest(split: Split) -> np.ndarray | int:
    """The shorter side of each picture of a split as it is stored."""
    if split.images.shape is not None:
        return min(split.images.shape)
    from PIL import Image

    sides = []
    assert split.images.root is not None  # of files
    assert split.images.paths is not None
    for path in split.images.paths.tolist():
        with Image.open(Path(os.fsdecode(os.fsencode(split.images.root) + b"/" + path))) as image:
            sides.append(min(image.size))
    return np.array(sides)
