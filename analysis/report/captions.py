"""Every figure of the report with its caption, and the text for readers who do not see it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import charts, gallery, pictures, style
from analysis.figures.confusion import class_order, confusion, worst_pairs
from analysis.findings import learning_curves, text
from analysis.frame import headline
from analysis.report.html import Picture, PointMap
from classify.runs import RunResult, head_name, read_predictions
from featurize.core.errors import DataError

MISTAKES = 18
CAPTION_WIDTH = 20  # characters below a small picture
NEIGHBOURS = 6
NEIGHBOUR_ROWS = 6
CURVES_PER_KIND = 2
CURVES = 6


class FigureFolder:
    """The folder for the figures of one test set, and the files written so far."""

    def __init__(self, folder: Path, test_set: str, rows: pd.DataFrame | None = None, chance: float = 0.0) -> None:
        self.folder = folder
        self.test_set = test_set
        self.dataset = test_set.rpartition("-")[0]
        self.looks = {} if rows is None else style.looks_of(rows)
        self.chance = chance
        self.written: list[Path] = []

    def looks_of(self, rows: Mapping[str, pd.Series]) -> dict[str, Any]:
        """The looks of runs by their names in a legend: those of their features."""
        return {name: self.looks[style.series_of(pd.DataFrame([row])).iloc[0]] for name, row in rows.items()}

    def save(self, drawn: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
        """Save a figure as PNG and SVG with a title that names the data set, and return it for the report."""
        drawn.suptitle(f"{title}: {self.dataset}", fontsize=11)
        paths = style.save(drawn, self.folder / f"{name}-{self.test_set}")
        self.written += paths
        return Picture(paths[0], caption, alt)


def run_name(row: pd.Series) -> str:
    """A head and its features."""
    name = f"{head_name(row)} from scratch" if row.kind == "scratch" else head_name(row)
    return f"{name} on {row.features}"


def accuracy_text(row: pd.Series) -> str:
    """The accuracy of a run with its interval, such as `72% accuracy (69 to 74)`."""
    return text.accuracy(row.accuracy, row.accuracy_low, row.accuracy_high)


def accuracy_figure(shown: pd.DataFrame, folder: FigureFolder) -> Picture:
    """Accuracy of every head on every kind of features."""
    height = 2.2 + 0.5 * shown["model"].nunique() + 0.3 * shown["features"].nunique()
    with style.figure(8, height) as (drawn, ax):
        charts.accuracy(shown, ax, folder.looks, folder.chance)
        best = shown.iloc[0]
        return folder.save(
            drawn,
            "accuracy",
            "Accuracy of each head",
            "Accuracy on the test images with 95% intervals, one line per head.",
            f"Dot plot of accuracy; the best is {run_name(best)} with {accuracy_text(best)}.",
        )


def curves_figures(rows: pd.DataFrame, folder: FigureFolder) -> list[Picture]:
    """Accuracy against the number of training images: the best heads on each kind of features.

    Only heads that were trained on several numbers of images have a curve; empty if there are none.
    """
    curves = learning_curves(rows)
    sizes = curves.groupby("approach")["train_rows"].transform("nunique")
    curves = curves[sizes > 1]
    if curves.empty:
        return []
    best_first = curves.drop_duplicates("approach")
    chosen = best_first.groupby("kind", sort=False).head(CURVES_PER_KIND)["approach"].head(CURVES)
    with style.figure(8, 5) as (drawn, ax):
        charts.learning_curves(curves[curves["approach"].isin(chosen)], ax, folder.looks, folder.chance)
        picture = folder.save(
            drawn,
            "learning-curves",
            "Accuracy by the number of training images",
            "Accuracy against the number of training images: the two best heads on each kind of features. The bands "
            "are 95% intervals, over seeds if there are several.",
            "Learning curves of " + ", ".join(chosen) + ".",
        )
    return [picture]


def cost_figure(shown: pd.DataFrame, folder: FigureFolder) -> Picture:
    """Accuracy against seconds."""
    with style.figure(8, 5) as (drawn, ax):
        charts.cost(shown, ax, folder.looks)
        return folder.save(
            drawn,
            "cost",
            "Accuracy against time",
            "Accuracy against the seconds for features and fit. The line joins the runs that no cheaper run beats.",
            "Scatter plot of accuracy against training time, with the Pareto front.",
        )


def convergence_figures(rows: pd.DataFrame, runs: Mapping[Path, RunResult], folder: FigureFolder) -> list[Picture]:
    """Loss and accuracy by epoch, with the most training images; empty if no head is trained in epochs."""
    histories = {}
    named = {}
    for _, row in headline(rows).iterrows():
        history = runs[Path(row["run_dir"])].history
        if history:
            histories[run_name(row)] = history
            named[run_name(row)] = row
    if not histories:
        return []
    with style.empty_figure(9, 4.5) as drawn:
        loss_ax, accuracy_ax = drawn.subplots(1, 2)
        charts.convergence(histories, loss_ax, accuracy_ax, looks=folder.looks_of(named))
        picture = folder.save(
            drawn,
            "convergence",
            "Training by epoch",
            "Loss and accuracy on the training images during training, by epoch.",
            "Training curves of " + ", ".join(histories) + ".",
        )
    return [picture]


def confusion_figure(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], folder: FigureFolder) -> Picture:
    """The confusion matrices of some runs, by name, side by side."""
    if len(class_names) > style.MANY_CLASSES:
        return _worst_pairs_figure(confusions, class_names, folder)
    order = class_order(list(confusions.values()))
    side = 2.5 + 0.42 * len(class_names)
    with style.empty_figure(1 + side * len(confusions), side) as drawn:
        axes = np.ravel(drawn.subplots(1, len(confusions)))
        for ax, (name, counts) in zip(axes, confusions.items(), strict=True):
            confusion(counts, class_names, ax, order)
            ax.set_title(name)
        return folder.save(
            drawn,
            "confusion",
            "Which classes are taken for which",
            "Predictions in percent of each true class. Similar classes stand side by side.",
            "Confusion matrices of " + " and ".join(confusions) + ".",
        )


def _worst_pairs_figure(
    confusions: Mapping[str, np.ndarray], class_names: Sequence[str], folder: FigureFolder
) -> Picture:
    """The most frequent mistakes of some runs: a matrix of so many classes cannot be read."""
    with style.empty_figure(7 * len(confusions), 6.5) as drawn:
        axes = np.ravel(drawn.subplots(1, len(confusions)))
        for ax, (name, counts) in zip(axes, confusions.items(), strict=True):
            worst_pairs(counts, class_names, ax)
            ax.set_title(name)
        return folder.save(
            drawn,
            "confusion",
            "The most frequent mistakes",
            f"The most frequent mistakes among {len(class_names):,} classes, in percent of the true class.",
            "The most frequent mistakes of " + " and ".join(confusions) + ".",
        )


def recall_figure(rows: Mapping[str, pd.Series], runs: Mapping[str, RunResult], folder: FigureFolder) -> Picture:
    """The recall of each class; of many classes, the lowest and the highest."""
    classes = min(charts.RECALL_LINES, len(next(iter(runs.values())).class_names))
    with style.figure(8, 1.8 + 0.34 * classes) as (drawn, ax):
        left_out = charts.recall(runs, ax, folder.looks_of(rows))
        caption = "Recall with 95% intervals: the share of each class's images that is recognised."
        if left_out:
            caption += f" {len(left_out):,} classes between the lowest and the highest are left out."
        return folder.save(
            drawn,
            "recall",
            "Recall of each class",
            caption,
            "Recall of each class for " + " and ".join(runs) + ".",
        )


def reliability_figure(runs: Mapping[str, RunResult], features: str, folder: FigureFolder) -> Picture:
    """Accuracy against confidence of the heads on the same features."""
    with style.figure(6, 6.2) as (drawn, ax):
        charts.reliability(runs, ax)
        return folder.save(
            drawn,
            "reliability",
            "Do the probabilities hold?",
            f"Accuracy against confidence of the heads on {features}. On the diagonal, both agree.",
            "Reliability diagram of " + ", ".join(runs) + ".",
        )


def mistakes_figure(best: pd.Series, result: RunResult, folder: FigureFolder) -> list[Picture]:
    """The head's most confident mistakes; empty if it makes none.

    Raises:
        DataError: the images are gone or have changed.
    """
    wrong = pictures.most_confident_mistakes(read_predictions(Path(best["run_dir"])), MISTAKES)
    if wrong.empty:
        return []
    names = style.shown_names(result.class_names, CAPTION_WIDTH)
    captions = []
    for row in wrong.itertuples():
        caption = f"{names[row.label]}, taken for\n{names[row.predicted]} ({100 * row.confidence:.0f}%)"
        if file := getattr(row, "path", ""):
            caption += f"\n{style.shown_names([Path(file).name], CAPTION_WIDTH)[0]}"
        captions.append(caption)
    caption = "The most confident mistakes." + (" The last line is the file." if "path" in wrong else "")
    images = pictures.test_images(result, wrong["id"].to_numpy())
    with style.empty_figure(8.1, 1.75 * -(-len(wrong) // gallery.IMAGES_PER_ROW)) as drawn:
        gallery.mistakes(images, captions, drawn)
        alt = "; ".join(caption.replace("\n", " ") for caption in captions) + "."
        return [folder.save(drawn, "mistakes", "The most confident mistakes", caption, alt)]


def map_figures(best: pd.Series, result: RunResult, folder: FigureFolder) -> list[Picture | PointMap]:
    """A map of the test images' vectors: a picture, or the interactive map if the images still exist.

    Raises:
        DataError: the vectors are gone or have changed.
    """
    test = pictures.features(result, "test")
    rows = pictures.map_rows(len(test.y))
    points, labels, names = pictures.embedding(test.x[rows]), test.y[rows], result.class_names
    caption = (
        f"{len(rows):,} test images; images with similar vectors are near one another (50 principal components, then "
        "t-SNE). Distances between groups mean little."
    )
    with style.figure(7, 6) as (drawn, ax):
        gallery.vector_map(points, labels, style.shown_names(names), ax)
        picture = folder.save(
            drawn, "map", "Map of the images' vectors", caption, "Map of the vectors, coloured by class."
        )
    try:
        images = pictures.test_images(result, test.ids[rows])
    except DataError:
        return [picture]
    predicted = read_predictions(Path(best["run_dir"])).set_index("id")["predicted"]
    captions = []
    for label, guess in zip(labels, predicted.loc[test.ids[rows]], strict=True):
        captions.append(names[label] if label == guess else f"{names[label]}, taken for {names[guess]}")
    return [PointMap(points, labels, names, captions, images, caption)]


def neighbours_figure(_: pd.Series, result: RunResult, folder: FigureFolder) -> list[Picture]:
    """A test image of some classes, and the training images with the nearest vectors.

    Raises:
        DataError: the images or vectors are gone or have changed.
    """
    train, test = pictures.features(result, "train"), pictures.features(result, "test")
    queries = [int(np.flatnonzero(test.y == label)[0]) for label in np.unique(test.y)[:NEIGHBOUR_ROWS]]
    nearest = pictures.nearest(train.x, test.x[queries], NEIGHBOURS)  # (q, k)
    images = pictures.test_images(result, test.ids[queries])
    found = pictures.training_images(result, train.ids[nearest.ravel()])
    found = found.reshape(*nearest.shape, *found.shape[1:])  # (q, k, height, width, 3)
    with style.empty_figure(8.1, 1.35 * len(queries)) as drawn:
        labels = test.y[queries].tolist()
        names = style.shown_names(result.class_names, CAPTION_WIDTH)
        gallery.neighbours(images, labels, found, train.y[nearest], names, drawn)
        picture = folder.save(
            drawn,
            "neighbours",
            "Images with similar vectors",
            "Left: the first test image of some classes. Right: the training images with the nearest vectors (cosine). "
            "A dashed frame marks another class.",
            "Nearest neighbours in the space of the vectors.",
        )
    return [picture]
