"""The available networks, their image sizes and their layers, for `frozenbench featurize backbones`."""

import bisect
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.core.child import run_child
from featurize.core.environment import import_keras
from featurize.core.errors import BackboneError, UsageError
from featurize.networks.applications import PIXELS, application, applications, built, own_preprocessing
from featurize.networks.backbone import can_be_tapped, read_keras_file
from featurize.networks.onnx_file import cut, read_onnx_file, serialized, tappable

SHAPES = "featurize.networks.onnx_shapes"
SHAPES_SECONDS = 120.0
SHAPES_MEMORY = 16 << 30  # bytes of address space


@dataclass(frozen=True)
class Entry:
    """A network of keras.applications.

    Attributes:
        name: for `load_backbone`.
        min_image_size: height and width of the smallest images that it takes, in pixels.
        preprocess: its own preprocessing, one of `backbone.PREPROCESSING`; `none` if it is part of the network.
    """

    name: str
    min_image_size: int
    preprocess: str


@dataclass(frozen=True)
class Layer:
    """A layer that can be tapped: its name, its class in Keras, and the shape of its output, (h, w, c) or (c,)."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Description(Entry):
    """A network in detail.

    Attributes:
        image_size: height and width of the images for which `layers` gives shapes, in pixels.
        default_layer: the layer that is tapped if none is named.
        parameters: number of its weights, without the classifier.
        layers: in the network's order.
    """

    image_size: int
    default_layer: str
    parameters: int
    layers: list[Layer]


def catalogue() -> list[Entry]:
    """All of keras.applications, by name. No network is built.

    Raises:
        BackboneError: the smallest image size of a network is unknown.
    """
    entries = []
    for name, constructor in sorted(applications().items()):
        entries.append(Entry(name, _smallest_size(constructor), own_preprocessing(constructor)))
    return entries


def describe(name: str, image_size: int | None = None) -> Description:
    """Describe a network. One of keras.applications is built with random weights.

    Args:
        name: a name in `keras.applications`, or a path to a `.keras` or `.onnx` file.
        image_size: height and width of the images, in pixels; if None, 96, or the only size that the network in a
            file takes.

    Raises:
        UsageError: an unknown name, or an image size that the network does not take.
        BackboneError: the file cannot be loaded.
    """
    if name == PIXELS:
        raise UsageError(f"{PIXELS} is not a network: its vector is the image itself, and has no layers")
    if name.endswith(".onnx"):
        return _describe_onnx(Path(name), image_size)
    if name.endswith(".keras"):
        model, _ = read_keras_file(Path(name))
        size = image_size or model.inputs[0].shape[1] or 96
        layers = _layers(model, size)
        # If a network takes images of one size, it takes larger ones: bisection finds the smallest.
        smallest = bisect.bisect_left(range(size), True, lo=1, key=lambda side: _takes(model, side))
        mode = "none"
    else:
        constructor = application(name)
        name = name.lower()
        size = image_size or 96
        model = built(constructor, None, size)
        layers = _layers(model, size)
        smallest = _smallest_size(constructor)
        mode = own_preprocessing(constructor)
    return Description(name, smallest, mode, size, layers[-1].name, model.count_params(), layers)


def _describe_onnx(path: Path, image_size: int | None) -> Description:
    """Describe the network in an ONNX file; a child process finds the shapes, as the library may crash."""
    model = read_onnx_file(path)
    names = tappable(model)
    default = model.graph.output[0].name if model.graph.output else ""
    graph = cut(path, model, ())
    size = image_size or graph.images.size or 96
    if graph.images.size not in (None, size):
        raise UsageError(f"{path.stem} takes images of {graph.images.size} pixels only; use another --image-size")
    wanted = [name for name, tensor in names.items() if name == tensor]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "network.onnx").write_bytes(serialized(path, model))
        request = {"size": size, "channels_first": graph.images.channels_first, "names": wanted}
        (Path(folder) / "request.json").write_text(json.dumps(request))
        printed = run_child(SHAPES, Path(folder), str(path), seconds=SHAPES_SECONDS, memory=SHAPES_MEMORY)
    found = json.loads(printed.splitlines()[-1])
    kinds = {output: node.op_type for node in model.graph.node for output in node.output}
    layers = []
    for name, shape in found["shapes"].items():
        layers.append(Layer(name, kinds.get(name, ""), tuple(shape)))
    return Description(path.stem, graph.images.size or 1, "", size, default, found["parameters"], layers)


def _smallest_size(constructor: Any) -> int:
    """The smallest image size of a constructor of keras.applications, from the error for an image of one pixel."""
    try:
        built(constructor, None, 1)
    except UsageError as error:
        if found := re.search(r"at least (\d+) ?x ?\1", str(error)):
            return int(found[1])
        raise BackboneError(f"the smallest image size of {constructor.__name__} is unknown: {error}") from error
    return 1


def _layers(model: Any, image_size: int) -> list[Layer]:
    """The layers of a network that can be tapped, for images of this size.

    Raises:
        UsageError: the network does not take such images.
    """
    keras = import_keras()
    own = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    layers = [layer for layer in own if can_be_tapped(layer)]
    outputs = [layer.output for layer in layers]
    if model.inputs[0].shape[1:3] != (image_size, image_size):
        try:
            outputs = keras.Model(model.inputs, outputs)(keras.Input((image_size, image_size, 3)))
        except ValueError as error:
            what = " ".join(str(error).split())[:300]
            raise UsageError(f"{model.name} takes no images of {image_size} x {image_size} pixels: {what}") from error
    found = []
    for layer, output in zip(layers, outputs, strict=True):
        found.append(Layer(layer.name, type(layer).__name__, tuple(output.shape[1:])))
    return found


def _takes(model: Any, image_size: int) -> bool:
    try:
        _layers(model, image_size)
    except UsageError:
        return False
    return True
