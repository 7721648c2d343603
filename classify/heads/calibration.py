"""Temperature calibration: probabilities from a classifier's scores."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight

from classify.estimators import ProbabilisticClassifier, prediction_data, training_data

FOLDS = 5
ROWS_FOR_ONE_FOLD = 500  # with more rows, one of the folds is enough
SHARPEST = 1e3  # temperatures are searched from 1 / SHARPEST to SHARPEST


class HeldOut(NamedTuple):
    """What a head says of training rows that its fit held out: probabilities (m, K), and labels (m,), 0..K-1."""

    probabilities: np.ndarray
    labels: np.ndarray


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
        held_out_: the calibrated probabilities of the held-out rows, a `HeldOut`; None if a class has a single row.
            A pickled or saved head is without them.
        n_features_in_: d.
    """

    held_out_: HeldOut | None

    def __init__(self, estimator: Any, max_rows: int | None = None, random_state: Any = None) -> None:
        self.estimator = estimator
        self.max_rows = max_rows
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the classifier and the temperature on X (n, d) and y (n,), with weights (n,) of the rows or None.

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)

        def fitted_on(rows: Any) -> Any:
            weighted = {} if weights is None else {"sample_weight": weights[rows]}
            return clone(self.estimator).fit(X[rows], targets[rows], **weighted)

        def scores_of(fitted: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            return class_scores(fitted_on(fitted), X[held_out])

        self.estimator_ = fitted_on(slice(None))
        self.calibrate(targets, scores_of, weights)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "held_out_"}

    @available_if(lambda self: hasattr(self.estimator, "decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> np.ndarray:
        """The classifier's scores, (n, K), or (n,) for two classes."""
        X = prediction_data(self, X)
        return self.estimator_.decision_function(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, (n, K)."""
        X = prediction_data(self, X)
        return softmax(class_scores(self.estimator_, X) / self.temperature_, axis=1)

    def calibrate(
        self,
        targets: np.ndarray,
        scores_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
        weights: np.ndarray | None = None,
    ) -> None:
        """Set the temperature that is best for the scores of held-out rows, and keep their probabilities.

        Args:
            targets: of all rows, (n,), 0..K-1.
            scores_of: fits on the rows given first and returns the scores, (m, K), of those given second,
                which are held out; both are ascending row numbers.
            weights: of all rows, (n,), or None.
        """
        self.temperature_, self.held_out_ = np.float32(1), None
        parts, rows = [], []
        for fitted, held_out in held_out_folds(targets, self.random_state):
            if self.max_rows is not None and len(fitted) > self.max_rows:
                fitted = _share_of_each_class(fitted, targets, self.max_rows / len(fitted), self.random_state)
            parts.append(scores_of(fitted, held_out))
            rows.append(held_out)
        if parts:
            scores, all_held_out = np.concatenate(parts), np.concatenate(rows)
            known = targets[all_held_out]
            self.temperature_ = best_temperature(scores, known, None if weights is None else weights[all_held_out])
            self.held_out_ = HeldOut(softmax(scores / self.temperature_, axis=1), known)


def held_out_folds(
    targets: np.ndarray, random_state: Any, groups: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows to fit on, which hold every class, and the rows to hold out, both ascending.

    Up to 500 rows, these are five folds, and every row is held out once; beyond that, one fold. Nothing is held out
    if a class has a single row.

    Args:
        targets: of all rows, (n,), 0..K-1.
        random_state: seed of the folds.
        groups: of all rows, (n,); rows of a group stay together. None if every row stands for itself.
    """
    folds = min(FOLDS, int(np.bincount(targets).min()))
    if groups is not None:
        folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        return
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = splitter(folds, shuffle=True, random_state=random_state).split(targets, targets, groups)
    used = folds if len(targets) <= ROWS_FOR_ONE_FOLD else 1
    classes = targets.max() + 1
    for fitted, held_out in islice(splits, used):
        if len(held_out) and len(np.unique(targets[fitted])) == classes:  # a class may be in one group only
            yield fitted, held_out


def held_out_of(head: Any) -> HeldOut | None:
    """What the temperature of a pipeline that was fitted just now held out; None if there is no temperature."""
    step = head[-1]
    if hasattr(step, "final_estimator_") and hasattr(step.final_estimator_, "steps"):  # xgboost: around its trees
        step = step.final_estimator_[-1]
    return getattr(step, "held_out_", None)


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


def best_temperature(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.float32:
    """The divisor of scores (n, K) that minimises the log loss of labels (n,), 0..K-1, with weights (n,) or None."""

    def log_loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float(np.average(log_probabilities[np.arange(len(labels)), labels], weights=weights))

    bound = np.log(SHARPEST)
    found = minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded")
    return np.float32(np.exp(found.x))
