"""How much the best of many runs owes to being picked on the images that it is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.statistics.compare import correctness
from classify.statistics.design import design_effect, wilson_interval
from featurize.core.intervals import LEVEL

DRAWS = 1000
DRAWS_AT_ONCE = 10_000_000  # weights of rows in memory: 80 MB


@dataclass(frozen=True)
class Selection:
    """The most accurate of R runs on n test rows, and its accuracy corrected for the choice.

    Attributes:
        run: its key, as given.
        runs: R.
        accuracy: its accuracy on the test rows, 0..1.
        optimism: by how much the choice raises that accuracy on average, 0..1.
        by_number: the same for the best of 1, 2, ... R of the runs, chosen at random; the last is `optimism`.
        corrected: `accuracy` less `optimism`.
        low: lower bound of the 95% interval of the corrected accuracy.
        high: upper bound.
    """

    run: Any
    runs: int
    accuracy: float
    optimism: float
    by_number: tuple[float, ...]
    corrected: float
    low: float
    high: float


def best_of_many(predictions: Mapping[Any, Any], seed: int = 0) -> Selection:
    """The most accurate run, with its accuracy corrected for having been picked on the test rows.

    The optimism is Efron's (Estimating the Error Rate of a Prediction Rule, Journal of the American Statistical
    Association 78, 1983). Test rows are drawn with replacement, and the best run on each draw is picked. The optimism
    is the mean of its accuracy on the draw less its accuracy on all rows. The interval is Wilson's at the corrected
    accuracy.

    Simulated with 8 and 50 runs on 60 and 1,000 rows, 400 times for each of 21 settings: this interval holds the
    true accuracy of the picked run in 91 to 97% of the draws. The interval without the correction does so in 45 to
    96%, least for many runs that are about equally good.

    Args:
        predictions: at least one run, as for `compare`. Rows of one group are drawn together.
        seed: of the draws.

    Raises:
        DataError: as from `compare`.
    """
    correct, groups, in_folds = correctness(predictions)  # (R, n), 0. or 1.
    accuracy = correct.mean(axis=1)
    best = int(accuracy.argmax())
    by_rank = _excess_by_rank(correct, groups, np.random.default_rng(seed))
    by_number = np.maximum(_chance_to_be_best(len(correct)) @ by_rank, 0)
    optimism = float(by_number[-1])
    corrected = max(0.0, float(accuracy[best]) - optimism)
    design = design_effect(correct[best], groups, in_folds=in_folds)
    low, high = wilson_interval(corrected, correct.shape[1] / design, LEVEL)
    return Selection(
        run=list(predictions)[best],
        runs=len(correct),
        accuracy=float(accuracy[best]),
        optimism=optimism,
        by_number=tuple(by_number.tolist()),
        corrected=corrected,
        low=low,
        high=high,
    )


def _chance_to_be_best(runs: int) -> np.ndarray:
    """The chance (R, R) that the run of rank k, 0 for the best of all R, is the best of N = 1 to R random ones."""
    chances = np.zeros((runs, runs))
    for number in range(1, runs + 1):
        chances[number - 1, 0] = number / runs
        for rank in range(1, runs - number + 1):
            # None of the better runs is among the N.
            chances[number - 1, rank] = chances[number - 1, rank - 1] * (runs - rank - number + 1) / (runs - rank)
    return chances


def _excess_by_rank(correct: np.ndarray, groups: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """The accuracy on a draw less that on all rows, by rank on the draw, best first: (R,), the mean over the draws.

    The mean over the runs, which is zero but for the chance of the draws, is subtracted: that takes most of this
    chance away.

    Args:
        correct: float (R, n), 0 or 1.
        groups: int (n,), or None; whole groups are drawn.
        random: of the draws.
    """
    sizes = np.ones(correct.shape[1])
    sums = correct
    if groups is not None:
        _, numbers = np.unique(groups, return_inverse=True)
        sizes = np.bincount(numbers).astype(np.float64)
        sums = np.array([np.bincount(numbers, row) for row in correct])  # (R, groups)
    units = len(sizes)
    everywhere = correct.mean(axis=1)
    at_once = max(1, DRAWS_AT_ONCE // units)
    total = np.zeros(len(correct))
    for start in range(0, DRAWS, at_once):
        draws = min(at_once, DRAWS - start)
        # Seven times as fast as a multinomial draw, and distributed alike.
        weights = np.array([np.bincount(random.integers(units, size=units), minlength=units) for _ in range(draws)])
        drawn = (weights @ sums.T) / (weights @ sizes)[:, np.newaxis]  # (draws, R) accuracies
        best_first = np.argsort(-drawn, axis=1, kind="stable")
        excess = drawn - everywhere
        total += (np.take_along_axis(excess, best_first, axis=1) - excess.mean(axis=1, keepdims=True)).sum(axis=0)
    return total / DRAWS
