"""A first run of an ONNX file, in a process of its own: `python -m featurize.runtimes.trial FOLDER`.

The folder holds `network.onnx` and `images.npy`. Prints one JSON object: the shape and the type of each output, and how
far the outputs of OpenVINO are from those of ONNX Runtime, relatively; null if ONNX Runtime is not installed.
"""

import json
import sys
from pathlib import Path

import numpy as np

from featurize.runtimes.onnx_files import onnx_runtime_outputs, openvino_network
from featurize.runtimes.openvino import reason


def main(folder: Path) -> None:
    """Run the network in both libraries; on failure the last line on standard error says why."""
    images = np.load(folder / "images.npy", allow_pickle=False)
    content = (folder / "network.onnx").read_bytes()
    try:
        outputs = openvino_network(content, images.shape[1:])(images)
    except Exception as error:  # a network that cannot be run raises anything
        sys.exit(f"OpenVINO: {reason(error)}")
    answer = {"shapes": [output.shape for output in outputs], "types": [str(output.dtype) for output in outputs]}
    try:
        expected = onnx_runtime_outputs(content, images)
    except ImportError:
        expected = None
    except Exception as error:
        sys.exit(f"ONNX Runtime: {reason(error)}")
    answer["errors"] = None
    if expected is not None:
        answer["errors"] = [_error(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True)]
    print(json.dumps(answer))


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The relative error in the Euclidean norm; infinite for other shapes or values that are not finite."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    norm = max(float(np.linalg.norm(theirs.astype(np.float64))), 1e-30)
    return float(np.linalg.norm(ours.astype(np.float64) - theirs)) / norm


if __name__ == "__main__":
    main(Path(sys.argv[1]))
