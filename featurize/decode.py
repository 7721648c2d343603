"""Image files: JPEG, PNG and others -> uint8 RGB pixels of one size."""

import warnings
from pathlib import Path

import numpy as np

from featurize.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; some of its others start programs (EPS)."""


def read_image(path: Path, height: int, width: int, kernel: str = "bicubic") -> np.ndarray:
    """An image file, cut and resized to one size.

    The largest middle part of the right proportions is taken: stretching would distort the shapes
    that the network reads.

    Turned as EXIF says; transparency on white; 16 bits to 8; of several pictures the first.

    Args:
        path: of the file.
        height: of the result, in pixels.
        width: of the result, in pixels.
        kernel: one of `resize.KERNELS`.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        DataError: it is no image of `FORMATS`, is damaged, or has more pixels than Pillow takes for an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise DataError("no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode == "F":
                    raise DataError("its pixels are fractions of no known scale; save it with 8 or 16 bits")
                if image.mode.startswith("I"):  # 16 bits: convert() would clip them to 8
                    image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                image = image.convert("RGB")
            return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling[kernel.upper()]))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"no image of a format that is read here ({', '.join(FORMATS)})") from error
    except Exception as error:  # whatever a decoder stumbles over, it is the file that is wrong
        raise DataError(f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from error
