"""The audit of a cache: what is suspected, written to a folder, and told in sentences."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.audit.suspects import Suspects, find_suspects, rows_of, scored
from analysis.audit.tables import SUMMARY, write_ranking, write_summary
from featurize.cache import CacheInfo

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("frozenbench")
PAIRS_NAMED = 5


@dataclass(frozen=True)
class Audit:
    """The facts of an audit, as in its JSON file, the findings in sentences, and the files written."""

    summary: dict[str, Any]
    findings: list[str]
    written: list[Path]


def audit_cache(info: CacheInfo, out: Path, threads: int, client: "Client | None" = None) -> Audit:
    """Audit the labels of a cache, and write the tables.

    Args:
        info: of the cache.
        out: the folder for the files.
        threads: of this process.
        client: of a cluster whose workers pass over the rows; None to use the threads.

    Raises:
        CacheError: the cache cannot be used.
        DataError: it holds too few images.
        OSError: the folder cannot be written to, or the disk is full.
    """
    rows = rows_of(info)
    logger.info(
        "%s images of %s classes are scored by heads that never saw them", f"{len(rows):,}", len(info.class_names)
    )
    seen = scored(info, rows, threads, client)
    suspects = find_suspects(seen.scores, rows.labels)
    written = [
        write_ranking(out / "suspects.csv", rows, suspects, info.class_names, suspects.count),
        write_ranking(out / "ranking.csv", rows, suspects, info.class_names, len(rows)),
    ]
    summary = summary_of(info, len(rows), suspects)
    written.append(write_summary(out / SUMMARY, summary))
    return Audit(summary, findings(summary), written)


def summary_of(info: CacheInfo, images: int, suspects: Suspects) -> dict[str, Any]:
    """The facts of an audit as JSON values."""
    names = info.class_names
    pairs = []
    for pair in suspects.pairs:
        pairs.append({**asdict(pair), "label": names[pair.label], "true": names[pair.true]})
    return {
        "cache": str(info.path),
        "fingerprint": info.spec.fingerprint,
        "images": images,
        "suspects": suspects.count,
        "estimated_precision": suspects.estimated_precision,
        "estimated_errors": suspects.estimated_errors,
        "pairs": pairs,
    }


def findings(summary: dict[str, Any]) -> list[str]:
    """What an audit found, in sentences."""
    images, count = summary["images"], summary["suspects"]
    if not count:
        return [f"None of {images:,} labels is suspected."]
    share = f"{count:,} of {images:,} labels are suspected ({100 * count / images:.1f}%)."
    lines = [
        f"{share} About {100 * summary['estimated_precision']:.0f}% of these are wrong, by an estimate from the data.",
        f"About {summary['estimated_errors']:,.0f} labels are wrong in all, by the same estimate.",
    ]
    lines += [pair_sentence(pair) for pair in summary["pairs"][:PAIRS_NAMED]]
    return lines


def pair_sentence(pair: dict[str, Any]) -> str:
    """The noise of a pair of classes: `About 4.6% (3.5 to 5.9) of what is labelled cat is dog.`"""
    share, low, high = (f"{100 * pair[name]:.1f}" for name in ("share", "low", "high"))
    return f"About {share}% ({low} to {high}) of what is labelled {pair['label']} is {pair['true']}."
