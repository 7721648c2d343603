"""The look of all figures: palette, markers, axes, legends, saving.

The palette suits colour-blind readers, and no figure relies on colour alone: markers, line styles or
words repeat the distinction, so that a print in black and white can be read.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis.figures import names
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
TITLE_SIZE = 11.5
IMAGES_FOR_A_DECIMAL = 1000
KINDS = ("pretrained", "random", "pixels", "scratch")
Looks = Mapping[str, Mapping[str, Any]]
"""By a name in the legend: color, linestyle, fillstyle, and of a run marker, as matplotlib names them."""
MARKERS = "osD^vPX*<>"
HEADS = {
    "logreg": "s",
    "svm": "^",
    "linear-svm": ">",
    "xgboost": "D",
    "mlp": "v",
    "cnn": "P",
    "stack": "*",
    "knn": "<",
    "dummy": "X",
    "lda": "p",
}
"""A head has the same marker in every figure. A circle stands for no head: it shows what several share."""
OTHER_HEADS = "8hHd"
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
HALF_WHITE: dict[str, Any] = {"markerfacecoloralt": "white", "markersize": 7}
FILLS = ("full", "none", "left", "bottom", "right", "top")
SHADES = (-0.6, 0.4)
MANY_CLASSES = 20  # above this the classes are not named one by one
TICK_DISTANCE = 0.07  # of the width of a logarithmic axis: labels closer than this overlap


@contextmanager
def empty_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, in inches, without a window or global state."""
    with matplotlib.rc_context({**STYLE, "font.family": list(names.fonts())}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # `names` replaces such letters already
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
    return HEADS.get(model) or OTHER_HEADS[sum(model.encode()) % len(OTHER_HEADS)]


def percent(share: float, images: int) -> str:
    """A share (0..1) of images in percent, such as `72%`; with one decimal if there are 1,000 images or more.

    The rule of all figures and captions for a share without an interval.
    """
    return f"{100 * share:.{1 if images >= IMAGES_FOR_A_DECIMAL else 0}f}%"


def title(drawn: Figure, text: str) -> None:
    """Say above a figure what is to be seen, in as many lines as its width takes."""
    room = drawn.get_figwidth() - 0.3
    lines = [""]
    for word in names.plain(text).split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if names.width_of(longer, TITLE_SIZE) <= room else [*lines, word]
    drawn.suptitle("\n".join(filter(None, lines)), fontsize=TITLE_SIZE)


class Chance(NamedTuple):
    """The accuracy of always naming the most frequent class: its share (0..1) of the test images, and their number."""

    share: float
    images: int


def draw_chance(ax: Axes, chance: Chance | None, *, upright: bool = False) -> list[Line2D]:
    """A line at the accuracy of chance, in percent; upright if accuracy runs along x. Empty if it is unknown."""
    if chance is None:
        return []
    draw = ax.axvline if upright else ax.axhline
    look: dict[str, Any] = {"color": "0.35", "linestyle": (0, (1, 2)), "linewidth": 1.2, "zorder": 0.5}
    return [draw(100 * chance.share, label=f"chance ({percent(*chance)})", **look)]


def line_style(number: int) -> Any:
    """The line style of series `number`."""
    return LINES[number % len(LINES)]


def series_of(rows: pd.DataFrame) -> pd.Series:
    """The legend's name for the features of each row, as categories in the order of all figures: transfer first."""
    names = rows["features"].where(rows["kind"] != "scratch", rows["features"] + ", trained from scratch")
    pairs = sorted(set(zip(rows["kind"], names, strict=True)), key=lambda pair: (KINDS.index(pair[0]), pair[1]))
    order = list(dict.fromkeys(name for _, name in pairs))
    return names.astype(pd.CategoricalDtype(order))


def looks_of(rows: pd.DataFrame) -> Looks:
    """Colour, line style and fill style for each name in `series_of`.

    `rows` are all rows of a test set: with fewer, the same features would get another colour.
    """
    features = series_of(rows).cat.categories
    return {
        name: {"color": colour, "linestyle": line_style(number), "fillstyle": FILLS[number % len(FILLS)]}
        for number, (name, colour) in enumerate(zip(features, colours(len(features)), strict=True))
    }


def apart(looks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Looks of lines in one figure: those of the same colour get shades of it, and their own line styles."""
    alike = Counter(look["color"] for look in looks)
    seen: Counter[Any] = Counter()
    found = []
    for look in looks:
        colour = look["color"]
        found.append(dict(look))
        if alike[colour] > 1:
            shade = SHADES[0] + (SHADES[1] - SHADES[0]) * seen[colour] / (alike[colour] - 1)
            found[-1] |= {"color": _shaded(colour, shade), "linestyle": line_style(seen[colour])}
            seen[colour] += 1
    return found


def _shaded(colour: Sequence[float], shade: float) -> tuple[float, ...]:
    """A colour mixed with black (at most -1) or white (up to 1)."""
    return tuple(part * (1 + shade) if shade < 0 else part + (1 - part) * shade for part in colour)


def markers_of(rows: pd.DataFrame) -> dict[str, str]:
    """A marker for each head."""
    return {model: marker_of(model) for model in sorted(set(rows["model"]))}


def legend_above(ax: Axes, title: str | None = None, handles: Sequence[Line2D] | None = None, columns: int = 1) -> None:
    """The legend above the Axes; of all that has a label if no handles are given.

    Two columns are for short names.
    """
    legend = ax.legend(handles=handles, title=title, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    fit_legend(legend, (0.55 if columns == 1 else 0.34) * figure_width(ax))  # no wider than Axes beside long names


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


def draw_two_legends(ax: Axes, looks: Looks, markers: Mapping[str, str], by: str, *more: Line2D) -> None:
    """Two legends: the features above, and the heads by their markers to the right.

    Args:
        ax: where to draw.
        looks: from `looks_of`.
        markers: from `markers_of`.
        by: what tells features apart beside the colour, `linestyle` or `fillstyle`.
        more: further lines for the first legend.
    """
    dot = {"marker": "o", "linestyle": "", **HALF_WHITE} if by == "fillstyle" else {}
    features = [
        Line2D([], [], color=look["color"], label=name, **{by: look[by], **dot}) for name, look in looks.items()
    ]
    heads = [Line2D([], [], color="0.3", marker=shape, linestyle="", label=model) for model, shape in markers.items()]
    first = ax.legend(handles=[*features, *more], loc="lower left", bbox_to_anchor=(0, 1))
    fit_legend(first, 0.6 * figure_width(ax))
    ax.add_artist(first).set_clip_on(False)  # the layout makes no room for clipped artists
    second = ax.legend(handles=heads, title="head", loc="upper left", bbox_to_anchor=(1, 1), handlelength=1)
    fit_legend(second, 0.15 * figure_width(ax))


def fit_legend(legend: Legend, inches: float) -> None:
    """Cut the texts of a legend to a width."""
    texts = [text for text in legend.get_texts() if text.get_text().strip()]  # the others fill up a column
    fits = names.fitted([text.get_text() for text in texts], inches, STYLE["legend.fontsize"])
    for text, fit in zip(texts, fits, strict=True):
        text.set_text(fit)


def figure_width(ax: Axes) -> float:
    """The width in inches of the figure that the Axes belong to."""
    return float(ax.figure.get_figure(root=True).get_figwidth())
