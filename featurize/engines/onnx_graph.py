"""A Keras network written as an ONNX graph, for engines that are not TensorFlow.

The nodes come from the layers' configuration and weights (https://onnx.ai/onnx/operators/), not from
Keras' own export, which turns some constants into inputs. ONNX stores images as (n, c, h, w), Keras as
(n, h, w, c). The graph uses the former throughout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from featurize.engines.keras_graph import calls, image_source, unsupported

INPUT = "images"
OPSET = 15
WRITER_VERSION = 1  # networks converted by another version are not used


def to_onnx(model: Any, layers: Sequence[str]) -> onnx.ModelProto:
    """The network from its input to the outputs of `layers`.

    Args:
        model: a functional Keras model with one input, preprocessed images (n, h, w, 3).
        layers: names of the tapped layers, in the order of the model's outputs.

    Returns:
        A model with the input `images`, float32 (n, 3, h, w), and an output by each layer's name,
        float32 (n, c, h, w) or (n, c).

    Raises:
        UsageError: a layer that is not supported; the message names it.
    """
    graph = _Graph()
    tensors = {image_source(model): INPUT}
    for call in calls(model):
        if call.kind not in WRITERS:
            raise unsupported(call.layer, f"layers of the kind {call.kind} are not")
        graph.names = ("/".join(map(str, (*call.output, number))) for number in count())
        inputs = [(tensors[source], shape) for source, shape in call.inputs]
        tensors[call.output] = WRITERS[call.kind](graph, call.layer, *inputs)
    for name in layers:
        graph.add("Identity", tensors[name, 0], output=name)
    images = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 3, "h", "w"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(output.shape))
        for name, output in zip(layers, model.outputs, strict=True)
    ]
    body = helper.make_graph(graph.nodes, model.name, [images], outputs, graph.constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


Tensor = tuple[str, list[Any]]
"""The name of a tensor in the graph, and its shape in Keras: (n, h, w, c) or (n, c)."""


@dataclass
class _Graph:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    names: Any = None

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        output = output or next(self.names)
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Add a constant; returns its name."""
        name = next(self.names)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def activated(self, layer: Any, tensor: str) -> str:
        """Add the activation of a layer that has one."""
        name = layer.activation.__name__
        if name == "linear":
            return tensor
        if name == "relu":
            return self.add("Relu", tensor)
        if name == "relu6":
            return self.add("Clip", tensor, self.constant(0), self.constant(6))
        raise unsupported(layer, f"the activation {name} is not")


def _identity(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return tensor[0]


def _convolution(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    kernel = layer.weights[0].numpy()  # (h, w, inputs per group, outputs); depthwise: (h, w, inputs, multiplier)
    if type(layer).__name__ == "DepthwiseConv2D":
        groups = kernel.shape[2]
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)  # output i * multiplier + m belongs to input i
    else:
        groups = layer.groups
    constants = [graph.constant(kernel.transpose(3, 2, 0, 1))]
    if layer.use_bias:
        constants.append(graph.constant(layer.weights[1].numpy()))
    output = graph.add("Conv", tensor[0], *constants, group=groups, dilations=layer.dilation_rate, **_window(layer))
    return graph.activated(layer, output)


def _dense(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    if len(tensor[1]) != 2:
        raise unsupported(layer, "a dense layer on maps is not")
    weights = [graph.constant(weight.numpy()) for weight in layer.weights]
    return graph.activated(layer, graph.add("Gemm", tensor[0], *weights))


def _batch_normalization(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    _check_channels_axis(layer, layer.axis, tensor)
    channels = tensor[1][-1]
    scale = layer.gamma.numpy() if layer.scale else np.ones(channels)
    shift = layer.beta.numpy() if layer.center else np.zeros(channels)
    statistics = (scale, shift, layer.moving_mean.numpy(), layer.moving_variance.numpy())
    constants = [graph.constant(value) for value in statistics]
    return graph.add("BatchNormalization", tensor[0], *constants, epsilon=layer.epsilon)


def _relu(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    if layer.negative_slope or layer.threshold:
        raise unsupported(layer, "a ReLU with a slope or threshold is not")
    if layer.max_value is None:
        return graph.add("Relu", tensor[0])
    return graph.add("Clip", tensor[0], graph.constant(0), graph.constant(layer.max_value))


def _activation(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return graph.activated(layer, tensor[0])


def _max_pooling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return graph.add("MaxPool", tensor[0], **_window(layer))


def _average_pooling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return graph.add("AveragePool", tensor[0], count_include_pad=0, **_window(layer))


def _global_pooling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    operator = "ReduceMax" if "Max" in type(layer).__name__ else "ReduceMean"
    return graph.add(operator, tensor[0], axes=[2, 3], keepdims=int(layer.keepdims))


def _zero_padding(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    (top, bottom), (left, right) = layer.padding
    return graph.add("Pad", tensor[0], graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64))


def _add(graph: _Graph, layer: Any, *tensors: Tensor) -> str:
    if len({tuple(shape) for _, shape in tensors}) > 1:
        raise unsupported(layer, "a sum of maps of different shapes is not")
    output = tensors[0][0]
    for name, _ in tensors[1:]:
        output = graph.add("Add", output, name)
    return output


def _concatenate(graph: _Graph, layer: Any, *tensors: Tensor) -> str:
    _check_channels_axis(layer, layer.axis, tensors[0])
    return graph.add("Concat", *(name for name, _ in tensors), axis=1)


def _rescaling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    shape = (1, -1, 1, 1) if len(tensor[1]) == 4 else (1, -1)
    scale, offset = (np.reshape(value, shape) for value in (layer.scale, layer.offset))
    return graph.add("Add", graph.add("Mul", tensor[0], graph.constant(scale)), graph.constant(offset))


def _flatten(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    last = graph.add("Transpose", tensor[0], perm=[0, 2, 3, 1]) if len(tensor[1]) == 4 else tensor[0]
    return graph.add("Flatten", last, axis=1)


WRITERS: dict[str, Callable[..., str]] = {
    "Activation": _activation,
    "Add": _add,
    "AveragePooling2D": _average_pooling,
    "BatchNormalization": _batch_normalization,
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": _identity,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pooling,
    "GlobalMaxPooling2D": _global_pooling,
    "MaxPooling2D": _max_pooling,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "ZeroPadding2D": _zero_padding,
}


def _window(layer: Any) -> dict[str, Any]:
    """Kernel, strides and padding of a convolution or pooling. TensorFlow's `same` is ONNX's SAME_UPPER."""
    if layer.data_format != "channels_last":
        raise unsupported(layer, f"the data format {layer.data_format} is not")
    size = getattr(layer, "pool_size", None) or layer.kernel_size
    return {
        "kernel_shape": size,
        "strides": layer.strides,
        "auto_pad": "SAME_UPPER" if layer.padding == "same" else "VALID",
    }


def _check_channels_axis(layer: Any, axis: int, tensor: Tensor) -> None:
    if axis not in (-1, len(tensor[1]) - 1):
        raise unsupported(layer, f"the axis {axis} is not")
