"""The nearest-neighbour baseline: weighted votes, by the cosine of the angle between vectors."""

from typing import Any, Self

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils import compute_class_weight

TEMPERATURE = 0.1


class Neighbours(KNeighborsClassifier):  # type: ignore[misc]
    """The weighted vote of the nearest neighbours (Wu et al., Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination, 2018).

    A neighbour whose vector has the cosine c with that of the image votes with the weight exp(c / `TEMPERATURE`). So
    distant neighbours hardly count, and with few rows of each class the neighbours may be more than those.

    Args:
        n_neighbors: number of neighbours that vote.
        class_weight: `balanced`, or None.
        n_jobs: threads.

    Attributes:
        class_weights_: weight of each class's votes, (K,).
    """

    def __init__(self, n_neighbors: int = 20, class_weight: Any = None, n_jobs: int = 1) -> None:
        # In few dimensions scikit-learn would build a tree, whose indices nothing checks when a head is loaded.
        super().__init__(n_neighbors, weights=votes, algorithm="brute", metric="cosine", n_jobs=n_jobs)
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any) -> Self:
        """Store X (n, d) and y (n,)."""
        super().fit(X, y)
        self.class_weights_ = compute_class_weight(self.class_weight, classes=self.classes_, y=np.asarray(y))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Each class's share of the votes, float64 (n, K)."""
        votes = super().predict_proba(X) * self.class_weights_
        return votes / votes.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The label with the most votes, (n,)."""
        shares = self.predict_proba(X)  # first, because it checks that the head is fitted
        return np.asarray(self.classes_[shares.argmax(axis=1)])


def votes(distances: np.ndarray) -> np.ndarray:
    """The weights of neighbours at cosine distances 1 - c, ascending in each row, (n, k); the nearest has 1."""
    return np.exp((distances[:, :1] - distances) / TEMPERATURE)
