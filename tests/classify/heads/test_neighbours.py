from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from classify.heads.neighbours import Neighbours
from classify.runs.persist import load_head, save_head

X = np.array([[0.0], [0.1], [0.2], [0.3], [1.0]], np.float32)
Y = np.array([0, 0, 0, 0, 1])


def test_without_weights_it_is_scikit_learns() -> None:
    np.testing.assert_array_equal(
        Neighbours(3).fit(X, Y).predict_proba(X), KNeighborsClassifier(3).fit(X, Y).predict_proba(X)
    )


def test_balanced_votes_weigh_by_class() -> None:
    head = Neighbours(5, class_weight="balanced").fit(X, Y)
    np.testing.assert_allclose(head.class_weights_, [5 / 8, 5 / 2])
    np.testing.assert_allclose(head.predict_proba(X[:1]), [[0.5, 0.5]])  # four votes of 5/8, one of 5/2
    np.testing.assert_allclose(Neighbours(5).fit(X, Y).predict_proba(X[:1]), [[0.8, 0.2]])


def test_of_few_features_too_it_can_be_saved(tmp_path: Path) -> None:
    x = np.arange(80, dtype=np.float32).reshape(40, 2)
    head = make_pipeline(Neighbours(3)).fit(x, np.arange(40) % 2)
    loaded = load_head(tmp_path / "head.skops", save_head(head, tmp_path / "head.skops"))
    np.testing.assert_array_equal(loaded.predict_proba(x), head.predict_proba(x))
