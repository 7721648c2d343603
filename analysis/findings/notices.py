"""What to look at in a set of runs: the findings with codes, from the runs' warnings and from their comparison."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.findings import text
from analysis.findings.answer import Answer
from analysis.findings.transfer import TRANSFER
from classify.runs import RunResult, code_of, head_name, read_predictions
from classify.statistics import ALPHA, compare, size_warning

HIGH_ECE, IMAGES_FOR_ECE = 0.1, 500
FEW_IMAGES = 20  # of a class


class Notice(NamedTuple):
    """A code of `classify.runs.CODES`, and what was found."""

    code: str
    found: str


def notices(
    shown: pd.DataFrame,
    runs: Mapping[Path, RunResult],
    answer: Answer,
    skipped_runs: int = 0,
    skipped_images: int = 0,
    ignored: Collection[str] = (),
) -> list[Notice]:
    """The findings of the runs on one test set, in the order of their codes.

    Args:
        shown: from `analysis.frame.with_groups`, best first.
        runs: of this test set, by directory.
        answer: of these runs.
        skipped_runs: number of run directories that could not be used.
        skipped_images: number of image files that could not be read.
        ignored: codes to leave out.

    Raises:
        DataError: the predictions of a run cannot be used.
    """
    found = [
        *_warnings(runs),
        *_comparison(shown, runs, answer),
        *_best(runs[Path(answer.best["run_dir"])], head_name(answer.best)),
    ]
    if skipped_images:
        found.append(Notice("FB012", f"{_count(skipped_images, 'image file')} skipped."))
    if skipped_runs:
        found.append(Notice("FB013", f"{_count(skipped_runs, 'run')} left out."))
    machines = {run.machine for run in runs.values()}
    if len(machines) > 1:
        found.append(Notice("FB014", f"The runs come from {len(machines):,} machines."))
    return sorted(notice for notice in found if notice.code not in ignored)


def _warnings(runs: Mapping[Path, RunResult]) -> list[Notice]:
    """The warnings of the runs: each once, with the number of runs that have it."""
    counts = Counter(warning for run in runs.values() for warning in dict.fromkeys(run.warnings))
    found = []
    for warning, count in counts.items():
        if code := code_of(warning):
            line = " ".join(warning.removeprefix(f"{code}: ").split())
            found.append(Notice(code, f"{line} ({count:,} of {len(runs):,} runs)"))
    return found


def _comparison(shown: pd.DataFrame, runs: Mapping[Path, RunResult], answer: Answer) -> list[Notice]:
    """What the comparison of the heads leaves open."""
    found = []
    compared = compare({run_dir: read_predictions(Path(run_dir)) for run_dir in shown["run_dir"]})
    if line := size_warning(compared, lambda run_dir: head_name(runs[Path(run_dir)])):
        found.append(Notice("FB006", f"{line}."))
    if not (shown["kind"] != TRANSFER).any():
        found.append(Notice("FB007", "There is no control."))
    gain = answer.gain
    if gain is not None and gain["adjusted"] > ALPHA:
        p = text.p_value(gain["adjusted"])
        found.append(Notice("FB008", f"{gain['approach']} against {gain['control_approach']}: p {p}."))
    best_letters = set(shown.loc[shown["run_dir"] == answer.best["run_dir"], "group"].iloc[0])
    untrained = [row for row in shown.itertuples() if row.kind == "random" and best_letters & set(row.group)]
    if answer.best["kind"] == TRANSFER and untrained:
        names = ", ".join(head_name(row) for row in untrained)
        found.append(Notice("FB009", f"Heads on the untrained network that share a letter with the best: {names}."))
    return found


def _best(run: RunResult, name: str) -> list[Notice]:
    """What the best head's own numbers say."""
    found = []
    if run.ece > HIGH_ECE and run.test_rows >= IMAGES_FOR_ECE:
        found.append(Notice("FB010", f"The calibration error of {name} is {100 * run.ece:.0f}%."))
    few = [label for label, images in run.support.items() if 0 < images < FEW_IMAGES]
    if few:
        named = ", ".join(few[:3]) + (" and others" if len(few) > 3 else "")
        found.append(Notice("FB011", f"{len(few):,} of {len(run.support):,} classes: {named}."))
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s were' if number > 1 else ' was'}"
