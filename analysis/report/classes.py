"""What the page says about the classes: confusion matrices, frequent mistakes, recall."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.confusion import WORST_PAIRS, class_order, counts_of, most_confused
from analysis.figures.style import MANY_CLASSES
from analysis.findings import TRANSFER, best_pretrained, class_gains, class_sentences
from analysis.findings.text import points, with_interval
from analysis.report import captions
from analysis.report.captions import FigureFolder, drawn_parts, run_name
from analysis.report.content import Interval, Matrix, Part, Section, Table
from classify.runs import SET_COVERAGE, RunResult, head_name, read_predictions

CLASSES_AT_FIRST = 20
MISTAKES_NAMED = 3
LOOKS = ("transfer", "control")


def classes_section(shown: pd.DataFrame, runs: Mapping[Path, RunResult], folder: FigureFolder) -> Section:
    """The mistakes and probabilities of the best head on a pretrained network, beside the best control."""
    best = best_pretrained(shown)
    controls = shown[shown["kind"] != TRANSFER]
    pair = [best]
    if len(controls) and best["kind"] == TRANSFER:
        pair.append(controls.iloc[0])
    class_names = runs[Path(best["run_dir"])].class_names
    compared, confusions, named = {}, {}, {}
    for row in pair:
        run_dir = Path(row["run_dir"])
        named[run_name(row)] = row
        compared[run_name(row)] = runs[run_dir]
        confusions[run_name(row)] = counts_of(read_predictions(run_dir), len(class_names))
    same_features = shown[shown["features"] == best["features"]]
    heads = {head_name(row): runs[Path(row.run_dir)] for row in same_features.itertuples()}
    mistakes = [
        f"{true} taken for {predicted} ({count:,})"
        for true, predicted, count in most_confused(confusions[run_name(best)], class_names, MISTAKES_NAMED)
    ]
    _, confusion_notes = drawn_parts("confusion", captions.confusion_figure, confusions, class_names, folder)
    _, recall_notes = drawn_parts("recall", captions.recall_figure, named, compared, folder)
    reliability, reliability_notes = drawn_parts(
        "reliability", captions.reliability_figures, heads, best["features"], folder
    )
    gains, sentences = None, []
    if len(pair) == 2:
        gains = class_gains(*(row["run_dir"] for row in pair))
        sentences = class_sentences(gains, class_names, run_name(pair[1]))
    finding = f"{run_name(best)} makes no mistake."
    if mistakes:
        finding = f"The most frequent mistakes: {'; '.join(mistakes)}."
    return Section(
        title="Mistakes",
        finding=finding,
        parts=[
            *confusion_parts(confusions, class_names),
            recall_table(compared, gains),
            *reliability,
            *coverage_tables(*next(iter(compared.items()))),
        ],
        details=sentences,
        notes=[
            *confusion_notes,
            *recall_notes,
            *reliability_notes,
            "Gains of classes are paired; with 95%, all their intervals hold at once (Bonferroni).",
            f"mistakes.csv lists the wrong predictions of {run_name(best)} with their files.",
        ],
    )


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


def _gain(gains: pd.DataFrame, label: int) -> str:
    if label not in gains.index:
        return "-"
    gain, low, high = points(*gains.loc[label])
    return f"{gain} ({low} to {high})"


def recall_table(runs: Mapping[str, RunResult], gains: pd.DataFrame | None = None) -> Table:
    """The recall of each class, the lowest first: of the best head, and of the control if there is one.

    Args:
        runs: of both, by their names.
        gains: of the head over the control, from `class_gains`.
    """
    best = next(iter(runs.values()))
    shown = [name for name, values in best.recall.items() if values]
    shown.sort(key=lambda name: best.recall[name] or [])
    numbers = {name: number for number, name in enumerate(best.class_names)}
    rows = []
    for name in shown:
        row: dict[str, object] = {"class": name, "test images": f"{best.support.get(name, 0):,}"}
        for look, (run, result) in zip(LOOKS, runs.items(), strict=False):
            values = result.recall.get(name)
            row[f"recall % of {run}"] = _recall(values, look) if values else "-"
        if gains is not None:
            row["gain, points"] = _gain(gains, numbers.get(name, -1))
        rows.append(row)
    return Table(
        "Recall: the share of each class's images that is recognised, with 95% intervals.",
        pd.DataFrame(rows),
        first=CLASSES_AT_FIRST,
        keys=[{"class": str(numbers.get(name, ""))} for name in shown],
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
