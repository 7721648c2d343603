"""The short forms of crash.py; its first lines give the commands of the full ones."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("what", "times", "found"),
    [
        ("kill", 25, "0 differ"),
        ("interrupt", 10, "10 times Ctrl-C, exit code 130 each time"),
        ("race", 8, "8 of 8 pairs"),
        ("flip", 400, "400 of 400 flipped bits"),
        ("cut", 100, "100 of 100 truncations"),
    ],
)
def test_an_extraction_that_is_disturbed(what: str, times: int, found: str) -> None:
    words = [sys.executable, str(Path(__file__).with_name("crash.py")), what, "--times", str(times)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found in done.stdout
