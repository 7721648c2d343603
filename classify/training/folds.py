"""Cross-validation of a head: every image is tested once, by a head that was trained without its fold."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from classify.guarantee import measured_coverage
from classify.statistics import metrics
from classify.training.evaluate import Evaluation, FittedHead, evaluate_head
from classify.training.held_out import fit_and_hold_out
from classify.training.job import Job
from classify.training.rows import stratified_subset, without_suspects
from featurize.cache import Features, load_features
from featurize.core.errors import HeadError, UsageError


class CrossValidation(NamedTuple):
    """A head fitted on all rows, with the mean seconds of a fold; the evaluation in folds; and all rows by id."""

    fitted: FittedHead
    evaluation: Evaluation
    rows: Features


def cross_validate(job: Job) -> CrossValidation:
    """Fit a head on all folds but one, predict that one, for each fold; then fit it on all rows.

    Raises:
        UsageError: the job asks for a search, or for more rows than a fold leaves.
        HeadError: memory is too small, or the head cannot be fitted.
        CacheError: the cache cannot be used.
    """
    if job.trials:
        raise UsageError(
            f"--tune: {job.info.path} is for cross-validation, in which a search would see the images that test it; "
            "leave out --tune, or make a cache without --folds"
        )
    if not job.fits:
        raise HeadError(f"{job.info.path}: a cross-validation needs all rows in memory; make a cache without --folds")
    rows = all_rows(job)
    folds = rows.folds
    assert folds is not None  # a cache for cross-validation has them
    probabilities = np.empty((len(rows.y), len(rows.class_names)), np.float32)
    sets = np.zeros(probabilities.shape, bool)
    seconds = []
    predict_ms = []
    for fold in range(job.info.folds):
        held_out = np.flatnonzero(folds == fold)
        if not len(held_out):  # its images could not be read
            continue
        fitted = _fit(job, rows.select(folds != fold))
        part = evaluate_head(fitted, rows.select(held_out))
        probabilities[held_out] = part.probabilities
        if part.sets is not None:
            sets[held_out] = part.sets
        seconds.append(fitted.seconds)
        predict_ms.append(part.predict_ms_per_image)
    predicted = probabilities.argmax(axis=1)
    measured = metrics(rows.y, predicted, probabilities, rows.class_names, groups=rows.groups, in_folds=True)
    evaluation = Evaluation(predicted, probabilities, measured, float(np.mean(predict_ms)))
    if sets.any(axis=1).all():  # each fold has some, and a set is never empty
        coverage = measured_coverage(sets, rows.y, rows.class_names, groups=rows.groups, in_folds=True)
        evaluation = dataclasses.replace(evaluation, sets=sets, coverage=coverage)
    final = dataclasses.replace(_fit(job, rows), seconds=float(np.mean(seconds)))
    return CrossValidation(final, evaluation, rows)


def all_rows(job: Job) -> Features:
    """The rows of both splits, in the order of their ids, which differ."""
    parts = [load_features(job.info.path, split, job.layers) for split in job.info.rows]
    order = np.argsort(np.concatenate([part.ids for part in parts]))

    def joined(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)[order]

    arrays: dict[str, Any] = {name: joined(name) for name in ("x", "y", "ids", "groups", "folds")}
    return dataclasses.replace(parts[0], **arrays)


def _fit(job: Job, train: Features) -> FittedHead:
    if job.rows is not None:
        if job.rows > len(train.y):
            raise UsageError(
                f"--train-size {job.rows:,}: {job.info.folds} folds of {job.info.path} leave {len(train.y):,} training "
                "images; use fewer"
            )
        train = stratified_subset(train, job.rows, job.seed_of_rows)
    return fit_and_hold_out(
        job.model,
        without_suspects(job, train),
        seed=job.seed,
        jobs=job.threads,
        class_weight=job.class_weight,
        suspects=job.suspects,
    )
