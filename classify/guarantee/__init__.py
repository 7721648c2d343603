"""What a head may promise of new images: sets of classes that hold the true one, and which images are of no class.

`conformal` makes the sets, `novelty` finds the images, and `guarantee` is what a run keeps.

May import: heads, statistics, featurize.core.
"""

from classify.guarantee.conformal import ConformalSets, Coverage, measured_coverage
from classify.guarantee.guarantee import Guarantee
from classify.guarantee.novelty import FALSE_ALARMS, Novelty, drift_p, fit_novelty, is_known

__all__ = [
    "FALSE_ALARMS",
    "ConformalSets",
    "Coverage",
    "Guarantee",
    "Novelty",
    "drift_p",
    "fit_novelty",
    "is_known",
    "measured_coverage",
]
