"""A ledger of variance: how far an accuracy moves with the test images, the training images and the seed."""

from typing import NamedTuple

import numpy as np

from classify.statistics.design import design_effect
from featurize.core.intervals import LEVEL

SIMULATIONS = 20_000
FEWEST_DRAWS = 3


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


class Spread(NamedTuple):
    """The mean of an accuracy, or of a difference of two, and its standard deviations by cause.

    The squares of the standard deviations add up to the variance of one run on other test images, other training
    images of the same number, and another seed.

    Attributes:
        mean: over all runs; the interval covers the choice of the test images, of the training images, and of the seed.
        test: standard deviation by the choice of the test images.
        draw: by the choice of the training images. With one seed a draw, that of the seed is in it.
        seed: by the seed, with the same training images; None with one seed a draw.
        draws: number of draws of the training images.
        seeds: number of seeds a draw.
    """

    mean: Estimate
    test: Estimate
    draw: Estimate
    seed: Estimate | None
    draws: int
    seeds: int


def spread(values: np.ndarray, overlap: float, groups: np.ndarray | None = None) -> Spread:
    """Divide the variance of an accuracy by its causes.

    The runs on J draws of the training images, with K seeds each, and the n test images make a table with random
    effects: seeds are nested in draws, and both are crossed with the images (Searle, Casella and McCulloch, Variance
    Components, 1992). A run's share of right answers on n images differs from that on all images that there could be;
    the interactions with the images measure by how much, and are taken out. Components below zero count as zero.

    The draws are subsets, without replacement, of the same training images. Two of them share a part `overlap` of their
    images, so that accuracies vary less than on independent draws. For a mean over the images, the variance is
    1 - overlap times as large, by which it is divided. The mean over J draws has the variance of the draws times
    1/J + overlap / (1 - overlap). This is the correction of Nadeau and Bengio (Inference for the Generalization Error,
    Machine Learning 52, 2003), here with the overlap of the training images. Half of the images are an overlap of a
    half. There is no unbiased estimate from overlapping draws alone (Bengio and Grandvalet, Journal of Machine Learning
    Research 5, 2004). Bouthillier et al. (Accounting for Variance in Machine Learning Benchmarks, MLSys 2021) list the
    causes.

    The intervals are generalised ones (Weerahandi, Generalized Confidence Intervals, Journal of the American
    Statistical Association 88, 1993): each sum of squares is divided by draws from its chi-squared distribution.

    Args:
        values: float (J, K, n): 0 or 1, whether the run is right; or the difference of two such runs on the same draw.
        overlap: the number of training images divided by the number that they were drawn from, below 1.
        groups: int (n,), the group of each test image; None if they are independent.
    """
    found = _simulated(values, overlap, groups)
    squares = _simulated((values - values.mean()) ** 2, overlap, groups)
    draws, seeds, images = values.shape
    design = np.mean([design_effect(row, groups) for row in values.reshape(-1, images)])
    return Spread(
        mean=_estimate(found.means),
        test=_estimate(np.sqrt(np.maximum(squares.means, 0) * design / images)),
        draw=_estimate(np.sqrt(found.draw_variances / (1 - overlap))),
        seed=_estimate(np.sqrt(found.seed_variances)) if seeds > 1 else None,
        draws=draws,
        seeds=seeds,
    )


class _Simulated(NamedTuple):
    """Numbers of a table of values: in each array the estimate first, then what it may be by chance."""

    means: np.ndarray
    draw_variances: np.ndarray
    seed_variances: np.ndarray


def _simulated(values: np.ndarray, overlap: float, groups: np.ndarray | None) -> _Simulated:
    """The mean of values (J, K, n) and the variances of draws and of seeds, see `spread`."""
    draws, seeds, images = values.shape
    by_run = values.mean(axis=2)  # (J, K)
    by_draw = values.mean(axis=1)  # (J, n)
    # The mean squares of draws and of seeds, and what the test images contribute to them.
    of_draws = seeds * images * by_run.mean(axis=1).var(ddof=1)
    noise_of_draws = seeds * _interaction(by_draw, groups)
    of_seeds = noise_of_seeds = 0.0
    random = np.random.default_rng(0)
    errors = random.standard_normal(1 + SIMULATIONS)
    errors[0] = 0
    draw_squares = _with_simulated(of_draws, draws - 1, random)
    seed_squares = np.zeros(1 + SIMULATIONS)
    if seeds > 1:
        of_seeds = images * by_run.var(axis=1, ddof=1).mean()
        noise_of_seeds = float(np.mean([_interaction(each, groups) for each in values]))
        seed_squares = _with_simulated(of_seeds, draws * (seeds - 1), random)
    noise = noise_of_draws - noise_of_seeds
    draw_variances = np.maximum((draw_squares - seed_squares - noise) / (seeds * images), 0)
    seed_variances = np.maximum((seed_squares - noise_of_seeds) / images, 0)

    per_image = by_draw.mean(axis=0)
    test_variance = per_image.var(ddof=1) * design_effect(per_image, groups) / images
    variances = test_variance + draw_variances * (1 / draws + overlap / (1 - overlap))
    variances += seed_variances / (draws * seeds)
    return _Simulated(values.mean() + errors * np.sqrt(variances), draw_variances, seed_variances)


def _with_simulated(square: float, freedom: int, random: np.random.Generator) -> np.ndarray:
    """A mean square, and behind it the expected ones that it may stem from, by its chi-squared distribution."""
    return square * np.concatenate([[1.0], freedom / random.chisquare(freedom, SIMULATIONS)])


def _interaction(values: np.ndarray, groups: np.ndarray | None) -> float:
    """The mean square of the interaction of runs and images, of values (runs, n), with its design effect."""
    centred = values - values.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    runs, images = values.shape
    square = float((centred**2).sum()) / ((runs - 1) * (images - 1))
    return square * float(np.mean([design_effect(row, groups) for row in centred]))


def _estimate(values: np.ndarray) -> Estimate:
    """An estimate, and the interval of the simulated values behind it."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values[0]), float(low), float(high))
