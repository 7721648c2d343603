"""What our own estimators share: checked inputs, and labels from probabilities or margins.

May import: nothing of ours.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data


class ProbabilisticClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that predicts the label with the highest `predict_proba`."""

    classes_: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, (n,)."""
        probabilities = self.predict_proba(X)  # first, because it checks that the head is fitted
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])


class MarginClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that predicts the label with the highest `decision_function`."""

    classes_: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """The label with the largest margin, (n,)."""
        scores = self.decision_function(X)  # first, because it checks that the head is fitted
        chosen = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[chosen])


def training_data(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check training data, and set the estimator's `classes_` and `n_features_in_`.

    Returns:
        X as float32 (n, d), and the index of each row's label in `classes_`, (n,).

    Raises:
        ValueError: X is not finite, or y has fewer than two classes.
    """
    X, y = validate_data(estimator, X, y, dtype=np.float32)
    check_classification_targets(y)
    estimator.classes_, targets = np.unique(y, return_inverse=True)
    if len(estimator.classes_) < 2:
        raise ValueError(f"the training rows hold one class only: {estimator.classes_[0]}")
    return X, targets


def row_weights(class_weight: Any, targets: np.ndarray, sample_weight: Any = None) -> np.ndarray:
    """The weights of rows, float32 (n,): of their classes, `balanced` or None, times those given, (n,) or None.

    Raises:
        ValueError: the weights given are not finite numbers (n,).
    """
    weights = compute_sample_weight(class_weight, targets).astype(np.float32)
    return weights * _check_sample_weight(sample_weight, targets, dtype=np.float32)


def prediction_data(estimator: Any, X: Any) -> np.ndarray:
    """Check that the estimator is fitted and that X suits it; returns X as float32 (n, d)."""
    check_is_fitted(estimator)
    return np.asarray(validate_data(estimator, X, dtype=np.float32, reset=False))
