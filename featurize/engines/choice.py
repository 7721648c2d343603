"""Runs the frozen network on a batch of images: TensorFlow, the reference, or something faster.

What is faster than TensorFlow is used only where it gives the same numbers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from featurize.core.environment import import_keras
from featurize.core.errors import BackboneError, FrozenbenchError, UsageError, suggestion
from featurize.networks import Backbone, preprocessed

Engine = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 (n, size, size, 3) RGB -> one float32 activation per tapped layer: (n, h, w, c) or (n, c)."""

TOLERANCE = 1e-4  # largest relative error of a layer, in the Euclidean norm
CHECKED_IMAGES = 4
ROUNDS = 3


@dataclass(frozen=True)
class Choice:
    """An engine, and why it is this one.

    Attributes:
        run: the engine.
        name: one of `ENGINES`; empty for `pixels`.
        version: of the library that runs it; empty for `pixels`.
        why: a line for the reader; empty for `pixels`.
    """

    run: Engine
    name: str
    version: str
    why: str


def choose_engine(backbone: Backbone, name: str, images: np.ndarray, why: str = "as asked for") -> Choice:
    """What runs the backbone.

    `auto` takes the first of the others that knows the network, agrees with TensorFlow on `images`
    and is faster on them; where there is none, or a GPU, TensorFlow. An engine that is named is made
    and compared with TensorFlow when it is given its first images.

    Args:
        backbone: from `load_backbone`.
        name: `auto` or one of `ENGINES`.
        images: a batch of the user's own, uint8 (n, size, size, 3); only `auto` looks at them.
        why: a named engine is chosen.

    Raises:
        UsageError: no such engine; from the engine: it is not available, or does not know a layer.
        BackboneError: from the engine: it does not take the network, or disagrees.
    """
    check_engine(name)
    if backbone.model is None:
        return Choice(_pixels, "", "", "")
    if name == "auto":
        return _fastest(backbone, images)
    return Choice(_on_demand(backbone, name), name, _version(name), why)


def check_engine(name: str) -> None:
    """Raise UsageError when there is no such engine."""
    if name not in ("auto", *ENGINES):
        raise UsageError(f"--engine {name}: {suggestion(name, ['auto', *ENGINES])}")


def tensorflow_engine(backbone: Backbone) -> Engine:
    """The reference: preprocessing and network in one traced function, for any number of images.

    `Model.predict` is not used: in a loop it retraces and leaks. Nor is XLA, which is slow on CPUs.
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


def _winograd(backbone: Backbone) -> Engine:
    try:
        from featurize.engines.winograd.network import winograd_engine
    except (ImportError, OSError, RuntimeError) as error:  # the latter: numba finds no folder to keep its code in
        raise _not_available("winograd", error, "numba") from error
    return winograd_engine(backbone)


def _mnn(backbone: Backbone) -> Engine:
    try:
        from featurize.engines.mnn import mnn_engine
    except ImportError as error:
        raise _not_available("mnn", error, "MNN onnx") from error
    return mnn_engine(backbone)


def _not_available(name: str, error: Exception, packages: str) -> UsageError:
    return UsageError(f"the engine {name} is not available: {error}; pip install {packages}")


REFERENCE = "tensorflow"
ENGINES: dict[str, tuple[Callable[[Backbone], Engine], Callable[[], str]]] = {
    REFERENCE: (tensorflow_engine, lambda: version("tensorflow")),
    "winograd": (_winograd, lambda: "1"),  # of our own code: another number where its results are other ones
    "mnn": (_mnn, lambda: version("MNN")),
}
"""Name -> what makes it, and the version that determines its numbers; the reference, then the fastest first."""


def default_batch_size(image_size: int) -> int:
    """Images per batch: about half a million pixels, where all engines are near their best (measured)."""
    fitting = 512 * 32**2 // image_size**2
    return max(8, min(256, 1 << fitting.bit_length() - 1 if fitting else 8))


def _fastest(backbone: Backbone, images: np.ndarray) -> Choice:
    reference = tensorflow_engine(backbone)
    if device := gpu():
        return Choice(reference, REFERENCE, _version(REFERENCE), f"on the GPU {device}")
    few = images[:CHECKED_IMAGES]
    expected, why = reference(few), []
    for name in [name for name in ENGINES if name != REFERENCE]:
        make, _ = ENGINES[name]
        try:
            engine = make(backbone)
            error = agreement(engine(few), expected, name, backbone.layers)
        except FrozenbenchError as problem:
            why.append(f"not {name}: {problem}")
            continue
        ratio = _speed_ratio(engine, reference, images)
        measured = f"{name} is {ratio:.2f} times as fast as {REFERENCE} here, relative error {error:.0e}"
        if ratio > 1:
            return Choice(engine, name, _version(name), measured)
        why.append(measured)
    return Choice(reference, REFERENCE, _version(REFERENCE), "; ".join(why))


def _speed_ratio(engine: Engine, reference: Engine, images: np.ndarray) -> float:
    """How many times as fast the engine is, by the best of interleaved rounds."""
    seconds = [np.inf, np.inf]
    for _ in range(ROUNDS):
        for place, run in enumerate((engine, reference)):
            began = time.perf_counter()
            run(images)
            seconds[place] = min(seconds[place], time.perf_counter() - began)
    return seconds[1] / seconds[0]


def _on_demand(backbone: Backbone, name: str) -> Engine:
    """The engine, made, and compared with TensorFlow, when the first images come."""
    made: list[Engine] = []

    def run(images: np.ndarray) -> list[np.ndarray]:
        if not made:
            make, _ = ENGINES[name]
            few = images[:CHECKED_IMAGES]
            try:
                engine = make(backbone)
                if name != REFERENCE:
                    agreement(engine(few), tensorflow_engine(backbone)(few), name, backbone.layers)
            except FrozenbenchError as error:
                raise type(error)(f"{error}; use --engine tensorflow") from error
            made.append(engine)
        return made[0](images)

    return run


def _version(name: str) -> str:
    try:
        return ENGINES[name][1]()
    except PackageNotFoundError as error:
        raise UsageError(f"the engine {name} is not available: {error}; use --engine tensorflow") from error


def agreement(outputs: list[np.ndarray], expected: list[np.ndarray], name: str, layers: tuple[str, ...]) -> float:
    """The largest relative error of a layer.

    Raises:
        BackboneError: it is above `TOLERANCE`, or not a number.
    """
    largest = 0.0
    for layer, ours, reference in zip(layers, outputs, expected, strict=True):
        error = float(np.linalg.norm(ours - reference) / max(float(np.linalg.norm(reference)), 1e-30))
        if not error < TOLERANCE:
            raise BackboneError(
                f"{name} differs from {REFERENCE} by {error:.1e} at layer {layer}, expected less than {TOLERANCE:.0e}"
            )
        largest = max(largest, error)
    return largest


def gpu() -> str:
    """The name of the GPU that TensorFlow sees; empty where there is none."""
    import_keras()
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return ""
    return str(tf.config.experimental.get_device_details(devices[0]).get("device_name", devices[0].name))


def _pixels(images: np.ndarray) -> list[np.ndarray]:
    return [images.astype(np.float32)]
