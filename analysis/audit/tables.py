"""The files of an audit that other programs read: CSV tables, and a summary in JSON."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.core.errors import DataError
from featurize.core.files import data_root, written_whole

if TYPE_CHECKING:
    from analysis.audit.suspects import Rows, Suspects

SUMMARY = "audit.json"
RANKING = "path", "id", "split", "label", "suggested", "probability", "margin", "rank"


def audit_folder(cache: str) -> Path:
    """The default folder of the audit of a cache, by the cache's name without its suffix: the report looks there."""
    return data_root() / "audits" / cache


def write_ranking(path: Path, rows: "Rows", suspects: "Suspects", class_names: Sequence[str], count: int) -> Path:
    """Write the `count` most suspected images: `probability` is that of a wrong label, `rank` starts at 1."""

    def lines() -> Iterable[tuple[Any, ...]]:
        for rank, row in enumerate(suspects.order[:count].tolist(), start=1):
            label, suggested = class_names[rows.labels[row]], class_names[suspects.suggested[row]]
            numbers = f"{suspects.wrong[row]:.4f}", f"{suspects.margin[row]:.4f}"
            yield name_of(rows, row), rows.ids[row], rows.splits[row], label, suggested, *numbers, rank

    return write_csv(path, RANKING, lines())


def name_of(rows: "Rows", row: int) -> str:
    """The path of an image file below the data set's folder; empty for images of other sources."""
    return "" if rows.paths is None else os.fsdecode(rows.paths[row])


def write_csv(path: Path, heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV file; returns its path.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(lines)
    return path


def write_summary(path: Path, summary: dict[str, Any]) -> Path:
    """Write the facts of an audit as JSON; returns the path."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
    return path


def read_summary(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The facts of an audit; None if there is none, or it is of another cache."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); repeat frozenbench audit") from error
    if not isinstance(summary, dict) or summary.get("fingerprint") != fingerprint:
        return None
    return summary
