"""Stage 2: train and compare heads on cached features."""

from classify.heads import HEADS, make_head
from classify.runs import RunResult, load_runs
from classify.training import fit_and_evaluate
from featurize.core.environment import package_attribute

__all__ = ["HEADS", "RunResult", "fit_and_evaluate", "load_runs", "make_head"]


def __getattr__(name: str) -> str:
    return package_attribute(__name__, name)
