"""What networks there are, what images they take, and what layers they have: `python -m featurize backbones`.

No weights are downloaded.
"""

import bisect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.core.environment import import_keras
from featurize.core.errors import BackboneError, UsageError
from featurize.networks.backbone import (
    PIXELS,
    application,
    applications,
    built,
    may_be_tapped,
    own_preprocessing,
    read_keras_file,
)


@dataclass(frozen=True)
class Entry:
    """A network of keras.applications.

    Attributes:
        name: what `load_backbone` calls it.
        min_image_size: it takes images of so many pixels squared, and larger ones.
        preprocess: its own preprocessing, one of `backbone.PREPROCESSING`; `none` where it is inside the network.
    """

    name: str
    min_image_size: int
    preprocess: str


@dataclass(frozen=True)
class Layer:
    """A layer that may be tapped: its name, its class in Keras, and its output's shape, (h, w, c) or (c,)."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Description(Entry):
    """A network in detail.

    Attributes:
        image_size: the size of images that `layers` is told for.
        default_layer: the one that is tapped where none is named.
        parameters: numbers in all of its weights, those of the classifier left out.
        layers: in the network's order.
    """

    image_size: int
    default_layer: str
    parameters: int
    layers: list[Layer]


def catalogue() -> list[Entry]:
    """All of keras.applications, by name. No network is built.

    Raises:
        BackboneError: a network does not say what images it takes.
    """
    return [
        Entry(name, _smallest(constructor), own_preprocessing(constructor))
        for name, constructor in sorted(applications().items())
    ]


def describe(name: str, image_size: int | None = None) -> Description:
    """A network in detail; it is built, with random weights where it is one of keras.applications.

    Args:
        name: a name in `keras.applications`, or a path to a `.keras` file.
        image_size: height and width of the images, in pixels; 96, or the only one that a file's network takes, where
            it is not given.

    Raises:
        UsageError: an unknown name, or an image size that the network cannot take.
        BackboneError: the file cannot be loaded.
    """
    if name == PIXELS:
        raise UsageError(f"{PIXELS} is no network: its vector is the image itself, and has no layers")
    if name.endswith(".keras"):
        model, _ = read_keras_file(Path(name))
        size = image_size or model.inputs[0].shape[1] or 96
        layers = _layers(model, size)
        smallest = bisect.bisect_left(range(size), True, lo=1, key=lambda side: _takes(model, side))
        mode = "none"
    else:
        constructor = application(name)
        name, size = name.lower(), image_size or 96
        model = built(constructor, None, size)
        layers = _layers(model, size)
        smallest, mode = _smallest(constructor), own_preprocessing(constructor)
    return Description(name, smallest, mode, size, layers[-1].name, model.count_params(), layers)


def _smallest(constructor: Any) -> int:
    """The least size that a constructor of keras.applications does not refuse; it says so before it builds anything."""
    try:
        built(constructor, None, 1)
    except UsageError as error:
        if found := re.search(r"at least (\d+) ?x ?\1", str(error)):
            return int(found[1])
        raise BackboneError(f"{constructor.__name__} does not say what images it takes: {error}") from error
    return 1


def _layers(model: Any, image_size: int) -> list[Layer]:
    """The layers of a network that may be tapped, for images of that size.

    Raises:
        UsageError: it takes no such images.
    """
    keras = import_keras()
    layers = [
        layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer) and may_be_tapped(layer)
    ]
    outputs = [layer.output for layer in layers]
    if model.inputs[0].shape[1:3] != (image_size, image_size):
        try:
            outputs = keras.Model(model.inputs, outputs)(keras.Input((image_size, image_size, 3)))
        except ValueError as error:
            what = " ".join(str(error).split())[:300]
            raise UsageError(f"{model.name} takes no images of {image_size} x {image_size} pixels: {what}") from error
    return [
        Layer(layer.name, type(layer).__name__, tuple(output.shape[1:]))
        for layer, output in zip(layers, outputs, strict=True)
    ]


def _takes(model: Any, image_size: int) -> bool:
    try:
        _layers(model, image_size)
    except UsageError:
        return False
    return True
