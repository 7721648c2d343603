"""What our own estimators share: the check of training data, and the label from probabilities."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data


class ProbabilisticClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose label is the most probable one by its `predict_proba`."""

    classes_: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, (n,)."""
        probabilities = self.predict_proba(X)  # first, so that an unfitted head says so
        return np.asarray(self.classes_[probabilities.argmax(axis=1)])


def training_data(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check what an estimator is to be fitted on, and give it `classes_` and `n_features_in_`.

    Returns:
        X float32 (n, d), and each row's place in `classes_`, (n,).

    Raises:
        ValueError: X is not finite, or y holds fewer than two classes.
    """
    X, y = validate_data(estimator, X, y, dtype=np.float32)
    check_classification_targets(y)
    estimator.classes_, targets = np.unique(y, return_inverse=True)
    if len(estimator.classes_) < 2:
        raise ValueError(f"the training rows hold one class only: {estimator.classes_[0]}")
    return X, targets
