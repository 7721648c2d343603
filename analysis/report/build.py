"""Runs -> tables, figures and a report for each test set."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.findings import (
    TRANSFER,
    Claim,
    Measure,
    Notice,
    answer,
    best_pretrained,
    claims,
    correction,
    ledger,
    notices,
)
from analysis.frame import comparison, headline, with_groups
from analysis.report import captions
from analysis.report.captions import FigureFolder, drawn_parts
from analysis.report.classes import classes_section
from analysis.report.commands import repeat_commands, reproduction, versions
from analysis.report.content import Number, Part, PointMap, Report, Section, Table
from analysis.report.dataset import audit_sections, dataset_section, skipped_images, suspect_sections
from analysis.report.explore import Exploration, explore
from analysis.report.html import write_report
from analysis.report.summary import write_summary
from analysis.report.tables import (
    ROWS_AT_FIRST,
    SPREAD_CAPTION,
    SPREAD_NOTES,
    SPREAD_ON_DEMAND,
    corrected,
    notices_table,
    ranked_networks,
    ranking,
    spread_table,
    write_comparison,
    write_mistakes,
)
from classify.runs import RunResult, with_predictions

logger = logging.getLogger("frozenbench")
EARLIER = "earlier"
LIMITS = (
    "One data set and one test split: other images may give another result.",
    "The measurements include neither the cost of pretraining nor how much ImageNet resembles the images.",
    "Seconds are wall-clock times of single runs on the machine named with them.",
    "Except under Spread, an interval covers either the choice of the test images or, over several seeds, that of the "
    "training images.",
)
TESTS = (
    "Letters: McNemar's exact tests on the same test images, with Holm's correction over all pairs, at 5%.",
    "Percentages are rounded to what their intervals support.",
)
TABLES = {
    "accuracy": "Each head against controls with as many training images.",
    "little-data": "Accuracy by the number of training images, and the images for the same accuracy.",
    "training-time": "Seconds to the same accuracy.",
    "convergence": "Epochs and iterations.",
}
ON_DEMAND = frozenset(
    {
        "accuracy (95% interval)", "control's accuracy (95% interval)", "both wrong %", "error overlap %", "seeds",
        "heads", "s, extraction shared", "s by validation", "train images", "ms per correct answer",
    }
)  # fmt: skip


def write_reports(
    runs: Mapping[Path, RunResult],
    skipped: Sequence[tuple[Path, str]],
    out: Path,
    ignored: Collection[str] = (),
) -> tuple[dict[str, list[str]], list[Path]]:
    """Write comparison.csv, .md and .tex, and for each test set figures, a list of mistakes, report.html and report.md.

    Reports of other test sets, written to this folder before, are moved to its folder `earlier`.

    Args:
        runs: from `classify.runs.load_runs`.
        skipped: the run directories that could not be used, each with the reason.
        out: the folder for everything; the same runs give the same bytes.
        ignored: codes of findings to leave out, see `classify.runs.CODES`.

    Returns:
        The summary of each test set's report, and the paths written.

    Raises:
        DataError: no run can be used.
    """
    runs, damaged = with_predictions(runs)
    skipped = [*skipped, *damaged]
    table = comparison(runs)
    tables = write_comparison(table, out)
    written = list(tables)
    summaries = {}
    test_sets = list(table.groupby("test_set", sort=False))
    for test_set, rows in test_sets:
        name = str(test_set)
        own = {Path(run_dir): runs[Path(run_dir)] for run_dir in rows["run_dir"]}
        first = next(iter(own.values()))
        folder = FigureFolder(out / "figures", name, rows, max(first.support.values()) / first.test_rows)
        suffix = "" if len(test_sets) == 1 else f"-{name}"
        best = best_pretrained(headline(rows))["run_dir"]
        mistakes = write_mistakes(Path(best), runs[Path(best)], out / f"mistakes{suffix}.csv")
        report = build_report(rows, own, skipped, folder, [mistakes.name, *(path.name for path in tables)], ignored)
        summary = write_summary(report, out / f"report{suffix}.md")
        page = write_report(report, out / f"report{suffix}.html")
        written += [*folder.written, mistakes, summary, page]
        summaries[name] = [report.answer, *(section.finding for section in report.sections[:4])]
    _put_aside_earlier_reports(out, written)
    return summaries, written


def _put_aside_earlier_reports(out: Path, written: Sequence[Path]) -> None:
    """Move reports and lists of mistakes that are not of these runs to the folder `earlier`."""
    for path in sorted([*out.glob("report*.html"), *out.glob("report*.md"), *out.glob("mistakes*.csv")]):
        if path not in written:
            (out / EARLIER).mkdir(exist_ok=True)
            path.replace(out / EARLIER / path.name)
            logger.info("%s is not of these runs: it is in %s now", path.name, out / EARLIER)


def build_report(
    rows: pd.DataFrame,
    runs: Mapping[Path, RunResult],
    skipped: Sequence[tuple[Path, str]],
    folder: FigureFolder,
    files: Sequence[str] = (),
    ignored: Collection[str] = (),
) -> Report:
    """The report on one test set, from its rows of `comparison` and their runs.

    Args:
        rows: of `comparison`.
        runs: by directory.
        skipped: the run directories that could not be used, each with the reason.
        folder: for the figures.
        files: names of files beside the report.
        ignored: codes of findings to leave out.
    """
    shown = with_groups(headline(rows))
    found = claims(rows, runs)
    first = next(iter(runs.values()))
    caches = rows.drop_duplicates("features").sort_values("features")
    best = best_pretrained(shown)
    answered = answer(rows)
    unreadable = skipped_images(runs)
    explored = explore(shown, runs, best)
    best_run = runs[Path(best["run_dir"])]
    found_notices = notices(shown, runs, answered, len(skipped), len(unreadable), ignored)
    return Report(
        title="What is a frozen network worth on these images?",
        subtitle=f"{first.dataset}: {first.test_rows:,} test images of {len(first.class_names):,} classes, "
        f"{len(runs):,} runs. Brackets and lines are 95% intervals.",
        answer=answered.sentence,
        numbers=[large_number(claim.measure) for claim in found],
        ranking=ranking(shown, folder.chance.share),
        sections=[
            *_claim_sections(found, rows, shown, runs, folder),
            *_spread_sections(rows, shown, runs, folder),
            *_choice_sections(shown, folder),
            *_findings_sections(found_notices),
            classes_section(shown, runs, folder),
            _pictures_section(best, best_run, explored, folder),
            *audit_sections(best_run),
            *suspect_sections(rows, runs),
            dataset_section(runs, best_run, explored.album, len(unreadable), folder.folder.parent, files),
        ],
        commands=reproduction(runs),
        versions=versions(runs),
        fingerprints={f"{row.features}, in {row.cache}.h5": row.fingerprint for row in caches.itertuples()},
        limits=_limits(shown, runs),
        skipped=[*((path.as_posix(), reason) for path, reason in skipped), *unreadable],
        thumbnails=explored.thumbnails,
        data=explored.data,
    )


def large_number(measure: Measure) -> Number:
    """A measure as the page shows it; ratios are drawn on a logarithmic scale."""
    if not measure.is_measured:
        return Number("", measure.label, detail=measure.detail, command=measure.command)
    place = math.log if measure.neutral == 1 else float
    low, high = (measure.low, measure.high) if measure.has_interval else (math.nan, math.nan)
    low = -math.inf if measure.neutral == 1 and low <= 0 else place(low)
    scale = (low, place(measure.value), place(high), place(measure.neutral))
    interval = f"95% interval {measure.interval}" if measure.has_interval else measure.interval
    return Number(
        measure.written, measure.label, interval, measure.detail, scale=scale, no_difference=f"{measure.neutral:g}"
    )


def _claim_sections(
    found: Sequence[Claim],
    rows: pd.DataFrame,
    shown: pd.DataFrame,
    runs: Mapping[Path, RunResult],
    folder: FigureFolder,
) -> list[Section]:
    """A section per claim: its figure and its table. The figure of all accuracies is for papers only."""
    _, accuracy_notes = drawn_parts("accuracy", captions.accuracy_figure, shown, folder)
    drawn: dict[str, tuple[list[Part], list[str]]] = {
        "accuracy": ([], [*accuracy_notes, *TESTS]),
        "little-data": drawn_parts("learning curves", captions.curves_figures, rows, folder),
        "training-time": drawn_parts("cost", captions.cost_figures, shown, rows, folder),
        "convergence": drawn_parts("convergence", captions.convergence_figures, rows, runs, folder),
    }
    networks = shown[shown["kind"] == TRANSFER]
    sections = []
    for claim in found:
        parts, notes = drawn[claim.key]
        parts = list(parts)
        if claim.key == "accuracy" and networks["features"].nunique() > 1:
            parts.append(Table("Networks, ranked by their best head.", ranked_networks(networks)))
        if len(claim.table):
            parts.append(Table(TABLES[claim.key], claim.table, extra=ON_DEMAND, first=ROWS_AT_FIRST))
        sections.append(Section(claim.title, claim.finding, parts, claim.details, [*notes, *claim.notes]))
    return sections


def _spread_sections(
    rows: pd.DataFrame, shown: pd.DataFrame, runs: Mapping[Path, RunResult], folder: FigureFolder
) -> list[Section]:
    """How far accuracies vary, or the commands that measure it; no section for a cross-validation."""
    best = best_pretrained(shown)
    if runs[Path(best["run_dir"])].folds:
        return []
    found = ledger(rows, runs)
    if found is None:
        controls = shown[shown["kind"] != TRANSFER].head(1)
        repeated = {Path(run_dir): runs[Path(run_dir)] for run_dir in [best["run_dir"], *controls["run_dir"]]}
        finding = "Not measured: how far accuracies vary with the training images and the seed."
        return [Section("Spread", finding, [], commands=repeat_commands(repeated))]
    drawing, notes = drawn_parts("spread", captions.spread_figure, found, folder)
    table = Table(SPREAD_CAPTION, spread_table(found), extra=SPREAD_ON_DEMAND, first=ROWS_AT_FIRST)
    details = [found.comparison] if found.comparison else []
    return [Section("Spread", found.finding, [*drawing, table], details, [*notes, *SPREAD_NOTES])]


def _choice_sections(shown: pd.DataFrame, folder: FigureFolder) -> list[Section]:
    """What the best head owes to having been picked on the test images; no section if there is only one head."""
    if len(shown) < 2:
        return []
    found = correction(shown)
    drawing, notes = drawn_parts("best of n", captions.choice_figure, found.selection.by_number, folder)
    winner = shown[shown["run_dir"] == found.selection.run].iloc[0]
    table = Table(
        "The best head, as tested and corrected for the choice, with 95% intervals.", corrected(winner, found)
    )
    notes = [
        *notes,
        "The test images are drawn a thousand times with replacement; each time, the best head on the draw is picked.",
        "It is better on the draw than on all images, on average by so many points (Efron, 1983).",
    ]
    return [Section("Best of many", found.sentence, [table, *drawing], notes=notes)]


def _findings_sections(found: Sequence[Notice]) -> list[Section]:
    """What to look at, each with its code; no section if there is nothing."""
    if not found:
        return []
    codes = ", ".join(dict.fromkeys(notice.code for notice in found))
    table = Table("docs/findings.md explains each code.", notices_table(found), extra=frozenset({"how it is found"}))
    return [Section("Findings", f"Look at {codes}.", [table])]


def _pictures_section(best: pd.Series, result: RunResult, explored: Exploration, folder: FigureFolder) -> Section:
    """The images behind the figures; the figures of them are for papers only."""
    _, notes = drawn_parts("mistakes", captions.mistakes_figure, best, result, folder)
    _, more = drawn_parts("neighbours", captions.neighbours_figure, result, folder)
    for part in explored.parts:
        if isinstance(part, PointMap):
            _, of_map = drawn_parts("map", captions.map_figure, part.points, part.labels, part.class_names, folder)
            more += of_map
    finding = "Which images are mistaken, which are alike, and where two heads differ."
    return Section(
        title="Images",
        finding=finding if explored.parts else "The images and vectors are not available.",
        parts=explored.parts,
        notes=[*explored.notes, *notes, *more],
    )


def _limits(shown: pd.DataFrame, runs: Mapping[Path, RunResult]) -> list[str]:
    """What the report does not show."""
    limits = list(LIMITS)
    result = runs[Path(best_pretrained(shown)["run_dir"])]
    if (shown["kind"] == "scratch").any():
        limits.append("The network from scratch has fixed settings; a longer training may make it more accurate.")
    limits.append(f"The best head was evaluation number {result.test_opened:,} on this test split.")
    if result.folds:
        limits[0] = "One data set: other images may give another result."
        limits.append(
            f"Every image was tested once, by heads trained on the other {result.folds - 1} of {result.folds} folds."
        )
        limits.append("Their training images overlap, so intervals and tests are those of two thirds of the images.")
    if result.groups:
        limits.append(
            f"The test images are in {result.groups:,} groups, which stay together: intervals and tests follow the "
            "differences between groups."
        )
    return limits
