"""Design effects: what images that are not independent are worth."""

import numpy as np
import pytest
from scipy.stats import binomtest

from classify.statistics import compare, metrics
from classify.statistics.design import FOLDS_DESIGN, design_effect, wilson_interval

NAMES = ("a", "b")


def test_independent_images_count_in_full() -> None:
    assert design_effect(np.array([0.0, 1, 1]), None) == 1
    assert design_effect(np.array([0.0, 1, 1]), None, in_folds=True) == FOLDS_DESIGN


def test_groups_of_equal_images_count_as_one_each() -> None:
    random = np.random.default_rng(0)
    values = np.repeat(random.integers(0, 2, 200), 5).astype(float)
    groups = np.repeat(np.arange(200), 5)
    assert design_effect(values, groups) == pytest.approx(5, rel=0.02)
    assert design_effect(np.ones(1000), groups) == 5  # all correct: the groups may be all alike
    assert design_effect(values, np.zeros(1000)) == 1000


def test_groups_that_say_nothing_change_little() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2, 3000).astype(float)
    assert 1 <= design_effect(values, np.arange(3000) // 5) < 1.15


def test_wilsons_interval() -> None:
    for correct, rows in ((0, 5), (3, 7), (50, 60), (999, 1000)):
        expected = binomtest(correct, rows).proportion_ci(0.95, "wilson")
        found = wilson_interval(correct / rows, rows, 0.95)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = wilson_interval(0.5, 30.5, 0.95)
    assert wilson_interval(0.5, 31, 0.95)[0] > low > wilson_interval(0.5, 30, 0.95)[0]
    assert low + high == pytest.approx(1)


def measured(groups: np.ndarray | None = None, *, in_folds: bool = False) -> tuple[float, float]:
    labels = np.repeat([0, 1], 50)
    predicted = np.where(np.arange(100) % 10 < 3, 1 - labels, labels)  # blocks of wrong ones
    probabilities = np.eye(2)[predicted] * 0.8 + 0.1
    found = metrics(labels, predicted, probabilities, NAMES, groups=groups, in_folds=in_folds)
    assert found.accuracy == pytest.approx(0.7)
    return found.accuracy_high - found.accuracy_low, found.macro_f1_high - found.macro_f1_low


def test_intervals_widen() -> None:
    plain, folded = measured(), measured(in_folds=True)
    grouped = measured(np.repeat(np.arange(20), 5))
    for index in (0, 1):
        assert folded[index] / plain[index] == pytest.approx(FOLDS_DESIGN**0.5, rel=0.15)
        assert grouped[index] > 1.2 * plain[index]


def predictions(wrong: np.ndarray, **columns: np.ndarray) -> dict[str, np.ndarray]:
    return {"id": np.arange(100), "label": np.zeros(100, int), "predicted": wrong.astype(int), **columns}


def test_a_difference_in_one_group_is_no_difference() -> None:
    better, worse = np.zeros(100, bool), np.arange(100) < 20
    groups = np.arange(100) // 20
    plain = compare({"a": predictions(better), "b": predictions(worse)})
    assert plain.p[0, 1] < 1e-5
    assert plain.design[0, 1] == 1
    grouped = compare({"a": predictions(better, group=groups), "b": predictions(worse, group=groups)})
    assert grouped.p[0, 1] > 0.3
    assert grouped.design[0, 1] > 10
    assert grouped.groups == {"a": "a", "b": "a"}


def test_a_difference_in_folds_needs_more_images() -> None:
    fold = np.arange(100) % 5
    better, worse = np.zeros(100, bool), np.arange(100) < 6
    plain = compare({"a": predictions(better), "b": predictions(worse)})
    folded = compare({"a": predictions(better, fold=fold), "b": predictions(worse, fold=fold)})
    assert folded.design[0, 1] == FOLDS_DESIGN
    assert plain.p[0, 1] < 0.05 < folded.p[0, 1] + 0.01
    assert (np.diag(folded.p) == 1).all()


def test_as_many_false_alarms_as_promised() -> None:
    """Two equal heads whose mistakes come in groups: McNemar's test would call one in three pairs different."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    ours = theirs = 0
    for _ in range(300):
        pair = {}
        for name in ("a", "b"):
            wrong = np.repeat(random.random(20) < 0.3, 5)
            pair[name] = predictions(wrong, group=groups)
        ours += compare(pair).p[0, 1] <= 0.05
        for table in pair.values():
            del table["group"]
        theirs += compare(pair).p[0, 1] <= 0.05
    assert ours / 300 < 0.08
    assert theirs / 300 > 0.25
