"""HTML pages in one file: style, script and pictures are inside, and nothing is loaded from elsewhere.

A page's Content-Security-Policy allows only its own style and script, by their SHA-256, and `data:` images. A name from
a data set cannot change that.
"""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BASE_STYLE = Path(__file__).parent / "templates" / "base.css"
# HTML forbids most control characters, surrogates (as in paths that are not UTF-8) and noncharacters.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
    + "]"
)


def rendered(folder: Path, template: str, sources: Mapping[str, Sequence[str]], **content: Any) -> str:
    """A page as text; the same content gives the same text.

    Args:
        folder: of the templates.
        template: name of the page's own.
        sources: names of the files of its style (`css`, after the style of all pages) and its script (`js`). The
            template gets their text as `sources`, and what the policy allows as `digests`.
        content: the template's other variables.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_allowed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    texts = {kind: "".join((folder / name).read_text("utf-8") for name in names) for kind, names in sources.items()}
    texts["css"] = BASE_STYLE.read_text("utf-8") + texts["css"]
    digests = {kind: _digest(text) for kind, text in texts.items()}
    return environment.get_template(template).render(sources=texts, digests=digests, **content)


def thumbnail_sheet(images: Sequence[np.ndarray], side: int, columns: int, quality: int) -> dict[str, Any]:
    """Images, uint8 (height, width, 3), as one picture, row by row, in square tiles.

    One picture of 2,000 images takes far less space than 2,000 pictures.

    Returns:
        The picture as `src`, the `side` of a tile in pixels, and the numbers of `columns` and `rows`.
    """
    from PIL import Image

    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "gray")
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        image.thumbnail((side, side))
        row, column = divmod(number, columns)
        left, top = (side - image.width) // 2, (side - image.height) // 2
        sheet.paste(image, (column * side + left, row * side + top))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=quality)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"src": source, "side": side, "columns": columns, "rows": rows}


def _digest(source: str) -> str:
    """The SHA-256 of a style or script as a Content-Security-Policy writes it."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _allowed(value: Any) -> Any:
    """Text without the characters that HTML forbids; text that is HTML already stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return FORBIDDEN.sub("\ufffd", value)
    return value
