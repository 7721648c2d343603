"""Heads as ONNX graphs give the probabilities of the heads themselves."""

from typing import Any

import numpy as np
import pytest
from slow_cases import mark_slow
from tiny_data import make_dataset, make_vectors

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from classify.graphs import HEADS, Graph, add_head  # noqa: E402
from classify.heads.registry import Task, make_head  # noqa: E402

DATASET = make_dataset(180, 90)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST = make_vectors(DATASET.splits["test"], seed=1)
MIRROR = np.random.default_rng(0).permutation(16)

pytestmark = pytest.mark.usefixtures("one_fold")


def exported(head: Any, classes: int, x: np.ndarray = X_TEST) -> np.ndarray:
    """The probabilities of the graph of a head, in ONNX Runtime."""
    graph = Graph()
    last = add_head(graph, head, "vectors")
    shapes = ["n", x.shape[1]], ["n", classes]
    model = graph.model(("vectors", "float32", shapes[0]), last, ("probabilities", "float32", shapes[1]))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"vectors": x})[0]


@pytest.mark.parametrize("classes", [3, 2])
@pytest.mark.parametrize("name", mark_slow(HEADS, "stack"))
def test_the_graph_of_a_head_gives_its_probabilities(name: str, classes: int) -> None:
    rows = classes > Y
    head = make_head(name, Task(rows.sum(), 16, seed=1)).fit(X[rows], Y[rows])
    expected = head.predict_proba(X_TEST)
    found = exported(head, classes)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-3 if name in ("xgboost", "stack") else 1e-5)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("name", mark_slow(("mlp", "stack"), "stack"))
def test_heads_that_average_mirrored_vectors(name: str) -> None:
    head = make_head(name, Task(*X.shape, mirror=MIRROR)).fit(X, Y)
    assert np.allclose(exported(head, 3), head.predict_proba(X_TEST), atol=1e-3 if name == "stack" else 1e-5)


@pytest.mark.parametrize("name", ["logreg", "svm", "xgboost"])
def test_weighted_classes(name: str) -> None:
    rows = np.r_[np.flatnonzero(Y == 0), np.flatnonzero(Y > 0)[:30]]
    head = make_head(name, Task(len(rows), 16, class_weight="balanced")).fit(X[rows], Y[rows])
    assert np.allclose(exported(head, 3), head.predict_proba(X_TEST), atol=1e-4)


def test_many_trees_split_on_values_that_lie_close_together() -> None:
    head = make_head("xgboost", Task(*X.shape))
    prefix = "stackingclassifier__final_estimator__temperaturecalibrated__estimator"
    head.set_params(**{f"{prefix}__n_estimators": 300, f"{prefix}__max_depth": 8}).fit(X, Y)
    assert np.allclose(exported(head, 3), head.predict_proba(X_TEST), atol=1e-3)


def test_values_on_a_threshold_take_the_branch_that_xgboost_takes() -> None:
    """The training rows lie on the thresholds of the trees. These are compared without the arithmetic before them."""
    from classify.heads.trees import BoostedTrees

    start = np.random.default_rng(0).dirichlet(np.ones(3), len(X)).astype(np.float32)
    x = np.hstack([start, np.round(X)]).astype(np.float32)
    for classes in (3, 2):
        rows = classes > Y
        trees = BoostedTrees(60, starts_from_probabilities=True, random_state=0).fit(x[rows], Y[rows])
        assert np.allclose(exported(trees, classes, x), trees.predict_proba(x), atol=1e-5)


def test_long_tails_and_columns_without_variance() -> None:
    x = np.sign(X) * X**4
    x[:, 3] = 7
    for name in ("logreg", "lda", "linear-svm", "svm"):
        head = make_head(name, Task(*x.shape)).fit(x, Y)
        assert np.allclose(exported(head, 3, x), head.predict_proba(x), atol=1e-4)
