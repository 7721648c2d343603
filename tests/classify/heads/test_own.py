"""Classifiers of the user's as heads, from Python and by `module:Class`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from classify import fit_and_evaluate, make_head
from classify.heads import estimator_name
from classify.heads.own import code_digest, imported, types_in
from classify.heads.registry import Task, signed_root
from classify.training.evaluate import fit_head
from featurize.cache import Features, load_features
from featurize.core.errors import HeadError, UsageError

CODE = """
from sklearn.linear_model import LogisticRegression, RidgeClassifier

class Plain(LogisticRegression):
    pass

class Choosy(LogisticRegression):
    def __init__(self, needed):
        self.needed = needed

ready = RidgeClassifier(alpha=3.0)
svm = Plain()
"""


@pytest.fixture
def splits(cache: Path) -> tuple[Features, Features]:
    return load_features(cache, "train"), load_features(cache, "test")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    name = "own_heads_of_a_test"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


class Failing(LogisticRegression):
    def fit(self, X: np.ndarray, y: np.ndarray) -> None:
        raise KeyError("something of its own")


class Forgetful(LogisticRegression):
    classes_ = property()  # no value

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Forgetful":
        return self


def test_a_classifier_with_probabilities_is_used_as_it_is(splits: tuple[Features, Features]) -> None:
    train, test = splits
    given = LogisticRegression(C=0.1)
    result = fit_and_evaluate(given, train, test)
    alone = LogisticRegression(C=0.1).fit(train.x, train.y)
    np.testing.assert_allclose(result.probabilities, alone.predict_proba(test.x), atol=1e-6)
    assert not hasattr(given, "classes_")  # a copy was fitted
    fitted = fit_head(given, train)
    assert (fitted.name, fitted.converged, fitted.history) == ("LogisticRegression", True, {})
    assert fitted.parameters["C"] == 0.1


@pytest.mark.parametrize("given", [RidgeClassifier(), SVC(), make_pipeline(StandardScaler(), RidgeClassifier())])
def test_a_classifier_with_scores_is_calibrated(splits: tuple[Features, Features], given: object) -> None:
    result = fit_and_evaluate(given, *splits)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-5)
    assert result.metrics.accuracy > 0.7
    assert result.metrics.log_loss < 1


def test_the_seed_reaches_every_random_state(splits: tuple[Features, Features]) -> None:
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(5))
    results = [fit_and_evaluate(forest, *splits, seed=seed).probabilities for seed in (0, 0, 1)]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()
    fixed = make_head(RandomForestClassifier(5, random_state=7), Task(10, 4, seed=1))
    assert fixed[-1].random_state == 7


def test_the_class_weight_reaches_the_classifier() -> None:
    task = Task(10, 4, class_weight="balanced")
    assert make_head(Pipeline([("last", RidgeClassifier())]), task)[-1].estimator[-1].class_weight == "balanced"
    with pytest.raises(HeadError, match="^KNeighborsClassifier has no parameter class_weight"):
        make_head("sklearn.neighbors:KNeighborsClassifier", task)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RidgeClassifier, "^estimator RidgeClassifier is a class, expected an instance, or the name of a head"),
        (np.zeros(3), "^estimator ndarray is no classifier of scikit-learn: it lacks fit or get_params"),
        (LinearRegression(), "^estimator LinearRegression has neither predict_proba nor decision_function"),
        (KMeans(), "^estimator KMeans has neither"),
        ("logreggg", "^estimator logreggg: no such head; did you mean logreg"),
    ],
)
def test_what_is_no_head(splits: tuple[Features, Features], given: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit_and_evaluate(given, *splits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Failing(), "^Failing cannot be fitted on these features: 'something of its own'"),
        (Forgetful(), "^Forgetful cannot be fitted on these features: after the fit it has no classes_"),
    ],
)
def test_code_that_fails_costs_only_itself(splits: tuple[Features, Features], given: object, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        fit_head(given, splits[0])


def test_names(module: str) -> None:
    assert estimator_name("logreg") == "logreg"
    assert estimator_name(f"{module}:Plain") == "Plain"
    assert estimator_name(f"{module}:svm") == f"{module}.svm"  # not our svm
    assert estimator_name(make_pipeline(StandardScaler(), RidgeClassifier())) == "RidgeClassifier"


def test_a_module_in_the_working_directory(module: str) -> None:
    assert type(imported(f"{module}:Plain")).__name__ == "Plain"
    assert imported(f"{module}:ready").alpha == 3.0
    assert sys.path[-1] == str(Path.cwd())  # behind the installed modules
    digest = code_digest(f"{module}:Plain")
    Path(f"{module}.py").write_text(CODE + "# changed")
    assert code_digest(f"{module}:Plain") != digest
    assert make_head(f"{module}:ready", Task(10, 4))[-1].estimator.alpha == 3.0


def test_names_that_lead_nowhere(module: str) -> None:
    Path("broken_head_of_a_test.py").write_text("1 / 0")
    for name, message in {
        "a:b:c": "^estimator a:b:c: expected module:Class, such as",
        "../x:y": "expected module:Class",
        "no_such_module_here:A": "no_such_module_here cannot be imported .ModuleNotFoundError",
        "broken_head_of_a_test:A": "cannot be imported .ZeroDivisionError: division by zero",
        f"{module}:Plan": "has no Plan; did you mean Plain",
        f"{module}:Choosy": r"Choosy\(\) fails .TypeError: .*needed.*; make an instance",
    }.items():
        with pytest.raises(UsageError, match=message):
            imported(name)


def test_the_types_of_a_head() -> None:
    head = make_pipeline(FunctionTransformer(signed_root), RidgeClassifier())
    assert types_in(head) == (
        "classify.heads.registry.signed_root",
        "sklearn.linear_model._ridge.RidgeClassifier",
        "sklearn.pipeline.Pipeline",
        "sklearn.preprocessing._function_transformer.FunctionTransformer",
    )
