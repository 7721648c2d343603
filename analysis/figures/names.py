"""Names from a data set as texts of a figure: one line, letters that the fonts have, a limited width.

A reader must be able to tell classes apart, so that different names never become the same text.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence

from matplotlib.font_manager import FontProperties, findfont, get_font, get_font_names
from matplotlib.textpath import text_to_path

OTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
)
"""For letters that matplotlib's own font lacks, such as Chinese ones, where these fonts are installed."""
CUT = "…"
SIZE = 10.0  # points, of the texts in a figure


def fitted(names: Sequence[str], inches: float, size: float = SIZE, word: str = "") -> list[str]:
    """Names as texts of at most a given width; a longer one is cut, with `…` in place of the rest.

    Names with letters that no installed font has become numbers, such as `class 12`, or are escaped. Two
    different names that would look the same are cut in the middle, or numbered.

    Args:
        names: all names that have to be told apart; the same name gives the same text.
        inches: the width of the texts, at least one.
        size: of the letters, in points.
        word: what is numbered in place of a name that cannot be written, such as `class`; without it the letters
            are escaped.
    """
    different = list(dict.fromkeys(names))
    lines = {name: _written(name, f"{word} {number}" if word else "") for number, name in enumerate(different)}
    texts = {name: _cut(line, _start, inches, size) for name, line in lines.items()}
    for name in _alike(texts):
        texts[name] = _cut(lines[name], _both_ends, inches, size)
    for name in _alike(texts):
        number = different.index(name)
        while True:
            mark = f" ({number})"
            text = _cut(lines[name], _start, inches - width_of(mark, size), size) + mark
            if text not in texts.values():
                break
            number += len(different)
        texts[name] = text
    return [texts[name] for name in names]


@functools.cache
def fonts() -> tuple[str, ...]:
    """The fonts of all figures: matplotlib's own one, and the installed ones of `OTHER_FONTS`."""
    installed = set(get_font_names())
    return ("DejaVu Sans", *(name for name in OTHER_FONTS if name in installed))


def shortened(text: str, inches: float, size: float = SIZE) -> str:
    """A text in one line of at most a given width; of a longer one both ends are kept, as of a file's name."""
    return _cut(plain(text), _both_ends, inches, size)


def plain(text: str) -> str:
    """A text in one line; letters that no installed font has are escaped."""
    return _written(text, "")


def is_written(name: str) -> bool:
    """Whether the fonts of the figures have all letters of a name."""
    return all(map(_has_letter, _in_one_line(name)))


def width_of(text: str, size: float = SIZE) -> float:
    """The width of a text in inches: the sum of its letters' widths, which is fast for a thousand names."""
    return sum(map(_width_of_letter, text)) * size / SIZE


def _written(name: str, substitute: str) -> str:
    line = _in_one_line(name) or "(no name)"
    if all(map(_has_letter, line)):
        return line
    escaped = (letter if _has_letter(letter) else letter.encode("unicode_escape").decode() for letter in line)
    return substitute or "".join(escaped)


def _in_one_line(text: str) -> str:
    """The text without line breaks, control characters and marks for the direction of writing."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _alike(texts: dict[str, str]) -> list[str]:
    """The names that have the same text as another one."""
    counts = Counter(texts.values())
    return [name for name, text in texts.items() if counts[text] > 1]


def _cut(line: str, form: Callable[[str, int], str], inches: float, size: float) -> str:
    """The longest form of a line that has at most this width."""
    if width_of(line, size) <= inches:
        return line
    low, high = 1, len(line) - 1  # letters to keep: one is always kept
    while low < high:
        middle = (low + high + 1) // 2
        if width_of(form(line, middle), size) <= inches:
            low = middle
        else:
            high = middle - 1
    return form(line, low)


def _start(line: str, letters: int) -> str:
    return line[:letters].rstrip() + CUT


def _both_ends(line: str, letters: int) -> str:
    end = letters // 2
    return line[: letters - end].rstrip() + CUT + line[len(line) - end :].lstrip()


@functools.cache
def _width_of_letter(letter: str) -> float:
    """The width in inches of a letter in the size `SIZE`."""
    font = FontProperties(family=fonts(), size=SIZE)
    width, _, _ = text_to_path.get_text_width_height_descent(letter, font, ismath=False)
    return float(width) / 72


def _has_letter(letter: str) -> bool:
    return ord(letter) in _letters(fonts())


@functools.cache
def _letters(families: tuple[str, ...]) -> frozenset[int]:
    """The code points that one of the fonts has."""
    fonts = (get_font(findfont(FontProperties(family=family))) for family in families)
    return frozenset(code for font in fonts for code in font.get_charmap())
