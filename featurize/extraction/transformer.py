"""Frozen features as a step of a scikit-learn pipeline.

For a data set that is used more than once, prefer `extract_features`: it computes each vector once, whereas a
pipeline in a cross-validation computes it again for every fold.
"""

import functools
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from featurize.core.errors import BackboneError, DataError, UsageError, suggestion
from featurize.engines import ENGINES, REFERENCE, choose_engine, default_batch_size
from featurize.extraction.extractor import Extractor
from featurize.extraction.plan import ExtractionOptions
from featurize.images import read_image
from featurize.networks import load_backbone

ONE_AT_A_TIME = threading.Lock()  # engines share their buffers between calls


class FrozenFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A frozen network as a transformer: images or image files -> vectors.

    It is stateless: `fit` only checks the options, and a copy or a pickle holds nothing else. The first
    `transform` loads the network, which stays in memory until other options are used.

    Args:
        backbone: a name in `keras.applications`, a path to a `.keras` file, or `pixels`.
        weights: `imagenet` (for a `.keras` file: its own), `random`, or a path to an `.h5` file.
        layers: a layer to tap, or several; empty for the last one before the classifier.
        pool: one of `pooling.POOLS`; `pixels` is always flattened.
        image_size: images are resized to this many pixels squared.
        resize: one of `resize.KERNELS`.
        aspect: one of `resize.ASPECTS`, for images that are not square.
        flip: average the vectors of each image and its mirror image.
        preprocess: `auto` (the backbone's own; `none` for a `.keras` file) or one of `backbone.PREPROCESSING`.
        engine: one of `choice.ENGINES`. There is no `auto`: vectors must not depend on a speed measurement.
        batch_size: images per forward pass; None to choose it by the image size.
        seed: for `random` weights.
    """

    def __init__(
        self,
        backbone: str = "vgg16",
        *,
        weights: str = "imagenet",
        layers: Any = (),
        pool: str = "avg",
        image_size: int = 96,
        resize: str = "bicubic",
        aspect: str = "crop",
        flip: bool = False,
        preprocess: str = "auto",
        engine: str = REFERENCE,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.pool = pool
        self.image_size = image_size
        self.resize = resize
        self.aspect = aspect
        self.flip = flip
        self.preprocess = preprocess
        self.engine = engine
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the options; X and y are ignored, and no network is loaded.

        Raises:
            UsageError: an unknown pooling, kernel, aspect or engine.
        """
        self._options()
        if self.engine not in ENGINES:
            raise UsageError(f"engine {self.engine}: {suggestion(self.engine, list(ENGINES))}")
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Compute the vectors of images.

        Args:
            X: paths of image files, (n,), str or Path; or images, uint8 RGB (n, h, w, 3).

        Returns:
            float32 (n, d), the layers' vectors side by side.

        Raises:
            DataError: X is neither, is empty, or a file cannot be read.
            UsageError: an unknown option or layer.
            BackboneError: the network cannot be loaded, or gives values that are not finite.
        """
        X = _checked(X)
        with ONE_AT_A_TIME:
            extractor = self._extractor()
            blocks = []
            size = self.batch_size or default_batch_size(self.image_size)
            for start in range(0, len(X), size):
                images = self._images(X[start : start + size])
                blocks.append(np.concatenate(extractor.vectors(images), axis=1))
        vectors = np.concatenate(blocks)
        if not np.isfinite(vectors).all():
            raise BackboneError(f"{self.backbone} gave a value that is not finite; check the weights and preprocess")
        return vectors

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The name of each column, (d,): its layer and its index in the layer's vector. Loads the network.

        Args:
            input_features: ignored: images have no names.
        """
        with ONE_AT_A_TIME:
            extractor = self._extractor()
            parts = extractor.vectors(np.zeros((1, self.image_size, self.image_size, 3), np.uint8))
        names = []
        for layer, part in zip(extractor.spec.layers, parts, strict=True):
            names += [f"{layer}_{index}" for index in range(part.shape[1])]
        return np.array(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        return tags

    def _options(self) -> ExtractionOptions:
        return ExtractionOptions(self.pool, self.resize, self.aspect, self.flip, self.engine)

    def _extractor(self) -> Extractor:
        self.fit(None)
        return _load(
            self._options(),
            self.backbone,
            self.weights,
            (self.layers,) if isinstance(self.layers, str) else tuple(self.layers),
            self.image_size,
            self.preprocess,
            self.seed,
            (_changed(self.backbone), _changed(self.weights)),
        )

    def _images(self, X: np.ndarray) -> np.ndarray:
        """Some of X as images, uint8 (n, h, w, 3)."""
        if X.ndim == 4:
            return X
        return np.stack([_read(Path(path), self.image_size, self.resize, self.aspect) for path in X])


@functools.lru_cache(maxsize=1)
def _load(
    options: ExtractionOptions,
    name: str,
    weights: str,
    layers: tuple[str, ...],
    image_size: int,
    preprocess: str,
    seed: int,
    changed: tuple[int, int],  # a key of the cache alone: a changed file is loaded again
) -> Extractor:
    backbone = load_backbone(
        name, weights=weights, layers=layers, image_size=image_size, preprocess=preprocess, seed=seed
    )
    choice = choose_engine(backbone, options.engine, np.empty((0, image_size, image_size, 3), np.uint8))
    spec = replace(options.spec(backbone), engine=choice.name, engine_version=choice.version)
    return Extractor(backbone, choice, spec)


def _changed(name: str) -> int:
    """When the file of that name was last changed, in nanoseconds; 0 if it does not exist."""
    return os.stat(name).st_mtime_ns if os.path.isfile(name) else 0  # noqa: PTH113, PTH116


def _checked(X: Any) -> np.ndarray:
    """X as an array: paths (n,), or uint8 images (n, h, w, 3)."""
    found = np.asarray(X)
    if not found.size:
        raise DataError("X holds no images")
    if found.ndim == 1 and all(isinstance(each, (str, os.PathLike)) for each in found):
        return found
    if found.ndim == 4 and found.shape[3] == 3 and found.dtype == np.uint8:
        return found
    raise DataError(
        f"X is {found.dtype} of the shape {found.shape}; expected paths of image files (n,), or uint8 RGB images "
        "(n, height, width, 3)"
    )


def _read(path: Path, size: int, kernel: str, aspect: str) -> np.ndarray:
    try:
        return read_image(path, size, size, kernel, aspect)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
