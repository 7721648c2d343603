"""All together, for one test set after the other: runs -> tables, figures and the report."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import charts as plots
from analysis.figures import pictures
from analysis.findings import claims, transfer
from analysis.frame import (
    BOLD,
    LEGEND,
    bold_cells,
    comparison,
    head_name,
    headline,
    readable,
    with_groups,
    write_comparison,
)
from analysis.report.html import Picture, PointMap, Report, Section, Table, write_report
from classify.runs import RunResult, read_predictions
from featurize.cache import read_info
from featurize.core.errors import CacheError, DataError

logger = logging.getLogger("frozenbench")
MISTAKES = 18
NEIGHBOURS = 6
CURVES = 6
LISTED = 50  # image files that could not be read; of more, their number
LIMITS = (
    "One data set and one test split: other images may give another answer.",
    "What pretraining cost, and how much ImageNet resembles the images, is not part of the measurements.",
    "Seconds are wall-clock times of single runs on the machine named with them.",
    "Intervals cover the choice of the test images, or of the training images where several seeds are given; not both.",
)


def write_answer(
    runs: Mapping[Path, RunResult], left_out: list[tuple[Path, str]], out: Path
) -> tuple[dict[str, list[str]], list[Path]]:
    """Write comparison.csv, .md and .tex, the figures, and a report for each test set.

    Args:
        runs: from `classify.runs.results.load_runs`.
        left_out: run directories that could not be used, and why.
        out: the folder for everything; the same runs give the same bytes.

    Returns:
        The report's summary for each test set, and the paths written.

    Raises:
        DataError: no run can be used.
    """
    runs, damaged = with_predictions(runs)
    left_out = [*left_out, *damaged]
    table = comparison(runs)
    written = write_comparison(table, out)
    answers = {}
    test_sets = list(table.groupby("test_set", sort=False))
    for name, rows in test_sets:
        own = {Path(run_dir): runs[Path(run_dir)] for run_dir in rows["run_dir"]}
        figures = Figures(out / "figures", str(name))
        report = answer(rows, own, left_out, figures)
        path = out / ("report.html" if len(test_sets) == 1 else f"report-{name}.html")
        written += [*figures.written, write_report(report, path)]
        answers[str(name)] = report.summary
    return answers, written


def with_predictions(runs: Mapping[Path, RunResult]) -> tuple[dict[Path, RunResult], list[tuple[Path, str]]]:
    """The runs whose predictions can be read and are those of their result, and the others with the reason.

    Raises:
        DataError: there is no such run.
    """
    usable, left_out = {}, []
    for run_dir, result in runs.items():
        try:
            predictions = read_predictions(run_dir)
            accuracy = float((predictions["label"] == predictions["predicted"]).mean())
            if len(predictions) != result.test_rows or abs(accuracy - result.accuracy) > 1e-9:
                raise DataError(
                    f"{run_dir}: {100 * accuracy:.2f}% of its {len(predictions):,} predictions are right, expected "
                    f"{100 * result.accuracy:.2f}% of {result.test_rows:,}; run python -m classify --force again"
                )
            usable[run_dir] = result
        except DataError as error:
            left_out.append((run_dir, str(error)))
            logger.warning("left out: %s", error)
    if not usable:
        raise DataError(f"no run can be used; {left_out[0][1]}")
    return usable, left_out


class Figures:
    """Where the figures of one test set go, and those that have been written."""

    def __init__(self, folder: Path, test_set: str) -> None:
        self.folder = folder
        self.test_set = test_set
        self.written: list[Path] = []

    def keep(self, drawn: Figure, name: str, caption: str, alt: str) -> Picture:
        """Save a figure as PNG and SVG, and return it for the report."""
        paths = plots.save(drawn, self.folder / f"{name}-{self.test_set}")
        self.written += paths
        return Picture(paths[0], caption, alt)


def answer(
    rows: pd.DataFrame, runs: Mapping[Path, RunResult], left_out: list[tuple[Path, str]], figures: Figures
) -> Report:
    """The report on one test set.

    Args:
        rows: of `comparison`, of this test set.
        runs: the runs of these rows.
        left_out: run directories that could not be used, and why.
        figures: where its figures go.
    """
    shown = with_groups(headline(rows))
    answers = {claim.key: claim for claim in claims(rows, runs)}
    drawn = {
        "accuracy": [accuracy_figure(shown, figures)],
        "little-data": [curves_figure(rows, figures)],
        "training-time": [cost_figure(shown, figures)],
        "convergence": [*convergence_figure(rows, runs, figures)],
    }
    sections = [
        Section(
            title=claim.title,
            question=claim.question,
            answer=claim.answer,
            parts=[
                *drawn[key],
                *([Table(f"{claim.title}, in figures", claim.table)] if len(claim.table) else []),
                *(
                    [Table(f"All heads. {BOLD} {LEGEND}", readable(shown), bold_cells(shown))]
                    if key == "accuracy"
                    else []
                ),
            ],
            notes=list(claim.notes),
        )
        for key, claim in answers.items()
    ]
    first = next(iter(runs.values()))
    best, classes = shown.iloc[0], len(first.class_names)
    return Report(
        title="What is a frozen network worth on these images?",
        subtitle=f"{first.dataset}: {len(runs)} runs on {first.test_rows:,} test images, {classes} classes",
        summary=[*(claim.answer for claim in answers.values()), summary_of_best(best, runs[Path(best["run_dir"])])],
        sections=[*sections, heads_section(shown, runs, figures), pictures_section(shown, runs, figures)],
        commands=commands(first),
        versions=versions(runs),
        fingerprints={
            f"{row.features}, in {row.cache}.h5": row.fingerprint
            for row in rows.drop_duplicates("features").sort_values("features").itertuples()
        },
        limits=list(LIMITS),
        left_out=[*((path.as_posix(), reason) for path, reason in left_out), *unreadable(runs)],
    )


def unreadable(runs: Mapping[Path, RunResult]) -> list[tuple[str, str]]:
    """The image files that could not be read, each once, and why; of caches that are still there."""
    found: dict[str, str] = {}
    for cache in dict.fromkeys(run.cache for run in runs.values()):
        try:
            skipped = read_info(Path(cache)).skipped
        except CacheError:
            continue
        for split, files in skipped.items():
            if len(files) > LISTED:
                found[f"{len(files):,} {split} images"] = f"could not be read: python -m featurize info {cache}"
            else:
                found |= {f"{path} ({split} image)": reason for path, reason in files}
    return list(found.items())


def accuracy_figure(shown: pd.DataFrame, figures: Figures) -> Picture:
    """Accuracy of every head on every kind of features."""
    height = 2.2 + 0.5 * shown["model"].nunique() + 0.3 * shown["features"].nunique()
    with plots.figure(8, height) as (drawn, ax):
        plots.accuracy(shown, ax)
        return figures.keep(
            drawn,
            "accuracy",
            "Accuracy on the test images with 95% intervals, a line per head.",
            f"Dot plot of accuracy; the best is {_named(shown.iloc[0])} with {_percent(shown.iloc[0])}.",
        )


def curves_figure(rows: pd.DataFrame, figures: Figures) -> Picture:
    """Accuracy against the number of training images: the best heads of each kind of features."""
    curves = transfer.learning_curves(rows)
    chosen = curves.drop_duplicates("approach").groupby("kind", sort=False).head(2)["approach"].head(CURVES)
    with plots.figure(8, 5) as (drawn, ax):
        plots.learning_curves(curves[curves["approach"].isin(chosen)], ax)
        return figures.keep(
            drawn,
            "learning-curves",
            "Accuracy against the number of training images; of each kind of features its two best heads. "
            "Bands: 95% intervals, over seeds where there are several.",
            "Learning curves of " + ", ".join(chosen) + ".",
        )


def cost_figure(shown: pd.DataFrame, figures: Figures) -> Picture:
    """Accuracy against seconds."""
    with plots.figure(8, 5) as (drawn, ax):
        plots.cost(shown, ax)
        return figures.keep(
            drawn,
            "cost",
            "Accuracy against the seconds for features and fit; the line joins those that nothing cheaper beats.",
            "Scatter plot of accuracy against training time, with the Pareto front.",
        )


def convergence_figure(rows: pd.DataFrame, runs: Mapping[Path, RunResult], figures: Figures) -> Iterator[Picture]:
    """Loss and accuracy by epoch, on the most images; no figure where no head is trained in epochs."""
    histories = {_named(row): runs[Path(row.run_dir)].history for row in headline(rows).itertuples()}
    histories = {name: history for name, history in histories.items() if history}
    if histories:
        with plots.empty_figure(9, 4.5) as drawn:
            loss_ax, accuracy_ax = drawn.subplots(1, 2)
            plots.convergence(histories, loss_ax, accuracy_ax)
            yield figures.keep(
                drawn,
                "convergence",
                "Loss and accuracy of the training images as they pass, epoch by epoch.",
                "Training curves of " + ", ".join(histories) + ".",
            )


def heads_section(shown: pd.DataFrame, runs: Mapping[Path, RunResult], figures: Figures) -> Section:
    """What the best head, and the best control beside it, get right and wrong, and how sure they are."""
    best = _best_frozen(shown)
    controls = shown[shown["kind"] != transfer.TRANSFER]
    pair = [best, *([controls.iloc[0]] if len(controls) and best["kind"] == transfer.TRANSFER else [])]
    names = runs[Path(best["run_dir"])].class_names
    predictions = {_named(row): read_predictions(Path(row["run_dir"])) for row in pair}
    order = plots.class_order([plots.confusion_counts(each, len(names)) for each in predictions.values()])
    compared = {_named(row): runs[Path(row["run_dir"])] for row in pair}
    same = shown[shown["features"] == best["features"]]
    heads = {head_name(row): runs[Path(row.run_dir)] for row in same.itertuples()}
    parts: list[Picture | Table | PointMap] = []
    side = 2.5 + 0.42 * len(names)
    with plots.empty_figure(1 + side * len(pair), side) as drawn:
        for ax, (name, each) in zip(np.ravel(drawn.subplots(1, len(pair))), predictions.items(), strict=True):
            plots.confusion(each, names, ax, order)
            ax.set_title(name)
        parts.append(
            figures.keep(
                drawn,
                "confusion",
                "Of each true class, the percentage that is taken for each class. Similar classes stand together.",
                "Confusion matrices of " + " and ".join(predictions) + ".",
            )
        )
    confused = plots.most_confused(predictions[_named(best)], names, 5)
    with plots.figure(8, 1.8 + 0.34 * len(names)) as (drawn, ax):
        plots.recall(compared, ax)
        parts.append(
            figures.keep(
                drawn, "recall", "Of each class, the share that is found, with 95% intervals.", "Recall of each class."
            )
        )
    with plots.figure(6, 6.2) as (drawn, ax):
        plots.reliability(heads, ax)
        parts.append(
            figures.keep(
                drawn,
                "reliability",
                f"How often the heads on {best['features']} are right, by how sure they are. On the diagonal, a "
                "probability means what it says.",
                "Reliability diagram of " + ", ".join(heads) + ".",
            )
        )
    pairs = "; ".join(f"{true} taken for {predicted} ({count:,})" for true, predicted, count in confused)
    return Section(
        title="What it gets wrong",
        question="Which classes are mistaken for which, and do the probabilities say so?",
        answer=f"The most frequent mistakes of {_named(best)}: {pairs}." if pairs else f"{_named(best)} makes none.",
        parts=parts,
    )


def pictures_section(shown: pd.DataFrame, runs: Mapping[Path, RunResult], figures: Figures) -> Section:
    """Mistakes, a map of the vectors and nearest neighbours, as far as images and vectors are still there."""
    best = _best_frozen(shown)
    result = runs[Path(best["run_dir"])]
    parts: list[Picture | Table | PointMap] = []
    missing = []
    for make in (mistakes_figure, vector_map, neighbours_figure):
        try:
            parts += make(best, result, figures)
        except DataError as error:
            missing.append(str(error))
    notes = [f"Left out, as images or vectors are not there: {reason}" for reason in dict.fromkeys(missing)]
    for note in notes:
        logger.warning(note)
    return Section(
        title="Images and their vectors",
        question="What do the mistakes look like, and which images are near one another?",
        answer=f"Shown for {_named(best)}." if parts else "There is nothing to show.",
        parts=parts,
        notes=notes,
    )


def mistakes_figure(best: pd.Series, result: RunResult, figures: Figures) -> list[Picture]:
    """The mistakes that the head is most sure of."""
    wrong = pictures.most_confident_mistakes(read_predictions(Path(best["run_dir"])), MISTAKES)
    if wrong.empty:
        return []
    names = result.class_names
    captions = [
        f"{names[row.label]}, taken for\n{names[row.predicted]} ({100 * row.confidence:.0f}%)"
        for row in wrong.itertuples()
    ]
    images = pictures.test_images(result, wrong["id"].to_numpy())
    with plots.empty_figure(8.1, 1.6 * -(-len(wrong) // 6)) as drawn:
        plots.mistakes(images, captions, drawn)
        return [
            figures.keep(
                drawn,
                "mistakes",
                "The mistakes that it is most sure of.",
                "; ".join(caption.replace("\n", " ") for caption in captions) + ".",
            )
        ]


def vector_map(best: pd.Series, result: RunResult, figures: Figures) -> list[Picture | PointMap]:
    """Test images by the likeness of their vectors, in two dimensions."""
    test = pictures.features(result, "test")
    rows = pictures.map_rows(len(test.y))
    points = pictures.embedding(test.x[rows])
    caption = (
        f"{len(rows):,} test images, placed so that near vectors are near (50 principal components, then t-SNE). "
        "Distances between groups mean little."
    )
    with plots.figure(7, 6) as (drawn, ax):
        plots.vector_map(points, test.y[rows], result.class_names, ax)
        static = figures.keep(drawn, "map", caption, "Map of the vectors, coloured by class.")
    try:
        images = pictures.test_images(result, test.ids[rows])
    except DataError:
        return [static]
    predicted = read_predictions(Path(best["run_dir"])).set_index("id")["predicted"]
    names = result.class_names
    captions = [
        names[label] + ("" if label == guess else f", taken for {names[guess]}")
        for label, guess in zip(test.y[rows], predicted.loc[test.ids[rows]], strict=True)
    ]
    return [PointMap(points, test.y[rows], names, captions, images, caption)]


def neighbours_figure(best: pd.Series, result: RunResult, figures: Figures) -> list[Picture]:
    """The training images whose vectors are nearest to those of a test image of some classes."""
    train, test = (pictures.features(result, split) for split in ("train", "test"))
    queries = [int(np.flatnonzero(test.y == label)[0]) for label in np.unique(test.y)[:6]]
    nearest = pictures.nearest(train.x, test.x[queries], NEIGHBOURS)
    images = pictures.test_images(result, test.ids[queries])
    near = pictures.training_images(result, train.ids[nearest.ravel()])
    with plots.empty_figure(8.1, 1.35 * len(queries)) as drawn:
        plots.neighbours(
            images,
            test.y[queries].tolist(),
            near.reshape(*nearest.shape, *near.shape[1:]),
            train.y[nearest],
            result.class_names,
            drawn,
        )
        return [
            figures.keep(
                drawn,
                "neighbours",
                "Left, the first test image of some classes; beside it the training images with the nearest vectors "
                "(cosine). A dashed frame: another class.",
                "Nearest neighbours in the space of the vectors.",
            )
        ]


def summary_of_best(best: pd.Series, result: RunResult) -> str:
    """The sentence on the most accurate head of all."""
    return (
        f"The most accurate of all is {_named(best)}: {_percent(best)} of {result.test_rows:,} test images, with "
        f"{result.train_rows:,} to train on; its test images had been looked at {result.test_opened} "
        f"{'time' if result.test_opened == 1 else 'times'} by then."
    )


def commands(result: RunResult) -> list[str]:
    """What makes such runs, and this report."""
    data = "" if result.source["data"] == "cifar10" else f" --data {result.source['data']}"
    return [f"python -m analysis experiment --preset full{data}", "python -m analysis"]


def versions(runs: Mapping[Path, RunResult]) -> dict[str, str]:
    """The libraries and machines of the runs."""
    found: dict[str, set[str]] = {"machine": {result.machine for result in runs.values()}}
    for result in runs.values():
        for name, version in result.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(each)) for name, each in sorted(found.items())}


def _best_frozen(shown: pd.DataFrame) -> pd.Series:
    """The most accurate head on a pretrained network; where there is none, the most accurate of all."""
    frozen = shown[shown["kind"] == transfer.TRANSFER]
    return (frozen if len(frozen) else shown).iloc[0]


def _named(row: pd.Series) -> str:
    """A head and its features."""
    return head_name(row) + (" from scratch" if row.kind == "scratch" else "") + f" on {row.features}"


def _percent(row: pd.Series) -> str:
    return f"{100 * row.accuracy:.1f}% ({100 * row.accuracy_low:.1f} to {100 * row.accuracy_high:.1f})"
