"""What a run keeps for the promises it makes about new images."""

from dataclasses import dataclass

import numpy as np

from classify.guarantee.conformal import ConformalSets
from classify.guarantee.novelty import Novelty


@dataclass(frozen=True)
class Guarantee:
    """Saved beside the head.

    Attributes:
        sets: for sets of classes; None if no training image was held out.
        novelty: for images of no known class; None if no training image was held out, or if features are pixels.
        tested: the `novelty.distances` of the test images, (t,); None without them, and for a cross-validation.
    """

    sets: ConformalSets | None = None
    novelty: Novelty | None = None
    tested: np.ndarray | None = None
