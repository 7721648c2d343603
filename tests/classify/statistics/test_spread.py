"""The ledger of variance: known variances are found again, and the intervals hold them."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from classify.statistics import Estimate, Spread, spread

ACCURACY = 0.7
TRUTH = {"draw": 0.015, "seed": 0.008}  # standard deviations
POOL, SIZE = 400, 200


def simulated(
    random: np.random.Generator,
    draws: int = 5,
    seeds: int = 2,
    images: int = 1000,
    of_draw: float = TRUTH["draw"],
    of_seed: float = TRUTH["seed"],
) -> np.ndarray:
    """Which images runs get right, (draws, seeds, images), with known standard deviations of their accuracies.

    A draw takes half of a pool, whose members each shift the accuracy, so that draws overlap. An image is as hard for
    all runs, in part: U is uniform, and a run is right where U is below its accuracy.
    """
    members = of_draw * np.sqrt(SIZE) * random.standard_normal(POOL)
    chosen = [random.permutation(POOL)[:SIZE] for _ in range(draws)]
    shifts = np.array([members[rows].mean() for rows in chosen])
    accuracy = ACCURACY + shifts[:, np.newaxis] + of_seed * random.standard_normal((draws, seeds))
    for_all = random.standard_normal(images)
    for_draw = random.standard_normal((draws, 1, images))
    for_run = random.standard_normal((draws, seeds, images))
    uniform = norm.cdf(np.sqrt(0.5) * for_all + np.sqrt(0.2) * for_draw + np.sqrt(0.3) * for_run)
    return (uniform < accuracy[:, :, np.newaxis]).astype(float)


def holds(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None
    return estimate.low <= truth <= estimate.high


def causes(found: Spread, truth: dict[str, float], images: int) -> dict[str, bool]:
    return {
        "mean": holds(found.mean, ACCURACY),
        "test": holds(found.test, np.sqrt(ACCURACY * (1 - ACCURACY) / images)),
        "draw": holds(found.draw, truth["draw"]),
        "seed": holds(found.seed, truth["seed"]),
    }


def test_known_variances_are_found_again() -> None:
    found = spread(simulated(np.random.default_rng(0), draws=100, images=2000), SIZE / POOL)
    assert found.seed is not None
    assert found.draw.value == pytest.approx(TRUTH["draw"], rel=0.25)
    assert found.seed.value == pytest.approx(TRUTH["seed"], rel=0.25)
    assert found.test.value == pytest.approx(np.sqrt(ACCURACY * (1 - ACCURACY) / 2000), rel=0.03)
    assert (found.draws, found.seeds) == (100, 2)
    for estimate in (found.mean, found.test, found.draw, found.seed):
        assert estimate.low < estimate.value < estimate.high
    # The overlap hides the half of the variance that all draws share.
    assert spread(simulated(np.random.default_rng(0), draws=100, images=2000), 0).draw.value < 0.8 * found.draw.value


def test_runs_that_differ_on_these_test_images_only_do_not_vary() -> None:
    values = simulated(np.random.default_rng(5), draws=100, images=500, of_draw=0.0, of_seed=0.0)
    found = spread(values, SIZE / POOL)
    seen = values.mean(axis=2).std()
    assert seen > 0.01
    assert found.seed is not None
    assert found.draw.value < 0.4 * seen
    assert found.seed.value < 0.4 * seen


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param({}, id="usual"),
        pytest.param({"draws": 3}, id="three draws", marks=pytest.mark.slow),
        pytest.param({"draws": 10, "images": 300}, id="few images", marks=pytest.mark.slow),
        pytest.param({"of_draw": 0.004, "of_seed": 0.004}, id="small", marks=pytest.mark.slow),
    ],
)
def test_intervals_hold_the_truth_in_90_to_99_percent(setting: dict[str, Any], request: pytest.FixtureRequest) -> None:
    times = 400 if request.node.get_closest_marker("slow") else 100
    random = np.random.default_rng(1)
    truth = {"draw": setting.get("of_draw", TRUTH["draw"]), "seed": setting.get("of_seed", TRUTH["seed"])}
    images = setting.get("images", 1000)
    every = [causes(spread(simulated(random, **setting), SIZE / POOL), truth, images) for _ in range(times)]
    for cause in ("mean", "test", "draw", "seed"):
        share = np.mean([held[cause] for held in every])
        assert share >= (0.9 if times == 400 else 0.88), cause


def test_the_difference_of_two_heads_is_paired() -> None:
    """Two heads that learn from the same draws: what moves both does not move their difference."""
    random = np.random.default_rng(2)
    one = simulated(random, draws=20, seeds=1, of_draw=0.03, of_seed=0.0)
    other = np.where(random.random(one.shape) < 0.02, 0.0, one)  # right on 2% fewer of the images
    found = spread(one - other, SIZE / POOL)
    assert found.mean.value == pytest.approx(0.02 * ACCURACY, abs=0.003)
    assert found.mean.low > 0
    assert found.draw.value < 0.2 * spread(one, SIZE / POOL).draw.value
    assert found.test.value < 0.3 * spread(one, SIZE / POOL).test.value


def test_without_a_seed_the_seed_counts_for_nothing() -> None:
    one = simulated(np.random.default_rng(3), seeds=1)
    assert spread(one, 0.5).seed is None
    twice = spread(np.repeat(one, 2, axis=1), 0.5)
    assert twice.seed == (0, 0, 0)
    assert twice.draw == pytest.approx(spread(one, 0.5).draw, abs=1e-12)
    assert twice.mean == pytest.approx(spread(one, 0.5).mean, abs=1e-12)


def test_images_in_groups_say_less() -> None:
    by_group = simulated(np.random.default_rng(4), images=50)
    values = np.repeat(by_group, 20, axis=2)
    alone, grouped = spread(values, 0.5), spread(values, 0.5, np.repeat(np.arange(50), 20))
    assert grouped.test.value == pytest.approx(alone.test.value * np.sqrt(20), rel=0.1)
    assert grouped.test.value == pytest.approx(spread(by_group, 0.5).test.value, rel=0.1)
    assert grouped.draw.value < alone.draw.value
    assert grouped.mean == pytest.approx(spread(by_group, 0.5).mean, rel=0.03)


def test_a_head_that_makes_no_mistake() -> None:
    found = spread(np.ones((3, 2, 50)), 0.5)
    assert found.mean == (1, 1, 1)
    assert found.test == found.draw == found.seed == (0, 0, 0)
