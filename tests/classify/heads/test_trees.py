import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks
from slow_cases import mark_slow
from tiny_data import make_dataset, make_vectors
from xgboost import XGBClassifier

from classify.heads.trees import BoostedTrees

DATASET = make_dataset(180, 90)
X, Y = make_vectors(DATASET.splits["train"]), DATASET.splits["train"].labels
X_TEST, Y_TEST = make_vectors(DATASET.splits["test"], seed=1), DATASET.splits["test"].labels
SETTINGS = {
    "n_estimators": 20, "learning_rate": 0.2, "max_depth": 3, "max_bin": 16, "min_child_weight": 2.0,
    "reg_lambda": 3.0, "subsample": 0.7, "colsample_bynode": 0.5, "n_jobs": 1, "random_state": 3,
}  # fmt: skip


@parametrize_with_checks([BoostedTrees(n_estimators=10)])
def test_the_estimator_contract_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_probabilities_are_xgboosts(classes: int, weight: str | None) -> None:
    rows = np.concatenate([np.flatnonzero(Y == 0), np.flatnonzero(np.isin(Y, range(1, classes)))[:30]])
    reference = XGBClassifier(tree_method="hist", **SETTINGS)
    reference.fit(X[rows], Y[rows], sample_weight=compute_sample_weight(weight, Y[rows]))
    ours = BoostedTrees(class_weight=weight, **SETTINGS).fit(X[rows], Y[rows])
    np.testing.assert_allclose(ours.predict_proba(X_TEST), reference.predict_proba(X_TEST), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_boosting_starts_from_the_first_columns(classes: int) -> None:
    start = np.random.default_rng(0).dirichlet(np.ones(classes), len(Y)).astype(np.float32)
    shown = start[:, 1:] if classes == 2 else start  # as scikit-learn stacks them
    x = np.hstack([shown, X])
    ours = BoostedTrees(n_estimators=1, learning_rate=1e-6, starts_from_probabilities=True).fit(x, Y % classes)
    np.testing.assert_allclose(ours.predict_proba(x), start, atol=1e-4)


def test_one_class_only() -> None:
    with pytest.raises(ValueError, match="one class only: 2"):
        BoostedTrees().fit(X, np.full(len(X), 2))


INDICES = (b"left_children", b"right_children", b"split_indices", b"tree_info", b"iteration_indptr", b"split_type")
SIZES = (b"num_nodes", b"num_feature", b"num_class", b"num_trees", b"size_leaf_vector", b"num_target")


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A few bytes are others, half of them in or behind the name of an array of indices or of a size."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at = draw.randrange(len(data))
        if draw.random() < 0.5:
            key = draw.choice([*INDICES, *SIZES])
            places = [place for place in range(len(data)) if data.startswith(key, place)]
            if places:
                at = min(draw.choice(places) + len(key) + draw.randrange(40), len(data) - 1)
        data[at] = draw.randrange(256)
    return bytes(data)


PREDICT = """
import random, sys
import numpy as np
from test_trees import X_TEST, damaged
from classify.heads.trees import BoostedTrees
content = open(sys.argv[1], "rb").read()
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    trees = BoostedTrees(n_jobs=1)
    trees.classes_, trees.n_features_in_ = np.arange(3), 16
    trees.ubj_ = np.frombuffer(damaged(content, random.Random(number)), np.uint8)
    try:
        print("used" if trees.predict_proba(X_TEST).shape == (90, 3) else "wrong", flush=True)
    except ValueError:
        print("refused", flush=True)
"""


@pytest.mark.parametrize("times", mark_slow((60, 1000), 1000))
def test_damaged_trees_never_crash_the_process(times: int, tmp_path: Path) -> None:
    content = BoostedTrees(**SETTINGS).fit(X, Y).ubj_.tobytes()
    (tmp_path / "trees").write_bytes(content)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2]), *filter(None, sys.path)]
    command = [sys.executable, "-W", "ignore", "-c", PREDICT, str(tmp_path / "trees"), "0", str(times)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ends = done.stdout.split()
    assert set(ends) == {"used", "refused"}
    assert len(ends) == times
    assert ends.count("refused") > 0.4 * times


def change(content: bytes, name: bytes, item: int, value: int) -> bytes:
    """Another number in the first array of 32-bit numbers with this name."""
    at = content.index(name) + len(name)
    at = content.index(b"#L", at) + 2 + 8 + 4 * item
    return content[:at] + value.to_bytes(4, "big", signed=True) + content[at + 4 :]


@pytest.mark.parametrize(
    ("name", "item", "value"),
    [
        (b"left_children", 0, 10**6),
        (b"left_children", 0, -2),
        (b"left_children", 0, 0),  # a circle
        (b"left_children", 1, 1),
        (b"right_children", 0, -1),
        (b"parents", 1, 10**6),
        (b"split_indices", 0, 16),
        (b"split_indices", 0, -1),
        (b"tree_info", 0, 3),
        (b"iteration_indptr", 1, 10**6),
    ],
)
def test_indices_that_lead_elsewhere_are_refused(name: bytes, item: int, value: int) -> None:
    trees = BoostedTrees(**SETTINGS).fit(X, Y)
    content = change(trees.ubj_.tobytes(), name, item, value)
    trees.ubj_ = np.frombuffer(content, np.uint8)
    with pytest.raises(ValueError, match="the trees are damaged"):
        trees.predict_proba(X_TEST)


def test_trees_for_other_features_are_refused() -> None:
    trees = BoostedTrees(**SETTINGS).fit(X, Y)
    trees.n_features_in_ = 8
    with pytest.raises(ValueError, match="the trees are damaged: tree_param"):
        trees.predict_proba(X_TEST[:, :8])
    trees.n_features_in_, trees.classes_ = 16, np.arange(4)
    with pytest.raises(ValueError, match="the trees are damaged: num_class"):
        trees.predict_proba(X_TEST)
