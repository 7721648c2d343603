"""What a run keeps for the promises it makes about new images."""

from dataclasses import dataclass

from classify.guarantee.conformal import ConformalSets


@dataclass(frozen=True)
class Guarantee:
    """Saved beside the head.

    Attributes:
        sets: for sets of classes; None if no training image was held out.
    """

    sets: ConformalSets | None = None
