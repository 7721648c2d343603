import numpy as np

from analysis.audit.pictures import Pictures
from analysis.audit.strangers import relative_distances, strangers
from classify.heads.lda import FOLDS, FoldSums, fold_scores, stratified_folds


def test_the_distance_is_the_relative_mahalanobis_distance() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    x = (3 * random.normal(size=(4, 6))[labels] + random.normal(size=(200, 6))).astype(np.float32)
    folds = stratified_folds(labels, FOLDS, 0)
    sums = FoldSums.of(x, labels, folds, np.ones(200), (FOLDS, 4), 6)
    discriminants = sums.in_folds(0.1)
    found = relative_distances(fold_scores(x, folds, discriminants), folds, discriminants)

    own = folds != 2
    means = np.stack([x[own & (labels == label)].mean(axis=0) for label in range(4)])
    priors = np.bincount(labels[own]) / own.sum()
    centred = x[own] - means[labels[own]]
    within = 0.9 * centred.T @ centred / own.sum()
    within += 0.1 * np.trace(centred.T @ centred / own.sum()) / 6 * np.eye(6)
    middle = priors @ means
    spread = (means - middle).T * priors @ (means - middle)

    def distance(row: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
        return float((row - mean) @ np.linalg.solve(covariance, row - mean))

    for row in np.flatnonzero(folds == 2)[:10]:
        nearest = min(distance(x[row], mean, within) for mean in means)
        np.testing.assert_allclose(
            found[row], nearest - distance(x[row], middle, within + spread), rtol=1e-3, atol=1e-2
        )


def test_strange_pictures_have_a_reason() -> None:
    random = np.random.default_rng(0)
    distances = random.normal(size=100)
    distances[5] = 50
    outlines = random.integers(0, 256, (100, 32, 32)).astype(np.uint8)
    outlines[6] = 77
    outlines[7] = 100 + random.integers(0, 3, (32, 32))
    smallest = np.full(100, 64)
    smallest[8] = 12
    rows, reasons = strangers(distances, Pictures(np.zeros(100, "S32"), outlines, smallest))
    assert dict(zip(rows.tolist(), reasons.tolist(), strict=True)) == {5: "far", 6: "constant", 7: "empty", 8: "tiny"}
    assert rows[0] == 5
    assert strangers(distances, None)[0].tolist() == [5]
