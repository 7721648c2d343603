"""The figures of a report: those of the page with their captions, and those that are for papers only."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import charts, gallery, names, pictures, style
from analysis.figures.confusion import NAME_INCHES, WORST_PAIRS, class_order, confusion, worst_pairs
from analysis.figures.vector import inline_svg
from analysis.findings import Ledger, best_by_seconds, learning_curves, text
from analysis.frame import headline
from analysis.report.content import Drawing, Part
from classify.runs import RunResult, head_name, read_predictions
from featurize.core.errors import DataError, first_line

logger = logging.getLogger("frozenbench")
MISTAKES = 18
BESIDE = 10  # classes at most of confusion matrices that stand side by side
IN_TITLE = 3.0  # inches of a name in a title
NEIGHBOURS = 6
NEIGHBOUR_ROWS = 6
CHANCE = "Chance is the accuracy of always naming the most frequent class."
CURVES_PER_KIND = 1
CURVES = 6
CAUSES = {"test": "other test images", "draw": "other training images", "seed": "another seed"}
SIDES = {"best on a frozen network": True, "best control": False}
SPREADS = 12  # heads in the figure
BIN_IMAGES = 10  # of a reliability diagram


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
        self.write(drawn, name, title)
        return Drawing(svg, caption, alt)

    def write(self, drawn: Figure, name: str, title: str) -> None:
        """Save a figure that the page does not show."""
        style.title(drawn, f"{self.dataset}: {title}")
        paths = style.save(drawn, self.folder / f"{name}-{self.test_set}")
        self.written += paths


def drawn_parts(what: str, make: Callable[..., Any], *arguments: Any) -> tuple[list[Part], list[str]]:
    """The parts that a figure makes, and the reason if there are none: a figure never costs the report."""
    try:
        made = make(*arguments)
    except Exception as error:  # the libraries that draw raise anything
        reason = f"Some figures are missing: {what}: {first_line(error)}"
        logger.log(logging.INFO if isinstance(error, DataError) else logging.WARNING, reason)
        return [], [reason]
    return made or [], []


def run_name(row: pd.Series) -> str:
    """A head and its features."""
    name = f"{head_name(row)} from scratch" if row.kind == "scratch" else head_name(row)
    return f"{name} on {row.features}"


def accuracy_text(row: pd.Series) -> str:
    """The accuracy of a run with its interval, such as `72% accuracy (69 to 74)`."""
    return text.accuracy(row.accuracy, row.accuracy_low, row.accuracy_high)


def accuracy_figure(shown: pd.DataFrame, folder: FigureFolder) -> None:
    """Accuracy of every head on every kind of features."""
    heads = {head_name(row) for row in shown.itertuples()}
    height = 2.6 + 0.5 * len(heads) + 0.3 * shown["features"].nunique()
    with style.figure(8, height) as (drawn, ax):
        charts.accuracy(shown, ax, folder.looks, folder.chance)
        folder.write(drawn, "accuracy", "accuracy of each head")


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


def cost_figures(shown: pd.DataFrame, rows: pd.DataFrame, folder: FigureFolder) -> list[Drawing]:
    """Accuracy against seconds, of the shown runs and the best of all rows within a time; empty for a single run."""
    if len(shown) < 2:
        return []
    sides = {name: best_by_seconds(rows, transfer=transfer) for name, transfer in SIDES.items()}
    best = {name: side for name, side in sides.items() if len(side)}
    with style.figure(8, 5.4) as (drawn, ax):
        charts.cost(shown, ax, folder.looks, folder.chance, best)
        picture = folder.save(
            drawn,
            "cost",
            "accuracy against the time to train",
            "Accuracy against the seconds for features and fit. The lines show the best accuracy within as many "
            "seconds, on any number of images.",
            "Scatter plot of accuracy against training time, with the best accuracy within a time.",
        )
    return [picture]


def spread_figure(found: Ledger, folder: FigureFolder) -> list[Drawing]:
    """How far accuracies vary with the test images, the training images and the seed."""
    entries = found.entries[:SPREADS]
    series: dict[str, charts.Dots] = {}
    for cause in CAUSES:
        dots = []
        for line, entry in enumerate(reversed(entries)):
            estimate = getattr(entry.accuracy, cause)
            if estimate is not None:
                dots.append((line, estimate, entry.model))
        if dots:
            series[CAUSES[cause]] = dots
    with style.figure(7, 1.6 + 0.45 * len(entries)) as (drawn, ax):
        charts.spread([entry.approach for entry in reversed(entries)], series, ax)
        picture = folder.save(
            drawn,
            "spread",
            "how far accuracies vary, by cause",
            f"How far the accuracy varies, by cause, with {found.train_rows:,} training images.",
            "Standard deviations of " + ", ".join(entry.approach for entry in entries) + ".",
        )
    return [picture]


def choice_figure(by_number: Sequence[float], folder: FigureFolder) -> list[Drawing]:
    """By how much the best of N heads looks better than it is."""
    with style.figure(6, 3) as (drawn, ax):
        charts.optimism(by_number, ax)
        picture = folder.save(
            drawn,
            "best-of-n",
            "what picking the best head on the test images adds to its accuracy",
            "By how much the accuracy of the best of N heads is too high, for N of these heads at random. Where one of "
            "them is clearly the best, there is little to choose, and the curve falls again.",
            f"A curve that ends at {100 * by_number[-1]:.1f} points for {len(by_number):,} heads.",
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


def confusion_figure(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], folder: FigureFolder) -> None:
    """The confusion matrices of some runs, by name; of many classes, the most frequent mistakes."""
    if len(class_names) > style.MANY_CLASSES:
        _worst_pairs_figure(confusions, class_names, folder)
        return
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
        folder.write(drawn, "confusion", "which classes are taken for which")


def _worst_pairs_figure(confusions: Mapping[str, np.ndarray], class_names: Sequence[str], folder: FigureFolder) -> None:
    """The most frequent mistakes of some runs, one above the other: a matrix of so many classes cannot be read."""
    with style.empty_figure(8, 0.6 + (1 + 0.38 * WORST_PAIRS) * len(confusions)) as drawn:
        axes = np.ravel(drawn.subplots(len(confusions), 1))
        for ax, (name, counts) in zip(axes, confusions.items(), strict=True):
            worst_pairs(counts, class_names, ax, folder.runs[name]["color"])
            ax.set_title(*names.fitted([name], 4), fontsize=10)
        folder.write(drawn, "confusion", f"the most frequent mistakes among {len(class_names):,} classes")


def recall_figure(rows: Mapping[str, pd.Series], runs: Mapping[str, RunResult], folder: FigureFolder) -> None:
    """The recall of each class; of many classes, the lowest and the highest."""
    class_names = next(iter(runs.values())).class_names
    lines = min(charts.RECALL_LINES + 1, len(class_names))
    with style.figure(8, 2.2 + 0.34 * lines) as (drawn, ax):
        left_out = charts.recall(runs, ax, {name: folder.runs[run_name(row)] for name, row in rows.items()})
        which = "the worst and the best" if left_out else "each"
        folder.write(drawn, "recall", f"recall of {which} of {len(class_names):,} classes")


def reliability_figures(runs: Mapping[str, RunResult], features: str, folder: FigureFolder) -> list[Drawing]:
    """Accuracy against confidence of the heads on the same features; `runs` by the head's name.

    Empty if there are so few images that a bin has fewer than `BIN_IMAGES`, or there is one bin only.
    """
    runs = {head: run for head, run in runs.items() if _has_full_bins(run)}
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


def _has_full_bins(run: RunResult) -> bool:
    return len(run.reliability) > 1 and min(part["rows"] for part in run.reliability) >= BIN_IMAGES


def mistakes_figure(best: pd.Series, result: RunResult, folder: FigureFolder) -> None:
    """The head's most confident mistakes, with the probability of the predicted class; nothing if it makes none.

    Raises:
        DataError: the images are gone or have changed.
    """
    wrong = pictures.most_confident_mistakes(read_predictions(Path(best["run_dir"])), MISTAKES)
    if wrong.empty:
        return
    short = names.fitted(result.class_names, gallery.CAPTION_INCHES, gallery.CAPTION_SIZE, word="class")
    captions = []
    for row in wrong.itertuples():
        confidence = style.percent(row.confidence, result.test_rows)
        captions.append(f"{short[row.label]}\ntaken for ({confidence})\n{short[row.predicted]}")
    if "path" in wrong:
        files = [Path(path).name for path in wrong["path"]]
        shown = [names.shortened(file, gallery.CAPTION_INCHES, gallery.CAPTION_SIZE) for file in files]
        captions = [f"{text}\n{file}" for text, file in zip(captions, shown, strict=True)]
    images = pictures.test_images(result, wrong["id"].to_numpy())
    with style.empty_figure(8.1, 0.4 + 2 * -(-len(wrong) // gallery.IMAGES_PER_ROW)) as drawn:
        gallery.mistakes(images, captions, drawn)
        folder.write(drawn, "mistakes", "the most confident mistakes")


def map_figure(points: np.ndarray, labels: np.ndarray, class_names: Sequence[str], folder: FigureFolder) -> None:
    """The map of the vectors, for papers: points (n, 2) and labels (n,) of its images."""
    with style.figure(7, 6.4) as (drawn, ax):
        gallery.vector_map(points, labels, class_names, ax)
        folder.write(drawn, "map", "map of the images by their vectors")


def neighbours_figure(result: RunResult, folder: FigureFolder) -> None:
    """The first test image of some classes, and the training images with the nearest vectors (cosine).

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
        folder.write(drawn, "neighbours", "test images and the training images with the nearest vectors")
