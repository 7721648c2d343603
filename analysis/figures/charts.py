"""The figures: each function draws on the Axes it is given and returns them.

Colours are told apart by the colour-blind, and nothing is said by colour alone: markers, line styles
or words say it too, so that a print in black and white can be read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from classify.runs import RunResult
from featurize.core.files import written_whole

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "frozenbench",  # the same figure gives the same file
    "savefig.dpi": 150,
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.6,  # long enough for a dashed line to be known
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",  # stands on a dark page too
    "lines.markersize": 5.5,
}
KINDS = ("pretrained", "random", "pixels", "scratch")
MARKERS = "osD^vPX*<>"
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
FILLS = ("full", "none", "left", "bottom", "right", "top")
NAMED_PAIRS = 3
MANY_CLASSES = 20  # more are not named one by one
IMAGES_A_ROW = 6


@contextmanager
def empty_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of the house style, in inches, without a window or global state."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of the house style and its only Axes."""
    with empty_figure(width, height) as drawn:
        yield drawn, drawn.add_subplot()


def save(drawn: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    for path in paths:
        with written_whole(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            drawn.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def accuracy(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy with its 95% interval: a line per head, a colour and marker per kind of features.

    Args:
        rows: of `analysis.frame.comparison`, of one test set.
        ax: where to draw.
    """
    heads = list(rows.groupby("model")["accuracy"].max().sort_values().index)
    series = _series(rows)
    names = list(series.cat.categories)
    colours = _colours(len(names))
    for number, name in enumerate(names):
        these = rows[series == name]
        _intervals(
            ax,
            100 * these[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy(float),
            [heads.index(model) - _offset(number, len(names)) for model in these["model"]],
            marker=MARKERS[number % len(MARKERS)],
            color=colours[number],
            label=name,
        )
    _stripes(ax, heads)
    ax.set_xlabel("accuracy on the test images, % (with 95% interval)")
    ax.legend(title="features", loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def confusion_counts(predictions: pd.DataFrame, classes: int) -> np.ndarray:
    """How many rows of each class (first axis) were taken for each (second axis), int64 (K, K).

    Args:
        predictions: with the columns `label` and `predicted`, 0..K-1.
        classes: K.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predictions["label"].to_numpy(), predictions["predicted"].to_numpy()), 1)
    return counts


def class_order(confusions: Sequence[np.ndarray]) -> list[int]:
    """One order of the classes for several confusion matrices, with classes that are confused side by side.

    Average linkage on how rarely two classes are taken for one another, its leaves ordered by Bar-Joseph
    et al., Fast optimal leaf ordering for hierarchical clustering, Bioinformatics 17, 2001.

    Args:
        confusions: int (K, K) each, see `confusion_counts`.

    Returns:
        The K class numbers.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = np.mean([_shares(counts) for counts in confusions], axis=0)
    if len(shares) < 3:
        return list(range(len(shares)))
    alike = shares + shares.T
    np.fill_diagonal(alike, 0)
    apart = alike.max() - alike
    np.fill_diagonal(apart, 0)
    order = [int(k) for k in leaves_list(linkage(squareform(apart), "average", optimal_ordering=True))]
    return order if order[0] < order[-1] else order[::-1]  # either direction is as good: take always the same


def most_confused(predictions: pd.DataFrame, class_names: Sequence[str], n: int) -> list[tuple[str, str, int]]:
    """The n most frequent mistakes: true class, predicted class, rows; the most frequent first.

    Args:
        predictions: with the columns `label` and `predicted`, 0..K-1.
        class_names: K names.
        n: how many at most.
    """
    counts = confusion_counts(predictions, len(class_names))
    np.fill_diagonal(counts, 0)
    pairs = [divmod(int(place), len(class_names)) for place in np.argsort(-counts, axis=None, kind="stable")[:n]]
    return [(class_names[i], class_names[j], int(counts[i, j])) for i, j in pairs if counts[i, j]]


def confusion(
    predictions: pd.DataFrame, class_names: Sequence[str], ax: Axes, order: Sequence[int] | None = None
) -> Axes:
    """Confusion matrix in percent of each true class; the most frequent mistakes are framed and named.

    Shares below half a percent have no number. Colours follow the square root of the share, so that mistakes show.

    Args:
        predictions: with the columns `label` and `predicted`, 0..K-1.
        class_names: K names.
        ax: where to draw.
        order: of the classes, see `class_order`; by number if not given.
    """
    order = list(range(len(class_names))) if order is None else list(order)
    names = [class_names[k] for k in order]
    shares = _shares(confusion_counts(predictions, len(names)))[np.ix_(order, order)]
    few = len(names) <= MANY_CLASSES
    sns.heatmap(
        shares,
        ax=ax,
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 100),
        annot=np.where(shares < 0.5, "", np.char.mod("%.0f", shares)) if few else False,
        fmt="",
        square=True,
        linewidths=0.5 if few else 0,
        xticklabels=names,
        yticklabels=names,
        cbar_kws={"label": "% of the true class", "shrink": 0.8, "ticks": [0, 5, 20, 50, 100]},
    )
    named = most_confused(predictions, class_names, NAMED_PAIRS)
    for true, predicted, _ in named:
        corner = (names.index(predicted), names.index(true))
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.5))
    pairs = "; ".join(f"{true} as {predicted} ({rows:,})" for true, predicted, rows in named)
    ax.set_xlabel("predicted" + (f"\nmost often wrong: {pairs}" if named else ""))
    ax.set_ylabel("true")
    for label in ax.get_xticklabels():
        label.set(rotation=45 if few else 90, rotation_mode="anchor", ha="right", va="center")
    ax.tick_params(axis="y", rotation=0)
    return ax


def recall(runs: Mapping[str, RunResult], ax: Axes) -> Axes:
    """Each class's recall with its 95% interval: a line per class, the best found on top, a colour and marker per run.

    Args:
        runs: results of one test set by what the legend calls them.
        ax: where to draw.
    """
    values = pd.DataFrame(
        {label: {name: found[0] for name, found in run.recall.items() if found} for label, run in runs.items()}
    )
    classes = list(values.mean(axis=1).sort_values(kind="stable").index)
    colours = _colours(len(runs))
    for number, (label, run) in enumerate(runs.items()):
        there = [(place, found) for place, name in enumerate(classes) if (found := run.recall.get(name))]
        _intervals(
            ax,
            100 * np.array([found for _, found in there]).reshape(-1, 3),
            [place - _offset(number, len(runs)) for place, _ in there],
            marker=MARKERS[number % len(MARKERS)],
            color=colours[number],
            label=label,
        )
    _stripes(ax, classes)
    ax.set_xlabel("recall: images of the class that were found, % (with 95% interval)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def reliability(runs: Mapping[str, RunResult], ax: Axes) -> Axes:
    """Accuracy against confidence in bins of equally many images; on the diagonal probabilities can be believed.

    Args:
        runs: results by what the legend calls them; those without probabilities are left out.
        ax: where to draw.
    """
    ax.plot([0, 100], [0, 100], color="0.5", linewidth=1, label="confidence = accuracy")
    colours = _colours(len(runs))
    for number, (label, run) in enumerate(runs.items()):
        if run.reliability is None:
            continue
        ax.plot(
            [100 * part["confidence"] for part in run.reliability],
            [100 * part["accuracy"] for part in run.reliability],
            color=colours[number],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=LINES[number % len(LINES)],
            label=f"{label} (ECE {100 * run.ece:.1f}%)",
        )
    ax.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    ax.set_xlabel("confidence: probability of the predicted class, %")
    ax.set_ylabel("accuracy, %")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def learning_curves(curves: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy against the number of training images, with bands: a colour and line style per kind of features,
    a marker per head.

    Args:
        curves: of `analysis.findings.transfer.learning_curves`.
        ax: where to draw.
    """
    looks, markers = _looks(curves), _markers(curves)
    for approach, rows in curves.sort_values("train_rows").groupby("approach"):
        look = looks[_series(rows).iloc[0]]
        sizes, colour = rows["train_rows"], look["color"]
        ax.fill_between(sizes, 100 * rows["low"], 100 * rows["high"], color=colour, alpha=0.15, linewidth=0)
        ax.plot(
            sizes,
            100 * rows["accuracy"],
            color=colour,
            linestyle=look["linestyle"],
            marker=markers[rows["model"].iloc[0]],
            label=approach,
        )
    _log_axis(ax)
    ax.set_xticks(_apart(sorted(set(curves["train_rows"]))))
    ax.set_xlabel("training images")
    ax.set_ylabel("accuracy on the test images, %")
    ax.grid(alpha=0.3)
    _legends(ax, looks, markers, "linestyle")
    return ax


def pareto(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which of n things no other one beats, by being worth more for no more cost, or as much for less.

    Args:
        costs: float (n,).
        values: float (n,).

    Returns:
        Bool (n,).
    """
    as_good = (costs <= costs[:, None]) & (values >= values[:, None])  # [i, j]: j is as good as i
    better = (costs < costs[:, None]) | (values > values[:, None])
    return np.logical_not((as_good & better).any(axis=1))


def cost(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy against the seconds that it took, extraction included; a line joins the Pareto front.

    The extraction counts for every head as if it were made for this head alone.

    Args:
        rows: of `analysis.frame.comparison`, of one test set.
        ax: where to draw.
    """
    looks, markers = _looks(rows), _markers(rows)
    seconds = (rows["fit_seconds"] + rows["train_rows"] * rows["extraction_seconds"]).to_numpy(float)
    percent = 100 * rows[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy(float)
    front = np.flatnonzero(pareto(seconds, percent[:, 0]))
    front = front[np.argsort(seconds[front], kind="stable")]
    (line,) = ax.plot(
        seconds[front], percent[front, 0], color="0.6", drawstyle="steps-post", zorder=1, label="Pareto front"
    )
    for number, (name, model) in enumerate(zip(_series(rows), rows["model"], strict=True)):
        ax.errorbar(
            seconds[number],
            percent[number, 0],
            yerr=np.abs(percent[number, 1:] - percent[number, 0])[:, None],
            color=looks[name]["color"],
            fillstyle=looks[name]["fillstyle"],
            marker=markers[model],
            markerfacecoloralt="white",
            markersize=7,
            elinewidth=1,
            linestyle="none",
            label=f"{model} on {name}",
        )
    _log_axis(ax)
    ax.set_xlabel("seconds: fit, and extraction of the training images")
    ax.set_ylabel("accuracy on the test images, %")
    ax.grid(alpha=0.3)
    _legends(ax, looks, markers, "fillstyle", line)
    return ax


def convergence(
    histories: Mapping[str, Mapping[str, Sequence[float]]], loss_ax: Axes, accuracy_ax: Axes
) -> tuple[Axes, Axes]:
    """Loss and accuracy by epoch, with a mark where 90% of the final training accuracy was reached.

    The legend stands above both.

    Args:
        histories: `RunResult.history` by what the legend calls the run.
        loss_ax: where to draw the loss of the training rows.
        accuracy_ax: where to draw the accuracy of the training rows, and of validation rows where it was measured.
    """
    colours = _colours(len(histories))
    for number, (label, history) in enumerate(histories.items()):
        look: dict[str, Any] = {"color": colours[number], "linestyle": LINES[number % len(LINES)]}
        epochs = np.arange(1, len(history["loss"]) + 1)
        loss_ax.plot(epochs, history["loss"], linewidth=2, label=label, **look)
        found = np.asarray(history["accuracy"])
        near = int(np.argmax(found >= 0.9 * found[-1]))
        accuracy_ax.plot(epochs, 100 * found, linewidth=2, marker="o", markevery=[near], markersize=8, **look)
        if "validation_accuracy" in history:
            accuracy_ax.plot(epochs, 100 * np.asarray(history["validation_accuracy"]), linewidth=0.9, **look)
    for ax, name in ((loss_ax, "loss"), (accuracy_ax, "accuracy, %")):
        ax.set_xlabel("epoch")
        ax.set_ylabel(name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    loss_ax.set_ylim(bottom=0)
    meanings = [Line2D([], [], color="0.3", linewidth=2, label="training images")]
    if any("validation_accuracy" in history for history in histories.values()):
        meanings.append(Line2D([], [], color="0.3", linewidth=0.9, label="validation images"))
    meanings.append(
        Line2D([], [], color="0.3", linestyle="", marker="o", markersize=8, label="90% of the final training accuracy")
    )
    # Of the figure, not of the Axes: long names would take their width from one of the two. A column each.
    columns = (loss_ax.get_lines(), meanings)
    height = max(map(len, columns))
    empty = Line2D([], [], linestyle="", label=" ")
    handles = [line for column in columns for line in [*column, *[empty] * (height - len(column))]]
    loss_ax.figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return loss_ax, accuracy_ax


def mistakes(images: np.ndarray, captions: Sequence[str], drawn: Figure) -> list[Axes]:
    """A grid of images with a caption below each, six to a row.

    Args:
        images: uint8 (n, height, width, 3), RGB, at least one.
        captions: n, of a line or two.
        drawn: an empty figure; 1.35 inches for each column and 1.6 for each row are about right.
    """
    rows = -(-len(images) // IMAGES_A_ROW)
    grid = drawn.subplots(rows, min(IMAGES_A_ROW, len(images)), squeeze=False).ravel()
    for ax in grid:
        ax.set_axis_off()
    for ax, image, caption in zip(grid, images, captions, strict=False):
        _show(ax, image, caption)
    return list(grid[: len(images)])


def neighbours(
    images: np.ndarray,
    labels: Sequence[int],
    nearest: np.ndarray,
    nearest_labels: np.ndarray,
    class_names: Sequence[str],
    drawn: Figure,
) -> list[Axes]:
    """A row per test image: the image, then the training images nearest to it; another class has a dashed frame.

    Args:
        images: uint8 (q, height, width, 3), RGB.
        labels: q true classes.
        nearest: uint8 (q, k, height, width, 3), RGB, the nearest first.
        nearest_labels: int (q, k), their classes.
        class_names: K names.
        drawn: an empty figure; an inch for each column and 1.2 for each row are about right.

    Returns:
        The Axes, row by row.
    """
    count = nearest.shape[1]
    same, other = _colours(2)
    axes = drawn.subplots(len(images), count + 1, squeeze=False)
    for row, query, label, found, found_labels in zip(axes, images, labels, nearest, nearest_labels, strict=True):
        _show(row[0], query, class_names[label]).xaxis.label.set_fontweight("bold")
        for ax, image, found_label in zip(row[1:], found, found_labels, strict=True):
            right = found_label == label
            _show(ax, image, class_names[found_label])
            for spine in ax.spines.values():
                spine.set(visible=True, color=same if right else other, linewidth=2, linestyle="-" if right else "--")
    axes[0, 0].set_title("test image", fontsize=8)
    for number, ax in enumerate(axes[0, 1:], 1):
        ax.set_title("nearest" if number == 1 else f"{number}.", fontsize=8)
    return list(axes.ravel())


def vector_map(points: np.ndarray, labels: np.ndarray, class_names: Sequence[str], ax: Axes) -> Axes:
    """A map of vectors in two dimensions, a colour and marker per class, whose name stands where most of it is.

    Args:
        points: float (n, 2), see `analysis.figures.pictures.embedding`.
        labels: int (n,), 0..K-1.
        class_names: K names.
        ax: where to draw.
    """
    colours = _colours(len(class_names))
    for number, name in enumerate(class_names):
        these = points[labels == number]
        if not len(these):
            continue
        x, y = these.T
        marker = MARKERS[number % len(MARKERS)]
        ax.scatter(x, y, s=24, color=colours[number], marker=marker, edgecolors="0.25", linewidths=0.3, label=name)
        ax.text(
            *_densest(these),
            name,
            ha="center",
            va="center",
            fontweight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    ax.set(xticks=[], yticks=[], aspect="equal")  # only what lies near what has a meaning
    for spine in ax.spines.values():
        spine.set_visible(False)
    if len(class_names) <= MANY_CLASSES:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5, handletextpad=0, columnspacing=1.2)
    return ax


def _densest(points: np.ndarray) -> tuple[float, float]:
    """Of points (n, 2) the one whose nearest quarter is nearest to it."""
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    quarter = np.sort(distances, axis=1)[:, : 1 + len(points) // 4]
    x, y = points[quarter.mean(axis=1).argmin()]
    return float(x), float(y)


def _colours(count: int) -> list[Any]:
    return list(sns.color_palette("colorblind", count) if count <= 10 else sns.color_palette("husl", count))


def _series(rows: pd.DataFrame) -> pd.Series:
    """What the legends call the features of each row, in an order that is the same in every figure: transfer first."""
    names = rows["features"].where(rows["kind"] != "scratch", rows["features"] + ", trained from scratch")
    order = sorted(set(zip(rows["kind"], names, strict=True)), key=lambda pair: (KINDS.index(pair[0]), pair[1]))
    return names.astype(pd.CategoricalDtype(list(dict.fromkeys(name for _, name in order))))


def _looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, line style and filling of the markers of each name in `_series`."""
    names = _series(rows).cat.categories
    return {
        name: {"color": colour, "linestyle": LINES[number % len(LINES)], "fillstyle": FILLS[number % len(FILLS)]}
        for number, (name, colour) in enumerate(zip(names, _colours(len(names)), strict=True))
    }


def _markers(rows: pd.DataFrame) -> dict[str, str]:
    """A marker for each head."""
    return {model: MARKERS[number % len(MARKERS)] for number, model in enumerate(sorted(set(rows["model"])))}


def _offset(number: int, count: int) -> float:
    """Where, within its line, a figure of several puts the marks of one series."""
    return 0.6 * ((number + 0.5) / count - 0.5)


def _intervals(ax: Axes, values: np.ndarray, places: Sequence[float], **look: Any) -> None:
    """Marks with their intervals along x; `values` (n, 3) are value, low and high."""
    centre, low, high = values.T
    # A bootstrap interval may lie beside its value, but not an error bar.
    lengths = np.maximum([centre - low, high - centre], 0)
    ax.errorbar(centre, places, xerr=lengths, linestyle="none", capsize=2.5, elinewidth=1.2, **look)


def _stripes(ax: Axes, names: Sequence[str]) -> None:
    """Names up the y axis, every second line shaded, and a grid along x."""
    for place in range(0, len(names), 2):
        ax.axhspan(place - 0.5, place + 0.5, color="0.95", lw=0, zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.5, len(names) - 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Counts (K, K) in percent of their rows; zero for a class without rows."""
    return 100 * counts / np.maximum(counts.sum(axis=1), 1)[:, None]


def _log_axis(ax: Axes) -> None:
    """A logarithmic x axis whose numbers are written out."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _apart(sizes: Sequence[int]) -> list[int]:
    """Those of the sorted sizes whose numbers do not meet on a logarithmic axis: the largest, and on down."""
    kept = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if size * (sizes[-1] / sizes[0]) ** 0.07 < kept[-1]:
            kept.append(size)
    return kept[::-1]


def _legends(
    ax: Axes, looks: Mapping[str, Mapping[str, Any]], markers: Mapping[str, str], by: str, *more: Line2D
) -> None:
    """Two legends: above the features by colour and `by` (a key of `_looks`), to the right the heads by marker."""
    lines = [
        Line2D([], [], color=look["color"], label=name, marker="o" if by == "fillstyle" else "",
               markerfacecoloralt="white",
               linestyle=look["linestyle"] if by == "linestyle" else "", fillstyle=look["fillstyle"])
        for name, look in looks.items()
    ]  # fmt: skip
    heads = [Line2D([], [], color="0.3", marker=marker, linestyle="", label=model) for model, marker in markers.items()]
    first = ax.legend(handles=[*lines, *more], loc="lower left", bbox_to_anchor=(0, 1))
    ax.add_artist(first).set_clip_on(False)  # the layout makes no room for what is clipped
    ax.legend(handles=heads, title="head", loc="upper left", bbox_to_anchor=(1, 1), handlelength=1)


def _show(ax: Axes, image: np.ndarray, caption: str) -> Axes:
    """An image with a caption below, and no axes."""
    ax.set_axis_on()
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(caption, fontsize=8)
    return ax
