"""Fitted heads as nodes of an ONNX graph: each step of a pipeline by the function for its type."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from classify.graphs.graph import Graph
from classify.graphs.trees import add_trees
from classify.heads import signed_root
from classify.heads.calibration import TemperatureCalibrated
from classify.heads.lda import ShrinkageLDA
from classify.heads.mlp import MLPHead
from classify.heads.registry import clipped_log, without_last
from classify.heads.svm import RBFSVM, LinearSVM
from classify.heads.trees import BoostedTrees

HEADS = ("logreg", "lda", "linear-svm", "svm", "xgboost", "mlp", "stack")
"""The heads of which a graph can be made."""


def add_head(graph: Graph, head: Any, x: str) -> str:
    """Add a fitted head, one of `HEADS`.

    Args:
        graph: gets the nodes.
        head: a pipeline, or one of its steps.
        x: the tensor with the vectors, float32 (n, d).

    Returns:
        The tensor with the class probabilities, float32 (n, K); of a step that is no classifier, its output.
    """
    return STEPS[type(head)](graph, head, x)


def _pipeline(graph: Graph, pipeline: Any, x: str) -> str:
    for step in pipeline:
        x = add_head(graph, step, x)
    return x


def _function(graph: Graph, step: Any, x: str) -> str:
    if step.func is signed_root:
        return graph.add("Mul", graph.add("Sign", x), graph.add("Sqrt", graph.add("Abs", x)))
    if step.func is clipped_log:
        return graph.add("Log", graph.add("Max", x, graph.constant(1e-6)))
    assert step.func is without_last
    return graph.columns(x, np.arange(step.n_features_in_ - step.kw_args["columns"]))


def _scaler(graph: Graph, scaler: Any, x: str) -> str:
    return graph.add("Div", graph.add("Sub", x, graph.constant(scaler.mean_)), graph.constant(scaler.scale_))


def _pca(graph: Graph, pca: Any, x: str) -> str:
    centred = graph.add("Sub", x, graph.constant(pca.mean_))
    return graph.add("MatMul", centred, graph.constant(pca.components_.T))


def _stacking(graph: Graph, stacking: Any, x: str) -> str:
    parts = []
    for estimator in stacking.estimators_:
        probabilities = add_head(graph, estimator, x)
        if len(stacking.classes_) == 2:  # the first says no more than the second
            probabilities = graph.columns(probabilities, [1])
        parts.append(probabilities)
    if stacking.passthrough:
        parts.append(x)
    return add_head(graph, stacking.final_estimator_, graph.add("Concat", *parts, axis=1))


def _logistic(graph: Graph, classifier: Any, x: str) -> str:
    weights, intercept = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:  # the scores of the second class, against 0
        weights, intercept = np.vstack([0 * weights, weights]), np.append(0 * intercept, intercept)
    return graph.add("Softmax", graph.linear(x, weights.T, intercept), axis=1)


def _discriminants(graph: Graph, classifier: ShrinkageLDA, x: str) -> str:
    scores = graph.linear(x, classifier.coef_.T, classifier.intercept_)
    return _softened(graph, scores, classifier.temperature_)


def _calibrated(graph: Graph, classifier: TemperatureCalibrated, x: str) -> str:
    estimator = classifier.estimator_
    if type(estimator) in SCORES:
        scores = SCORES[type(estimator)](graph, estimator, x)
    else:
        tiny = graph.constant(np.finfo(np.float32).tiny)
        scores = graph.add("Log", graph.add("Max", add_head(graph, estimator, x), tiny))
    return _softened(graph, scores, classifier.temperature_)


def _softened(graph: Graph, scores: str, temperature: np.float32) -> str:
    return graph.add("Softmax", graph.add("Div", scores, graph.constant(temperature)), axis=1)


def _linear_svm(graph: Graph, machine: LinearSVM, x: str) -> str:
    return graph.linear(x, machine.coef_.T, machine.intercept_)


def _rbf_svm(graph: Graph, machine: RBFSVM, x: str) -> str:
    """As `RBFSVM.decision_function`, for two classes too: the difference of both scores is the same."""
    support, classes = machine.support_vectors_, len(machine.classes_)
    squares = graph.add("MatMul", graph.add("Mul", x, x), graph.constant(np.ones((support.shape[1], 1))))  # (n, 1)
    products = graph.linear(x, 2 * support.T, -np.einsum("ij,ij->i", support, support))
    distances = graph.add("Sub", products, squares)
    kernel = graph.add("Exp", graph.add("Mul", distances, graph.constant(machine.gamma_)))
    margins = graph.linear(kernel, machine.pair_coef_, machine.pair_intercept_)  # (n, K (K - 1) / 2)
    pairs = np.array(list(itertools.combinations(range(classes), 2)))
    first, second = np.eye(classes)[pairs[:, 0]], np.eye(classes)[pairs[:, 1]]
    zero = graph.constant(0)
    lost = graph.add("MatMul", graph.add("Min", margins, zero), graph.constant(first))
    won = graph.add("MatMul", graph.add("Max", margins, zero), graph.constant(second))
    return graph.add("Sub", lost, won)


def _mlp(graph: Graph, network: MLPHead, x: str) -> str:
    views = [x] if network.mirror is None else [x, graph.columns(x, network.mirror)]
    found = []
    for view in views:
        hidden = graph.add("Relu", graph.linear(view, network.coefs_[0], network.intercepts_[0]))
        scores = graph.linear(hidden, network.coefs_[1], network.intercepts_[1])
        found.append(graph.add("Softmax", scores, axis=1))
    return found[0] if len(found) == 1 else graph.mean(*found)


def _trees(graph: Graph, trees: BoostedTrees, x: str) -> str:
    return graph.add("Softmax", add_trees(graph, trees, x), axis=1)


STEPS: dict[type, Callable[[Graph, Any, str], str]] = {
    Pipeline: _pipeline,
    FunctionTransformer: _function,
    StandardScaler: _scaler,
    PCA: _pca,
    StackingClassifier: _stacking,
    LogisticRegression: _logistic,
    ShrinkageLDA: _discriminants,
    TemperatureCalibrated: _calibrated,
    MLPHead: _mlp,
    BoostedTrees: _trees,
}
SCORES: dict[type, Callable[[Graph, Any, str], str]] = {LinearSVM: _linear_svm, RBFSVM: _rbf_svm}
"""Classifiers without probabilities of their own."""
