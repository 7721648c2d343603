"""The console command `frozenbench` has the three stages, and reports errors as they do."""

import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

SCRIPT = "import sys; from analysis.frozenbench import main; sys.argv[0] = 'frozenbench'; main()"


def frozenbench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_it_is_installed() -> None:
    (entry,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "frozenbench"]
    assert entry.value == "analysis.frozenbench:main"


def test_version(tmp_path: Path) -> None:
    assert frozenbench("--version", folder=tmp_path).stdout == f"frozenbench {version('frozenbench')}\n"


@pytest.mark.parametrize("arguments", [["-h"], ["featurize", "-h"], ["classify", "--help"], ["analysis", "-h"]])
def test_help(arguments: list[str], tmp_path: Path) -> None:
    done = frozenbench(*arguments, folder=tmp_path)
    assert done.returncode == 0
    assert f"Usage: {' '.join(['frozenbench', *arguments[:-1]])}" in done.stdout


@pytest.mark.slow
def test_the_three_stages(tmp_path: Path) -> None:
    def succeed(*arguments: str) -> str:
        done = frozenbench(*arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = ("--data", "sample", "--backbone", "pixels", "--image-size", "4", "--train", "90", "--test", "60")
    assert "cache        cache.h5" in succeed("featurize", *options, "--out", "cache.h5")
    assert "cache        cache.h5" in succeed("featurize", "info", "cache.h5")
    assert "knn" in succeed("classify", "--features", "cache.h5", "--model", "knn,dummy")
    assert "report.html" in succeed("analysis", "--out", "output")
    assert (tmp_path / "output" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["featurize", "--pool", "avgg"], 2, "error: --pool avgg: did you mean avg?\n"),
        (["classify", "--features", "none.h5"], 2, "error: none.h5: no such feature cache"),
        (["analysis", "--runs", "nowhere"], 2, "error: no runs in nowhere"),
        (["featurise"], 2, "no such command"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = frozenbench(*arguments, folder=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
