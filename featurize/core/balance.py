"""Class imbalance: one definition for images and for heads."""

import numpy as np

IMBALANCE = 3
"""The ratio of the largest to the smallest class above which class weights are worth a try."""


def is_imbalanced(counts: np.ndarray) -> bool:
    """Whether the largest class has more than `IMBALANCE` times the rows of the smallest; False if one is empty.

    Args:
        counts: rows of each class, (K,).
    """
    return bool(counts.min() > 0 and counts.max() > IMBALANCE * counts.min())
