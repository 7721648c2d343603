"""Fit a head on training features; measure a fitted head on test features."""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.guarantee import ConformalSets, Coverage, measured_coverage
from classify.heads import FOLDED, FOLDS, HEADS, Task, estimator_name, make_head
from classify.large import blocks_of
from classify.runs import SET_COVERAGE
from classify.statistics import Metrics, metrics
from classify.suspects import Suspects
from featurize.cache import FeatureRows, Features
from featurize.core.environment import blas_threads
from featurize.core.errors import HeadError
from featurize.core.tables import ShownAsTable

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from classify.heads.calibration import HeldOut

logger = logging.getLogger("frozenbench")
NUMBERS_FOR_THREADS = 1 << 22
"""With fewer numbers, two threads of BLAS gain little, and wait for each other where other programs are at work: a fit
on 300 images took 20 times as long as with one thread (measured)."""


@dataclass(frozen=True)
class FittedHead:
    """A fitted head, and the course of its fit.

    Attributes:
        name: a key of `HEADS`, or the class of another classifier.
        head: the fitted pipeline.
        seconds: wall time of the fit.
        iterations: of the solver, or None.
        converged: whether the solver stopped by its own criterion; None for a fixed budget.
        history: numbers of each epoch, for a head that is trained in epochs.
        warnings: the libraries' warnings, each once.
        parameters: the settings of the pipeline's last step; `blocks`, the number of blocks, if the rows
            exceed memory.
        jobs: number of threads for the fit and for predictions.
        held_out: the probabilities of training rows that a fit without them gave; None if there are none.
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
    held_out: "HeldOut | None" = None

    @property
    def sets(self) -> ConformalSets | None:
        """What the head's sets of classes are made from; None if no rows were held out."""
        return None if self.held_out is None else ConformalSets.of(self.held_out)


@dataclass(frozen=True)
class Evaluation(ShownAsTable):
    """The predictions of a fitted head on a test split, and their metrics.

    Attributes:
        predicted: int64 (n,), the most probable label of each test row.
        probabilities: float32 (n, K).
        metrics: see `classify.statistics.metrics.Metrics`.
        predict_ms_per_image: wall time of the prediction, per test row.
        sets: bool (n, K), the classes in the set of each test row; None if the head has no held-out rows.
        coverage: how often the sets hold the true class; None without sets.
    """

    predicted: np.ndarray
    probabilities: np.ndarray
    metrics: Metrics
    predict_ms_per_image: float
    sets: np.ndarray | None = None
    coverage: Coverage | None = None

    def to_frame(self) -> "pd.DataFrame":
        """One row: the metrics that are numbers, and the time of the prediction."""
        import pandas as pd

        numbers = {name: value for name, value in vars(self.metrics).items() if isinstance(value, float)}
        return pd.DataFrame([{**numbers, "predict_ms_per_image": self.predict_ms_per_image}])


def fit_and_evaluate(estimator: Any, train: Features, test: Features, *, seed: int = 0, jobs: int = 1) -> Evaluation:
    """Train a head on one split and evaluate it on another.

    Args:
        estimator: a key of `HEADS`, for that head with its default settings; or an unfitted scikit-learn
            classifier, of which a copy is fitted on the vectors as they are. It has `predict_proba`, or
            `decision_function`, from which probabilities are then made by temperature calibration.
        train: features to fit on, with rows of every class.
        test: features to evaluate on.
        seed: for everything random in the head: each `random_state` of a classifier that is None.
        jobs: number of threads.

    Raises:
        UsageError: there is no such head, or the estimator is no such classifier.
        HeadError: the head cannot be fitted on these features.
    """
    return evaluate_head(fit_head(estimator, train, seed=seed, jobs=jobs), test)


def fit_head(
    estimator: Any,
    train: FeatureRows,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    jobs: int = 1,
    class_weight: str | None = None,
    suspects: Suspects | None = None,
    client: "Client | None" = None,
) -> FittedHead:
    """Train a head.

    Args:
        estimator: as for `make_head`.
        train: features to fit on, with rows of every class; in blocks only for the heads of
            `HEADS_IN_BLOCKS`.
        settings: parameters of the pipeline that differ from the head's defaults.
        seed: for everything random in the head.
        jobs: number of threads.
        class_weight: `balanced`, or None.
        suspects: training images that have less weight than others, unless they were dropped; None for no such.
        client: of a cluster whose workers fit on features in blocks; None to use the threads.

    Raises:
        UsageError: there is no such head.
        HeadError: the head cannot be fitted on these features.
    """
    from classify.heads.calibration import held_out_of

    name = estimator_name(estimator)
    is_ours = isinstance(estimator, str) and estimator in HEADS
    # Code that is not ours can fail in any way, and one failure costs itself.
    expected = (ValueError, FloatingPointError) if is_ours else (Exception,)
    head = make_head(estimator, Task.of(train, seed, jobs, class_weight)).set_params(**(settings or {}))
    _check_rows_for_folds(name, train)
    weights = None if suspects is None else _weights(name, head, train, suspects)
    blocks = len(blocks_of(train))
    if blocks:
        logger.info(
            "a matrix of %s x %s is larger than memory allows: %s is fitted in %s blocks of rows",
            f"{len(train.y):,}", f"{train.dim:,}", name, f"{blocks:,}",
        )  # fmt: skip
    is_large = len(train.y) * train.dim >= NUMBERS_FOR_THREADS
    with blas_threads(jobs if is_large else 1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        try:
            if blocks:
                from classify.large.fits import fit_in_blocks

                fit_in_blocks(head, train, jobs, client, weights)
            else:
                [x] = train.matrices()
                head.fit(x, train.y, **({} if weights is None else {f"{head.steps[-1][0]}__sample_weight": weights}))
            if not hasattr(head, "classes_"):
                raise ValueError("after the fit it has no classes_, the labels that scikit-learn's classifiers keep")
        except expected as error:
            raise HeadError(f"{name} cannot be fitted on these features: {error}") from error
        seconds = time.perf_counter() - began
    parameters = plain_parameters(head[-1])
    if blocks:
        parameters["blocks"] = blocks
    last = getattr(head[-1], "estimator_", head[-1])
    messages = [f"{item.category.__name__}: {item.message}" for item in caught]
    return FittedHead(
        name=name,
        head=head,
        seconds=seconds,
        iterations=_iterations(last),
        converged=_converged(last, caught),
        history=getattr(last, "history_", {}) if is_ours else {},
        warnings=tuple(dict.fromkeys(messages)),
        parameters=parameters,
        jobs=jobs,
        # The folds of a temperature divide groups.
        held_out=held_out_of(head) if train.groups is None else None,
    )


def _weights(name: str, head: Any, train: FeatureRows, suspects: Suspects) -> np.ndarray | None:
    """The weights of the rows, (n,), or None; raises HeadError if the head's last step cannot weigh single rows."""
    from sklearn.utils.validation import has_fit_parameter

    weights = suspects.weights(train.ids)
    last = head[-1]
    if weights is not None and not has_fit_parameter(getattr(last, "estimator", last), "sample_weight"):
        raise HeadError(f"{name} takes no weights of single images; use --drop-suspects {suspects.file}")
    return weights


def _check_rows_for_folds(name: str, train: FeatureRows) -> None:
    counts = np.bincount(train.y, minlength=len(train.class_names))
    if name in FOLDED and counts.min() < FOLDS:
        raise HeadError(
            f"{name} is fitted in {FOLDS} folds and needs {FOLDS} training images of each class; "
            f"{train.class_names[counts.argmin()]} has {counts.min()}; use more (a larger --train-size) or another head"
        )


def _iterations(estimator: Any) -> int | None:
    """The iterations of a fitted estimator's solver, the most if it ran several times; None if it does not count."""
    counts = np.asarray(getattr(estimator, "n_iter_", ()))
    return int(counts.max()) if counts.size and counts.dtype.kind in "iu" else None


def _converged(estimator: Any, caught: list[warnings.WarningMessage]) -> bool | None:
    """Whether a fitted estimator's solver converged; None if it has a fixed budget instead of a criterion."""
    from sklearn.exceptions import ConvergenceWarning

    if any(issubclass(item.category, ConvergenceWarning) for item in caught):
        return False
    has_criterion = hasattr(estimator, "max_iter") and hasattr(estimator, "n_iter_")
    return True if has_criterion else None


def evaluate_head(fitted: FittedHead, test: FeatureRows) -> Evaluation:
    """Measure a fitted head, block by block if the test features come in blocks.

    Raises:
        HeadError: its probabilities are unusable.
    """
    parts, seconds = [], 0.0
    with blas_threads(fitted.jobs):
        for x in test.matrices():
            began = time.perf_counter()
            parts.append(np.asarray(fitted.head.predict_proba(x), np.float32))
            seconds += time.perf_counter() - began
    probabilities = np.concatenate(parts)
    predicted = fitted.head.classes_[probabilities.argmax(axis=1)]
    measured = metrics(test.y, predicted, probabilities, test.class_names, groups=test.groups)
    sets, coverage = None, None
    if fitted.sets is not None:
        sets = fitted.sets.sets(probabilities, SET_COVERAGE)
        coverage = measured_coverage(sets, test.y, test.class_names, groups=test.groups)
    return Evaluation(
        predicted=predicted,
        probabilities=probabilities,
        metrics=measured,
        predict_ms_per_image=1000 * seconds / len(test.y),
        sets=sets,
        coverage=coverage,
    )


def plain_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters of an estimator, and of those inside it, that are numbers, strings or booleans."""
    return {
        name: value
        for name, value in estimator.get_params().items()
        if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    }
