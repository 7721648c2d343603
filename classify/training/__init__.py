"""From a feature cache to a run: jobs, rows, fits, searches, evaluation.

Exports the fit and evaluation of one head, and the training of many as runs.

May import: large, guarantee, heads, statistics, runs, suspects, featurize.core, featurize.cache.
"""

from classify.training.evaluate import fit_and_evaluate
from classify.training.job import VERSIONS_OF, Job, repeats
from classify.training.train import train_heads

__all__ = ["VERSIONS_OF", "Job", "fit_and_evaluate", "repeats", "train_heads"]
