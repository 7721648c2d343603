"""Every figure of the report with its caption, and the text for readers who do not see it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import charts, gallery, names, pictures, style
from analysis.figures.confusion import NAME_INCHES, WORST_PAIRS, class_order, confusion, worst_pairs
from analysis.figures.vector import inline_svg
from analysis.findings import learning_curves, text
from analysis.frame import headline
from analysis.report.content import Drawing, Picture, PointMap
from classify.runs import RunResult, head_name, read_predictions
from featurize.core.errors import DataError

MISTAKES = 18
BESIDE = 10  # classes at most of confusion matrices that stand side by side
IN_TITLE = 3.0  # inches of a name in a title
NEIGHBOURS = 6
NEIGHBOUR_ROWS = 6
CHANCE = "Chance is the accuracy of always naming the most frequent class."
CURVES_PER_KIND = 1
CURVES = 6


class FigureFolder:
    """The folder for the figures of one test set, what they share, and the files written so far.

    Attributes:
        looks: by the name of the features, see `analysis.figures.style.looks_of`.
        runs: looks by `run_name`, with the head's marker.
        chance: the accuracy of always naming the most frequent class.
    """

    def __init__(self, folder: Path, test_set: str, rows: pd.DataFrame, chance: float) -> None:
        """Choose the looks.

        Args:
            folder: for the files.
            test_set: the name of the test set, for their names.
            rows: of `comparison`, all of the test set.
            chance: the share of the most frequent class, 0..1.
        """
        self.folder = folder
        self.test_set = test_set
        self.dataset = names.fitted([rows["dataset"].iloc[0]], IN_TITLE)[0]
        self.looks = style.looks_of(rows)
        self.runs: dict[str, Mapping[str, Any]] = {}
        for (_, row), features in zip(rows.iterrows(), style.series_of(rows), strict=True):
            self.runs[run_name(row)] = {**self.looks[features], "marker": style.marker_of(row["model"])}
        self.chance = style.Chance(chance, int(rows["test_rows"].iloc[0]))
        self.written: list[Path] = []

    def save(self, drawn: Figure, name: str, title: str, caption: str, alt: str) -> Drawing:
        """Save a figure as PNG and SVG with a title that names the data set, and return it for the page."""
        svg = inline_svg(drawn, name)  # the page has a heading of its own
        self._write(drawn, name, title)
        return Drawing(svg, caption, alt)

    def save_picture(self, drawn: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
        """As `save`, for a figure of images: the page shows its PNG file."""
        return Picture(self._write(drawn, name, title), caption, alt)

    def _write(self, drawn: Figure, name: str, title: str) -> Path:
        style.title(drawn, f"{self.dataset}: {title}")
        paths = style.save(drawn, self.folder / f"{name}-{self.test_set}")
        self.written += paths
        return paths[0]


def run_name(row: pd.Series) -> str:
    """A head and its features."""
    name = f"{head_name(row)} from scratch" if row.kind == "scratch" else head_name(row)
    return f"{name} on {row.features}"


def accuracy_text(row: pd.Series) -> str:
    """The accuracy of a run with its interval, such as `72% accuracy (69 to 74)`."""
    return text.accuracy(row.accuracy, row.accuracy_low, row.accuracy_high)


def class_key(class_names: Sequence[str]) -> str:
    """A sentence on the classes that figures can only number, as no font has the letters of their names; or nothing."""
    numbers = [number for number, name in enumerate(class_names) if not names.is_written(name)]
    if not numbers:
        return ""
    if len(numbers) > style.MANY_CLASSES:
        return " Classes with names in letters that the figures' font lacks are numbered in their order, from 0."
    return " " + "; ".join(f"class {number}: {class_names[number]}" for number in numbers) + "."


def accuracy_figure(shown: pd.DataFrame, folder: FigureFolder) -> Drawing:
    """Accuracy of every head on every kind of features."""
    heads = {head_name(row) for row in shown.itertuples()}
    height = 2.6 + 0.5 * len(heads) + 0.3 * shown["features"].nunique()
    with style.figure(8, height) as (drawn, ax):
        charts.accuracy(shown, ax, folder.looks, folder.chance)
        best = shown.iloc[0]
        return folder.save(
            drawn,
            "accuracy",
            "accuracy of each head",
            f"Accuracy on the test images with 95% intervals, one line per head. {CHANCE}",
            f"Dot plot of accuracy; the best is {run_name(best)} with {accuracy_text(best)}.",
        )


def curves_figures(rows: pd.DataFrame, folder: FigureFolder) -> list[Drawing]:
    """Accuracy against the number of training images: the best head on each kind of features.

    Only heads that were trained on several numbers of images have a curve; empty if there are none, which the finding
    says.
    """
    curves = learning_curves(rows)
    sizes = curves.groupby("approach")["train_rows"].transform("nunique")
    curves = curves[sizes > 1]
    if curves.empty:
        return []
    best_first = curves.drop_duplicates("approach")
    chosen = best_first.groupby("kind", sort=False).head(CURVES_PER_KIND)["approach"].head(CURVES)
    with style.figure(8, 5.4) as (drawn, ax):
        charts.learning_curves(curves[curves["approach"].isin(chosen)], ax, folder.looks, folder.chance)
        picture = folder.save(
            drawn,
            "learning-curves",
            "accuracy by the number of training images",
            "Accuracy against the number of training images: the best head on each kind of features. The bands "
            f"are 95% intervals, over seeds if there are several. {CHANCE}",
            "Learning curves of " + ", ".join(chosen) + ".",
        )
    return [picture]


def cost_figures(shown: pd.DataFrame, folder: FigureFolder) -> list[Drawing]:
    """Accuracy against seconds; empty for a single run."""
    if len(shown) < 2:
        return []
    with style.figure(8, 5.4) as (drawn, ax):
        charts.cost(shown, ax, folder.looks, folder.chance)
        picture = folder.save(
            drawn,
            "cost",
            "accuracy against the time to train",
            "Accuracy against the seconds for features and fit. The line joins the runs that no cheaper run beats.",
            "Scatter plot of accuracy against training time, with the Pareto front.",
        )
    return [picture]


def convergence_figures(rows: pd.DataFrame, runs: Mapping[Path, RunResult], folder: FigureFolder) -> list[Drawing]:
    """Loss and accuracy by epoch, with the most training images; empty if no head is trained in several epochs."""
    histories = {}
    for _, row in headline(rows).iterrows():
        history = runs[Path(row["run_dir"])].history
        if history and len(history["loss"]) > 1:
            histories[run_name(row)] = history
    if not histories:
        return []
    with style.empty_figure(9, 5) as drawn:
        loss_ax, accuracy_ax = drawn.subplots(1, 2)
        charts.convergence(histories, loss_ax, accuracy_ax, looks=folder.runs, chance=folder.chance)
        picture = folder.save(
            drawn,
            "convergence",
            "loss and accuracy during training",
            "Loss and accuracy on the training images during training, by epoch.",
            "Training curves of " + ", ".join(histories) + ".",
        )
    return [picture]


def confusion_figure(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], folder: FigureFolder) -> Drawing:
    """The confusion matrices of some runs, by name; of many classes, the most frequent mistakes."""
    if len(class_names) > style.MANY_CLASSES:
        return _worst_pairs_figure(confusions, class_names, folder)
    order = class_order(list(confusions.values()))
    side = max(3, 0.38 * len(class_names))
    room = max(map(names.width_of, names.fitted(class_names, NAME_INCHES, word="class")))
    beside = len(class_names) <= BESIDE  # larger matrices stand one above the other: a page is not so wide
    columns, rows = (len(confusions), 1) if beside else (1, len(confusions))
    width, height = 1.6 + room + (side + 0.2) * columns, 0.4 + (1.8 + side + 0.7 * room) * rows
    with style.empty_figure(width, height) as drawn:
        axes = np.ravel(drawn.subplots(rows, columns))
        for number, (ax, (name, counts)) in enumerate(zip(axes, confusions.items(), strict=True), 1):
            named, scale = (number == 1, number == columns) if beside else (True, True)
            confusion(counts, class_names, ax, order, named=named, scale=scale)
            ax.set_title(*names.fitted([name], side), fontsize=10)
        return folder.save(
            drawn,
            "confusion",
            "which classes are taken for which",
            f"Predictions in percent of each true class. Similar classes stand side by side.{class_key(class_names)}",
            "Confusion matrices of " + " and ".join(confusions) + ".",
        )


def _worst_pairs_figure(
    confusions: Mapping[str, np.ndarray], class_names: Sequence[str], folder: FigureFolder
) -> Drawing:
    """The most frequent mistakes of some runs, one above the other: a matrix of so many classes cannot be read."""
    with style.empty_figure(8, 0.6 + (1 + 0.38 * WORST_PAIRS) * len(confusions)) as drawn:
        axes = np.ravel(drawn.subplots(len(confusions), 1))
        for ax, (name, counts) in zip(axes, confusions.items(), strict=True):
            worst_pairs(counts, class_names, ax, folder.runs[name]["color"])
            ax.set_title(*names.fitted([name], 4), fontsize=10)
        return folder.save(
            drawn,
            "confusion",
            f"the most frequent mistakes among {len(class_names):,} classes",
            f"The {WORST_PAIRS} most frequent mistakes among {len(class_names):,} classes: the share of the true class "
            f"that is taken for another one, and the number of images.{class_key(class_names)}",
            "The most frequent mistakes of " + " and ".join(confusions) + ".",
        )


def recall_figure(rows: Mapping[str, pd.Series], runs: Mapping[str, RunResult], folder: FigureFolder) -> Drawing:
    """The recall of each class; of many classes, the lowest and the highest."""
    class_names = next(iter(runs.values())).class_names
    lines = min(charts.RECALL_LINES + 1, len(class_names))
    with style.figure(8, 2.2 + 0.34 * lines) as (drawn, ax):
        left_out = charts.recall(runs, ax, {name: folder.runs[run_name(row)] for name, row in rows.items()})
        caption = "Recall with 95% intervals: the share of each class's images that is recognised."
        which = f"each of {len(class_names):,} classes"
        if left_out:
            which = f"the worst and the best of {len(class_names):,} classes"
            caption += f" Left out between the worst and the best: {len(left_out):,} of {len(class_names):,}."
        return folder.save(
            drawn,
            "recall",
            f"recall of {which}",
            caption + class_key(class_names),
            f"Recall of {which} for " + " and ".join(runs) + ".",
        )


def reliability_figures(runs: Mapping[str, RunResult], features: str, folder: FigureFolder) -> list[Drawing]:
    """Accuracy against confidence of the heads on the same features; `runs` by the head's name.

    Empty if there are so few images that no head has two bins.
    """
    runs = {head: run for head, run in runs.items() if len(run.reliability) > 1}
    if not runs:
        return []
    looks = {}
    for head in runs:
        own = [f"{head} on {features}", f"{head} from scratch on {features}"]
        looks[head] = next(folder.runs[name] for name in own if name in folder.runs)
    with style.figure(6.5, 7.4 + 0.1 * len(runs)) as (drawn, ax):
        charts.reliability(runs, ax, looks, folder.chance)
        picture = folder.save(
            drawn,
            "reliability",
            f"do the probabilities hold? Heads on {names.fitted([features], IN_TITLE)[0]}",
            f"Accuracy against confidence of the heads on {features}. On the diagonal, both agree.",
            "Reliability diagram of " + ", ".join(runs) + ".",
        )
    return [picture]


def mistakes_figure(best: pd.Series, result: RunResult, folder: FigureFolder) -> list[Picture]:
    """The head's most confident mistakes; empty if it makes none.

    Raises:
        DataError: the images are gone or have changed.
    """
    wrong = pictures.most_confident_mistakes(read_predictions(Path(best["run_dir"])), MISTAKES)
    if wrong.empty:
        return []
    class_names = result.class_names
    short = names.fitted(class_names, gallery.CAPTION_INCHES, gallery.CAPTION_SIZE, word="class")
    captions, described = [], []
    for row in wrong.itertuples():
        confidence = style.percent(row.confidence, result.test_rows)
        captions.append(f"{short[row.label]}\ntaken for ({confidence})\n{short[row.predicted]}")
        described.append(f"{class_names[row.label]}, taken for {class_names[row.predicted]} ({confidence})")
    caption = "The most confident mistakes, with the probability of the predicted class."
    if "path" in wrong:
        caption += " The last line is the file."
        files = [Path(path).name for path in wrong["path"]]
        shown = [names.shortened(file, gallery.CAPTION_INCHES, gallery.CAPTION_SIZE) for file in files]
        captions = [f"{text}\n{file}" for text, file in zip(captions, shown, strict=True)]
        described = [f"{text}, {path}" for text, path in zip(described, wrong["path"], strict=True)]
    images = pictures.test_images(result, wrong["id"].to_numpy())
    with style.empty_figure(8.1, 0.4 + 2 * -(-len(wrong) // gallery.IMAGES_PER_ROW)) as drawn:
        gallery.mistakes(images, captions, drawn)
        caption += class_key(class_names)
        alt = "; ".join(described) + "."
        return [folder.save_picture(drawn, "mistakes", "the most confident mistakes", caption, alt)]


def map_figures(best: pd.Series, result: RunResult, folder: FigureFolder) -> list[Picture | PointMap]:
    """A map of the test images' vectors: a picture, or the interactive map if the images still exist.

    Raises:
        DataError: the vectors are gone or have changed.
    """
    test = pictures.features(result, "test")
    rows = pictures.map_rows(len(test.y))
    points, labels, class_names = pictures.embedding(test.x[rows]), test.y[rows], result.class_names
    caption = (
        f"{len(rows):,} test images; images with similar vectors are near one another (50 principal components, then "
        "t-SNE). Distances between groups mean little."
    )
    with style.figure(7, 6.4) as (drawn, ax):
        gallery.vector_map(points, labels, class_names, ax)
        alt = "Map of the vectors, coloured by class."
        title = "map of the images by their vectors"
        picture = folder.save_picture(drawn, "map", title, caption + class_key(class_names), alt)
    try:
        images = pictures.test_images(result, test.ids[rows])
    except DataError:
        return [picture]
    predicted = read_predictions(Path(best["run_dir"])).set_index("id")["predicted"]
    captions = []
    for label, guess in zip(labels, predicted.loc[test.ids[rows]], strict=True):
        name = class_names[label]
        captions.append(name if label == guess else f"{name}, taken for {class_names[guess]}")
    return [PointMap(points, labels, class_names, captions, images, caption)]


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
    with style.empty_figure(8.1, 0.4 + 1.35 * len(queries)) as drawn:
        labels = test.y[queries].tolist()
        gallery.neighbours(images, labels, found, train.y[nearest], result.class_names, drawn)
        picture = folder.save_picture(
            drawn,
            "neighbours",
            "test images and the training images with the nearest vectors",
            "Left: the first test image of some classes. Right: the training images with the nearest vectors (cosine). "
            f"A dashed frame marks another class.{class_key(result.class_names)}",
            "Nearest neighbours in the space of the vectors.",
        )
    return [picture]
