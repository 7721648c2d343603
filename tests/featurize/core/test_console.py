"""What is printed: no name from a file controls the terminal."""

import logging
import os
import pty
import subprocess
import sys

import pytest

from featurize.core.console import _Line, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m\x07\r\n", r"a\x1b[31m\x07\r\n"),
        ("\x9b31m \x7f \u202eabc \u2028", r"\x9b31m \x7f \u202eabc \u2028"),
        ("\udcff.png", r"\udcff.png"),
        ("[/red] {0} %s", "[/red] {0} %s"),
        ("猫 กขค קטן e\u0301 👩\u200d🔬 \u3000", "猫 กขค קטן e\u0301 👩\u200d🔬 \u3000"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == shown
    say(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_a_message_is_one_line() -> None:
    record = logging.LogRecord("frozenbench", logging.ERROR, "", 0, "%s: no such\nlayer", ("a\x1b[2J",), None)
    assert _Line().format(record) == r"error: a\x1b[2J: no such layer"


DISPLAY = """
import logging
from featurize.core.console import progress_display
logging.getLogger("frozenbench").setLevel(logging.INFO)
with progress_display("images") as show:
    for done in {calls}:
        show(done, 4)
"""


@pytest.mark.parametrize(("calls", "shown"), [((), False), ((1, 4), True)])
def test_a_bar_appears_with_the_first_progress(calls: tuple[int, ...], shown: bool) -> None:
    """On a terminal, work that turns out not to be needed leaves nothing behind."""
    ours, terminal = pty.openpty()
    program = [sys.executable, "-c", DISPLAY.format(calls=calls)]
    subprocess.run(program, stderr=terminal, env={**os.environ, "TERM": "xterm"}, check=True, timeout=60)
    os.write(terminal, b"end")
    os.close(terminal)
    seen = b""
    while not seen.endswith(b"end"):
        seen += os.read(ours, 1 << 16)
    os.close(ours)
    text = seen.decode()
    assert "/100" not in text
    assert ("images" in text and "4/4" in text) is shown
    assert shown or text == "end"
