"""The documentation: it builds without a warning, and its pictures and commands match the code."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def load(name: str) -> ModuleType:
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    """A dead reference, a page outside of the contents, or a broken docstring is a warning."""
    pytest.importorskip("sphinx")
    words = ["-m", "sphinx", "--builder", "html", "--fail-on-warning", "--quiet", "--doctree-dir", tmp_path / "trees"]
    done = subprocess.run(
        [sys.executable, *words, DOCS, tmp_path / "html"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    options = (tmp_path / "html" / "options.html").read_text()
    assert "--time-limit" in options
    assert "--recompute" in options


def test_the_picture_of_the_rooms_is_up_to_date() -> None:
    assert (DOCS / "rooms.svg").read_text() == load("rooms").picture(), "run python docs/rooms.py"
