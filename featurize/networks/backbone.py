"""Frozen networks: keras.applications by name, a .keras or .onnx file, or raw pixels as the control.

A `Backbone` is a network up to its deepest tapped layer, with its preprocessing. It is never trained.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.environment import import_keras
from featurize.core.errors import BackboneError, UsageError, first_line, suggestion
from featurize.networks.applications import (
    PIXELS,
    application,
    built,
    check_names,
    check_preprocess,
    own_preprocessing,
)
from featurize.networks.onnx_file import OnnxGraph, cut, files_digest, files_of, image_input, read_onnx_file

BUNDLED_VGG16 = Path(__file__).parents[1] / "bundled" / "vgg16_blocks1to3_notop.h5"
BUNDLED_VGG16_SHA256 = "50a06a3b320364552465d5d7531b8c9bf214126f64fbfbb815252c829a85127a"
BUNDLED_VGG16_BLOCKS = ("block1_", "block2_", "block3_")


@dataclass(frozen=True)
class Backbone:
    """A frozen network, ready to run.

    Attributes:
        name: name in `keras.applications`, the stem of a `.keras` or `.onnx` file, or `pixels`.
        weights: `imagenet`, `random-0` (with its seed), the stem of a file, or `none` for `pixels`.
        weights_digest: SHA-256 of the weights up to the deepest tapped layer, or of the content of an ONNX file; empty
            for `pixels`.
        layers: names of the tapped layers.
        image_size: its images are `image_size` x `image_size` x 3.
        preprocess: one of `PREPROCESSING`, or `mean R,G,B std R,G,B`, applied to RGB values 0..255.
        model: preprocessed float32 (n, size, size, 3) -> one activation per tapped layer; None for `pixels` and ONNX.
        architecture: the description of the network in a `.keras` file; empty for others.
        source: the arguments of `load_backbone` that load it again, with absolute paths, and what `request` adds.
        graph: the network of an ONNX file; None for others.
    """

    name: str
    weights: str
    weights_digest: str
    layers: tuple[str, ...]
    image_size: int
    preprocess: str
    model: Any = None
    architecture: bytes = b""
    source: dict[str, Any] = field(default_factory=dict)
    graph: OnnxGraph | None = None

    def check_frozen(self) -> None:
        """Raise BackboneError if a weight has changed since the network was loaded."""
        if self.model is not None and _digest(self.model, self.architecture) != self.weights_digest:
            raise BackboneError(f"the weights of {self.name} changed while it ran; its vectors cannot be trusted")


def load_backbone(
    backbone: str = "vgg16",
    *,
    weights: str = "imagenet",
    layers: str | tuple[str, ...] = (),
    image_size: int | None = None,
    preprocess: str = "auto",
    seed: int = 0,
    download: bool = True,
) -> Backbone:
    """Load a network up to the deepest tapped layer, and freeze it.

    Args:
        backbone: a name in `keras.applications` (`vgg16`), a path to a `.keras` or `.onnx` file, or `pixels`.
        weights: `imagenet` (for a file: its own), `random` (its layers' initialisers, seeded), or a path
            to an `.h5` file in the layout that Keras publishes.
        layers: a layer to tap, or several; empty for the last one before the classifier, or the first output of an
            ONNX file.
        image_size: height and width of the images, in pixels; None for `usual_image_size`.
        preprocess: `auto` (the backbone's own; `none` for a `.keras` file), one of `PREPROCESSING`, or
            `mean R,G,B std R,G,B` for values 0..1. An ONNX file needs one of these, as it does not say what it takes.
        seed: for `random`.
        download: weights that are neither a file nor part of the package. If not, the network has random weights
            in their place, which are as fast.

    Raises:
        UsageError: an unknown name, layer or preprocessing, or an image size that the network does not take.
        BackboneError: the file or the weights cannot be loaded or hold values that are not finite.
    """
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    image_size = image_size or usual_image_size(backbone)
    if backbone == PIXELS:
        return Backbone(
            PIXELS,
            "none",
            "",
            (PIXELS,),
            image_size,
            "none",
            source={"backbone": PIXELS, "weights": "imagenet", "seed": seed},
        )
    check_preprocess(preprocess)
    check_names(backbone, weights)
    if backbone.endswith(".onnx"):
        loaded = _from_onnx(Path(backbone), weights, layers, image_size, preprocess)
    elif backbone.endswith(".keras"):
        loaded = _from_file(backbone, weights, layers, image_size, preprocess, seed)
    else:
        loaded = _from_applications(backbone, weights, layers, image_size, preprocess, seed, download=download)
    return replace(loaded, source=request(backbone, weights=weights, layers=layers, preprocess=preprocess, seed=seed))


def usual_image_size(backbone: str) -> int:
    """Height and width of the images if none are asked for: the only ones of an ONNX file, 32 for `pixels`, else 96.

    Raises:
        BackboneError: the file is no ONNX file.
    """
    if backbone == PIXELS:
        return 32
    if backbone.endswith(".onnx") and Path(backbone).is_file():
        return image_input(Path(backbone)).size or 96
    return 96


def request(
    backbone: str,
    *,
    weights: str = "imagenet",
    layers: str | tuple[str, ...] = (),
    preprocess: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """What a cache records about the arguments of `load_backbone`. With equal records, the networks are equal.

    Returns:
        `backbone`, `weights` and `seed`; `asked`, the layers and the preprocessing as they were asked for; and
        `files`, the SHA-256 of each file among them.
    """
    paths = [_absolute(part) for part in (backbone, weights) if Path(part).is_file()]
    if backbone.endswith(".onnx"):
        paths = [str(path.resolve()) for path in files_of(Path(backbone))]
    return {
        "backbone": _absolute(backbone),
        "weights": _absolute(weights),
        "seed": seed,
        "asked": {"layers": [layers] if isinstance(layers, str) else list(layers), "preprocess": preprocess},
        "files": {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths},
    }


def can_be_tapped(layer: Any) -> bool:
    """Whether the output of a layer is a map (n, h, w, c) or a vector (n, c)."""
    return hasattr(layer.output, "shape") and len(layer.output.shape) in (2, 4)


def _from_applications(
    name: str,
    weights: str,
    layers: tuple[str, ...],
    image_size: int,
    preprocess: str,
    seed: int,
    *,
    download: bool,
) -> Backbone:
    constructor = application(name)
    name = name.lower()
    if weights == "random":
        import_keras().utils.set_random_seed(seed)
    model = built(constructor, None, image_size)
    layers = _checked_layers(model, name, layers)  # before anything is downloaded
    label = weights
    if weights == "random":
        label = f"random-{seed}"
    elif weights != "imagenet":
        label = Path(weights).stem
        model = _with_weights(model, Path(weights))
    elif name == "vgg16" and all(layer.startswith(BUNDLED_VGG16_BLOCKS) for layer in layers):
        model = _with_weights(model, _checked_bundle())
    elif download:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # Keras' progress is not a result
                model = built(constructor, "imagenet", image_size)
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise BackboneError(_no_weights(name, error)) from error
    mode = own_preprocessing(constructor) if preprocess == "auto" else preprocess
    return _cut(model, name, label, layers, image_size, mode)


def read_keras_file(path: Path) -> tuple[Any, bytes]:
    """The network in a `.keras` file, and its description in the file.

    Raises:
        UsageError: there is no such file.
        BackboneError: it is not a network for images, or contains code.
    """
    if not path.is_file():
        raise UsageError(f"--backbone {path}: no such file")
    if not zipfile.is_zipfile(path):
        raise BackboneError(f"{path} is not a .keras file, which is a zip archive; save one with model.save(...)")
    try:
        model = import_keras().models.load_model(path, compile=False, safe_mode=True)
        with zipfile.ZipFile(path) as archive:
            architecture = archive.read("config.json")
    except Exception as error:  # a damaged file can raise anything
        raise BackboneError(
            f"{path} cannot be loaded as a Keras model (safe mode, no custom code): {first_line(error)}"
        ) from error
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[-1] != 3:
        raise BackboneError(f"{path} does not take one batch of images (n, height, width, 3)")
    return model, architecture


def _from_onnx(path: Path, weights: str, layers: tuple[str, ...], image_size: int, preprocess: str) -> Backbone:
    if weights != "imagenet":
        raise UsageError(f"--weights {weights}: an ONNX file has its own weights; leave out the option")
    if preprocess == "auto":
        raise UsageError(
            f"--backbone {path}: an ONNX file does not say which values it takes; choose --preprocess torch, tf, caffe "
            "or none, or --mean R,G,B --std R,G,B"
        )
    graph = cut(path, read_onnx_file(path), layers)
    if graph.images.size not in (None, image_size):
        raise UsageError(
            f"{path.stem} takes images of {graph.images.size} pixels only; use --image-size {graph.images.size}"
        )
    digest = files_digest(files_of(path))
    return Backbone(path.stem, "own", digest, layers or graph.outputs, image_size, preprocess, graph=graph)


def _from_file(
    name: str, weights: str, layers: tuple[str, ...], image_size: int, preprocess: str, seed: int
) -> Backbone:
    keras = import_keras()
    path = Path(name)
    model, architecture = read_keras_file(path)
    if weights == "random":
        keras.utils.set_random_seed(seed)
        model = keras.models.clone_model(model)
        label = f"random-{seed}"
    elif weights == "imagenet":
        label = "own"
    else:
        model = _with_weights(model, Path(weights))
        label = Path(weights).stem
    layers = _checked_layers(model, path.stem, layers)
    mode = "none" if preprocess == "auto" else preprocess
    return _cut(model, path.stem, label, layers, image_size, mode, architecture)


def _checked_layers(model: Any, name: str, layers: tuple[str, ...]) -> tuple[str, ...]:
    """The layers to tap; the model's last one if none is named."""
    keras = import_keras()
    known = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    layers = layers or (known[-1],)
    if len(set(layers)) < len(layers):
        raise UsageError(f"--layers {','.join(layers)}: the same layer is named twice")
    for layer in layers:
        if layer not in known:
            raise UsageError(f"--layers {layer}: {name} has no such layer; {suggestion(layer, known)}")
        if not can_be_tapped(model.get_layer(layer)):
            raise UsageError(f"--layers {layer}: its output is neither a map (n, h, w, c) nor a vector (n, c)")
    return layers


def _cut(
    model: Any,
    name: str,
    weights: str,
    layers: tuple[str, ...],
    image_size: int,
    mode: str,
    architecture: bytes = b"",
) -> Backbone:
    """The part of a model up to the tapped layers, at a fixed image size, frozen and checked."""
    keras = import_keras()
    try:
        cut = keras.Model(model.inputs, [model.get_layer(layer).output for layer in layers])
        image = keras.Input((image_size, image_size, 3))
        cut(image)
    except ValueError as error:
        raise UsageError(
            f"{name} takes no images of {image_size} x {image_size} pixels: {first_line(error)}"
        ) from error
    cut.trainable = False
    for layer in cut.layers:
        for variable in layer.weights:
            if not np.isfinite(variable.numpy()).all():
                raise BackboneError(
                    f"the weights of {name}'s layer {layer.name} ({weights}) are not all finite numbers: the file is "
                    "damaged or incomplete; choose a complete one with --weights PATH"
                )
    return Backbone(name, weights, _digest(cut, architecture), layers, image_size, mode, cut, architecture)


def _checked_bundle() -> Path:
    digest = hashlib.sha256(BUNDLED_VGG16.read_bytes()).hexdigest()
    if digest != BUNDLED_VGG16_SHA256:
        raise BackboneError(
            f"{BUNDLED_VGG16} has SHA-256 {digest}, expected {BUNDLED_VGG16_SHA256}; "
            "reinstall the package: pip install --force-reinstall frozenbench"
        )
    return BUNDLED_VGG16


def _with_weights(model: Any, path: Path) -> Any:
    try:
        model.load_weights(path)
    except Exception as error:  # a damaged file can raise anything
        raise BackboneError(
            f"{path} does not hold the weights of {model.name} in the layout that Keras publishes "
            f"(..._notop.h5): {first_line(error)}"
        ) from error
    return model


def _digest(model: Any, architecture: bytes) -> str:
    """SHA-256 of the architecture in a `.keras` file and of every weight, in the model's order.

    Layer names are not part of it: in files, Keras numbers unnamed layers by what was built before.
    """
    digest = hashlib.sha256(architecture)
    for variable in model.weights:
        value = np.ascontiguousarray(variable.numpy())
        digest.update(json.dumps([variable.name, value.dtype.str, value.shape]).encode())
        digest.update(value.data)
    return digest.hexdigest()


def _no_weights(name: str, error: Exception) -> str:
    found = re.search(r"https?://\S+/([^/\s:]+\.h5)", str(error))
    file_name = found.group(1) if found else f"{name}'s ..._notop.h5"
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    return (
        f"the ImageNet weights of {name} are missing and could not be downloaded ({first_line(error)}): {file_name} "
        f"belongs in {folder}, or choose it with --weights PATH; without internet access, "
        "--backbone vgg16 with --layers block3_pool uses the kernels that come with the package"
    )


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_file() else name
