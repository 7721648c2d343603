"""Metrics with their intervals, and tests of differences.

May import: featurize.core.
"""

from classify.statistics.compare import ALPHA, Comparison, compare, holm, size_warning
from classify.statistics.design import design_effect, wilson_interval
from classify.statistics.metrics import Metrics, confusion_counts, metrics
from classify.statistics.selection import Selection, best_of_many
from featurize.core.intervals import LEVEL

__all__ = [
    "ALPHA",
    "LEVEL",
    "Comparison",
    "Metrics",
    "Selection",
    "best_of_many",
    "compare",
    "confusion_counts",
    "design_effect",
    "holm",
    "metrics",
    "size_warning",
    "wilson_interval",
]
