from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from slow_cases import mark_slow
from tiny_blocks import FEW_TREES, make_cache, make_wide_cache, set_block_rows

from classify.heads.registry import HEADS_IN_BLOCKS, Task, make_head
from classify.heads.trees import BoostedTrees
from classify.large import blocks, memory
from classify.large.blocks import Block, FeatureBlocks
from classify.runs.persist import load_head, save_head
from classify.training.evaluate import FittedHead, evaluate_head, fit_head
from featurize.cache import load_features, read_info

ITERATED = ("logreg", "linear-svm")
LINEAR = (*ITERATED, "lda")
SETTINGS: dict[str, dict[str, float]] = {
    # Tight, so that L-BFGS goes as far as float32 lets it, in memory less far than in blocks.
    "logreg": {"logisticregression__tol": 1e-6},
    "linear-svm": {"temperaturecalibrated__estimator__tol": 1e-6},
    "lda": {},
}


def both(name: str, path: Path, layers: tuple[str, ...] = (), **options: Any) -> tuple[FittedHead, FittedHead]:
    """A head fitted in memory and in blocks."""
    options = {"settings": SETTINGS[name], **options}
    whole, parts = load_features(path, "train", layers), FeatureBlocks.of(read_info(path), "train", layers)
    return fit_head(name, whole, **options), fit_head(name, parts, **options)


def check_same(ours: FittedHead, expected: FittedHead, x: np.ndarray, atol: float = 5e-4) -> None:
    """The same attributes with the same numbers, in every step and inside it."""
    for step, reference in zip([*ours.head, ours.head[-1]], [*expected.head, expected.head[-1]], strict=True):
        step, reference = (getattr(each, "estimator_", each) for each in (step, reference))
        assert type(step) is type(reference)
        assert vars(step).keys() == vars(reference).keys()
        for attribute, value in vars(reference).items():
            if attribute.endswith("_") and attribute != "n_iter_":
                found = getattr(step, attribute)
                assert np.asarray(found).dtype == np.asarray(value).dtype, attribute
                assert np.shape(found) == np.shape(value), attribute
                if attribute != "estimator_":
                    np.testing.assert_allclose(found, value, atol=atol, err_msg=attribute)
    np.testing.assert_allclose(ours.head.predict_proba(x), expected.head.predict_proba(x), atol=atol)
    assert ours.converged is expected.converged
    assert ours.converged is not False


@pytest.mark.parametrize("rows", [7, 50, 120])
@pytest.mark.parametrize("name", LINEAR)
def test_the_optimum_is_the_one_in_memory(name: str, rows: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, rows)
    monkeypatch.setattr(blocks, "SHARES", 4)  # of several blocks each
    expected, ours = both(name, cache, jobs=2)
    check_same(ours, expected, load_features(cache, "test").x)
    assert ours.parameters == {**expected.parameters, "blocks": -(-120 // rows)}


def test_it_is_the_optimum(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, logistic regression gets nearer to it in memory, too."""
    set_block_rows(monkeypatch, 50)
    ours = both("logreg", cache)[1]
    x, y = load_features(cache, "train").x.astype(np.float64), load_features(cache, "train").y
    exact = make_head("logreg", Task(*x.shape)).set_params(logisticregression__tol=1e-9).fit(x, y)
    np.testing.assert_allclose(ours.head[-1].coef_, exact[-1].coef_, atol=3e-5)
    np.testing.assert_allclose(ours.head[-1].intercept_, exact[-1].intercept_, atol=6e-5)
    np.testing.assert_allclose(ours.head[1].scale_, exact[1].scale_, rtol=1e-6)
    assert abs(ours.head[-1].intercept_.sum()) < 1e-6


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_class_weights_and_two_classes(
    name: str, classes: int, weight: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_block_rows(monkeypatch, 11)
    path = make_cache(tmp_path / "lopsided.h5", classes, lopsided=True)
    expected, ours = both(name, path, class_weight=weight)
    check_same(ours, expected, load_features(path, "test").x)


@pytest.mark.parametrize("name", ITERATED)
def test_it_stops_where_it_stops_in_memory(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 50)
    expected, ours = both(name, cache, settings={})
    check_same(ours, expected, load_features(cache, "test").x, atol=5e-3)
    assert abs(ours.iterations - expected.iterations) <= 2


@pytest.mark.parametrize("name", LINEAR)
def test_some_layers(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 50)
    expected, ours = both(name, cache, ("late",))
    check_same(ours, expected, load_features(cache, "test", ("late",)).x)


def test_many_rows_have_one_fold_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 50)
    path = make_cache(tmp_path / "more.h5", train=600)
    expected, ours = both("linear-svm", path)
    assert expected.head[-1].temperature_ != 1
    check_same(ours, expected, load_features(path, "test").x)


def test_a_class_with_a_single_row_leaves_the_temperature_at_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_block_rows(monkeypatch, 50)
    info = read_info(make_cache(tmp_path / "tiny.h5"))
    chosen = np.setdiff1d(np.arange(120), np.arange(5, 120, 3))  # of cow, row 2 only
    ours = fit_head("linear-svm", FeatureBlocks.of(info, "train", rows=chosen))
    assert ours.head[-1].temperature_ == 1


def test_the_seed_chooses_the_rows_that_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 50)
    path = make_cache(tmp_path / "more.h5", train=600)
    temperatures = [[fitted.head[-1].temperature_ for fitted in both("linear-svm", path, seed=seed)] for seed in (0, 1)]
    for in_memory, in_blocks in temperatures:
        assert in_blocks == pytest.approx(in_memory, rel=1e-4)
    assert temperatures[0][1] != pytest.approx(temperatures[1][1], rel=1e-3)


def test_too_few_steps_are_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classify.heads.registry.MAX_ITERATIONS", 1)
    for name in ITERATED:
        fitted = fit_head(name, FeatureBlocks.of(read_info(cache), "train"))
        assert (fitted.converged, fitted.iterations) == (False, 1)
        assert any("ConvergenceWarning" in warning for warning in fitted.warnings)


@pytest.mark.parametrize("name", HEADS_IN_BLOCKS)
def test_a_head_fitted_in_blocks_is_saved_like_any_other(name: str, cache: Path, tmp_path: Path) -> None:
    fitted = fit_head(name, FeatureBlocks.of(read_info(cache), "train"))
    digest = save_head(fitted.head, tmp_path / "head.skops")
    x = load_features(cache, "test").x
    again = load_head(tmp_path / "head.skops", digest)
    np.testing.assert_array_equal(again.predict_proba(x), fitted.head.predict_proba(x))
    np.testing.assert_array_equal(again.predict(x), fitted.head.predict(x))


class TestTrees:
    @pytest.fixture
    def wide(self, tmp_path: Path) -> Path:
        return make_wide_cache(tmp_path / "wide.h5", 600, 40)

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fewer components than columns, and of them fewer for the trees; blocks of 70 rows."""
        monkeypatch.setattr("classify.heads.registry.PCA_COMPONENTS", 20)
        monkeypatch.setattr("classify.heads.registry.COMPONENTS_FOR_TREES", 9)
        set_block_rows(monkeypatch, 70, dim=40)

    def test_components_and_discriminants_are_scikit_learns(self, wide: Path) -> None:
        """Of the discriminants, with the least shrinkage."""
        ours = fit_head("xgboost", FeatureBlocks.of(read_info(wide), "train"), settings=FEW_TREES, jobs=2).head
        train, test = load_features(wide, "train"), load_features(wide, "test")
        scaled = ours[:2].transform(train.x)
        components = PCA(20, svd_solver="full").fit(scaled.astype(np.float64))
        np.testing.assert_allclose(np.abs(np.sum(ours[2].components_ * components.components_, axis=1)), 1, atol=1e-4)
        for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "noise_variance_"):
            np.testing.assert_allclose(getattr(ours[2], name), getattr(components, name), rtol=1e-4)
        expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01).fit(ours[:3].transform(train.x), train.y)
        x = ours[:3].transform(test.x)
        [known] = ours[3].estimators_
        assert known.get_params() == ours[3].estimators[0][1].get_params()
        np.testing.assert_allclose(known.predict_proba(x), expected.predict_proba(x), atol=1e-5)
        # What the trees see of new rows: K probabilities, then the first components.
        assert ours[3].final_estimator_[1].n_features_in_ == 12
        np.testing.assert_allclose(ours[3].transform(x), np.hstack([known.predict_proba(x), x]), atol=1e-6)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_the_head_is_the_one_of_memory_but_for_its_numbers(self, classes: int, tmp_path: Path) -> None:
        path = make_cache(tmp_path / "tiny.h5", classes, train=600)
        options = {"settings": FEW_TREES, "class_weight": "balanced", "seed": 3}
        whole = fit_head("xgboost", load_features(path, "train"), **options)
        ours = fit_head("xgboost", FeatureBlocks.of(read_info(path), "train"), **options)
        for step, reference in zip(ours.head, whole.head, strict=True):
            assert vars(step).keys() == vars(reference).keys() - {"_fit_svd_solver"}
            assert str(step.get_params()) == str(reference.get_params())
        np.testing.assert_array_equal(ours.head.classes_, whole.head.classes_)
        test = load_features(path, "test")
        found, expected = (evaluate_head(fitted, test).metrics for fitted in (ours, whole))
        assert found.accuracy == pytest.approx(expected.accuracy, abs=0.07)
        assert found.log_loss == pytest.approx(expected.log_loss, abs=0.1)
        assert ours.head[-1].final_estimator_[1].temperature_ != 1

    def test_what_the_trees_are_fitted_on_is_what_they_see_later(
        self, wide: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        fit = BoostedTrees.fit
        monkeypatch.setattr(BoostedTrees, "fit", lambda self, x, y: seen.append((x, y)) or fit(self, x, y))
        ours = fit_head("xgboost", FeatureBlocks.of(read_info(wide), "train"), settings=FEW_TREES).head
        train = load_features(wide, "train")
        np.testing.assert_allclose(seen[0][0], ours[3].transform(ours[:3].transform(train.x))[:, :12], atol=1e-5)
        np.testing.assert_array_equal(seen[0][1], train.y)
        assert seen[0][0].dtype == np.float32


@pytest.mark.parametrize("name", mark_slow(LINEAR, "linear-svm"))
def test_a_cluster_gives_the_same(name: str, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    reads: list[Block] = []
    monkeypatch.setattr(Block, "read", reads.append)
    ours = fit_head(name, FeatureBlocks.of(read_info(cache), "train"), settings=SETTINGS[name], client=client)
    assert reads == []  # by this process
    monkeypatch.undo()
    set_block_rows(monkeypatch, 7)
    check_same(ours, both(name, cache)[1], load_features(cache, "test").x, atol=1e-6)
    assert set(client.run(lambda: len(memory._blocks)).values()) == {0}


def test_trees_on_a_cluster(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    rows = FeatureBlocks.of(read_info(cache), "train")
    expected = fit_head("xgboost", rows, settings=FEW_TREES).head
    ours = fit_head("xgboost", rows, settings=FEW_TREES, client=client).head
    x = load_features(cache, "test").x
    np.testing.assert_allclose(ours[:3].transform(x), expected[:3].transform(x), atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(x), expected.predict_proba(x), atol=0.05)
