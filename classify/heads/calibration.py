"""From a classifier's scores to probabilities: one temperature, fitted on rows the scores were not fitted on."""

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
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.heads.base import ProbabilisticClassifier, training_data

FOLDS = 5
ROWS_FOR_ONE_FOLD = 500
SHARPEST = 1e3


class TemperatureCalibrated(ProbabilisticClassifier):
    """Probabilities from scores or other probabilities (Guo et al., On Calibration of Modern Neural Networks, 2017).

    The classifier is fitted on all rows. Beside it, it is fitted on four fifths of them, and the
    temperature is the one that gives the last fifth the least log loss: five times over for up to
    500 rows, once for more, where one fifth is plenty for one number.

    Args:
        estimator: a classifier with `decision_function`, or with `predict_proba`, whose logarithm then
            takes the place of scores.
        max_rows: fit it on no more rows than this for the temperature (and at most one more of each
            class); None for all four fifths.
        random_state: seed of the folds.

    Attributes:
        classes_: the labels, (K,).
        estimator_: the classifier, fitted on all rows and labels 0..K-1.
        temperature_: what the scores are divided by; 1 where a class has a single row.
        n_features_in_: d.
    """

    def __init__(self, estimator: Any, max_rows: int | None = None, random_state: Any = None) -> None:
        self.estimator = estimator
        self.max_rows = max_rows
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the classifier and the temperature on X (n, d) and y (n,).

        Raises:
            ValueError: X is not finite, or y holds fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        self.estimator_ = clone(self.estimator).fit(X, targets)
        self.temperature_ = self.held_out_temperature(
            targets,
            lambda fitted, held_out: class_scores(clone(self.estimator).fit(X[fitted], targets[fitted]), X[held_out]),
        )
        return self

    @available_if(lambda self: hasattr(self.estimator, "decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> np.ndarray:
        """The classifier's scores, (n, K), or (n,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return self.estimator_.decision_function(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, (n, K)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return softmax(class_scores(self.estimator_, X) / self.temperature_, axis=1)

    def held_out_temperature(
        self, targets: np.ndarray, scores_of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> np.float32:
        """The best temperature of the scores of rows that were held out; 1 where a class has a single row.

        Args:
            targets: of all rows, (n,), 0..K-1.
            scores_of: from the rows to fit on and those held out, ascending, to the scores of the latter, (m, K).
        """
        folds = min(FOLDS, int(np.bincount(targets).min()))
        if folds < 2:
            return np.float32(1)
        split = StratifiedKFold(folds, shuffle=True, random_state=self.random_state).split(targets, targets)
        scores, labels = [], []
        for fitted, held_out in islice(split, folds if len(targets) <= ROWS_FOR_ONE_FOLD else 1):
            if self.max_rows is not None and len(fitted) > self.max_rows:
                fitted = _share_of_each_class(fitted, targets, self.max_rows / len(fitted), self.random_state)
            scores.append(scores_of(fitted, held_out))
            labels.append(targets[held_out])
        return best_temperature(np.concatenate(scores), np.concatenate(labels))


def _share_of_each_class(rows: np.ndarray, targets: np.ndarray, share: float, random_state: Any) -> np.ndarray:
    """Some of the rows: of each class the same share, and one row at least."""
    shuffled = check_random_state(random_state).permutation(rows)
    classes = (shuffled[targets[shuffled] == label] for label in np.unique(targets))
    return np.concatenate([own[: math.ceil(share * len(own))] for own in classes])


def class_scores(classifier: Any, X: np.ndarray) -> np.ndarray:
    """A score for each class, (n, K)."""
    if not hasattr(classifier, "decision_function"):
        probabilities = classifier.predict_proba(X)
        return np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
    scores = classifier.decision_function(X)
    return np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores


def best_temperature(scores: np.ndarray, labels: np.ndarray) -> np.float32:
    """The number to divide scores (n, K) by that gives labels (n,), 0..K-1, the least log loss."""

    def log_loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(log_probabilities[np.arange(len(labels)), labels].mean())

    bound = np.log(SHARPEST)
    return np.float32(np.exp(minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded").x))
