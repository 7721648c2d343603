"""Metrics with their intervals, and tests of differences.

May import: featurize.core.
"""

from classify.statistics.compare import ALPHA, Comparison, compare, correctness, holm, size_warning
from classify.statistics.design import design_effect, wilson_interval
from classify.statistics.metrics import Metrics, confusion_counts, metrics
from classify.statistics.selection import Selection, best_of_many
from classify.statistics.spread import FEWEST_DRAWS, Estimate, Spread, spread
from featurize.core.intervals import LEVEL

__all__ = [
    "ALPHA",
    "FEWEST_DRAWS",
    "LEVEL",
    "Comparison",
    "Estimate",
    "Metrics",
    "Selection",
    "Spread",
    "best_of_many",
    "compare",
    "confusion_counts",
    "correctness",
    "design_effect",
    "holm",
    "metrics",
    "size_warning",
    "spread",
    "wilson_interval",
]
