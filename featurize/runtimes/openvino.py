"""OpenVINO (https://docs.openvino.ai): how it is loaded, and how it compiles a network for this processor.

Its Python package reports to its makers that it was imported, and what its converter (`convert_model`) does. Here the
module that sends these reports is never loaded, and networks are read by `Core.read_model`, which sends nothing.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import joblib
import numpy as np

from featurize.core.errors import first_line

Network = Callable[[np.ndarray], list[np.ndarray]]
"""Prepared images (n, ...) -> the outputs of the graph."""
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Precision -> OpenVINO's name of it. A network in int8 is quantised already; this is for the rest of its layers."""

PLACES = (
    "Exception from",
    "Check '",
    "While ",
    "FrontEnd API failed",
    "Model wasn't fully converted",
    "-- ",
    "[ERROR]",
)
"""The beginnings of lines in OpenVINO's messages that do not say what is wrong."""
NO_RULE = "No conversion rule found"


def import_openvino() -> Any:
    """OpenVINO.

    It brings a copy of TBB that is older than the one that scikit-learn-intelex needs. A process has one TBB, the one
    that is loaded first, and the newer one serves both. So that package is loaded first.

    Raises:
        ImportError: it is not installed.
    """
    with suppress(ImportError):
        import daal4py  # noqa: F401
    # OpenVINO does without this package, which would send a message over the network now and an event for each call.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compiled(model: Any, precision: str = "float32") -> Network:
    """Compile a network, an `openvino.Model` with one input, for all physical cores.

    Without a hint, OpenVINO computes in bfloat16 where the processor can. Threads are not bound to cores, as several
    workers of a cluster may share a machine.

    Args:
        model: the network.
        precision: one of `PRECISIONS`.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": joblib.cpu_count(only_physical_cores=True),
        "ENABLE_CPU_PINNING": False,
    }
    network = import_openvino().Core().compile_model(model, "CPU", settings)
    request = network.create_infer_request()

    def run(images: np.ndarray) -> list[np.ndarray]:
        request.infer([images])
        # Copies, because the next batch overwrites OpenVINO's own memory.
        return [request.get_output_tensor(number).data.copy() for number in range(len(network.outputs))]

    return run


def has_bfloat16() -> bool:
    """Whether this processor multiplies numbers in bfloat16."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def reason(error: Exception) -> str:
    """What a library says, in one line: OpenVINO's messages begin with places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = [line for line in lines if NO_RULE in line]
    said = [line for line in lines if not line.startswith(PLACES)]
    return (unknown or said or [first_line(error)])[0].removeprefix("-- ")
