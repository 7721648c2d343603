"""Image files: JPEG, PNG and others -> uint8 RGB pixels of one size."""

import functools
import re
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featurize.core.errors import DataError
from featurize.images.resize import fitted

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; some of its others start programs (EPS)."""
HEIF_SUFFIXES = (".heic", ".heif")
HEIF_ADVICE = "pip install 'frozenbench[heic]' to read them, or convert them to JPEG"
MAX_PIXELS = 89_478_485
"""Pillow's limit: a larger picture may be an attack."""
LARGE_PIXELS = 16_000_000
_large_ones = threading.Lock()
"""Pictures of more pixels take up to a gigabyte, so threads decode them one at a time."""


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


@functools.cache
def reads_heif() -> bool:
    """Whether the library for HEIC pictures, those of many phones, is installed; Pillow knows it from then on."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def decoded(
    file: BinaryIO, height: int, width: int, kernel: str, aspect: str, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The image in an open file, brought to one size.

    Turned as EXIF says; transparency on white; 16 bits to 8; of several pictures the first.

    Args:
        file: at its beginning.
        height: of the result, in pixels.
        width: of the result, in pixels.
        kernel: one of `resize.KERNELS`.
        aspect: one of `resize.ASPECTS`: what is done with another shape.
        max_pixels: a picture of more pixels is refused.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        DataError: it is no image of `FORMATS`, is damaged, or has more pixels than Pillow takes for an image.
    """
    from PIL import Image, UnidentifiedImageError

    _ignore_pillows_warnings()
    if max_pixels > MAX_PIXELS:  # Pillow's own limit must not be lower
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or max_pixels, max_pixels)
    formats = (*FORMATS, "HEIF") if reads_heif() else FORMATS
    try:
        with Image.open(file, formats=formats) as opened:
            if opened.width * opened.height > max_pixels:
                raise DataError(
                    f"{opened.width:,} x {opened.height:,} pixels exceed the limit of {max_pixels:,}; --max-pixels "
                    "changes it"
                )
            with _large_ones if opened.width * opened.height > LARGE_PIXELS else nullcontext():
                return np.asarray(fitted(as_rgb(opened), height, width, kernel, aspect))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        if is_heif(file):
            raise DataError(f"a HEIC picture; {HEIF_ADVICE}") from error
        raise DataError(f"no image of a format that is read here ({', '.join(FORMATS)})") from error
    except Exception as error:  # whatever a decoder stumbles over, it is the file that is wrong
        raise DataError(f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from error


def is_heif(file: BinaryIO) -> bool:
    """Whether an open file begins like a HEIC picture: a box `ftyp` with one of its brands."""
    file.seek(4)
    return file.read(8) in {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")}


def as_rgb(image: Any) -> Any:
    """A Pillow image of any mode as RGB, turned as EXIF says, on white, 8 bits.

    Raises:
        DataError: its pixels are fractions.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
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
