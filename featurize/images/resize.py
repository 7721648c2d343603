"""Images to the size a backbone takes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.core.errors import UsageError, suggestion

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

KERNELS = ("bicubic", "lanczos", "bilinear", "nearest")
ASPECTS = ("crop", "stretch", "pad")
PADDING = (124, 116, 104)  # ImageNet's mean colour: close to nothing once a network has preprocessed it


def check_kernel(kernel: str) -> None:
    """Raise UsageError when there is no such resize kernel."""
    if kernel not in KERNELS:
        raise UsageError(f"--resize {kernel}: {suggestion(kernel, list(KERNELS))}")


def check_aspect(aspect: str) -> None:
    """Raise UsageError when there is no such way to make an image square."""
    if aspect not in ASPECTS:
        raise UsageError(f"--aspect {aspect}: {suggestion(aspect, list(ASPECTS))}")


def resized(images: np.ndarray, size: int, kernel: str, aspect: str = "crop") -> np.ndarray:
    """Bring images to `size` x `size`.

    Pillow's fixed-point filters are used: the result is rounded and clipped to 0..255, antialiased
    when shrinking, and the same on every machine.

    Args:
        images: uint8 (n, height, width, 3), or what `np.asarray` makes that of.
        size: height and width of the result, in pixels.
        kernel: one of `KERNELS`.
        aspect: one of `ASPECTS`; of no effect on square images.

    Returns:
        uint8 (n, size, size, 3).
    """
    images = np.asarray(images)
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    result = np.empty((len(images), size, size, 3), np.uint8)
    for image, target in zip(images, result, strict=True):
        target[...] = np.asarray(fitted(Image.fromarray(image), size, size, kernel, aspect))
    return result


def fitted(image: "Picture", height: int, width: int, kernel: str, aspect: str) -> Any:
    """A Pillow image, RGB, as one of `height` x `width` pixels.

    `crop` takes the largest middle part of the right proportions, `stretch` distorts, `pad` shows all of
    the image between bars of `PADDING`. An image of the right proportions comes out the same.
    """
    from PIL import Image, ImageOps

    filter_ = Image.Resampling[kernel.upper()]
    if aspect == "crop":
        return ImageOps.fit(image, (width, height), filter_)
    if aspect == "stretch" or image.width * height == image.height * width:
        return image.resize((width, height), filter_)
    scale = min(width / image.width, height / image.height)
    inner = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), filter_)
    canvas = Image.new("RGB", (width, height), PADDING)
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas
