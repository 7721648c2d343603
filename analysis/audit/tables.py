"""The files of an audit that other programs read: CSV tables, and a summary in JSON."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.core.errors import DataError
from featurize.core.files import data_root, written_whole

if TYPE_CHECKING:
    from analysis.audit.copies import Copies
    from analysis.audit.suspects import Rows, Suspects

SUMMARY = "audit.json"
PAGE = "audit.html"
SUSPECTS = "suspects.csv"
RANKING = "path", "id", "split", "label", "suggested", "probability", "margin", "rank", "kind"
COPIES = (
    "path_a", "path_b", "split_a", "split_b", "kind", "similarity", "same_label", "id_a", "id_b", "label_a", "label_b",
)  # fmt: skip
STRANGERS = "path", "id", "split", "label", "kind", "distance"


def audit_folder(cache: str) -> Path:
    """The default folder of the audit of a cache, by the cache's name without its suffix: the report looks there."""
    return data_root() / "audits" / cache


def write_ranking(
    path: Path, rows: "Rows", suspects: "Suspects", class_names: Sequence[str], count: int, conflicts: np.ndarray
) -> Path:
    """Write the `count` most suspected images.

    `probability` is that of a wrong label, `rank` starts at 1, and `kind` is `conflict` for the rows in `conflicts`,
    which have a copy with another label, else `label`.
    """
    in_conflict = set(conflicts.tolist())

    def lines() -> Iterable[tuple[Any, ...]]:
        for rank, row in enumerate(suspects.order[:count].tolist(), start=1):
            label, suggested = class_names[rows.labels[row]], class_names[suspects.suggested[row]]
            numbers = f"{suspects.wrong[row]:.4f}", f"{suspects.margin[row]:.4f}"
            kind = "conflict" if row in in_conflict else "label"
            yield name_of(rows, row), rows.ids[row], rows.splits[row], label, suggested, *numbers, rank, kind

    return write_csv(path, RANKING, lines())


def write_copies(path: Path, rows: "Rows", copies: "Copies", class_names: Sequence[str]) -> Path:
    """Write the pairs of copies; `same_label` is `yes` or `no`."""

    def lines() -> Iterable[tuple[Any, ...]]:
        for (one, other), kind, similarity in zip(copies.pairs.tolist(), copies.kinds, copies.similarity, strict=True):
            labels = class_names[rows.labels[one]], class_names[rows.labels[other]]
            same = "yes" if labels[0] == labels[1] else "no"
            paths = name_of(rows, one), name_of(rows, other)
            splits = rows.splits[one], rows.splits[other]
            yield *paths, *splits, kind, f"{similarity:.4f}", same, rows.ids[one], rows.ids[other], *labels

    return write_csv(path, COPIES, lines())


def write_strangers(
    path: Path, rows: "Rows", found: np.ndarray, reasons: np.ndarray, distances: np.ndarray, class_names: Sequence[str]
) -> Path:
    """Write the strange pictures: the numbers of their rows (m,) and reasons (m,); the distances are of all rows."""

    def lines() -> Iterable[tuple[Any, ...]]:
        for row, reason in zip(found.tolist(), reasons, strict=True):
            label = class_names[rows.labels[row]]
            yield name_of(rows, row), rows.ids[row], rows.splits[row], label, reason, f"{distances[row]:.2f}"

    return write_csv(path, STRANGERS, lines())


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
