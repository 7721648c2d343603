"""Fits of heads on features that exceed memory.

Logistic regression and the linear SVM minimise a sum over rows. Their scaling takes one pass over the
blocks, and every step of L-BFGS takes another, so that they reach the optimum that they have in memory.
Linear discriminants need sums alone: one pass for them, and one for each shrinkage that is tried.
XGBoost sees few columns: principal components and discriminants, which are known after one pass. These
columns fit into memory, or into the memory of a cluster's workers (see `classify.large.boosting`).
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import compute_class_weight

from classify.estimators import row_weights
from classify.heads.calibration import TemperatureCalibrated
from classify.heads.lda import FOLDS, SHRINKAGES, FoldSums, ShrinkageLDA, best_shrinkage, stratified_folds
from classify.large.boosting import RowsOnWorkers
from classify.large.passes import Loss, ScaledRows, scaled_rows
from classify.large.workers import Threads, Workers, work_pool
from featurize.cache import FeatureRows

if TYPE_CHECKING:
    from distributed import Client


def fit_in_blocks(
    head: Any, train: FeatureRows, threads: int, client: "Client | None" = None, weights: np.ndarray | None = None
) -> None:
    """Fit a head as its own `fit` would on the whole matrix.

    Args:
        head: a pipeline from `make_head`, one of `HEADS_IN_BLOCKS`; its steps are fitted in place.
        train: features in blocks, with rows of two classes or more.
        threads: of this process.
        client: of a cluster whose workers pass over the rows; None to use the threads.
        weights: of the rows, (n,); None if all weigh the same. Not for the head `xgboost`.

    Raises:
        CacheError: the cache cannot be used.
        ClusterError: the cluster could not do the work.
    """
    fit = FITS[type(head[-1])]
    with work_pool(threads, client) as pool:
        fit(head, train, pool, weights)


def fit_logreg(head: Any, train: FeatureRows, pool: Threads | Workers, sample_weight: np.ndarray | None) -> None:
    """Fit the head `logreg`."""
    machine: LogisticRegression = head[-1]
    with scaled_rows(head, train, pool) as rows:
        machine.classes_, machine.n_features_in_ = rows.classes, rows.dim
        weights = row_weights(machine.class_weight, rows.targets, sample_weight)
        minimise_logistic(machine, rows.loss(logistic_loss, weights), float(weights.sum()))


def fit_linear_svm(head: Any, train: FeatureRows, pool: Threads | Workers, sample_weight: np.ndarray | None) -> None:
    """Fit the head `linear-svm`; its temperature comes from the same held-out rows as in memory."""
    machine: TemperatureCalibrated = head[-1]
    with scaled_rows(head, train, pool) as rows:

        def held_out_scores(fitted: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            return rows.scores(rows.linear_svm(machine.estimator, fitted, sample_weight), held_out)

        machine.classes_, machine.n_features_in_ = rows.classes, rows.dim
        machine.estimator_ = rows.linear_svm(machine.estimator, np.arange(len(train.y)), sample_weight)
        machine.calibrate(rows.targets, held_out_scores, sample_weight)


def fit_lda(head: Any, train: FeatureRows, pool: Threads | Workers, sample_weight: np.ndarray | None) -> None:
    """Fit the head `lda`; its shrinkage and temperature come from the same folds as in memory."""
    machine: ShrinkageLDA = head[-1]
    with scaled_rows(head, train, pool) as rows:
        folds = stratified_folds(rows.targets, FOLDS, machine.random_state)
        sums = rows.fold_sums(folds, row_weights(machine.class_weight, rows.targets, sample_weight))

        def held_out(shrinkage: float) -> np.ndarray:
            return rows.fold_scores(folds, sums.in_folds(shrinkage))

        given = None if sample_weight is None else row_weights(None, rows.targets, sample_weight)
        shrinkage, temperature = best_shrinkage(held_out, rows.targets, given)
        machine.use(sums.discriminants(shrinkage), rows.classes, shrinkage, temperature)


def fit_xgboost(head: Any, train: FeatureRows, pool: Threads | Workers, sample_weight: np.ndarray | None) -> None:
    """Fit the head `xgboost`: here if its columns fit into memory, else on the workers that hold them."""
    assert sample_weight is None  # it takes no weights, in memory either
    components, stack = head[2], head[-1]
    with scaled_rows(head, train, pool) as rows:
        columns = fit_projection(components, stack, rows)
    # Boosting begins when the scaled blocks no longer take up memory.
    stack.final_estimator_ = clone(stack.final_estimator)
    selection, trees = stack.final_estimator_
    selection.fit(stack.transform(np.zeros((1, components.n_components_), np.float32)))  # learns how many columns
    if isinstance(columns, RowsOnWorkers):
        columns.fit(trees, rows.targets)
    else:
        trees.fit(columns, rows.targets)


FITS = {
    LogisticRegression: fit_logreg,
    TemperatureCalibrated: fit_linear_svm,
    ShrinkageLDA: fit_lda,
    StackingClassifier: fit_xgboost,
}
"""How to fit a head, by the type of its last step."""


def logistic_loss(
    X: np.ndarray, targets: np.ndarray, weights: np.ndarray, parameters: np.ndarray
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood of logistic regression, summed over the rows.

    Args:
        X: float32 (n, d).
        targets: (n,), 0..K-1.
        weights: of the rows, float32 (n,).
        parameters: weights and intercepts, float32 (d + 1, K); with two classes those of the second, (d + 1, 1).

    Returns:
        The loss, and its gradient with respect to the parameters, float64 of their shape.
    """
    scores = X @ parameters[:-1] + parameters[-1]  # (n, K) or (n, 1)
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    logs = log_softmax(scores, axis=1)
    own = np.arange(len(targets)), targets
    # The derivative of the loss with respect to the scores: probabilities, minus one for the row's own class.
    slope = np.exp(logs)
    slope[own] -= 1
    slope = (slope * weights[:, None])[:, -parameters.shape[1] :]
    gradient = np.vstack([X.T @ slope, slope.sum(axis=0)]).astype(np.float64)
    return -float(np.sum(weights * logs[own], dtype=np.float64)), gradient


def minimise_logistic(machine: LogisticRegression, loss: Loss, weight: float) -> None:
    """Train logistic regression with scikit-learn's own objective, start and stopping rules of L-BFGS.

    Args:
        machine: with `classes_` and `n_features_in_`; fitted in place.
        loss: the `logistic_loss` over the training rows.
        weight: the sum of the rows' weights.
    """
    columns = 1 if len(machine.classes_) == 2 else len(machine.classes_)
    shape = (machine.n_features_in_ + 1, columns)
    penalty = 1 / (machine.C * weight)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(shape)
        value, gradient = loss(parameters.astype(np.float32))
        gradient /= weight
        gradient[:-1] += penalty * parameters[:-1]  # intercepts are not penalised
        squares = float(np.sum(np.square(parameters[:-1])))
        return value / weight + 0.5 * penalty * squares, gradient.ravel()

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


def fit_projection(pca: Any, stack: StackingClassifier, rows: ScaledRows) -> np.ndarray | RowsOnWorkers:
    """Fit the components and the discriminants of `classify.heads.registry.xgboost`.

    Both follow from the covariance of all rows and the class means, so the components are exact. The
    discriminants have the least shrinkage that they have in memory, and no temperature. With many more rows
    than columns, they are hardly overconfident on their own rows, so no folds are needed.

    Args:
        pca: the head's PCA, fitted in place.
        stack: the head's StackingClassifier; all but its `final_estimator_` is fitted in place.
        rows: at least two rows of each class.

    Returns:
        The columns for the trees, float32 (n, columns), as from `ScaledRows.transform`.
    """
    counts, means, covariance = rows.moments()
    total = counts.sum()
    priors = counts / total
    mean = counts @ means / total
    fit_components(pca, mean, covariance, int(total))
    # In the space of the components, the total covariance is diagonal. Within classes it lacks the spread of the means.
    centres = (means - mean) @ pca.components_.T.astype(np.float64)  # (K, components)
    between = (centres.T * priors) @ centres
    within = np.diag(pca.explained_variance_ * (1 - 1 / total)) - between

    [(name, unfitted)] = stack.estimators
    weights = counts * compute_class_weight(unfitted.class_weight, classes=rows.classes, y=rows.classes[rows.targets])
    products = weights.sum() * within + (centres.T * weights) @ centres
    sums = FoldSums(weights[None], (centres * weights[:, None])[None], products[None], len(within))
    discriminants = clone(unfitted)
    discriminants.use(sums.discriminants(SHRINKAGES[0]), np.arange(len(counts)), SHRINKAGES[0], np.float32(1))

    # With "prefit", the stack's own `fit` sets its attributes and fits nothing but a stand-in for the trees.
    labels = np.repeat(np.arange(len(counts)), 2)
    final = stack.final_estimator
    settings = {"cv": stack.cv, "estimators": stack.estimators, "final_estimator": final}
    stack.set_params(cv="prefit", estimators=[(name, discriminants)], final_estimator=DummyClassifier())
    stack.fit(centres[labels], rows.classes[labels])
    stack.set_params(**settings)
    return rows.transform(make_pipeline(pca, stack, final[0]))


def fit_components(pca: Any, mean: np.ndarray, covariance: np.ndarray, count: int) -> None:
    """Fit scikit-learn's PCA from the mean (d,) and the covariance (d, d) of `count` rows."""
    dim, kept = len(mean), pca.n_components
    values, vectors = eigh(covariance, subset_by_index=[dim - kept, dim - 1])  # ascending
    values = np.maximum(values[::-1], 0) * count / (count - 1)
    vectors = vectors[:, ::-1]
    # The largest entry of each component is positive, as in scikit-learn.
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)])
    total = np.trace(covariance) * count / (count - 1)
    pca.n_samples_, pca.n_features_in_, pca.n_components_ = count, dim, kept
    pca.mean_ = mean.astype(np.float32)
    pca.components_ = np.ascontiguousarray(vectors.T, np.float32)
    pca.explained_variance_ = values.astype(np.float32)
    pca.explained_variance_ratio_ = (values / total).astype(np.float32)
    pca.singular_values_ = np.sqrt(values * (count - 1)).astype(np.float32)
    pca.noise_variance_ = (total - values.sum()) / (dim - kept) if dim > kept else 0.0
