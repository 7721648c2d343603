"""What the page says about the classes: confusion matrices, frequent mistakes, recall."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.confusion import WORST_PAIRS, class_order, most_confused
from analysis.figures.style import MANY_CLASSES
from analysis.findings.text import with_interval
from analysis.report.content import Interval, Matrix, Part, Table
from classify.runs import SET_COVERAGE, RunResult

CLASSES_AT_FIRST = 20
LOOKS = ("transfer", "control")


def confusion_parts(confusions: Mapping[str, np.ndarray], class_names: Sequence[str]) -> list[Part]:
    """The confusion matrix of each run, by its name; of many classes, the most frequent mistakes."""
    if len(class_names) > MANY_CLASSES:
        return [_worst_pairs(name, counts, class_names) for name, counts in confusions.items()]
    order = class_order(list(confusions.values()))
    return [
        Matrix(f"{name}: predictions in percent of each true class.", counts, class_names, order, name)
        for name, counts in confusions.items()
    ]


def _worst_pairs(name: str, counts: np.ndarray, class_names: Sequence[str]) -> Table:
    """The most frequent mistakes of a run; scripts know each row by its run and by true and predicted class."""
    rows, keys = [], []
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    for true, predicted, count in most_confused(counts, class_names, WORST_PAIRS):
        share = 100 * count / counts[numbers[true]].sum()
        rows.append({"class": true, "taken for": predicted, "images": f"{count:,}", "% of the class": f"{share:.0f}"})
        keys.append(
            {
                "run": name,
                "class": str(numbers[true]),
                "predicted": str(numbers[predicted]),
                "images": str(count),
            }
        )
    frame = pd.DataFrame(rows, columns=["class", "taken for", "images", "% of the class"])
    return Table(f"The most frequent mistakes of {name}.", frame, keys=keys)


def _recall(values: Sequence[float], look: str) -> Interval:
    value, low, high = values
    return Interval(with_interval(value, low, high), value, low, high, look)


def recall_table(runs: Mapping[str, RunResult]) -> Table:
    """The recall of each class, the lowest first: of the best head, and of the control if there is one."""
    best = next(iter(runs.values()))
    shown = [name for name, values in best.recall.items() if values]
    shown.sort(key=lambda name: best.recall[name] or [])
    rows = []
    for name in shown:
        row: dict[str, object] = {"class": name, "test images": f"{best.support.get(name, 0):,}"}
        for look, (run, result) in zip(LOOKS, runs.items(), strict=False):
            values = result.recall.get(name)
            row[f"recall % of {run}"] = _recall(values, look) if values else "-"
        rows.append(row)
    numbers = {name: str(number) for number, name in enumerate(best.class_names)}
    return Table(
        "Recall: the share of each class's images that is recognised, with 95% intervals.",
        pd.DataFrame(rows),
        first=CLASSES_AT_FIRST,
        keys=[{"class": numbers.get(name, "")} for name in shown],
    )


def coverage_tables(run: str, result: RunResult) -> list[Table]:
    """How often sets of classes hold the true one, in all and by class; empty for a run without sets."""
    if result.coverage is None:
        return []
    every: Any = [result.coverage, result.coverage_low, result.coverage_high, result.set_size]
    rows = []
    for name, values in {"all classes": every, **result.class_coverage}.items():
        if values:
            share, low, high, size = values
            held = Interval(with_interval(share, low, high), share, low, high, "transfer", mark=SET_COVERAGE)
            rows.append({"class": name, "sets that hold it, % of images": held, "classes in a set": f"{size:.1f}"})
    caption = (
        f"Sets of classes by {run}, made to hold the true class for {100 * SET_COVERAGE:.0f}% of new images: how many "
        "do on the test images, with 95% intervals, and the mean number of classes in a set."
    )
    return [Table(caption, pd.DataFrame(rows), first=CLASSES_AT_FIRST)]
