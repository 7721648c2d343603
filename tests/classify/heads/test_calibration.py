import pickle

import numpy as np
import pytest
from estimator_checks import exceptions
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks
from slow_cases import mark_slow
from tiny_data import make_dataset, make_vectors

from classify.heads import calibration
from classify.heads.calibration import TemperatureCalibrated, best_temperature, held_out_folds
from classify.heads.registry import Task, make_head
from classify.heads.svm import RBFSVM, LinearSVM
from classify.statistics.metrics import expected_calibration_error, reliability_bins

DATASET = make_dataset(600, 3000)
X, Y = make_vectors(DATASET.splits["train"], noise=2.5) / 3, DATASET.splits["train"].labels
X_TEST, Y_TEST = make_vectors(DATASET.splits["test"], noise=2.5, seed=1) / 3, DATASET.splits["test"].labels


@parametrize_with_checks([TemperatureCalibrated(LinearSVM(), random_state=0)], expected_failed_checks=exceptions)
def test_the_estimator_contract_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_the_temperature_is_the_one_that_the_scores_were_multiplied_by() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(20_000, 4))
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < random.random((len(shares), 1))).sum(axis=1)
    for scale in (0.2, 1, 7):
        assert best_temperature(scale * scores, labels) == pytest.approx(scale, rel=0.05)


def test_probabilities_that_are_too_modest_are_set_right() -> None:
    class Modest(LogisticRegression):
        decision_function = property()  # it only has probabilities

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            scores = (x @ self.coef_.T + self.intercept_) / 4
            return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)

    head = TemperatureCalibrated(Modest(), random_state=0).fit(X, Y)
    assert not hasattr(head, "decision_function")
    assert head.temperature_ == pytest.approx(1 / 4, rel=0.3)
    right, modest = (
        expected_calibration_error(reliability_bins(Y_TEST, probabilities))
        for probabilities in (head.predict_proba(X_TEST), head.estimator_.predict_proba(X_TEST))
    )
    assert right < 0.08 < modest


@pytest.mark.parametrize("estimator", [RBFSVM(), LinearSVM(C=1.0)])
def test_confidence_is_about_accuracy(estimator: object) -> None:
    head = TemperatureCalibrated(estimator, random_state=0).fit(X, Y)
    probabilities = head.predict_proba(X_TEST)
    calibrated = expected_calibration_error(reliability_bins(Y_TEST, probabilities))
    head.temperature_ = 0.2
    sharp = expected_calibration_error(reliability_bins(Y_TEST, head.predict_proba(X_TEST)))
    assert calibrated < 0.08 < sharp
    np.testing.assert_array_equal(head.predict(X_TEST), head.estimator_.predict(X_TEST))


def test_the_temperature_is_fitted_on_rows_that_were_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of labels without any meaning a flexible kernel knows nothing: the probabilities are level."""
    noise = np.random.default_rng(0).permutation(Y)
    head = TemperatureCalibrated(RBFSVM(), random_state=0).fit(X, noise)
    assert (head.predict(X) == noise).mean() > 0.8
    assert head.predict_proba(X_TEST).max(axis=1).mean() < 0.45


def test_many_rows_take_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    fit = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, x, y: fitted.append(len(x)) or fit(self, x, y))
    TemperatureCalibrated(LogisticRegression(), random_state=0).fit(X[:450], Y[:450])
    TemperatureCalibrated(LogisticRegression(), random_state=0).fit(X, Y)
    assert fitted == [450, 360, 360, 360, 360, 360, 600, 480]


def test_a_class_of_one_row_leaves_the_scores_as_they_are() -> None:
    rows = [0, 1, 2, 3, 4, 6, 7]  # the third class has one of them
    head = TemperatureCalibrated(LinearSVM(), random_state=0).fit(X[rows], Y[rows])
    assert head.temperature_ == 1


def test_the_temperature_may_come_from_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    fit = RBFSVM.fit
    monkeypatch.setattr(RBFSVM, "fit", lambda self, x, y: counts.append(np.bincount(y).tolist()) or fit(self, x, y))
    monkeypatch.setattr(calibration, "ROWS_FOR_ONE_FOLD", 100)
    TemperatureCalibrated(RBFSVM(), max_rows=90, random_state=0).fit(X, Y)
    TemperatureCalibrated(RBFSVM(), max_rows=480, random_state=0).fit(X, Y)
    assert counts == [[200] * 3, [30] * 3, [200] * 3, [160] * 3]


def test_fewer_rows_still_hold_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "ROWS_FOR_ONE_FOLD", 100)
    rows = np.r_[np.flatnonzero(Y != 2), np.flatnonzero(Y == 2)[:2]]
    head = TemperatureCalibrated(LinearSVM(), max_rows=50, random_state=0).fit(X[rows], Y[rows])
    assert head.temperature_ != 1


@pytest.mark.parametrize("name", mark_slow(("svm", "xgboost", "mlp"), "mlp"))
def test_with_few_rows_heads_are_not_too_sure(name: str) -> None:
    """Without a temperature it is 0.08 to 0.19."""
    head = make_head(name, Task(150, X.shape[1])).fit(X[:150], Y[:150])
    assert (
        expected_calibration_error(reliability_bins(Y_TEST, head.predict_proba(X_TEST))) < 0.06
    )  # 0.08 to 0.19 without


def test_the_probabilities_of_held_out_rows_are_kept_but_not_saved() -> None:
    head = TemperatureCalibrated(LinearSVM(), random_state=0).fit(X[:400], Y[:400])
    assert head.held_out_.probabilities.shape == (400, 3)
    assert sorted(head.held_out_.labels) == sorted(Y[:400])
    right = (head.held_out_.probabilities.argmax(axis=1) == head.held_out_.labels).mean()
    assert right == pytest.approx((head.predict(X_TEST) == Y_TEST).mean(), abs=0.06)
    assert not hasattr(pickle.loads(pickle.dumps(head)), "held_out_")


def test_groups_stay_together() -> None:
    groups = np.arange(600) // 3
    for fitted, held_out in held_out_folds(Y, 0, groups):
        assert not set(groups[fitted]) & set(groups[held_out])
        assert set(Y[fitted]) == {0, 1, 2}


def test_nothing_is_held_out_if_a_class_is_one_row_or_one_group() -> None:
    assert list(held_out_folds(np.array([0, 0, 0, 1]), 0)) == []
    assert list(held_out_folds(Y, 0, groups=Y)) == []
