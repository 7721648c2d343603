"""Checks of features before a head is trained on them."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classify.large import Share, blocks_of, shares, work_pool
from featurize.cache import FeatureRows
from featurize.core.balance import is_imbalanced
from featurize.core.errors import HeadError

if TYPE_CHECKING:
    from distributed import Client

REMAKE = "make the features again with frozenbench featurize ... --overwrite"
Summary = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of vectors (n, d): their digests, uint64 (n,), and the smallest and the largest value of each feature, (d,)."""


@dataclass(frozen=True)
class Survey:
    """What the checks need to know of a split's rows.

    Attributes:
        y: int64 (n,).
        digests: of the vectors, uint64 (n,); the same for the same bytes.
        low: the smallest value of each feature, float32 (d,).
        high: the largest value of each feature, float32 (d,).
        class_names: K names.
    """

    y: np.ndarray
    digests: np.ndarray
    low: np.ndarray
    high: np.ndarray
    class_names: tuple[str, ...]


def survey(features: FeatureRows, split: str, threads: int = 1, client: "Client | None" = None) -> Survey:
    """Read every vector once.

    Args:
        features: of some rows.
        split: `training` or `test`, for messages.
        threads: for features in blocks.
        client: of a cluster whose workers read the blocks; None to use the threads.

    Raises:
        HeadError: there are no rows, or some values are not finite.
        CacheError: the cache cannot be used.
    """
    if not len(features.y):
        raise HeadError(f"there are no {split} rows: expected some for every class; {REMAKE}")
    if blocks_of(features):
        with work_pool(threads, client) as pool:
            summary = _joined(list(pool.map(_share_summary, shares(features))))
        return Survey(features.y, *summary, features.class_names)
    [x] = features.matrices()
    digests, low, high = _summary(x)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # minimum and maximum pass NaN and infinity on
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        raise HeadError(
            f"{len(bad):,} of {len(x):,} {split} vectors hold NaN or infinity, the one with id "
            f"{features.ids[bad[0]]} first: expected finite numbers; {REMAKE}"
        )
    return Survey(features.y, digests, low, high, features.class_names)


def check_train(train: Survey, class_weight: str | None = None) -> list[str]:
    """Check the training rows.

    Args:
        train: from `survey`.
        class_weight: of the head: `balanced`, or None.

    Returns:
        Warnings, one line each with its code (see `classify.runs.CODES`): unequal classes, constant features, and
        equal vectors with different labels.

    Raises:
        HeadError: no head can be trained on the rows.
    """
    counts = _class_counts(train)
    warnings = []
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if is_imbalanced(counts):
        advice = "" if class_weight else ", and --class-weight balanced gives each class the same weight"
        warnings.append(
            f"FB001: classes are unequal: {counts[largest]:,} training images of {train.class_names[largest]}, "
            f"{counts[smallest]:,} of {train.class_names[smallest]}; macro F1 says more than accuracy here{advice}"
        )
    # A few units in float32's last place are no variation, but scaling would blow them up like any other.
    low, high = train.low.astype(np.float64), train.high.astype(np.float64)
    if constant := int(np.isclose(low, high, rtol=1e-6, atol=0).sum()):
        warnings.append(f"FB002: {constant:,} of {len(low):,} features are constant over the training rows")
    # A digest that remains twice among the distinct pairs of vector and label has several labels.
    _, distinct = np.unique(_digests_with_labels(train), return_index=True)
    digests, labels = np.unique(train.digests[distinct], return_counts=True)
    if ambiguous := int(np.isin(train.digests, digests[labels > 1]).sum()):
        warnings.append(f"FB003: {ambiguous:,} of {len(train.y):,} training vectors equal one of another class")
    return warnings


def check_overlap(train: Survey, test: Survey) -> list[str]:
    """Look for training vectors among the test vectors.

    Only vectors with the same bits are found, not the same image compressed or resized differently.

    Returns:
        One line if there are any, else nothing.

    Raises:
        HeadError: no head can be measured on the test rows.
    """
    _check_labels(test, "test")
    found = np.isin(test.digests, train.digests)
    if not found.any():
        return []
    other_label = found & ~np.isin(_digests_with_labels(test), _digests_with_labels(train))
    return [
        f"FB004: {found.sum():,} of {len(test.y):,} test vectors are training vectors too, {other_label.sum():,} of "
        "them under another label: accuracy on them says nothing about new images"
    ]


def _share_summary(share: Share) -> Summary:
    return _joined([_summary(block.read()) for (block,) in share])  # a cache's values are known to be finite


def _joined(summaries: list[Summary]) -> Summary:
    """The summary of all vectors from those of their parts."""
    digests, low, high = zip(*summaries, strict=True)
    return np.concatenate(digests), np.min(low, axis=0), np.max(high, axis=0)


def _summary(x: np.ndarray) -> Summary:
    # Among a million different vectors, two share a digest of 64 bits with a probability below 1e-7.
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in x)
    return np.frombuffer(digests, np.uint64), x.min(axis=0), x.max(axis=0)


def _digests_with_labels(rows: Survey) -> np.ndarray:
    """A digest of each vector with its label, uint64 (n,); digests this close are as unlikely as equal ones."""
    return rows.digests + rows.y.astype(np.uint64)


def _class_counts(train: Survey) -> np.ndarray:
    """The number of training rows of each class, int64 (K,), all above zero, K > 1.

    Raises:
        HeadError: a label has no class name, a class has no rows, or there is one class only.
    """
    _check_labels(train, "training")
    counts = np.bincount(train.y, minlength=len(train.class_names))
    absent = [name for name, count in zip(train.class_names, counts, strict=True) if not count]
    more = "use more images (a larger --train-size, or frozenbench featurize with a larger --train)"
    if (counts > 0).sum() == 1:
        raise HeadError(
            f"the training rows hold one class only ({train.class_names[counts.argmax()]}): expected two or more to "
            f"tell apart; {more}"
        )
    if absent:
        raise HeadError(f"the training rows hold no image of {', '.join(absent[:5])}: every class needs some; {more}")
    return counts


def _check_labels(features: Survey, split: str) -> None:
    lowest, highest, last = features.y.min(), features.y.max(), len(features.class_names) - 1
    if lowest < 0 or highest > last:
        raise HeadError(
            f"the {split} labels are {lowest} to {highest}: expected 0 to {last}, one for each class name; {REMAKE}"
        )
