"""Runs the frozen network on a batch of images."""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from featurize.backbone import Backbone, preprocessed
from featurize.frameworks import import_keras

Engine = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 (n, size, size, 3) RGB -> one float32 activation per tapped layer: (n, h, w, c) or (n, c)."""


def load_engine(backbone: Backbone) -> tuple[Engine, str, str]:
    """What runs the backbone: the engine, its name and version (both empty for `pixels`)."""
    if backbone.model is None:
        return _pixels, "", ""
    return tensorflow_engine(backbone), "tensorflow", version("tensorflow")


def tensorflow_engine(backbone: Backbone) -> Engine:
    """The reference: preprocessing and network in one traced function, for any number of images.

    `Model.predict` is not used: in a loop it retraces and leaks.
    """
    import_keras()
    import tensorflow as tf

    size = backbone.image_size

    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        return backbone.model(preprocessed(tf.cast(images, tf.float32), backbone.preprocess), training=False)

    traced = tf.function(forward, [tf.TensorSpec((None, size, size, 3), tf.uint8)], autograph=False)

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs = traced(tf.constant(images))
        return [output.numpy() for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]

    return run


def default_batch_size(image_size: int) -> int:
    """Images per batch: about a quarter of a million pixels, where TensorFlow is near its best."""
    fitting = 256 * 32**2 // image_size**2
    return max(8, min(256, 1 << fitting.bit_length() - 1 if fitting else 8))


def _pixels(images: np.ndarray) -> list[np.ndarray]:
    return [images.astype(np.float32)]
