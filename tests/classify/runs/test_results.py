import dataclasses
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from tiny_runs import PREDICTIONS, make_result, write_run

from classify.runs.predictions import read_predictions
from classify.runs.results import RunResult, load_runs
from featurize.core.errors import DataError


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
def test_damaged_runs_are_skipped(tmp_path: Path, text: str) -> None:
    write_run(tmp_path / "tiny" / "good-1", make_result(), PREDICTIONS)
    write_run(tmp_path / "tiny" / "bad-1", make_result(), PREDICTIONS)
    (tmp_path / "tiny" / "bad-1" / "result.json").write_text(text)
    (tmp_path / "tiny" / "empty-1").mkdir()
    (tmp_path / "tiny" / ".unfinished").mkdir()
    runs, skipped = load_runs(tmp_path)
    assert list(runs) == [tmp_path / "tiny" / "good-1"]
    assert [path.name for path, _ in skipped] == ["bad-1", "empty-1"]
    assert all("result.json cannot be used" in reason for _, reason in skipped)


def test_loaded_runs_are_a_table(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny" / "worse-1", make_result(accuracy=0.5), PREDICTIONS)
    write_run(tmp_path / "tiny" / "better-1", make_result(model="<svm>", converged=None), PREDICTIONS)
    loaded = load_runs(str(tmp_path))
    table = loaded.to_frame()
    assert table["run"].tolist() == ["better-1", "worse-1"]
    assert table["accuracy"].tolist() == [0.715, 0.5]
    shown = loaded._repr_html_()
    assert shown.count("<tr") == 3
    assert "<td>0.500</td>" in shown
    assert "<td>&lt;svm&gt;</td>" in shown
    [result] = [result for path, result in loaded.runs.items() if path.name == "worse-1"]
    assert result.to_frame().loc[0, "train_rows"] == 2000
    assert "<td>0.500</td>" in result._repr_html_()


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "tiny" / "old-1"
    write_run(run_dir, make_result(schema_version=4), PREDICTIONS)
    message = r"old-1 was made by another version of frozenbench \(layout 4, expected 6\); train it again "
    with pytest.raises(DataError, match=message):
        RunResult.read(run_dir)
    values = json.loads((run_dir / "result.json").read_text())
    (run_dir / "result.json").write_text(json.dumps({**values, "another_field": 1}))
    with pytest.raises(DataError, match=message):
        RunResult.read(run_dir)


@pytest.mark.parametrize("later", ["own_head", "coverage", "class_coverage", "held_out_rows", "guarantee_sha256"])
def test_a_run_from_before_a_field_is_read(tmp_path: Path, later: str) -> None:
    write_run(tmp_path, make_result(), PREDICTIONS)
    values = json.loads((tmp_path / "result.json").read_text())
    del values[later]
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert RunResult.read(tmp_path) == make_result()


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny" / "a-1", make_result(), PREDICTIONS)
    values = json.loads((tmp_path / "tiny" / "a-1" / "result.json").read_text())
    assert set(values) == {field.name for field in dataclasses.fields(RunResult)}
