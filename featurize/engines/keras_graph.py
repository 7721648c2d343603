"""What a Keras network computes, layer by layer, for engines that are not Keras."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featurize.core.errors import UsageError

Source = tuple[str, int]
"""Where a tensor comes from: the name of a layer, and which of its calls."""


@dataclass(frozen=True)
class Call:
    """A layer at work.

    Attributes:
        layer: the Keras layer.
        output: where its output comes from, as others name it.
        inputs: where its inputs come from, and their shapes (None, h, w, c) or (None, c).
    """

    layer: Any
    output: Source
    inputs: list[tuple[Source, list[Any]]]

    @property
    def kind(self) -> str:
        """The class of the layer."""
        return type(self.layer).__name__


def calls(model: Any) -> Iterator[Call]:
    """The calls of a functional Keras model's layers, each after those it depends on; `InputLayer` has none."""
    for entry in model.get_config()["layers"]:
        layer = model.get_layer(entry["name"])
        for number, node in enumerate(entry["inbound_nodes"]):
            inputs = [(_source(tensor["keras_history"]), tensor["shape"]) for tensor in _tensors(node)]
            yield Call(layer, (layer.name, number), inputs)


def image_source(model: Any) -> Source:
    """Where the images come from."""
    return model.layers[0].name, 0


def unsupported(layer: Any, what: str) -> UsageError:
    """The error that names a layer which an engine does not know."""
    return UsageError(f"layer {layer.name}: {what} supported by this engine")


def _source(history: list[Any]) -> Source:
    name, call, _ = history
    return str(name), int(call)


def _tensors(node: Any) -> list[dict[str, Any]]:
    """The tensors that a call in a Keras configuration was given, wherever in its arguments they are."""
    if isinstance(node, dict) and node.get("class_name") == "__keras_tensor__":
        return [node["config"]]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
