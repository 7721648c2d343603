"""TensorFlow, the reference that every other engine must agree with."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from featurize.core.environment import import_keras, silenced
from featurize.core.errors import BackboneError
from featurize.networks import Backbone, preprocessed

Engine = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 (n, size, size, 3) RGB -> one float32 activation for each tapped layer: (n, h, w, c) or (n, c)."""

TERMINAL_COLOURS = re.compile(r"\x1b\[\d*m")  # in Keras' messages


def tensorflow_engine(backbone: Backbone) -> Engine:
    """Preprocessing and network in one function, traced once for any number of images.

    `Model.predict` would retrace and leak memory in a loop, and XLA is slow on CPUs.
    """
    tf, traced = _traced(backbone)

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in traced(tf.constant(images))]

    return run


def frozen_graph(backbone: Backbone) -> tuple[bytes, list[str]]:
    """Preprocessing and network as a TensorFlow graph whose weights are constants, for other libraries to read.

    Returns:
        A serialised `GraphDef`, and the names of its outputs, one for each tapped layer.
    """
    _, traced = _traced(backbone)
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    with silenced(2):  # its C++ code counts GPUs there
        frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    return frozen.graph.as_graph_def().SerializeToString(), [output.name for output in frozen.outputs]


def _traced(backbone: Backbone) -> tuple[Any, Any]:
    """TensorFlow, and a function of it: uint8 (n, size, size, 3) -> a list of activations.

    Raises:
        BackboneError: the network cannot be run.
    """
    import_keras()
    import tensorflow as tf

    size = backbone.image_size

    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        outputs = backbone.model(preprocessed(tf.cast(images, tf.float32), backbone.preprocess), training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    traced = tf.function(forward, [tf.TensorSpec((None, size, size, 3), tf.uint8)], autograph=False)
    try:
        traced.get_concrete_function()
    except Exception as error:  # a layer of someone else's can raise anything
        reason = " ".join(TERMINAL_COLOURS.sub("", str(error)).split())[:300]
        raise BackboneError(f"{backbone.name} cannot be run in TensorFlow: {reason}") from error
    return tf, traced


def gpu() -> str:
    """The name of the GPU that TensorFlow sees; empty if there is none."""
    import_keras()
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return ""
    details = tf.config.experimental.get_device_details(devices[0])
    return str(details.get("device_name", devices[0].name))
