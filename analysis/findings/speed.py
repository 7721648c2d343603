"""The seconds and epochs that heads and controls take.

`table` holds rows of `analysis.frame.comparison` of one test set, `runs` at least the runs of these rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.findings.transfer import APPROACH, TRANSFER, approaches, paired_gain, t_interval
from analysis.frame import epoch_near_end, training_cost
from classify.runs import RunResult

# The columns of a run in `seconds_to_reach`, and their values if no run reaches the target.
UNREACHED = {
    "train_rows": math.nan,
    "at_most": False,
    "accuracy": math.nan,
    "fit_seconds": math.inf,
    "extraction_seconds": math.inf,
    "seconds": math.inf,
    "heads": 0,  # known all the same
    "shared_seconds": math.inf,
    "ms_per_answer": math.nan,
}


@dataclass(frozen=True)
class Ratio:
    """How many times as much a control takes as transfer, with a 95% interval over `seeds` pairs of runs."""

    value: float
    low: float
    high: float
    train_rows: int
    seeds: int


def timed(table: pd.DataFrame) -> pd.DataFrame:
    """The `approaches` with default settings, their `training_cost`, and `ms_per_answer`.

    This is the time that a correct answer takes: extraction and prediction of an image, divided by the accuracy. Tuned
    heads are left out: the seconds of their fit do not include the search.
    """
    rows = approaches(table[table["tuned"] == 0])
    per_image = 1000 * rows["extraction_seconds"] + rows["predict_ms_per_image"]
    return training_cost(rows.assign(ms_per_answer=per_image / rows["accuracy"]))


def best_by_seconds(table: pd.DataFrame, *, transfer: bool) -> pd.DataFrame:
    """The runs on pretrained features, or those of controls, that no run of this side beats in as many seconds.

    The fewest seconds first; each is more accurate than the one before. The seconds include the extraction.
    """
    rows = timed(table)
    side = rows[(rows["kind"] == TRANSFER) == transfer]
    side = side.sort_values(["seconds", "accuracy", "run_dir"], ascending=[True, False, True])
    best_before = side["accuracy"].cummax().shift(fill_value=-1)
    return side[side["accuracy"] > best_before]


class EqualTime(NamedTuple):
    """The most accurate runs of transfer and of a control within as many seconds, and the gain with its interval."""

    seconds: float
    approach: str
    control: str
    gain: float
    low: float
    high: float


def at_equal_time(table: pd.DataFrame) -> EqualTime | None:
    """Transfer against controls in the time that the most accurate run takes of the side where that is faster.

    Returns:
        None if the other side has no run in this time.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    ours, controls = (best_by_seconds(table, transfer=transfer) for transfer in (True, False))
    if ours.empty or controls.empty:
        return None
    budget = min(ours["seconds"].iloc[-1], controls["seconds"].iloc[-1])
    ours, controls = ours[ours["seconds"] <= budget], controls[controls["seconds"] <= budget]
    if ours.empty or controls.empty:
        return None
    one, other = ours.iloc[-1], controls.iloc[-1]
    return EqualTime(float(budget), one["approach"], other["approach"], *paired_gain(one["run_dir"], other["run_dir"]))


def seconds_to_reach(table: pd.DataFrame, runs: Mapping[Path, RunResult], target: float) -> pd.DataFrame:
    """The cheapest run of each approach that reaches an accuracy, 0..1, on the test images.

    Returns:
        A row per approach: `approach`, `kind`, `model`, `features`, `train_rows` (of the run),
        `at_most` (true if this is the smallest size, so that fewer images and seconds might do),
        `accuracy`, `fit_seconds`, `extraction_seconds` (of all its training images), `seconds` (both),
        `heads` (number of models on the same features), `shared_seconds` (the fit, and the extraction
        divided by these heads), `ms_per_answer` (as in `timed`) and `history_seconds` (extraction
        included: the first epoch of any run whose validation accuracy reaches the target; NaN without such
        a history, as for every head that is not trained from scratch). If no run reaches the target,
        seconds are infinite, and `train_rows` and `accuracy` NaN. Fewest seconds first.
    """
    considered = timed(table)
    smallest = considered.groupby("approach")["train_rows"].transform("min")
    considered["at_most"] = considered["train_rows"] == smallest
    considered["heads"] = considered.groupby("features")["model"].transform("nunique")
    considered["shared_seconds"] = considered["fit_seconds"] + considered["extraction_seconds"] / considered["heads"]
    rows = []
    for names, own in considered.groupby(APPROACH):
        reached = own[own["accuracy"] >= target].sort_values(["seconds", "run_dir"])
        cheapest = reached.iloc[0] if len(reached) else {**UNREACHED, "heads": own["heads"].iloc[0]}
        rows.append([*names, *(cheapest[column] for column in UNREACHED), _history_seconds(own, runs, target)])
    result = pd.DataFrame(rows, columns=[*APPROACH, *UNREACHED, "history_seconds"])
    return result.sort_values(["seconds", "approach"], ignore_index=True)


def convergence(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> pd.DataFrame:
    """The epochs that networks take to come near their final accuracy, and the iterations of logistic regression.

    Returns:
        A row per run that has a history or is a logistic regression: `approach`, `kind`, `model`,
        `features`, `train_rows`, `seed`, `accuracy` (on the test images, 0..1), `epochs`,
        `epochs_to_90` (`epoch_near_end`), `seconds_per_epoch`, `seconds_to_90`, `images_to_90` (those seen until then,
        each as often as it is seen), `iterations` and `run_dir`; NaN where a run lacks the number. Sorted by approach,
        size and seed.
    """
    names = [*APPROACH, "train_rows", "seed", "accuracy"]
    rows = []
    for row in approaches(table).sort_values(["approach", "train_rows", "seed"]).itertuples():
        history = runs[Path(row.run_dir)].history
        if history:
            epochs, near_end = len(history["accuracy"]), epoch_near_end(history["accuracy"])
            seconds = row.fit_seconds / epochs
            images = near_end * _images_per_epoch(runs[Path(row.run_dir)])
            numbers = [epochs, near_end, seconds, seconds * near_end, images]
        elif row.model == "logreg":
            numbers = [math.nan] * 5
        else:
            continue
        rows.append([*(getattr(row, name) for name in names), *numbers, row.iterations, row.run_dir])
    columns = ["epochs", "epochs_to_90", "seconds_per_epoch", "seconds_to_90", "images_to_90", "iterations", "run_dir"]
    return pd.DataFrame(rows, columns=[*names, *columns])


def paired_ratio(found: pd.DataFrame, column: str, approach: str, control: str) -> Ratio | None:
    """How many times as much a control takes as an approach, on the same training images.

    Args:
        found: from `timed` or `convergence`.
        column: the positive number to compare, such as `seconds`.
        approach: of the one side.
        control: the approach of the other.

    Returns:
        The geometric mean over the seeds that both have, with Student's 95% interval of the logarithms, at
        the largest number of training images with two seeds or more. None if there is no such number.
    """
    ours, controls = (
        found.loc[found["approach"] == name, ["train_rows", "seed", column]] for name in (approach, control)
    )
    both = ours.merge(controls, on=["train_rows", "seed"], suffixes=("", "_control")).dropna()
    several = both[both.groupby("train_rows")["seed"].transform("size") > 1]
    if several.empty:
        return None
    size = several["train_rows"].max()
    pairs = several[several["train_rows"] == size]
    logs = np.log(pairs[f"{column}_control"].to_numpy(float) / pairs[column].to_numpy(float))
    low, high = np.exp(t_interval(logs))
    return Ratio(float(np.exp(logs.mean())), float(low), float(high), int(size), len(pairs))


def _images_per_epoch(run: RunResult) -> int:
    """The training images of an epoch: without those that the run held out to choose the best one."""
    held_out = run.parameters.get("validation_fraction", 0) if run.history.get("validation_accuracy") else 0
    return round(run.train_rows * (1 - held_out))


def _history_seconds(own: pd.DataFrame, runs: Mapping[Path, RunResult], target: float) -> float:
    """The fewest seconds of any of these runs, extraction included, to an epoch with this validation accuracy.

    Infinite if no epoch has it; NaN if no run was measured on validation images.
    """
    found = []
    for run_dir, extraction in zip(own["run_dir"], own["extraction_seconds"], strict=True):
        run = runs[Path(run_dir)]
        values = run.history.get("validation_accuracy")
        if values:
            epochs = [epoch for epoch, value in enumerate(values, start=1) if value >= target]
            found.append(min(epochs, default=math.inf) * run.fit_seconds / len(values) + extraction)
    return min(found, default=math.nan)
