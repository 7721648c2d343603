"""ONNX files as an engine: run by OpenVINO, and checked against ONNX Runtime, the reference for them.

Both libraries are C++ code that damaged files can crash. So the first run of a network is in a child process, with
limits of time and memory, and its result is remembered.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.child import run_child
from featurize.core.environment import library_versions, processor_name
from featurize.core.errors import BackboneError, UsageError
from featurize.core.files import data_root, seal, sealed
from featurize.networks import Backbone, preprocessed
from featurize.runtimes.openvino import Network, compiled, import_openvino

logger = logging.getLogger("frozenbench")
TOLERANCE = 1e-4  # largest relative error of an output, in the Euclidean norm
TRIAL_SECONDS = 300.0
TRIAL_MEMORY = 16 << 30  # bytes of address space, and `TRIAL_COPIES` times the network
TRIAL_COPIES = 8
TRIAL_IMAGES = 2
TRIAL = "featurize.runtimes.trial"
Run = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 (n, size, size, 3) RGB -> one float32 activation for each tapped layer, as `engines.Engine`."""


def openvino_network(content: bytes, image_shape: tuple[int, ...]) -> Network:
    """Compile a network for images of a shape, in float32."""
    openvino = import_openvino()
    model = openvino.Core().read_model(content)
    batch = model.inputs[0].get_partial_shape()[0]
    model.reshape(openvino.PartialShape([batch, *image_shape]))
    return compiled(model)


def onnx_runtime_outputs(content: bytes, images: np.ndarray) -> list[np.ndarray]:
    """The outputs of a network in ONNX Runtime.

    Raises:
        ImportError: it is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: images}))


def onnx_engine(backbone: Backbone) -> tuple[Run, str]:
    """The engine of an ONNX file, and what is known about its numbers.

    Raises:
        UsageError: OpenVINO is not installed, or an output cannot be pooled.
        BackboneError: the network cannot be run, or OpenVINO and ONNX Runtime disagree.
    """
    assert backbone.graph is not None
    try:
        import_openvino()
    except ImportError as error:
        raise UsageError(
            f"{backbone.name}.onnx needs OpenVINO, which is not available: {error}; pip install 'frozenbench[onnx]'"
        ) from error
    graph = backbone.graph
    answer = _trial(backbone)
    for layer, shape, kind in zip(backbone.layers, answer["shapes"], answer["types"], strict=True):
        if len(shape) not in (2, 3, 4) or kind not in ("float32", "float16") or math.prod(shape[1:]) == 0:
            shown = " x ".join(map(str, shape[1:])) or "nothing"
            raise UsageError(
                f"--layers {layer}: it gives {shown} of type {kind} for an image; expected a vector, tokens x channels "
                "or a map of floating-point numbers"
            )
    images = graph.images
    made: list[Network] = []

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        prepared = _prepared(backbone, pixels)
        if not made:
            made.append(openvino_network(graph.content, prepared.shape[1:]))
        parts = []
        step = images.batch or len(prepared)
        for start in range(0, len(prepared), step):
            some = prepared[start : start + step]
            missing = step - len(some)
            if missing:  # the network takes this number of images, and no other
                some = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            parts.append([output[: step - missing] for output in made[0](some)])
        outputs = [np.concatenate(values) for values in zip(*parts, strict=True)]
        return [_channels_last(output.astype(np.float32), channels_first=images.channels_first) for output in outputs]

    return run, _verdict(backbone, answer["errors"])


def _prepared(backbone: Backbone, pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, size, size, 3) -> what the network takes."""
    assert backbone.graph is not None
    values = preprocessed(pixels.astype(np.float32), backbone.preprocess)
    if backbone.graph.images.channels_first:
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, backbone.graph.images.dtype)


def _channels_last(output: np.ndarray, *, channels_first: bool) -> np.ndarray:
    """A map as (n, h, w, c); vectors and tokens stay as they are."""
    if has_channels_first(output.shape, channels_first=channels_first):
        return np.moveaxis(output, 1, -1)
    return output


def has_channels_first(shape: tuple[int, ...], *, channels_first: bool) -> bool:
    """Whether an output is a map (n, c, h, w); vectors and tokens are none.

    Maps of square images are square, which tells the channels from height and width. If all three are equal, the layout
    of the images decides.
    """
    if len(shape) != 4:
        return False
    _, first, second, third = shape
    if first == second and second != third:
        return False
    if second == third and first != second:
        return True
    return channels_first


def _verdict(backbone: Backbone, errors: list[float] | None) -> str:
    """What the comparison with ONNX Runtime says.

    Raises:
        BackboneError: the outputs differ.
    """
    if errors is None:
        logger.warning("%s.onnx is not checked against ONNX Runtime: pip install onnxruntime", backbone.name)
        return "not checked, as ONNX Runtime is not installed"
    for layer, error in zip(backbone.layers, errors, strict=True):
        if not error < TOLERANCE:
            raise BackboneError(
                f"{backbone.name}.onnx: OpenVINO differs from ONNX Runtime by {error:.1e} at {layer}, expected less "
                f"than {TOLERANCE:.0e}; export the file with another opset, or tap other --layers"
            )
    return f"agrees with ONNX Runtime {version('onnxruntime')}, relative error {max(errors):.0e}"


def _trial(backbone: Backbone) -> dict[str, Any]:
    """The result of the first run of a network, from the data folder if this machine has run it before."""
    assert backbone.graph is not None
    folder = data_root() / "engines"
    identity = [
        "onnx trial",
        [backbone.name, backbone.weights_digest, backbone.layers, backbone.image_size, backbone.preprocess],
        library_versions(["openvino", "onnxruntime"]),
        processor_name(),
    ]
    if found := sealed(folder, identity, ".json"):
        return dict(json.loads(found[1]))
    size = backbone.image_size
    count = backbone.graph.images.batch or TRIAL_IMAGES
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        (temporary / "network.onnx").write_bytes(backbone.graph.content)
        np.save(temporary / "images.npy", _prepared(backbone, pixels))
        memory = TRIAL_MEMORY + TRIAL_COPIES * len(backbone.graph.content)
        what = f"{backbone.name}.onnx"
        printed = run_child(TRIAL, temporary, what, seconds=TRIAL_SECONDS, memory=memory)
    answer = json.loads(printed.splitlines()[-1])
    with suppress(OSError):  # a result that cannot be saved is found again next time
        seal(folder, identity, ".json", json.dumps(answer).encode())
    return dict(answer)
