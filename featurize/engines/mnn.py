"""Runs the network in MNN (https://github.com/alibaba/MNN), on CPUs.

The network reaches MNN as an ONNX graph, through MNN's compiled converter: a graph built with
`MNN.expr` keeps its weights outside of the convolutions, which then run three times slower. The
converter is called in a child process, because it prints, and because a crash of it is then no crash
of ours. `MNN.tools` and the `mnnconvert` program around it are never used: they install a package
and send usage logs.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np

from featurize.core.environment import silenced
from featurize.core.errors import BackboneError
from featurize.core.files import data_root, seal, sealed
from featurize.engines.onnx_graph import INPUT, WRITER_VERSION, to_onnx
from featurize.networks import Backbone, preprocessed

with silenced(1):  # it prints what the processor can do
    import MNN

CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
CONVERT_SECONDS = 600.0
WINOGRAD_HINT, WINOGRAD_LEVEL = 3, 2  # MNN's HintMode.WINOGRAD_MEMORY_LEVEL


def mnn_engine(backbone: Backbone) -> Callable[[np.ndarray], list[np.ndarray]]:
    """MNN on all physical cores, in float32: an `engine.Engine`.

    Raises:
        UsageError: the network has a layer that cannot be written as ONNX.
        BackboneError: MNN's converter does not take the network.
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
        batch = preprocessed(images.astype(np.float32), backbone.preprocess).transpose(0, 3, 1, 2)  # (n, 3, h, w)
        variable = MNN.expr.placeholder(list(batch.shape), MNN.expr.NCHW)
        variable.write(np.ascontiguousarray(batch))
        outputs = [MNN.expr.convert(output, MNN.expr.NCHW).read() for output in network.onForward([variable])]
        # The arrays are windows on MNN's memory, which the next batch overwrites.
        return [np.moveaxis(output, 1, -1).copy() for output in outputs]

    return run


def network_file(backbone: Backbone) -> Path:
    """The network in MNN's own format, converted unless it was before; MNN does not check what it reads.

    Raises:
        UsageError: the network has a layer that cannot be written as ONNX.
        BackboneError: MNN's converter does not take the network, or it is not loaded and was not converted before.
    """
    folder = data_root() / "engines"
    made_of = [
        backbone.name,
        backbone.weights_digest,
        backbone.layers,
        WRITER_VERSION,
        version("keras"),
        version("MNN"),
    ]
    if found := sealed(folder, made_of, ".mnn"):
        return found[0]
    if backbone.model is None:
        raise BackboneError(f"{backbone.name} is not in {folder}, converted for MNN")
    return seal(folder, made_of, ".mnn", _converted(backbone))


def _converted(backbone: Backbone) -> bytes:
    graph = to_onnx(backbone.model, backbone.layers).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "network.onnx", Path(folder) / "network.mnn"
        source.write_bytes(graph)
        arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", "frozenbench"]
        command = [sys.executable, "-P", "-c", CONVERT, *arguments]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CONVERT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BackboneError(f"MNN's converter did not end within {CONVERT_SECONDS:.0f} s") from error
        if done.returncode or not target.exists():
            said = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
            raise BackboneError(f"MNN's converter does not take {backbone.name}: {said[-1][:200]}")
        return target.read_bytes()
