"""Suspected labels: every image of a cache, scored by a head that never saw it, in the order of suspicion."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.audit.noise import best_cut, estimate_noise, list_precision
from classify.heads.lda import FOLDS, stratified_folds
from classify.large import FeatureBlocks
from classify.large.held_out import HeldOut, held_out
from featurize.cache import CacheInfo, read_labels, read_paths
from featurize.core.errors import DataError
from featurize.images import assign_folds

if TYPE_CHECKING:
    from distributed import Client

COMPONENTS = 64  # of the vectors, in which copies are looked for
ROWS_AT_ONCE = 20_000
LEAST_ROWS = 20  # of a data set
HALF_WIDTH = 2 * 1.96  # of intervals, in standard errors: twice that of chance alone, see docs/audit.md


@dataclass(frozen=True)
class Rows:
    """The images of a cache, split after split.

    Attributes:
        splits: the name of each image's split, (n,).
        ids: int64 (n,).
        labels: int64 (n,), 0..K-1.
        paths: of the image files below the data set's folder, bytes (n,); None for images of other sources.
        folds: int64 (n,), 0..FOLDS-1; FOLDS for images on which nothing is fitted.
    """

    splits: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    paths: np.ndarray | None
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PairNoise:
    """How many of the images with one label are of another class: 0..1, with a 95% interval."""

    label: int
    true: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Suspects:
    """What the labels of a data set look like to heads that never saw them.

    Attributes:
        wrong: the probability that each label is wrong, float64 (n,).
        suggested: the most probable other class, int64 (n,).
        margin: the probability of the suggested class less that of the label, from the image alone, float64 (n,).
        order: all images, the most suspected first, int64 (n,).
        count: how many of the first ones are suspects.
        mistakes: the share of the images that a head is expected to assign to a wrong class, 0..1.
        pairs: the noise of each pair of classes in which it is above one image, the largest first.
    """

    wrong: np.ndarray
    suggested: np.ndarray
    margin: np.ndarray
    order: np.ndarray
    count: int
    mistakes: float
    pairs: list[PairNoise]

    @property
    def rows(self) -> np.ndarray:
        """The suspects, most suspected first."""
        return self.order[: self.count]

    @property
    def estimated_precision(self) -> float | None:
        """The share of the suspects whose label is wrong, see `analysis.audit.noise.list_precision`."""
        return list_precision(self.wrong[self.rows], len(self.wrong), self.mistakes)


def rows_of(info: CacheInfo, seed: int = 0) -> Rows:
    """The images of a cache; those of the test split have no fold, unless the cache is for a cross-validation.

    Raises:
        CacheError: the cache cannot be used.
        DataError: it holds too few images, or of a single class.
    """
    labels, ids, splits = [], [], []
    groups: list[Any] = []
    paths: list[Any] = []
    for split in info.rows:
        own_labels, own_ids, own_groups = read_labels(info.path, split)
        labels.append(own_labels)
        ids.append(own_ids)
        groups.append(own_groups)
        paths.append(read_paths(info.path, split))
        splits.append(np.full(len(own_labels), split))
    all_labels = np.concatenate(labels)
    fitted = np.concatenate([names == "train" for names in splits]) | bool(info.folds)
    if fitted.sum() < LEAST_ROWS or len(np.unique(all_labels[fitted])) < 2:
        raise DataError(
            f"{info.path} holds {fitted.sum():,} training images of {len(np.unique(all_labels[fitted]))} classes; an "
            f"audit needs {LEAST_ROWS} images and two classes"
        )
    folds = np.full(len(all_labels), FOLDS)
    if groups[0] is None:
        folds[fitted] = stratified_folds(all_labels[fitted], FOLDS, seed)
    else:
        folds[fitted] = assign_folds(np.concatenate(groups)[fitted], all_labels[fitted], FOLDS)
    all_paths = None if paths[0] is None else np.concatenate(paths)
    return Rows(np.concatenate(splits), np.concatenate(ids), all_labels, all_paths, folds)


def scored(info: CacheInfo, rows: Rows, threads: int, client: "Client | None" = None) -> HeldOut:
    """The scores of all rows by heads that never saw them; see `classify.large.held_out`."""
    parts = [FeatureBlocks.of(info, split) for split in info.rows]
    together = parts[0]
    for part in parts[1:]:
        together = together.followed_by(part)
    train = together if info.folds else parts[list(info.rows).index("train")]
    return held_out(train, together, rows.folds, COMPONENTS, threads, client)


def find_suspects(scores: np.ndarray, labels: np.ndarray) -> Suspects:
    """The suspected labels.

    Args:
        scores: of the classes by heads that never saw the rows, (n, K).
        labels: int64 (n,), 0..K-1.
    """
    rows, classes = scores.shape
    noise = estimate_noise(scores, labels)
    wrong, margin = np.empty(rows), np.empty(rows)
    suggested = np.empty(rows, np.int64)
    sums, squares = np.zeros((classes, classes)), np.zeros((classes, classes))
    mistakes = 0.0
    for start in range(0, rows, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        own = labels[part]
        at = np.arange(len(own))
        true = noise.true_classes(scores[part], own)  # (b, K)
        np.add.at(sums, own, true)
        np.add.at(squares, own, np.square(true))
        wrong[part] = 1 - true[at, own]
        true[at, own] = -1
        suggested[part] = true.argmax(axis=1)
        seen = noise.classes(scores[part])
        mistakes += float(np.sum(1 - seen.max(axis=1))) / rows
        margin[part] = seen[at, suggested[part]] - seen[at, own]
    order = np.argsort(-wrong, kind="stable")
    counts = np.bincount(labels, minlength=classes)
    pairs = _pairs(counts, sums, squares)
    return Suspects(wrong, suggested, margin, order, len(best_cut(wrong)), mistakes, pairs)


def _pairs(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> list[PairNoise]:
    """The noise of each pair of classes, from the sums of the rows' probabilities and of their squares, (K, K).

    The share is that of a mixture whose components are known. The information about its logit is the sum of the
    squared differences between the rows' probabilities and the share (Redner and Walker, SIAM Review 26, 1984).
    """
    found = []
    for label, true in np.argwhere(sums > 1):
        share = float(sums[label, true] / counts[label])
        information = float(squares[label, true] - counts[label] * share**2)
        if label == true or information <= 0:
            continue
        logit = np.log(share / (1 - share))
        low, high = (float(1 / (1 + np.exp(-logit - side * HALF_WIDTH / np.sqrt(information)))) for side in (-1, 1))
        found.append(PairNoise(int(label), int(true), share, low, high))
    return sorted(found, key=lambda pair: -pair.share)
