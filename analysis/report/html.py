"""A report as one self-contained HTML file: no network, no other file, no date.

This module knows nothing about transfer learning: a `Report` holds all the text. The page is
`templates/report.html.j2`.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from analysis.page import rendered, thumbnail_sheet
from analysis.report.content import Drawing, Interval, Matrix, Part, PointMap, Report, Table
from featurize.core.errors import DataError
from featurize.core.files import written_whole

TEMPLATES = Path(__file__).parent / "templates"
OWN = {
    "css": ("report.css", "figures.css"),
    "js": ("report.js", "tables.js", "sheet.js", "filters.js", "map.js", "explore.js"),
}
MOST_BYTES = 5_000_000  # of the whole file
TILES = ((96, 400), (48, 1200), (32, math.inf))  # the side of a thumbnail in pixels, and up to how many images
LONGEST_NUMBER = 30  # letters of a number with its interval; longer cells are sentences
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
NUMBER = re.compile(r"[≤≥<>~≈]?\s*[+\-\u2212]?[\d.]*\d")  # the start of a numeric cell


def write_report(report: Report, path: Path) -> Path:
    """Write a report as one HTML file; the same report gives the same bytes.

    Returns:
        `path`.

    Raises:
        DataError: the report would exceed 5 MB.
        OSError: the folder cannot be written to, or the disk is full.
    """
    sections = [(section, [_part(part) for part in section.parts]) for section in report.sections]
    page = rendered(
        TEMPLATES,
        "report.html.j2",
        OWN,
        report=report,
        numbers=[{"number": number, **_interval(number.scale)} for number in report.numbers],
        ranking=_table(report.ranking),
        sheet=_sheet(report.thumbnails),
        sections=sections,
        markers=MARKERS,
    )
    content = page.encode()
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path} would have {len(content) / 1e6:.1f} MB, expected at most {MOST_BYTES / 1e6:g} MB, as it has "
            f"{len(report.thumbnails):,} thumbnails"
        )
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path


def _part(part: Part) -> dict[str, Any]:
    """The variables of a part's template."""
    if isinstance(part, Drawing):
        return {"kind": "drawing", "part": part, "svg": Markup(part.svg)}
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Matrix):
        return {"kind": "matrix", "part": part, "rows": _matrix_rows(part)}
    if isinstance(part, PointMap):
        return {"kind": "map", "part": part, **_map(part)}
    return {"kind": type(part).__name__.lower(), "part": part}


def _matrix_rows(part: Matrix) -> list[tuple[int, list[tuple[int, int, str, int]]]]:
    """Each true class with its cells: predicted class, images, percent, and a shade from 0 to 10.

    Shades follow the square root of the share, which makes mistakes visible.
    """
    rows = []
    for true in part.order:
        images = max(int(part.counts[true].sum()), 1)
        cells = []
        for predicted in part.order:
            own = int(part.counts[true, predicted])
            share = own / images
            percent = f"{100 * share:.0f}" if share >= 0.005 else ""
            cells.append((predicted, own, percent, math.ceil(10 * math.sqrt(share))))
        rows.append((true, cells))
    return rows


def _table(part: Table) -> dict[str, Any]:
    """The columns that have values, as headings and cells with their looks."""
    columns = []
    for number, heading in enumerate(part.frame.columns):
        cells = list(part.frame.iloc[:, number])
        texts = [str(cell) for cell in cells]
        if cells and set(texts) <= {"-", ""}:
            continue
        columns.append(
            {
                "heading": heading,
                "cells": cells,
                "number": number,
                "extra": heading in part.extra,
                "look": _look(cells, extra=heading in part.extra),
            }
        )
    rows = [[column["cells"][row] for column in columns] for row in range(len(part.frame))]
    keys = part.keys or [{} for _ in rows]
    return {"kind": "table", "part": part, "columns": columns, "rows": list(zip(rows, keys, strict=True))}


def _look(cells: list[Any], *, extra: bool) -> str:
    """The classes of a column's cells."""
    looks = {
        "number": _is_numeric([str(cell) for cell in cells]),
        "drawn": any(isinstance(cell, Interval) for cell in cells),
        "extra": extra,
    }
    return " ".join(name for name, has in looks.items() if has)


def _interval(scale: tuple[float, float, float, float] | None) -> dict[str, Any]:
    """Where the parts of a drawn interval lie, in 0..200; a bound that is open lies at the end."""
    if scale is None:
        return {"at": None}
    low, value, high, neutral = scale
    shown = [value, neutral, *(bound for bound in (low, high) if math.isfinite(bound))]
    left, right = min(shown), max(shown)
    room = 0.1 * (right - left) or 1.0
    left, right = left - room, right + room

    def place(number: float) -> float:
        if math.isnan(number):
            return math.nan
        return round(200 * (min(max(number, left), right) - left) / (right - left), 1)

    has_interval = not math.isnan(low)
    return {
        "at": {"low": place(low), "value": place(value), "high": place(high), "neutral": place(neutral)},
        "has_interval": has_interval,
    }


def _is_numeric(column: list[str]) -> bool:
    """Whether a column is aligned as numbers: it may hold a few repeated words, such as "never" or "-"."""
    words = [cell for cell in column if not NUMBER.match(cell) or len(cell) > LONGEST_NUMBER]
    return len(column) - len(words) >= max(1, len(set(words)))


def _map(drawn: PointMap) -> dict[str, Any]:
    """The points in the map's coordinates, and their images side by side in one picture."""
    low, high = drawn.points.min(axis=0), drawn.points.max(axis=0)
    room = np.array([MAP_WIDTH - 2 * MAP_MARGIN, MAP_HEIGHT - 2 * MAP_MARGIN])
    scale = np.min(room / np.maximum(high - low, 1e-9))
    centre = np.array([MAP_WIDTH / 2, MAP_HEIGHT / 2])
    positions = (drawn.points - (low + high) / 2) * scale * [1, -1] + centre  # in SVG, y points down
    points = []
    for (x, y), label, caption, image in zip(positions, drawn.labels, drawn.captions, drawn.images, strict=True):
        points.append((f"{x:.1f}", f"{y:.1f}", int(label), caption, image))
    return {"points": points, "size": (MAP_WIDTH, MAP_HEIGHT), "colours": COLOURS}


def _sheet(thumbnails: Sequence[np.ndarray]) -> dict[str, Any] | None:
    """The sheet of all thumbnails; None without any. The more images, the smaller they are."""
    if not len(thumbnails):
        return None
    most = next(side for side, count in TILES if len(thumbnails) <= count)
    side = min(most, max(max(pixels.shape[:2]) for pixels in thumbnails))
    return thumbnail_sheet(thumbnails, side, math.ceil(math.sqrt(len(thumbnails))), quality=75)
