"""The layers of a Keras network and their connections, for engines that are not TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featurize.core.errors import UsageError

Source = tuple[str, int]
"""A tensor: the name of the layer that computes it, and the number of the call."""


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: the Keras layer.
        output: its output.
        inputs: its inputs, with their shapes (None, h, w, c) or (None, c).
    """

    layer: Any
    output: Source
    inputs: list[tuple[Source, list[Any]]]

    @property
    def kind(self) -> str:
        """The class of the layer."""
        return type(self.layer).__name__


def calls(model: Any) -> Iterator[Call]:
    """Yield the calls of a functional Keras model, each after the calls that it depends on.

    The `InputLayer` has no call; `image_source` is its tensor.
    """
    for entry in model.get_config()["layers"]:
        layer = model.get_layer(entry["name"])
        for number, node in enumerate(entry["inbound_nodes"]):
            inputs = [(_source(tensor["keras_history"]), tensor["shape"]) for tensor in _tensors(node)]
            yield Call(layer, (layer.name, number), inputs)


def image_source(model: Any) -> Source:
    """The tensor of the input images."""
    return model.layers[0].name, 0


def unsupported(layer: Any, what: str) -> UsageError:
    """The error for a layer that an engine does not support. `what` is a subject with "is not" or "are not"."""
    return UsageError(f"layer {layer.name}: {what} supported by this engine")


def _source(history: list[Any]) -> Source:
    name, call, _ = history
    return str(name), int(call)


def _tensors(node: Any) -> list[dict[str, Any]]:
    """The tensors among the arguments of a call in a Keras configuration, however deeply nested."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            return [node["config"]]
        node = list(node.values())
    tensors = []
    if isinstance(node, (list, tuple)):
        for part in node:
            tensors.extend(_tensors(part))
    return tensors
