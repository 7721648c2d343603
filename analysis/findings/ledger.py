"""The ledger of variance: how far accuracies move with the test images, the training images and the seed.

It comes from runs that were repeated on several draws of as many training images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.findings import text
from analysis.findings.transfer import TRANSFER, named
from classify.runs import RunResult, read_predictions
from classify.statistics import FEWEST_DRAWS, Estimate, Spread, correctness, spread

MOST_SEEDS = 2  # on a draw: what `classify --repeats` trains


@dataclass(frozen=True)
class Entry:
    """A head in the ledger.

    Attributes:
        approach: its name, see `analysis.findings.transfer.named`.
        kind: of its features.
        model: the head.
        features: their name.
        accuracy: how far it varies.
        behind: the same of the best head's accuracy less this one's; None for the best, and with too few common draws.
    """

    approach: str
    kind: str
    model: str
    features: str
    accuracy: Spread
    behind: Spread | None = None


@dataclass(frozen=True)
class Ledger:
    """How far the accuracies of heads vary that were trained on the same draws of `train_rows` images.

    Attributes:
        entries: the most accurate head first.
        train_rows: number of training images of each run.
        drawn_from: the number that they were chosen from.
    """

    entries: tuple[Entry, ...]
    train_rows: int
    drawn_from: int

    @property
    def finding(self) -> str:
        """What moves the accuracy of the best head, and how far."""
        best = self.entries[0]
        found = best.accuracy
        parts = f"{points(found.test)} points with test images"
        if found.seed is None:
            parts += f" and {points(found.draw)} with training images and seed"
        else:
            parts += f", {points(found.draw)} with training images and {points(found.seed)} with the seed"
        return f"{best.approach} varies by {parts}."

    @property
    def comparison(self) -> str:
        """Whether the best head would be better than a control, or else the next head, on other images too."""
        best, *others = (entry for entry in self.entries if entry is self.entries[0] or entry.behind)
        controls = [entry for entry in others if entry.kind != TRANSFER]
        if best.kind == TRANSFER and controls:
            others = controls
        if not others or others[0].behind is None:
            return ""
        mean = others[0].behind.mean
        gain, low, high = text.points(*mean)
        if mean.low > 0:
            gain, low, high = (number.removeprefix("+") for number in (gain, low, high))
            return f"It exceeds {others[0].approach} by {gain} points ({low} to {high}), whichever images are drawn."
        return f"It differs by {gain} points ({low} to {high}) from {others[0].approach}; this may be chance."


Draws = dict[int, list[np.ndarray]]
"""The runs of a head by draw, one for each seed: float (n,), 1 where it is right."""


def ledger(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> Ledger | None:
    """The ledger at the largest number of training images of which a head on a pretrained network has three draws.

    Without such a head, that of any head counts.

    Args:
        table: of `analysis.frame.comparison`, of one test set.
        runs: at least the runs of these rows.

    Returns:
        None without so many draws, and for a cross-validation.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    rows = _repeated(table)
    if rows.empty or any(run.folds for run in runs.values()):
        return None
    of_transfer = rows[rows["kind"] == TRANSFER]
    size, drawn_from = (of_transfer if len(of_transfer) else rows)[["train_rows", "drawn_from"]].max()
    rows = rows[(rows["train_rows"] == size) & (rows["drawn_from"] == drawn_from)]
    correct, groups, _ = correctness({run_dir: read_predictions(Path(run_dir)) for run_dir in rows["run_dir"]})
    right = dict(zip(rows["run_dir"], correct, strict=True))
    overlap = size / drawn_from
    entries, draws_of = [], {}
    for approach, own in rows.groupby("approach", sort=False):
        draws = {int(draw): [right[run] for run in of_draw["run_dir"]] for draw, of_draw in own.groupby("draw")}
        first = own.iloc[0]
        varies = spread(_values(draws, list(draws)), overlap, groups)
        entries.append(Entry(str(approach), first["kind"], first["model"], first["features"], varies))
        draws_of[str(approach)] = draws
    best, *others = sorted(entries, key=lambda entry: -entry.accuracy.mean.value)
    compared = []
    for entry in others:
        behind = _difference(draws_of[best.approach], draws_of[entry.approach], overlap, groups)
        compared.append(replace(entry, behind=behind))
    return Ledger((best, *compared), int(size), int(drawn_from))


def points(estimate: Estimate) -> str:
    """A standard deviation of accuracies, 0..1, in points: `1.4`, or `up to 1.4` if it may be zero."""
    if estimate.low == 0 < estimate.high:
        return f"up to {100 * estimate.high:.1f}"
    return f"{100 * estimate.value:.1f}"


def _repeated(table: pd.DataFrame) -> pd.DataFrame:
    """The runs, seed by seed, of heads that have three draws of the same number of images, and default settings."""
    rows = named(table[table["tuned"] == 0]).sort_values(["draw", "seed", "run_dir"])
    rows = rows[rows["train_rows"] < rows["drawn_from"]]
    rows = rows.drop_duplicates(["approach", "train_rows", "drawn_from", "draw", "seed"])
    draws = rows.groupby(["approach", "train_rows", "drawn_from"])["draw"].transform("nunique")
    return rows[draws >= FEWEST_DRAWS]


def _values(by_draw: Draws, draws: list[int]) -> np.ndarray:
    """Whether runs are right on the test images, (draws, seeds, n), with as many seeds as every draw has."""
    seeds = min(MOST_SEEDS, *(len(by_draw[draw]) for draw in draws))
    return np.array([by_draw[draw][:seeds] for draw in draws])


def _difference(best: Draws, other: Draws, overlap: float, groups: np.ndarray | None) -> Spread | None:
    """How far the difference of two heads varies over the draws that both have; None if they are too few."""
    common = [draw for draw in best if draw in other]
    if len(common) < FEWEST_DRAWS:
        return None
    one, two = _values(best, common), _values(other, common)
    seeds = min(one.shape[1], two.shape[1])
    return spread(one[:, :seeds] - two[:, :seeds], overlap, groups)
