import numpy as np
import pytest
from sklearn.utils import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks
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


def test_one_class_only() -> None:
    with pytest.raises(ValueError, match="one class only: 2"):
        BoostedTrees().fit(X, np.full(len(X), 2))
