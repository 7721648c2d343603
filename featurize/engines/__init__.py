"""What runs a frozen network: TensorFlow, the reference, and faster ones that agree with it.

May import: networks, core.
"""

from featurize.engines.choice import (
    CHECKED_IMAGES,
    ENGINES,
    REFERENCE,
    Choice,
    Engine,
    agreement,
    check_engine,
    choose_engine,
    default_batch_size,
    gpu,
    tensorflow_engine,
)

__all__ = [
    "CHECKED_IMAGES",
    "ENGINES",
    "REFERENCE",
    "Choice",
    "Engine",
    "agreement",
    "check_engine",
    "choose_engine",
    "default_batch_size",
    "gpu",
    "tensorflow_engine",
]
