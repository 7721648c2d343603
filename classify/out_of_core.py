"""Linear heads on features that are larger than memory, at the optimum that they have in memory.

Logistic regression and the linear SVM minimise a sum over rows, so that means and deviations take one
pass over blocks of rows, and every step of L-BFGS takes one. A block is put through the head's own
scaling, in float32 as in memory, and kept as it then is where there is room.
"""

import uuid
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_sample_weight

from classify.blocks import Block, FeatureBlocks, Share, Team, forget, kept, shares, team
from classify.calibration import TemperatureCalibrated, class_scores
from classify.svm import LinearSVM, squared_hinge

RowLoss = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""Of X (n, d), targets (n,), weights (n,) and parameters (d + 1, K): a sum over the rows, and its gradient."""
Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The same of all training rows, by the parameters alone."""


def fit_in_blocks(head: Any, train: FeatureBlocks, threads: int) -> None:
    """Fit a head as its own `fit` would on the whole matrix.

    The work is done by the workers of the Dask cluster that `joblib.parallel_config` has made active,
    else by threads. A linear SVM's temperature comes from the very rows that are held out in memory.

    Args:
        head: a pipeline from `make_head`, of a name in `classify.heads.HEADS_IN_BLOCKS`; its steps are fitted in place.
        train: rows of two classes or more.
        threads: of this process.

    Raises:
        CacheError: the cache cannot be used.
        ClusterError: the cluster could not do the work.
    """
    from threadpoolctl import threadpool_limits

    scaling, machine = head[:-1], head[-1]
    with threadpool_limits(1), team(threads) as workers:  # each thread has a block of its own
        fit_scaling(scaling, train, workers)
        rows = _ScaledRows(train, scaling, workers)
        machine.classes_, machine.n_features_in_ = rows.classes, train.dim
        try:
            if isinstance(machine, TemperatureCalibrated):
                machine.estimator_ = rows.linear_svm(machine.estimator, np.arange(len(train.y)))
                machine.temperature_ = machine.held_out_temperature(
                    rows.targets,
                    lambda fitted, held_out: rows.scores(rows.linear_svm(machine.estimator, fitted), held_out),
                )
            else:
                weights = compute_sample_weight(machine.class_weight, rows.targets)
                fit_logistic(machine, rows.loss(logistic_loss, weights), float(weights.sum()))
        finally:
            rows.close()


def fit_scaling(scaling: Any, train: FeatureBlocks, workers: Team) -> None:
    """Fit a pipeline of `signed_root` and a StandardScaler.

    Two rows at a deviation's distance from the mean have the mean and the variance of all rows of a share:
    scikit-learn joins the shares by them.
    """
    root, scaler = scaling[0], scaling[1]
    found = list(workers.each(_moments, shares(train), root))
    counts, means, variances = (np.stack(each) for each in zip(*found, strict=True))
    deviations = np.sqrt(variances)
    scaler.fit(
        np.concatenate([means - deviations, means + deviations]), sample_weight=np.concatenate([counts, counts]) / 2
    )
    scaler.n_samples_seen_ = counts.sum()
    root.fit(np.zeros((1, train.dim), np.float32))  # it only looks at the number of columns


def _moments(share: Share, root: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """The number of rows, and the mean and the variance of each column, float64 (d,), as they are after the root."""
    scaler = StandardScaler()
    for (block,) in share:
        scaler.partial_fit(root.transform(block.read()))
    return scaler.n_samples_seen_, scaler.mean_, scaler.var_


class _ScaledRows:
    """The training rows, scaled, in the hands of a team."""

    def __init__(self, train: FeatureBlocks, scaling: Any, workers: Team) -> None:
        self.train = train
        self.classes, self.targets = np.unique(train.y, return_inverse=True)
        self.workers = workers
        self.purpose = uuid.uuid4().hex
        self.scaling = workers.send(scaling)

    def loss(self, of_rows: RowLoss, weights: np.ndarray) -> Loss:
        """The sum over all rows, with a weight each, (n,)."""
        parts = shares(self.train, self.targets, weights.astype(np.float32))

        def total(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = 0.0, np.zeros(parameters.shape)
            sent = self.workers.send(parameters)
            for more, slope in self.workers.each(_loss_of, parts, self.purpose, self.scaling, of_rows, sent):
                value += more
                gradient += slope
            return value, gradient

        return total

    def linear_svm(self, unfitted: LinearSVM, rows: np.ndarray) -> LinearSVM:
        """One fitted on some of the rows, and on labels 0..K-1."""
        machine = clone(unfitted)
        machine.classes_, machine.n_features_in_ = np.arange(len(self.classes)), self.train.dim
        weights = np.zeros(len(self.targets))
        weights[rows] = compute_sample_weight(machine.class_weight, self.targets[rows])
        return machine.fit_by(self.loss(squared_hinge, weights))

    def scores(self, machine: LinearSVM, rows: np.ndarray) -> np.ndarray:
        """The scores of some rows, ascending, (m, K)."""
        wanted = np.zeros(len(self.targets), bool)
        wanted[rows] = True
        return np.concatenate(
            list(self.workers.each(_scores_of, shares(self.train, wanted), self.purpose, self.scaling, machine))
        )

    def close(self) -> None:
        """Free the memory that the blocks have taken."""
        self.workers.everyone(forget, self.purpose)


def _loss_of(
    share: Share, purpose: str, scaling: Any, of_rows: RowLoss, parameters: np.ndarray
) -> tuple[float, np.ndarray]:
    value, gradient = 0.0, np.zeros(parameters.shape)
    for block, targets, weights in share:
        more, slope = of_rows(_scaled(block, purpose, scaling), targets, weights, parameters)
        value += more
        gradient += slope
    return value, gradient


def _scores_of(share: Share, purpose: str, scaling: Any, machine: LinearSVM) -> np.ndarray:
    return np.concatenate([class_scores(machine, _scaled(block, purpose, scaling))[wanted] for block, wanted in share])


def _scaled(block: Block, purpose: str, scaling: Any) -> np.ndarray:
    return kept(purpose, block, lambda block: scaling.transform(block.read()))


def logistic_loss(
    X: np.ndarray, targets: np.ndarray, weights: np.ndarray, parameters: np.ndarray
) -> tuple[float, np.ndarray]:
    """The negative logarithm of what logistic regression gives the rows' own classes, summed.

    Args:
        X: float32 (n, d).
        targets: (n,), 0..K-1.
        weights: of the rows, float32 (n,).
        parameters: weights and intercepts, float32 (d + 1, K); of two classes, the second one's, (d + 1, 1).

    Returns:
        The sum, and its gradient by the parameters, float64 of their shape.
    """
    scores = X @ parameters[:-1] + parameters[-1]
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    logs = log_softmax(scores, axis=1)
    pull = np.exp(logs)
    own = np.arange(len(targets)), targets
    pull[own] -= 1
    pull = (pull * weights[:, None])[:, -parameters.shape[1] :]
    gradient = np.vstack([X.T @ pull, pull.sum(axis=0)]).astype(np.float64)
    return -float(np.sum(weights * logs[own], dtype=np.float64)), gradient


def fit_logistic(machine: Any, loss: Loss, weight: float) -> None:
    """Train scikit-learn's LogisticRegression by a function alone: its own objective, start and end of L-BFGS.

    Args:
        machine: with `classes_` and `n_features_in_`.
        loss: the training rows' `logistic_loss`.
        weight: of all rows together.
    """
    columns = 1 if len(machine.classes_) == 2 else len(machine.classes_)
    shape = (machine.n_features_in_ + 1, columns)
    penalty = 1 / (machine.C * weight)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(shape)
        value, gradient = loss(parameters.astype(np.float32))
        gradient /= weight
        gradient[:-1] += penalty * parameters[:-1]  # not of the intercepts
        return value / weight + 0.5 * penalty * float(np.sum(np.square(parameters[:-1]))), gradient.ravel()

    found = minimize(
        objective,
        np.zeros(shape).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": machine.max_iter, "maxls": 50, "gtol": machine.tol, "ftol": 64 * np.finfo(float).eps},
    )
    if not found.success:
        warnings.warn(f"L-BFGS stopped after {found.nit} steps: {found.message}", ConvergenceWarning, stacklevel=2)
    parameters = found.x.reshape(shape).astype(np.float32)
    machine.coef_, machine.intercept_ = np.ascontiguousarray(parameters[:-1].T), parameters[-1]
    machine.n_iter_ = np.array([found.nit], np.int32)
