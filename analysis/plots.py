"""The figures: each function draws on the Axes it is given and returns them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featurize.files import written_whole

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "frozenbench",  # the same figure gives the same file
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}
MARKERS = "osD^vPX*<>"


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of the house style and its Axes, without a window or global state."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.add_subplot()


def save(drawn: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    for path in paths:
        with written_whole(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            drawn.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def accuracy(table: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy with its 95% interval: a line per head, a colour and marker per kind of features.

    Args:
        table: rows of `analysis.tables.comparison` of one test set.
        ax: where to draw.
    """
    heads = list(table.groupby("model")["accuracy"].max().sort_values().index)
    kinds = list(table.groupby("features")["accuracy"].max().sort_values(ascending=False).index)
    colours = sns.color_palette("colorblind", len(kinds))
    for number, (kind, colour) in enumerate(zip(kinds, colours, strict=True)):
        rows = table[table["features"] == kind]
        offset = 0.5 * ((number + 0.5) / len(kinds) - 0.5)
        value = 100 * rows["accuracy"]
        ax.errorbar(
            value,
            [heads.index(model) - offset for model in rows["model"]],
            xerr=[value - 100 * rows["accuracy_low"], 100 * rows["accuracy_high"] - value],
            fmt=MARKERS[number % len(MARKERS)],
            color=colour,
            capsize=3,
            label=kind,
        )
    ax.set_yticks(range(len(heads)), heads)
    ax.set_xlabel("accuracy on the test images, % (with 95% interval)")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(title="features", loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return ax


def confusion(predictions: pd.DataFrame, class_names: list[str], ax: Axes) -> Axes:
    """Confusion matrix in percent of each true class.

    Args:
        predictions: with the columns `label` and `predicted`, 0..K-1.
        class_names: K names.
        ax: where to draw.
    """
    classes = range(len(class_names))
    counts = pd.crosstab(predictions["label"], predictions["predicted"]).reindex(
        index=classes, columns=classes, fill_value=0
    )
    shares = 100 * counts.to_numpy() / np.maximum(counts.sum(axis=1).to_numpy(), 1)[:, None]
    sns.heatmap(
        shares,
        ax=ax,
        cmap="Blues",
        vmin=0,
        vmax=100,
        annot=len(class_names) <= 20,
        fmt=".0f",
        square=True,
        xticklabels=class_names,
        yticklabels=class_names,
        cbar_kws={"label": "% of the true class", "shrink": 0.8},
    )
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    ax.tick_params(axis="x", rotation=45)
    ax.tick_params(axis="y", rotation=0)
    return ax
