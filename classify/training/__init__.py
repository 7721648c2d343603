"""From a feature cache to a run: jobs, rows, fits, searches, evaluation.

May import: large, heads, statistics, runs, featurize.core, featurize.cache.
"""

from classify.training.evaluate import fit_and_evaluate
from classify.training.train import VERSIONS_OF, Job, train_heads

__all__ = ["VERSIONS_OF", "Job", "fit_and_evaluate", "train_heads"]
