from pathlib import Path

import pytest

from classify.runs import CODES, check_codes, code_of, coded
from featurize.core.errors import UsageError

PAGE = (Path(__file__).parents[3] / "docs" / "findings.md").read_text("utf-8")


@pytest.mark.parametrize("code", CODES)
def test_each_code_has_its_place_in_the_documentation(code: str) -> None:
    _, _, section = PAGE.partition(f"## {code}: {CODES[code].title}\n")
    words = " ".join(section.partition("\n## ")[0].split())
    for text in (CODES[code].found, CODES[code].matters, CODES[code].action):
        assert text in words


def test_the_documentation_has_no_other_codes() -> None:
    assert [line[3:8] for line in PAGE.splitlines() if line.startswith("## FB")] == list(CODES)


def test_a_warning_and_its_code() -> None:
    assert code_of(coded("FB003", "some: text")) == "FB003"
    assert code_of("FB999: of a later version") == code_of("of an earlier version") == ""


def test_codes_to_ignore() -> None:
    assert check_codes(["fb001", "FB012"]) == {"FB001", "FB012"}
    with pytest.raises(UsageError, match="ignore FB01: did you mean FB01.*"):
        check_codes(["FB01"])
