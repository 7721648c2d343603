"""Fit a head on training features; measure a fitted head on test features."""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.heads import FOLDED, FOLDS, Task, make_head
from classify.large import FeatureBlocks
from classify.statistics import Metrics, metrics
from featurize.cache import Features
from featurize.core.errors import HeadError

logger = logging.getLogger("frozenbench")


@dataclass(frozen=True)
class FittedHead:
    """A head that has been trained, and how that went.

    Attributes:
        name: a key of `HEADS`.
        head: the fitted pipeline.
        seconds: wall time of the fit.
        iterations: of the solver, or None.
        converged: whether the solver stopped by its own criterion; None for a fixed budget.
        history: what happened in each epoch, of a head that is trained in epochs.
        warnings: what the libraries warned of, each once.
        parameters: the settings of the pipeline's last step; `blocks`, how many the rows were read in where
            they are larger than memory.
        jobs: threads that it was fitted with, and is to predict with.
    """

    name: str
    head: Any
    seconds: float
    iterations: int | None
    converged: bool | None
    history: dict[str, list[float]]
    warnings: tuple[str, ...]
    parameters: dict[str, Any]
    jobs: int


@dataclass(frozen=True)
class Evaluation:
    """What a fitted head gave on a test split.

    Attributes:
        predicted: int64 (n,), the most probable label of each test row.
        probabilities: float32 (n, K).
        metrics: see `classify.statistics.metrics.Metrics`.
        predict_ms_per_image: wall time of the prediction, per test row.
    """

    predicted: np.ndarray
    probabilities: np.ndarray
    metrics: Metrics
    predict_ms_per_image: float


def fit_and_evaluate(name: str, train: Features, test: Features, *, seed: int = 0, jobs: int = 1) -> Evaluation:
    """Train the head `name` with its default settings on one split and evaluate it on another.

    Raises:
        UsageError: no such head.
        HeadError: the head cannot be fitted on these features.
    """
    return evaluate_head(fit_head(name, train, seed=seed, jobs=jobs), test)


def fit_head(
    name: str,
    train: Features | FeatureBlocks,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    jobs: int = 1,
    class_weight: str | None = None,
) -> FittedHead:
    """Train a head.

    Args:
        name: a key of `HEADS`.
        train: features to fit on, with rows of every class; in blocks only for the heads of
            `HEADS_IN_BLOCKS`.
        settings: parameters of the pipeline that are to differ from the head's defaults.
        seed: for whatever is random in the head.
        jobs: threads.
        class_weight: `balanced`, or None.

    Raises:
        UsageError: no such head.
        HeadError: the head cannot be fitted on these features.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    head = make_head(name, Task.of(train, seed, jobs, class_weight)).set_params(**(settings or {}))
    counts = np.bincount(train.y, minlength=len(train.class_names))
    if name in FOLDED and counts.min() < FOLDS:
        raise HeadError(
            f"{name} is fitted in {FOLDS} folds and needs {FOLDS} training images of each class; "
            f"{train.class_names[counts.argmin()]} has {counts.min()}; use more (a larger --train-size) or another head"
        )
    parameters = {}
    if isinstance(train, FeatureBlocks):
        parameters["blocks"] = len(train.blocks)
        logger.info(
            "a matrix of %s x %s is larger than memory allows: %s is fitted in %s blocks of rows",
            *(f"{number:,}" for number in (len(train.y), train.dim)), name, f"{len(train.blocks):,}",
        )  # fmt: skip
    with threadpool_limits(jobs), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        try:
            if isinstance(train, FeatureBlocks):
                from classify.large.fits import fit_in_blocks

                fit_in_blocks(head, train, jobs)
            else:
                head.fit(train.x, train.y)
        except (ValueError, FloatingPointError) as error:
            raise HeadError(f"{name} cannot be fitted on these features: {error}") from error
        seconds = time.perf_counter() - began
    last = head[-1]
    machine = getattr(last, "estimator_", last)
    stopped_early = any(issubclass(item.category, ConvergenceWarning) for item in caught)
    iterative = hasattr(machine, "max_iter") and hasattr(machine, "n_iter_")
    return FittedHead(
        name=name,
        head=head,
        seconds=seconds,
        iterations=int(np.max(machine.n_iter_)) if hasattr(machine, "n_iter_") else None,
        converged=not stopped_early if iterative or stopped_early else None,
        history=getattr(machine, "history_", {}),
        warnings=tuple(dict.fromkeys(f"{item.category.__name__}: {item.message}" for item in caught)),
        parameters=plain_parameters(last) | parameters,
        jobs=jobs,
    )


def evaluate_head(fitted: FittedHead, test: Features | FeatureBlocks) -> Evaluation:
    """Measure a fitted head, block by block where the test features come in blocks.

    Raises:
        HeadError: its probabilities cannot be used.
    """
    from threadpoolctl import threadpool_limits

    matrices = (block.read() for block in test.blocks) if isinstance(test, FeatureBlocks) else (test.x,)
    parts, seconds = [], 0.0
    with threadpool_limits(fitted.jobs):
        for x in matrices:
            began = time.perf_counter()
            parts.append(np.asarray(fitted.head.predict_proba(x), np.float32))
            seconds += time.perf_counter() - began
    probabilities = np.concatenate(parts)
    predicted = fitted.head.classes_[probabilities.argmax(axis=1)]
    return Evaluation(
        predicted=predicted,
        probabilities=probabilities,
        metrics=metrics(test.y, predicted, probabilities, test.class_names),
        predict_ms_per_image=1000 * seconds / len(test.y),
    )


def plain_parameters(estimator: Any) -> dict[str, Any]:
    """The settings of an estimator, and of those inside it, that are numbers, texts or truth values."""
    return {
        name: value
        for name, value in estimator.get_params().items()
        if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    }
