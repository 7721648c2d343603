"""Passes over training rows in blocks: sums that a pool computes share by share."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from classify.estimators import row_weights
from classify.heads.calibration import class_scores
from classify.heads.lda import Discriminants, FoldSums, fold_scores
from classify.heads.svm import LinearSVM, squared_hinge
from classify.large.blocks import Block, Share, shares
from classify.large.boosting import RowsOnWorkers
from classify.large.memory import forget_blocks, remembered_block
from classify.large.workers import Threads, Workers
from featurize.cache import FeatureRows

RowLoss = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""From X (n, d), targets (n,), weights (n,) and parameters (d + 1, K): a sum over the rows, and its gradient."""
Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The same over all training rows, from the parameters alone."""


@dataclass(frozen=True)
class Scaling:
    """The head's scaling, and the fit whose scaled blocks stay in memory where there is room."""

    fit: str
    steps: Any

    def rows_of(self, block: Block) -> np.ndarray:
        """The scaled vectors of a block, float32 (b, d)."""
        return remembered_block(self.fit, block, lambda block: self.steps.transform(block.read()))


class ScaledRows:
    """The scaled training rows, which a pool passes over.

    Attributes:
        classes: the labels, (K,).
        targets: of the rows, (n,), 0..K-1.
        dim: length of a vector.
    """

    def __init__(self, train: FeatureRows, steps: Any, pool: Threads | Workers, fit: str) -> None:
        self.classes, self.targets = np.unique(train.y, return_inverse=True)
        self.dim = train.dim
        self._train = train
        self._pool = pool
        self._scaling = pool.send(Scaling(fit, steps))

    def loss(self, row_loss: RowLoss, weights: np.ndarray) -> Loss:
        """The sum of a loss over all rows, with their weights (n,)."""
        parts = shares(self._train, self.targets, weights.astype(np.float32))

        def total_loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            sent = self._pool.send(parameters)
            total, gradient = 0.0, np.zeros(parameters.shape)
            for value, slope in self._pool.map(_loss, parts, self._scaling, row_loss, sent):
                total += value
                gradient += slope
            return total, gradient

        return total_loss

    def linear_svm(self, unfitted: LinearSVM, rows: np.ndarray, sample_weight: np.ndarray | None = None) -> LinearSVM:
        """A linear SVM fitted on some of the rows, with the labels 0..K-1 and the weights of all rows (n,) or None."""
        machine = clone(unfitted)
        machine.classes_, machine.n_features_in_ = np.arange(len(self.classes)), self.dim
        weights = np.zeros(len(self.targets))
        own = None if sample_weight is None else sample_weight[rows]
        weights[rows] = row_weights(machine.class_weight, self.targets[rows], own)
        return machine.minimise(self.loss(squared_hinge, weights))

    def scores(self, machine: LinearSVM, rows: np.ndarray) -> np.ndarray:
        """The class scores of some rows, ascending, (m, K)."""
        wanted = np.zeros(len(self.targets), bool)
        wanted[rows] = True
        return np.concatenate(list(self._pool.map(_scores, shares(self._train, wanted), self._scaling, machine)))

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The number of rows of each class (K,), the class means (K, d), and the covariance (d, d), float64."""
        classes = len(self.classes)
        counts, sums = np.zeros(classes), np.zeros((classes, self.dim))
        products = np.zeros((self.dim, self.dim))
        # A task for each thread and no more: every task sends back a whole matrix of products.
        parts = shares(self._train, self.targets, most=self._pool.size)
        for more_counts, more_sums, more_products in self._pool.map(_moments, parts, self._scaling, classes):
            counts += more_counts
            sums += more_sums
            products += more_products
        rows = counts.sum()
        mean = sums.sum(axis=0) / rows
        return counts, sums / counts[:, None], products / rows - np.outer(mean, mean)

    def fold_sums(self, folds: np.ndarray, weights: np.ndarray) -> FoldSums:
        """The sums over the rows of each fold, (n,), 0..F-1, with the rows' weights (n,)."""
        parts = shares(self._train, self.targets, folds, weights, most=self._pool.size)
        shape = int(folds.max()) + 1, len(self.classes)
        return total_sums(self._pool.map(sums_of_share, parts, self._scaling, shape))

    def fold_scores(self, folds: np.ndarray, discriminants: list[Discriminants]) -> np.ndarray:
        """The scores of all rows by the discriminants of their folds, float32 (n, K)."""
        sent = self._pool.send(discriminants)
        everywhere = np.ones(len(folds), bool)
        return np.concatenate(
            list(self._pool.map(scores_of_share, shares(self._train, folds, everywhere), self._scaling, sent))
        )

    def transform(self, steps: Any) -> np.ndarray | RowsOnWorkers:
        """All rows behind fitted transformers, float32 (n, columns): here, or left on the workers of a cluster."""
        sent = self._pool.send(steps)
        # Workers boost trees together through XGBoost, which listens on all network interfaces. A cluster that only
        # this machine can reach must stay so, and its workers have no more memory together than this process.
        if isinstance(self._pool, Threads) or self._pool.on_loopback:
            return np.concatenate(list(self._pool.map(_transform, shares(self._train), self._scaling, sent)))
        # One share a thread: Dask moves tasks that wait for their turn, and with them their rows, to idle workers.
        parts = shares(self._train, most=self._pool.size)
        columns = steps.transform(np.zeros((1, self.dim), np.float32)).shape[1]
        held = self._pool.hold(_transform, parts, self._scaling, sent)
        heights = [sum(len(block) for (block,) in part) for part in parts]
        return RowsOnWorkers(self._pool, held, heights, columns)


@contextmanager
def scaled_rows(head: Any, train: FeatureRows, pool: Threads | Workers) -> Iterator[ScaledRows]:
    """Fit a head's scaling, its first two steps, and yield the scaled rows; free their memory afterwards."""
    fit = uuid.uuid4().hex
    with threadpool_limits(1):  # every thread of the pool computes on a block of its own
        fit_scaling(head[0], head[1], train, pool)
        try:
            yield ScaledRows(train, head[:2], pool, fit)
        finally:
            pool.everywhere(forget_blocks, fit)


def fit_scaling(root: Any, scaler: StandardScaler, train: FeatureRows, pool: Threads | Workers) -> None:
    """Fit the steps `signed_root` and StandardScaler in one pass."""
    found = list(pool.map(_column_moments, shares(train), root))
    counts, means, variances = (np.stack(numbers) for numbers in zip(*found, strict=True))
    # Two rows at mean - deviation and mean + deviation have the mean and the variance of their share. With half the
    # share's rows as weight for each, scikit-learn itself joins the shares.
    deviations = np.sqrt(variances)
    pairs = np.concatenate([means - deviations, means + deviations])
    scaler.fit(pairs, sample_weight=np.concatenate([counts, counts]) / 2)
    scaler.n_samples_seen_ = counts.sum()
    root.fit(np.zeros((1, train.dim), np.float32))  # learns the number of columns only


def total_sums(parts: Iterator[FoldSums]) -> FoldSums:
    """The sum of at least one part."""
    total = next(parts)
    for more in parts:
        total += more
    return total


# The functions of a share, which run on threads or workers.


def sums_of_share(share: Share, scaling: Scaling, shape: tuple[int, int]) -> FoldSums:
    """The `FoldSums` of blocks with targets, folds and weights; `shape` is (folds, classes)."""
    dim = scaling.steps.n_features_in_

    def parts() -> Iterator[FoldSums]:
        for block, targets, folds, weights in share:
            yield FoldSums.of(scaling.rows_of(block), targets, folds, weights, shape, dim)

    return total_sums(parts())


def scores_of_share(share: Share, scaling: Scaling, discriminants: list[Discriminants]) -> np.ndarray:
    """The scores of blocks with folds and a mask of the wanted rows, by the discriminants of the rows' folds."""
    return np.concatenate(
        [fold_scores(scaling.rows_of(block)[wanted], folds[wanted], discriminants) for block, folds, wanted in share]
    )


def _column_moments(share: Share, root: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """The number of rows, and the mean and the variance of each column behind the root, float64 (d,)."""
    scaler = StandardScaler()
    for (block,) in share:
        scaler.partial_fit(root.transform(block.read()))
    return scaler.n_samples_seen_, scaler.mean_, scaler.var_


def _loss(share: Share, scaling: Scaling, row_loss: RowLoss, parameters: np.ndarray) -> tuple[float, np.ndarray]:
    total, gradient = 0.0, np.zeros(parameters.shape)
    for block, targets, weights in share:
        value, slope = row_loss(scaling.rows_of(block), targets, weights, parameters)
        total += value
        gradient += slope
    return total, gradient


def _scores(share: Share, scaling: Scaling, machine: LinearSVM) -> np.ndarray:
    return np.concatenate([class_scores(machine, scaling.rows_of(block))[wanted] for block, wanted in share])


def _moments(share: Share, scaling: Scaling, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dim = scaling.steps.n_features_in_
    counts, sums, products = np.zeros(classes), np.zeros((classes, dim)), np.zeros((dim, dim))
    for block, targets in share:
        x = scaling.rows_of(block)  # (b, d)
        members = (targets[:, None] == np.arange(classes)).astype(np.float32)  # (b, K)
        counts += members.sum(axis=0)
        sums += members.T @ x
        products += x.T @ x
    return counts, sums, products


def _transform(share: Share, scaling: Scaling, steps: Any) -> np.ndarray:
    matrices = [steps.transform(scaling.rows_of(block)) for (block,) in share]
    return np.concatenate(matrices).astype(np.float32, copy=False)
