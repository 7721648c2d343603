"""What a head may promise of new images: sets of classes that hold the true one, and which images are of no class.

`conformal` makes the sets, and `guarantee` is what a run keeps.

May import: heads, statistics, featurize.core.
"""

from classify.guarantee.conformal import ConformalSets, Coverage, measured_coverage
from classify.guarantee.guarantee import Guarantee

__all__ = ["ConformalSets", "Coverage", "Guarantee", "measured_coverage"]
