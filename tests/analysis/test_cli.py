"""`frozenbench analysis`: what it refuses."""

from pathlib import Path

from command_line import assert_failed, command_here


def test_an_experiment_that_there_is_not() -> None:
    assert_failed(command_here("analysis", "experiment", "--preset", "fast"), 2, "--preset fast", "known: quick, full")


def test_no_runs_to_analyse(tmp_path: Path) -> None:
    assert_failed(command_here("analysis", "--out", str(tmp_path / "out")), 2, "no runs in", "frozenbench classify")
    assert not (tmp_path / "out").exists()
