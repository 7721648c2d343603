"""A short form of fuzz.py."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_damaged_input_of_every_kind() -> None:
    words = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--seconds", "10"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no other exception, no signal" in done.stdout
