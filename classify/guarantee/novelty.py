"""Images of no known class: how strange a vector is among those of the training images.

The relative Mahalanobis distance (Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection,
2021) is the squared distance to the nearest class mean, by the covariance within classes, minus the squared distance
to the mean of all images, by the covariance of all. The second covariance is the first plus that of the class means,
so both distances agree outside of the space of the linear discriminants. There, K - 1 columns give the exact
difference, and no covariance is stored.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classify.heads.registry import signed_root

if TYPE_CHECKING:
    from classify.heads.lda import Discriminants

FALSE_ALARMS = 0.05
"""The share of images like the training images that count as unknown."""
MOST_COLUMNS = 2048  # longer vectors are cut down to principal components
COMPONENTS = 512


@dataclass(frozen=True)
class Space:
    """The linear discriminants of the classes.

    Attributes:
        axes: float32 (d, J), J < K; the covariance within classes is 1 on each axis and 0 between axes.
        centre: the mean of all images on these axes, float64 (J,).
        classes: the means of the classes, from there, float64 (K, J).
        spread: the variance of these means on each axis, float64 (J,).
    """

    axes: np.ndarray
    centre: np.ndarray
    classes: np.ndarray
    spread: np.ndarray

    def distances(self, x: np.ndarray) -> np.ndarray:
        """The relative Mahalanobis distances of rows x (n, d), float64 (n,); negative for most known images."""
        u = x @ self.axes - self.centre  # (n, J)
        to_class = np.full(len(u), np.inf)
        for mean in self.classes:
            to_class = np.minimum(to_class, ((u - mean) ** 2).sum(axis=1))
        return to_class - (u**2 / (1 + self.spread)).sum(axis=1)


@dataclass(frozen=True)
class Novelty:
    """How strange images are.

    Attributes:
        space: of four fifths of the training images, for vectors behind `signed_root`.
        held_out: the distances of the others, ascending, float64 (m,).
    """

    space: Space
    held_out: np.ndarray

    def strangeness(self, x: np.ndarray) -> np.ndarray:
        """Of each vector of x (n, d), the share of held-out training images that are less strange, 0..1.

        It is 1 - p of a conformal test: an image like the training images exceeds s with a probability of 1 - s.
        """
        return self.strangeness_of(self.distances(x))

    def strangeness_of(self, distances: np.ndarray) -> np.ndarray:
        """The same from `distances`, (n,)."""
        less = np.searchsorted(self.held_out, distances, side="left")
        return np.asarray(less / (len(self.held_out) + 1))

    def distances(self, x: np.ndarray) -> np.ndarray:
        """The relative Mahalanobis distances of vectors (n, d), float64 (n,)."""
        return self.space.distances(signed_root(x))


def is_known(strangeness: np.ndarray | float) -> np.ndarray:
    """Whether images may be of a known class, bool (n,), with `FALSE_ALARMS`."""
    return np.asarray(strangeness) < 1 - FALSE_ALARMS


def drift_p(*pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """The p value of the hypothesis that new images are like the test images.

    Kolmogorov and Smirnov's test of each pair, with Bonferroni's correction. If no image was used to fit anything, and
    all images are independent, the hypothesis is rejected by mistake at most as often as the level says.

    Args:
        pairs: a number of each test image, (t,), and the same of each new image, (n,).
    """
    from scipy.stats import ks_2samp

    values = [float(ks_2samp(tested, new).pvalue) for tested, new in pairs]
    return min(1.0, len(values) * min(values))


def fit_novelty(x: np.ndarray, y: np.ndarray, seed: int = 0, groups: np.ndarray | None = None) -> Novelty | None:
    """Learn how strange training images are.

    The covariance within classes is shrunk towards a multiple of the identity (Ledoit and Wolf, A Well-conditioned
    Estimator for Large-dimensional Covariance Matrices, 2004), after each column is scaled to unit variance. A
    fifth of the images is held out. (With all of them in five folds, the spaces of the folds differ so much that too
    few images count as unknown: 1.3% instead of 5%, with 2,000 vectors of 1,024 numbers.)

    Args:
        x: vectors, float32 (n, d).
        y: labels, (n,), 0..K-1, each of which occurs; K > 1.
        seed: of the choice.
        groups: int (n,); images of one group are held out together. None if they are independent.

    Returns:
        None if no image can be held out, because a class is in one fold only.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    from classify.heads.lda import FOLDS, FoldSums

    x = signed_root(x)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    x = (x - mean) / scale
    basis = _basis(x, seed)
    if basis is not None:
        x = x @ basis  # (n, c)
    folds = _folds(y, seed, groups)
    classes = int(y.max()) + 1
    sums = FoldSums.of(x, y, folds, np.ones(len(y)), (FOLDS, classes), len(mean))
    means = sums.sums.sum(axis=0) / sums.counts.sum(axis=0)[:, None]
    shrinkage = float(np.clip(ledoit_wolf_shrinkage(x - means[y], assume_centered=True), 1e-4, 1))

    for fold in range(FOLDS):
        rows = np.flatnonzero(folds == fold)
        others = sums.counts.sum(axis=0) - sums.counts[fold]
        if not len(rows) or others.min() == 0:  # a class may be in one group only
            continue
        space = _space(sums.discriminants(shrinkage, without=fold))
        distances = np.sort(space.distances(x[rows]))
        axes = (space.axes if basis is None else basis @ space.axes) / scale[:, None]
        return Novelty(
            Space(axes.astype(np.float32), space.centre + mean @ axes, space.classes, space.spread), distances
        )
    return None


def _space(found: "Discriminants") -> Space:
    """The axes on which the class means differ, from S^-1 M (d, K) and M' S^-1 M (K, K) of the class means M.

    They are the eigenvectors of the covariance of the means, by that within classes. In the space of the K means,
    weighted by the square roots of the classes' shares, this is the eigenproblem of a matrix (K, K).
    """
    priors = found.priors
    centring = np.eye(len(priors)) - priors  # a row of means (1, K) times its transpose is about their mean
    products = centring @ found.products @ centring.T
    roots = np.sqrt(priors)
    spread, vectors = np.linalg.eigh(roots[:, None] * products * roots)
    kept = spread > 1e-6 * spread.max()
    spread, vectors = spread[kept], vectors[:, kept]
    to_axes = roots[:, None] * vectors / np.sqrt(spread)  # (K, J)
    combined = centring.T @ to_axes
    return Space(
        axes=found.coef @ combined,
        centre=priors @ found.products @ combined,
        classes=products @ to_axes,
        spread=spread,
    )


def _folds(y: np.ndarray, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """The fold of each row, (n,)."""
    from sklearn.model_selection import StratifiedGroupKFold

    from classify.heads.lda import FOLDS, stratified_folds

    if groups is None:
        return stratified_folds(y, FOLDS, seed)
    count = min(FOLDS, len(np.unique(groups)))
    folds = np.zeros(len(y), np.int64)
    if count > 1:
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        for fold, (_, rows) in enumerate(splitter.split(y, y, groups)):
            folds[rows] = fold
    return folds


def _basis(x: np.ndarray, seed: int) -> np.ndarray | None:
    """Directions (d, c) that make fewer columns of centred rows (n, d); None if there are few enough.

    With fewer rows than columns, the rows span the space of these directions, and nothing is lost.
    """
    from sklearn.decomposition import PCA

    from classify.heads.lda import row_space

    rows, columns = x.shape
    if rows < columns and rows <= MOST_COLUMNS:
        return row_space(x)
    if columns <= MOST_COLUMNS:
        return None
    return np.asarray(PCA(COMPONENTS, random_state=seed).fit(x).components_.T)
