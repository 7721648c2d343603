"""`frozenbench analysis`: what it prints and refuses."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import assert_failed, command_here
from tiny_runs import make_result, write_runs


def test_an_experiment_that_there_is_not() -> None:
    assert_failed(command_here("analysis", "experiment", "--preset", "fast"), 2, "--preset fast", "known: quick, full")


def test_no_runs_to_analyse(tmp_path: Path) -> None:
    assert_failed(command_here("analysis", "--out", str(tmp_path / "out")), 2, "no runs in", "frozenbench classify")
    assert not (tmp_path / "out").exists()


def test_what_several_claims_lack_is_said_once(tmp_path: Path) -> None:
    write_runs(tmp_path, {Path("runs/photos/logreg-9"): make_result()})
    done = command_here("analysis", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no run of a control") == 1


def test_an_experiment_passes_on_the_findings_to_ignore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned = make_result(warnings=["FB001: classes are unequal"])
    runs = write_runs(tmp_path, {Path("runs/photos/logreg-9"): warned})
    monkeypatch.setattr("analysis.screening.screened", lambda study, *_, **__: (study, []))
    monkeypatch.setattr("analysis.experiment.run_experiment", lambda *_, **__: SimpleNamespace(runs=runs, left_out=[]))
    pages = []
    for ignored in ("", "fb001,FB007"):
        out = tmp_path / f"out-{ignored}"
        done = command_here("analysis", "experiment", "sample", "--ignore", ignored, "--out", str(out))
        assert done.returncode == 0, done.stderr
        pages.append((out / "report.html").read_text("utf-8"))
    assert "Look at FB001, FB007." in pages[0]
    assert "Look at" not in pages[1]


def test_a_code_that_there_is_not_is_refused_before_the_experiment() -> None:
    done = command_here("analysis", "experiment", "sample", "--ignore", "FB999")
    assert_failed(done, 2, "--ignore FB999")
    assert "images" not in done.stderr
