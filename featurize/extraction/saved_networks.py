"""Networks saved in the form that an engine runs, so that predictions start without TensorFlow.

A file in `data/engines` holds what the engine needs, a few images, and TensorFlow's vectors of them. An engine
is used only if it reproduces these. The file's name is a digest of everything that determines the numbers, the
weights above all, and the SHA-256 of the content.
"""

import io
import json
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from featurize.cache import ExtractionSpec
from featurize.core.files import data_root, seal, sealed
from featurize.engines import REFERENCE, Choice, Engine, agreement, tensorflow_engine
from featurize.extraction.extractor import Extractor
from featurize.images import resized
from featurize.networks import Backbone

logger = logging.getLogger("frozenbench")
FORMAT = 1  # files of another format are not used
TEST_IMAGES = 2
Arrays = Mapping[str, np.ndarray]
ToArrays = Callable[[Extractor], dict[str, np.ndarray]]
FromArrays = Callable[[Backbone, ExtractionSpec, Arrays], Engine]


def saved_extractor(spec: ExtractionSpec) -> Extractor | None:
    """The extractor that `save_extractor` saved for a specification; no framework is loaded.

    Returns:
        None if nothing was saved, or if the engine does not work on this machine.
    """
    if spec.engine not in FORMS:
        return None
    found = sealed(data_root() / "engines", _identity(spec), ".npz")
    if found is None:
        return None
    path, content = found
    backbone = Backbone(spec.backbone, "", spec.weights_digest, spec.layers, spec.image_size, spec.preprocess)
    _, make_engine = FORMS[spec.engine]
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            engine = make_engine(backbone, spec, arrays)
            expected = [arrays[f"expected_{index}"] for index in range(len(spec.layers))]
            agreement(engine(arrays["images"]), expected, spec.engine, spec.layers, spec.precision)
    except Exception as error:  # packages, processor or content: whatever fails, Keras takes over
        logger.warning("%s cannot be used here (%s: %s)", path, type(error).__name__, error)
        return None
    return Extractor(backbone, Choice(engine, spec.engine, spec.engine_version, "as saved"), spec)


def save_extractor(extractor: Extractor) -> None:
    """Save the network of an extractor in its engine's form, unless it has been saved, or the engine needs TensorFlow.

    A network that cannot be saved is a warning: nothing else depends on it.
    """
    spec = extractor.spec
    backbone = extractor.backbone
    if extractor.engine.name != spec.engine or spec.engine not in FORMS or backbone.model is None:
        return
    if sealed(data_root() / "engines", _identity(spec), ".npz"):
        return
    to_arrays, _ = FORMS[spec.engine]
    coarse = np.random.default_rng(0).integers(0, 256, (TEST_IMAGES, 4, 4, 3), np.uint8)
    images = resized(coarse, spec.image_size, "bicubic")  # smooth, like photographs
    if extractor.engine.calibration is not None:
        images = extractor.engine.calibration[:TEST_IMAGES]  # the scales are for images like these
    arrays = dict(to_arrays(extractor))
    for index, activation in enumerate(tensorflow_engine(backbone)(images)):
        arrays[f"expected_{index}"] = activation
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, images=images, **arrays)
    try:
        seal(data_root() / "engines", _identity(spec), ".npz", content.getvalue())
    except OSError as error:
        logger.warning("the network could not be saved for next time: %s", error)


def _identity(spec: ExtractionSpec) -> list[Any]:
    """Everything that determines the content of a file."""
    return [
        spec.weights_digest,
        spec.backbone,
        spec.layers,
        spec.image_size,
        spec.preprocess,
        spec.engine,
        spec.engine_version,
        spec.precision,
        spec.calibration,
        version(REFERENCE),
        version("keras"),
        FORMAT,
    ]


def _chain_to_arrays(extractor: Extractor) -> dict[str, np.ndarray]:
    """The stages of a Winograd network as arrays: kernels, biases, scales of int8, and the rest as JSON."""
    from featurize.winograd.network import calibrated
    from featurize.winograd.stages import stages

    backbone, calibration = extractor.backbone, extractor.engine.calibration
    chain = stages(backbone.model, backbone.layers)
    if calibration is not None:
        chain = calibrated(chain, backbone, calibration)
    description = [(stage.name, stage.relu, stage.pool) for stage in chain]
    arrays = {"chain": np.array(json.dumps(description))}
    for index, stage in enumerate(chain):
        if stage.kernel is not None and stage.bias is not None:
            arrays[f"kernel_{index}"] = stage.kernel
            arrays[f"bias_{index}"] = stage.bias
        if stage.scales is not None:
            arrays[f"scales_{index}"] = stage.scales
    return arrays


def _chain_from_arrays(backbone: Backbone, spec: ExtractionSpec, arrays: Arrays) -> Engine:
    from featurize.winograd.network import chain_engine
    from featurize.winograd.stages import Stage

    chain = []
    for index, (name, relu, pool) in enumerate(json.loads(str(arrays["chain"]))):
        kernel, bias, scales = (arrays.get(f"{kind}_{index}") for kind in ("kernel", "bias", "scales"))
        chain.append(Stage(name, kernel, bias, relu, pool, scales))
    return chain_engine(chain, backbone, spec.precision)


def _no_arrays(_: Extractor) -> dict[str, np.ndarray]:
    """OpenVINO's engine keeps its network in files of its own."""
    return {}


def _openvino_from_files(backbone: Backbone, spec: ExtractionSpec, _: Arrays) -> Engine:
    from featurize.engines.openvino import openvino_engine

    return openvino_engine(backbone, spec.precision, digest=spec.calibration)


FORMS: dict[str, tuple[ToArrays, FromArrays]] = {
    "winograd": (_chain_to_arrays, _chain_from_arrays),
    "openvino": (_no_arrays, _openvino_from_files),
}
"""Engine -> what turns its network into arrays, and what makes the engine from them."""
