import dataclasses
from pathlib import Path

import numpy as np
import pytest
from slow_cases import mark_slow
from tiny_blocks import set_block_rows

from classify.guarantee import Guarantee, is_known
from classify.heads.registry import HEADS
from classify.large.blocks import FeatureBlocks
from classify.runs import GUARANTEE, RunResult, load_guarantee
from classify.training import held_out
from classify.training.held_out import TOO_SLOW, fit_and_hold_out
from classify.training.job import Job
from classify.training.train import train_heads
from featurize.cache import Features, load_features, read_info

WITH_SETS = sorted({*HEADS} - {*TOO_SLOW})


@pytest.fixture
def train_rows(cache: Path) -> Features:
    return load_features(cache, "train")


@pytest.mark.parametrize("name", mark_slow(WITH_SETS, "mlp", "xgboost"))
def test_heads_have_held_out_rows(name: str, train_rows: Features) -> None:
    fitted = fit_and_hold_out(name, train_rows)
    assert fitted.held_out is not None
    np.testing.assert_allclose(fitted.held_out.probabilities.sum(axis=1), 1, atol=1e-5)
    assert sorted(fitted.held_out.labels) == sorted(train_rows.y)  # five folds of 120 rows
    right = (fitted.held_out.probabilities.argmax(axis=1) == fitted.held_out.labels).mean()
    assert name == "dummy" or 0.6 < right < 1  # on rows that it was fitted on, most heads are always right


def test_a_head_that_is_too_slow_says_so(
    train_rows: Features, caplog: pytest.LogCaptureFixture, one_fold: None
) -> None:
    caplog.set_level("INFO")
    assert fit_and_hold_out("stack", train_rows).sets is None
    assert "stack: predict cannot give sets of classes for this run: no image was held out" in caplog.messages


def test_a_class_of_one_row_says_so(train_rows: Features, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = np.r_[np.flatnonzero(train_rows.y != 2), np.flatnonzero(train_rows.y == 2)[:1]]
    for name in ("logreg", "linear-svm"):
        assert fit_and_hold_out(name, train_rows.select(rows)).sets is None
        assert f"{name}: predict cannot give sets of classes for this run: a class has too few images" in caplog.text


@pytest.mark.parametrize("name", ["logreg", "linear-svm"])
def test_a_group_is_held_out_as_a_whole(name: str, train_rows: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.arange(120) // 6
    fitted_on = []
    fit = held_out.fit_head
    monkeypatch.setattr(held_out, "fit_head", lambda *args, **kwargs: fitted_on.append(args[1]) or fit(*args, **kwargs))
    found = fit_and_hold_out(name, dataclasses.replace(train_rows, groups=groups)).held_out
    assert found is not None
    assert len(found.labels) == 120
    assert [len(set(part.groups)) for part in fitted_on] == [20, 16, 16, 16, 16, 16]  # all, then four fifths of them


def test_rows_in_blocks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    whole = fit_and_hold_out("logreg", load_features(cache, "train")).held_out
    parts = fit_and_hold_out("logreg", FeatureBlocks.of(read_info(cache), "train")).held_out
    assert whole is not None
    assert parts is not None
    np.testing.assert_array_equal(whole.labels, parts.labels)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, atol=2e-3)


def test_a_run_records_its_coverage(job: Job, tmp_path: Path) -> None:
    [(run_dir, result)] = train_heads([job], tmp_path)[0].items()
    assert result == RunResult.read(run_dir)
    assert result.held_out_rows == 120
    assert result.coverage_low < result.coverage < result.coverage_high
    assert result.coverage > 0.8
    assert result.set_size == pytest.approx(np.mean([found[3] for found in result.class_coverage.values()]))
    card = (run_dir / "README.md").read_text()
    assert "made for a coverage of 90% from 120 held-out training images" in card
    assert f"{100 * result.coverage:.1f}% (" in card


def test_a_run_knows_strange_vectors(job: Job, tmp_path: Path) -> None:
    [(run_dir, result)] = train_heads([job], tmp_path)[0].items()
    test = load_features(job.info.path, "test")
    guarantee = load_guarantee(run_dir / GUARANTEE, result.guarantee_sha256, Guarantee)
    assert result.unknown == (~is_known(guarantee.novelty.strangeness(test.x))).mean() < 0.2
    np.testing.assert_allclose(guarantee.tested, guarantee.novelty.distances(test.x))
    assert is_known(guarantee.novelty.strangeness(20 * test.x)).mean() < 0.2


def test_heads_of_one_cache_share_what_is_strange(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fit = held_out.fit_novelty
    monkeypatch.setattr(held_out, "fit_novelty", lambda *args: calls.append(args) or fit(*args))
    held_out._last_novelty.clear()
    other_rows = dataclasses.replace(job, rows=60)
    train_heads([job, dataclasses.replace(job, model="knn"), other_rows], tmp_path)
    assert [len(y) for _, y, *_ in calls] == [120, 60]


def test_pixels_are_not_told_to_be_strange(job: Job, train_rows: Features) -> None:
    assert held_out.novelty_of(job, dataclasses.replace(train_rows, image=(2, 2, 4))) is None
