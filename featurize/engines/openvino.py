"""OpenVINO as an engine for Keras networks, on CPUs.

TensorFlow writes the network, with its preprocessing, as a graph whose weights are constants. `Core.read_model` reads
it. OpenVINO's own form of a network, a graph in XML and its weights, is kept in the data folder. It holds no code.
"""

import io
import logging
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.environment import library_versions
from featurize.core.errors import BackboneError, UsageError
from featurize.core.files import data_root, seal, sealed
from featurize.engines.tensorflow import Engine, frozen_graph
from featurize.networks import Backbone
from featurize.runtimes import compiled, has_bfloat16, import_openvino, reason
from featurize.winograd.calibration import calibration_digest

FORMAT = 1  # raise it when graphs change: networks that were kept before are then converted again
SUFFIX = ".openvino.npz"


def openvino_engine(
    backbone: Backbone, precision: str = "float32", images: np.ndarray | None = None, digest: str = ""
) -> Engine:
    """OpenVINO on all physical cores.

    Args:
        backbone: a Keras network. If it has been kept, its model may be missing.
        precision: of the products: float32, bfloat16 or int8.
        images: uint8 (n, size, size, 3), some of the user's images, from which int8 takes its scales.
        digest: of these images, if the network has been kept and they are at hand no more.

    Raises:
        ImportError: OpenVINO is not installed, or NNCF, which int8 needs.
        UsageError: the processor has no bfloat16, or int8 has no images.
        BackboneError: the libraries cannot use the network, or there is neither a kept network nor a model.
    """
    if precision == "bfloat16" and not has_bfloat16():
        raise UsageError("this processor has no instructions for bfloat16")
    if precision != "int8":
        return compiled(_kept(backbone, "", _converted), precision)
    if images is None and not digest:
        raise UsageError("precision int8: no images to take the scales from; pass images")
    if images is not None:
        digest = calibration_digest(images)
    return compiled(_kept(backbone, digest, lambda network: _quantized(network, images)), precision)


def _kept(backbone: Backbone, digest: str, make: Callable[[Backbone], Any]) -> Any:
    """The network as an `openvino.Model`: uint8 (n, size, size, 3) -> one float32 output for each tapped layer.

    It is made on the first call, and then read from the data folder.
    """
    openvino = import_openvino()
    folder = data_root() / "engines"
    identity = [
        "openvino",
        [backbone.name, backbone.weights_digest, backbone.layers, backbone.image_size, backbone.preprocess],
        library_versions(["keras", "openvino", "tensorflow"]),
        digest,
        FORMAT,
    ]
    if found := sealed(folder, identity, SUFFIX):
        _, content = found
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return openvino.Core().read_model(arrays["graph"].tobytes(), arrays["weights"].tobytes())
    if backbone.model is None:
        raise BackboneError(f"{folder} holds no {backbone.name} in OpenVINO's format, and the network is not loaded")
    model = make(backbone)
    with suppress(OSError):  # a network that cannot be kept is made again next time
        seal(folder, identity, SUFFIX, _packed(model))
    return model


def _converted(backbone: Backbone) -> Any:
    """A Keras network as an `openvino.Model`.

    Raises:
        BackboneError: OpenVINO cannot read it.
    """
    openvino = import_openvino()
    graph, names = frozen_graph(backbone)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pb"
        file.write_bytes(graph)
        try:
            model = openvino.Core().read_model(file)
        except RuntimeError as error:
            raise BackboneError(f"OpenVINO cannot read {backbone.name}: {reason(error)}") from error
    outputs = [model.output(name).get_node() for name in names]  # its own order need not be that of the layers
    return openvino.Model(outputs, model.get_parameters(), backbone.name)


def _quantized(backbone: Backbone, images: np.ndarray | None) -> Any:
    """The network with products in int8, quantised by NNCF (https://github.com/openvinotoolkit/nncf).

    Its post-training quantisation takes ranges from the activations of the images, and corrects biases.

    Raises:
        ImportError: NNCF is not installed.
        BackboneError: it cannot quantise the network.
    """
    assert images is not None  # `_kept` has found none, and there is a model, so this is no prediction
    model = _kept(backbone, "", _converted)
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function would change others' handlers
    samples = nncf.Dataset([images[row : row + 1] for row in range(len(images))])
    with redirect_stdout(io.StringIO()):  # it draws bars
        try:
            return nncf.quantize(model, samples, subset_size=len(images))
        except Exception as error:  # NNCF and OpenVINO raise anything
            raise BackboneError(f"NNCF cannot quantise {backbone.name}: {reason(error)}") from error


def _packed(model: Any) -> bytes:
    """The graph and the weights of a network in one `.npz` file."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        files = {"graph": Path(folder) / "network.xml", "weights": Path(folder) / "network.bin"}
        import_openvino().serialize(model, *files.values())
        np.savez(content, allow_pickle=False, **{name: np.fromfile(file, np.uint8) for name, file in files.items()})
    return content.getvalue()
