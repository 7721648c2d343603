"""A report as one HTML file that needs nothing else: no network, no other file, no date.

This module knows nothing of transfer learning: what a report says comes in a `Report`. The page is
`templates/report.html.j2`. Its style and script are the only ones that the page's Content-Security-Policy
lets run, by their SHA-256, and nothing can be loaded but `data:` images: no name from a data set, whatever
it holds, can change that.
"""

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featurize.core.errors import DataError
from featurize.core.files import written_whole

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 5_000_000  # of the whole file
THUMBNAIL = 32  # pixels, the longer side
MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 1000, 750, 20
MARKERS = (
    "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0z",  # circle
    "M-6-6h12v12h-12z",  # square
    "M0-9L8 6H-8z",  # triangle
    "M0-9L8 0L0 9L-8 0z",  # diamond
    "M0 9L8-6H-8z",  # triangle, point down
    "M-3-8h6v5h5v6h-5v5h-6v-5h-5v-6h5z",  # plus
    "M-8-5L-5-8L0-3L5-8L8-5L3 0L8 5L5 8L0 3L-5 8L-8 5L-3 0z",  # cross
)
COLOURS = 10  # in report.css; with 7 markers, 70 classes look different
# What HTML allows in no document: most control characters, surrogates (as in paths that are not UTF-8), noncharacters.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
    + "]"
)
NUMBER = re.compile(r"[≤≥<>~≈]?\s*[+\-\u2212]?[\d.]*\d")  # how a cell that is a number begins


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption; `alt` says to those who do not see it what it shows."""

    path_png: Path
    caption: str
    alt: str


@dataclass(frozen=True)
class Table:
    """Strings as they are to be read; the columns' names are the headings, the first column names the rows.

    Columns can be sorted: by the number a cell begins with (so a column keeps to one unit), cells without one last.
    `bold` holds row and column of the cells that are set in bold.
    """

    caption: str
    frame: pd.DataFrame
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class PointMap:
    """Points in the plane, each of which shows its image when pointed at.

    Attributes:
        points: (n, 2), finite; drawn to one scale in both directions.
        labels: (n,) integers, 0..K-1.
        class_names: K names.
        captions: n texts that stand below the images.
        thumbnails: (n, h, w, 3) uint8 RGB; shrunk to 32 pixels where they are larger.
        caption: of the map.
    """

    points: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    captions: list[str]
    thumbnails: np.ndarray
    caption: str


@dataclass(frozen=True)
class Section:
    """A question, its answer in a sentence, what the answer rests on, and how that was measured (`notes`)."""

    title: str
    answer: str
    parts: list[Picture | Table | PointMap]
    notes: list[str] = field(default_factory=list)
    question: str = ""


@dataclass(frozen=True)
class Report:
    """What a report says, from top to bottom; what is empty is left away.

    Attributes:
        title: the heading of the page.
        subtitle: what was measured on, in a line.
        summary: the answers, a sentence each.
        sections: what they rest on.
        commands: shell commands that make this report from nothing, in order.
        versions: name of a program or library -> its version.
        fingerprints: what -> the hexadecimal digits that identify it.
        limits: what the figures do not say.
        left_out: a run or file that could not be used -> why.
    """

    title: str
    subtitle: str
    summary: list[str]
    sections: list[Section]
    commands: list[str]
    versions: dict[str, str]
    fingerprints: dict[str, str]
    limits: list[str]
    left_out: list[tuple[str, str]]


def write_report(report: Report, path: Path) -> Path:
    """Write a report as one HTML file; the same report gives the same bytes.

    Returns:
        `path`.

    Raises:
        DataError: a picture is missing or not a PNG file, or the file would have more than 5 MB.
        OSError: the folder cannot be written to, or the disk is full.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_allowed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sections = [(section, [_part(part) for part in section.parts]) for section in report.sections]
    own = {name: (TEMPLATES / f"report.{name}").read_text("utf-8") for name in ("css", "js")}
    page = environment.get_template("report.html.j2").render(
        report=report,
        sections=sections,
        markers=MARKERS,
        own=own,
        digests={name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in own.items()},
    )
    content = page.encode()
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path} would have {len(content) / 1e6:.1f} MB, expected at most {MOST_BYTES / 1e6:g} MB; leave out or "
            f"draw smaller some of its {sum('src' in part for _, parts in sections for part in parts)} pictures"
        )
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path


def _allowed(value: Any) -> Any:
    """Text without what HTML forbids; what is HTML already stays."""
    return FORBIDDEN.sub("\ufffd", value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _part(part: Picture | Table | PointMap) -> dict[str, Any]:
    """What the template needs to show a part of a section."""
    if isinstance(part, Picture):
        return {"kind": "picture", "part": part, **_picture(part.path_png)}
    if isinstance(part, Table):
        columns = [[str(cell) for cell in part.frame.iloc[:, number]] for number in range(part.frame.shape[1])]
        of_numbers = [_of_numbers(column) for column in columns]
        return {"kind": "table", "part": part, "rows": zip(*columns, strict=True), "of_numbers": of_numbers}
    return {"kind": "map", "part": part, **_map(part)}


def _of_numbers(column: list[str]) -> bool:
    """Whether a column is aligned as numbers: a few words, such as "never" or "-", may stand among them."""
    words = [cell for cell in column if not NUMBER.match(cell)]
    return len(column) - len(words) >= max(1, len(set(words)))


def _picture(path: Path) -> dict[str, Any]:
    """A PNG file as a data URI, and the CSS pixels that show it in the size it was drawn for."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
            scale = 96 / image.info.get("dpi", (96, 96))[0]
            width, height = (round(scale * side) for side in image.size)
    except (OSError, SyntaxError, ValueError) as error:  # the last two are Pillow's for broken chunks
        what = f"{path} cannot be put into the report: {error}"
        raise DataError(f"{what}; draw it again with python -m analysis") from error
    return {"src": _data_uri("png", content), "width": width, "height": height}


def _map(drawn: PointMap) -> dict[str, Any]:
    """The points in the map's coordinates, and their images side by side in one picture."""
    from PIL import Image

    low, high = drawn.points.min(axis=0), drawn.points.max(axis=0)
    room = np.array([MAP_WIDTH - 2 * MAP_MARGIN, MAP_HEIGHT - 2 * MAP_MARGIN])
    scale = np.min(room / np.maximum(high - low, 1e-9))
    places = (drawn.points - (low + high) / 2) * scale * [1, -1] + [MAP_WIDTH / 2, MAP_HEIGHT / 2]

    images = [Image.fromarray(pixels) for pixels in drawn.thumbnails]
    for image in images:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    width, height = images[0].size
    columns = int(np.ceil(np.sqrt(len(images))))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=80)
    return {
        "points": [
            (f"{x:.1f}", f"{y:.1f}", int(label), caption)
            for (x, y), label, caption in zip(places, drawn.labels, drawn.captions, strict=True)
        ],
        "size": (MAP_WIDTH, MAP_HEIGHT),
        "colours": COLOURS,
        "src": _data_uri("webp", buffer.getvalue()),
        "tile": [width, height, columns],
    }


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
