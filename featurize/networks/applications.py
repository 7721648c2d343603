"""The networks of keras.applications: their names, how they are built, and their preprocessing."""

import ast
import importlib.util
import inspect
import re
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.environment import import_keras
from featurize.core.errors import BackboneError, UsageError, first_line, suggestion

PIXELS = "pixels"
PREPROCESSING = ("caffe", "tf", "torch", "none")
MEAN_AND_STD = re.compile(r"mean (\S+) std (\S+)")
"""Another preprocessing than these: `mean R,G,B std R,G,B`, for values 0..1."""


def application_names() -> list[str]:
    """The names of all networks in keras.applications, read from its source, which is faster than to import it."""
    found = importlib.util.find_spec("keras")
    assert found is not None  # it is a dependency
    [folder] = found.submodule_search_locations or []
    tree = ast.parse((Path(folder) / "applications" / "__init__.py").read_text("utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return sorted(name.lower() for name in names if name[0].isupper())


def check_names(name: str, weights: str) -> None:
    """Raise UsageError if there is no such network or no such file, before TensorFlow is loaded."""
    if name.endswith((".keras", ".onnx")):
        if not Path(name).is_file():
            raise UsageError(f"--backbone {name}: no such file")
    elif name.lower() not in (known := application_names()):
        close = suggestion(name.lower(), [*known, PIXELS])
        raise UsageError(f"--backbone {name}: no such network, and no .keras or .onnx file; {close}")
    if weights not in ("imagenet", "random") and not Path(weights).is_file():
        raise UsageError(f"--weights {weights}: no such file; expected imagenet, random or an .h5 file")


def applications() -> dict[str, Any]:
    """Lower-case name -> constructor, for all of keras.applications."""
    functions = inspect.getmembers(import_keras().applications, inspect.isfunction)
    return {name.lower(): function for name, function in functions}


def application(name: str) -> Any:
    """The constructor of a network in keras.applications.

    Raises:
        UsageError: there is no such network; the message suggests similar names.
    """
    check_names(name, "imagenet")
    return applications()[name.lower()]


def built(constructor: Any, weights: str | None, image_size: int) -> Any:
    """A network of keras.applications without its classifier, for square images.

    Args:
        constructor: from `application`.
        weights: for Keras: None for random weights, or `imagenet`, which may be downloaded.
        image_size: height and width of the images, in pixels.

    Raises:
        UsageError: the network does not take images of that size.
    """

    def build() -> Any:
        return constructor(weights=weights, include_top=False, input_shape=(image_size, image_size, 3))

    try:
        # Keras numbers unnamed layers by what its thread has built before, so a new thread gives the same names
        # every time. This pool does not wait for its thread, so Ctrl-C ends a download.
        with ThreadPool(1) as pool:
            return pool.apply(build)
    except ValueError as error:
        name = constructor.__name__.lower()
        raise UsageError(
            f"{name} takes no images of {image_size} x {image_size} pixels: {first_line(error)}"
        ) from error


def preprocessed(images: Any, mode: str) -> Any:
    """RGB values 0..255, float32 (n, h, w, 3) -> the values that the network was trained on, same shape.

    Works on numpy arrays and TensorFlow tensors. The modes are those of
    `keras.applications.imagenet_utils.preprocess_input`: `caffe` (BGR minus the ImageNet mean, no
    scaling), `tf` (-1..1), `torch` (0..1, standardised per channel), `none`; or `MEAN_AND_STD`.
    """
    if found := MEAN_AND_STD.fullmatch(mode):
        given_mean, given_std = (np.array(numbers.split(","), np.float32) for numbers in found.groups())
        return (images / np.float32(255) - given_mean) / given_std
    if mode == "caffe":
        return images[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    if mode == "tf":
        return images / np.float32(127.5) - np.float32(1)
    if mode == "torch":
        mean = np.array([0.485, 0.456, 0.406], np.float32)
        return (images / np.float32(255) - mean) / np.array([0.229, 0.224, 0.225], np.float32)
    return images


def check_preprocess(mode: str) -> None:
    """Raise UsageError unless `mode` is `auto`, one of `PREPROCESSING`, or `MEAN_AND_STD`."""
    found = MEAN_AND_STD.fullmatch(mode)
    if not found and mode not in ("auto", *PREPROCESSING):
        raise UsageError(f"--preprocess {mode}: {suggestion(mode, ['auto', *PREPROCESSING])}")
    for name, numbers in zip(("mean", "std"), found.groups() if found else (), strict=False):
        try:
            values = [float(number) for number in numbers.split(",")]
        except ValueError:
            values = []
        if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            raise UsageError(f"--{name} {numbers}: expected three numbers R,G,B for values 0..1, such as 0.5,0.5,0.5")


def mean_and_std(preprocess: str, mean: str, std: str) -> str:
    """The preprocessing that options of the command line ask for.

    Args:
        preprocess: one of `PREPROCESSING`, or `auto`.
        mean: three numbers, comma-separated, or empty.
        std: as `mean`.

    Raises:
        UsageError: they contradict one another.
    """
    if not mean and not std:
        return preprocess
    if not (mean and std) or preprocess != "auto":
        raise UsageError("--mean and --std: expected both of them, and no --preprocess")
    return f"mean {mean.replace(' ', '')} std {std.replace(' ', '')}"


def own_preprocessing(constructor: Any) -> str:
    """The preprocessing of a network of keras.applications, found by trying its `preprocess_input` on one pixel.

    Raises:
        BackboneError: it is not one of `PREPROCESSING`.
    """
    module = sys.modules[constructor.__module__]
    probe = np.array([[[[10.0, 100.0, 200.0]]]], np.float32)
    theirs = np.asarray(module.preprocess_input(probe.copy()))  # it may overwrite its input
    for mode in PREPROCESSING:
        if np.allclose(preprocessed(probe, mode), theirs, atol=1e-4):
            return mode
    raise BackboneError(f"{module.__name__} has an unknown preprocessing; choose one with --preprocess")
