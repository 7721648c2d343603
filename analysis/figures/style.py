"""The look of all figures: palette, markers, axes, legends, saving.

The palette suits colour-blind readers, and no figure relies on colour alone: markers, line styles or
words repeat the distinction, so that a print in black and white can be read.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from featurize.core.files import written_whole

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "frozenbench",  # the same figure gives the same file
    "savefig.dpi": 150,
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.6,  # long enough to recognise a dashed line
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",  # also on a dark page
    "lines.markersize": 5.5,
    "text.parse_math": False,  # a class may be called "$5"
}
OTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
)
"""For letters that matplotlib's own font lacks, such as Chinese ones, where these fonts are installed."""
KINDS = ("pretrained", "random", "pixels", "scratch")
MARKERS = "osD^vPX*<>"
HEADS = ("logreg", "svm", "xgboost", "mlp", "cnn", "linear-svm", "knn", "stack", "lda", "dummy")
"""The order of `MARKERS`: a head has the same marker in every figure."""
LONGEST_NAME = 26  # characters of a class's name in a figure
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
FILLS = ("full", "none", "left", "bottom", "right", "top")
MANY_CLASSES = 20  # above this the classes are not named one by one
TICK_DISTANCE = 0.07  # of the width of a logarithmic axis: labels closer than this overlap


@contextmanager
def empty_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, in inches, without a window or global state."""
    with matplotlib.rc_context({**STYLE, "font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the empty box in a name says so, too
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure in the house style and its only Axes."""
    with empty_figure(width, height) as drawn:
        yield drawn, drawn.add_subplot()


def save(drawn: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with written_whole(path) as temporary:
            drawn.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def colours(count: int) -> list[Any]:
    """Colours that are told apart; also by colour-blind readers if there are at most ten."""
    return list(sns.color_palette("colorblind" if count <= 10 else "husl", count))


def marker_of(model: str) -> str:
    """The marker of a head, the same in every figure; heads that come from elsewhere share markers."""
    known = HEADS.index(model) if model in HEADS else sum(model.encode())
    return MARKERS[known % len(MARKERS)]


def shown_names(names: Sequence[str], longest: int = LONGEST_NAME) -> list[str]:
    """Names of classes as figures show them: on one line, at most so many characters, and all different.

    A name whose letters no font has becomes `class 7`, with its number among the names.
    """
    characters = _drawable_characters()
    shown = []
    for number, name in enumerate(names):
        text = " ".join(name.split())
        if any(ord(character) not in characters for character in text):
            text = f"class {number}"
        shown.append(text if len(text) <= longest else f"{text[: longest - 1]}…")
    repeated = {name for name, count in Counter(shown).items() if count > 1}
    for number, text in enumerate(shown):
        if text in repeated:
            mark = f"… ({number})"
            shown[number] = text[: longest - len(mark)] + mark
    return shown


@functools.cache
def _drawable_characters() -> frozenset[int]:
    """The characters that the fonts of the figures have, as code points."""
    characters: set[int] = set()
    for name in _fonts():
        characters |= set(font_manager.get_font(font_manager.findfont(name)).get_charmap())
    return frozenset(characters)


@functools.cache
def _fonts() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in OTHER_FONTS if name in installed)]


def draw_chance(ax: Axes, share: float, *, upright: bool) -> Line2D:
    """A line at the accuracy, 0..1, of always naming the most frequent class.

    Args:
        ax: where to draw.
        share: of the most frequent class.
        upright: whether accuracy runs along x.
    """
    look: dict[str, Any] = {"color": "0.35", "linestyle": (0, (1, 2)), "linewidth": 1.2, "zorder": 0.5}
    line = ax.axvline(100 * share, **look) if upright else ax.axhline(100 * share, **look)
    line.set_label(f"chance ({100 * share:.0f}%)")
    return line


def line_style(number: int) -> Any:
    """The line style of series `number`."""
    return LINES[number % len(LINES)]


def series_of(rows: pd.DataFrame) -> pd.Series:
    """The legend's name for the features of each row, as categories in the order of all figures: transfer first."""
    names = rows["features"].where(rows["kind"] != "scratch", rows["features"] + ", trained from scratch")
    pairs = sorted(set(zip(rows["kind"], names, strict=True)), key=lambda pair: (KINDS.index(pair[0]), pair[1]))
    order = list(dict.fromkeys(name for _, name in pairs))
    return names.astype(pd.CategoricalDtype(order))


def looks_of(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, line style and fill style for each name in `series_of`."""
    names = series_of(rows).cat.categories
    return {
        name: {"color": colour, "linestyle": line_style(number), "fillstyle": FILLS[number % len(FILLS)]}
        for number, (name, colour) in enumerate(zip(names, colours(len(names)), strict=True))
    }


def markers_of(rows: pd.DataFrame) -> dict[str, str]:
    """A marker for each head."""
    return {model: marker_of(model) for model in sorted(set(rows["model"]))}


def legend_above(ax: Axes, title: str | None = None, handles: Sequence[Line2D] | None = None) -> None:
    """The legend above the Axes; of all that has a label if no handles are given."""
    ax.legend(handles=handles, title=title, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def use_log_axis(ax: Axes) -> None:
    """A logarithmic x axis with numbers written in full."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def ticks_apart(sizes: Sequence[int]) -> list[int]:
    """The sorted sizes whose labels do not overlap on a logarithmic axis, from the largest down."""
    chosen = [sizes[-1]]
    smallest_ratio = (sizes[-1] / sizes[0]) ** TICK_DISTANCE
    for size in reversed(sizes[:-1]):
        if size * smallest_ratio < chosen[-1]:
            chosen.append(size)
    return chosen[::-1]


def draw_two_legends(
    ax: Axes, looks: Mapping[str, Mapping[str, Any]], markers: Mapping[str, str], by: str, *more: Line2D
) -> None:
    """Two legends: the features above, and the heads by their markers to the right.

    Args:
        ax: where to draw.
        looks: from `looks_of`.
        markers: from `markers_of`.
        by: what tells features apart beside the colour, `linestyle` or `fillstyle`.
        more: further lines for the first legend.
    """
    dot = {"marker": "o", "linestyle": "", "markerfacecoloralt": "white"} if by == "fillstyle" else {}
    features = [
        Line2D([], [], color=look["color"], label=name, **{by: look[by], **dot}) for name, look in looks.items()
    ]
    heads = [Line2D([], [], color="0.3", marker=shape, linestyle="", label=model) for model, shape in markers.items()]
    first = ax.legend(handles=[*features, *more], loc="lower left", bbox_to_anchor=(0, 1))
    ax.add_artist(first).set_clip_on(False)  # the layout makes no room for clipped artists
    ax.legend(handles=heads, title="head", loc="upper left", bbox_to_anchor=(1, 1), handlelength=1)
