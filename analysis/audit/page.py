"""The page of an audit: one HTML file with the suspects by class pair, for accepting or dismissing them one by one.

Accepted corrections are saved by the browser as a table of all images, which `frozenbench featurize --labels` takes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.audit.pictures import SHOWN_SIZE, PictureSource
from analysis.audit.suspects import Rows, Suspects
from analysis.audit.tables import name_of
from analysis.page import rendered, thumbnail_sheet
from featurize.core.files import written_whole

TEMPLATES = Path(__file__).parent / "templates"
FIRST_SHOWN = 20  # of each pair of classes; the others on demand
MOST_THUMBNAILS = 5_000
THUMBNAIL = 64  # pixels, at most
COLUMNS = 20  # thumbnails side by side in a sheet


def write_page(
    path: Path,
    title: str,
    findings: Sequence[str],
    rows: Rows,
    suspects: Suspects,
    class_names: Sequence[str],
    pictures: PictureSource | None,
    *,
    with_splits: bool,
) -> Path:
    """Write the page; it needs neither a network nor another file.

    Args:
        path: of the file.
        title: the name of the cache.
        findings: in sentences.
        rows: all images.
        suspects: among them.
        class_names: K names.
        pictures: for the thumbnails; None if they are gone.
        with_splits: whether the corrected table names each image's split, which a cross-validation has not.

    Returns:
        `path`.

    Raises:
        DataError: a picture cannot be read any more.
        OSError: the folder cannot be written to, or the disk is full.
    """
    page = rendered(
        TEMPLATES,
        "audit.html.j2",
        {"css": ["audit.css"], "js": ["audit.js"]},
        title=title,
        findings=findings,
        pairs=pairs_of(rows, suspects, class_names, pictures),
        first_shown=FIRST_SHOWN,
        classes=list(class_names),
        table=labels_table(rows, class_names, with_splits=with_splits),
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def pairs_of(
    rows: Rows, suspects: Suspects, class_names: Sequence[str], pictures: PictureSource | None
) -> list[dict[str, Any]]:
    """The suspects by label and suggested class, the pair with the most suspects first."""
    members: dict[tuple[int, int], list[int]] = {}
    for row in suspects.rows.tolist():
        members.setdefault((int(rows.labels[row]), int(suspects.suggested[row])), []).append(row)
    room = MOST_THUMBNAILS
    pairs = []
    for (label, suggested), own in sorted(members.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        drawn = own[:room]
        room -= len(drawn)
        pair: dict[str, Any] = {"label": class_names[label], "suggested": class_names[suggested], "suspects": []}
        for number, row in enumerate(own):
            pair["suspects"].append(
                {
                    "row": row,
                    "name": name_of(rows, row) or f"{rows.splits[row]} {rows.ids[row]}",
                    "chance": f"{100 * suspects.wrong[row]:.0f}%",
                    "drawn": pictures is not None and number < len(drawn),
                }
            )
        if pictures is not None and drawn:
            pair |= sheet(pictures.read(np.array(drawn)))
        pairs.append(pair)
    return pairs


def sheet(pixels: np.ndarray) -> dict[str, Any]:
    """Thumbnails (n, height, width, 3) as one picture, see `thumbnail_sheet`."""
    side = min(THUMBNAIL, max(pixels.shape[1:3]), SHOWN_SIZE)
    return thumbnail_sheet(list(pixels), side, min(COLUMNS, len(pixels)), quality=80)


def labels_table(rows: Rows, class_names: Sequence[str], *, with_splits: bool) -> str:
    """All image files as JSON: a line of headings, then path, label and split of each; empty without files."""
    if rows.paths is None:
        return ""
    table = [["path", "label", *(["split"] if with_splits else [])]]
    for row, label in enumerate(rows.labels.tolist()):
        split = [str(rows.splits[row])] if with_splits else []
        table.append([name_of(rows, row), class_names[label], *split])
    return json.dumps(table)
