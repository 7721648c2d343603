"""What is wrong, or worth knowing, with features before a head is trained on them."""

import numpy as np

from featurize.cache import Features
from featurize.errors import HeadError

IMBALANCE = 3  # largest class over smallest, above which accuracy alone misleads
REMAKE = "make the features again with python -m featurize ... --overwrite"


def check_train(train: Features) -> list[str]:
    """Look at the training rows.

    Returns:
        What a user should know, a line each: unequal classes, constant features, equal vectors under
        different labels.

    Raises:
        HeadError: no head can be trained on them.
    """
    low, high = _check_values(train, "training")
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
    if constant := int(np.isclose(low, high, rtol=1e-6, atol=0).sum()):
        warnings.append(f"{constant:,} of {len(low):,} features are constant over the training rows")
    digests = _digests(train.x)
    labels = _labels_of(digests, train.y)
    if ambiguous := sum(len(labels[digest]) > 1 for digest in digests):
        warnings.append(f"{ambiguous:,} of {len(train.y):,} training vectors equal one of another class")
    return warnings


def check_overlap(train: Features, test: Features) -> list[str]:
    """Look for training vectors among the test vectors.

    Equality is that of every bit: the same image compressed or resized anew goes unseen.

    Returns:
        A line if there are any, else nothing.

    Raises:
        HeadError: no head can be measured on the test rows.
    """
    _check_values(test, "test")
    _check_labels(test, "test")
    known = _labels_of(_digests(train.x), train.y)
    found = [label in known[digest] for digest, label in zip(_digests(test.x), test.y, strict=True) if digest in known]
    if not found:
        return []
    return [
        f"{len(found):,} of {len(test.y):,} test vectors are training vectors too, {found.count(False):,} of them "
        "under another label: accuracy on them says nothing about new images"
    ]


def _check_values(features: Features, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each feature, float64 (d,) each.

    Raises:
        HeadError: there are no rows, or some values are not finite.
    """
    if not len(features.x):
        raise HeadError(f"there are no {split} rows: expected some for every class; {REMAKE}")
    low, high = (bound.astype(np.float64) for bound in (features.x.min(axis=0), features.x.max(axis=0)))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN and infinity come through
        bad = np.flatnonzero(~np.isfinite(features.x).all(axis=1))
        raise HeadError(
            f"{len(bad):,} of {len(features.x):,} {split} vectors hold NaN or infinity, the one with id "
            f"{features.ids[bad[0]]} first: expected finite numbers; {REMAKE}"
        )
    return low, high


def _class_counts(train: Features) -> np.ndarray:
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


def _check_labels(features: Features, split: str) -> None:
    lowest, highest, last = features.y.min(), features.y.max(), len(features.class_names) - 1
    if lowest < 0 or highest > last:
        raise HeadError(
            f"the {split} labels are {lowest} to {highest}: expected 0 to {last}, one for each class name; {REMAKE}"
        )


def _digests(x: np.ndarray) -> list[int]:
    """64 bits for each vector (n, d), the same for the same bytes within one process.

    Python's own hash: of a million different vectors, two share one with a probability below 1e-7.
    """
    return [hash(row.tobytes()) for row in x]


def _labels_of(digests: list[int], y: np.ndarray) -> dict[int, set[int]]:
    """The labels under which each vector occurs."""
    labels: dict[int, set[int]] = {}
    for digest, label in zip(digests, y.tolist(), strict=True):
        labels.setdefault(digest, set()).add(label)
    return labels
