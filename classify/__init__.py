"""Stage 2: train and compare heads on cached features."""

from classify.evaluate import fit_and_evaluate
from classify.heads import HEADS, make_head
from classify.results import RunResult, load_runs

__all__ = ["HEADS", "RunResult", "fit_and_evaluate", "load_runs", "make_head"]
