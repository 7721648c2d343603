import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, recall_score

from classify.statistics.metrics import Metrics, bootstrap, expected_calibration_error, metrics, reliability_bins
from featurize.core.errors import HeadError

CLASSES = ("ant", "bee", "cow")
CONFUSION = np.array([[70, 20, 10], [5, 130, 15], [30, 5, 115]])
SKEWED = np.array([[70, 25, 5], [5, 130, 15], [60, 5, 85]])  # labels and predictions of unlike frequencies


def rows_of(confusion: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions, in random order, that a confusion matrix counts."""
    labels, predicted = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
    order = np.random.default_rng(seed).permutation(len(labels))
    return labels[order], predicted[order]


def surely(predicted: np.ndarray, classes: int = 3) -> np.ndarray:
    """Probabilities that are certain of the predictions."""
    return np.eye(classes, dtype=np.float32)[predicted]


def random_probabilities(rows: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows).astype(np.float32)


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(correct: int, rows: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    predicted = np.where(np.arange(rows) < correct, 0, 1)
    found = metrics(np.zeros(rows, np.int64), predicted, surely(predicted), CLASSES)
    assert found.accuracy == pytest.approx(correct / rows)
    assert found.accuracy_low == pytest.approx(low, abs=5e-5)
    assert found.accuracy_high == pytest.approx(high, abs=5e-5)


def test_log_loss_and_macro_f1() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], np.float32)
    found = metrics(labels, probabilities.argmax(axis=1), probabilities, ("ant", "bee"))
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.3]).mean(), rel=1e-6)
    assert found.macro_f1 == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)


def test_recall_and_macro_f1_are_those_of_scikit_learn() -> None:
    labels, predicted = rows_of(CONFUSION)
    found = metrics(labels, predicted, surely(predicted), CLASSES)
    assert found.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert [found.recall[name][0] for name in CLASSES] == pytest.approx(recall_score(labels, predicted, average=None))
    assert found.support == {"ant": 100, "bee": 150, "cow": 150}
    for value, low, high in [(found.macro_f1, found.macro_f1_low, found.macro_f1_high), *found.recall.values()]:
        assert value - 0.15 < low < value < high < value + 0.15


def test_brier_score() -> None:
    # By hand: 0.1^2 + 0.1^2, and 0.8^2 + 0.7^2 + 0.1^2.
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]])
    found = metrics(np.array([0, 0]), np.array([0, 1]), probabilities, CLASSES)
    assert found.brier == pytest.approx((0.02 + 1.14) / 2)


def test_brier_score_of_two_classes_is_on_the_same_scale() -> None:
    surely_wrong = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert metrics(np.array([0, 1]), np.array([1, 0]), surely_wrong + 1e-9, ("ant", "bee")).brier == pytest.approx(2)


def test_brier_score_is_that_of_scikit_learn() -> None:
    probabilities = random_probabilities(200, 5)
    labels = np.random.default_rng(1).integers(0, 5, 200)
    found = metrics(labels, probabilities.argmax(axis=1), probabilities, "abcde")
    exact = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    assert found.brier == pytest.approx(brier_score_loss(labels, exact))
    assert found.brier == pytest.approx(((probabilities - np.eye(5)[labels]) ** 2).sum(axis=1).mean(), rel=1e-5)


def test_expected_calibration_error() -> None:
    # Two bins of two rows: confidence 0.65 against accuracy 0.5, and 0.95 against 1.
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.0, 1.0]])
    bins = reliability_bins(np.array([0, 0, 0, 1]), probabilities, bins=2)
    assert [part["rows"] for part in bins] == [2, 2]
    assert [part["confidence"] for part in bins] == pytest.approx([0.65, 0.95])
    assert [part["accuracy"] for part in bins] == [0.5, 1]
    assert expected_calibration_error(bins) == pytest.approx((0.15 + 0.05) / 2)


def test_bins_of_unequal_size_weigh_by_their_rows() -> None:
    bins = [{"rows": 3, "confidence": 0.5, "accuracy": 0.7}, {"rows": 1, "confidence": 0.9, "accuracy": 0.5}]
    assert expected_calibration_error(bins) == pytest.approx((3 * 0.2 + 0.4) / 4)


def test_the_calibration_error_follows_from_the_reliability_data() -> None:
    probabilities = random_probabilities(1000, 4)
    labels = np.random.default_rng(1).integers(0, 4, 1000)
    found = metrics(labels, probabilities.argmax(axis=1), probabilities, "abcd")
    assert found.ece == expected_calibration_error(found.reliability)
    rows = np.array([part["rows"] for part in found.reliability])
    assert len(rows) == 15
    assert rows.sum() == 1000
    assert rows.max() - rows.min() <= 1
    assert (rows @ [part["accuracy"] for part in found.reliability]) / 1000 == pytest.approx(found.accuracy)


def test_rows_of_equal_confidence_share_a_bin() -> None:
    probabilities = np.tile([0.25, 0.25, 0.25, 0.25], (100, 1))
    labels = np.arange(100) % 4
    for order in (labels, np.sort(labels)):
        assert reliability_bins(order, probabilities) == [{"rows": 100, "confidence": 0.25, "accuracy": 0.25}]


def test_float32_sums_do_not_part_rows_of_equal_confidence() -> None:
    probabilities = np.tile(np.array([[0.7, 0.2, 0.1], [0.7, 0.15, 0.15]], np.float32), (50, 1))
    found = metrics(np.arange(100) % 2, np.zeros(100, np.int64), probabilities, CLASSES)
    assert [part["rows"] for part in found.reliability] == [100]


def test_fewer_rows_than_bins() -> None:
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7]])
    bins = reliability_bins(np.array([0, 0]), probabilities)
    assert [part["rows"] for part in bins] == [1, 1]


def test_probabilities_may_sum_to_one_roughly() -> None:
    probabilities = np.array([[0.8, 0.20001], [0.3, 0.7]], np.float32)
    assert metrics(np.array([0, 1]), np.array([0, 1]), probabilities, ("ant", "bee")).ece == pytest.approx(0.25)


@pytest.mark.parametrize("row", [[np.nan, 1.0], [np.inf, 1.0], [-0.1, 1.1], [0.0, 0.0]])
def test_probabilities_that_are_none(row: list[float]) -> None:
    with pytest.raises(HeadError, match="probabilities of 1 of 2 test rows are negative, not finite or all zero"):
        metrics(np.array([0, 1]), np.array([0, 1]), np.array([row, [0.5, 0.5]], np.float32), ("ant", "bee"))


def test_a_class_without_test_rows() -> None:
    confusion = CONFUSION.copy()
    confusion[1] = 0
    labels, predicted = rows_of(confusion)
    probabilities = np.eye(3, dtype=np.float32)[predicted] + 0.01
    found = metrics(labels, predicted, probabilities, CLASSES)
    assert found.recall["bee"] is None
    assert found.support["bee"] == 0
    assert found.recall["cow"][0] == pytest.approx(115 / 150)
    assert found.balanced_accuracy == pytest.approx((found.recall["ant"][0] + 115 / 150) / 2)
    assert found.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert found.log_loss > 0


def test_a_class_that_is_neither_label_nor_prediction_does_not_count() -> None:
    confusion = CONFUSION.copy()
    confusion[1], confusion[:, 1] = 0, 0
    labels, predicted = rows_of(confusion)
    assert metrics(labels, predicted, surely(predicted), CLASSES).macro_f1 == pytest.approx(
        f1_score(labels, predicted, average="macro")
    )


def test_a_class_of_one_row() -> None:
    labels = np.array([0] * 50 + [1])
    found = metrics(labels, labels, surely(labels, 2), ("ant", "bee"))
    assert found.recall["bee"] == [1, 1, 1]


def test_json_holds_all_of_it() -> None:
    labels, predicted = rows_of(CONFUSION)
    found = metrics(labels, predicted, np.eye(3, dtype=np.float32)[predicted] + 0.01, CLASSES)
    text = json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert Metrics(**json.loads(text)) == found


def test_the_seed_decides() -> None:
    labels, predicted = rows_of(CONFUSION)
    first, again, other = (metrics(labels, predicted, surely(predicted), CLASSES, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.macro_f1_low != other.macro_f1_low


def test_bootstrap_is_one_of_rows() -> None:
    """The same quantiles as from drawing the rows themselves, to within the noise of 20,000 draws."""
    labels, predicted = rows_of(SKEWED)
    cells, random = 3 * labels + predicted, np.random.default_rng(1)
    drawn = [np.bincount(cells[random.integers(0, 400, 400)], minlength=9).reshape(3, 3) for _ in range(20_000)]
    hits, support, predictions = np.array([[np.diag(one), one.sum(axis=1), one.sum(axis=0)] for one in drawn]).swapaxes(
        0, 1
    )
    f1, recall = bootstrap(SKEWED, seed=2, resamples=20_000)
    for found, naive in ((f1, (2 * hits / (support + predictions)).mean(axis=1)), (recall, hits / support)):
        for share in (0.025, 0.5, 0.975):
            np.testing.assert_allclose(np.quantile(found, share, axis=0), np.quantile(naive, share, axis=0), atol=0.003)


def test_bootstrap_counts_do_not_depend_on_the_classes_that_are_empty() -> None:
    wide = np.zeros((50, 50), np.int64)
    wide[np.ix_([3, 20, 41], [3, 20, 41])] = CONFUSION
    f1, recall = bootstrap(CONFUSION)
    wide_f1, wide_recall = bootstrap(wide)
    np.testing.assert_allclose(wide_f1, f1)
    np.testing.assert_allclose(wide_recall[:, [3, 20, 41]], recall)
    assert np.isnan(wide_recall[:, 0]).all()


def test_intervals_cover_what_they_should() -> None:
    """Of 300 samples of a known population, about 95 in 100 intervals hold its macro F1 and recall."""
    random = np.random.default_rng(0)
    shares = CONFUSION / CONFUSION.sum()
    hits, support = np.diag(shares), shares.sum(axis=1)
    truth = {"f1": (2 * hits / (support + shares.sum(axis=0))).mean(), "recall": (hits / support)[0]}
    held = {"f1": 0, "recall": 0}
    for number in range(300):
        labels, predicted = rows_of(random.multinomial(500, shares.ravel()).reshape(3, 3))
        found = metrics(labels, predicted, surely(predicted), CLASSES, seed=number)
        held["f1"] += found.macro_f1_low <= truth["f1"] <= found.macro_f1_high
        held["recall"] += found.recall["ant"][1] <= truth["recall"] <= found.recall["ant"][2]
    assert all(0.92 * 300 <= count <= 0.98 * 300 for count in held.values()), held


def test_the_bootstrap_draws_no_rows() -> None:
    """Its cost is that of the confusion matrix: ten times the counts make the same number of draws."""
    with mock.patch("numpy.random.default_rng") as generator:
        generator.return_value.multinomial.side_effect = np.random.Generator(np.random.PCG64(0)).multinomial
        bootstrap(10 * CONFUSION, resamples=7)
    (call,) = generator.return_value.method_calls
    assert call.kwargs == {"size": 7}
    assert call.args[0] == 10 * CONFUSION.sum()
    assert len(call.args[1]) == 9
