"""Names are readable in a figure, whatever letters they have, and stay different."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.figures import names
from analysis.figures.style import figure, save


@pytest.fixture
def other_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The fonts to try for letters that matplotlib's own font lacks; nothing of another test is remembered."""
    tried: list[str] = []
    monkeypatch.setattr(names, "OTHER_FONTS", tried)
    caches = (names.fonts, names._letters, names._width_of_letter)
    for cache in caches:
        cache.cache_clear()
    yield tried
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cat", "cat"),
        ("American Staffordshire Terrier", "American Staffordshire Terrier"),
        ("two\nlines\tand more", "two lines and more"),
        ("$5 [red] %", "$5 [red] %"),
        ("\u202edog\x00", "dog"),
        ("", "(no name)"),
    ],
)
def test_names_are_on_one_line(name: str, text: str) -> None:
    assert names.fitted([name], 3) == [text]


def test_long_names_are_cut_to_their_width() -> None:
    for name in ("W" * 100, "i" * 100, "American Staffordshire Terrier and more"):
        (text,) = names.fitted([name], 2)
        assert 1.7 < names.width_of(text) <= 2
        assert name.startswith(text.removesuffix("\u2026"))
    assert names.width_of("W" * 10, size=5) == pytest.approx(names.width_of("W" * 10) / 2)


def test_names_that_begin_alike_are_cut_in_the_middle() -> None:
    one, other = names.fitted(["x" * 99 + "a", "x" * 99 + "b"], 1.5)
    assert one[-1] == "a"
    assert other[-1] == "b"
    assert "\u2026" in one


def test_different_names_never_become_the_same_text() -> None:
    different = [f"{'y' * 40}{number}{'y' * 40}" for number in range(50)]
    different += ["a\nb", "a b", "a b (1)", "", " ", "\ud800", "y" * 5 + "\u2026 (1)", "\u732b", "class 57"]
    texts = names.fitted(different, 1.5, word="class")
    assert len(set(texts)) == len(different)
    assert max(map(names.width_of, texts)) <= 1.5


def test_the_same_name_has_the_same_text() -> None:
    assert names.fitted(["cat", "dog", "cat"], 1) == ["cat", "dog", "cat"]


def test_letters_that_no_font_has(other_fonts: list[str]) -> None:
    assert other_fonts == []
    assert names.fitted(["cat", "\u732b \u72d7", "d\u00f6g"], 3, word="class") == ["cat", "class 1", "d\u00f6g"]
    assert names.fitted(["cat \u732b"], 3) == ["cat \\u732b"]
    assert names.plain("\u732b\nand dog") == "\\u732b and dog"
    assert not names.is_written("\u732b")


def test_another_font_is_used_where_it_is_installed(
    other_fonts: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    letter = "\u1d81"  # in a font that comes with matplotlib, but not in its first one
    assert not names.is_written(letter)
    names.fonts.cache_clear()
    other_fonts += ["STIXGeneral", "no such font"]
    assert names.fonts() == ("DejaVu Sans", "STIXGeneral")
    assert names.fitted([letter], 1, word="class") == [letter]
    with figure(2, 2) as (drawn, ax):
        ax.set_title(letter)
        save(drawn, tmp_path / "figure")
    assert [str(warning.message) for warning in recwarn] == []
