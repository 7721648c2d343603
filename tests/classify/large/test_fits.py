import dataclasses
import functools
import logging
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from slow_cases import mark_slow
from tiny_blocks import FEW_TREES, make_cache, make_wide_cache, set_block_rows
from tiny_data import make_dataset, write_tiny_cache

from classify.heads.registry import HEADS_IN_BLOCKS, Task, make_head
from classify.heads.trees import BoostedTrees
from classify.large import blocks
from classify.large.blocks import Block, FeatureBlocks, Share, memory_limit, memory_needed, shares, team
from classify.runs.persist import load_head, save_head
from classify.training import checks, train
from classify.training.evaluate import FittedHead, evaluate_head, fit_head
from classify.training.train import Job, stratified_subset, train_heads, training_rows
from featurize.cache.cache import Features, load_features, read_info
from featurize.core.cluster import connected
from featurize.core.environment import library_versions
from featurize.core.errors import CacheError, ClusterError, HeadError

LINEAR = ("logreg", "linear-svm")
SETTINGS = {
    # Tight, so that L-BFGS goes as far as float32 lets it, in memory less far than in blocks.
    "logreg": {"logisticregression__tol": 1e-6},
    "linear-svm": {"temperaturecalibrated__estimator__tol": 1e-6},
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
    assert ours.converged is expected.converged is True


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


@pytest.mark.parametrize("name", LINEAR)
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
    for name in LINEAR:
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
        monkeypatch.setattr("classify.heads.registry.COLUMNS_FOR_TREES", 12)
        set_block_rows(monkeypatch, 70, dim=40)

    def test_components_and_discriminants_are_scikit_learns(self, wide: Path) -> None:
        """Of the discriminants, without shrinkage."""
        ours = fit_head("xgboost", FeatureBlocks.of(read_info(wide), "train"), settings=FEW_TREES, jobs=2).head
        train, test = load_features(wide, "train"), load_features(wide, "test")
        scaled = ours[:2].transform(train.x)
        components = PCA(20, svd_solver="full").fit(scaled.astype(np.float64))
        np.testing.assert_allclose(np.abs(np.sum(ours[2].components_ * components.components_, axis=1)), 1, atol=1e-4)
        for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "noise_variance_"):
            np.testing.assert_allclose(getattr(ours[2], name), getattr(components, name), rtol=1e-4)
        expected = LinearDiscriminantAnalysis(solver="lsqr").fit(ours[:3].transform(train.x), train.y)
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


class TestRows:
    @pytest.mark.parametrize("rows", [1, 7, 120, 500])
    def test_all_of_them(self, rows: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, rows)
        whole = load_features(cache, "train", ("late",))
        found = FeatureBlocks.of(read_info(cache), "train", ("late",))
        assert [len(block) for block in found.blocks[:-1]] == [rows] * (len(found.blocks) - 1)
        assert sum(len(block) for block in found.blocks) == 120
        assert found.dim == 6
        check_same_features(found.load(), whole)

    def test_some_of_them(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 10)
        whole, chosen = load_features(cache, "train"), np.array([0, 9, 10, 45, 119])
        found = FeatureBlocks.of(read_info(cache), "train", rows=chosen)
        assert [len(block) for block in found.blocks] == [2, 1, 1, 1]  # nothing else is read
        np.testing.assert_array_equal(found.load().x, whole.x[chosen])
        np.testing.assert_array_equal(found.y, whole.y[chosen])
        np.testing.assert_array_equal(found.ids, whole.ids[chosen])

    def test_workers_may_have_another_working_directory(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(cache.parent)
        found = FeatureBlocks.of(read_info(Path(cache.name)), "train")
        monkeypatch.chdir("/")
        assert found.load().x.shape == (120, 16)

    def test_another_cache_in_its_place(self, cache: Path) -> None:
        found = FeatureBlocks.of(read_info(cache), "train")
        cache.unlink()
        write_tiny_cache(cache, dataset=make_dataset(seed=5))
        with pytest.raises(CacheError, match="has been replaced while it was read: it has the fingerprint .* expected"):
            found.load()

    @pytest.mark.parametrize("most", [1, 4, 64])
    def test_shares(self, most: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 13)
        monkeypatch.setattr(blocks, "SHARES", most)
        whole, found = load_features(cache, "train"), FeatureBlocks.of(read_info(cache), "train")
        parts = shares(found, found.y, np.arange(120))
        assert len(parts) == min(most, 10)
        read = [(block.read(), labels, numbers) for share in parts for block, labels, numbers in share]
        for place, expected in enumerate((whole.x, whole.y, np.arange(120))):
            np.testing.assert_array_equal(np.concatenate([each[place] for each in read]), expected)


def check_same_features(ours: Features, expected: Features) -> None:
    for field in dataclasses.fields(Features):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name), err_msg=field.name)


class TestMemory:
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        found: list[int] = []
        read = Block.read
        monkeypatch.setattr(Block, "read", lambda block: found.append(block.start) or read(block))
        return found

    @pytest.mark.parametrize("name", mark_slow(LINEAR, "linear-svm"))
    def test_the_matrix_is_never_there(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 6,000 x 512 numbers, in blocks of 100 rows, of which none is kept."""
        set_block_rows(monkeypatch, 100, dim=512)
        monkeypatch.setattr(blocks, "SHARE_KEPT", 0)
        info = read_info(make_wide_cache(tmp_path / "wide.h5", 6000, 512))
        matrix, found, test = 6000 * 512 * 4, FeatureBlocks.of(info, "train"), FeatureBlocks.of(info, "test")
        fit_head(name, FeatureBlocks.of(info, "train", rows=np.arange(100)))  # imports
        for work in (
            lambda: checks.survey(found, "training"),
            lambda: evaluate_head(fit_head(name, found), test),
        ):
            tracemalloc.start()
            work()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 0.25 * matrix

    def test_with_room_enough_no_block_is_read_in_every_pass(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_block_rows(monkeypatch, 50)
        found = self.reads(monkeypatch)
        fitted = fit_head("linear-svm", FeatureBlocks.of(read_info(cache), "train"))
        assert fitted.iterations > 2
        assert found == [0, 50, 100] * 2  # for the scaling, and to be scaled
        assert blocks._kept == {}

    def test_what_is_kept_is_bounded(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 30)
        monkeypatch.setattr(blocks, "memory_limit", lambda: 2 * 2 * 30 * 16 * 4 + 100)
        found, most = self.reads(monkeypatch), []
        scaled = blocks.kept
        monkeypatch.setattr(
            "classify.large.fits.kept", lambda *args: (scaled(*args), most.append(len(blocks._kept)))[0]
        )
        fitted = fit_head("logreg", FeatureBlocks.of(read_info(cache), "train"))
        assert max(most) == 2
        assert found[:8] == [0, 30, 60, 90] * 2
        assert set(found[8:]) == {60, 90}  # the first two are there, in every pass
        assert len(found[8:]) >= 2 * fitted.iterations

    def test_what_serves_another_purpose_makes_room(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 60)
        one, two = FeatureBlocks.of(read_info(cache), "train").blocks
        monkeypatch.setattr(blocks, "memory_limit", lambda: 2 * one.read().nbytes)
        for purpose, block in (("old", one), ("old", two), ("new", one), ("new", two)):
            np.testing.assert_array_equal(blocks.kept(purpose, block, Block.read), block.read())
        assert list(blocks._kept) == [("new", 0)]
        blocks.forget("new")
        assert blocks._kept == {}

    def test_nothing_is_kept_after_a_failure(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object) -> None:
            assert blocks._kept
            raise MemoryError

        monkeypatch.setattr("classify.large.fits.logistic_loss", fail)
        with pytest.raises(MemoryError):
            fit_head("logreg", FeatureBlocks.of(read_info(cache), "train"))
        assert blocks._kept == {}

    def test_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = [tmp_path / "new", tmp_path / "old"]
        monkeypatch.setattr(blocks, "CONTROL_GROUP_LIMITS", limits)
        everything = memory_limit()
        assert everything == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limits[0].write_text("max\n")
        limits[1].write_text("9223372036854771712\n")
        assert memory_limit() == everything
        limits[0].write_text("1000000\n")
        assert memory_limit() == 1_000_000


@pytest.mark.parametrize("rows", [7, 60])
def test_an_evaluation_in_blocks_is_that_of_the_whole(rows: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, rows)
    fitted = fit_head("linear-svm", load_features(cache, "train"))
    whole = evaluate_head(fitted, load_features(cache, "test"))
    parts = evaluate_head(fitted, FeatureBlocks.of(read_info(cache), "test"))
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-6)
    np.testing.assert_array_equal(parts.predicted, whole.predicted)
    assert parts.metrics.accuracy == whole.metrics.accuracy
    assert parts.predict_ms_per_image > 0


def test_the_checks_see_the_same_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    path = make_cache(tmp_path / "tiny.h5", lopsided=True)
    whole = checks.survey(load_features(path, "train"), "training")
    parts = checks.survey(FeatureBlocks.of(read_info(path), "train"), "training", threads=2)
    for field in dataclasses.fields(checks.Survey):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name), err_msg=field.name)
    assert [warning[:20] for warning in checks.check_train(parts)] == ["classes are unequal:"]
    assert "120 of 120 test vectors are training vectors too, 0" in checks.check_overlap(parts, whole)[0]
    with pytest.raises(HeadError, match="there are no training rows"):
        checks.survey(FeatureBlocks.of(read_info(path), "train", rows=np.arange(0)), "training")


class TestRuns:
    @pytest.fixture
    def job(self, cache: Path) -> Job:
        return Job("logreg", read_info(cache))

    @pytest.fixture
    def little_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For 50 rows."""
        monkeypatch.setattr(train, "memory_limit", lambda: memory_needed(50, 16))
        set_block_rows(monkeypatch, 13)

    @pytest.mark.usefixtures("little_memory")
    def test_a_run_in_blocks(
        self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(train, "load_features", None)
        [(ours_dir, ours)] = train_heads([job], tmp_path / "blocks")[0].items()
        assert (
            caplog.text.count("a matrix of 120 x 16 is larger than memory allows: logreg is fitted in 10 blocks") == 1
        )
        monkeypatch.undo()
        [(whole_dir, whole)] = train_heads([job], tmp_path / "whole")[0].items()
        assert (ours.parameters["blocks"], "blocks" in whole.parameters) == (10, False)
        assert (ours.train_rows, ours.test_rows, ours.dim) == (120, 60, 16)
        assert ours.accuracy == pytest.approx(whole.accuracy, abs=1 / 60)
        assert ours_dir.name == whole_dir.name
        assert sorted(os.listdir(ours_dir)) == sorted(os.listdir(whole_dir))
        assert "| blocks | 10 |" in (ours_dir / "README.md").read_text()

    @pytest.mark.parametrize(
        ("limit_rows", "rows", "kind"),
        [(120, None, Features), (119, None, FeatureBlocks), (119, 119, Features), (100, 101, FeatureBlocks)],
    )
    def test_what_is_larger_than_memory(
        self, job: Job, limit_rows: int, rows: int | None, kind: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = load_features(job.info.path, "train")
        if rows:
            expected = stratified_subset(expected, rows, 0)
        monkeypatch.setattr(train, "memory_limit", lambda: memory_needed(limit_rows, 16))
        found = training_rows(dataclasses.replace(job, rows=rows))
        assert type(found) is kind
        check_same_features(found.load() if isinstance(found, FeatureBlocks) else found, expected)

    @pytest.mark.usefixtures("little_memory")
    def test_few_rows_of_many_are_read_block_by_block(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = stratified_subset(load_features(job.info.path, "train"), 30, 0)
        monkeypatch.setattr(train, "load_features", None)
        found = training_rows(dataclasses.replace(job, rows=30, model="svm"))
        assert isinstance(found, Features)
        check_same_features(found, expected)

    @pytest.mark.usefixtures("little_memory")
    def test_few_columns_of_many_fit(self, job: Job) -> None:
        assert isinstance(training_rows(dataclasses.replace(job, layers=("late",))), Features)

    @pytest.mark.usefixtures("little_memory")
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"model": "svm"},
                "tiny-net: 120 training vectors of 16 numbers take about 0.0 GB of memory while a head is fitted, and "
                "there are 0.0 GB; svm cannot be fitted in blocks of rows: use --model logreg,linear-svm,xgboost, "
                "which can, or use --train-size N, N up to 50",
            ),
            (
                {"model": "xgboost"},
                "there are 0.0 GB; xgboost in blocks of rows takes about 0.0 GB: use --model logreg,linear-svm, or "
                "use --train-size N, N up to 50",
            ),
            ({"trials": 3}, "--tune cannot search in blocks of rows: leave it out, or use --train-size N, N up to 50"),
        ],
    )
    def test_what_needs_the_whole_matrix(self, job: Job, change: dict, message: str, tmp_path: Path) -> None:
        with pytest.raises(HeadError, match=message):
            train_heads([dataclasses.replace(job, **change)], tmp_path)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    pytest.importorskip("distributed")
    with connected("local:2", functools.partial(library_versions, ("frozenbench", "numpy", "scikit-learn"))) as client:
        yield client


def _where(share: Share) -> int:
    return os.getpid()


def _where_or_die(share: Share, dying: int) -> int:
    """A worker that is lost; 0 for all of them."""
    if dying in (0, os.getpid()):
        os._exit(1)
    return os.getpid()


def _fit_in_a_task(rows: FeatureBlocks) -> np.ndarray:
    with joblib.parallel_config("dask"):
        return fit_head("logreg", rows).head[-1].coef_


class TestCluster:
    @pytest.mark.parametrize("name", mark_slow(LINEAR, "linear-svm"))
    def test_it_gives_the_same(self, name: str, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 7)
        reads: list[Block] = []
        monkeypatch.setattr(Block, "read", reads.append)
        with joblib.parallel_config("dask", client=client):
            ours = fit_head(name, FeatureBlocks.of(read_info(cache), "train"), settings=SETTINGS[name])
        assert reads == []  # by this process
        monkeypatch.undo()
        set_block_rows(monkeypatch, 7)
        check_same(ours, both(name, cache)[1], load_features(cache, "test").x, atol=1e-6)
        assert set(client.run(lambda: len(blocks._kept)).values()) == {0}

    def test_trees(self, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 7)
        rows = FeatureBlocks.of(read_info(cache), "train")
        expected = fit_head("xgboost", rows, settings=FEW_TREES).head
        with joblib.parallel_config("dask", client=client):
            ours = fit_head("xgboost", rows, settings=FEW_TREES).head
        x = load_features(cache, "test").x
        np.testing.assert_allclose(ours[:3].transform(x), expected[:3].transform(x), atol=1e-4)
        np.testing.assert_allclose(ours.predict_proba(x), expected.predict_proba(x), atol=0.05)

    def test_a_share_is_always_the_same_workers(
        self, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_block_rows(monkeypatch, 7)
        parts = shares(FeatureBlocks.of(read_info(cache), "train"))
        with joblib.parallel_config("dask", client=client), team(1) as workers:
            passes = [list(workers.each(_where, parts)) for _ in range(3)]
        assert passes[0] == passes[1] == passes[2]
        assert len(set(passes[0])) == 2
        assert os.getpid() not in passes[0]

    def test_the_checks(self, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 7)
        rows = FeatureBlocks.of(read_info(cache), "train")
        with joblib.parallel_config("dask", client=client):
            found = checks.survey(rows, "training")
        np.testing.assert_array_equal(found.digests, checks.survey(rows.load(), "training").digests)

    def test_within_tasks_that_take_up_every_worker(
        self, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_block_rows(monkeypatch, 7)
        rows = FeatureBlocks.of(read_info(cache), "train")
        tasks = [client.submit(_fit_in_a_task, rows, workers=[address], pure=False) for address in client.nthreads()]
        expected = fit_head("logreg", rows).head[-1].coef_
        for task in tasks:
            np.testing.assert_allclose(task.result(timeout=120), expected, atol=1e-6)

    def test_a_worker_knows_its_own_limit(self, client: Any) -> None:
        limits = {worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()}
        assert client.submit(memory_limit).result() in limits
        assert client.submit(memory_limit, pure=False).result() <= memory_limit()

    def test_another_worker_takes_over(self, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block_rows(monkeypatch, 7)
        parts = shares(FeatureBlocks.of(read_info(cache), "train"))
        with joblib.parallel_config("dask", client=client), team(1) as workers:
            before = list(workers.each(_where, parts))
            after = list(workers.each(_where_or_die, parts, before[0]))
        assert set(before) - {before[0]} <= set(after)
        assert before[0] not in after
        assert len(after) == len(parts)

    def test_all_workers_are_lost(self, client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blocks, "PATIENCE", 0.5)
        parts = shares(FeatureBlocks.of(read_info(cache), "train"))
        with (
            pytest.raises(ClusterError, match="lost|gave up"),
            joblib.parallel_config("dask", client=client),
            team(1) as workers,
        ):
            list(workers.each(_where_or_die, parts, 0))
