"""What is printed: no name from a file controls the terminal."""

import logging

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
