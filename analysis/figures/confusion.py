"""Confusion matrices: which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle

from analysis.figures import style
from classify.statistics import confusion_counts

NAMED_PAIRS = 3
WORST_PAIRS = 20


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
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    found = []
    for index in np.argsort(-mistakes, axis=None, kind="stable")[:n]:
        true, predicted = divmod(int(index), len(class_names))
        if mistakes[true, predicted]:
            found.append((class_names[true], class_names[predicted], int(mistakes[true, predicted])))
    return found


def worst_pairs(counts: np.ndarray, class_names: Sequence[str], ax: Axes, most: int = WORST_PAIRS) -> Axes:
    """The classes that are most often taken for another one, as bars: for many classes, whose matrix cannot be read.

    Args:
        counts: int (K, K), from `counts_of`.
        class_names: K names.
        ax: where to draw.
        most: number of bars.
    """
    names = style.shown_names(class_names)
    worst = most_confused(counts, names, most)[::-1]
    sizes = counts.sum(axis=1)
    shares = [100 * rows / sizes[names.index(true)] for true, _, rows in worst]
    bars = ax.barh(range(len(worst)), shares, color=style.colours(1)[0])
    ax.bar_label(bars, [f" {rows:,}" for _, _, rows in worst], fontsize=8)
    ax.set_yticks(range(len(worst)), [f"{true} taken for {predicted}" for true, predicted, _ in worst], fontsize=8)
    ax.set_xlabel("% of the true class (and number of images)")
    ax.grid(axis="x", alpha=0.3)
    ax.margins(x=0.12)
    return ax


def confusion(counts: np.ndarray, class_names: Sequence[str], ax: Axes, order: Sequence[int] | None = None) -> Axes:
    """Confusion matrix in percent of each true class; the most frequent mistakes are framed and named.

    Shares below half a percent have no number. Colours follow the square root of the share, which makes mistakes
    visible. `order` comes from `class_order`; without it, classes are ordered by number.
    """
    order = list(range(len(class_names))) if order is None else list(order)
    class_names = style.shown_names(class_names)
    names = [class_names[k] for k in order]
    shares = _percent_of_rows(counts)[np.ix_(order, order)]
    few = len(names) <= style.MANY_CLASSES
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
    named = most_confused(counts, class_names, NAMED_PAIRS)
    for true, predicted, _ in named:
        corner = (names.index(predicted), names.index(true))
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.5))
    pairs = "; ".join(f"{true} as {predicted} ({rows:,})" for true, predicted, rows in named)
    ax.set_xlabel(f"predicted\nmost frequent mistakes: {pairs}" if named else "predicted")
    ax.set_ylabel("true")
    for label in ax.get_xticklabels():
        label.set(rotation=45 if few else 90, rotation_mode="anchor", ha="right", va="center")
    ax.tick_params(axis="y", rotation=0)
    return ax


def _percent_of_rows(counts: np.ndarray) -> np.ndarray:
    """Counts (K, K) in percent of their rows; zero for a class without rows."""
    return 100 * counts / np.maximum(counts.sum(axis=1), 1)[:, None]
