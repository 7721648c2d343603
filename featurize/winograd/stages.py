"""A Keras network of the VGG kind as a chain of stages, each of which is one pass over the feature maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featurize.core.errors import UsageError
from featurize.networks.keras_graph import Call, calls, image_source, unsupported


@dataclass(frozen=True)
class Stage:
    """One pass over the feature maps: a convolution with its ReLU and pooling, or a pooling alone.

    Attributes:
        name: of the last layer in it.
        kernel: (3, 3, ci, co); None for a pooling alone.
        bias: (co,); None for a pooling alone.
        relu: whether there is a ReLU.
        pool: whether there is a pooling.
        scales: float32 (17,), for int8 only: the scale of the outputs and the factors of the transformed inputs;
            None before the calibration and for a pooling alone.
    """

    name: str
    kernel: np.ndarray | None
    bias: np.ndarray | None
    relu: bool = False
    pool: bool = False
    scales: np.ndarray | None = None


def stages(model: Any, layers: Sequence[str]) -> list[Stage]:
    """The network as a chain of stages. A layer in `layers` ends its stage, so that its output can be tapped.

    Raises:
        UsageError: a layer that is not one of a VGG; the message names it.
    """
    chain: list[Stage] = []
    before = image_source(model)
    for call in calls(model):
        if [source for source, _ in call.inputs] != [before]:
            raise unsupported(call.layer, "branches are not")
        before = call.output
        name = call.layer.name
        last = chain[-1] if chain else None
        extensible = last is not None and last.kernel is not None and not last.pool and last.name not in layers
        if call.kind == "Conv2D":
            chain.append(_convolution(call))
        elif _is_relu(call) and last and extensible:
            chain[-1] = replace(last, name=name, relu=True)
        elif _is_pooling(call) and last and extensible and len(chain) > 1:  # the first stage has tiles of one output
            chain[-1] = replace(last, name=name, pool=True)
        elif _is_pooling(call) and chain:
            chain.append(Stage(name, None, None, pool=True))
        else:
            raise unsupported(call.layer, f"a {call.kind} with these settings here is not")
    return chain


def is_vgg(model: Any, layers: Sequence[str]) -> bool:
    """Whether a network is of the VGG kind."""
    try:
        stages(model, layers)
    except UsageError:
        return False
    return True


def _convolution(call: Call) -> Stage:
    layer = call.layer
    plain = (
        layer.kernel_size == (3, 3)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.padding == "same"
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.activation.__name__ in ("linear", "relu")
    )
    if not plain:
        raise unsupported(layer, "a convolution that is not 3 x 3, same, with stride 1 and at most a ReLU is not")
    kernel = layer.weights[0].numpy()
    bias = layer.weights[1].numpy() if layer.use_bias else np.zeros(kernel.shape[3], np.float32)
    return Stage(layer.name, kernel, bias, relu=layer.activation.__name__ == "relu")


def _is_relu(call: Call) -> bool:
    layer = call.layer
    if call.kind == "Activation":
        return bool(layer.activation.__name__ == "relu")
    return call.kind == "ReLU" and layer.max_value is None and not layer.negative_slope and not layer.threshold


def _is_pooling(call: Call) -> bool:
    layer = call.layer
    return (
        call.kind == "MaxPooling2D"
        and tuple(layer.pool_size) == tuple(layer.strides) == (2, 2)
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
    )
