import numpy as np
import pytest
from conftest import make_dataset, make_vectors
from sklearn.pipeline import Pipeline

from classify import heads
from classify.heads import ALL, HEADS, Task, head_names, make_head
from featurize.errors import UsageError

DATASET = make_dataset(180, 90)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST, Y_TEST = make_vectors(DATASET.splits["test"], seed=1), DATASET.splits["test"].labels
TASK = Task(len(X), X.shape[1], seed=3)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "dummy"])
def test_every_head_beats_the_dummy_and_is_deterministic(name: str) -> None:
    heads = [make_head(name, TASK).fit(X, Y) for _ in range(2)]
    predicted = [head.predict(X_TEST) for head in heads]
    dummy = make_head("dummy", TASK).fit(X, Y).predict(X_TEST)
    assert (predicted[0] == Y_TEST).mean() > (dummy == Y_TEST).mean() + 0.4
    np.testing.assert_array_equal(*predicted)
    if hasattr(heads[0], "predict_proba"):
        probabilities = [head.predict_proba(X_TEST) for head in heads]
        np.testing.assert_array_equal(*probabilities)
        np.testing.assert_allclose(probabilities[0].sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(probabilities[0].argmax(axis=1), predicted[0])


@pytest.mark.parametrize("name", [name for name in HEADS if name != "dummy"])
def test_the_scale_of_the_features_does_not_matter(name: str) -> None:
    scale = np.geomspace(1e-3, 1e3, X.shape[1], dtype=np.float32)
    plain, scaled = make_head(name, TASK).fit(X, Y), make_head(name, TASK).fit(X * scale, Y)
    assert isinstance(scaled, Pipeline)
    assert (plain.predict(X_TEST) == scaled.predict(X_TEST * scale)).mean() > 0.95


@pytest.mark.parametrize("name", ["logreg", "mlp", "xgboost"])
def test_float32_stays_float32(name: str) -> None:
    head = make_head(name, TASK).fit(X, Y)
    assert all(step.transform(X).dtype == np.float32 for step in (head[:1], head[:-1]))
    assert head.predict_proba(X).dtype == np.float32
    if name == "logreg":
        assert head[-1].coef_.dtype == np.float32


def test_the_seed_reaches_the_heads_that_draw() -> None:
    for name in ("mlp", "xgboost"):
        probabilities = [make_head(name, Task(*X.shape, seed=seed)).fit(X, Y).predict_proba(X_TEST) for seed in (0, 1)]
        assert not np.array_equal(*probabilities)


def test_signed_root() -> None:
    x = np.array([[-4, -0.0, 0, 9]], np.float32)
    np.testing.assert_array_equal(heads.signed_root(x), [[-2, 0, 0, 3]])
    assert heads.signed_root(x).dtype == np.float32


def test_the_svm_gives_the_optimum_of_libsvm() -> None:
    from sklearn.svm import SVC

    root, test_root = heads.signed_root(X), heads.signed_root(X_TEST)
    reference = SVC(C=10, gamma=1 / X.shape[1]).fit((root - root.mean(axis=0)) / root.std(axis=0), Y)
    ours = make_head("svm", TASK).fit(X, Y)
    test = (test_root - root.mean(axis=0)) / root.std(axis=0)
    np.testing.assert_allclose(ours.decision_function(X_TEST), reference.decision_function(test), atol=2e-2)


def test_without_the_fast_solver_the_svm_is_scikit_learns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearnex.svm", None)
    heads._say_that_the_svm_is_slow.cache_clear()
    for _ in range(2):
        head = make_head("svm", Task(40_000, 1280))
    assert type(head[-1]).__module__.startswith("sklearn.svm")
    assert caplog.text.count("pip install scikit-learn-intelex") == 1
    assert (head.fit(X, Y).predict(X_TEST) == Y_TEST).mean() > 0.7


def test_names() -> None:
    assert head_names("all") == list(ALL)
    assert head_names("dummy, all,svm") == ["dummy", *ALL]
    assert head_names("svm,svm") == ["svm"]
    for wrong, message in (
        ("svn", "--model svn: no such head; did you mean svm"),
        (" , ", "names no head; known: logreg"),
    ):
        with pytest.raises(UsageError, match=message):
            head_names(wrong)
