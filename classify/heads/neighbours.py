"""The nearest-neighbour baseline, with class weights."""

from typing import Any, Self

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils import compute_class_weight


class Neighbours(KNeighborsClassifier):  # type: ignore[misc]
    """scikit-learn's nearest neighbours, of one label a row, whose votes may weigh by class.

    Args:
        n_neighbors: how many vote.
        class_weight: `balanced`, or None.
        n_jobs: threads.

    Attributes:
        class_weights_: of each class's votes, (K,).
    """

    def __init__(self, n_neighbors: int = 20, class_weight: Any = None, n_jobs: int = 1) -> None:
        # In few dimensions scikit-learn would keep a tree, whose indices nothing checks when it is loaded.
        super().__init__(n_neighbors, algorithm="brute", n_jobs=n_jobs)
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any) -> Self:
        """Keep X (n, d) and y (n,)."""
        super().fit(X, y)
        self.class_weights_ = compute_class_weight(self.class_weight, classes=self.classes_, y=np.asarray(y))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Each class's share of the votes, float64 (n, K)."""
        votes = super().predict_proba(X) * self.class_weights_
        return votes / votes.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The label with most of the votes, (n,)."""
        shares = self.predict_proba(X)  # first, so that an unfitted head says so
        return np.asarray(self.classes_[shares.argmax(axis=1)])
