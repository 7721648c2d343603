"""Image files: JPEG, PNG and others -> uint8 RGB pixels of one size."""

import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featurize.core.errors import DataError
from featurize.images.resize import fitted

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; some of its others start programs (EPS)."""


def read_image(path: Path, height: int, width: int, kernel: str = "bicubic", aspect: str = "crop") -> np.ndarray:
    """An image file as pixels of one size; see `decoded`.

    Raises:
        DataError: there is no such file, or it cannot be decoded.
    """
    if not path.is_file():
        raise DataError("no such file")
    try:
        with path.open("rb") as file:
            return decoded(file, height, width, kernel, aspect)
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})") from error


def decoded(file: BinaryIO, height: int, width: int, kernel: str, aspect: str) -> np.ndarray:
    """The image in an open file, brought to one size.

    Turned as EXIF says; transparency on white; 16 bits to 8; of several pictures the first.

    Args:
        file: at its beginning.
        height: of the result, in pixels.
        width: of the result, in pixels.
        kernel: one of `resize.KERNELS`.
        aspect: one of `resize.ASPECTS`: what is done with another shape.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        DataError: it is no image of `FORMATS`, is damaged, or has more pixels than Pillow takes for an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    _ignore_pillows_warnings()
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > (limit := Image.MAX_IMAGE_PIXELS or 0) > 0:
                raise DataError(f"{opened.width:,} x {opened.height:,} pixels exceed the limit of {limit:,}")
            image = _rgb(ImageOps.exif_transpose(opened))
        return np.asarray(fitted(image, height, width, kernel, aspect))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"no image of a format that is read here ({', '.join(FORMATS)})") from error
    except Exception as error:  # whatever a decoder stumbles over, it is the file that is wrong
        raise DataError(f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from error


def _rgb(image: Any) -> Any:
    """A Pillow image of any mode as RGB, on white, 8 bits."""
    from PIL import Image

    if image.mode == "F":
        raise DataError("its pixels are fractions of no known scale; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: convert() would clip them to 8
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _ignore_pillows_warnings() -> None:
    """They are of odd files that it reads all the same; what it cannot read is an error.

    Not by `catch_warnings`, which threads that come and go at the same time would leave in disorder.
    """
    if ("ignore", None, Warning, re.compile("PIL"), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module="PIL")
