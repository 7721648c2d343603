"""The training pictures that look most like a new one to the network."""

import base64
import io
import os
import threading
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.figures.pictures import NearestRows, chosen_images, features, training_split
from classify.runs import RunResult
from featurize.core.errors import DataError
from featurize.images import Split

SHOWN = 5  # for each picture
MOST_BYTES = 1 << 30  # of vectors in memory


@dataclass(frozen=True)
class Neighbour:
    """A training picture: its class, its file or id, and the picture as a `data:` address."""

    label: str
    file: str
    picture: str


@dataclass(frozen=True)
class _Training:
    """The training images: their ids (n,), labels (n,), places in vector space, and pictures."""

    ids: np.ndarray
    labels: np.ndarray
    rows: NearestRows
    split: Split


class NearestPictures:
    """The training pictures of a run, read when the first neighbours are asked for."""

    def __init__(self, result: RunResult) -> None:
        self.result = result
        self._lock = threading.Lock()
        self._training: _Training | None = None

    def of(self, vectors: np.ndarray) -> list[list[dict[str, Any]]]:
        """The nearest training pictures of each vector (n, d), see `analysis.figures.pictures.nearest`, as JSON values.

        Raises:
            DataError: the cache or the pictures are gone, have changed, or are too many.
        """
        with self._lock:
            self._training = self._training or self._read()
        training = self._training
        found = training.rows.find(vectors, SHOWN)  # (n, k)
        pixels = chosen_images(self.result, [training.split], training.ids[found.ravel()])
        pictures = [self._neighbour(training, *each) for each in zip(found.ravel().tolist(), pixels, strict=True)]
        width = found.shape[1]
        return [pictures[start : start + width] for start in range(0, len(pictures), width)]

    def _read(self) -> _Training:
        size = 4 * self.result.dim * self.result.train_rows
        if size > MOST_BYTES:
            raise DataError(f"the {self.result.train_rows:,} training vectors are too many to search")
        vectors = features(self.result, "train")
        return _Training(vectors.ids, vectors.y, NearestRows(vectors.x), training_split(self.result))

    def _neighbour(self, training: _Training, row: int, pixels: np.ndarray) -> dict[str, Any]:
        return asdict(
            Neighbour(
                self.result.class_names[training.labels[row]],
                _name(training.split, int(training.ids[row])),
                _as_address(pixels),
            )
        )


def _name(split: Split, identity: int) -> str:
    """The path of an image file in the data set's folder; of other images their id."""
    paths = split.images.paths
    if paths is None:
        return f"image {identity}"
    [place] = np.flatnonzero(split.ids == identity)
    return os.fsdecode(paths[place]).encode(errors="replace").decode()


def _as_address(pixels: np.ndarray) -> str:
    """A picture, uint8 (h, w, 3), as a `data:` address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
