import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from classify.guarantee import Novelty, drift_p, fit_novelty, is_known
from classify.heads.registry import signed_root


def vectors(rows: int, dim: int = 20, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated vectors around the class means, which are the same for every seed; every class is as frequent."""
    fixed = np.random.default_rng(9)
    means, mixing = 2 * fixed.normal(size=(classes, dim)), fixed.normal(size=(dim, dim)) / 3
    labels = np.arange(rows) % classes
    noise = np.random.default_rng(seed).normal(size=(rows, dim)) @ mixing
    return (means[labels] + noise).astype(np.float32), labels


def fitted(x: np.ndarray, y: np.ndarray, **options: object) -> Novelty:
    found = fit_novelty(x, y, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_distance_is_the_difference_of_two_mahalanobis_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed in all columns, with the covariances themselves."""
    monkeypatch.setattr("sklearn.covariance.ledoit_wolf_shrinkage", lambda *_, **__: 0)
    x, y = vectors(20_000)
    new = vectors(50, seed=1)[0] * np.linspace(-2, 2, 50, dtype=np.float32)[:, None]
    root, new_root = signed_root(x).astype(np.float64), signed_root(new).astype(np.float64)
    means = np.stack([root[y == label].mean(axis=0) for label in range(4)])
    within = np.cov(root.T, bias=True) - np.cov(means.T, bias=True)
    to_class = [np.einsum("ij,jk,ik->i", new_root - m, np.linalg.inv(within), new_root - m) for m in means]
    centred = new_root - root.mean(axis=0)
    to_all = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(np.cov(root.T, bias=True)), centred)
    found = fitted(x, y)
    expected = np.min(to_class, axis=0) - to_all
    assert found.space.axes.shape == (20, 3)
    assert len(found.held_out) == 4_000
    np.testing.assert_allclose(found.space.distances(signed_root(new)), expected, rtol=0.05, atol=1)


@pytest.mark.parametrize(("rows", "dim"), [(100, 20), (100, 150), (400, 20), (400, 350), (4_000, 60)])
def test_false_alarms_are_as_frequent_as_promised(rows: int, dim: int) -> None:
    """Mean over draws, also with fewer rows than columns."""
    shares = []
    for draw in range(40):
        found = fitted(*vectors(rows, dim, seed=draw))
        shares.append(1 - is_known(found.strangeness(vectors(1_000, dim, seed=100 + draw)[0])).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=3 * np.std(shares) / np.sqrt(40) + 1 / rows)


def test_an_unknown_class_is_strange() -> None:
    x, y = vectors(2_000, classes=6)
    new, of = vectors(1_000, classes=6, seed=1)
    found = fitted(x[y < 4], y[y < 4])
    strangeness = found.strangeness(new)
    assert roc_auc_score(of >= 4, strangeness) > 0.95
    assert 0 <= strangeness.min() < strangeness.max() < 1


def test_groups_are_held_out_as_a_whole() -> None:
    """Copies of one image in other folds would hide how strange a new image is."""
    x, y = vectors(60, 60)
    copies, labels, groups = np.repeat(x, 5, axis=0), np.repeat(y, 5), np.repeat(np.arange(60), 5)
    new = vectors(1_000, 60, seed=1)[0]
    apart, together = (fitted(copies, labels, groups=each) for each in (None, groups))
    assert 1 - is_known(apart.strangeness(new)).mean() > 0.5
    assert 1 - is_known(together.strangeness(new)).mean() < 0.1


def test_long_vectors_are_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors(500, 60)
    new = vectors(200, 60, seed=1)[0]
    whole = fitted(x, y).space.distances(signed_root(new))
    monkeypatch.setattr("classify.guarantee.novelty.MOST_COLUMNS", 50)
    monkeypatch.setattr("classify.guarantee.novelty.COMPONENTS", 59)
    cut = fitted(x, y).space.distances(signed_root(new))
    assert np.corrcoef(cut, whole)[0, 1] > 0.95


def test_nothing_can_be_held_out() -> None:
    x, y = vectors(40)
    assert fit_novelty(x, y, groups=y) is None


def test_constant_columns() -> None:
    x, y = vectors(200)
    x[:, 3] = 1
    assert np.isfinite(fitted(x, y).strangeness(x)).all()
    assert np.isfinite(fitted(np.ones_like(x), y).strangeness(x)).all()


def test_drift_is_found_by_mistake_as_often_as_the_level_says() -> None:
    """With few training images, whose own strangeness would mislead."""
    values = []
    for draw in range(200):
        found = fitted(*vectors(60, 40, seed=draw))
        tested, new = (found.distances(vectors(80, 40, seed=seed + draw)[0]) for seed in (1_000, 2_000))
        values.append(drift_p((tested, new)))
    assert np.mean(np.array(values) <= 0.05) < 0.09
    assert 0.38 < np.mean(np.array(values) <= 0.5) < 0.62
    other = found.distances(1.5 * vectors(80, 40, seed=1)[0])
    assert drift_p((tested, other)) < 0.01
    assert drift_p((tested, other), (tested, tested)) == 2 * drift_p((tested, other))
    assert drift_p((tested, tested), (tested, tested)) == 1
