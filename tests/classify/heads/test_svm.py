import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from estimator_checks import exceptions
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny_data import make_dataset, make_vectors

from classify.heads import svm
from classify.heads.svm import RBFSVM, LinearSVM

DATASET = make_dataset(240, 120)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST, Y_TEST = make_vectors(DATASET.splits["test"], seed=1), DATASET.splits["test"].labels
LOPSIDED = np.concatenate([np.flatnonzero(Y == 0), np.flatnonzero(Y == 1)[:8], np.flatnonzero(Y == 2)[:8]])


@parametrize_with_checks([RBFSVM(), LinearSVM()], expected_failed_checks=exceptions)
def test_the_estimator_contract_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_margins_are_those_of_libsvm(classes: int, weight: str | None) -> None:
    known = list(range(classes))
    rows, test = LOPSIDED[np.isin(Y[LOPSIDED], known)], X_TEST[np.isin(Y_TEST, known)]
    reference = SVC(C=10, gamma=1 / 16, class_weight=weight, decision_function_shape="ovo").fit(X[rows], Y[rows])
    ours = RBFSVM(class_weight=weight).fit(X[rows], Y[rows])
    margins = ours.pair_margins(test)
    expected = reference.decision_function(test).reshape(margins.shape)
    # Of two classes scikit-learn turns the sign round: positive is the second one.
    np.testing.assert_allclose(margins, -expected if classes == 2 else expected, atol=2e-2)
    assert len(set(ours.support_) ^ set(reference.support_)) <= 0.02 * len(reference.support_)
    assert (ours.predict(test) == reference.predict(test)).mean() > 0.95  # libsvm votes


def test_without_the_fast_solver_it_is_scikit_learns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "sklearnex.svm", None)
    monkeypatch.setattr(svm, "MANY_ROWS", 100)
    svm.warn_of_slow_solver.cache_clear()
    heads = [RBFSVM().fit(X, Y) for _ in range(2)]
    assert caplog.text.count("pip install scikit-learn-intelex") == 1
    monkeypatch.undo()
    np.testing.assert_allclose(
        heads[0].decision_function(X_TEST), RBFSVM().fit(X, Y).decision_function(X_TEST), atol=0.05
    )


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = RBFSVM().fit(X, Y)
    whole = head.decision_function(X_TEST)
    monkeypatch.setattr(svm, "BLOCK_BYTES", 4 * len(head.support_) * 7)
    np.testing.assert_allclose(head.decision_function(X_TEST), whole, atol=1e-5)


def test_the_width_is_a_multiple_of_the_features_inverse_number() -> None:
    assert RBFSVM(width=0.5).fit(X, Y).gamma_ == 0.5 / 16


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_the_linear_optimum_is_liblinears(weight: str | None) -> None:
    x, y = X[LOPSIDED], Y[LOPSIDED]
    weights = compute_sample_weight(weight, y)
    reference = LinearSVC(C=0.01, dual=False, tol=1e-8).fit(x, y, sample_weight=weights)
    ours = LinearSVM(C=0.01, class_weight=weight, tol=1e-6).fit(x, y)
    np.testing.assert_allclose(ours.coef_, reference.coef_, atol=5e-4)
    np.testing.assert_allclose(ours.intercept_, reference.intercept_, atol=5e-4)
    assert ours.n_iter_ < 100


def test_too_few_steps_are_said() -> None:
    with pytest.warns(ConvergenceWarning, match="stopped after 1 step"):
        LinearSVM(max_iter=1).fit(X, Y)


@pytest.mark.parametrize("head", [RBFSVM(), LinearSVM()])
def test_one_class_only(head: RBFSVM | LinearSVM) -> None:
    with pytest.raises(ValueError, match="class"):
        head.fit(X, np.zeros(len(X), int))


@pytest.mark.skipif(importlib.util.find_spec("sklearnex") is None, reason="scikit-learn-intelex is not installed")
def test_in_another_thread_it_keeps_to_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a task of a cluster's worker; there, sklearnex warns, and takes all cores unless it is told otherwise."""
    told = []
    monkeypatch.setattr("daal4py.daalinit", told.append)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(RBFSVM(n_jobs=1).fit, X, Y).result()
    assert told == [1]
    np.testing.assert_array_equal(elsewhere.support_, RBFSVM(n_jobs=1).fit(X, Y).support_)
    assert told == [1]
