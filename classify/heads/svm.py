"""The SVM heads, one with an RBF kernel and one linear. Both predict with numpy alone."""

import functools
import itertools
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from classify.estimators import MarginClassifier, prediction_data, row_weights, training_data

logger = logging.getLogger("frozenbench")
MANY_ROWS = 10_000
CACHE_MB = 1000
BLOCK_BYTES = 1 << 27  # kernel values computed at a time


class RBFSVM(MarginClassifier):
    """A support vector machine with the kernel exp(-gamma |x - s|^2), one against one.

    oneDAL (https://uxlfoundation.github.io/scikit-learn-intelex/) trains it if it is installed, else
    scikit-learn's libsvm. Both reach the same optimum; oneDAL takes a fraction of the time. The fitted
    head holds the support vectors and their weights only.

    Args:
        C: penalty of a row on the wrong side of its margin.
        width: gamma times the number of features.
        class_weight: `balanced`, or None.
        n_jobs: threads of the fit. Prediction is a matrix product and uses numpy's threads.

    Attributes:
        classes_: the labels, (K,).
        support_: row numbers of the support vectors, (s,).
        support_vectors_: float32 (s, d).
        pair_coef_: their weights in each pair of classes, float32 (s, K (K - 1) / 2).
        pair_intercept_: the intercept of each pair, float32 (K (K - 1) / 2,).
        gamma_: gamma of the kernel.
        n_features_in_: d.
    """

    def __init__(self, C: float = 10.0, width: float = 1.0, class_weight: Any = None, n_jobs: int = 1) -> None:
        self.C = C
        self.width = width
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X (n, d) and y (n,), with weights (n,) of the rows or None.

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        weights = None if sample_weight is None else row_weights(None, targets, sample_weight)
        self.gamma_ = self.width / X.shape[1]
        solver = _solver(len(X), self.n_jobs)
        svc = solver(C=self.C, gamma=self.gamma_, class_weight=self.class_weight, cache_size=CACHE_MB)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'Threading' parallel backend is not supported")  # see `_solver`
            svc.fit(X, targets, weights)
        self.support_ = np.asarray(svc.support_)
        self.support_vectors_ = X[self.support_]
        # With a single pair, scikit-learn flips the sign.
        sign = -1 if len(self.classes_) == 2 else 1
        self.pair_coef_ = sign * _by_pair(np.asarray(svc.dual_coef_, np.float32), targets[self.support_])
        self.pair_intercept_ = sign * np.asarray(svc.intercept_, np.float32)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Minus the sum of the margins by which each class loses its pairs, float32 (n, K).

        A class that wins all its pairs scores 0, the maximum. In our measurements this is as accurate as
        libsvm's count of won pairs, and it gave the best probabilities of all sums we tried. For two
        classes the scores are (n,), see `_binary_scores`.
        """
        X = prediction_data(self, X)
        block_rows = max(1, BLOCK_BYTES // (4 * len(self.support_vectors_)))
        blocks = [X[start : start + block_rows] for start in range(0, len(X), block_rows)]
        margins = np.concatenate([self.pair_margins(block) for block in blocks])
        scores = np.zeros((len(X), len(self.classes_)), np.float32)
        for (one, other), margin in zip(_pairs(len(self.classes_)), margins.T, strict=True):
            scores[:, one] += np.minimum(margin, 0)
            scores[:, other] -= np.maximum(margin, 0)
        return _binary_scores(scores)

    def pair_margins(self, X: np.ndarray) -> np.ndarray:
        """The margin of each pair's first class over its second, float32 (n, K (K - 1) / 2)."""
        support = self.support_vectors_
        # -|x - s|^2 = 2 x s - |x|^2 - |s|^2, in place: this matrix is the largest array here.
        kernel = X @ support.T
        kernel *= 2
        kernel -= np.einsum("ij,ij->i", X, X)[:, None]
        kernel -= np.einsum("ij,ij->i", support, support)
        kernel *= np.float32(self.gamma_)
        np.exp(kernel, out=kernel)
        return kernel @ self.pair_coef_ + self.pair_intercept_


class LinearSVM(MarginClassifier):
    """A linear support vector machine, one against the rest, with the squared hinge loss.

    It has the optimum of scikit-learn's LinearSVC(dual=False) but fits all classes at once. The objective
    is differentiable, so L-BFGS (Liu and Nocedal, 1989) needs only two products with the features a step.

    Args:
        C: penalty of a row on the wrong side of its margin.
        class_weight: `balanced`, or None.
        max_iter: the largest number of steps.
        tol: stop when the largest gradient falls below this share of the one at the start.

    Attributes:
        classes_: the labels, (K,).
        coef_: float32 (K, d).
        intercept_: float32 (K,).
        n_iter_: number of steps.
        n_features_in_: d.
    """

    def __init__(self, C: float = 1e-3, class_weight: Any = None, max_iter: int = 1000, tol: float = 1e-3) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X (n, d) and y (n,), with weights (n,) of the rows or None.

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        weights = row_weights(self.class_weight, targets, sample_weight)
        return self.minimise(functools.partial(squared_hinge, X, targets, weights))

    def minimise(self, loss: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> Self:
        """Fit by minimising `loss`, which alone sees the training rows; `classes_` and `n_features_in_` are set.

        Args:
            loss: returns the training rows' `squared_hinge` for weights and intercepts, float32 (d + 1, K).
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
        # Fewer steps mean convergence, whatever the status: at the optimum, the line search can fail in float32.
        if found.nit >= self.max_iter:
            warnings.warn(f"L-BFGS stopped after {found.nit} steps: {found.message}", ConvergenceWarning, stacklevel=2)
        parameters = found.x.reshape(shape).astype(np.float32)
        self.coef_, self.intercept_ = np.ascontiguousarray(parameters[:-1].T), parameters[-1]
        self.n_iter_ = int(found.nit)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Each class's margin over the rest, float32 (n, K); for two classes (n,), see `_binary_scores`."""
        X = prediction_data(self, X)
        return _binary_scores(X @ self.coef_.T + self.intercept_)


def squared_hinge(
    X: np.ndarray, targets: np.ndarray, weights: np.ndarray, parameters: np.ndarray
) -> tuple[float, np.ndarray]:
    """The squared hinge loss, summed over rows and classes, one against the rest.

    Args:
        X: float32 (n, d).
        targets: (n,), 0..K-1.
        weights: of the rows, float32 (n,).
        parameters: weights and intercepts, float32 (d + 1, K).

    Returns:
        The loss, and its gradient with respect to the parameters, float64 (d + 1, K).
    """
    signs = np.where(targets[:, None] == np.arange(parameters.shape[1]), 1, -1).astype(np.float32)  # (n, K)
    scores = X @ parameters[:-1] + parameters[-1]
    hinge = np.maximum(1 - signs * scores, 0)
    slope = -2 * weights[:, None] * signs * hinge  # the derivative of the loss with respect to the scores
    gradient = np.vstack([X.T @ slope, slope.sum(axis=0)]).astype(np.float64)
    loss = np.sum(weights[:, None] * np.square(hinge), dtype=np.float64)
    return float(loss), gradient


def _solver(rows: int, jobs: int) -> Callable[..., Any]:
    """The fastest support vector classifier that is installed."""
    try:
        from sklearnex.svm import SVC
    except ImportError:
        from sklearn.svm import SVC

        if rows > MANY_ROWS:
            warn_of_slow_solver()
        return SVC
    if threading.current_thread() is not threading.main_thread():  # a task on a Dask worker
        from daal4py import daalinit

        daalinit(jobs)  # in such a thread, oneDAL warns and would use all cores whatever `n_jobs` is
    return functools.partial(SVC, n_jobs=jobs)


@functools.cache
def warn_of_slow_solver() -> None:
    """Warn, once per process, that training will take long."""
    logger.warning(
        "svm: scikit-learn's own solver takes many minutes on this many images; "
        "on Linux with an x86-64 processor, pip install scikit-learn-intelex installs a faster one"
    )


def _binary_scores(scores: np.ndarray) -> np.ndarray:
    """Scores (n, K), or for two classes the lead of the second, (n,), as scikit-learn expects."""
    return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores


def _pairs(classes: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(classes), 2))


def _by_pair(dual_coef: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The weights as a column per pair of classes, (s, K (K - 1) / 2), from libsvm's table (K - 1, s).

    In libsvm's table, row j of a support vector of class i holds its weight against class j if j < i, else
    against class j + 1.

    Args:
        dual_coef: libsvm's table.
        owner: the class of each support vector, (s,).
    """
    columns = []
    for first, second in _pairs(len(dual_coef) + 1):
        column = np.where(owner == first, dual_coef[second - 1], 0)
        columns.append(np.where(owner == second, dual_coef[first], column))
    return np.stack(columns, axis=1)
