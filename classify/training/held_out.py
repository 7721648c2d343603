"""What promises about new images rest on: probabilities of held-out training rows, and how strange these rows are."""

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.guarantee import Novelty, fit_novelty
from classify.training.evaluate import FittedHead, fit_head
from classify.training.job import Job
from classify.training.rows import stratified_order
from featurize.cache import FeatureRows
from featurize.core.errors import HeadError

if TYPE_CHECKING:
    from classify.heads.calibration import HeldOut

logger = logging.getLogger("frozenbench")
TOO_SLOW = ("cnn", "stack")
"""Heads without a temperature whose fit takes too long to repeat."""

ROWS_FOR_NOVELTY = 10_000
_last_novelty: dict[tuple[Any, ...], Novelty | None] = {}  # all heads of a command share it


def fit_and_hold_out(estimator: Any, train: FeatureRows, *, seed: int = 0, **options: Any) -> FittedHead:
    """Train a head as `fit_head` does, and complete its `held_out`.

    Heads with a temperature held rows out for it. For the others, copies are fitted on folds of the same kind, and also
    if rows are in groups, which a temperature's folds divide. The seconds of these fits do not count.

    Args:
        estimator: as for `fit_head`.
        train: features to fit on.
        seed: for everything random, the folds included.
        options: of `fit_head`.

    Raises:
        UsageError: there is no such head.
        HeadError: the head cannot be fitted on these features.
    """
    fitted = fit_head(estimator, train, seed=seed, **options)
    if fitted.held_out is None:
        if estimator in TOO_SLOW:
            logger.info("%s: predict cannot give sets of classes for this run: no image was held out", fitted.name)
            return fitted
        held_out = _from_copies(estimator, train, seed, options)
        fitted = dataclasses.replace(fitted, held_out=held_out)
    if fitted.held_out is None:
        logger.info(
            "%s: predict cannot give sets of classes for this run: a class has too few images to hold some out",
            fitted.name,
        )
    return fitted


def _from_copies(estimator: Any, train: FeatureRows, seed: int, options: dict[str, Any]) -> "HeldOut | None":
    """The probabilities of rows that copies of the head were fitted without; None if no row can be held out."""
    from classify.heads.calibration import HeldOut, held_out_folds

    parts, labels = [], []
    for rows, held_out in held_out_folds(train.y, seed, train.groups):
        try:
            copy = fit_head(estimator, train.select(rows), seed=seed, **options).head
        except HeadError:  # a fold leaves fewer rows than the head needs
            continue
        for x in train.select(held_out).matrices():
            parts.append(copy.predict_proba(x))
        labels.append(train.y[held_out])
    return HeldOut(np.concatenate(parts), np.concatenate(labels)) if parts else None


def novelty_of(job: Job, train: FeatureRows) -> Novelty | None:
    """How strange training rows are; None for pixels, which say little about it, and if no row can be held out.

    It does not depend on the head, so the last one is remembered.

    Args:
        job: what the rows were chosen by.
        train: its rows.
    """
    if train.image is not None:
        return None
    dropped = job.suspects.digest if job.suspects else ""
    key = (job.info.path, job.info.spec.fingerprint, job.layers, job.rows, job.seed_of_rows, job.seed, dropped)
    if key not in _last_novelty:
        rows = train.select(np.sort(stratified_order(train.y, job.seed)[:ROWS_FOR_NOVELTY]))
        found = fit_novelty(np.concatenate(list(rows.matrices())), rows.y, job.seed, rows.groups)
        _last_novelty.clear()
        _last_novelty[key] = found
    return _last_novelty[key]
