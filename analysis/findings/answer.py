"""The answer: the best head, what the frozen network gains over the best control, and how the choice flatters it."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.findings import text
from analysis.findings.transfer import TRANSFER, best_gain, gains
from analysis.frame import headline
from classify.runs import head_name, read_predictions
from classify.statistics import ALPHA, Selection, best_of_many


@dataclass(frozen=True)
class Answer:
    """What an experiment comes to.

    Attributes:
        best: the row of `analysis.frame.comparison` of the best head, see `best_pretrained`.
        gain: the row of `gains` of the best head on a pretrained network and the best control; None if no
            control was trained on as many images.
    """

    best: pd.Series
    gain: pd.Series | None

    @property
    def sentence(self) -> str:
        """Whether the frozen network helps, and how accurate the best head on it is."""
        return f"{self._verdict()}, {self._head()}, reaches {self._accuracy()}."

    def lines(self) -> list[str]:
        """The answer for the terminal, one sentence a line."""
        gain = self.gain
        found = [f"best head: {self._head()}, {self._accuracy()} on {self.best['test_rows']:,} test images"]
        if gain is None:
            return [*found, "frozen network: not compared, there is no control"]
        points, low, high = text.points(gain["gain"], gain["gain_low"], gain["gain_high"])
        control = gain["control_approach"]
        return [*found, f"frozen network: {points} points ({low} to {high}) over the best control, {control}"]

    def _verdict(self) -> str:
        if self.best["kind"] != TRANSFER:
            return "There is no head on a frozen network; the best head"
        if self.gain is None:
            return "The frozen network is not compared with a control; its best head"
        if self.gain["adjusted"] > ALPHA:
            return "It is open whether the frozen network helps; its best head"
        if self.gain["gain"] > 0:
            return "The frozen network helps: its best head"
        return "The frozen network does not help; its best head"

    def _head(self) -> str:
        return f"{head_name(self.best)} on {self.best['features']}"

    def _accuracy(self) -> str:
        return text.accuracy(*self.best[["accuracy", "accuracy_low", "accuracy_high"]])


def answer(table: pd.DataFrame) -> Answer:
    """The answer of the runs on one test set, from rows of `analysis.frame.comparison`.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    found = gains(table)
    return Answer(best_pretrained(headline(table)), None if found.empty else best_gain(found))


class Correction(NamedTuple):
    """The best head, and its accuracy corrected for having been picked on the test images."""

    name: str
    selection: Selection

    @property
    def sentence(self) -> str:
        """How much the choice flatters the head, and its corrected accuracy."""
        found = self.selection
        return (
            f"{self.name} is the best of {found.runs:,} heads, which flatters it by about "
            f"{100 * found.optimism:.1f} points; corrected, it has {self.corrected}."
        )

    @property
    def corrected(self) -> str:
        """The corrected accuracy with its interval."""
        found = self.selection
        return text.accuracy(found.corrected, found.low, found.high)


def correction(shown: pd.DataFrame) -> Correction:
    """The most accurate head, corrected for the choice of that head on the test images.

    Args:
        shown: from `analysis.frame.headline`, of one test set.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    found = best_of_many({run_dir: read_predictions(Path(run_dir)) for run_dir in shown["run_dir"]})
    row = shown[shown["run_dir"] == found.run].iloc[0]
    trained = " from scratch" if row["kind"] == "scratch" else ""
    return Correction(f"{head_name(row)}{trained} on {row['features']}", found)


def best_pretrained(shown: pd.DataFrame) -> pd.Series:
    """The most accurate head on a pretrained network, or the most accurate head if there is no such network.

    Args:
        shown: from `analysis.frame.headline`, best first.
    """
    pretrained = shown[shown["kind"] == TRANSFER]
    return (pretrained if len(pretrained) else shown).iloc[0]
