"""The choice of an engine. One that is faster than TensorFlow is used only if it gives the same numbers."""

import json
import logging
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import joblib
import numpy as np

from featurize.core.environment import library_versions, processor_name
from featurize.core.errors import BackboneError, FrozenbenchError, UsageError, suggestion
from featurize.core.files import data_root, seal, sealed
from featurize.engines.tensorflow import Engine, gpu, tensorflow_engine
from featurize.networks import Backbone
from featurize.runtimes import has_bfloat16, onnx_engine
from featurize.winograd.stages import is_vgg

logger = logging.getLogger("frozenbench")
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "int8": 1e-1}
"""Precision -> the largest relative error of a layer, in the Euclidean norm."""
OPENVINO_TOLERANCE = {"float32": 1e-4, "bfloat16": 2.5e-1, "int8": 4e-1}
"""The same for OpenVINO. It also rounds what goes from layer to layer, and its networks are deeper: layers of the real
MobileNetV2 are off by up to 1.5e-1 in bfloat16. What that costs is measured on the user's images."""
CHECKED_IMAGES = 4
ROUNDS = 3  # of timing


@dataclass(frozen=True)
class Choice:
    """An engine, and the reason for it.

    Attributes:
        run: the engine.
        name: one of `ENGINES`; empty for `pixels`.
        version: of the library that runs it; empty for `pixels`.
        why: the reason, in a line; empty for `pixels`.
        calibration: the images from which int8 takes its scales, uint8 (n, size, size, 3); None for others.
    """

    run: Engine
    name: str
    version: str
    why: str
    calibration: np.ndarray | None = None


def _winograd(backbone: Backbone, precision: str = "float32", calibration: np.ndarray | None = None) -> Engine:
    try:
        from featurize.winograd.network import winograd_engine
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: numba finds no folder for compiled code
        raise _not_available(WINOGRAD, error) from error
    return winograd_engine(backbone, precision, calibration)


def _openvino(backbone: Backbone, precision: str = "float32", calibration: np.ndarray | None = None) -> Engine:
    from featurize.engines.openvino import openvino_engine

    try:
        return openvino_engine(backbone, precision, calibration)
    except ImportError as error:
        raise _not_available(OPENVINO, error) from error


def _not_available(name: str, error: Exception) -> UsageError:
    return UsageError(f"the engine {name} is not available: {error}; pip install {PACKAGES[name]}")


def _of_onnx_file(backbone: Backbone, name: str) -> Choice:
    """OpenVINO, which runs all ONNX files."""
    if name not in ("auto", OPENVINO):
        raise UsageError(f"--engine {name}: an ONNX file runs on {OPENVINO}; leave out the option")
    run, why = onnx_engine(backbone)
    return Choice(run, OPENVINO, version(OPENVINO), why)


REFERENCE = "tensorflow"
WINOGRAD = "winograd"
OPENVINO = "openvino"
ENGINES: dict[str, tuple[Callable[[Backbone], Engine], Callable[[], str]]] = {
    REFERENCE: (tensorflow_engine, lambda: version("tensorflow")),
    WINOGRAD: (_winograd, lambda: "1"),  # our own code: raise it when results change
    OPENVINO: (_openvino, lambda: version(OPENVINO)),
}
"""Name -> what makes the engine, and the version that determines its numbers. `auto` tries them in this order."""
LOW_PRECISION: dict[str, Callable[[Backbone, str, np.ndarray | None], Engine]] = {
    WINOGRAD: _winograd,
    OPENVINO: _openvino,
}
"""Name -> what makes the engine in another precision than float32, from the calibration images for int8."""
PACKAGES = {WINOGRAD: "numba", OPENVINO: "openvino"}
"""Name -> the package that it needs."""
GONE = {"mnn": OPENVINO}
"""Engines of old caches -> what runs these networks now."""


def choose_engine(
    backbone: Backbone,
    name: str,
    images: np.ndarray,
    why: str = "as asked for",
    *,
    remember: bool = True,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
) -> Choice:
    """Choose the engine that runs the backbone.

    `auto` takes TensorFlow on a GPU. Otherwise it takes the first engine that supports the network, agrees with
    TensorFlow on `images` and is faster; or TensorFlow, if no engine does. It remembers the choice in the data
    folder, for this network, these versions and this machine.

    A named or remembered engine is made, and compared with TensorFlow, when it gets its first images.

    Args:
        backbone: from `load_backbone`.
        name: `auto` or one of `ENGINES`.
        images: a batch of the user's images, uint8 (n, size, size, 3); only `auto` uses them.
        why: the reason for a named engine.
        remember: write down what `auto` chose.
        precision: one of `TOLERANCE`; the engines of `LOW_PRECISION` have others than float32.
        calibration: for int8, the images from which it takes its scales, uint8 (n, size, size, 3).

    Raises:
        UsageError: no such engine or precision; from the engine: it is not available, or does not support a layer.
        BackboneError: from the engine: it cannot run the network, or disagrees with TensorFlow.
    """
    check_engine(name)
    check_precision(precision)
    if precision != "float32":
        return _low_precision(backbone, name, why, precision, calibration)
    if backbone.graph is not None:
        return _of_onnx_file(backbone, name)
    if backbone.model is None:
        return Choice(_pixels, "", "", "")
    if name != "auto":
        return _named(backbone, name, why)
    if device := gpu():
        return _named(backbone, REFERENCE, f"on the GPU {device}")
    return _remembered(backbone, images, remember=remember)


def check_engine(name: str) -> None:
    """Raise UsageError if there is no such engine."""
    known = ["auto", *ENGINES]
    if name in known:
        return
    if name in GONE:
        raise UsageError(
            f"--engine {name}: {GONE[name]} has replaced this engine; its features can still be used, but to compute "
            "them again, use frozenbench featurize --overwrite"
        )
    raise UsageError(f"--engine {name}: {suggestion(name, known)}")


def check_precision(name: str) -> None:
    """Raise UsageError if there is no such precision."""
    if name not in TOLERANCE:
        raise UsageError(f"--precision {name}: {suggestion(name, list(TOLERANCE))}")


def default_batch_size(image_size: int) -> int:
    """Images per batch: about half a million pixels, where all engines are near their best (measured)."""
    fitting = max(1, 512 * 32**2 // image_size**2)
    power_of_two = 1 << (fitting.bit_length() - 1)
    return max(8, min(256, power_of_two))


def agreement(
    outputs: list[np.ndarray],
    expected: list[np.ndarray],
    name: str,
    layers: tuple[str, ...],
    precision: str = "float32",
) -> float:
    """The largest relative error of a layer, in the Euclidean norm.

    Raises:
        BackboneError: it exceeds `TOLERANCE` or `OPENVINO_TOLERANCE`, or is not a number.
    """
    allowed = (OPENVINO_TOLERANCE if name == OPENVINO else TOLERANCE)[precision]
    errors = relative_errors(outputs, expected)
    for layer, error in zip(layers, errors, strict=True):
        if not error < allowed:
            raise BackboneError(
                f"{name} differs from {REFERENCE} by {error:.1e} at layer {layer}, expected less than {allowed:.0e}"
            )
    return max(errors)


def relative_errors(outputs: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """The relative error of each layer's activation, in the Euclidean norm."""
    errors = []
    for ours, reference in zip(outputs, expected, strict=True):
        norm = max(float(np.linalg.norm(reference)), 1e-30)
        errors.append(float(np.linalg.norm(ours - reference)) / norm)
    return errors


def _remembered(backbone: Backbone, images: np.ndarray, *, remember: bool) -> Choice:
    """The fastest engine, measured once for each network on each machine, unless it is not to be remembered.

    A second measurement on a busy machine could take another engine, and so change the vectors.
    """
    folder = data_root() / "engines"
    identity = [
        "choice",
        [backbone.name, backbone.weights_digest, backbone.layers, backbone.image_size, backbone.preprocess],
        [[name, _installed_version(name)] for name in ENGINES],
        library_versions(["numba"]),  # winograd needs it, but its version is our own
        [platform.machine(), processor_name(), joblib.cpu_count(only_physical_cores=True)],
    ]
    if found := sealed(folder, identity, ".json"):
        _, content = found
        name, why = json.loads(content)
        return _named(backbone, name, why)
    logger.info("timing the engines on this machine, once for this network")
    choice = _fastest(backbone, images)
    if not remember:
        return choice
    with suppress(OSError):  # a choice that cannot be saved is measured again next time
        seal(folder, identity, ".json", json.dumps([choice.name, choice.why]).encode())
    return choice


def _fastest(backbone: Backbone, images: np.ndarray) -> Choice:
    """The first engine that agrees with the reference and is faster, else the reference with all reasons."""
    reference = tensorflow_engine(backbone)
    few = images[:CHECKED_IMAGES]
    expected = reference(few)
    reasons = []
    for name, (make, _) in ENGINES.items():
        if name == REFERENCE:
            continue
        try:
            engine = make(backbone)
            error = agreement(engine(few), expected, name, backbone.layers)
        except FrozenbenchError as problem:
            reasons.append(f"not {name}: {problem}")
            continue
        ratio = _speed_ratio(engine, reference, images)
        measured = f"{name} is {ratio:.2f} times as fast as {REFERENCE} here, relative error {error:.0e}"
        if ratio > 1:  # the first one that is faster: `ENGINES` has the fastest first
            return Choice(engine, name, _version(name), measured)
        reasons.append(measured)
    return Choice(reference, REFERENCE, _version(REFERENCE), "; ".join(reasons))


def _speed_ratio(engine: Engine, reference: Engine, images: np.ndarray) -> float:
    """How many times as fast the engine is as the reference.

    The rounds alternate, and the best of each counts: so a short load on the machine harms neither.
    """
    best = best_reference = np.inf
    for _ in range(ROUNDS):
        best = min(best, _seconds(engine, images))
        best_reference = min(best_reference, _seconds(reference, images))
    return best_reference / best


def _seconds(engine: Engine, images: np.ndarray) -> float:
    began = time.perf_counter()
    engine(images)
    return time.perf_counter() - began


def _named(backbone: Backbone, name: str, why: str) -> Choice:
    make, _ = ENGINES[name]
    return Choice(_on_demand(backbone, name, make), name, _version(name), why)


def _low_precision(backbone: Backbone, name: str, why: str, precision: str, calibration: np.ndarray | None) -> Choice:
    """bfloat16 or int8: our own kernels for networks of the VGG kind, OpenVINO for others."""
    if backbone.model is None:
        what = f"{backbone.name}.onnx" if backbone.graph else backbone.name
        raise UsageError(f"--precision {precision}: {what} is computed in float32 only; leave out the option")
    if name == "auto":
        name = WINOGRAD if is_vgg(backbone.model, backbone.layers) else OPENVINO
    if name not in LOW_PRECISION:
        raise UsageError(f"--precision {precision}: the engine {name} has float32 only; leave out --engine")
    _check_can_compute(name, precision)

    def make(backbone: Backbone) -> Engine:
        return LOW_PRECISION[name](backbone, precision, calibration)

    run = _on_demand(backbone, name, make, precision)
    number = _version(name)
    if name == OPENVINO and precision == "int8":
        number = f"{number} with nncf {version('nncf')}"
    return Choice(run, name, number, why, calibration)


def _check_can_compute(name: str, precision: str) -> None:
    """Raise UsageError if an engine cannot compute in a lower precision on this machine."""
    if name == OPENVINO and precision == "int8":
        if find_spec("nncf") is None:
            raise UsageError(
                f"--precision {precision}: this network needs the package nncf for it; pip install "
                "'frozenbench[int8]', or use --precision bfloat16"
            )
        return
    try:
        if name == WINOGRAD:
            from featurize.winograd.processor import missing_instruction

            missing = missing_instruction(precision)
        else:
            missing = "" if has_bfloat16() else "AVX512_BF16 or AMX"
    except ImportError as error:
        raise _not_available(name, error) from error
    if missing:
        raise UsageError(f"--precision {precision}: this processor has no {missing}; leave out the option, for float32")


def _on_demand(backbone: Backbone, name: str, make: Callable[[Backbone], Engine], precision: str = "float32") -> Engine:
    """An engine that is made, and compared with TensorFlow, when the first images arrive."""
    made: list[Engine] = []

    def run(images: np.ndarray) -> list[np.ndarray]:
        if not made:
            few = images[:CHECKED_IMAGES]
            try:
                engine = make(backbone)
                if name != REFERENCE:
                    agreement(engine(few), tensorflow_engine(backbone)(few), name, backbone.layers, precision)
            except FrozenbenchError as error:
                other = f"--engine {REFERENCE}" if precision == "float32" else "--precision float32"
                raise type(error)(f"{error}; use {other}") from error
            made.append(engine)
        return made[0](images)

    return run


def _installed_version(name: str) -> str:
    """The version of an engine; empty if it is not installed."""
    with suppress(PackageNotFoundError):
        _, version_of = ENGINES[name]
        return version_of()
    return ""


def _version(name: str) -> str:
    _, version_of = ENGINES[name]
    try:
        return version_of()
    except PackageNotFoundError as error:
        raise UsageError(f"the engine {name} is not available: {error}; use --engine tensorflow") from error


def _pixels(images: np.ndarray) -> list[np.ndarray]:
    return [images.astype(np.float32)]
