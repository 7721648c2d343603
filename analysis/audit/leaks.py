"""What test images that were also trained on do to the accuracy of the runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classify.runs import RunResult, head_name, read_predictions
from featurize.core.errors import DataError

Z = 1.96  # of 95% intervals


@dataclass(frozen=True)
class LeakEffect:
    """The accuracy of a run with and without the leaked test images, and the difference in points with its interval."""

    run: str
    head: str
    accuracy: float
    without: float
    points: float
    low: float
    high: float


def leak_effects(runs: Mapping[Path, RunResult], fingerprint: str, leaked: np.ndarray) -> list[LeakEffect]:
    """What the leaked test images, by their ids, are worth to each run on a cache, the most accurate run first.

    Runs that cannot be read are left out. Both accuracies are of the same predictions, so that the difference is known
    better than either of them.
    """
    found = []
    for run_dir, result in runs.items():
        if result.fingerprint != fingerprint or result.folds:
            continue
        try:
            predictions = read_predictions(run_dir)
        except DataError:
            continue
        correct = (predictions["label"] == predictions["predicted"]).to_numpy(np.float64)
        is_leaked = predictions["id"].isin(leaked).to_numpy()
        if is_leaked.any() and not is_leaked.all():
            found.append(_effect(run_dir.name, head_name(result), correct, is_leaked))
    return sorted(found, key=lambda effect: -effect.accuracy)


def _effect(run: str, head: str, correct: np.ndarray, is_leaked: np.ndarray) -> LeakEffect:
    leaked, others = correct[is_leaked], correct[~is_leaked]
    # accuracy - without = share * (accuracy of the leaked - accuracy of the others), of two independent samples
    share = is_leaked.mean()
    points = share * (leaked.mean() - others.mean())
    error = share * np.sqrt(leaked.var() / len(leaked) + others.var() / len(others))
    return LeakEffect(
        run=run,
        head=head,
        accuracy=float(correct.mean()),
        without=float(others.mean()),
        points=float(100 * points),
        low=float(100 * (points - Z * error)),
        high=float(100 * (points + Z * error)),
    )
