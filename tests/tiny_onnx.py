"""Tiny networks in ONNX files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 5


def weights(*shape: int, name: str, seed: int = 0) -> onnx.TensorProto:
    """Random float32 weights."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def tiny_model(
    *, channels_first: bool = True, batch: int | str = "n", size: int | str = "s", nodes: Sequence[onnx.NodeProto] = ()
) -> onnx.ModelProto:
    """A network with a map, tokens and a vector: outputs `features` (n, 5) and `tokens` (n, h * w, 5).

    Args:
        channels_first: whether it takes (n, 3, h, w), else (n, h, w, 3).
        batch: the number of images, or a name for any.
        size: height and width, or a name for any.
        nodes: more nodes at the end.
    """
    shape = [batch, 3, size, size] if channels_first else [batch, size, size, 3]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    first = [helper.make_node("Identity", ["images"], ["nchw"], name="enter")]
    if not channels_first:
        first = [helper.make_node("Transpose", ["images"], ["nchw"], name="enter", perm=[0, 3, 1, 2])]
    middle = [
        helper.make_node("Conv", ["nchw", "kernel"], ["map"], name="conv", strides=[2, 2]),
        helper.make_node("Relu", ["map"], ["positive"], name="relu"),
        helper.make_node("Transpose", ["positive"], ["nhwc"], name="turn", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["nhwc", "token_shape"], ["tokens"], name="flatten"),
        helper.make_node("ReduceMean", ["tokens"], ["features"], name="mean", axes=[1], keepdims=0),
        helper.make_node("Shape", ["images"], ["counts"], name="shape"),
    ]
    outputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, WIDTH]),
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [None, None, WIDTH]),
    ]
    constants = [
        weights(WIDTH, 3, 2, 2, name="kernel"),
        numpy_helper.from_array(np.array([0, -1, WIDTH], np.int64), "token_shape"),
    ]
    graph = helper.make_graph([*first, *middle, *nodes], "tiny", [images], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def save_tiny(path: Path, **choices: object) -> Path:
    """Save `tiny_model`; returns the path."""
    onnx.save(tiny_model(**choices), path)  # type: ignore[arg-type]
    return path


def expected_tokens(images: np.ndarray) -> np.ndarray:
    """The tokens of prepared images (n, h, w, 3), computed with numpy: (n, tokens, 5)."""
    kernel = numpy_helper.to_array(weights(WIDTH, 3, 2, 2, name="kernel"))  # (5, 3, 2, 2)
    count, height, width, _ = images.shape
    patches = images.reshape(count, height // 2, 2, width // 2, 2, 3)
    maps = np.einsum("nhawbc,kcab->nhwk", patches, kernel)
    return np.maximum(maps, 0).reshape(count, -1, WIDTH)
