"""Charts of runs: each function draws on the Axes it is given and returns them.

`rows` are rows of `analysis.frame.comparison` of one test set; `runs` are results by their name in the legend.
`looks` come from `style.looks_of` all rows of the test set, so that features have one colour in all figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.frame import epoch_near_end, training_cost
from classify.runs import RunResult

RECALL_LINES = 24
INTERVAL = ["accuracy", "accuracy_low", "accuracy_high"]


Dots = list[tuple[str, Sequence[float], str]]
"""The dots of a series: the line, (value, low, high) as shares, and the head, whose marker is drawn."""


def accuracy(rows: pd.DataFrame, ax: Axes, looks: Mapping[str, Any] | None = None, chance: float | None = None) -> Axes:
    """Accuracy with its 95% interval: a line and marker per head, a colour per kind of features; and chance, 0..1."""
    heads = list(rows.groupby("model")["accuracy"].max().sort_values().index)
    looks = looks or style.looks_of(rows)
    series: dict[str, Dots] = {}
    for name, own in rows.groupby(style.series_of(rows), observed=True):
        series[str(name)] = list(zip(own["model"], own[INTERVAL].to_numpy(float), own["model"], strict=True))
    handles = _dot_plot(ax, heads, series, looks)
    if chance is not None:
        handles.append(style.draw_chance(ax, chance, upright=True))
    ax.set_xlabel("accuracy on the test images, % (with 95% interval)")
    style.legend_above(ax, "features", handles)
    return ax


def recall(
    runs: Mapping[str, RunResult], ax: Axes, looks: Mapping[str, Any] | None = None, most: int = RECALL_LINES
) -> list[str]:
    """Recall with its 95% interval: a line per class, the highest on top, a colour and marker per run.

    Args:
        runs: by their names in the legend.
        ax: where to draw.
        looks: by the names of the runs; None for colours in order.
        most: with more classes than this, three quarters of so many lines show the lowest recalls, the rest the
            highest ones.

    Returns:
        The names of the classes that are not shown.
    """
    looks = looks or dict(zip(runs, ({"color": colour} for colour in style.colours(len(runs))), strict=True))
    series: dict[str, Dots] = {}
    for label, run in runs.items():
        series[label] = [(name, interval, run.model) for name, interval in run.recall.items() if interval]
    values = pd.DataFrame({label: {name: interval[0] for name, interval, _ in own} for label, own in series.items()})
    classes = list(values.mean(axis=1).sort_values(kind="stable").index)
    left_out = []
    if len(classes) > most:
        lowest = 3 * most // 4
        left_out = classes[lowest : lowest - most]
        classes = [*classes[:lowest], *classes[lowest - most :]]
    shown = {label: [dot for dot in own if dot[0] in classes] for label, own in series.items()}
    handles = _dot_plot(ax, classes, shown, looks)
    all_names = list(next(iter(runs.values())).recall)
    short = dict(zip(all_names, style.shown_names(all_names), strict=True))
    ax.set_yticks(range(len(classes)), [short[name] for name in classes])
    ax.set_xlabel("recall: correct among the images of the class, % (with 95% interval)")
    style.legend_above(ax, None, handles)
    return left_out


def _dot_plot(ax: Axes, lines: Sequence[str], series: Mapping[str, Dots], looks: Mapping[str, Any]) -> list[Line2D]:
    """Values with their intervals along x, in percent; every second line is shaded. Returns what the legend shows.

    Args:
        ax: where to draw.
        lines: the names up the y axis.
        series: the dots by the name in the legend.
        looks: colour, and fill style if there is one, by the name in the legend.
    """
    handles = []
    for number, (label, dots) in enumerate(series.items()):
        shift = 0.6 * ((number + 0.5) / len(series) - 0.5)  # the series stand below one another in each line
        colour, fill = looks[label]["color"], looks[label].get("fillstyle", "full")
        look = {"color": colour, "fillstyle": fill, "markerfacecoloralt": "white", "linestyle": "none"}
        heads = dict.fromkeys(model for _, _, model in dots)
        for head in heads:
            own = [(line, interval) for line, interval, model in dots if model == head]
            heights = [lines.index(line) - shift for line, _ in own]
            value, low, high = 100 * np.array([interval for _, interval in own]).T
            # A bootstrap interval may lie beside its value; error bars cannot have a negative length.
            lengths = np.maximum([value - low, high - value], 0)
            shape = style.marker_of(head)
            ax.errorbar(value, heights, xerr=lengths, marker=shape, label=label, capsize=2.5, elinewidth=1.2, **look)
        shape = style.marker_of(next(iter(heads))) if len(heads) == 1 else "o"
        handles.append(Line2D([], [], marker=shape, label=label, **look))
    for height in range(0, len(lines), 2):
        ax.axhspan(height - 0.5, height + 0.5, color="0.95", lw=0, zorder=0)
    ax.set_yticks(range(len(lines)), lines)
    ax.set_ylim(-0.5, len(lines) - 0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)
    return handles


def reliability(runs: Mapping[str, RunResult], ax: Axes) -> Axes:
    """Accuracy against confidence in bins of equally many images; calibrated probabilities lie on the diagonal."""
    ax.plot([0, 100], [0, 100], color="0.5", linewidth=1, label="confidence = accuracy")
    colours = style.colours(len(runs))
    for number, (label, run) in enumerate(runs.items()):
        ax.plot(
            [100 * part["confidence"] for part in run.reliability],
            [100 * part["accuracy"] for part in run.reliability],
            color=colours[number],
            marker=style.marker_of(run.model),
            linestyle=style.line_style(number),
            label=f"{label} (ECE {100 * run.ece:.1f}%)",
        )
    ax.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    ax.set_xlabel("confidence: probability of the predicted class, %")
    ax.set_ylabel("accuracy, %")
    ax.grid(alpha=0.3)
    style.legend_above(ax)
    return ax


def learning_curves(
    curves: pd.DataFrame, ax: Axes, looks: Mapping[str, Any] | None = None, chance: float | None = None
) -> Axes:
    """Accuracy against the number of training images, with bands; and chance, 0..1.

    A colour and line style stands for the features, a marker for the head. `curves` come from
    `analysis.findings.learning_curves`.
    """
    own = style.looks_of(curves)
    looks, markers = {name: (looks or own)[name] for name in own}, style.markers_of(curves)
    for approach, rows in curves.sort_values("train_rows").groupby("approach"):
        look = looks[style.series_of(rows).iloc[0]]
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
    style.use_log_axis(ax)
    ax.set_xticks(style.ticks_apart(sorted(set(curves["train_rows"]))))
    ax.set_xlabel("training images")
    ax.set_ylabel("accuracy on the test images, %")
    ax.grid(alpha=0.3)
    more = [] if chance is None else [style.draw_chance(ax, chance, upright=False)]
    style.draw_two_legends(ax, looks, markers, "linestyle", *more)
    return ax


def pareto(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The Pareto front, bool (n,): items that no other item beats by a higher value for no more cost, or as high for
    less. Costs and values are float (n,).
    """
    as_good = (costs <= costs[:, None]) & (values >= values[:, None])  # [i, j]: j is as good as i
    better = (costs < costs[:, None]) | (values > values[:, None])
    return np.logical_not((as_good & better).any(axis=1))


def cost(rows: pd.DataFrame, ax: Axes, looks: Mapping[str, Any] | None = None) -> Axes:
    """Accuracy against `training_cost`; a line joins the Pareto front."""
    own = style.looks_of(rows)
    looks, markers = {name: (looks or own)[name] for name in own}, style.markers_of(rows)
    seconds = training_cost(rows)["seconds"].to_numpy(float)
    percent = 100 * rows[INTERVAL].to_numpy(float)
    front = np.flatnonzero(pareto(seconds, percent[:, 0]))
    front = front[np.argsort(seconds[front], kind="stable")]
    (line,) = ax.plot(
        seconds[front], percent[front, 0], color="0.6", drawstyle="steps-post", zorder=1, label="Pareto front"
    )
    for number, (name, model) in enumerate(zip(style.series_of(rows), rows["model"], strict=True)):
        value, low, high = percent[number]
        ax.errorbar(
            seconds[number],
            value,
            yerr=np.abs([[low - value], [high - value]]),
            color=looks[name]["color"],
            fillstyle=looks[name]["fillstyle"],
            marker=markers[model],
            markerfacecoloralt="white",
            markersize=7,
            elinewidth=1,
            linestyle="none",
            label=f"{model} on {name}",
        )
    style.use_log_axis(ax)
    ax.set_xlabel("seconds to fit, and to extract the training images' features")
    ax.set_ylabel("accuracy on the test images, %")
    ax.grid(alpha=0.3)
    style.draw_two_legends(ax, looks, markers, "fillstyle", line)
    return ax


def convergence(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    loss_ax: Axes,
    accuracy_ax: Axes,
    *,
    looks: Mapping[str, Any] | None = None,
) -> tuple[Axes, Axes]:
    """Loss and accuracy by epoch, with a mark at 90% of the final training accuracy.

    Args:
        histories: `RunResult.history` by the run's name in the legend, which stands above both Axes.
        loss_ax: for the loss on the training rows.
        accuracy_ax: for the accuracy on the training rows, and on validation rows if it was measured.
        looks: by the names of the runs; None for colours in order.
    """
    validated = False
    colours = style.colours(len(histories))
    for number, (label, history) in enumerate(histories.items()):
        colour = looks[label]["color"] if looks else colours[number]
        look: dict[str, Any] = {"color": colour, "linestyle": style.line_style(number)}
        epochs = np.arange(1, len(history["loss"]) + 1)
        loss_ax.plot(epochs, history["loss"], linewidth=2, label=label, **look)
        percent = 100 * np.asarray(history["accuracy"])
        near_end = epoch_near_end(history["accuracy"]) - 1  # as an index
        accuracy_ax.plot(epochs, percent, linewidth=2, marker="o", markevery=[near_end], markersize=8, **look)
        validation = history.get("validation_accuracy")  # empty if there were too few images to hold some out
        if validation:
            validated = True
            accuracy_ax.plot(epochs, 100 * np.asarray(validation), linewidth=0.9, **look)
    for ax, name in ((loss_ax, "loss"), (accuracy_ax, "accuracy, %")):
        ax.set_xlabel("epoch")
        ax.set_ylabel(name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    loss_ax.set_ylim(bottom=0)
    _legend_of_two_columns(loss_ax, validated=validated)
    return loss_ax, accuracy_ax


def _legend_of_two_columns(loss_ax: Axes, *, validated: bool) -> None:
    """The runs in one column, the meaning of line widths and marks in the other.

    The legend belongs to the figure: in one of the Axes, long names would take their width from it.
    """
    meanings = [Line2D([], [], color="0.3", linewidth=2, label="training images")]
    if validated:
        meanings.append(Line2D([], [], color="0.3", linewidth=0.9, label="validation images"))
    mark = Line2D(
        [], [], color="0.3", linestyle="", marker="o", markersize=8, label="90% of the final training accuracy"
    )
    meanings.append(mark)
    runs = loss_ax.get_lines()
    height = max(len(runs), len(meanings))
    # matplotlib fills columns of equal height, so the shorter one gets empty lines.
    empty = Line2D([], [], linestyle="", label=" ")
    handles = [*runs, *[empty] * (height - len(runs)), *meanings, *[empty] * (height - len(meanings))]
    loss_ax.figure.legend(handles=handles, loc="outside upper center", ncols=2)
