import dataclasses
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from classify.results import RunResult, load_runs, new_run, read_predictions, write_result
from featurize.errors import DataError

PREDICTIONS = pd.DataFrame({"id": [5, 6, 7], "label": [0, 1, 2], "predicted": [0, 1, 1]})


def make_result(**changes: object) -> RunResult:
    values = {
        "model": "logreg",
        "features": "tiny-vgg16-imagenet-64px-block3_pool-grid2",
        "fingerprint": "f" * 64,
        "spec": {"backbone": "vgg16", "image_size": 64},
        "source": {"data": "tiny"},
        "dataset": "tiny",
        "weights": "imagenet",
        "class_names": ["ant", "bee", "cow"],
        "layers": ["block3_pool"],
        "dim": 1024,
        "train_rows": 2000,
        "test_rows": 1000,
        "test_digest": "ab" * 32,
        "seed": 0,
        "class_weight": None,
        "parameters": {"C": 0.01},
        "tuned": 0,
        "accuracy": 0.715,
        "accuracy_low": 0.686,
        "accuracy_high": 0.742,
        "macro_f1": 0.714,
        "macro_f1_low": 0.685,
        "macro_f1_high": 0.741,
        "balanced_accuracy": changes.get("accuracy", 0.715),
        "recall": {"ant": [0.7, 0.65, 0.75], "bee": [0.72, 0.67, 0.77], "cow": None},
        "support": {"ant": 500, "bee": 500, "cow": 0},
        "log_loss": 0.85,
        "brier": 0.4,
        "ece": 0.042,
        "reliability": [{"rows": 1000, "confidence": 0.757, "accuracy": 0.715}],
        "test_opened": 1,
        "extraction_seconds": 0.002,
        "fit_seconds": 1.5,
        "predict_ms_per_image": 0.01,
        "iterations": 80,
        "converged": True,
        "history": {},
        "warnings": [],
        "head_sha256": "",
        "head_bytes": 0,
        "cache": "data/features/tiny-vgg16-imagenet-64px-block3_pool-grid2.h5",
        "versions": {"numpy": "2"},
        "machine": "2 cores",
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return RunResult(**{**values, **changes})  # type: ignore[arg-type]


def write_run(run_dir: Path, result: RunResult, predictions: pd.DataFrame) -> None:
    with new_run(run_dir) as folder:
        write_result(folder, result, predictions)


def test_round_trip(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "tiny" / "logreg-12345678"
    write_run(run_dir, make_result(), PREDICTIONS)
    assert RunResult.read(run_dir) == make_result()
    assert sorted(os.listdir(run_dir)) == ["predictions.parquet", "result.json"]
    assert os.listdir(run_dir.parent) == [run_dir.name]
    pd.testing.assert_frame_equal(read_predictions(run_dir), PREDICTIONS)


def test_a_run_is_replaced_whole(tmp_path: Path) -> None:
    run_dir = tmp_path / "tiny" / "logreg-1"
    write_run(run_dir, make_result(), PREDICTIONS)
    (run_dir / "leftover").write_text("x")
    write_run(run_dir, make_result(accuracy=0.5), PREDICTIONS)
    assert RunResult.read(run_dir).accuracy == 0.5
    assert sorted(os.listdir(run_dir)) == ["predictions.parquet", "result.json"]


def test_a_run_appears_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (moves.append(Path(target)), replace(self, target))[1])
    write_run(tmp_path / "tiny" / "logreg-1", make_result(), PREDICTIONS)
    assert moves == [tmp_path / "tiny" / "logreg-1"]


def test_a_failed_write_keeps_the_old_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "tiny" / "logreg-1"
    write_run(run_dir, make_result(), PREDICTIONS)
    with pytest.raises(ValueError, match="JSON"):
        write_run(run_dir, make_result(accuracy=float("nan")), PREDICTIONS)
    assert RunResult.read(run_dir) == make_result()
    assert os.listdir(run_dir.parent) == [run_dir.name]


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", "null"])
def test_damaged_runs_are_left_out(tmp_path: Path, text: str) -> None:
    write_run(tmp_path / "tiny" / "good-1", make_result(), PREDICTIONS)
    write_run(tmp_path / "tiny" / "bad-1", make_result(), PREDICTIONS)
    (tmp_path / "tiny" / "bad-1" / "result.json").write_text(text)
    (tmp_path / "tiny" / "empty-1").mkdir()
    (tmp_path / "tiny" / ".unfinished").mkdir()
    runs, left_out = load_runs(tmp_path)
    assert list(runs) == [tmp_path / "tiny" / "good-1"]
    assert [path.name for path, _ in left_out] == ["bad-1", "empty-1"]
    assert all("result.json cannot be used" in reason for _, reason in left_out)


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny" / "old-1", make_result(schema_version=0), PREDICTIONS)
    with pytest.raises(DataError, match="layout version 0, expected 4"):
        RunResult.read(tmp_path / "tiny" / "old-1")


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny" / "a-1", make_result(), PREDICTIONS)
    values = json.loads((tmp_path / "tiny" / "a-1" / "result.json").read_text())
    assert set(values) == {field.name for field in dataclasses.fields(RunResult)}
