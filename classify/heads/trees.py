"""The XGBoost head, a scikit-learn estimator that holds its trees as bytes.

XGBoost follows the indices in these bytes without a check: with others, it crashes. So they are parsed and checked here
first.
"""

import functools
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.utils import compute_sample_weight

from classify.estimators import ProbabilisticClassifier, prediction_data, training_data

LEAST_PROBABILITY = np.float32(1e-6)
LEAF = -1
NO_PARENT = 2**31 - 1
OF_NODES = (
    "left_children",
    "right_children",
    "parents",
    "split_indices",
    "split_conditions",
    "split_type",
    "default_left",
)
"""Arrays with a number for each node of a tree."""
OF_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
"""UBJSON's markers of numbers, as numpy writes them."""
WIDTHS = {b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8}  # bytes of whole numbers
CONSTANTS = {b"T": True, b"F": False, b"Z": None}


class BoostedTrees(ProbabilisticClassifier):
    """Gradient-boosted trees (Chen and Guestrin, XGBoost, 2016) on histograms of the features.

    Args:
        n_estimators: boosting rounds; each adds a tree per class.
        starts_from_probabilities: the first features are probabilities of the K classes (with two classes: that of
            the second), from whose logarithms boosting starts.
        learning_rate: weight of a tree.
        max_depth: largest depth of a tree.
        max_bin: number of histogram bins per feature.
        min_child_weight: smallest total weight of the rows in a leaf.
        reg_lambda: L2 penalty on the leaves.
        subsample: share of the rows that a tree is fitted on.
        colsample_bynode: share of the features that a split may use.
        class_weight: `balanced`, or None.
        n_jobs: threads.
        random_state: seed of both samplings.

    Attributes:
        classes_: the labels, (K,).
        ubj_: the trees in XGBoost's UBJSON format, uint8.
        n_features_in_: d.
    """

    def __init__(
        self,
        n_estimators: int = 600,
        starts_from_probabilities: bool = False,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        max_bin: int = 64,
        min_child_weight: float = 1.0,
        reg_lambda: float = 1.0,
        subsample: float = 0.8,
        colsample_bynode: float = 0.25,
        class_weight: Any = None,
        n_jobs: int = 1,
        random_state: Any = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.starts_from_probabilities = starts_from_probabilities
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.max_bin = max_bin
        self.min_child_weight = min_child_weight
        self.reg_lambda = reg_lambda
        self.subsample = subsample
        self.colsample_bynode = colsample_bynode
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, d) and y (n,).

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        trees = self._classifier()
        weights = compute_sample_weight(self.class_weight, targets)
        trees.fit(X, targets, sample_weight=weights, base_margin=self.start(X))
        return self._store(trees.get_booster())

    def fit_booster(self, train: Callable[[dict[str, Any], int], Any]) -> Self:
        """Fit with `train`, which alone sees the training rows; `classes_` and `n_features_in_` are set.

        Args:
            train: returns the booster for XGBoost's parameters (those of `fit` without the number of
                threads) and the number of rounds.
        """
        parameters = self._classifier().get_xgb_params() | {"objective": "binary:logistic"}
        del parameters["n_jobs"]
        if len(self.classes_) > 2:
            parameters |= {"objective": "multi:softprob", "num_class": len(self.classes_)}
        return self._store(train(parameters, self.n_estimators))

    def _classifier(self) -> Any:
        from xgboost import XGBClassifier

        ours = ("class_weight", "starts_from_probabilities")
        settings = {name: value for name, value in self.get_params().items() if name not in ours}
        return XGBClassifier(tree_method="hist", **settings)

    def start(self, X: np.ndarray) -> np.ndarray | None:
        """The scores from which boosting starts for the rows of X (n, d): float32 (n, K), or (n,) with two classes.

        None if it starts from nothing.
        """
        if not self.starts_from_probabilities:
            return None
        if len(self.classes_) == 2:
            second = np.clip(X[:, 0], LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
            return np.log(second / (1 - second))
        return np.log(np.maximum(X[:, : len(self.classes_)], LEAST_PROBABILITY))

    def _store(self, booster: Any) -> Self:
        self.ubj_ = np.frombuffer(booster.save_raw("ubj"), np.uint8)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K).

        Raises:
            ValueError: the trees are damaged, or X has another number of columns.
        """
        X = prediction_data(self, X)
        content = np.asarray(self.ubj_, np.uint8).tobytes()
        booster = _booster(content, self.n_features_in_, len(self.classes_), self.n_jobs)
        probabilities = np.asarray(booster.inplace_predict(X, base_margin=self.start(X)))
        if probabilities.ndim == 1:  # two classes: the probability of the second
            return np.stack([1 - probabilities, probabilities], axis=1)
        return probabilities


@functools.lru_cache(2)
def _booster(content: bytes, dim: int, classes: int, threads: int) -> Any:
    """XGBoost's booster for checked trees; the last ones are remembered, as loading takes longer than a prediction."""
    import xgboost

    check_trees(content, dim, classes)
    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        raise ValueError(f"the trees are damaged: {str(error).strip().splitlines()[0]}") from error
    return booster


def check_trees(content: bytes, dim: int, classes: int) -> dict[str, Any]:
    """Check everything that XGBoost takes for an index or a size when it predicts.

    Args:
        content: the trees in XGBoost's UBJSON format
            (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html).
        dim: number of features.
        classes: number of classes.

    Returns:
        The trees, `trees`, and the output that each of them adds to, `tree_info`.

    Raises:
        ValueError: the content is damaged, or of trees for another number of features or classes.
    """
    try:
        learner = _Ubjson(content).whole()["learner"]
        booster = learner["gradient_booster"]
        _check_model(learner, classes if classes > 2 else 1)
        trees = booster["model"]["trees"]
        _check_nodes(trees, dim)
        expected = {"num_feature": dim, "num_class": classes if classes > 2 else 0, "num_target": 1}
        for name, value in expected.items():
            _expect(int(learner["learner_model_param"][name]) == value, name)
        return dict(booster["model"])
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ValueError(f"the trees are damaged: {type(error).__name__} {error}") from error


def _check_model(learner: Any, outputs: int) -> None:
    """Raise ValueError unless a learner's trees belong to as many outputs, 1 for two classes."""
    booster, objective = learner["gradient_booster"], learner["objective"]
    model = booster["model"]
    count = len(model["trees"])
    _expect(booster["name"] == "gbtree", "name")
    _expect(objective["name"] == ("binary:logistic" if outputs == 1 else "multi:softprob"), "objective")
    if outputs > 1:
        _expect(int(objective["softmax_multiclass_param"]["num_class"]) == outputs, "num_class")
    scores = np.array(learner["learner_model_param"]["base_score"].strip("[]").split(","), float)
    _expect(len(scores) in (1, outputs) and np.isfinite(scores).all(), "base_score")
    parameters = model["gbtree_model_param"]
    _expect(int(parameters["num_trees"]) == count and int(parameters["num_parallel_tree"]) == 1, "num_trees")
    output, first = np.asarray(model["tree_info"], int), np.asarray(model["iteration_indptr"], int)
    _expect(len(output) == count and bool(((output >= 0) & (output < outputs)).all()), "tree_info")
    rising = len(first) > 0 and first[0] == 0 and first[-1] == count and bool((np.diff(first) >= 0).all())
    _expect(rising, "iteration_indptr")
    _expect(not any(len(part) for part in model.get("cats", {}).values()), "cats")


def _check_nodes(trees: Any, dim: int) -> None:
    """Raise ValueError unless the nodes of each tree are one, and split features that there are."""
    sizes = []
    for tree in trees:
        parameters = tree["tree_param"]
        sizes.append(int(parameters["num_nodes"]))
        fits = int(parameters["num_feature"]) == dim and int(parameters["size_leaf_vector"]) in (0, 1)
        _expect(fits and sizes[-1] > 0, "tree_param")
        for name in OF_NODES:
            _expect(len(tree[name]) == sizes[-1], name)
        _expect(not any(len(tree[name]) for name in OF_CATEGORIES), "categories")
    # All trees together, which is faster: a child's place among all nodes is its tree's plus its own.
    left, right, parents, features, kinds = (
        np.concatenate([tree[name] for tree in trees]).astype(np.int64)
        for name in ("left_children", "right_children", "parents", "split_indices", "split_type")
    )
    size = np.repeat(sizes, sizes)
    place = np.repeat(np.cumsum(sizes) - sizes, sizes)
    inner = left != LEAF
    _expect(np.array_equal(inner, right != LEAF), "children")
    for child in (left[inner], right[inner]):
        _expect(bool(((child > 0) & (child < size[inner])).all()), "children")
    # Each node but the first is the child of at most one other: the walk from the first one ends.
    children = np.concatenate([(left + place)[inner], (right + place)[inner]])
    _expect(len(np.unique(children)) == len(children), "children")
    expected = np.full(len(place), NO_PARENT)
    expected[children] = np.tile((np.arange(len(place)) - place)[inner], 2)
    _expect(np.array_equal(parents, expected), "parents")
    _expect(bool(((features >= 0) & (features < dim)).all()) and not kinds.any(), "split_indices")


def _expect(truth: bool, what: str) -> None:
    if not truth:
        raise ValueError(f"the trees are damaged: {what}")


class _Ubjson:
    """A parser of UBJSON (https://ubjson.org), as far as XGBoost writes it; arrays of one type become numpy's."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def whole(self) -> Any:
        """The value that all bytes together are."""
        found = self.value(self.take(1))
        _expect(self.at == len(self.content), "its end")
        return found

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.content) - self.at:
            raise ValueError("the trees are damaged: its length")
        self.at += count
        return self.content[self.at - count : self.at]

    def value(self, marker: bytes) -> Any:
        if marker == b"{":
            return self.members()
        if marker == b"[":
            return self.items()
        if marker == b"S":
            return self.take(self.size()).decode()
        if marker in CONSTANTS:
            return CONSTANTS[marker]
        return self.whole_number(marker) if marker in WIDTHS else self.numbers(marker, 1)[0].item()

    def size(self) -> int:
        """A number of bytes or items, with the marker of its type in front."""
        return self.whole_number(self.take(1))

    def whole_number(self, marker: bytes) -> int:
        return int.from_bytes(self.take(WIDTHS[marker]), "big", signed=marker != b"U")

    def numbers(self, marker: bytes, count: int) -> np.ndarray:
        dtype = np.dtype(NUMBERS[marker])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def members(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (marker := self.take(1)) != b"}":
            key = self.take(self.whole_number(marker)).decode()
            _expect(key not in found, key)
            found[key] = self.value(self.take(1))
        return found

    def items(self) -> Any:
        marker = self.take(1)
        if marker == b"$":
            kind = self.take(1)
            _expect(self.take(1) == b"#", "an array")
            return self.numbers(kind, self.size())
        if marker == b"#":
            return [self.value(self.take(1)) for _ in range(self.size())]
        found = []
        while marker != b"]":
            found.append(self.value(marker))
            marker = self.take(1)
        return found
