"""`frozenbench analysis`: what it prints and refuses."""

from pathlib import Path

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
