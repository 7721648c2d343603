"""A short form of edits.py."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_edited_files_of_every_kind() -> None:
    words = [sys.executable, str(Path(__file__).with_name("edits.py")), "--some", "40"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("40 edits") == 5
