import numpy as np
import pytest

from analysis.audit.build import label_findings
from analysis.audit.noise import best_cut, estimate_noise, list_precision


def noisy_scores(rows: int, separation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of three classes, labels of which a tenth of class 0 is called 1, and the true classes."""
    random = np.random.default_rng(seed)
    true = random.integers(0, 3, rows)
    vectors = 2 * np.eye(3)[true] * separation + random.normal(size=(rows, 3))
    labels = np.where((true == 0) & (random.random(rows) < 0.1), 1, true)
    return 2 * separation * vectors, labels, true


@pytest.mark.parametrize("separation", [1.0, 2.0])
def test_the_noise_of_each_pair_is_found(separation: float) -> None:
    scores, labels, true = noisy_scores(20_000, separation)
    noise = estimate_noise(0.3 * scores + [1, 0, -2], labels)  # the scores' scale and offsets are found as well
    np.testing.assert_allclose(noise.labels, [[0.9, 0.1, 0], [0, 1, 0], [0, 0, 1]], atol=0.025)
    wrong = 1 - noise.true_classes(0.3 * scores + [1, 0, -2], labels)[np.arange(len(labels)), labels]
    assert wrong.sum() == pytest.approx((labels != true).sum(), rel=0.15)
    listed = best_cut(wrong)
    assert wrong[listed].mean() == pytest.approx((labels != true)[listed].mean(), abs=0.05)


def test_right_labels_are_believed() -> None:
    scores, _, true = noisy_scores(5_000, 2.0)
    noise = estimate_noise(scores, true)
    wrong = 1 - noise.true_classes(scores, true)[np.arange(len(true)), true]
    assert wrong.sum() < 25


def test_labels_without_meaning_are_not_all_suspected() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(600, 3)), random.integers(0, 3, 600)
    noise = estimate_noise(scores, labels)
    assert np.isfinite(noise.labels).all()
    np.testing.assert_allclose(noise.labels.sum(axis=1), 1)


def test_the_cut_has_the_highest_expected_f1() -> None:
    wrong = np.array([0.1, 0.9, 0.0, 0.8, 0.05])
    assert best_cut(wrong).tolist() == [1, 3]
    assert best_cut(np.zeros(4)).tolist() == [0]


def test_few_rows_do_not_make_much_noise() -> None:
    """Heads that are often wrong themselves, on 300 right labels."""
    random = np.random.default_rng(0)
    true = random.integers(0, 10, 300)
    scores = 1.5 * np.eye(10)[true] + random.normal(size=(300, 10))
    noise = estimate_noise(4 * scores, true)
    wrong = 1 - noise.true_classes(4 * scores, true)[np.arange(300), true]
    assert wrong.sum() < 40


def test_the_precision_of_a_list() -> None:
    listed = np.full(1000, 0.8)
    sure = list_precision(listed, 20_000, 0.0)
    assert sure == pytest.approx(0.9)
    hard = list_precision(listed, 20_000, 0.2)
    assert hard == pytest.approx(0.9 - 0.2 * 0.2**2 * 20_000 / 1000)
    assert list_precision(listed, 20_000, 1.0) == 0
    assert list_precision(listed[:199], 20_000, 0.1) is None  # hardly more than hard images
    assert list_precision(listed, 4_999, 0.1) is None
    assert list_precision(listed[:0], 20_000, 0.1) is None


def test_the_estimate_is_said_with_its_bounds() -> None:
    summary = {"images": 50_000, "suspects": 2_500, "estimated_precision": 0.716, "pairs": []}
    assert label_findings(summary) == [
        "2,500 of 50,000 labels are suspected (5.0%). About 72% of these (62 to 82) are wrong, by an estimate from the "
        "data."
    ]
    assert "(85 to 100)" in label_findings({**summary, "estimated_precision": 0.95})[0]
    assert "cannot be estimated" in label_findings({**summary, "estimated_precision": None})[0]
    safer = "For training, --weight-suspects is safer than --drop-suspects."
    for precision, is_said in ((0.716, False), (0.49, True), (None, True)):
        assert label_findings({**summary, "estimated_precision": precision})[0].endswith(safer) is is_said
    assert label_findings({**summary, "suspects": 0}) == ["None of 50,000 labels is suspected."]
