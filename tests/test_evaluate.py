import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest

from classify import evaluate
from classify.evaluate import expected_calibration_error, fit_and_evaluate, metrics
from classify.heads import HEADS
from featurize.cache import Features, load_features
from featurize.errors import HeadError, UsageError


@pytest.fixture
def splits(cache: Path) -> tuple[Features, Features]:
    return load_features(cache, "train"), load_features(cache, "test")


def test_an_evaluation(splits: tuple[Features, Features]) -> None:
    train, test = splits
    result = fit_and_evaluate("logreg", train, test)
    assert result.metrics["accuracy"] == (result.predicted == test.y).mean() > 0.7
    assert result.metrics["accuracy_low"] < result.metrics["accuracy"] < result.metrics["accuracy_high"]
    assert result.probabilities.shape == (60, 3)
    assert result.probabilities.dtype == np.float32
    assert result.converged is True
    assert 0 < result.iterations < 1000
    assert result.parameters["C"] == 0.01
    assert result.fit_seconds > 0
    assert result.predict_ms_per_image > 0


def test_a_head_without_probabilities(splits: tuple[Features, Features]) -> None:
    result = fit_and_evaluate("linear-svm", *splits)
    assert result.probabilities is None
    assert result.metrics["log_loss"] is None
    assert result.metrics["ece"] is None


def test_a_solver_that_stops_too_early_is_shown(
    splits: tuple[Features, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.heads.MAX_ITERATIONS", 1)
    result = fit_and_evaluate("logreg", *splits)
    assert result.converged is False
    assert any("ConvergenceWarning" in warning for warning in result.warnings)


def test_a_fixed_budget_neither_converges_nor_fails_to(splits: tuple[Features, Features]) -> None:
    assert fit_and_evaluate("xgboost", *splits).converged is None
    assert fit_and_evaluate("mlp", *splits).iterations == 20


def test_the_test_split_changes_no_fitted_parameter(
    splits: tuple[Features, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []
    for test in (splits[1], dataclasses.replace(splits[1], x=splits[1].x * 7, y=splits[1].y[::-1].copy())):
        monkeypatch.setattr(evaluate, "make_head", lambda *args: fitted.append(HEADS["logreg"](args[1])) or fitted[-1])
        fit_and_evaluate("logreg", splits[0], test)
    for one, other in zip(*(head.steps for head in fitted), strict=True):
        for name, value in vars(one[1]).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, vars(other[1])[name])


def test_shuffled_training_labels_give_chance(splits: tuple[Features, Features]) -> None:
    train, test = splits
    shuffled = dataclasses.replace(train, y=np.random.default_rng(0).permutation(train.y))
    assert fit_and_evaluate("logreg", shuffled, test).metrics["accuracy"] < 0.6


def test_a_class_without_training_rows(splits: tuple[Features, Features]) -> None:
    train, test = splits
    rows = train.y != 1
    partial = dataclasses.replace(train, x=train.x[rows], y=train.y[rows])
    with pytest.raises(HeadError, match="hold no image of bee: every class needs some"):
        fit_and_evaluate("logreg", partial, test)


def test_an_unknown_head(splits: tuple[Features, Features]) -> None:
    with pytest.raises(UsageError, match="did you mean logreg"):
        fit_and_evaluate("logregg", *splits)


def test_a_head_that_cannot_be_fitted(splits: tuple[Features, Features]) -> None:
    bad = dataclasses.replace(splits[0], x=np.full_like(splits[0].x, np.nan))
    with pytest.raises(HeadError, match="logreg cannot be fitted on these features: Input X contains NaN"):
        fit_and_evaluate("logreg", bad, splits[1])


def test_wilson_interval() -> None:
    """Wilson's interval for 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I."""
    labels = np.zeros(263, np.int64)
    predicted = np.where(np.arange(263) < 81, 0, 1)
    found = metrics(labels, predicted, None)
    assert found["accuracy"] == pytest.approx(0.3080, abs=5e-5)
    assert found["accuracy_low"] == pytest.approx(0.2553, abs=5e-5)
    assert found["accuracy_high"] == pytest.approx(0.3662, abs=5e-5)


def test_log_loss_and_macro_f1() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], np.float32)
    found = metrics(labels, probabilities.argmax(axis=1), probabilities)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.3]).mean(), rel=1e-6)
    assert found["macro_f1"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)


def test_probabilities_may_sum_to_one_roughly() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics(np.array([0, 1]), np.array([0, 1]), np.array([[0.8, 0.20001], [0.3, 0.7]], np.float32))


def test_expected_calibration_error() -> None:
    # Two bins of two rows: confidence 0.65 against accuracy 0.5, and 0.95 against 1.
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.0, 1.0]])
    labels = np.array([0, 0, 0, 1])
    assert expected_calibration_error(labels, probabilities, bins=2) == pytest.approx((0.15 + 0.05) / 2)


def test_rows_of_equal_confidence_share_a_bin() -> None:
    probabilities = np.tile([0.25, 0.25, 0.25, 0.25], (100, 1))
    labels = np.arange(100) % 4
    assert expected_calibration_error(labels, probabilities) == pytest.approx(0)
    assert expected_calibration_error(np.sort(labels), probabilities) == pytest.approx(0)
