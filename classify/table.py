"""The table of results on the terminal: columns are dropped to fit its width, numbers are never cut."""

import json
import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.core.console import printable

if TYPE_CHECKING:
    from classify.runs import RunResult
    from classify.statistics import Comparison

logger = logging.getLogger("frozenbench")
JSON_KEYS = (
    "model", "features", "train_rows", "test_rows", "seed", "class_weight", "tuned", "accuracy", "accuracy_low",
    "accuracy_high", "macro_f1", "macro_f1_low", "macro_f1_high", "log_loss", "brier", "ece", "test_opened",
    "fit_seconds", "predict_ms_per_image", "iterations", "converged", "warnings", "own_head", "coverage",
    "coverage_low", "coverage_high", "set_size", "held_out_rows", "suspects", "suspects_rows",
)  # fmt: skip
SHARED_LETTERS = "Heads that share a letter do not differ significantly ({tests}, Holm, 5%)."
PIPE_WIDTH = 160  # characters, where there is no terminal
WRAPPED = 11  # characters that a wrapped column has at least
DROPPED_FIRST = ("ms/image", "fit s", "log loss", "ECE %", "macro F1 %", "group", "run", "train", "features")


@dataclass(frozen=True)
class Column:
    """A column of the table; text that is too long is wrapped, numbers are not.

    Attributes:
        heading: of the column.
        cells: of the rows.
        is_text: whether cells may be wrapped.
        below: a second line for each cell, which is never wrapped.
    """

    heading: str
    cells: list[str]
    is_text: bool = False
    below: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """The characters that the column needs."""
        widest = max(map(len, [self.heading, *self.cells]))
        if self.is_text:
            widest = min(widest, WRAPPED)
        return max([widest, *map(len, self.below)])

    @property
    def lines(self) -> list[str]:
        """The cells with their second lines."""
        if not self.below:
            return self.cells
        return [f"{cell}\n{below}" for cell, below in zip(self.cells, self.below, strict=True)]


def report(results: "dict[Path, RunResult]", *, as_json: bool) -> None:
    """Print the comparison on standard output, best first, a table for each test set.

    A run whose predictions cannot be used is left out of the tables with a line.

    Raises:
        DataError: no run can be used.
    """
    ranked = sorted(results.items(), key=lambda item: (-item[1].accuracy, item[1].features, item[1].model))
    if as_json:
        print(json.dumps({"runs": [run_as_json(path, result) for path, result in ranked]}))
        return
    from classify.runs import with_predictions

    usable, _ = with_predictions(results)
    test_sets: dict[str, dict[Path, RunResult]] = {}
    for path, result in ranked:
        if path in usable:
            test_sets.setdefault(result.test_digest, {})[path] = result
    for runs_on_one in test_sets.values():
        print_table(runs_on_one)


def run_as_json(path: Path, result: "RunResult") -> dict[str, Any]:
    """The facts of a run that `--json` prints."""
    facts = {key: getattr(result, key) for key in JSON_KEYS}
    return {**facts, "name": path.name, "run_dir": str(path)}


def print_table(results: "dict[Path, RunResult]", width: int | None = None) -> None:
    """Print the runs on one test set as a table, with letters for the significance of their differences.

    Args:
        results: the runs, best first.
        width: of the terminal, in characters; None to find out.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from classify.runs import coded, head_name, read_predictions
    from classify.statistics import compare, size_warning

    comparison = compare({path: read_predictions(path) for path in results})
    first = next(iter(results.values()))
    console = Console(width=width or (None if sys.stdout.isatty() else PIPE_WIDTH))
    title = f"{first.dataset}: {first.test_rows:,} test images"
    if first.folds:
        title += f" in {first.folds} folds"
    if first.groups:
        title += f", {first.groups:,} groups"
    tests = (
        "McNemar tests for images that are not independent" if first.folds or first.groups else "exact McNemar tests"
    )
    columns = []
    for column in _columns(results, comparison):
        if len(results) > 1 and column.heading in ("features", "train") and len(set(column.cells)) == 1:
            title += f", {column.heading} {column.cells[0]}"  # the same for all: said once
        else:
            columns.append(column)
    columns = fitting(columns, console.width)
    # Markup is not meant: a class or a folder may be called [red].
    caption = SHARED_LETTERS.format(tests=tests) if len(results) > 1 else None
    table = Table(title=escape(printable(title)), caption=caption)
    free = console.width - _table_width(columns)
    for column in columns:
        extra = max(0, min(free, max(map(len, column.cells)) - column.width))
        free -= extra
        justify: Any = "left" if column.is_text or column.heading in ("group", "run") else "right"
        table.add_column(
            column.heading, justify=justify, no_wrap=not column.is_text, overflow="fold", width=column.width + extra
        )
    for cells in zip(*(column.lines for column in columns), strict=True):
        table.add_row(*map(escape, cells))
    console.print(table)
    if warning := size_warning(comparison, lambda path: head_name(results[path], details=True)):
        logger.info(coded("FB006", warning))


def fitting(columns: list[Column], width: int) -> list[Column]:
    """The columns that fit into a width. The less important ones are dropped; the runs' names move below the heads."""
    shown = list(columns)
    for heading in DROPPED_FIRST:
        if _table_width(shown) <= width:
            break
        dropped = [column for column in shown if column.heading == heading]
        shown = [column for column in shown if column.heading != heading]
        if heading == "run":
            names = dropped[0].cells
            shown = [replace(column, below=names) if column.heading == "head" else column for column in shown]
    return shown


def _table_width(columns: list[Column]) -> int:
    return 1 + sum(column.width + 3 for column in columns)  # a cell has a space on each side, and a border


def _columns(results: "dict[Path, RunResult]", comparison: "Comparison") -> list[Column]:
    from classify.runs import head_name

    runs = list(results.values())
    columns = [
        Column("features", [printable(run.features.removeprefix(f"{run.dataset}-")) for run in runs], is_text=True),
        Column("head", [printable(head_name(run, details=True)) for run in runs], is_text=True),
        Column("train", [f"{run.train_rows:,}" for run in runs]),
        Column("accuracy %", [f"{100 * run.accuracy:.1f}" for run in runs]),
        Column("95% interval", [f"{100 * run.accuracy_low:.1f} to {100 * run.accuracy_high:.1f}" for run in runs]),
        Column("macro F1 %", [f"{100 * run.macro_f1:.1f}" for run in runs]),
        Column("log loss", [f"{run.log_loss:.3f}" for run in runs]),
        Column("ECE %", [f"{100 * run.ece:.1f}" for run in runs]),
        Column("fit s", [f"{run.fit_seconds:.1f}" for run in runs]),
        Column("ms/image", [f"{run.predict_ms_per_image:.3f}" for run in runs]),
        Column("run", [printable(path.name) for path in results]),
    ]
    if len(runs) > 1:
        columns.insert(5, Column("group", [comparison.groups[path] for path in results]))
    return columns
