"""Pictures that belong to no class: far from every class in the vectors, or without much to see."""

from collections.abc import Sequence

import numpy as np

from analysis.audit.pictures import Pictures
from classify.heads.lda import Discriminants

FENCE = 3.0  # interquartile ranges above the upper quartile
LEAST_DEVIATION = 4.0  # of grey values, 0..255: less is near-empty
TINY = 0.25  # of the usual side


def strangers(distances: np.ndarray, pictures: Pictures | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows of strange pictures, and for each the reason: `constant`, `empty`, `tiny` or `far`.

    Args:
        distances: from the nearest class, see `relative_distances`, (n,).
        pictures: None if they are gone; then only the far ones are found.
    """
    reasons = np.full(len(distances), "", dtype="U8")
    quartiles = np.quantile(distances, [0.25, 0.75])
    reasons[distances > quartiles[1] + FENCE * (quartiles[1] - quartiles[0])] = "far"
    if pictures is not None:
        reasons[pictures.smallest < TINY * np.median(pictures.smallest)] = "tiny"
        deviation = pictures.outlines.reshape(len(distances), -1).std(axis=1, dtype=np.float32)
        reasons[deviation < LEAST_DEVIATION] = "empty"
        reasons[deviation == 0] = "constant"
    rows = np.flatnonzero(reasons != "")
    rows = rows[np.argsort(-distances[rows], kind="stable")]
    return rows, reasons[rows]


def relative_distances(scores: np.ndarray, folds: np.ndarray, discriminants: Sequence[Discriminants]) -> np.ndarray:
    """How much further each row is from its nearest class than from the middle of all data, float64 (n,).

    The relative Mahalanobis distance (Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD
    Detection, 2021) needs the linear scores alone: the covariance of all data is that within classes plus that of the
    class means, so that the two distances differ in the space of the means only.

    Args:
        scores: of held-out rows, (n, K).
        folds: of the rows, (n,).
        discriminants: of each fold, which gave the scores.
    """
    distances = np.empty(len(scores))
    for fold, found in enumerate(discriminants):
        rows = np.flatnonzero(folds == fold)
        priors, products = found.priors, found.products
        middle = products @ priors
        inner = products - middle[:, None] - middle + priors @ middle  # of the means less the mean of all
        raw = scores[rows] - found.intercept  # of x and each mean
        raw = raw - (raw @ priors)[:, None] - (middle - priors @ middle)  # of both less the mean of all
        root = np.sqrt(priors)
        projected = raw * root  # (m, K)
        spread = np.eye(len(priors)) + root[:, None] * inner * root
        explained = np.einsum("mk,mk->m", projected, np.linalg.solve(spread, projected.T).T)
        distances[rows] = explained + (np.diag(inner) - 2 * raw).min(axis=1)
    return distances
