"""Names and markers, the same in all figures."""

import pytest

from analysis.figures import style


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("American Staffordshire Terrier", "American Staffordshire Te…"),
        ("x" * 100, "x" * 25 + "…"),
        ("two\nlines\tand more", "two lines and more"),
        ("$5 [red] %", "$5 [red] %"),
        ("", ""),
    ],
)
def test_names_are_on_one_line_and_not_long(name: str, shown: str) -> None:
    assert style.shown_names([name]) == [shown]


def test_different_names_stay_different() -> None:
    names = [f"{'x' * 40}{number}" for number in range(120)] + ["x" * 25 + "…"]
    shown = style.shown_names(names)
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) <= style.LONGEST_NAME


def test_letters_that_no_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "_drawable_characters", lambda: frozenset(range(256)))
    assert style.shown_names(["cat", "\u732b", "d\u00f6g"]) == ["cat", "class 1", "d\u00f6g"]


def test_a_head_has_one_marker_whatever_stands_beside_it() -> None:
    markers = [style.marker_of(name) for name in style.HEADS]
    assert len(set(markers)) == len(markers)
    assert style.marker_of("theirs:Head") == style.marker_of("theirs:Head")
