"""Networks kept in the form that an engine runs, so that `predict` need not wait for TensorFlow.

A file in `data/engines` holds what the engine needs, a few images, and what TensorFlow made of them: before the
engine is used, it has to agree with that. The name stands for all that determines the numbers, the digest of the
weights first, and ends in the SHA-256 of the content.
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
from featurize.extraction.extract import Extractor
from featurize.images import resized
from featurize.networks import Backbone

logger = logging.getLogger("frozenbench")
FORMAT = 1  # a change makes kept networks anew
IMAGES = 2
Arrays = Mapping[str, np.ndarray]


def kept_extractor(spec: ExtractionSpec) -> Extractor | None:
    """The extractor of a specification, from what `keep_extractor` kept; no framework is loaded.

    Returns:
        None where nothing was kept, or where it does not work here.
    """
    if spec.engine not in FORMS or not (found := sealed(data_root() / "engines", _made_of(spec), ".npz")):
        return None
    path, content = found
    backbone = Backbone(spec.backbone, "", spec.weights_digest, spec.layers, spec.image_size, spec.preprocess)
    _, make = FORMS[spec.engine]
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            run = make(backbone, arrays)
            expected = [arrays[f"expected_{place}"] for place in range(len(spec.layers))]
            agreement(run(arrays["images"]), expected, spec.engine, spec.layers)
    except Exception as error:  # packages, processor or content: whatever it is, Keras takes its place
        logger.warning("%s cannot be used here (%s: %s)", path, type(error).__name__, error)
        return None
    return Extractor(backbone, Choice(run, spec.engine, spec.engine_version, "as it was kept"), spec)


def keep_extractor(extractor: Extractor) -> None:
    """Keep the network of an extractor, in the form that its engine runs, unless that needs a framework anyway.

    Raises:
        OSError: the data folder cannot be written to, or the disk is full.
    """
    spec, backbone = extractor.spec, extractor.backbone
    if extractor.engine.name not in FORMS:
        return
    arrays_of, _ = FORMS[spec.engine]
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 4, 3), np.uint8)
    images = resized(coarse, spec.image_size, "bicubic")  # smooth, as pictures are
    expected = {f"expected_{place}": each for place, each in enumerate(tensorflow_engine(backbone)(images))}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, images=images, **expected, **arrays_of(backbone))
    seal(data_root() / "engines", _made_of(spec), ".npz", content.getvalue())


def _made_of(spec: ExtractionSpec) -> list[Any]:
    return [
        spec.weights_digest,
        spec.backbone,
        spec.layers,
        spec.image_size,
        spec.preprocess,
        spec.engine,
        spec.engine_version,
        version(REFERENCE),
        version("keras"),
        FORMAT,
    ]


def _arrays_of_chain(backbone: Backbone) -> dict[str, np.ndarray]:
    """A chain of passes as arrays: kernels, biases, and the rest as JSON."""
    from featurize.engines.winograd.network import stages

    chain = stages(backbone.model, backbone.layers)
    arrays = {"chain": np.array(json.dumps([(stage.name, stage.relu, stage.pool) for stage in chain]))}
    for place, stage in enumerate(chain):
        if stage.kernel is not None and stage.bias is not None:
            arrays |= {f"kernel_{place}": stage.kernel, f"bias_{place}": stage.bias}
    return arrays


def _engine_of_chain(backbone: Backbone, arrays: Arrays) -> Engine:
    from featurize.engines.winograd.network import Stage, chain_engine

    chain = [
        Stage(name, arrays.get(f"kernel_{place}"), arrays.get(f"bias_{place}"), relu, pool)
        for place, (name, relu, pool) in enumerate(json.loads(str(arrays["chain"])))
    ]
    return chain_engine(chain, backbone)


def _mnn_of_file(backbone: Backbone, _: Arrays) -> Engine:
    from featurize.engines.mnn import mnn_engine

    return mnn_engine(backbone)


FORMS: dict[str, tuple[Callable[[Backbone], dict[str, np.ndarray]], Callable[[Backbone, Arrays], Engine]]] = {
    "winograd": (_arrays_of_chain, _engine_of_chain),
    "mnn": (lambda _: {}, _mnn_of_file),  # has a file of its own
}
"""Engine -> what turns its network into arrays, and what makes it of them."""
