"""Runs as one data frame: what the findings and the figures both start from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from classify.runs import LoadedRuns, RunResult, read_predictions
from classify.statistics import compare

COLUMNS = [
    "dataset", "test_set", "kind", "features", "cache", "backbone", "weights", "layers", "model", "seed", "draw",
    "class_weight", "suspects", "tuned", "dim", "train_rows", "drawn_from", "test_rows", "accuracy", "accuracy_low",
    "accuracy_high", "balanced_accuracy", "macro_f1", "macro_f1_low", "macro_f1_high", "log_loss", "brier", "ece",
    "fit_seconds", "extraction_seconds", "predict_ms_per_image", "iterations", "converged", "head_bytes",
    "fingerprint", "run_dir",
]  # fmt: skip
HEAD = ["test_set", "features", "layers", "model", "class_weight", "suspects"]
NEAR_END = 0.9  # of the last epoch's training accuracy


def comparison(runs: Mapping[Path, RunResult] | LoadedRuns) -> pd.DataFrame:
    """One row per run with the columns `COLUMNS`, sorted by test set and then by accuracy, best first.

    The runs are those of `load_runs`, or some of them by directory.

    `test_set` names the test images: the data set's name and the first digits of their digest.
    `kind` is the input of the head: `pretrained` or `random` (a network with such weights), `pixels`,
    or `scratch` (images, for a network that is trained on them). `cache` is the file name of the
    vectors. `features` is their short name, the backbone and its weights, or the file name if that
    does not begin with them. If one name stands for several kinds of vectors, their layers or the
    first digits of their fingerprints are added. `draw` numbers the choice of the training images from `drawn_from`: it
    is the seed, unless a head is trained again on the same images with another seed. Accuracies, macro F1, their bounds
    and the calibration error are in 0..1; `extraction_seconds` is per image.
    """
    if isinstance(runs, LoadedRuns):
        runs = runs.runs
    rows = [_row(run_dir, result) for run_dir, result in runs.items()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["features"] = table["features"].mask(_ambiguous(table, "cache"), table["cache"])
    for column, mark in (("layers", table["layers"]), ("fingerprint", table["fingerprint"].str[:6])):
        marked = table["features"] + " (" + mark + ")"
        table["features"] = table["features"].mask(_ambiguous(table, column), marked)
    order = ["dataset", "test_set", "accuracy", "features", "model", "seed", "run_dir"]
    ascending = [name != "accuracy" for name in order]
    return table.sort_values(order, ascending=ascending, ignore_index=True)


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """One run for each head on the same features, best first.

    The run with the most training images is chosen, then the one with the longest search, then the
    lowest seed. Default and tuned settings count as two heads, and so do the class weights, and what was done with
    suspected labels.

    Args:
        table: from `comparison`, or some of its rows.
    """
    preferred = table.assign(searched=table["tuned"] > 0).sort_values(
        ["train_rows", "tuned", "seed", "run_dir"], ascending=[False, False, True, True]
    )
    chosen = preferred.drop_duplicates([*HEAD, "searched"]).index
    return table.loc[sorted(chosen)].reset_index(drop=True)


def with_groups(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one test set with the column `group`: runs that share a letter do not differ significantly.

    Raises:
        DataError: the predictions of a run cannot be read, or the runs have different test images.
    """
    groups = compare({run_dir: read_predictions(Path(run_dir)) for run_dir in rows["run_dir"]}).groups
    return rows.assign(group=rows["run_dir"].map(groups))


class PairCounts(NamedTuple):
    """The test images of two runs A and B: which of them is right, and McNemar's p value without a correction."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


def pair_counts(predictions: Mapping[str, pd.DataFrame]) -> dict[tuple[str, str], PairCounts]:
    """The counts of every ordered pair of runs, from their predictions by run directory.

    Raises:
        DataError: the runs have different test images.
    """
    compared = compare(predictions)
    rights = [round(compared.rows * share) for share in compared.accuracy]
    found = {}
    for i, one in enumerate(compared.runs):
        for j, other in enumerate(compared.runs):
            differ = int(compared.discordant[i, j])
            only_a = (differ + rights[i] - rights[j]) // 2
            both = rights[i] - only_a
            neither = compared.rows - both - differ
            found[one, other] = PairCounts(both, only_a, differ - only_a, neither, float(compared.p[i, j]))
    return found


def training_cost(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `extraction_seconds` of all training images, and `seconds` of extraction and fit together.

    Every run is charged the whole extraction, also if several heads share it.
    """
    extraction = rows["extraction_seconds"] * rows["train_rows"]
    return rows.assign(extraction_seconds=extraction, seconds=rows["fit_seconds"] + extraction)


def epoch_near_end(accuracy: Sequence[float]) -> int:
    """The first epoch, counted from 1, with at least 90% of the last epoch's training accuracy."""
    values = np.asarray(accuracy)
    return int(np.argmax(values >= NEAR_END * values[-1])) + 1


def _row(run_dir: Path, result: RunResult) -> dict[str, object]:
    return {
        **vars(result),
        "test_set": f"{result.dataset}-{result.test_digest[:8]}",
        "kind": _kind(result),
        "backbone": result.spec["backbone"],
        "features": _short_name(result),
        "cache": _cache_name(result),
        "layers": "+".join(result.layers),
        "class_weight": result.class_weight or "none",
        "draw": result.seed if result.draw is None else result.draw,
        "suspects": result.suspects or "none",
        "run_dir": run_dir.as_posix(),
    }


def _kind(result: RunResult) -> str:
    if result.model == "cnn":
        return "scratch"
    if result.spec["backbone"] == "pixels":
        return "pixels"
    return "random" if result.weights.startswith("random") else "pretrained"


def _cache_name(result: RunResult) -> str:
    """The file name of the vectors, without the name of the data set."""
    return result.features.removeprefix(f"{result.dataset}-")


def _short_name(result: RunResult) -> str:
    """The backbone, its weights and a lower precision, if the file name begins with them.

    A name that the user chose does not.
    """
    backbone = result.spec["backbone"]
    short = "pixels" if backbone == "pixels" else f"{backbone}-{result.weights}"
    name = _cache_name(result)
    if not f"{name}-".startswith(f"{short}-"):
        return name
    precision = result.spec.get("precision", "float32")
    return short if precision == "float32" else f"{short}-{precision}"


def _ambiguous(table: pd.DataFrame, column: str) -> pd.Series:
    """The rows whose name of features stands for several values of a column on the same test set."""
    return table.groupby(["test_set", "features"])[column].transform("nunique") > 1
