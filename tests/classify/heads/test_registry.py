import functools
from typing import Any

import numpy as np
import pytest
from slow_cases import mark_slow
from tiny_data import make_dataset, make_vectors

from classify.heads import registry as heads
from classify.heads.registry import ALL, HEADS, STACKED, Task, head_names, make_head
from classify.heads.trees import BoostedTrees
from featurize.core.errors import HeadError, UsageError

DATASET = make_dataset(180, 90)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST, Y_TEST = make_vectors(DATASET.splits["test"], seed=1), DATASET.splits["test"].labels
TASK = Task(len(X), X.shape[1], seed=3)


pytestmark = pytest.mark.usefixtures("one_fold")


@functools.cache
def fitted(name: str) -> Any:
    return make_head(name, TASK).fit(X, Y)


@pytest.mark.parametrize("name", mark_slow([name for name in HEADS if name not in ("dummy", "cnn")], "stack"))
def test_every_head_beats_the_dummy_and_is_deterministic(name: str) -> None:
    heads = [fitted(name), make_head(name, TASK).fit(X, Y)]
    probabilities = [head.predict_proba(X_TEST) for head in heads]
    np.testing.assert_array_equal(*probabilities)
    np.testing.assert_allclose(probabilities[0].sum(axis=1), 1, rtol=1e-5)
    dummy = make_head("dummy", TASK).fit(X, Y).predict(X_TEST)
    assert (probabilities[0].argmax(axis=1) == Y_TEST).mean() > (dummy == Y_TEST).mean() + 0.4


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("dummy", "stack", "cnn")])
def test_the_scale_of_the_features_does_not_matter(name: str) -> None:
    scale = np.geomspace(1e-3, 1e3, X.shape[1], dtype=np.float32)
    plain, scaled = fitted(name), make_head(name, TASK).fit(X * scale, Y)
    assert (plain.predict(X_TEST) == scaled.predict(X_TEST * scale)).mean() > 0.95


@pytest.mark.parametrize("name", ["logreg", "svm", "linear-svm", "mlp"])
def test_float32_stays_float32(name: str) -> None:
    head = fitted(name)
    assert all(step.transform(X).dtype == np.float32 for step in (head[:1], head[:-1]))
    assert head.predict_proba(X).dtype == np.float32
    if name == "logreg":
        assert head[-1].coef_.dtype == np.float32


def test_the_jobs_reach_the_heads_with_threads_of_their_own() -> None:
    for name in ("svm", "xgboost", "knn"):
        parameters = make_head(name, Task(5_000, X.shape[1], jobs=7)).get_params()
        assert 7 in [value for key, value in parameters.items() if key.endswith("n_jobs")]
    few = make_head("xgboost", Task(500, X.shape[1], jobs=7)).get_params()
    assert {value for key, value in few.items() if key.endswith("__n_jobs")} <= {1, None}


def test_the_trees_see_discriminants_of_rows_that_these_were_not_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of labels without any meaning, discriminants of their own rows would look good to the trees."""
    seen = []
    fit = BoostedTrees.fit
    monkeypatch.setattr(BoostedTrees, "fit", lambda self, x, y: seen.append(x) or fit(self, x, y))
    noise = np.random.default_rng(0).permutation(Y)
    make_head("xgboost", TASK).fit(X, noise)
    assert seen[0].shape == (180, 3 + 16)
    assert (seen[0][:, :3].argmax(axis=1) == noise).mean() < 0.42


def test_with_few_images_the_trees_keep_what_the_discriminants_know() -> None:
    """Of 5 rows in 200 columns, covariances without enough shrinkage know nothing, and trees alone little."""
    random = np.random.default_rng(0)
    centres = 0.7 * random.normal(size=(10, 200))
    y = np.repeat(np.arange(10), 5)
    x, new = ((centres[y] + random.normal(size=(50, 200))).astype(np.float32) for _ in range(2))
    head = make_head("xgboost", Task(len(x), x.shape[1])).fit(x, y)
    assert (head.predict(new) == y).mean() > 0.9


def test_the_trees_see_the_discriminants_of_all_classes() -> None:
    """However many there are: each class has its probability among the columns."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(140, 150))
    y = np.repeat(np.arange(140), 4)
    x, new = ((centres[y] + 0.5 * random.normal(size=(560, 150))).astype(np.float32) for _ in range(2))
    head = make_head("xgboost", Task(len(x), x.shape[1]))
    head.set_params(stackingclassifier__final_estimator__temperaturecalibrated__estimator__n_estimators=1)
    head.fit(x, y)
    assert head[-1].final_estimator_[-1].n_features_in_ == 140 + 118
    assert (head.predict(new) == y).mean() > 0.98


@pytest.mark.slow
def test_the_stack_blends_rows_that_its_heads_were_not_fitted_on() -> None:
    stack = fitted("stack")
    assert [name for name, _ in stack[-1].estimators] == list(STACKED)
    assert stack[-1].final_estimator_[-1].coef_.shape == (3, 3 * len(STACKED))
    noise = np.random.default_rng(0).permutation(Y)
    blended = make_head("stack", TASK).fit(X, noise).predict_proba(X_TEST)
    assert blended.max(axis=1).mean() < 0.5  # its heads are sure of their own rows; it has seen them fail on others


@pytest.mark.slow
def test_the_stack_takes_vectors_longer_than_a_fold_has_rows() -> None:
    x = np.random.default_rng(0).normal(size=(45, 64)).astype(np.float32)
    assert make_head("stack", Task(*x.shape)).fit(x, np.arange(45) % 3).predict_proba(x).shape == (45, 3)


def test_the_seed_reaches_the_heads_that_draw() -> None:
    for name in ("mlp", "xgboost"):
        other = make_head(name, Task(*X.shape, seed=4)).fit(X, Y)
        assert not np.array_equal(fitted(name).predict_proba(X_TEST), other.predict_proba(X_TEST))


@pytest.mark.parametrize("name", ["mlp", "stack"])
def test_the_mirror_reaches_the_mlp(name: str) -> None:
    mirror = np.arange(X.shape[1])[::-1]
    given = [
        value
        for key, value in make_head(name, Task(*X.shape, mirror=mirror)).get_params().items()
        if key.endswith("__mirror")
    ]
    assert given == [mirror]


def test_the_network_from_scratch_wants_images() -> None:
    assert make_head("cnn", Task(9, 192, image=(8, 8, 3)))[-1].shape == (8, 8, 3)
    with pytest.raises(HeadError, match="cnn is trained on images, but these features are a network's vectors"):
        make_head("cnn", TASK)


def test_signed_root() -> None:
    x = np.array([[-4, -0.0, 0, 9]], np.float32)
    np.testing.assert_array_equal(heads.signed_root(x), [[-2, 0, 0, 3]])
    assert heads.signed_root(x).dtype == np.float32


def test_names() -> None:
    assert head_names("all") == list(ALL)
    assert head_names("dummy, all,svm") == ["dummy", *ALL]
    assert head_names("svm,svm") == ["svm"]
    for wrong, message in (
        ("svn", "^estimator svn: no such head; did you mean svm"),
        (" , ", "names no head; known: logreg"),
    ):
        with pytest.raises(UsageError, match=message):
            head_names(wrong)
