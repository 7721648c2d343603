"""What is wrong, or worth knowing, with features before a head is trained on them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from classify.large import FeatureBlocks, Share, shares, team
from featurize.cache import Features
from featurize.core.errors import HeadError

IMBALANCE = 3  # largest class over smallest, above which accuracy alone misleads
REMAKE = "make the features again with python -m featurize ... --overwrite"


@dataclass(frozen=True)
class Survey:
    """What the checks look at: a split without its vectors.

    Attributes:
        y: int64 (n,).
        digests: of the vectors, uint64 (n,); the same for the same bytes.
        low: the smallest value of each feature, float32 (d,).
        high: the largest.
        class_names: K names.
    """

    y: np.ndarray
    digests: np.ndarray
    low: np.ndarray
    high: np.ndarray
    class_names: tuple[str, ...]


def survey(features: Features | FeatureBlocks, split: str, threads: int = 1) -> Survey:
    """Look at every vector once.

    Args:
        features: of some rows.
        split: `training` or `test`, for messages.
        threads: for features that come in blocks, unless a cluster does it.

    Raises:
        HeadError: there are no rows, or some values are not finite.
        CacheError: the cache cannot be used.
    """
    if not len(features.y):
        raise HeadError(f"there are no {split} rows: expected some for every class; {REMAKE}")
    if isinstance(features, FeatureBlocks):  # whose values are known to be finite
        with team(threads) as workers:
            looks = zip(*workers.each(_survey_of, shares(features)), strict=True)
            return Survey(features.y, *_joined(*looks), features.class_names)
    digests, low, high = _look_at(features.x)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN and infinity come through
        bad = np.flatnonzero(~np.isfinite(features.x).all(axis=1))
        raise HeadError(
            f"{len(bad):,} of {len(features.x):,} {split} vectors hold NaN or infinity, the one with id "
            f"{features.ids[bad[0]]} first: expected finite numbers; {REMAKE}"
        )
    return Survey(features.y, digests, low, high, features.class_names)


def check_train(train: Survey) -> list[str]:
    """Look at the training rows.

    Returns:
        What a user should know, a line each: unequal classes, constant features, equal vectors under
        different labels.

    Raises:
        HeadError: no head can be trained on them.
    """
    counts = _class_counts(train)
    warnings = []
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] > IMBALANCE * counts[smallest]:
        warnings.append(
            f"classes are unequal: {counts[largest]:,} training images of {train.class_names[largest]}, "
            f"{counts[smallest]:,} of {train.class_names[smallest]}; macro F1 says more than accuracy here, and "
            "--class-weight balanced gives each class the same weight"
        )
    # A few units in float32's last place are no variation, but would be scaled up like any other.
    low, high = train.low.astype(np.float64), train.high.astype(np.float64)
    if constant := int(np.isclose(low, high, rtol=1e-6, atol=0).sum()):
        warnings.append(f"{constant:,} of {len(low):,} features are constant over the training rows")
    _, first = np.unique(_with_labels(train), return_index=True)
    digests, labels = np.unique(train.digests[first], return_counts=True)
    if ambiguous := int(np.isin(train.digests, digests[labels > 1]).sum()):
        warnings.append(f"{ambiguous:,} of {len(train.y):,} training vectors equal one of another class")
    return warnings


def check_overlap(train: Survey, test: Survey) -> list[str]:
    """Look for training vectors among the test vectors.

    Equality is that of every bit: the same image compressed or resized anew goes unseen.

    Returns:
        A line if there are any, else nothing.

    Raises:
        HeadError: no head can be measured on the test rows.
    """
    _check_labels(test, "test")
    found = np.isin(test.digests, train.digests)
    if not found.any():
        return []
    other = found & ~np.isin(_with_labels(test), _with_labels(train))
    return [
        f"{found.sum():,} of {len(test.y):,} test vectors are training vectors too, {other.sum():,} of them "
        "under another label: accuracy on them says nothing about new images"
    ]


def _survey_of(share: Share) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _joined(*zip(*(_look_at(block.read()) for (block,) in share), strict=True))


def _joined(
    digests: Sequence[np.ndarray], low: Sequence[np.ndarray], high: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was seen of the vectors, of what was seen of parts of them."""
    return np.concatenate(digests), np.min(low, axis=0), np.max(high, axis=0)


def _look_at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vectors' digests, uint64 (n,), and the smallest and largest value of each feature, (d,).

    Of a million different vectors, two share a digest of 64 bits with a probability below 1e-7.
    """
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in x)
    return np.frombuffer(digests, np.uint64), x.min(axis=0), x.max(axis=0)


def _with_labels(rows: Survey) -> np.ndarray:
    """A number for each vector with its label, uint64 (n,): digests so close together are as unlikely as equal ones."""
    return rows.digests + rows.y.astype(np.uint64)


def _class_counts(train: Survey) -> np.ndarray:
    """Training rows of each class, int64 (K,), all above zero, K > 1.

    Raises:
        HeadError: labels that no class name goes with, or a class without rows, or one class only.
    """
    _check_labels(train, "training")
    counts = np.bincount(train.y, minlength=len(train.class_names))
    absent = [name for name, count in zip(train.class_names, counts, strict=True) if not count]
    more = "use more of the data (python -m featurize without --train, or with a larger N)"
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
