import numpy as np
import pytest
from scipy.special import softmax

from classify.guarantee import ConformalSets, measured_coverage
from classify.guarantee.conformal import mass_above
from classify.heads.calibration import HeldOut

NAMES = ("ant", "bee", "cow", "dog")


def drawn(rows: int, seed: int, scale: float = 1.5, wrong: float = 0.0) -> HeldOut:
    """Probabilities and labels that are drawn from them, except for a share of labels that are drawn evenly."""
    random = np.random.default_rng(seed)
    probabilities = softmax(scale * random.normal(size=(rows, len(NAMES))), axis=1)
    labels = (probabilities.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1)
    at_random = random.random(rows) < wrong
    labels[at_random] = random.integers(len(NAMES), size=at_random.sum())
    return HeldOut(probabilities, np.minimum(labels, len(NAMES) - 1))


def test_the_mass_above_a_class() -> None:
    probabilities = np.array([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
    np.testing.assert_allclose(mass_above(probabilities), [[0.9, 0, 0.6], [0, 0.4, 0.8]])


def test_a_set_by_hand() -> None:
    """Of nine held-out images, the ninth score in ascending order is the one for 90%, the fifth for 50%."""
    sets = ConformalSets(np.arange(9) / 10, np.zeros(9, int), 3)
    probabilities = np.array([[0.55, 0.3, 0.15], [0.35, 0.35, 0.3], [0.85, 0.1, 0.05]])
    assert sets.sets(probabilities, 0.9).tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert sets.sets(probabilities, 0.5).tolist() == [[True, False, False], [True, True, False], [True, False, False]]
    assert sets.sets(probabilities, 0.95).all()  # too few images
    assert sets.highest_coverage == 0.9


@pytest.mark.parametrize("rows", [30, 100, 1_000])
@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_the_coverage_is_the_one_that_was_asked_for(rows: int, wrong: float) -> None:
    """Over many draws, whether the probabilities are right or not. One image more would be held by at most 1 / m."""
    for coverage in (0.8, 0.9):
        shares = []
        for draw in range(300):
            sets = ConformalSets.of(drawn(rows, draw, wrong=wrong))
            new, labels = drawn(200, 10_000 + draw, wrong=wrong)
            shares.append(sets.sets(new, coverage)[np.arange(200), labels].mean())
        error = 4 * np.std(shares) / np.sqrt(len(shares))
        assert coverage - error < np.mean(shares) < coverage + 1 / rows + error


def test_with_enough_images_the_coverage_holds_for_each_class() -> None:
    """The head is sure that some dogs are ants."""
    probabilities, labels = drawn(3_000, 0)
    sure = (labels == 3) & (np.random.default_rng(0).random(3_000) < 0.3)
    probabilities[sure] = [0.94, 0.03, 0.02, 0.01]
    held_out = HeldOut(probabilities[:2_000], labels[:2_000])
    new, true = probabilities[2_000:], labels[2_000:]
    by_class = measured_coverage(ConformalSets.of(held_out).sets(new, 0.9), true, NAMES).class_coverage
    assert ConformalSets.of(held_out).by_class
    assert all(found is not None and found[0] > 0.85 for found in by_class.values())
    few = HeldOut(*(part[:300] for part in held_out))
    assert not ConformalSets.of(few).by_class
    last = measured_coverage(ConformalSets.of(few).sets(new, 0.9), true, NAMES).class_coverage["dog"]
    assert last is not None
    assert last[0] < 0.8


def test_no_set_is_empty() -> None:
    right = np.eye(4)[np.arange(200) % 4] * 0.96 + 0.01
    sets = ConformalSets.of(HeldOut(right, np.arange(200) % 4)).sets(drawn(500, 1).probabilities, 0.5)
    assert (sets.sum(axis=1) == 1).all()


def test_measured_by_hand() -> None:
    sets = np.array([[True, True, False], [False, True, False], [True, False, False], [True, True, True]])
    found = measured_coverage(sets, np.array([0, 0, 0, 1]), NAMES[:3])
    assert (found.coverage, found.set_size) == (0.75, 7 / 4)
    assert found.coverage_low < 0.75 < found.coverage_high
    ants, bees = found.class_coverage["ant"], found.class_coverage["bee"]
    assert ants is not None
    assert bees is not None
    assert (ants[0], ants[3]) == (pytest.approx(2 / 3), pytest.approx(4 / 3))
    assert (bees[0], bees[3]) == (1, 3)
    assert found.class_coverage["cow"] is None


def test_groups_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 10)
    sets = np.repeat(random.random((50, 1)) < 0.9, 10, axis=0) & np.ones((500, 4), bool)
    alone, together = (measured_coverage(sets, np.zeros(500, int), NAMES, groups=each) for each in (None, groups))
    assert together.coverage_low < alone.coverage_low - 0.02


def test_the_sets_agree_with_mapie() -> None:
    """MAPIE's sets without randomisation take the class that crosses the threshold: they cover more than asked for."""
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Its input is the probabilities."""

        def fit(self, x: np.ndarray, y: np.ndarray) -> "Given":
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return self.classes_[x.argmax(axis=1)]

    held_out, (new, labels) = drawn(1_000, 2), drawn(4_000, 3)
    head = Given().fit(*held_out)
    other = mapie.SplitConformalClassifier(head, confidence_level=0.9, conformity_score="aps", prefit=True)
    _, theirs = other.conformalize(*held_out).predict_set(new)
    ours = ConformalSets(*_pooled(held_out)).sets(new, 0.9)
    assert (theirs[:, :, 0] | ~ours).all()  # each of our sets is a part of theirs
    rows = np.arange(4_000)
    assert ours[rows, labels].mean() == pytest.approx(0.9, abs=0.02)
    assert theirs[rows, labels, 0].mean() > ours[rows, labels].mean() + 0.02
    assert ours.sum() < 0.9 * theirs.sum()


def _pooled(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray, int]:
    """The parts of `ConformalSets` without classes that have enough images for thresholds of their own."""
    sets = ConformalSets.of(held_out)
    return sets.scores, np.zeros_like(sets.labels), sets.classes


@pytest.mark.parametrize("rows", [100, 2_000])
def test_the_p_value_of_a_coverage_is_uniform(rows: int) -> None:
    """Of images like the held-out ones; with 2,000 held-out images, each class has its own threshold."""
    values = []
    for draw in range(300):
        sets = ConformalSets.of(drawn(rows, draw, scale=0.7))  # less sure, so that few scores are zero
        new, labels = drawn(400, 10_000 + draw, scale=0.7)
        holds = sets.sets(new, 0.9)[np.arange(400), labels]
        values.append(sets.p_value(holds, labels, 0.9))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=3.5 * np.sqrt(level / 300))


def test_a_coverage_that_is_too_low_has_a_small_p_value() -> None:
    sets = ConformalSets.of(drawn(1_000, 0))
    labels = np.zeros(100, int)
    assert sets.p_value(np.arange(100) < 60, labels, 0.9) < 1e-4
    assert sets.p_value(np.arange(100) < 95, labels, 0.9) > 0.3
    few = ConformalSets(np.zeros(3), np.zeros(3, int), 4)
    assert few.p_value(np.ones(100, bool), labels, 0.9) == 1  # every set holds every class
