import dataclasses
from pathlib import Path

import numpy as np
import pytest
from slow_cases import mark_slow
from tiny_blocks import set_block_rows

from classify.heads.registry import HEADS
from classify.large.blocks import FeatureBlocks
from classify.training import evaluate
from classify.training.evaluate import evaluate_head, fit_and_evaluate, fit_head
from featurize.cache import Features, load_features, read_info
from featurize.core.errors import HeadError, UsageError

pytestmark = pytest.mark.usefixtures("one_fold")


@pytest.fixture
def splits(cache: Path) -> tuple[Features, Features]:
    return load_features(cache, "train"), load_features(cache, "test")


def test_a_fit(splits: tuple[Features, Features]) -> None:
    fitted = fit_head("logreg", splits[0], settings={"logisticregression__tol": 1e-3})
    assert (fitted.name, fitted.converged, fitted.jobs, fitted.warnings) == ("logreg", True, 1, ())
    assert 0 < fitted.iterations < 1000
    assert fitted.parameters["tol"] == 1e-3
    assert fitted.seconds > 0


def test_an_evaluation(splits: tuple[Features, Features]) -> None:
    result = fit_and_evaluate("logreg", *splits)
    assert result.metrics.accuracy == (result.predicted == splits[1].y).mean() > 0.7
    assert result.probabilities.shape == (60, 3)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_array_equal(result.probabilities.argmax(axis=1), result.predicted)
    assert result.predict_ms_per_image > 0
    [row] = result.to_frame().to_dict("records")
    assert row["accuracy"] == result.metrics.accuracy
    assert {"accuracy_low", "macro_f1", "log_loss", "ece", "predict_ms_per_image"} <= set(row)
    assert f"<td>{result.metrics.accuracy:.3f}</td>" in result._repr_html_()


def test_a_solver_that_stops_too_early_is_shown(
    splits: tuple[Features, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.heads.registry.MAX_ITERATIONS", 1)
    for name in ("logreg", "linear-svm"):
        fitted = fit_head(name, splits[0])
        assert (fitted.converged, fitted.iterations) == (False, 1)
        assert any("ConvergenceWarning" in warning for warning in fitted.warnings)


def test_a_fixed_budget_neither_converges_nor_fails_to(splits: tuple[Features, Features]) -> None:
    assert fit_head("xgboost", splits[0]).converged is None
    assert fit_head("mlp", splits[0], settings={"temperaturecalibrated__estimator__epochs": 3}).iterations == 3


def test_settings_and_parameters_inside_another_estimator(splits: tuple[Features, Features]) -> None:
    fitted = fit_head("linear-svm", splits[0], settings={"temperaturecalibrated__estimator__C": 0.5})
    assert fitted.parameters["estimator__C"] == fitted.head[-1].estimator_.C == 0.5
    assert fitted.converged is True


@pytest.mark.parametrize("name", mark_slow(("logreg", "svm", "linear-svm", "xgboost", "mlp", "knn", "stack"), "stack"))
def test_balanced_weights_reach_every_head(name: str, splits: tuple[Features, Features]) -> None:
    """Of a class that is rare in training, more is found when every class counts the same."""
    train, test = splits
    rows = np.flatnonzero((train.y != 2) | (np.cumsum(train.y == 2) <= 8))
    rare = dataclasses.replace(train, x=train.x[rows], y=train.y[rows], ids=train.ids[rows])
    # With the default C no row of so few is on the wrong side of its margin, and no weight matters.
    settings = {"temperaturecalibrated__estimator__C": 0.1} if name == "svm" else {}
    found = [
        evaluate_head(fit_head(name, rare, settings=settings, class_weight=weight), test).probabilities[:, 2].mean()
        for weight in (None, "balanced")
    ]
    assert found[1] > found[0] + 0.01


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


@pytest.mark.parametrize("name", mark_slow(("logreg", "svm", "xgboost", "mlp", "stack"), "mlp", "stack"))
def test_shuffled_training_labels_give_chance(name: str, splits: tuple[Features, Features]) -> None:
    train, test = splits
    accuracy = [
        fit_and_evaluate(name, dataclasses.replace(train, y=np.random.default_rng(seed).permutation(train.y)), test)
        for seed in range(2)
    ]
    assert np.mean([result.metrics.accuracy for result in accuracy]) < 0.5


def test_an_unknown_head(splits: tuple[Features, Features]) -> None:
    with pytest.raises(UsageError, match="did you mean logreg"):
        fit_and_evaluate("logregg", *splits)


def test_a_head_that_cannot_be_fitted(splits: tuple[Features, Features]) -> None:
    bad = dataclasses.replace(splits[0], x=np.full_like(splits[0].x, np.nan))
    with pytest.raises(HeadError, match="logreg cannot be fitted on these features: Input X contains NaN"):
        fit_and_evaluate("logreg", bad, splits[1])


@pytest.mark.parametrize("rows", [7, 60])
def test_an_evaluation_in_blocks_is_that_of_the_whole(rows: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, rows)
    fitted = fit_head("linear-svm", load_features(cache, "train"))
    whole = evaluate_head(fitted, load_features(cache, "test"))
    parts = evaluate_head(fitted, FeatureBlocks.of(read_info(cache), "test"))
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-6)
    np.testing.assert_array_equal(parts.predicted, whole.predicted)
    assert parts.metrics.accuracy == whole.metrics.accuracy
    assert parts.predict_ms_per_image > 0
