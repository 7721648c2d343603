"""The XGBoost head, a scikit-learn estimator that holds its trees as bytes."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.utils import compute_sample_weight

from classify.estimators import ProbabilisticClassifier, prediction_data, training_data


class BoostedTrees(ProbabilisticClassifier):
    """Gradient-boosted trees (Chen and Guestrin, XGBoost, 2016) on histograms of the features.

    Args:
        n_estimators: boosting rounds; each adds a tree per class.
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
        trees.fit(X, targets, sample_weight=compute_sample_weight(self.class_weight, targets))
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

        settings = {name: value for name, value in self.get_params().items() if name != "class_weight"}
        return XGBClassifier(tree_method="hist", **settings)

    def _store(self, booster: Any) -> Self:
        self.ubj_ = np.frombuffer(booster.save_raw("ubj"), np.uint8)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K)."""
        import xgboost

        X = prediction_data(self, X)
        booster = xgboost.Booster({"nthread": self.n_jobs})
        booster.load_model(bytearray(self.ubj_))
        probabilities = np.asarray(booster.inplace_predict(X))
        if probabilities.ndim == 1:  # two classes: the probability of the second
            return np.stack([1 - probabilities, probabilities], axis=1)
        return probabilities
