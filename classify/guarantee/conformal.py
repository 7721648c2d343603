"""Sets of classes that hold the true one for a chosen share of new images: split conformal prediction.

Vovk et al., Algorithmic Learning in a Random World, 2005, with the adaptive sets of Romano, Sesia and Candès,
Classification with Valid and Adaptive Coverage, 2020, without randomisation: classes join a set from the most probable
one on, until their probabilities sum to more than a threshold. The threshold comes from training images that a fit
held out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from classify.statistics import LEVEL, design_effect, wilson_interval

if TYPE_CHECKING:
    from classify.heads.calibration import HeldOut

ROWS_OF_EACH_CLASS = 100
"""With so many held-out images of every class, each class gets its own threshold."""


@dataclass(frozen=True)
class ConformalSets:
    """What sets of classes are made from.

    Attributes:
        scores: of the held-out images, the total probability of the classes above the true one, float64 (m,).
        labels: their classes, int64 (m,), 0..K-1.
        classes: K.
    """

    scores: np.ndarray
    labels: np.ndarray
    classes: int

    @classmethod
    def of(cls, held_out: "HeldOut") -> Self:
        """The sets of a head from its probabilities of held-out images."""
        probabilities, labels = held_out
        scores = mass_above(probabilities)[np.arange(len(labels)), labels]
        return cls(scores, np.asarray(labels, np.int64), probabilities.shape[1])

    @property
    def by_class(self) -> bool:
        """Whether each class has a threshold of its own, so that the coverage holds for each of them."""
        return int(np.bincount(self.labels, minlength=self.classes).min()) >= ROWS_OF_EACH_CLASS

    @property
    def highest_coverage(self) -> float:
        """The highest coverage for which there are enough held-out images; beyond it, every set holds every class."""
        count = int(np.bincount(self.labels, minlength=self.classes).min()) if self.by_class else len(self.labels)
        return count / (count + 1)

    def thresholds(self, coverage: float) -> np.ndarray:
        """The largest score with which a class still joins a set, float64 (K,).

        Of m held-out images, it is the score with rank (m + 1) coverage, rounded up. If there are fewer, it is
        infinite, and every class joins.

        Args:
            coverage: the share of sets that shall hold the true class, above 0 and below 1.
        """
        if not self.by_class:
            return np.full(self.classes, _threshold(self.scores, coverage))
        return np.array([_threshold(self.scores[self.labels == label], coverage) for label in range(self.classes)])

    def sets(self, probabilities: np.ndarray, coverage: float) -> np.ndarray:
        """Which classes are in each image's set, bool (n, K); the most probable class always is.

        Args:
            probabilities: of the same head for new images, float (n, K).
            coverage: as for `thresholds`.
        """
        return mass_above(probabilities) <= self.thresholds(coverage)

    def p_value(self, holds: np.ndarray, labels: np.ndarray, coverage: float) -> float:
        """The probability that so few sets, or fewer, hold the true class of images like the training images.

        Of n such images, the number whose set holds their class has a beta-binomial distribution (Vovk, Conditional
        Validity of Inductive Conformal Predictors, 2013), as if no two scores were equal.

        Args:
            holds: whether each set holds the true class, bool (n,).
            labels: the true classes, (n,).
            coverage: as for `thresholds`.
        """
        from scipy.stats import betabinom

        pairs = [(len(self.labels), len(labels))]
        if self.by_class:
            held_out = np.bincount(self.labels, minlength=self.classes)
            pairs = list(zip(held_out, np.bincount(labels, minlength=self.classes), strict=True))
        chances = np.ones(1)  # of each number of sets that hold the true class, over the classes so far
        for count, images in pairs:
            rank = _rank(count, coverage)
            of_class = np.eye(1, images + 1, images)[0]  # every set holds every class
            if rank <= count:
                of_class = betabinom.pmf(np.arange(images + 1), images, rank, count + 1 - rank)
            chances = np.convolve(chances, of_class)
        return min(1.0, float(chances[: int(holds.sum()) + 1].sum()))


@dataclass(frozen=True)
class Coverage:
    """How often sets hold the true class.

    Attributes:
        coverage: the share of images whose set holds their class, 0..1, with the bounds of its 95% interval (Wilson).
        set_size: the mean number of classes in a set.
        class_coverage: the same for the images of each class, [share, low, high, mean size]; None without images.
    """

    coverage: float
    coverage_low: float
    coverage_high: float
    set_size: float
    class_coverage: dict[str, list[float] | None]


def measured_coverage(
    sets: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    groups: np.ndarray | None = None,
    in_folds: bool = False,
) -> Coverage:
    """Measure sets on labelled images.

    Args:
        sets: bool (n, K), see `ConformalSets.sets`.
        labels: int (n,), 0..K-1.
        class_names: K names.
        groups: int (n,), the group of each image; None if they are independent.
        in_folds: whether the sets come from a cross-validation.
    """
    holds = sets[np.arange(len(labels)), labels].astype(float)
    sizes = sets.sum(axis=1)

    def share(rows: np.ndarray) -> tuple[float, float, float]:
        """The share of sets that hold the true class, with its interval."""
        groups_of_rows = None if groups is None else groups[rows]
        independent = len(rows) / design_effect(holds[rows], groups_of_rows, in_folds=in_folds)
        value = float(holds[rows].mean())
        low, high = wilson_interval(value, independent, LEVEL)
        return value, low, high

    by_class: dict[str, list[float] | None] = dict.fromkeys(class_names)
    for number, name in enumerate(class_names):
        rows = np.flatnonzero(labels == number)
        if len(rows):
            by_class[name] = [*share(rows), float(sizes[rows].mean())]
    return Coverage(*share(np.arange(len(labels))), float(sizes.mean()), by_class)


def mass_above(probabilities: np.ndarray) -> np.ndarray:
    """For each class the total probability of the more probable ones, float64 (n, K): 0 for the most probable.

    Of classes with equal probability, the first one counts as the more probable.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1).astype(np.float64)
    above = np.zeros_like(ranked)
    np.cumsum(ranked[:, :-1], axis=1, out=above[:, 1:])
    result = np.empty_like(above)
    np.put_along_axis(result, order, above, axis=1)
    return result


def _threshold(scores: np.ndarray, coverage: float) -> float:
    rank = _rank(len(scores), coverage)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def _rank(count: int, coverage: float) -> int:
    return math.ceil(round((count + 1) * coverage, 9))  # 10 x 0.9 is 9, also in floating point
