"""Linear discriminants with a shrunk covariance, from sums over the rows.

Everything that a fit needs is a sum over rows: the rows of each class, the sum of their vectors, and the sum of the
vectors' outer products. The sums of all folds but one are those of the whole less one, so that each row can be scored
by discriminants that never saw it at the price of one pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import log_softmax, softmax

from classify.estimators import ProbabilisticClassifier, prediction_data, row_weights, training_data
from classify.heads.calibration import best_temperature

FOLDS = 5
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
LEAST_ROWS = 0.5  # of a class, so that a class without rows has a finite score
LEAST_VARIANCE = 1e-12  # of constant columns


class ShrinkageLDA(ProbabilisticClassifier):
    """Linear discriminant analysis with the within-class covariance shrunk towards a multiple of the identity.

    The shrinkage (Friedman, Regularized Discriminant Analysis, 1989) and a temperature for the probabilities (Guo et
    al., On Calibration of Modern Neural Networks, 2017) minimise the log loss of rows in held-out folds. With fewer
    rows than columns, all is computed in the space that the rows span, from their Gram matrix; the result is the same.

    Args:
        class_weight: `balanced`, or None.
        random_state: seed of the folds.

    Attributes:
        classes_: the labels, (K,).
        coef_: float32 (K, d).
        intercept_: float32 (K,).
        shrinkage_: 0..1.
        temperature_: the divisor of the scores.
        n_features_in_: d.
    """

    def __init__(self, class_weight: Any = None, random_state: int = 0) -> None:
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit on X (n, d) and y (n,), with weights (n,) of the rows or None.

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        weights = row_weights(self.class_weight, targets, sample_weight)
        basis = row_space(X)
        coordinates = X if basis is None else X @ basis
        folds = stratified_folds(targets, FOLDS, self.random_state)
        sums = FoldSums.of(coordinates, targets, folds, weights, (FOLDS, len(self.classes_)), X.shape[1])

        def held_out(shrinkage: float) -> np.ndarray:
            return fold_scores(coordinates, folds, sums.in_folds(shrinkage))

        given = None if sample_weight is None else row_weights(None, targets, sample_weight)
        shrinkage, temperature = best_shrinkage(held_out, targets, given)
        found = sums.discriminants(shrinkage)
        if basis is not None:
            found = found._replace(coef=basis @ found.coef)
        return self.use(found, self.classes_, shrinkage, temperature)

    def use(self, found: "Discriminants", classes: np.ndarray, shrinkage: float, temperature: np.float32) -> Self:
        """Take discriminants of the classes (K,) that were computed elsewhere."""
        self.classes_, self.n_features_in_ = classes, len(found.coef)
        self.coef_, self.intercept_ = np.ascontiguousarray(found.coef.T), found.intercept
        self.shrinkage_, self.temperature_ = shrinkage, temperature
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K)."""
        X = prediction_data(self, X)
        return softmax((X @ self.coef_.T + self.intercept_) / self.temperature_, axis=1)


class Discriminants(NamedTuple):
    """Linear scores of the classes, X @ coef + intercept.

    Attributes:
        coef: the means in units of the covariance within classes, float32 (d, K).
        intercept: float32 (K,).
        priors: the classes' shares of the rows, (K,).
        products: of the means, in units of the covariance within classes, (K, K).
    """

    coef: np.ndarray
    intercept: np.ndarray
    priors: np.ndarray
    products: np.ndarray


@dataclass(frozen=True)
class FoldSums:
    """Sums over the rows of each fold, float64.

    Attributes:
        counts: the weight of the rows of each class, (F, K).
        sums: of their vectors, (F, K, d).
        products: of all vectors' outer products, (F, d, d).
        dim: the number of columns over which the covariance is spread: d, or more if the vectors are coordinates in
            the space that the rows span.
    """

    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray
    dim: int

    @classmethod
    def of(
        cls,
        X: np.ndarray,
        targets: np.ndarray,
        folds: np.ndarray,
        weights: np.ndarray,
        shape: tuple[int, int],
        dim: int,
    ) -> Self:
        """The sums of vectors (n, d) with targets (n,), 0..K-1, folds (n,), 0..F-1, and weights (n,).

        `shape` is (F, K). Rows of the fold F are in none of the sums: they are scored by discriminants of all others.
        """
        fold_count, classes = shape
        columns = X.shape[1]
        counts = np.zeros(shape)
        sums = np.zeros((*shape, columns))
        products = np.zeros((fold_count, columns, columns))
        for fold in range(fold_count):
            rows = np.flatnonzero(folds == fold)
            own, weight = X[rows], weights[rows].astype(np.float32)
            members = (targets[rows, None] == np.arange(classes)) * weight[:, None]  # (rows, K)
            counts[fold] = members.sum(axis=0, dtype=np.float64)
            sums[fold] = members.T @ own
            products[fold] = (own * weight[:, None]).T @ own
        return cls(counts, sums, products, dim)

    def __add__(self, other: "FoldSums") -> "FoldSums":
        return FoldSums(self.counts + other.counts, self.sums + other.sums, self.products + other.products, self.dim)

    def in_folds(self, shrinkage: float) -> list[Discriminants]:
        """The discriminants for the rows of each fold, which never saw them; then those of all rows."""
        return [
            *(self.discriminants(shrinkage, fold) for fold in range(len(self.counts))),
            self.discriminants(shrinkage),
        ]

    def discriminants(self, shrinkage: float, without: int | None = None) -> Discriminants:
        """The discriminants of all rows, or of all but a fold's."""
        counts, sums, products = self.counts.sum(axis=0), self.sums.sum(axis=0), self.products.sum(axis=0)
        if without is not None:
            counts = counts - self.counts[without]
            sums = sums - self.sums[without]
            products = products - self.products[without]
        counts = np.maximum(counts, LEAST_ROWS)
        total = counts.sum()
        means = sums / counts[:, None]  # (K, d)
        within = (products - (means.T * counts) @ means) / total
        spread = max(np.trace(within) / self.dim, LEAST_VARIANCE)
        within *= 1 - shrinkage
        within[np.diag_indices_from(within)] += shrinkage * spread
        coef = cho_solve(cho_factor(within, overwrite_a=True), means.T)  # (d, K)
        products = means @ coef
        priors = counts / total
        intercept = np.log(priors) - np.diag(products) / 2
        return Discriminants(coef.astype(np.float32), intercept.astype(np.float32), priors, products)


def fold_scores(X: np.ndarray, folds: np.ndarray, discriminants: Sequence[Discriminants]) -> np.ndarray:
    """The scores of vectors (n, d) by the discriminants of their folds, float32 (n, K)."""
    scores = np.empty((len(X), len(discriminants[0].intercept)), np.float32)
    for fold, found in enumerate(discriminants):
        rows = np.flatnonzero(folds == fold)
        scores[rows] = X[rows] @ found.coef + found.intercept
    return scores


def best_shrinkage(
    scores_of: Callable[[float], np.ndarray], targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, np.float32]:
    """The shrinkage whose held-out scores have the lowest log loss, and their temperature.

    Args:
        scores_of: gives the held-out scores (n, K) of a shrinkage.
        targets: of the same rows, (n,), 0..K-1.
        weights: of these rows, (n,), or None.
    """
    found = []
    for shrinkage in SHRINKAGES:
        scores = scores_of(shrinkage)
        temperature = best_temperature(scores, targets, weights)
        logs = log_softmax(scores / temperature, axis=1)
        loss = -float(np.average(logs[np.arange(len(targets)), targets], weights=weights))
        found.append((loss, shrinkage, temperature))
    _, shrinkage, temperature = min(found)
    return shrinkage, temperature


def stratified_folds(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, (n,), 0..folds-1: each class is spread evenly, however few rows it has."""
    random = np.random.default_rng(seed)
    result = np.empty(len(targets), np.int64)
    first = 0
    for label in np.unique(targets):
        rows = random.permutation(np.flatnonzero(targets == label))
        result[rows] = (first + np.arange(len(rows))) % folds
        first += len(rows)
    return result


def row_space(X: np.ndarray) -> np.ndarray | None:
    """An orthonormal basis (d, r) of the space that the rows of X (n, d) span; None if there are not fewer than d."""
    rows, columns = X.shape
    if rows >= columns:
        return None
    values, vectors = eigh((X @ X.T).astype(np.float64))  # of the Gram matrix, ascending
    kept = values > values[-1] * 1e-6
    if not kept.any():  # all rows are zero
        return None
    basis = X.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return basis.astype(np.float32)
