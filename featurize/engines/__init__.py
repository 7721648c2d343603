"""Engines run a frozen network on images: TensorFlow, the reference, and faster ones that agree with it.

`choice` picks one. `tensorflow` is the reference, `openvino` another library.

May import: winograd, runtimes, networks, core.
"""

from featurize.engines.choice import (
    CHECKED_IMAGES,
    ENGINES,
    REFERENCE,
    Choice,
    agreement,
    check_engine,
    check_precision,
    choose_engine,
    default_batch_size,
    relative_errors,
)
from featurize.engines.tensorflow import Engine, gpu, tensorflow_engine

__all__ = [
    "CHECKED_IMAGES",
    "ENGINES",
    "REFERENCE",
    "Choice",
    "Engine",
    "agreement",
    "check_engine",
    "check_precision",
    "choose_engine",
    "default_batch_size",
    "gpu",
    "relative_errors",
    "tensorflow_engine",
]
