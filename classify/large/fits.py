"""Heads on features that are larger than memory.

Logistic regression and the linear SVM minimise a sum over rows, so that means and deviations take one
pass over blocks of rows, and every step of L-BFGS takes one: their optimum is the one that they have in
memory. XGBoost sees few columns, whose components and discriminants are known after one pass; what is
made of the rows then fits into memory, or into that of a cluster's workers (classify/dask_trees.py).
A block is put through the head's own scaling, in float32 as in memory, and kept as it then is where
there is room.
"""

import uuid
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_sample_weight

from classify.heads.calibration import TemperatureCalibrated, class_scores
from classify.heads.svm import LinearSVM, squared_hinge
from classify.large.blocks import Block, FeatureBlocks, Share, Team, Workers, forget, kept, shares, team
from classify.large.boosting import HeldRows

RowLoss = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""Of X (n, d), targets (n,), weights (n,) and parameters (d + 1, K): a sum over the rows, and its gradient."""
Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The same of all training rows, by the parameters alone."""


def fit_in_blocks(head: Any, train: FeatureBlocks, threads: int) -> None:
    """Fit a head as its own `fit` would on the whole matrix.

    The passes over the rows are done by the workers of the Dask cluster that `joblib.parallel_config` has
    made active, else by threads. Temperatures come from the very rows that are held out in memory.

    Args:
        head: a pipeline from `make_head`, one of `HEADS_IN_BLOCKS`; its steps are fitted in place.
        train: rows of two classes or more.
        threads: of this process.

    Raises:
        CacheError: the cache cannot be used.
        ClusterError: the cluster could not do the work.
    """
    from threadpoolctl import threadpool_limits

    scaling, machine = head[:2], head[-1]
    with threadpool_limits(1), team(threads) as workers:  # each thread has a block of its own
        fit_scaling(scaling, train, workers)
        rows = _ScaledRows(train, scaling, workers)
        try:
            if isinstance(machine, StackingClassifier):
                reduced = fit_projection(head[2], machine, rows)
            elif isinstance(machine, TemperatureCalibrated):
                machine.classes_, machine.n_features_in_ = rows.classes, train.dim
                machine.estimator_ = rows.linear_svm(machine.estimator, np.arange(len(train.y)))
                machine.temperature_ = machine.held_out_temperature(
                    rows.targets,
                    lambda fitted, held_out: rows.scores(rows.linear_svm(machine.estimator, fitted), held_out),
                )
            else:
                machine.classes_, machine.n_features_in_ = rows.classes, train.dim
                weights = compute_sample_weight(machine.class_weight, rows.targets)
                fit_logistic(machine, rows.loss(logistic_loss, weights), float(weights.sum()))
        finally:
            rows.close()
        if isinstance(machine, StackingClassifier):
            machine.final_estimator_ = clone(machine.final_estimator)
            if isinstance(reduced, HeldRows):  # only now, when the scaled blocks are gone
                first, trees = machine.final_estimator_
                first.fit(np.zeros((1, reduced.columns), np.float32))
                reduced.fit(trees, rows.targets)
    if isinstance(machine, StackingClassifier) and isinstance(reduced, np.ndarray):
        machine.final_estimator_.fit(reduced, rows.targets)


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
        return machine.minimise(self.loss(squared_hinge, weights))

    def scores(self, machine: LinearSVM, rows: np.ndarray) -> np.ndarray:
        """The scores of some rows, ascending, (m, K)."""
        wanted = np.zeros(len(self.targets), bool)
        wanted[rows] = True
        return np.concatenate(
            list(self.workers.each(_scores_of, shares(self.train, wanted), self.purpose, self.scaling, machine))
        )

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows of each class (K,), their means (K, d), and the covariance of all rows (d, d), float64.

        The products of all columns are too many to be sent for each of many shares.
        """
        parts = shares(self.train, self.targets, most=self.workers.size)
        classes, dim = len(self.classes), self.train.dim
        counts, sums, products = np.zeros(classes), np.zeros((classes, dim)), np.zeros((dim, dim))
        for more in self.workers.each(_moments_of, parts, self.purpose, self.scaling, classes):
            for total, part in zip((counts, sums, products), more, strict=True):
                total += part
        mean = sums.sum(axis=0) / counts.sum()
        return counts, sums / counts[:, None], products / counts.sum() - np.outer(mean, mean)

    def put_through(self, steps: Any) -> np.ndarray | HeldRows:
        """What fitted transformers make of all rows, float32 (n, columns): here, or left on the workers of a cluster.

        XGBoost's workers listen on all interfaces, whatever Dask's do. Those that only this machine can
        reach are to stay so; and all memory that they have together, this process has as well.
        """
        sent = self.workers.send(steps)
        arguments = self.purpose, self.scaling, sent
        if isinstance(self.workers, Workers) and not self.workers.on_loopback:
            # Dask moves tasks that wait for their turn, and then their rows, to idle workers: none is to wait.
            parts = shares(self.train, most=self.workers.size)
            columns = steps.transform(np.zeros((1, self.train.dim), np.float32)).shape[1]
            held = self.workers.hold(_transformed, parts, *arguments)
            return HeldRows(self.workers, held, [part.places[-1].stop for part in parts], columns)
        return np.concatenate(list(self.workers.each(_transformed, shares(self.train), *arguments)))

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


def _moments_of(share: Share, purpose: str, scaling: Any, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dim = scaling.n_features_in_
    counts, sums, products = np.zeros(classes), np.zeros((classes, dim)), np.zeros((dim, dim))
    for block, targets in share:
        x = _scaled(block, purpose, scaling)
        members = (targets[:, None] == np.arange(classes)).astype(np.float32)  # (b, K)
        counts += members.sum(axis=0)
        sums += members.T @ x
        products += x.T @ x
    return counts, sums, products


def _transformed(share: Share, purpose: str, scaling: Any, steps: Any) -> np.ndarray:
    made = [steps.transform(_scaled(block, purpose, scaling)) for (block,) in share]
    return np.concatenate(made).astype(np.float32, copy=False)


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


def fit_projection(pca: Any, stack: StackingClassifier, rows: _ScaledRows) -> np.ndarray | HeldRows:
    """Fit the components and the discriminants of `classify.heads.registry.xgboost`.

    Both follow from the covariance of all rows and the means of the classes, so that a component is the
    exact one. The covariance within classes is pooled, without the shrinkage that few rows need; and with
    many more rows than columns, discriminants are hardly surer of their own rows than of others, so that
    no folds are needed.

    Args:
        pca: the head's PCA, fitted in place.
        stack: the head's StackingClassifier; all but its `final_estimator_` is fitted in place.
        rows: two of each class or more.

    Returns:
        What the trees are to be fitted on, float32 (n, columns), as `put_through` gives it.
    """
    counts, means, covariance = rows.moments()
    mean = counts @ means / counts.sum()
    fit_components(pca, mean, covariance, int(counts.sum()))
    inside = (means - mean) @ pca.components_.T.astype(np.float64)  # (K, q)
    priors = counts / counts.sum()
    within = np.diag(pca.explained_variance_ * (1 - 1 / counts.sum())) - (inside.T * priors) @ inside

    # scikit-learn sets all that it needs: of two rows a class, the means are the classes', and it is told the rest.
    [(name, discriminants)] = stack.estimators
    twice, own = np.repeat(inside, 2, axis=0), np.repeat(np.arange(len(counts)), 2)
    known = clone(discriminants).set_params(shrinkage=None, priors=priors, covariance_estimator=_Known(within))
    known.fit(twice, own).set_params(**discriminants.get_params())
    settings = {key: getattr(stack, key) for key in ("cv", "estimators", "final_estimator")}
    stack.set_params(cv="prefit", estimators=[(name, known)], final_estimator=DummyClassifier())
    stack.fit(twice, rows.classes[own]).set_params(**settings)
    return rows.put_through(make_pipeline(pca, stack, settings["final_estimator"][0]))


def fit_components(pca: Any, mean: np.ndarray, covariance: np.ndarray, count: int) -> None:
    """Fit scikit-learn's PCA by the mean (d,) and the covariance (d, d) of so many rows."""
    dim = len(mean)
    values, vectors = eigh(covariance, subset_by_index=[dim - pca.n_components, dim - 1])
    values, vectors = np.maximum(values[::-1], 0) * count / (count - 1), vectors[:, ::-1]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    total = np.trace(covariance) * count / (count - 1)
    pca.n_samples_, pca.n_features_in_, pca.n_components_ = count, dim, pca.n_components
    pca.mean_ = mean.astype(np.float32)
    pca.components_ = np.ascontiguousarray(vectors.T, np.float32)
    pca.explained_variance_ = values.astype(np.float32)
    pca.explained_variance_ratio_ = (values / total).astype(np.float32)
    pca.singular_values_ = np.sqrt(values * (count - 1)).astype(np.float32)
    left = dim - pca.n_components
    pca.noise_variance_ = (total - values.sum()) / left if left else 0.0


class _Known:
    """A covariance that LinearDiscriminantAnalysis need not estimate."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def fit(self, X: np.ndarray) -> None:
        """Nothing is left to do."""
