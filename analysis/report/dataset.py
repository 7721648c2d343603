"""The data set: class counts, sizes, examples, where the files are, when and on which machine; and its audit."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from analysis.audit import PAGE, audit_folder, read_summary
from analysis.figures import pictures
from analysis.figures.album import Album
from analysis.report.classes import CLASSES_AT_FIRST
from analysis.report.content import Facts, Link, Part, Section, Table, Tiles
from classify.runs import RunResult
from featurize.cache import read_info, read_labels
from featurize.core.errors import DataError, FrozenbenchError

LISTED = 50  # skipped image files; if there are more, only their number is given


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


def _audited(run: RunResult, out: Path) -> dict[str, str | Link]:
    """What the audit of the run's vectors found, if there was one."""
    cache = Path(run.cache)
    folder = audit_folder(cache.stem)
    found = read_summary(folder, run.fingerprint)
    if found is None:
        return {"suspected labels": f"not looked for; frozenbench audit {run.cache} does"}
    count = f"{found['suspects']:,} of {found['images']:,} labels are suspected"
    table = folder / "suspects.csv"
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
