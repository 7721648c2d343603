from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from classify.heads.neighbours import Neighbours
from classify.runs.persist import load_head, save_head

ANGLES = np.array([0.0, 0.01, 0.02, 0.03, 0.4])
X = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
Y = np.array([0, 0, 0, 0, 1])


def test_without_class_weights_it_is_scikit_learns() -> None:
    theirs = KNeighborsClassifier(3, metric="cosine", weights=lambda distances: np.exp(-distances / 0.1))
    ours = Neighbours(3).fit(X, Y).predict_proba(X)
    np.testing.assert_allclose(ours, theirs.fit(X, Y).predict_proba(X), atol=1e-5)


def test_a_neighbour_votes_by_its_cosine() -> None:
    near, far = np.exp(10 * np.cos(ANGLES[:4])).sum(), np.exp(10 * np.cos(ANGLES[4]))
    found = Neighbours(5).fit(X, Y).predict_proba(X[:1])
    np.testing.assert_allclose(found, [[near / (near + far), far / (near + far)]], rtol=1e-4)
    np.testing.assert_array_equal(Neighbours(5).fit(X, Y).predict_proba(7 * X[:1]), found)  # lengths do not count


def test_of_few_images_a_class_the_nearest_decide() -> None:
    """Equal votes of 20 neighbours would be near chance with 5 rows of each class."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(10, 64))
    y = np.repeat(np.arange(10), 5)
    x, new = (centres[y] + random.normal(size=(50, 64)) for _ in range(2))
    assert (Neighbours(20).fit(x, y).predict(new) == y).mean() > 0.95


def test_balanced_votes_weigh_by_class() -> None:
    head = Neighbours(5, class_weight="balanced").fit(X, Y)
    np.testing.assert_allclose(head.class_weights_, [5 / 8, 5 / 2])
    plain, balanced = Neighbours(5).fit(X, Y).predict_proba(X[:1])[0], head.predict_proba(X[:1])[0]
    assert balanced[1] / balanced[0] == pytest.approx(4 * plain[1] / plain[0])


def test_of_few_features_too_it_can_be_saved(tmp_path: Path) -> None:
    x = np.arange(80, dtype=np.float32).reshape(40, 2)
    head = make_pipeline(Neighbours(3)).fit(x, np.arange(40) % 2)
    loaded = load_head(tmp_path / "head.skops", save_head(head, tmp_path / "head.skops"))
    np.testing.assert_allclose(loaded.predict_proba(x), head.predict_proba(x), atol=1e-6)
