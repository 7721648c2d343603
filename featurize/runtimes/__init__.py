"""What runs ONNX files: OpenVINO, checked against ONNX Runtime.

`onnx_files` makes the engine, `trial` is the first run of a network, in a process of its own.

May import: networks, core.
"""

from featurize.runtimes.onnx_files import onnx_engine

__all__ = ["onnx_engine"]
