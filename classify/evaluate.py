"""Fit a head on the training split and measure it, once, on the test split."""

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.heads import Task, make_head
from featurize.cache import Features
from featurize.errors import HeadError

ECE_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """What one fit gave.

    Attributes:
        predicted: int64 (n,), the predicted label of each test row.
        probabilities: float32 (n, K), or None for a head without them.
        metrics: `accuracy` with the bounds of its 95% interval, `macro_f1`, `log_loss` and `ece`
            (None without probabilities), all but `log_loss` in 0..1.
        fit_seconds: wall time of the fit.
        predict_ms_per_image: wall time of the prediction, per test row.
        iterations: of the solver, or None.
        converged: whether the solver stopped by its own criterion; None for a fixed budget.
        warnings: what the libraries warned of during the fit, each once.
        parameters: the settings of the pipeline's last step.
    """

    predicted: np.ndarray
    probabilities: np.ndarray | None
    metrics: dict[str, float | None]
    fit_seconds: float
    predict_ms_per_image: float
    iterations: int | None
    converged: bool | None
    warnings: tuple[str, ...]
    parameters: dict[str, Any]


def fit_and_evaluate(name: str, train: Features, test: Features, *, seed: int = 0, jobs: int = 1) -> Evaluation:
    """Train the head `name` on one split and evaluate it on another.

    Args:
        name: a key of `HEADS`.
        train: features to fit on.
        test: features to measure on; used after the fit only.
        seed: for whatever is random in the head.
        jobs: threads.

    Raises:
        UsageError: no such head.
        HeadError: the head cannot be fitted on these features.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    present = np.unique(train.y)
    if len(present) < len(train.class_names):
        absent = [name for label, name in enumerate(train.class_names) if label not in present]
        raise HeadError(
            f"the training rows hold no image of {', '.join(absent[:5])}: every class needs some; use more of them "
            "(python -m featurize without --train, or with a larger N)"
        )
    head = make_head(name, Task(len(train.x), train.x.shape[1], seed, jobs))
    with threadpool_limits(jobs), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            began = time.perf_counter()
            head.fit(train.x, train.y)
            fit_seconds = time.perf_counter() - began
        except (ValueError, FloatingPointError) as error:
            raise HeadError(f"{name} cannot be fitted on these features: {error}") from error
        began = time.perf_counter()
        if hasattr(head, "predict_proba"):
            probabilities = np.asarray(head.predict_proba(test.x), np.float32)
            predicted = present[probabilities.argmax(axis=1)]
        else:
            probabilities, predicted = None, np.asarray(head.predict(test.x), np.int64)
        predict_seconds = time.perf_counter() - began
    last = head[-1] if hasattr(head, "steps") else head
    stopped_early = any(issubclass(item.category, ConvergenceWarning) for item in caught)
    iterative = hasattr(last, "max_iter") and hasattr(last, "n_iter_")
    return Evaluation(
        predicted=predicted,
        probabilities=probabilities,
        metrics=metrics(test.y, predicted, probabilities),
        fit_seconds=fit_seconds,
        predict_ms_per_image=1000 * predict_seconds / len(test.y),
        iterations=int(np.max(last.n_iter_)) if hasattr(last, "n_iter_") else None,
        converged=not stopped_early if iterative or stopped_early else None,
        warnings=tuple(dict.fromkeys(f"{item.category.__name__}: {item.message}" for item in caught)),
        parameters=plain_parameters(last),
    )


def metrics(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None) -> dict[str, float | None]:
    """The figures of one test split: labels and predicted (n,), probabilities (n, K) or None.

    The interval is Wilson's (1927), which keeps its coverage near 0 and 1 and for few images.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import f1_score, log_loss

    correct = int((labels == predicted).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(0.95, "wilson")
    result: dict[str, float | None] = {
        "accuracy": correct / len(labels),
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "log_loss": None,
        "ece": None,
    }
    if probabilities is not None:
        exact = probabilities.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)  # float32 rows sum to one only roughly
        result["log_loss"] = float(log_loss(labels, exact, labels=np.arange(exact.shape[1])))
        result["ece"] = expected_calibration_error(labels, probabilities)
    return result


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance, 0..1, of confidence and accuracy over bins of equally many rows.

    Labels are (n,), probabilities (n, K). Guo et al., On Calibration of Modern Neural Networks,
    2017, with the equal-mass bins of Nixon et al., Measuring Calibration in Deep Learning, 2019.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # Bins are cut at quantiles, so that rows of equal confidence share one, whatever their order.
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    membership = np.searchsorted(edges, confidence)
    gaps = np.bincount(membership, weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(labels))


def plain_parameters(estimator: Any) -> dict[str, Any]:
    """The settings of an estimator that are numbers, texts or truth values."""
    return {
        name: value
        for name, value in estimator.get_params(deep=False).items()
        if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    }
