import numpy as np
import pytest
from estimator_checks import exceptions
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from classify.heads.lda import FOLDS, FoldSums, ShrinkageLDA, fold_scores, row_space, stratified_folds


def vectors(rows: int, columns: int, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = np.random.default_rng(7).normal(size=(classes, columns))
    return (centres[labels] + random.normal(size=(rows, columns))).astype(np.float32), labels


def sums_of(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> FoldSums:
    return FoldSums.of(x, y, folds, np.ones(len(y)), (FOLDS, 3), x.shape[1])


@parametrize_with_checks([ShrinkageLDA()], expected_failed_checks=exceptions)
def test_it_is_an_estimator_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize(("rows", "columns"), [(200, 10), (30, 80)])
def test_it_agrees_with_scikit_learn_at_the_same_shrinkage(rows: int, columns: int) -> None:
    x, y = vectors(rows, columns)
    ours = ShrinkageLDA().fit(x, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=ours.shrinkage_).fit(x.astype(np.float64), y)
    # scikit-learn shrinks each class's covariance; with equal classes the pooled one differs by the spread alone.
    scores = x @ ours.coef_.T + ours.intercept_
    expected = theirs.decision_function(x.astype(np.float64))
    centred = [each - each.mean(axis=1, keepdims=True) for each in (scores, expected)]
    np.testing.assert_allclose(*centred, rtol=0.02, atol=0.02 * np.abs(centred[1]).max())


def test_the_sums_without_a_fold_are_those_of_the_other_rows() -> None:
    x, y = vectors(150, 8)
    folds = stratified_folds(y, FOLDS, 0)
    scores = fold_scores(x, folds, sums_of(x, y, folds).in_folds(0.1))
    for fold in range(FOLDS):
        kept = folds != fold
        found = sums_of(x[kept], y[kept], folds[kept]).discriminants(0.1)
        np.testing.assert_allclose(scores[~kept], x[~kept] @ found.coef + found.intercept, rtol=1e-3, atol=1e-3)


def test_rows_beyond_the_folds_are_in_no_sum() -> None:
    x, y = vectors(150, 8)
    folds = stratified_folds(y, FOLDS, 0)
    without = sums_of(x[:100], y[:100], folds[:100]).discriminants(0.1)
    folds[100:] = FOLDS
    for one, other in zip(sums_of(x, y, folds).in_folds(0.1)[FOLDS], without, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_space_of_few_rows_keeps_them() -> None:
    x, _ = vectors(12, 40)
    basis = row_space(x)
    assert basis is not None
    np.testing.assert_allclose(x @ basis @ basis.T, x, atol=1e-4)
    assert row_space(x.T) is None


def test_probabilities_of_labels_without_meaning_are_those_of_the_classes() -> None:
    x, y = vectors(300, 200)
    noise = np.random.default_rng(0).permutation(y)
    head = ShrinkageLDA().fit(x, noise)
    assert head.predict_proba(x).max() < 0.6  # they are those of held-out rows
    assert ShrinkageLDA().fit(x, y).predict_proba(x).max(axis=1).mean() > 0.9


def test_balanced_classes_weigh_the_same() -> None:
    x, y = vectors(300, 6)
    kept = (y > 0) | (np.arange(300) < 30)  # few rows of class 0
    plain = ShrinkageLDA().fit(x[kept], y[kept])
    balanced = ShrinkageLDA(class_weight="balanced").fit(x[kept], y[kept])
    assert balanced.predict_proba(x)[:, 0].mean() > plain.predict_proba(x)[:, 0].mean() + 0.02


def test_every_class_is_spread_over_the_folds() -> None:
    targets = np.repeat([0, 1, 2], [50, 7, 1])
    folds = stratified_folds(targets, FOLDS, 3)
    assert np.bincount(folds[targets == 0]).tolist() == [10] * 5
    assert np.bincount(folds[targets == 1], minlength=5).max() == 2
    assert np.ptp(np.bincount(folds)) <= 1
