"""What a head is worth on one split: figures with their intervals, and how far its probabilities hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurize.core.errors import HeadError

BINS = 15
RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Metrics:
    """The figures of one split, in numbers, lists and dicts as JSON holds them.

    Accuracy has Wilson's interval (1927), which keeps its coverage near 0 and 1 and for few rows;
    macro F1 and recall have percentile bootstrap intervals (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, ch. 13), which have no width where a class is right, or wrong, in every row.

    Attributes:
        accuracy: 0..1, with the bounds of its 95% interval.
        macro_f1: mean of the F1 of all classes that are labels or predictions of some row, 0..1.
        balanced_accuracy: mean of the recall of all classes that are labels of some row, 0..1.
        recall: share of each class's rows that were found, [value, low, high]; None without rows.
        support: rows of each class.
        log_loss: mean negative logarithm of the label's probability, None without probabilities.
        brier: mean over rows of the sum over classes of squared differences between probability and
            outcome, 0..2 whatever the number of classes (Brier, 1950).
        ece: expected calibration error, 0..1, see `expected_calibration_error`.
        reliability: the bins behind `ece`, see `reliability_bins`.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    balanced_accuracy: float
    recall: dict[str, list[float] | None]
    support: dict[str, int]
    log_loss: float | None = None
    brier: float | None = None
    ece: float | None = None
    reliability: list[dict[str, float]] | None = None


def metrics(
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray | None,
    class_names: Sequence[str],
    seed: int = 0,
) -> Metrics:
    """Measure predictions.

    Args:
        labels: int (n,), 0..K-1.
        predicted: int (n,), 0..K-1.
        probabilities: float (n, K), rows that sum to one at least roughly; or None.
        class_names: K names.
        seed: of the bootstrap.

    Raises:
        HeadError: probabilities that are negative, not finite, or zero for every class.
    """
    from scipy.stats import binomtest

    interval = binomtest(int((labels == predicted).sum()), len(labels)).proportion_ci(LEVEL, "wilson")
    confusion = confusion_counts(labels, predicted, len(class_names))
    macro_f1, recall = _f1_and_recall(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    f1_bounds, recall_bounds = (_bounds(values) for values in bootstrap(confusion, seed))
    support = confusion.sum(axis=1).tolist()
    return Metrics(
        accuracy=float((labels == predicted).mean()),
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        macro_f1=float(macro_f1),
        macro_f1_low=float(f1_bounds[0]),
        macro_f1_high=float(f1_bounds[1]),
        balanced_accuracy=float(np.nanmean(recall)),
        recall={
            name: [float(recall[k]), *recall_bounds[:, k].tolist()] if support[k] else None
            for k, name in enumerate(class_names)
        },
        support=dict(zip(class_names, support, strict=True)),
        **({} if probabilities is None else _of_probabilities(labels, probabilities)),
    )


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix in rows, int64 (K, K): first axis the label, second the prediction.

    Args:
        labels: int (n,), 0..K-1.
        predicted: int (n,), 0..K-1.
        classes: K.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def bootstrap(confusion: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Macro F1 and recall of rows drawn with replacement, as many as there are.

    Both depend on the rows only through the counts of the confusion matrix, and the counts of n rows
    drawn with replacement are multinomial with the matrix's own shares: one draw of the counts is
    one draw of the rows, at a cost that does not grow with n.

    Args:
        confusion: int (K, K), rows by label and prediction.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        Macro F1 (resamples,) and recall (resamples, K), NaN where a draw has no row of the class.
    """
    from scipy.sparse import csr_array

    true, predicted = np.nonzero(confusion)  # m cells; the others stay empty in every draw
    counts = confusion[true, predicted]
    random = np.random.default_rng(seed)
    draws = random.multinomial(counts.sum(), counts / counts.sum(), size=resamples)  # (resamples, m)
    sums = []
    for used, label in ((true == predicted, true), (true >= 0, true), (true >= 0, predicted)):
        to_class = csr_array((used.astype(np.int64), (np.arange(len(label)), label)), (len(label), len(confusion)))
        sums.append(draws @ to_class)  # (resamples, K)
    return _f1_and_recall(*sums)


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Rows in bins of equal mass by confidence, the largest probability of a row.

    Bins are cut at quantiles, so that rows of equal confidence share one, whatever their order; ties
    make some bins larger, and fewer than `bins`.

    Returns:
        Each bin's number of `rows`, mean `confidence` and `accuracy`, from the least confident on.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    membership = np.searchsorted(edges, confidence)
    parts = [membership == number for number in np.unique(membership)]
    return [
        {"rows": int(part.sum()), "confidence": float(confidence[part].mean()), "accuracy": float(correct[part].mean())}
        for part in parts
    ]


def expected_calibration_error(reliability: list[dict[str, float]]) -> float:
    """Mean distance, 0..1, of confidence and accuracy over the rows of `reliability_bins`.

    Guo et al., On Calibration of Modern Neural Networks, 2017, with the equal-mass bins of Nixon et
    al., Measuring Calibration in Deep Learning, 2019.
    """
    gaps = sum(part["rows"] * abs(part["confidence"] - part["accuracy"]) for part in reliability)
    return gaps / sum(part["rows"] for part in reliability)


def _of_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """The figures that need probabilities (n, K), by their names in `Metrics`."""
    from sklearn.metrics import brier_score_loss, log_loss

    exact = probabilities.astype(np.float64)
    unusable = ~np.isfinite(exact).all(axis=1) | (exact < 0).any(axis=1) | (exact.sum(axis=1) == 0)
    if unusable.any():
        raise HeadError(
            f"the head's probabilities of {unusable.sum():,} of {len(exact):,} test rows are negative, not finite or "
            "all zero; its training has probably diverged: try another --seed, or leave it out of --model"
        )
    exact /= exact.sum(axis=1, keepdims=True)  # float32 rows sum to one only roughly
    classes = np.arange(exact.shape[1])
    # Not from `exact`: equal float32 confidences may differ once they are divided by their rows' sums.
    reliability = reliability_bins(labels, probabilities)
    return {
        "log_loss": float(log_loss(labels, exact, labels=classes)),
        "brier": float(brier_score_loss(labels, exact, labels=classes, scale_by_half=False)),
        "ece": expected_calibration_error(reliability),
        "reliability": reliability,
    }


def _f1_and_recall(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Macro F1 (...,) and recall (..., K) from each class's rows that are hits, labels, predictions (..., K)."""
    with np.errstate(invalid="ignore"):  # 0 / 0, a class that is not there, is NaN
        return np.nanmean(2 * hits / (support + predicted), axis=-1), hits / support


def _bounds(values: np.ndarray) -> np.ndarray:
    """The percentile interval (2, ...) of resampled values (resamples, ...)."""
    there = ~np.isnan(values).all(axis=0)
    bounds = np.full((2, *there.shape), np.nan)
    bounds[:, there] = np.nanquantile(values[:, there], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return bounds
