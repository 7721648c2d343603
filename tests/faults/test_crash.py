"""Short forms of crash.py, whose first lines give the commands of the full ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from slow_cases import mark_slow

SCRIPT = Path(__file__).with_name("crash.py")
FEW = {"kill": 5, "kill-growing": 5, "interrupt": 2, "race": 2, "flip": 50, "cut": 20}
MANY = {"kill": 25, "kill-growing": 25, "interrupt": 10, "race": 8, "flip": 400, "cut": 100}
FOUND = {
    "kill": "{times} kills, ",
    "kill-growing": "{times} kills, ",
    "interrupt": "{times} times Ctrl-C, exit code 130 each time",
    "race": "{times} of {times} pairs",
    "flip": "{times} of {times} flipped bits",
    "cut": "{times} of {times} truncations",
}


@pytest.mark.parametrize("times", mark_slow((FEW, MANY), MANY), ids=("few", "many"))
@pytest.mark.parametrize("what", FOUND)
def test_an_extraction_that_is_disturbed(what: str, times: dict[str, int]) -> None:
    words = [sys.executable, str(SCRIPT), what, "--times", str(times[what])]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert FOUND[what].format(times=times[what]) in done.stdout
