"""Temperature calibration: probabilities from a classifier's scores."""

import math
from collections.abc import Callable
from itertools import islice
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if

from classify.estimators import ProbabilisticClassifier, prediction_data, training_data

FOLDS = 5
ROWS_FOR_ONE_FOLD = 500  # with more rows, one of the folds is enough
SHARPEST = 1e3  # temperatures are searched from 1 / SHARPEST to SHARPEST


class TemperatureCalibrated(ProbabilisticClassifier):
    """Wraps a classifier in temperature calibration (Guo et al., On Calibration of Modern Neural Networks, 2017).

    The classifier is fitted on all rows. For the temperature, a copy is fitted on four fifths of them,
    and the temperature minimises the log loss of the last fifth. Up to 500 rows, all five folds are
    used; beyond that, one fold is plenty for a single number.

    Args:
        estimator: a classifier with `decision_function`, or with `predict_proba`, whose logarithm then
            serves as the score.
        max_rows: fit the copies on at most this many rows (plus at most one per class); None for all
            four fifths.
        random_state: seed of the folds.

    Attributes:
        classes_: the labels, (K,).
        estimator_: the classifier, fitted on all rows with labels 0..K-1.
        temperature_: the divisor of the scores; 1 if a class has a single row.
        n_features_in_: d.
    """

    def __init__(self, estimator: Any, max_rows: int | None = None, random_state: Any = None) -> None:
        self.estimator = estimator
        self.max_rows = max_rows
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the classifier and the temperature on X (n, d) and y (n,).

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        self.estimator_ = clone(self.estimator).fit(X, targets)

        def scores_of(fitted: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            copy = clone(self.estimator).fit(X[fitted], targets[fitted])
            return class_scores(copy, X[held_out])

        self.temperature_ = self.held_out_temperature(targets, scores_of)
        return self

    @available_if(lambda self: hasattr(self.estimator, "decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> np.ndarray:
        """The classifier's scores, (n, K), or (n,) for two classes."""
        X = prediction_data(self, X)
        return self.estimator_.decision_function(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, (n, K)."""
        X = prediction_data(self, X)
        return softmax(class_scores(self.estimator_, X) / self.temperature_, axis=1)

    def held_out_temperature(
        self, targets: np.ndarray, scores_of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> np.float32:
        """The best temperature for the scores of held-out rows; 1 if a class has a single row.

        Args:
            targets: of all rows, (n,), 0..K-1.
            scores_of: fits on the rows given first and returns the scores, (m, K), of those given second,
                which are held out; both are ascending row numbers.
        """
        folds = min(FOLDS, int(np.bincount(targets).min()))
        if folds < 2:
            return np.float32(1)
        splits = StratifiedKFold(folds, shuffle=True, random_state=self.random_state).split(targets, targets)
        used = folds if len(targets) <= ROWS_FOR_ONE_FOLD else 1
        scores, labels = [], []
        for fitted, held_out in islice(splits, used):
            if self.max_rows is not None and len(fitted) > self.max_rows:
                fitted = _share_of_each_class(fitted, targets, self.max_rows / len(fitted), self.random_state)
            scores.append(scores_of(fitted, held_out))
            labels.append(targets[held_out])
        return best_temperature(np.concatenate(scores), np.concatenate(labels))


def _share_of_each_class(rows: np.ndarray, targets: np.ndarray, share: float, random_state: Any) -> np.ndarray:
    """A random subset of the rows: the same share of each class, and at least one row of each."""
    shuffled = check_random_state(random_state).permutation(rows)
    chosen = []
    for label in np.unique(targets):
        of_class = shuffled[targets[shuffled] == label]
        chosen.append(of_class[: math.ceil(share * len(of_class))])
    return np.concatenate(chosen)


def class_scores(classifier: Any, X: np.ndarray) -> np.ndarray:
    """A score for each class, (n, K)."""
    if not hasattr(classifier, "decision_function"):
        probabilities = classifier.predict_proba(X)
        return np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
    scores = classifier.decision_function(X)
    if scores.ndim == 1:  # two classes: the lead of the second
        return np.stack([-scores / 2, scores / 2], axis=1)
    return scores


def best_temperature(scores: np.ndarray, labels: np.ndarray) -> np.float32:
    """The divisor of scores (n, K) that minimises the log loss of labels (n,), 0..K-1."""

    def log_loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(log_probabilities[np.arange(len(labels)), labels].mean())

    bound = np.log(SHARPEST)
    found = minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded")
    return np.float32(np.exp(found.x))
