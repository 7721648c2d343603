"""TensorFlow, the reference that every other engine must agree with."""

from collections.abc import Callable

import numpy as np

from featurize.core.environment import import_keras
from featurize.networks import Backbone, preprocessed

Engine = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 (n, size, size, 3) RGB -> one float32 activation for each tapped layer: (n, h, w, c) or (n, c)."""


def tensorflow_engine(backbone: Backbone) -> Engine:
    """Preprocessing and network in one function, traced once for any number of images.

    `Model.predict` would retrace and leak memory in a loop, and XLA is slow on CPUs.
    """
    import_keras()
    import tensorflow as tf

    size = backbone.image_size

    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        return backbone.model(preprocessed(tf.cast(images, tf.float32), backbone.preprocess), training=False)

    traced = tf.function(forward, [tf.TensorSpec((None, size, size, 3), tf.uint8)], autograph=False)

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs = traced(tf.constant(images))
        if not isinstance(outputs, (list, tuple)):
            outputs = [outputs]
        return [output.numpy() for output in outputs]

    return run


def gpu() -> str:
    """The name of the GPU that TensorFlow sees; empty if there is none."""
    import_keras()
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return ""
    details = tf.config.experimental.get_device_details(devices[0])
    return str(details.get("device_name", devices[0].name))
