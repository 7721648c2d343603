"""Linear discriminants of rows in blocks, whose every row is scored without its fold: four passes in all."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from classify.heads import Task, make_head
from classify.heads.lda import FOLDS, Discriminants, FoldSums, best_shrinkage, fold_scores, row_space
from classify.large.blocks import FeatureBlocks, Share, shares
from classify.large.memory import forget_blocks
from classify.large.passes import Scaling, fit_scaling, scores_of_share, sums_of_share, total_sums
from classify.large.workers import work_pool

if TYPE_CHECKING:
    from distributed import Client

ROWS_FOR_SHRINKAGE = 20_000


@dataclass(frozen=True)
class HeldOut:
    """The rows as linear discriminants see them that were fitted without their folds.

    Attributes:
        scores: of the classes, float32 (n, K).
        temperature: the divisor of the scores that gives probabilities.
        shrinkage: of the covariance, 0..1.
        discriminants: of each fold, and of all rows.
        components: the leading principal components of the scaled vectors, float32 (n, c).
    """

    scores: np.ndarray
    temperature: float
    shrinkage: float
    discriminants: list[Discriminants]
    components: np.ndarray


def held_out(
    train: FeatureBlocks,
    rows: FeatureBlocks,
    folds: np.ndarray,
    components: int,
    threads: int,
    client: "Client | None" = None,
) -> HeldOut:
    """Score rows by the head `lda`, each by one that was fitted without the row's fold.

    Args:
        train: the rows that scale the columns.
        rows: all rows, those of `train` first.
        folds: of all rows, (n,), 0..FOLDS-1; rows of the fold FOLDS are scored, and nothing is fitted on them.
        components: the number of principal components; fewer if the vectors are shorter.
        threads: of this process.
        client: of a cluster whose workers pass over the rows; None to use the threads.

    Raises:
        CacheError: the cache cannot be used.
        ClusterError: the cluster could not do the work.
    """
    root, scaler, _ = (step for _, step in make_head("lda", Task(len(train.y), train.dim)).steps)
    classes = len(rows.class_names)
    chosen = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(folds < FOLDS))[:ROWS_FOR_SHRINKAGE])
    wanted = np.zeros(len(folds), bool)
    wanted[chosen] = True
    fit = uuid.uuid4().hex
    with work_pool(threads, client) as pool, threadpool_limits(1):
        fit_scaling(root, scaler, train, pool)
        scaling = pool.send(Scaling(fit, _Steps(root, scaler, _basis(root, scaler, train))))
        try:
            parts = shares(rows, rows.y, folds, np.ones(len(folds)), most=pool.size)
            sums = total_sums(pool.map(sums_of_share, parts, scaling, (FOLDS, classes)))

            def scores_of_chosen(shrinkage: float) -> np.ndarray:
                sent = pool.send(sums.in_folds(shrinkage))
                return np.concatenate(list(pool.map(scores_of_share, shares(rows, folds, wanted), scaling, sent)))

            shrinkage, temperature = best_shrinkage(scores_of_chosen, rows.y[chosen])
            discriminants = sums.in_folds(shrinkage)
            sent = pool.send((discriminants, leading_components(sums, components)))
            found = np.concatenate(list(pool.map(_scores_and_components, shares(rows, folds), scaling, sent)))
        finally:
            pool.everywhere(forget_blocks, fit)
    scores, projected = np.split(found, [classes], axis=1)
    return HeldOut(scores, float(temperature), shrinkage, discriminants, projected)


def leading_components(sums: FoldSums, count: int) -> np.ndarray:
    """The leading eigenvectors of the covariance of all rows in the sums, float32 (d, c), c at most `count`."""
    counts = sums.counts.sum()
    mean = sums.sums.sum(axis=(0, 1)) / counts
    covariance = sums.products.sum(axis=0) / counts - np.outer(mean, mean)
    columns = len(mean)
    _, vectors = eigh(covariance, subset_by_index=[max(0, columns - count), columns - 1])
    return vectors.astype(np.float32)


@dataclass(frozen=True)
class _Steps:
    """The head's scaling, and the coordinates in the space of few rows if there are fewer rows than columns."""

    root: Any
    scaler: Any
    basis: np.ndarray | None

    @property
    def n_features_in_(self) -> int:
        return int(self.scaler.n_features_in_)

    def transform(self, x: np.ndarray) -> np.ndarray:
        scaled = self.scaler.transform(self.root.transform(x))
        return scaled if self.basis is None else scaled @ self.basis


def _basis(root: Any, scaler: Any, train: FeatureBlocks) -> np.ndarray | None:
    if len(train.y) >= train.dim:
        return None
    return row_space(_Steps(root, scaler, None).transform(train.load().x))


def _scores_and_components(share: Share, scaling: Scaling, sent: tuple[list[Discriminants], np.ndarray]) -> np.ndarray:
    discriminants, components = sent
    found = []
    for block, folds in share:
        x = scaling.rows_of(block)
        found.append(np.hstack([fold_scores(x, folds, discriminants), x @ components]))
    return np.concatenate(found)
