"""The audit of a cache: what is suspected, written to a folder, and told in sentences."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from analysis.audit.copies import find_copies
from analysis.audit.leaks import leak_effects
from analysis.audit.page import write_page
from analysis.audit.pictures import Pictures, PictureSource
from analysis.audit.strangers import relative_distances, strangers
from analysis.audit.suspects import Rows, find_suspects, rows_of, scored
from analysis.audit.tables import PAGE, SUMMARY, SUSPECTS, write_copies, write_ranking, write_strangers, write_summary
from classify.runs import RunResult
from featurize.cache import CacheInfo
from featurize.core.environment import blas_threads
from featurize.core.errors import DataError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("frozenbench")
PAIRS_NAMED = 5
WITHIN = 10  # points, of the estimated precision: the largest difference in docs/audit.md
WORTH_DROPPING = 0.5  # share of wrong labels; with right labels, heads lost up to 0.8 points without the suspects


@dataclass(frozen=True)
class Audit:
    """The facts of an audit, as in its JSON file, the findings in sentences, and the files written."""

    summary: dict[str, Any]
    findings: list[str]
    written: list[Path]


def audit_cache(
    info: CacheInfo, out: Path, runs: Mapping[Path, RunResult], threads: int, client: "Client | None" = None
) -> Audit:
    """Audit a cache, and write the tables.

    Args:
        info: of the cache.
        out: the folder for the files.
        runs: whose accuracy copies across splits may have raised, by their directories; those on other caches do not
            count.
        threads: of this process.
        client: of a cluster whose workers pass over the rows; None to use the threads.

    Raises:
        CacheError: the cache cannot be used.
        DataError: it holds too few images.
        OSError: the folder cannot be written to, or the disk is full.
    """
    rows = rows_of(info)
    logger.info("%s images are scored by heads that never saw them", f"{len(rows):,}")
    seen = scored(info, rows, threads, client)
    with threadpool_limits(1):  # matrices of few columns: threads would wait longer than they work
        suspects = find_suspects(seen.scores, rows.labels)
    source, pictures, left_out = read_pictures(info, rows)
    logger.info("copies are looked for")
    with blas_threads(threads):
        copies = find_copies(seen.components, pictures)
    distances = relative_distances(seen.scores, rows.folds, seen.discriminants)
    strange, reasons = strangers(distances, pictures)

    conflicts = np.unique(copies.pairs[copies.conflicting(rows)])
    names = info.class_names
    written = [
        write_ranking(out / SUSPECTS, rows, suspects, names, suspects.count, conflicts),
        write_ranking(out / "ranking.csv", rows, suspects, names, len(rows), conflicts),
        write_copies(out / "copies.csv", rows, copies, names),
        write_strangers(out / "strangers.csv", rows, strange, reasons, distances, names),
    ]
    across = copies.across(rows)
    leaked_rows = np.unique(copies.pairs[across])
    leaked = rows.ids[leaked_rows[rows.splits[leaked_rows] == "test"]]
    pairs = []
    for pair in suspects.pairs:
        pairs.append({**asdict(pair), "label": names[pair.label], "true": names[pair.true]})
    summary = {
        "cache": str(info.path),
        "fingerprint": info.spec.fingerprint,
        "images": len(rows),
        "suspects": suspects.count,
        "estimated_precision": suspects.estimated_precision,
        "pairs": pairs,
        "copies": len(copies),
        "copies_by_kind": counted(copies.kinds),
        "conflicts": int(copies.conflicting(rows).sum()),
        "leaks": 0 if info.folds else int(across.sum()),
        "leaked_test_images": 0 if info.folds else len(leaked),
        "runs": [] if info.folds else [asdict(effect) for effect in leak_effects(runs, info.spec.fingerprint, leaked)],
        "strangers": counted(reasons),
        "left_out": left_out,
    }
    said = findings(summary)
    written.append(write_summary(out / SUMMARY, {**summary, "findings": said}))
    page = write_page(out / PAGE, info.path.stem, said, rows, suspects, names, source, with_splits=not info.folds)
    return Audit(summary, said, [*written, page])


def read_pictures(info: CacheInfo, rows: Rows) -> tuple[PictureSource | None, Pictures | None, list[str]]:
    """The source and the summary of a cache's pictures; None for both, and the reason, if they are gone."""
    logger.info("the pictures are read")
    try:
        source = PictureSource(info, rows)
        return source, source.summary(), []
    except DataError as error:
        reason = (
            f"{error}: only the vectors were audited. Near copies, empty and tiny pictures were not looked for, and "
            "copies are those with equal vectors."
        )
        logger.warning(reason)
        return None, None, [reason]


def counted(values: np.ndarray) -> dict[str, int]:
    """How often each value occurs."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def findings(summary: dict[str, Any]) -> list[str]:
    """What an audit found, in sentences."""
    return [*label_findings(summary), *copy_findings(summary), *stranger_findings(summary), *summary["left_out"]]


def label_findings(summary: dict[str, Any]) -> list[str]:
    """What an audit found about the labels, in sentences."""
    images, count = summary["images"], summary["suspects"]
    if not count:
        return [f"None of {images:,} labels is suspected."]
    precision = summary["estimated_precision"]
    if precision is None:
        estimate = "How many of these are wrong cannot be estimated, because hard images look the same: look at them."
    else:
        low, high = max(0, round(100 * precision) - WITHIN), min(100, round(100 * precision) + WITHIN)
        estimate = f"About {100 * precision:.0f}% of these ({low} to {high}) are wrong, by an estimate from the data."
    if precision is None or precision < WORTH_DROPPING:
        estimate += " For training, --weight-suspects is safer than --drop-suspects."
    share = f"{count:,} of {images:,} labels are suspected ({100 * count / images:.1f}%)."
    return [f"{share} {estimate}", *(pair_sentence(pair) for pair in summary["pairs"][:PAIRS_NAMED])]


def copy_findings(summary: dict[str, Any]) -> list[str]:
    """What an audit found about copies, in sentences."""
    if not summary["copies"]:
        return ["No copies were found."]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary["copies_by_kind"].items())
    lines = [
        f"{summary['copies']:,} pairs of copies ({kinds}): {summary['conflicts']:,} with different labels, "
        f"{summary['leaks']:,} across the splits."
    ]
    for run in summary["runs"]:
        effect = f"{run['points']:+.2f} points ({run['low']:+.2f} to {run['high']:+.2f})"
        lines.append(
            f"{run['run']}: {100 * run['accuracy']:.2f}% accuracy, {100 * run['without']:.2f}% without the "
            f"{summary['leaked_test_images']:,} test images that are copies of training images: {effect}."
        )
    return lines


def stranger_findings(summary: dict[str, Any]) -> list[str]:
    """What an audit found about strange pictures, in sentences."""
    total = sum(summary["strangers"].values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary["strangers"].items())
    return [f"{total:,} strange pictures: {kinds}." if total else "No strange pictures were found."]


def pair_sentence(pair: dict[str, Any]) -> str:
    """The noise of a pair of classes: `About 4.6% (3.5 to 5.9) of what is labelled cat is dog.`"""
    share, low, high = (f"{100 * pair[name]:.1f}" for name in ("share", "low", "high"))
    return f"About {share}% ({low} to {high}) of what is labelled {pair['label']} is {pair['true']}."
