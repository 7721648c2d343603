"""The documentation: it builds without a warning, and its pictures and commands match the code."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

import analysis
import classify
import featurize
from analysis import frozenbench

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
    names = (tmp_path / "html" / "python.html").read_text()
    for package in (featurize, classify, analysis):
        assert [name for name in package.__all__ if f'id="{package.__name__}.{name}"' not in names] == []


def test_the_picture_of_the_rooms_is_up_to_date() -> None:
    assert (DOCS / "rooms.svg").read_text() == load("rooms").picture(), "run python docs/rooms.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_into_the_repository_exist(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", (ROOT / page).read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def commands_in(page: Path) -> list[list[str]]:
    """The words of every frozenbench command in the code blocks of a page."""
    blocks = re.findall(r"^```(.*?)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "frozenbench " in line]
    return [line[1:] for line in words if line[0].endswith("frozenbench")]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_printed_commands_and_options_exist(page: Path) -> None:
    for words in commands_in(page):
        command: Any = get_command(frozenbench.app)
        rest = list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known | {"--help"}, words


def test_the_readme_has_commands() -> None:
    assert len(commands_in(ROOT / "README.md")) >= 5


@pytest.mark.slow
def test_the_readme_prints_what_its_python_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    [(code, output)] = re.findall(r"```python\n(.*?)```\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == output
