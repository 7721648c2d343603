"""Charts of runs: each function draws on the Axes it is given and returns them.

`rows` are rows of `analysis.frame.comparison` of one test set; `runs` are results by their name in the legend.
`looks` come from `style.looks_of` all rows of the test set, so that features have one colour in all figures: by the
name of the features, or for runs by their name in the legend.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import names, style
from analysis.figures.style import Chance, Looks
from analysis.figures.vector import tag
from analysis.frame import epoch_near_end, training_cost
from classify.runs import RunResult, head_name

RECALL_LINES = 20
MARKED = 20  # points of a line, at most, for each of them to have a marker
LABEL_INCHES = 2.4
HEAD_INCHES = 1.5
NEAR_END_MARK = "90% of the final training accuracy"
INTERVAL = ["accuracy", "accuracy_low", "accuracy_high"]
Dots = list[tuple[int, Sequence[float], str]]
"""The dots of a series: the number of the line from below, (value, low, high) as shares, and the head."""


def accuracy(rows: pd.DataFrame, ax: Axes, looks: Looks | None = None, chance: Chance | None = None) -> Axes:
    """Accuracy with its 95% interval: a line and marker per head, a colour and fill per kind of features."""
    rows = rows.assign(head=[head_name(row) for row in rows.itertuples()])
    heads = list(rows.groupby("head")["accuracy"].max().sort_values().index)
    looks = looks or style.looks_of(rows)
    series: dict[str, Dots] = {}
    for name, own in rows.groupby(style.series_of(rows), observed=True):
        lines = [heads.index(head) for head in own["head"]]
        series[str(name)] = list(zip(lines, own[INTERVAL].to_numpy(float), own["model"], strict=True))
    handles = _dot_plot(ax, names.fitted(heads, LABEL_INCHES), series, looks)
    handles += style.draw_chance(ax, chance, upright=True)
    _end_at_a_hundred(ax)
    ax.set_xlabel("accuracy on the test images, % (with 95% interval)")
    style.legend_above(ax, "features", handles)
    return ax


def recall(runs: Mapping[str, RunResult], ax: Axes, looks: Looks | None = None, most: int = RECALL_LINES) -> list[str]:
    """Recall with its 95% interval: a line per class, the highest on top, a colour and marker per run.

    Args:
        runs: by their names in the legend.
        ax: where to draw.
        looks: by the names of the runs; None for colours in order.
        most: with more classes than this, three quarters of so many lines show the lowest recalls, the rest the
            highest ones, and a line between them says how many are left out.

    Returns:
        The names of the classes that are not shown.
    """
    values = {label: {name: box for name, box in run.recall.items() if box} for label, run in runs.items()}
    means = pd.DataFrame({label: {name: own[name][0] for name in own} for label, own in values.items()}).mean(axis=1)
    classes = list(means.sort_values(kind="stable").index)
    all_names = list(next(iter(runs.values())).recall)
    text_of = dict(zip(all_names, names.fitted(all_names, LABEL_INCHES, word="class"), strict=True))
    lines = {name: number for number, name in enumerate(classes)}
    texts = [text_of[name] for name in classes]
    left_out = []
    if len(classes) > most:
        lowest, highest = classes[: 3 * most // 4], classes[3 * most // 4 - most :]
        left_out = classes[len(lowest) : -len(highest)]
        lines = {name: number for number, name in enumerate([*lowest, None, *highest]) if name is not None}
        texts = [*(text_of[name] for name in lowest), f"({len(left_out):,} more)", *(text_of[name] for name in highest)]
    series: dict[str, Dots] = {}
    for label, own in values.items():
        series[label] = [(lines[name], box, runs[label].model) for name, box in own.items() if name in lines]
    handles = _dot_plot(ax, texts, series, looks or _colours_in_order(runs))
    _end_at_a_hundred(ax)
    ax.set_xlabel("recall: correct among the images of the class, % (with 95% interval)")
    style.legend_above(ax, None, handles)
    return left_out


def _dot_plot(ax: Axes, lines: Sequence[str], series: Mapping[str, Dots], looks: Looks) -> list[Line2D]:
    """Values with their intervals along x, in percent; every second line is shaded. Returns what the legend shows.

    Args:
        ax: where to draw.
        lines: the texts up the y axis.
        series: the dots by the name in the legend.
        looks: colour, and fill style if there is one, by the name in the legend.
    """
    handles = []
    for number, (label, dots) in enumerate(series.items()):
        shift = 0.6 * ((number + 0.5) / len(series) - 0.5)  # the series stand below one another in each line
        colour, fill = looks[label]["color"], looks[label].get("fillstyle", "full")
        look = {"color": colour, "fillstyle": fill, "linestyle": "none", **style.HALF_WHITE}
        heads = dict.fromkeys(model for _, _, model in dots)
        for head in heads:
            own = [(line, interval) for line, interval, model in dots if model == head]
            heights = [line - shift for line, _ in own]
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


def _end_at_a_hundred(ax: Axes) -> None:
    """End the x axis at 0% and 100%, where a dot has a width; all must have been drawn."""
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -2), min(high, 102))
    ax.set_xticks([tick for tick in ax.get_xticks() if max(low, 0) <= tick <= min(high, 100)])


def _colours_in_order(labels: Iterable[str]) -> Looks:
    """Looks of series that have no features in common with another figure."""
    return {
        label: {"color": colour, "linestyle": style.line_style(number)}
        for number, (label, colour) in enumerate(zip(labels, style.colours(len(list(labels))), strict=True))
    }


def reliability(
    runs: Mapping[str, RunResult], ax: Axes, looks: Looks | None = None, chance: Chance | None = None
) -> Axes:
    """Accuracy against confidence in bins of equally many images; calibrated probabilities lie on the diagonal.

    Heads on the same features have shades of one colour.
    """
    ax.plot([0, 100], [0, 100], color="0.5", linewidth=1, label="confidence = accuracy")
    looks = looks or _colours_in_order(runs)
    labels = names.fitted(list(runs), HEAD_INCHES)
    for label, run, look in zip(labels, runs.values(), style.apart([looks[name] for name in runs]), strict=True):
        (line,) = ax.plot(
            [100 * part["confidence"] for part in run.reliability],
            [100 * part["accuracy"] for part in run.reliability],
            color=look["color"],
            marker=style.marker_of(run.model),
            linestyle=look["linestyle"],
            label=f"{label} (ECE {style.percent(run.ece, run.test_rows)})",
        )
        tag(line, "", run.model)
    style.draw_chance(ax, chance)
    ax.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    ax.set_xlabel("confidence: probability of the predicted class, %")
    ax.set_ylabel("accuracy, %")
    ax.grid(alpha=0.3)
    style.legend_above(ax, columns=2)
    return ax


def learning_curves(curves: pd.DataFrame, ax: Axes, looks: Looks | None = None, chance: Chance | None = None) -> Axes:
    """Accuracy against the number of training images, with bands.

    A colour and line style stands for the features, a marker for the head. `curves` come from
    `analysis.findings.learning_curves`.
    """
    own = style.looks_of(curves)
    looks, markers = {name: (looks or own)[name] for name in own}, style.markers_of(curves)
    for approach, rows in curves.sort_values("train_rows").groupby("approach"):
        look = looks[style.series_of(rows).iloc[0]]
        sizes, colour = rows["train_rows"], look["color"]
        bounds = 100 * rows["low"], 100 * rows["high"]
        band = ax.fill_between(sizes, *bounds, color=colour, alpha=0.15, linewidth=0)
        (line,) = ax.plot(
            sizes,
            100 * rows["accuracy"],
            color=colour,
            linestyle=look["linestyle"],
            marker=markers[rows["model"].iloc[0]],
            label=approach,
        )
        for artist in (band, line):
            tag(artist, rows["features"].iloc[0], rows["model"].iloc[0])
    style.use_log_axis(ax)
    ax.set_xticks(style.ticks_apart(sorted(set(curves["train_rows"]))))
    ax.set_xlabel("training images")
    ax.set_ylabel("accuracy on the test images, %")
    ax.grid(alpha=0.3)
    style.draw_two_legends(ax, looks, markers, "linestyle", *style.draw_chance(ax, chance))
    return ax


def cost(
    rows: pd.DataFrame,
    ax: Axes,
    looks: Looks | None = None,
    chance: Chance | None = None,
    best: Mapping[str, pd.DataFrame] | None = None,
) -> Axes:
    """Accuracy against `training_cost`; a line for each side shows the best accuracy within as many seconds.

    `best` holds the `best_by_seconds` of the sides, by their names in the legend.
    """
    own = style.looks_of(rows)
    looks, markers = {name: (looks or own)[name] for name in own}, style.markers_of(rows)
    seconds = training_cost(rows)["seconds"].to_numpy(float)
    percent = 100 * rows[INTERVAL].to_numpy(float)
    lines = []
    for (label, side), dashes in zip((best or {}).items(), style.LINES, strict=False):
        reached = [*side["seconds"], max(seconds.max(), side["seconds"].max())]
        accuracies = 100 * np.array([*side["accuracy"], side["accuracy"].iloc[-1]])
        lines += ax.plot(
            reached, accuracies, color="0.55", linestyle=dashes, drawstyle="steps-post", zorder=1, label=label
        )
    for number, (name, model) in enumerate(zip(style.series_of(rows), rows["model"], strict=True)):
        value, low, high = percent[number]
        drawn = ax.errorbar(
            seconds[number],
            value,
            yerr=np.abs([[low - value], [high - value]]),
            color=looks[name]["color"],
            fillstyle=looks[name]["fillstyle"],
            marker=markers[model],
            elinewidth=1,
            linestyle="none",
            label=f"{model} on {name}",
            **style.HALF_WHITE,
        )
        for artist in drawn.get_children():
            tag(artist, rows["features"].iloc[number], model)
    style.use_log_axis(ax)
    ax.set_xlabel("seconds to fit, and to extract the training images' features")
    ax.set_ylabel("accuracy on the test images, %")
    ax.grid(alpha=0.3)
    style.draw_two_legends(ax, looks, markers, "fillstyle", *lines, *style.draw_chance(ax, chance))
    return ax


def spread(lines: Sequence[str], series: Mapping[str, Dots], ax: Axes) -> Axes:
    """Standard deviations with their 95% intervals: a line per head, a colour and fill per cause.

    Args:
        lines: the heads, from below.
        series: the dots by their cause.
        ax: where to draw.
    """
    plain = _colours_in_order(series).items()
    looks = {cause: {**look, "fillstyle": fill} for (cause, look), fill in zip(plain, style.FILLS, strict=False)}
    handles = _dot_plot(ax, names.fitted(lines, LABEL_INCHES), series, looks)
    right = ax.get_xlim()[1]
    ax.set_xlim(-0.02 * right, right)  # room for the marks at zero
    ax.set_xlabel("standard deviation of the accuracy, points (with 95% interval)")
    style.legend_above(ax, None, handles)
    return ax


def optimism(by_number: Sequence[float], ax: Axes) -> Axes:
    """By how much the best of N heads looks better than it is, 0..1, for N = 1, 2, ...; the last point is larger."""
    numbers = np.arange(1, len(by_number) + 1)
    points = 100 * np.asarray(by_number)
    ax.plot(numbers, points, color="C0", marker="o" if len(numbers) <= MARKED else None)
    ax.plot(numbers[-1:], points[-1:], color="C0", marker="o", markersize=9, linestyle="none")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(0.5, numbers[-1] + 0.5)
    ax.set_ylim(0, 1.15 * max(points.max(), 0.1))
    ax.set_xlabel("number of heads to choose from")
    ax.set_ylabel("points too high")
    ax.grid(alpha=0.3)
    return ax


def convergence(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    loss_ax: Axes,
    accuracy_ax: Axes,
    *,
    looks: Looks | None = None,
    chance: Chance | None = None,
) -> tuple[Axes, Axes]:
    """Loss and accuracy by epoch, with a mark, the head's, at 90% of the final training accuracy.

    Args:
        histories: `RunResult.history` by the run's name in the legend, which stands below both Axes.
        loss_ax: for the loss on the training rows.
        accuracy_ax: for the accuracy on the training rows, and on validation rows if it was measured.
        looks: by the names of the runs, with the head's marker; None for colours in order.
        chance: for a line among the accuracies.
    """
    validated = False
    looks = looks or _colours_in_order(histories)
    for (label, history), own in zip(histories.items(), style.apart([looks[name] for name in histories]), strict=True):
        look: dict[str, Any] = {"color": own["color"], "linestyle": own["linestyle"]}
        near_end = epoch_near_end(history["accuracy"]) - 1  # as an index
        mark: dict[str, Any] = {"marker": own.get("marker", "o"), "markevery": [near_end], "markersize": 8}
        epochs = np.arange(1, len(history["loss"]) + 1)
        loss_ax.plot(epochs, history["loss"], linewidth=2, label=label, **look, **mark)
        accuracy_ax.plot(epochs, 100 * np.asarray(history["accuracy"]), linewidth=2, **look, **mark)
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
    _legend_of_two_columns(loss_ax, style.draw_chance(accuracy_ax, chance), validated=validated)
    return loss_ax, accuracy_ax


def _legend_of_two_columns(loss_ax: Axes, chance: Sequence[Line2D], *, validated: bool) -> None:
    """The runs in one column, the meaning of line widths and marks in the other.

    The legend belongs to the figure: in one of the Axes, long names would take their width from it.
    """
    meanings = [Line2D([], [], color="0.3", linewidth=2, label="training images")]
    if validated:
        meanings.append(Line2D([], [], color="0.3", linewidth=0.9, label="validation images"))
    mark = Line2D([], [], color="0.3", linestyle="", marker="o", markersize=8, label=NEAR_END_MARK)
    meanings += [mark, *chance]
    runs = loss_ax.get_lines()
    height = max(len(runs), len(meanings))
    # matplotlib fills columns of equal height, so the shorter one gets empty lines.
    empty = Line2D([], [], linestyle="", label=" ")
    handles = [*runs, *[empty] * (height - len(runs)), *meanings, *[empty] * (height - len(meanings))]
    legend = loss_ax.figure.legend(handles=handles, loc="outside lower center", ncols=2)
    style.fit_legend(legend, 0.5 * style.figure_width(loss_ax))
