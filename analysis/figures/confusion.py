"""Confusion matrices: which classes are taken for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle

from analysis.figures import names, style
from classify.statistics import confusion_counts

NAMED_PAIRS = 3
NAME_INCHES = 1.6
WORST_PAIRS = 15
PAIR_INCHES, PAIR_SIZE = 2.2, 9.0


def counts_of(predictions: pd.DataFrame, classes: int) -> np.ndarray:
    """The confusion matrix of a run's predictions in rows, int64 (K, K): true class by predicted class."""
    return confusion_counts(predictions["label"].to_numpy(), predictions["predicted"].to_numpy(), classes)


def class_order(confusions: Sequence[np.ndarray]) -> list[int]:
    """One order of the classes for several confusion matrices that puts confused classes side by side.

    Average linkage on the shares of mutual confusion, with the leaves ordered after Bar-Joseph et al.,
    Fast optimal leaf ordering for hierarchical clustering, Bioinformatics 17, 2001.

    Args:
        confusions: int (K, K) each, from `counts_of`.

    Returns:
        The K class numbers.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = np.mean([_percent_of_rows(counts) for counts in confusions], axis=0)
    if len(shares) < 3:
        return list(range(len(shares)))
    similarity = shares + shares.T
    np.fill_diagonal(similarity, 0)
    distances = similarity.max() - similarity
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances), "average", optimal_ordering=True)
    order = [int(k) for k in leaves_list(tree)]
    return order if order[0] < order[-1] else order[::-1]  # both directions are equally good: always the same one


def most_confused(counts: np.ndarray, class_names: Sequence[str], n: int) -> list[tuple[str, str, int]]:
    """The n most frequent mistakes, most frequent first: true class, predicted class, number of rows."""
    return [
        (class_names[true], class_names[predicted], int(counts[true, predicted]))
        for true, predicted in _most_frequent(counts, n)
    ]


def confusion(
    counts: np.ndarray,
    class_names: Sequence[str],
    ax: Axes,
    order: Sequence[int] | None = None,
    *,
    named: bool = True,
    scale: bool = True,
) -> Axes:
    """Confusion matrix in percent of each true class; the most frequent mistakes are framed and named.

    Colours follow the square root of the share, which makes mistakes visible.

    Args:
        counts: int (K, K), from `counts_of`.
        class_names: K names; for more than `style.MANY_CLASSES`, `worst_pairs` is easier to read.
        ax: where to draw.
        order: of the classes, from `class_order`; without it, they are ordered by number.
        named: whether the true classes are named; beside another matrix in the same order they need not be.
        scale: whether the scale of colours stands at the right.
    """
    order = list(range(len(class_names))) if order is None else list(order)
    texts = names.fitted(class_names, NAME_INCHES, word="class")
    shown = [texts[k] for k in order]
    sns.heatmap(
        _percent_of_rows(counts)[np.ix_(order, order)],
        ax=ax,
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 100),
        annot=np.array([_cells(counts[k])[order] for k in order]),
        annot_kws={"fontsize": 8},
        fmt="",
        square=True,
        linewidths=0.5,
        xticklabels=shown,
        yticklabels=shown if named else False,
        cbar=scale,
        cbar_kws={"label": "% of the true class", "shrink": 0.8, "ticks": [0, 5, 20, 50, 100]},
    )
    mistakes = _most_frequent(counts, NAMED_PAIRS)
    for true, predicted in mistakes:
        corner = (order.index(predicted), order.index(true))
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.5))
    pairs = [f"{texts[true]} as {texts[predicted]} ({counts[true, predicted]:,})" for true, predicted in mistakes]
    ax.set_xlabel("\n".join(["predicted", *(["most frequent mistakes:"] if pairs else []), *pairs]), fontsize=9)
    ax.set_ylabel("true" if named else "")
    for label in ax.get_xticklabels():
        label.set(rotation=45, rotation_mode="anchor", ha="right", va="center")
    ax.tick_params(axis="y", rotation=0)
    return ax


def worst_pairs(
    counts: np.ndarray, class_names: Sequence[str], ax: Axes, colour: Any = "C0", most: int = WORST_PAIRS
) -> Axes:
    """The most frequent mistakes of many classes, the most frequent on top: a bar for the share of the true class.

    Args:
        counts: int (K, K), from `counts_of`.
        class_names: K names.
        ax: where to draw; 0.38 inches for each bar suit it.
        colour: of the bars.
        most: number of bars.
    """
    texts = names.fitted(class_names, PAIR_INCHES, PAIR_SIZE, word="class")
    shown = _most_frequent(counts, most)
    percent = [_percent_of_rows(counts)[pair] for pair in shown]
    heights = range(len(shown))
    ax.barh(heights, percent, color=colour, height=0.7)
    for height, (true, predicted), length in zip(heights, shown, percent, strict=True):
        rows, own = counts[true].sum(), counts[true, predicted]
        text = f" {style.percent(own / rows, rows)} ({own:,} of {rows:,})"
        ax.text(length, height, text, va="center", fontsize=PAIR_SIZE)
    labels = [f"{texts[true]}\ntaken for {texts[predicted]}" for true, predicted in shown]
    ax.set_yticks(heights, labels, fontsize=PAIR_SIZE)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    longest = max(percent, default=100)
    ax.set_xlim(0, 1.4 * longest)  # room for the texts behind the bars
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= max(longest, 100)])
    if not shown:
        ax.text(0.5, 0.5, "no mistakes", transform=ax.transAxes, ha="center")
    ax.set_xlabel("% of the true class")
    ax.grid(axis="x", alpha=0.3)
    return ax


def _most_frequent(counts: np.ndarray, n: int) -> list[tuple[int, int]]:
    """The n most frequent mistakes, most frequent first: true and predicted class."""
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    pairs = [divmod(int(index), len(counts)) for index in np.argsort(-mistakes, axis=None, kind="stable")[:n]]
    return [pair for pair in pairs if mistakes[pair]]


def _cells(row: np.ndarray) -> np.ndarray:
    """A row of counts (K,) as percentages without their sign; shares below half a percent are empty."""
    images = row.sum()
    return np.array(["" if 200 * own < images or not own else style.percent(own / images, images)[:-1] for own in row])


def _percent_of_rows(counts: np.ndarray) -> np.ndarray:
    """Counts (K, K) in percent of their rows; zero for a class without rows."""
    return 100 * counts / np.maximum(counts.sum(axis=1), 1)[:, None]
