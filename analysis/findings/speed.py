"""The seconds and epochs that heads and controls take.

`table` holds rows of `analysis.frame.comparison` of one test set, `runs` at least the runs of these rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.findings.transfer import APPROACH, approaches, t_interval
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
    """The `approaches` with default settings and their `training_cost`.

    Tuned heads are left out: the seconds of their fit do not include the search.
    """
    return training_cost(approaches(table[table["tuned"] == 0]))


def seconds_to_reach(table: pd.DataFrame, runs: Mapping[Path, RunResult], target: float) -> pd.DataFrame:
    """The cheapest run of each approach that reaches an accuracy, 0..1, on the test images.

    Returns:
        A row per approach: `approach`, `kind`, `model`, `features`, `train_rows` (of the run),
        `at_most` (true if this is the smallest size, so that fewer images and seconds might do),
        `accuracy`, `fit_seconds`, `extraction_seconds` (of all its training images), `seconds` (both),
        `heads` (number of models on the same features), `shared_seconds` (the fit, and the extraction
        divided by these heads) and `history_seconds` (extraction included: the first epoch of any run
        whose validation accuracy reaches the target; NaN without such a history, as for every head
        that is not trained from scratch). If no run reaches the target, seconds are infinite, and
        `train_rows` and `accuracy` NaN. Fewest seconds first.
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
        `epochs_to_90` (`epoch_near_end`), `seconds_per_epoch`, `seconds_to_90`, `iterations` and
        `run_dir`; NaN where a run lacks the number. Sorted by approach, size and seed.
    """
    names = [*APPROACH, "train_rows", "seed", "accuracy"]
    rows = []
    for row in approaches(table).sort_values(["approach", "train_rows", "seed"]).itertuples():
        history = runs[Path(row.run_dir)].history
        if history:
            epochs, near_end = len(history["accuracy"]), epoch_near_end(history["accuracy"])
            seconds = row.fit_seconds / epochs
            numbers = [epochs, near_end, seconds, seconds * near_end]
        elif row.model == "logreg":
            numbers = [math.nan] * 4
        else:
            continue
        rows.append([*(getattr(row, name) for name in names), *numbers, row.iterations, row.run_dir])
    columns = ["epochs", "epochs_to_90", "seconds_per_epoch", "seconds_to_90", "iterations", "run_dir"]
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
