"""The SVM heads: an RBF kernel, trained by the fastest solver at hand and used with numpy, and a linear one."""

import functools
import itertools
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.heads.base import training_data

logger = logging.getLogger("frozenbench")
MANY_ROWS = 10_000
CACHE_MB = 1000
BLOCK_BYTES = 1 << 27  # of kernel values at a time


class RBFSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A support vector machine with the kernel exp(-gamma |x - s|^2), one against one.

    Trained by oneDAL (https://uxlfoundation.github.io/scikit-learn-intelex/) where it is installed,
    else by scikit-learn's libsvm: the same optimum, in a fraction of the time. What is kept is the
    support vectors and their weights.

    Args:
        C: penalty of a row on the wrong side of its margin.
        width: gamma times the number of features.
        class_weight: `balanced`, or None.
        n_jobs: threads of the fit; prediction is a matrix product and takes numpy's.

    Attributes:
        classes_: the labels, (K,).
        support_: rows of the support vectors, (s,).
        support_vectors_: float32 (s, d).
        pair_coef_: their weights in each pair of classes, float32 (s, K (K - 1) / 2).
        pair_intercept_: float32 (K (K - 1) / 2,).
        gamma_: of the kernel.
        n_features_in_: d.
    """

    def __init__(self, C: float = 10.0, width: float = 1.0, class_weight: Any = None, n_jobs: int = 1) -> None:
        self.C = C
        self.width = width
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, d) and y (n,).

        Raises:
            ValueError: X is not finite, or y holds fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        self.gamma_ = self.width / X.shape[1]
        solver = _solver(len(X), self.n_jobs)
        svc = solver(C=self.C, gamma=self.gamma_, class_weight=self.class_weight, cache_size=CACHE_MB)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'Threading' parallel backend is not supported")  # see `_solver`
            svc.fit(X, targets)
        self.support_ = np.asarray(svc.support_)
        self.support_vectors_ = X[self.support_]
        # scikit-learn turns the sign round where there is one pair only.
        sign = -1 if len(self.classes_) == 2 else 1
        self.pair_coef_ = sign * _by_pair(np.asarray(svc.dual_coef_, np.float32), targets[self.support_])
        self.pair_intercept_ = sign * np.asarray(svc.intercept_, np.float32)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """What each class loses its pairs by, summed: float32 (n, K), none above 0; of two classes, see `_of_two`.

        The class that wins all its pairs has 0. Measured: as accurate as libsvm's count of the pairs
        won, and of all sums tried the one that gives the best probabilities.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        rows = max(1, BLOCK_BYTES // (4 * len(self.support_vectors_)))
        margins = np.concatenate([self.pair_margins(X[start : start + rows]) for start in range(0, len(X), rows)])
        scores = np.zeros((len(X), len(self.classes_)), np.float32)
        for (one, other), margin in zip(_pairs(len(self.classes_)), margins.T, strict=True):
            scores[:, one] += np.minimum(margin, 0)
            scores[:, other] -= np.maximum(margin, 0)
        return _of_two(scores)

    def predict(self, X: Any) -> np.ndarray:
        """The label with the largest margin, (n,)."""
        scores = self.decision_function(X)  # first, so that an unfitted head says so
        return np.asarray(self.classes_[scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)])

    def pair_margins(self, X: np.ndarray) -> np.ndarray:
        """The margin of every pair's first class over its second, float32 (n, K (K - 1) / 2)."""
        support = self.support_vectors_
        kernel = X @ support.T
        kernel *= 2
        kernel -= np.einsum("ij,ij->i", X, X)[:, None]
        kernel -= np.einsum("ij,ij->i", support, support)
        kernel *= np.float32(self.gamma_)
        np.exp(kernel, out=kernel)
        return kernel @ self.pair_coef_ + self.pair_intercept_


class LinearSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear support vector machine, one against the rest, with the squared hinge loss.

    The optimum of scikit-learn's LinearSVC(dual=False), for all classes at once: the objective has a
    gradient, so that L-BFGS (Liu and Nocedal, 1989) needs two products with the features a step.

    Args:
        C: penalty of a row on the wrong side of its margin.
        class_weight: `balanced`, or None.
        max_iter: most steps.
        tol: of the gradient, relative to the one at the start.

    Attributes:
        classes_: the labels, (K,).
        coef_: float32 (K, d).
        intercept_: float32 (K,).
        n_iter_: steps done.
        n_features_in_: d.
    """

    def __init__(self, C: float = 1e-3, class_weight: Any = None, max_iter: int = 1000, tol: float = 1e-3) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, d) and y (n,).

        Raises:
            ValueError: X is not finite, or y holds fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        weights = compute_sample_weight(self.class_weight, targets).astype(np.float32)
        return self.fit_by(functools.partial(squared_hinge, X, targets, weights))

    def fit_by(self, loss: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> Self:
        """Train by a function alone, once `classes_` and `n_features_in_` are set.

        Args:
            loss: from weights and intercepts, float32 (d + 1, K), to the training rows' `squared_hinge`.
        """
        shape = (self.n_features_in_ + 1, len(self.classes_))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = loss(flat.reshape(shape).astype(np.float32))
            return float(0.5 * np.sum(np.square(flat)) + self.C * value), flat + self.C * gradient.ravel()

        start = np.zeros(shape).ravel()
        steepest = float(np.abs(objective(start)[1]).max())
        found = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.max_iter, "gtol": self.tol * steepest, "ftol": 1e-7},
        )
        # Where float32 has no smaller step to take, the line search gives up, at the optimum.
        if found.nit >= self.max_iter:
            warnings.warn(f"L-BFGS stopped after {found.nit} steps: {found.message}", ConvergenceWarning, stacklevel=2)
        parameters = found.x.reshape(shape).astype(np.float32)
        self.coef_, self.intercept_ = np.ascontiguousarray(parameters[:-1].T), parameters[-1]
        self.n_iter_ = int(found.nit)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Each class's margin over the rest, float32 (n, K), or of the second of two (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return _of_two(X @ self.coef_.T + self.intercept_)

    def predict(self, X: Any) -> np.ndarray:
        """The label with the largest margin, (n,)."""
        scores = self.decision_function(X)  # first, so that an unfitted head says so
        return np.asarray(self.classes_[scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)])


def squared_hinge(
    X: np.ndarray, targets: np.ndarray, weights: np.ndarray, parameters: np.ndarray
) -> tuple[float, np.ndarray]:
    """The sum over rows and classes of how far they are on the wrong side of their margin, squared.

    Args:
        X: float32 (n, d).
        targets: (n,), 0..K-1.
        weights: of the rows, float32 (n,).
        parameters: weights and intercepts, float32 (d + 1, K).

    Returns:
        The sum, and its gradient by the parameters, float64 (d + 1, K).
    """
    signs = np.where(targets[:, None] == np.arange(parameters.shape[1]), 1, -1).astype(np.float32)  # (n, K)
    short = np.maximum(1 - signs * (X @ parameters[:-1] + parameters[-1]), 0)  # of the margin
    pull = -2 * weights[:, None] * signs * short
    gradient = np.vstack([X.T @ pull, pull.sum(axis=0)]).astype(np.float64)
    return float(np.sum(weights[:, None] * np.square(short), dtype=np.float64)), gradient


def _solver(rows: int, jobs: int) -> Callable[..., Any]:
    try:
        from sklearnex.svm import SVC
    except ImportError:
        from sklearn.svm import SVC

        if rows > MANY_ROWS:
            say_that_it_is_slow()
        return SVC
    if threading.current_thread() is not threading.main_thread():  # a task of a cluster's worker
        from daal4py import daalinit

        daalinit(jobs)  # there it warns, and takes all cores whatever `n_jobs` says
    return functools.partial(SVC, n_jobs=jobs)


@functools.cache
def say_that_it_is_slow() -> None:
    """Warn of it, once."""
    logger.warning(
        "svm: scikit-learn's own solver takes many minutes on this many images; "
        "where there are wheels of it, pip install scikit-learn-intelex brings a faster one"
    )


def _of_two(scores: np.ndarray) -> np.ndarray:
    """Scores (n, K) as scikit-learn has them: of two classes, how far the second is ahead, (n,)."""
    return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores


def _pairs(classes: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(classes), 2))


def _by_pair(dual_coef: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """A column of weights per pair of classes, (s, K (K - 1) / 2), from libsvm's table (K - 1, s).

    There, row j of a vector whose class, its `owner` (s,), is i stands for i against j, or j + 1 from i on.
    """
    columns = []
    for one, other in _pairs(len(dual_coef) + 1):
        column = np.where(owner == one, dual_coef[other - 1], 0)
        columns.append(np.where(owner == other, dual_coef[one], column))
    return np.stack(columns, axis=1)
