import dataclasses
import json
import logging
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_data import make_dataset, write_tiny_cache

from classify.runs.persist import HEAD, load_head
from classify.runs.predictions import read_predictions
from classify.runs.results import RunResult
from classify.training import rows, train
from classify.training.job import Job
from classify.training.train import train_heads
from featurize.cache import load_features, read_info
from featurize.core.errors import HeadError, UsageError


def test_a_run(job: Job, tmp_path: Path) -> None:
    results, stopped = train_heads([job], tmp_path)
    [(run_dir, result)] = results.items()
    assert stopped == []
    assert run_dir == tmp_path / "tiny-net" / job.name
    assert RunResult.read(run_dir) == result
    assert sorted(os.listdir(run_dir)) == [
        "README.md", "guarantee.skops", "head.skops", "predictions.parquet", "result.json",
    ]  # fmt: skip
    assert (result.train_rows, result.test_rows, result.dim, result.layers) == (120, 60, 16, ["early", "late"])
    assert (result.seed, result.class_weight, result.tuned, result.test_opened) == (0, None, 0, 1)
    test = load_features(job.info.path, "test")
    table = read_predictions(run_dir)
    probabilities = load_head(run_dir / HEAD, result.head_sha256).predict_proba(test.x)
    np.testing.assert_array_equal(table[["p_ant", "p_bee", "p_cow"]].to_numpy(), probabilities)
    np.testing.assert_array_equal(table["label"], test.y)
    assert result.accuracy == (probabilities.argmax(axis=1) == test.y).mean()
    assert f"{100 * result.accuracy:.1f}%" in (run_dir / "README.md").read_text()


def test_what_is_there_is_reused(job: Job, tmp_path: Path) -> None:
    first = train_heads([job], tmp_path)[0]
    assert train_heads([job], tmp_path)[0] == first
    again = train_heads([job], tmp_path, force=True)[0]
    assert [result.test_opened for result in again.values()] == [2]


def test_the_test_split_is_opened_after_the_fit_and_nowhere_else(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    monkeypatch.setattr(
        rows, "load_features", lambda path, split, layers: events.append(split) or load_features(path, split, layers)
    )
    fit = train.fit_and_hold_out
    monkeypatch.setattr(train, "fit_and_hold_out", lambda *args, **kwargs: events.append("fit") or fit(*args, **kwargs))
    rows._split.cache_clear()
    train_heads([job], tmp_path)
    assert events == ["train", "fit", "test"]


def saved_arrays(run_dir: Path) -> list[int]:
    """The checksums of all arrays of a saved head; the file's times and the objects' numbers always differ."""
    with zipfile.ZipFile(run_dir / HEAD) as members:
        return sorted(member.CRC for member in members.infolist() if member.filename.endswith(".npy"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_fold")
def test_noise_for_test_labels_changes_no_saved_head(tmp_path: Path) -> None:
    dataset = make_dataset()
    split = dataset.splits["test"]
    noise = dataclasses.replace(split, labels=np.random.default_rng(0).permutation(split.labels))
    noisy = dataclasses.replace(dataset, splits={**dataset.splits, "test": noise})
    arrays = []
    for name, data in (("plain", dataset), ("noisy", noisy)):
        info = read_info(write_tiny_cache(tmp_path / f"{name}.h5", dataset=data))
        jobs = [Job(model, info) for model in ("logreg", "svm", "xgboost", "mlp")]
        results, _ = train_heads(jobs, tmp_path / "runs")
        arrays.append([saved_arrays(run_dir) for run_dir in results])
    assert all(arrays[0])
    assert arrays[0] == arrays[1]


def test_heads_need_not_be_kept(job: Job, tmp_path: Path) -> None:
    [(run_dir, result)] = train_heads([job], tmp_path, keep_heads=False)[0].items()
    assert result.head_sha256 == ""
    assert not (run_dir / HEAD).exists()


def test_more_rows_than_there_are(job: Job, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train_size 121: .* holds 120 training images"):
        train_heads([dataclasses.replace(job, rows=121)], tmp_path / "runs")
    with pytest.raises(HeadError, match="hold no image of"):
        train_heads([dataclasses.replace(job, rows=2)], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def _endless(*args: object, **kwargs: object) -> None:
    while True:
        time.sleep(0.1)


def test_a_head_that_takes_too_long_is_stopped_and_the_others_go_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = train.run_with_limit

    def endless_knn(seconds: float | None, function: object, job: Job, *args: object, what: str) -> object:
        if job.model == "knn":
            return limit(1, _endless, job, *args, what=what)
        return limit(None, function, job, *args, what=what)

    monkeypatch.setattr(train, "run_with_limit", endless_knn)
    results, stopped = train_heads([dataclasses.replace(job, model="knn"), job], tmp_path, time_limit=1)
    assert [result.model for result in results.values()] == ["logreg"]
    assert len(stopped) == 1
    assert "knn on tiny-net was stopped after 1 seconds" in stopped[0]


def test_a_head_that_cannot_be_fitted_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    few = make_dataset(8)  # 3, 3 and 2 rows of a class
    cache = read_info(write_tiny_cache(tmp_path / "few.h5", dataset=few))
    results, left_out = train_heads([Job("xgboost", cache), Job("knn", cache)], tmp_path / "runs")
    assert [result.model for result in results.values()] == ["knn"]
    [line] = left_out
    assert line.startswith("xgboost on few is left out: xgboost is fitted in 3 folds and needs 3 training images of ")


def test_a_limit_that_is_kept_changes_nothing(job: Job, tmp_path: Path) -> None:
    plain, limited = (train_heads([job], tmp_path / str(limit), time_limit=limit)[0] for limit in (None, 120))
    assert list(map(saved_arrays, plain)) == list(map(saved_arrays, limited))


def test_tuned_settings_are_used(job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("optuna")
    caplog.set_level(logging.INFO)
    [result] = train_heads([dataclasses.replace(job, trials=4)], tmp_path)[0].values()
    assert result.tuned == 4
    [study] = (tmp_path / "tiny-net").glob("logreg-*.study")
    assert study.stat().st_size > 0
    assert result.test_opened == 1
    assert result.parameters["C"] != 0.01


def test_warnings_are_kept_with_the_run(tmp_path: Path) -> None:
    dataset = make_dataset(train=120)
    info = read_info(write_tiny_cache(tmp_path / "tiny.h5", dataset=dataset))
    folder = tmp_path / "runs"
    [result] = train_heads([Job("logreg", info, rows=9)], folder)[0].values()
    assert all(isinstance(warning, str) for warning in result.warnings)
    ledger = (folder / "tiny" / "test-openings.jsonl").read_text().splitlines()
    assert [json.loads(line)["fingerprint"] for line in ledger] == [info.spec.fingerprint]
