"""Images to the size a backbone takes."""

from typing import Any

import numpy as np

from featurize.errors import UsageError, suggestion

KERNELS = ("bicubic", "lanczos", "bilinear", "nearest")


def check_kernel(kernel: str) -> None:
    """Raise UsageError when there is no such resize kernel."""
    if kernel not in KERNELS:
        raise UsageError(f"--resize {kernel}: {suggestion(kernel, list(KERNELS))}")


def resized(images: Any, size: int, kernel: str) -> np.ndarray:
    """Stretch images to `size` x `size`.

    Pillow's fixed-point filters are used: the result is rounded and clipped to 0..255, antialiased
    when shrinking, and the same on every machine.

    Args:
        images: uint8 (n, height, width, 3), or what `np.asarray` makes that of.
        size: height and width of the result, in pixels.
        kernel: one of `KERNELS`.

    Returns:
        uint8 (n, size, size, 3).
    """
    images = np.asarray(images)
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    filter_ = Image.Resampling[kernel.upper()]
    result = np.empty((len(images), size, size, 3), np.uint8)
    for image, target in zip(images, result, strict=True):
        target[...] = np.asarray(Image.fromarray(image).resize((size, size), filter_))
    return result
