import dataclasses
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_blocks import check_same_features, set_block_rows
from tiny_data import make_dataset, write_tiny_cache

from classify.large.blocks import FeatureBlocks
from classify.large.memory import memory_needed
from classify.training.job import Job
from classify.training.rows import OPENINGS, open_test_split, stratified_order, stratified_subset, training_rows
from classify.training.train import train_heads
from featurize.cache import Features, load_features, read_info
from featurize.core.errors import HeadError


def test_every_opening_of_the_test_split_is_counted(job: Job, tmp_path: Path) -> None:
    jobs = [dataclasses.replace(job, model=model) for model in ("logreg", "knn", "dummy")]
    results, _ = train_heads(jobs, tmp_path)
    assert [result.test_opened for result in results.values()] == [1, 2, 3]
    _, opened = open_test_split(job, tmp_path / "tiny-net")
    assert opened == 4
    other = write_tiny_cache(tmp_path / "tiny-net.h5", dataset=make_dataset(seed=5))
    _, opened = open_test_split(Job("logreg", read_info(other)), tmp_path / "tiny-net")
    assert opened == 1  # other features in the same folder of runs


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [
        (lambda content: content[:-30], 1),  # torn by a kill
        (lambda content: b"\xff" + content[1:], 1),
        (lambda content: content.replace(b'"', b"'", 1), 1),
        (lambda content: b'[1]\n{"run": 3}\nnull\n\n' + b"[" * 10_000 + b"\n" + content, 5),
        (lambda content: content.replace(b'"fingerprint": "', b'"fingerprint": ["').replace(b'"}', b'"]}'), 3),
    ],
)
def test_damaged_lines_are_skipped_and_counted(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes], damaged: int
) -> None:
    for _ in range(3):
        open_test_split(job, tmp_path)
    assert not caplog.text
    path = tmp_path / OPENINGS
    path.write_bytes(damage(path.read_bytes()))
    whole = {1: 2, 5: 3, 3: 0}[damaged]
    assert open_test_split(job, tmp_path)[1] == whole + 1
    assert f"{OPENINGS}: damaged lines, which are not counted: {damaged};" in caplog.text
    assert open_test_split(job, tmp_path)[1] == whole + 2  # nothing was appended to half a line


def test_openings_by_many_at_once_are_all_counted(job: Job, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: open_test_split(job, tmp_path)[1], range(200)))
    assert sorted(counts) == list(range(1, 201))
    assert len((tmp_path / OPENINGS).read_text().splitlines()) == 200


def test_subsets_are_stratified_and_nested(job: Job) -> None:
    last: set[int] = set()
    for rows in (6, 30, 31, 120):
        subset = training_rows(dataclasses.replace(job, rows=rows))
        assert len(subset.y) == len(subset.x) == len(subset.ids) == rows
        assert np.ptp(np.bincount(subset.y, minlength=3)) <= 1
        assert last <= set(subset.ids.tolist())
        last = set(subset.ids.tolist())
    whole = training_rows(job)
    row = int(np.flatnonzero(whole.ids == subset.ids[5])[0])
    np.testing.assert_array_equal(subset.x[5], whole.x[row])
    assert set(training_rows(dataclasses.replace(job, rows=30, seed=1)).ids) != set(
        training_rows(dataclasses.replace(job, rows=30)).ids
    )


def test_a_draw_has_the_same_rows_whatever_the_seed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dataclasses.replace(job, rows=30, seed=1)
    again = dataclasses.replace(first, seed=1001, draw=1)
    ids = set(training_rows(first).ids.tolist())
    assert set(training_rows(again).ids.tolist()) == ids
    assert set(training_rows(dataclasses.replace(again, draw=2)).ids.tolist()) != ids
    set_block_rows(monkeypatch, 7)
    blocks = training_rows(dataclasses.replace(again, memory=1000))
    assert set(blocks.ids.tolist()) == ids


def test_a_stratified_order_keeps_unequal_proportions() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    order = stratified_order(labels, seed=0)
    assert sorted(order) == list(range(1000))
    for rows in (10, 37, 500):
        counts = np.bincount(labels[order[:rows]], minlength=3)
        assert np.abs(counts - rows * np.array([0.7, 0.2, 0.1])).max() <= 1


@pytest.fixture
def job(cache: Path) -> Job:
    return Job("logreg", read_info(cache))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """For 50 rows."""
    monkeypatch.setattr("classify.training.job.memory_limit", lambda: memory_needed(50, 16))
    set_block_rows(monkeypatch, 13)


@pytest.mark.usefixtures("little_memory")
def test_a_run_in_blocks(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("classify.training.rows.load_features", None)
    [(ours_dir, ours)] = train_heads([job], tmp_path / "blocks")[0].items()
    assert caplog.text.count("a matrix of 120 x 16 is larger than memory allows: logreg is fitted in 10 blocks") == 1
    monkeypatch.undo()
    [(whole_dir, whole)] = train_heads([job], tmp_path / "whole")[0].items()
    assert (ours.parameters["blocks"], "blocks" in whole.parameters) == (10, False)
    assert (ours.train_rows, ours.test_rows, ours.dim) == (120, 60, 16)
    assert ours.accuracy == pytest.approx(whole.accuracy, abs=1 / 60)
    assert ours_dir.name == whole_dir.name
    assert sorted(os.listdir(ours_dir)) == sorted(os.listdir(whole_dir))
    assert re.search(r"\| blocks +\| +10 +\|", (ours_dir / "README.md").read_text())


@pytest.mark.parametrize(
    ("limit_rows", "rows", "kind"),
    [(120, None, Features), (119, None, FeatureBlocks), (119, 119, Features), (100, 101, FeatureBlocks)],
)
def test_what_is_larger_than_memory(
    job: Job, limit_rows: int, rows: int | None, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_features(job.info.path, "train")
    if rows:
        expected = stratified_subset(expected, rows, 0)
    monkeypatch.setattr("classify.training.job.memory_limit", lambda: memory_needed(limit_rows, 16))
    found = training_rows(dataclasses.replace(job, rows=rows))
    assert type(found) is kind
    check_same_features(found.load() if isinstance(found, FeatureBlocks) else found, expected)


@pytest.mark.usefixtures("little_memory")
def test_few_rows_of_many_are_read_block_by_block(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stratified_subset(load_features(job.info.path, "train"), 30, 0)
    monkeypatch.setattr("classify.training.rows.load_features", None)
    found = training_rows(dataclasses.replace(job, rows=30, model="svm"))
    assert isinstance(found, Features)
    check_same_features(found, expected)


@pytest.mark.usefixtures("little_memory")
def test_few_columns_of_many_fit(job: Job) -> None:
    assert isinstance(training_rows(dataclasses.replace(job, layers=("late",))), Features)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": "svm"},
            "tiny-net: 120 training vectors of 16 numbers take about 0.0 GB of memory while a head is fitted, and "
            "there are 0.0 GB; svm cannot be fitted in blocks of rows: use estimator logreg,linear-svm,lda,xgboost, "
            "which can, or use train_size N, N up to 50",
        ),
        (
            {"model": "xgboost"},
            "there are 0.0 GB; xgboost in blocks of rows takes about 0.0 GB: use estimator logreg,linear-svm,lda, or "
            "use train_size N, N up to 50",
        ),
        ({"trials": 3}, "tune cannot search in blocks of rows: leave it out, or use train_size N, N up to 50"),
    ],
)
def test_what_needs_the_whole_matrix(job: Job, change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=message):
        train_heads([dataclasses.replace(job, **change)], tmp_path)
