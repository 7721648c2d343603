"""MNN (https://github.com/alibaba/MNN) as an engine, on CPUs.

MNN's compiled converter reads the network as an ONNX graph. A graph built with `MNN.expr` would keep its weights
outside of the convolutions, which then run three times slower. The converter runs in a child process, because it
prints and may crash. Do not use `MNN.tools` or the program `mnnconvert`: they install a package and send usage logs.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np

from featurize.core.environment import silenced
from featurize.core.errors import BackboneError
from featurize.core.files import data_root, seal, sealed
from featurize.engines.onnx_graph import INPUT, WRITER_VERSION, to_onnx
from featurize.engines.tensorflow import Engine
from featurize.networks import Backbone, preprocessed

with silenced(1):  # MNN prints the features of the processor
    import MNN

CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
CONVERT_SECONDS = 600.0
WINOGRAD_HINT = 3  # HintMode.WINOGRAD_MEMORY_LEVEL in MNN's header files
# Level 3, the default, allows tiles larger than 2 x 2 outputs, which are faster but less exact
# (ConvolutionPackWinograd::bestWinogradUnit in MNN's source code).
WINOGRAD_LEVEL = 2


def mnn_engine(backbone: Backbone) -> Engine:
    """MNN on all physical cores, in float32.

    Raises:
        UsageError: a layer cannot be written as ONNX.
        BackboneError: MNN's converter rejects the network.
    """
    path = network_file(backbone)
    settings = {
        "backend": MNN.expr.Backend.CPU,
        "precision": "high",
        "numThread": joblib.cpu_count(only_physical_cores=True),
    }
    with silenced(1):
        runtime = MNN.nn.create_runtime_manager((settings,))
        runtime.set_hint(WINOGRAD_HINT, WINOGRAD_LEVEL)
        network = MNN.nn.load_module_from_file(str(path), [INPUT], list(backbone.layers), runtime_manager=runtime)

    def run(images: np.ndarray) -> list[np.ndarray]:
        batch = preprocessed(images.astype(np.float32), backbone.preprocess)
        channels_first = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))  # (n, 3, h, w)
        variable = MNN.expr.placeholder(list(channels_first.shape), MNN.expr.NCHW)
        variable.write(channels_first)
        activations = []
        for output in network.onForward([variable]):
            values = MNN.expr.convert(output, MNN.expr.NCHW).read()
            # A copy, because `values` is MNN's own memory, which the next batch overwrites.
            activations.append(np.moveaxis(values, 1, -1).copy())
        return activations

    return run


def network_file(backbone: Backbone) -> Path:
    """The network in MNN's own format: a file in the data folder, converted on the first call.

    The file is sealed, because MNN does not check what it reads.

    Raises:
        UsageError: a layer cannot be written as ONNX.
        BackboneError: MNN's converter rejects the network, or there is neither a file nor a loaded model.
    """
    folder = data_root() / "engines"
    identity = [
        backbone.name,
        backbone.weights_digest,
        backbone.layers,
        WRITER_VERSION,
        version("keras"),
        version("MNN"),
    ]
    if found := sealed(folder, identity, ".mnn"):
        path, _ = found
        return path
    if backbone.model is None:
        raise BackboneError(f"{folder} holds no {backbone.name} in MNN's format, and the network is not loaded")
    return seal(folder, identity, ".mnn", _convert(backbone))


def _convert(backbone: Backbone) -> bytes:
    """The network in MNN's format, converted by a child process."""
    graph = to_onnx(backbone.model, backbone.layers).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "network.onnx"
        target = Path(folder) / "network.mnn"
        source.write_bytes(graph)
        arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", "frozenbench"]
        command = [sys.executable, "-P", "-c", CONVERT, *arguments]  # -P: import nothing from the working directory
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CONVERT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BackboneError(f"MNN's converter did not finish within {CONVERT_SECONDS:.0f} s") from error
        if done.returncode or not target.exists():
            output = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
            raise BackboneError(f"MNN's converter rejects {backbone.name}: {output[-1][:200]}")
        return target.read_bytes()
