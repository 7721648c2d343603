"""The correction of the best run's accuracy for having been picked on the test rows."""

import numpy as np
import pytest

from classify.statistics import best_of_many


def predictions(correct: np.ndarray, groups: np.ndarray | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Tables of runs `r0`, `r1`, ... that are right where `correct` (R, n) is true."""
    tables = {}
    for number, row in enumerate(correct):
        table = {"id": np.arange(len(row)), "label": np.ones(len(row)), "predicted": row.astype(float)}
        if groups is not None:
            table["group"] = groups
        tables[f"r{number}"] = table
    return tables


def test_a_single_run_needs_no_correction() -> None:
    found = best_of_many(predictions(np.arange(100)[np.newaxis] < 70))
    assert found.run == "r0"
    assert found.accuracy == 0.7
    assert found.optimism == pytest.approx(0, abs=1e-12)
    assert found.by_number == pytest.approx((0,), abs=1e-12)


def test_a_run_that_is_far_ahead_needs_no_correction() -> None:
    rows = np.arange(1000)
    found = best_of_many(predictions(np.array([rows < 500, rows < 900, rows < 520])))
    assert found.run == "r1"
    assert found.corrected == pytest.approx(0.9, abs=0.002)


def test_the_best_of_many_equal_runs_is_corrected_to_what_it_is_worth() -> None:
    random = np.random.default_rng(0)
    raw, corrected, covered = [], [], []
    for _ in range(30):
        found = best_of_many(predictions(random.random((20, 200)) < 0.7))
        raw.append(found.accuracy)
        corrected.append(found.corrected)
        covered.append(found.low <= 0.7 <= found.high)
    assert np.mean(raw) > 0.75  # each of these runs is right in 70%
    assert np.mean(corrected) < 0.73
    assert np.mean(covered) > 0.85


def test_the_best_of_more_runs_is_flattered_more() -> None:
    """Against the plain way: draw rows, choose N of the runs at random, pick the best of them."""
    random = np.random.default_rng(0)
    correct = random.random((6, 100)) < np.linspace(0.6, 0.7, 6)[:, np.newaxis]
    found = best_of_many(predictions(correct))
    assert found.by_number[0] == pytest.approx(0, abs=1e-12)
    assert list(found.by_number) == sorted(found.by_number)
    assert found.by_number[-1] == found.optimism
    for number in (2, 4, 6):
        excess = []
        for _ in range(4_000):
            chosen = random.permutation(6)[:number]
            drawn = correct[np.ix_(chosen, random.integers(100, size=100))].mean(axis=1)
            best = drawn.argmax()
            excess.append(drawn[best] - correct[chosen[best]].mean())
        assert found.by_number[number - 1] == pytest.approx(np.mean(excess), abs=0.003)


def test_rows_of_one_group_are_drawn_together() -> None:
    random = np.random.default_rng(0)
    by_group = random.random((10, 20)) < 0.7
    groups = np.repeat(np.arange(20), 10)
    rows = by_group[:, groups]
    alone = best_of_many(predictions(rows))
    grouped = best_of_many(predictions(rows, groups))
    assert grouped.optimism > 2 * alone.optimism
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_the_same_runs_give_the_same_correction() -> None:
    tables = predictions(np.random.default_rng(1).random((5, 300)) < 0.6)
    assert best_of_many(tables) == best_of_many(tables)
