"""A Keras network written as an ONNX graph, for engines that are not TensorFlow.

The nodes (https://onnx.ai/onnx/operators/) come from the configuration and the weights of the layers. Keras' own
export is no alternative, because it turns some constants into inputs. ONNX stores images as (n, c, h, w), Keras as
(n, h, w, c). The graph uses (n, c, h, w) throughout.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from featurize.networks.keras_graph import Source, calls, image_source, unsupported

INPUT = "images"
OPSET = 15
WRITER_VERSION = 1  # raise it when graphs change: networks that were converted before are then converted again


def to_onnx(model: Any, layers: Sequence[str]) -> onnx.ModelProto:
    """The network from its input to the outputs of `layers`.

    Args:
        model: a functional Keras model with one input, preprocessed images (n, h, w, 3).
        layers: names of the tapped layers, in the order of the model's outputs.

    Returns:
        A model with the input `images`, float32 (n, 3, h, w), and an output named after each layer,
        float32 (n, c, h, w) or (n, c).

    Raises:
        UsageError: a layer is not supported; the message names it.
    """
    graph = _Graph()
    names = {image_source(model): INPUT}
    for call in calls(model):
        if call.kind not in WRITERS:
            raise unsupported(call.layer, f"layers of the kind {call.kind} are not")
        graph.start_call(call.output)
        inputs = [Tensor(names[source], shape) for source, shape in call.inputs]
        names[call.output] = WRITERS[call.kind](graph, call.layer, *inputs)
    images = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 3, "h", "w"])
    outputs = []
    for layer, output in zip(layers, model.outputs, strict=True):
        graph.add("Identity", names[layer, 0], output=layer)
        outputs.append(helper.make_tensor_value_info(layer, TensorProto.FLOAT, [None] * len(output.shape)))
    body = helper.make_graph(graph.nodes, model.name, [images], outputs, graph.constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


class Tensor(NamedTuple):
    """An input of a layer: its name in the graph, and its shape in Keras, (n, h, w, c) or (n, c)."""

    name: str
    shape: list[Any]


@dataclass
class _Graph:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    names: Iterator[str] = field(init=False)

    def start_call(self, call: Source) -> None:
        """Name the tensors that follow after the call of a layer."""
        layer, number = call
        self.names = (f"{layer}/{number}/{index}" for index in count())

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
    return tensor.name


def _convolution(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    kernel = layer.weights[0].numpy()  # (h, w, inputs per group, outputs); depthwise: (h, w, inputs, multiplier)
    if type(layer).__name__ == "DepthwiseConv2D":
        groups = kernel.shape[2]
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)  # input i has the outputs from i * multiplier on
    else:
        groups = layer.groups
    constants = [graph.constant(kernel.transpose(3, 2, 0, 1))]
    if layer.use_bias:
        constants.append(graph.constant(layer.weights[1].numpy()))
    output = graph.add("Conv", tensor.name, *constants, group=groups, dilations=layer.dilation_rate, **_window(layer))
    return graph.activated(layer, output)


def _dense(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    if len(tensor.shape) != 2:
        raise unsupported(layer, "a dense layer on maps is not")
    weights = [graph.constant(weight.numpy()) for weight in layer.weights]
    return graph.activated(layer, graph.add("Gemm", tensor.name, *weights))


def _batch_normalization(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    _check_channels_axis(layer, layer.axis, tensor)
    channels = tensor.shape[-1]
    scale = layer.gamma.numpy() if layer.scale else np.ones(channels)
    shift = layer.beta.numpy() if layer.center else np.zeros(channels)
    statistics = (scale, shift, layer.moving_mean.numpy(), layer.moving_variance.numpy())
    constants = [graph.constant(value) for value in statistics]
    return graph.add("BatchNormalization", tensor.name, *constants, epsilon=layer.epsilon)


def _relu(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    if layer.negative_slope or layer.threshold:
        raise unsupported(layer, "a ReLU with a slope or threshold is not")
    if layer.max_value is None:
        return graph.add("Relu", tensor.name)
    return graph.add("Clip", tensor.name, graph.constant(0), graph.constant(layer.max_value))


def _activation(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return graph.activated(layer, tensor.name)


def _max_pooling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return graph.add("MaxPool", tensor.name, **_window(layer))


def _average_pooling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    return graph.add("AveragePool", tensor.name, count_include_pad=0, **_window(layer))


def _global_pooling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    operator = "ReduceMax" if "Max" in type(layer).__name__ else "ReduceMean"
    return graph.add(operator, tensor.name, axes=[2, 3], keepdims=int(layer.keepdims))


def _zero_padding(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    (top, bottom), (left, right) = layer.padding
    return graph.add("Pad", tensor.name, graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64))


def _add(graph: _Graph, layer: Any, *tensors: Tensor) -> str:
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        raise unsupported(layer, "a sum of maps of different shapes is not")
    total = tensors[0].name
    for tensor in tensors[1:]:
        total = graph.add("Add", total, tensor.name)
    return total


def _concatenate(graph: _Graph, layer: Any, *tensors: Tensor) -> str:
    _check_channels_axis(layer, layer.axis, tensors[0])
    names = [tensor.name for tensor in tensors]
    return graph.add("Concat", *names, axis=1)


def _rescaling(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    shape = (1, -1, 1, 1) if len(tensor.shape) == 4 else (1, -1)
    scaled = graph.add("Mul", tensor.name, graph.constant(np.reshape(layer.scale, shape)))
    return graph.add("Add", scaled, graph.constant(np.reshape(layer.offset, shape)))


def _flatten(graph: _Graph, layer: Any, tensor: Tensor) -> str:
    channels_last = tensor.name
    if len(tensor.shape) == 4:
        channels_last = graph.add("Transpose", tensor.name, perm=[0, 2, 3, 1])
    return graph.add("Flatten", channels_last, axis=1)


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
    """Raise UsageError if an axis is not that of the channels, the last one."""
    if axis not in (-1, len(tensor.shape) - 1):
        raise unsupported(layer, f"the axis {axis} is not")
