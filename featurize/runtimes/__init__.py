"""OpenVINO, and what runs ONNX files on it, checked against ONNX Runtime.

`openvino` loads the library and compiles networks, `onnx_files` makes the engine of an ONNX file, `trial` is the first
run of such a network, in a process of its own.

May import: networks, core.
"""

from featurize.runtimes.onnx_files import onnx_engine
from featurize.runtimes.openvino import Network, compiled, has_bfloat16, import_openvino, reason

__all__ = ["Network", "compiled", "has_bfloat16", "import_openvino", "onnx_engine", "reason"]
