"""Metrics of a head on one split: accuracy, F1 and recall with intervals, and the quality of its probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.statistics.design import design_effect, wilson_interval
from featurize.core.errors import HeadError
from featurize.core.intervals import LEVEL

BINS = 15
RESAMPLES = 1000


@dataclass(frozen=True)
class Metrics:
    """The metrics of one split, as JSON-compatible numbers, lists and dicts.

    Accuracy has Wilson's interval (1927), which keeps its coverage near 0 and 1 and for few rows.
    Macro F1 and recall have percentile bootstrap intervals (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, ch. 13), which have zero width if all rows of a class are correct or all wrong.

    Attributes:
        accuracy: 0..1, with the bounds of its 95% interval.
        macro_f1: mean F1 over all classes that occur among labels or predictions, 0..1.
        balanced_accuracy: mean recall over all classes that occur among the labels, 0..1.
        recall: each class's recall, [value, low, high]; None for a class without rows.
        support: number of rows of each class.
        log_loss: mean negative logarithm of the label's probability.
        brier: mean over rows of the sum over classes of squared differences between probability and
            outcome, 0..2 whatever the number of classes (Brier, 1950).
        ece: expected calibration error, 0..1, see `expected_calibration_error`.
        reliability: the bins of `ece`, see `reliability_bins`.
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
    log_loss: float
    brier: float
    ece: float
    reliability: list[dict[str, float]]


def metrics(
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    seed: int = 0,
    *,
    groups: np.ndarray | None = None,
    in_folds: bool = False,
) -> Metrics:
    """Measure predictions.

    Where the images are not independent, the intervals are those of fewer images, see `design_effect`.

    Args:
        labels: int (n,), 0..K-1.
        predicted: int (n,), 0..K-1.
        probabilities: float (n, K); each row sums to one, at least roughly.
        class_names: K names.
        seed: seed of the bootstrap.
        groups: int (n,), the group of each row; None if the rows are independent.
        in_folds: whether the predictions come from a cross-validation.

    Raises:
        HeadError: some probabilities are negative or not finite, or a row of them is all zero.
    """
    correct = labels == predicted
    accuracy = float(correct.mean())
    independent = len(labels) / design_effect(correct.astype(float), groups, in_folds=in_folds)
    low, high = wilson_interval(accuracy, independent, LEVEL)
    confusion = confusion_counts(labels, predicted, len(class_names))
    macro_f1, recall = _f1_and_recall(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    macro_f1_draws, recall_draws = bootstrap(confusion, seed, rows=round(independent))
    f1_low, f1_high = _bounds(macro_f1_draws)
    recall_bounds = _bounds(recall_draws)
    recall_of: dict[str, list[float] | None] = dict.fromkeys(class_names)
    support: dict[str, int] = {}
    for k, name in enumerate(class_names):
        support[name] = int(confusion[k].sum())
        if support[name]:
            recall_of[name] = [float(recall[k]), *recall_bounds[:, k].tolist()]
    return Metrics(
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=float(macro_f1),
        macro_f1_low=float(f1_low),
        macro_f1_high=float(f1_high),
        balanced_accuracy=float(np.nanmean(recall)),
        recall=recall_of,
        support=support,
        **_probability_metrics(labels, probabilities),
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


def bootstrap(
    confusion: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Macro F1 and recall of bootstrap samples: n of the n rows, drawn with replacement.

    Both depend on the rows only through the confusion matrix. Its counts over n rows drawn with
    replacement are multinomial with the matrix's own shares, so one draw of the counts stands for one
    draw of the rows, at a cost that does not grow with n.

    Args:
        confusion: int (K, K), see `confusion_counts`.
        seed: seed of the draws.
        resamples: number of draws.
        rows: of each sample, if the rows are worth fewer independent ones; n by default.

    Returns:
        Macro F1 (resamples,) and recall (resamples, K), NaN if a draw has no row of the class.
    """
    from scipy.sparse import csr_array

    true, predicted = np.nonzero(confusion)  # m cells; the others are empty in every draw
    counts = confusion[true, predicted]
    random = np.random.default_rng(seed)
    draws = random.multinomial(rows or counts.sum(), counts / counts.sum(), size=resamples)  # (resamples, m)
    cells = np.arange(len(true))

    def sums_by(classes: np.ndarray, used: np.ndarray) -> np.ndarray:
        """The counts of the used cells (m,), summed by the cells' classes (m,): (resamples, K)."""
        to_class = csr_array((used.astype(np.int64), (cells, classes)), (len(cells), len(confusion)))
        return draws @ to_class

    every = np.ones(len(cells), bool)
    return _f1_and_recall(
        hits=sums_by(true, true == predicted),
        support=sums_by(true, every),
        predicted=sums_by(predicted, every),
    )


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Bins of equal mass by confidence, the largest probability of a row.

    The bins are cut at quantiles, so rows of equal confidence share a bin whatever their order. Ties
    make some bins larger and can leave fewer than `bins`.

    Returns:
        Each bin's number of `rows`, mean `confidence` and `accuracy`, the least confident bin first.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    membership = np.searchsorted(edges, confidence)
    found = []
    for number in np.unique(membership):
        rows = membership == number
        found.append(
            {
                "rows": int(rows.sum()),
                "confidence": float(confidence[rows].mean()),
                "accuracy": float(correct[rows].mean()),
            }
        )
    return found


def expected_calibration_error(reliability: list[dict[str, float]]) -> float:
    """Mean difference between confidence and accuracy, 0..1, over the rows of `reliability_bins`.

    Guo et al., On Calibration of Modern Neural Networks, 2017, with the equal-mass bins of Nixon et
    al., Measuring Calibration in Deep Learning, 2019.
    """
    gaps = sum(part["rows"] * abs(part["confidence"] - part["accuracy"]) for part in reliability)
    return gaps / sum(part["rows"] for part in reliability)


def _probability_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """The metrics of probabilities (n, K), by their names in `Metrics`."""
    from sklearn.metrics import brier_score_loss, log_loss

    exact = probabilities.astype(np.float64)
    unusable = ~np.isfinite(exact).all(axis=1) | (exact < 0).any(axis=1) | (exact.sum(axis=1) == 0)
    if unusable.any():
        raise HeadError(
            f"the head's probabilities of {unusable.sum():,} of {len(exact):,} test rows are negative, not finite or "
            "all zero; its training has probably diverged: try another --seed, or leave it out"
        )
    exact /= exact.sum(axis=1, keepdims=True)  # float32 rows sum to one only roughly
    classes = np.arange(exact.shape[1])
    # Not from `exact`: equal float32 confidences can differ after division by the sums of their rows.
    reliability = reliability_bins(labels, probabilities)
    return {
        "log_loss": float(log_loss(labels, exact, labels=classes)),
        "brier": float(brier_score_loss(labels, exact, labels=classes, scale_by_half=False)),
        "ece": expected_calibration_error(reliability),
        "reliability": reliability,
    }


def _f1_and_recall(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Macro F1 (...,) and recall (..., K) from each class's hits, labels and predictions, all (..., K)."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: a class without rows
        return np.nanmean(2 * hits / (support + predicted), axis=-1), hits / support


def _bounds(values: np.ndarray) -> np.ndarray:
    """The percentile interval (2, ...) of resampled values (resamples, ...)."""
    defined = ~np.isnan(values).all(axis=0)
    bounds = np.full((2, *defined.shape), np.nan)
    bounds[:, defined] = np.nanquantile(values[:, defined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return bounds
