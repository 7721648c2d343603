"""The data set: class counts, sizes, examples, where the files are, when and on which machine; and its audit."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from analysis.audit import PAGE, SUSPECTS, audit_folder, read_summary
from analysis.figures import pictures
from analysis.figures.album import Album
from analysis.findings import paired_gain, text
from analysis.report.classes import CLASSES_AT_FIRST
from analysis.report.content import Facts, Link, Part, Section, Table, Tiles
from classify.runs import RunResult, head_name
from featurize.cache import read_info, read_labels
from featurize.core.errors import DataError, FrozenbenchError

LISTED = 50  # skipped image files; if there are more, only their number is given

CHANGES = ["approach", "suspects", "seed", "rows", "images", "accuracy", "before", "points", "low", "high"]


def dataset_section(
    runs: Mapping[Path, RunResult], best: RunResult, album: Album | None, skipped: int, out: Path, files: Sequence[str]
) -> Section:
    """What the images are, and which files lie beside the report.

    Args:
        runs: of one test set, by directory.
        best: the run whose images and vectors are shown.
        album: its images; None if they are gone.
        skipped: number of image files that could not be read.
        out: the folder of the report.
        files: names of files in it to link.
    """
    counts = _class_counts(best)
    notes = []
    facts: dict[str, str | Link] = {
        "images": str(best.source.get("data", "made from Python")),
        "skipped files": f"{skipped:,}",
    }
    try:
        facts["sizes"] = pictures.image_sizes(best)
    except DataError as error:
        notes.append(f"The sizes are not known: {error}")
    facts |= _audited(best, out)
    finished = sorted(run.finished for run in runs.values())
    days = dict.fromkeys(when[:16].replace("T", " ") for when in (finished[0], finished[-1]))
    facts["runs finished"] = " to ".join(days)
    facts["machine"] = "; ".join(sorted({run.machine for run in runs.values()}))
    for name in files:
        facts[name] = Link(name, quote(name))
    for folder in dict.fromkeys(run_dir.parent.parent for run_dir in runs):
        facts[f"runs in {folder.as_posix()}"] = Link("open the folder", quote(_relative(folder, out)))
    parts: list[Part] = [Table("Images of each class.", counts, first=CLASSES_AT_FIRST, keys=_keys(best))]
    if album and album.examples:
        names = best.class_names
        rows = [(names[album.labels[images[0]]], [(image, "") for image in images]) for images in album.examples]
        parts.append(Tiles("The first training images of each class.", rows))
    parts.append(Facts(facts))
    train = "" if "train images" not in counts else f"{_total(counts['train images']):,} training images and "
    finding = f"{best.dataset}: {train}{best.test_rows:,} test images of {len(best.class_names):,} classes."
    return Section("Data set", finding, parts, notes=notes)


def skipped_images(runs: Mapping[Path, RunResult]) -> list[tuple[str, str]]:
    """The image files that extraction skipped, each once with the reason; only of caches that still exist."""
    found: dict[str, str] = {}
    for cache in dict.fromkeys(run.cache for run in runs.values()):
        try:
            skipped = read_info(Path(cache)).skipped
        except FrozenbenchError:
            continue
        for split, files in skipped.items():
            if len(files) > LISTED:
                found[f"{len(files):,} {split} images"] = f"to list them: frozenbench featurize info {cache}"
            else:
                found |= {f"{path} ({split} image)": reason for path, reason in files}
    return list(found.items())


def audit_sections(best: RunResult) -> list[Section]:
    """What an audit of the best run's vectors found; no section if there was none."""
    folder = audit_folder(Path(best.cache).stem)
    summary = read_summary(folder, best.fingerprint)
    if summary is None or not summary.get("findings"):
        return []
    first, *others = summary["findings"]
    return [Section("Audit", first, [], notes=[*others, f"All of it is in {(folder / PAGE).as_posix()}."])]


def suspect_sections(rows: pd.DataFrame, runs: Mapping[Path, RunResult]) -> list[Section]:
    """What training without suspected labels, or with less weight for them, changed; no section if no run did.

    Args:
        rows: of `comparison`, of one test set.
        runs: of these rows, by directory.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    changes = suspect_changes(rows, runs)
    if changes.empty:
        return []
    table = Table("Runs that dropped or weighted suspects, and the same runs without that.", change_cells(changes))
    notes = [
        "Both runs of a pair were tested on the same images; intervals are paired (Bonett and Price, 2012).",
        "Suspects are dropped from the training images only. Test images count with the labels they have.",
    ]
    return [Section("Suspected labels", change_sentence(changes.iloc[0]), [table], change_advice(changes), notes)]


def suspect_changes(table: pd.DataFrame, runs: Mapping[Path, RunResult]) -> pd.DataFrame:
    """Each run that dropped or weighted suspects, against the same run that did not.

    Args:
        table: rows of `analysis.frame.comparison` of one test set.
        runs: at least the runs of these rows.

    Returns:
        A row per pair with the columns `CHANGES`, the most accurate run first. `suspects` is `dropped` or `weighted`,
        `rows` their number, `images` that of the training images. `points` is the difference of the accuracies,
        `accuracy` less `before`, with its paired 95% interval. Shares are in 0..1.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    without = {}
    for row in table[table["suspects"] == "none"].itertuples():
        without[_settings(runs[Path(row.run_dir)])] = row.run_dir
    found = []
    for row in table[table["suspects"] != "none"].itertuples():
        result = runs[Path(row.run_dir)]
        before = without.get(_settings(result))
        if before is None:
            continue
        head = head_name(row._replace(suspects="none"))
        facts = [f"{head} on {row.features}", row.suspects, row.seed, result.suspects_rows, result.train_rows]
        accuracies = [result.accuracy, runs[Path(before)].accuracy]
        found.append([*facts, *accuracies, *paired_gain(row.run_dir, before)])
    changes = pd.DataFrame(found, columns=CHANGES)
    return changes.sort_values(["accuracy", "approach"], ascending=[False, True], kind="stable", ignore_index=True)


def change_sentence(change: pd.Series) -> str:
    """A row of `suspect_changes`: `What dropping suspects changed: +1.2 points (0.8 to 1.6), svm on vgg16-imagenet.`"""
    points, low, high = text.points(*change[["points", "low", "high"]])
    doing = "dropping" if change["suspects"] == "dropped" else "weighting"
    return f"What {doing} suspects changed: {points} points ({low} to {high}), {change['approach']}."


def change_advice(changes: pd.DataFrame) -> list[str]:
    """What to do about the heads that did not gain; nothing if all did."""
    losing = dict.fromkeys(changes.loc[changes["high"] < 0, "approach"])
    open_ = dict.fromkeys(changes.loc[(changes["low"] <= 0) & (changes["high"] >= 0), "approach"])
    advice = []
    if losing:
        advice.append(f"Train {', '.join(losing)} on all images: without suspects, accuracy fell.")
    if open_:
        advice.append(f"It is open whether it helps {', '.join(open_)}.")
    return advice


def change_cells(changes: pd.DataFrame) -> pd.DataFrame:
    """`suspect_changes` as text."""
    rows = []
    for change in changes.itertuples():
        points, low, high = text.points(change.points, change.low, change.high)
        rows.append(
            {
                "head": change.approach,
                "suspects": f"{change.rows:,} {change.suspects}",
                "seed": str(change.seed),
                "train images": f"{change.images:,}",
                "accuracy without it %": f"{100 * change.before:.2f}",
                "accuracy with it %": f"{100 * change.accuracy:.2f}",
                "points (95% interval)": f"{points} ({low} to {high})",
            }
        )
    return pd.DataFrame(rows)


def _settings(result: RunResult) -> tuple[Any, ...]:
    """What two runs have in common that differ in suspects alone."""
    return (
        result.fingerprint,
        tuple(result.layers),
        result.own_head or result.model,
        result.class_weight,
        result.tuned,
        result.seed,
        result.draw,
        result.train_size,
    )


def _audited(run: RunResult, out: Path) -> dict[str, str | Link]:
    """What the audit of the run's vectors found, if there was one."""
    cache = Path(run.cache)
    folder = audit_folder(cache.stem)
    found = read_summary(folder, run.fingerprint)
    if found is None:
        return {"suspected labels": f"not looked for; frozenbench audit {run.cache} does"}
    count = f"{found['suspects']:,} of {found['images']:,} labels are suspected"
    table = folder / SUSPECTS
    return {
        "suspected labels": Link(count, quote(_relative(table, out).removesuffix("/"))) if table.is_file() else count
    }


def _class_counts(run: RunResult) -> pd.DataFrame:
    """The training images of each class, if the vectors still exist, and the test images."""
    table = {"class": run.class_names}
    try:
        labels, _, _ = read_labels(Path(run.cache), "train")
        numbers = np.bincount(labels, minlength=len(run.class_names))
        table["train images"] = [f"{number:,}" for number in numbers]
    except FrozenbenchError:
        pass
    table["test images"] = [f"{run.support.get(name, 0):,}" for name in run.class_names]
    return pd.DataFrame(table)


def _total(column: pd.Series) -> int:
    return int(sum(int(number.replace(",", "")) for number in column))


def _keys(run: RunResult) -> list[dict[str, str]]:
    return [{"class": str(number)} for number in range(len(run.class_names))]


def _relative(folder: Path, out: Path) -> str:
    """The way from the report to a folder, with slashes."""
    return Path(os.path.relpath(folder, out)).as_posix() + "/"
