"""The rows of a job: its training rows, and the test split, whose openings are counted."""

import functools
import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import numpy as np

from classify.heads import COMPONENTS_FOR_TREES, HEADS_IN_BLOCKS
from classify.large import FeatureBlocks, memory_needed
from classify.training.job import Job
from featurize.cache import FeatureRows, Features, load_features, read_labels
from featurize.core.errors import HeadError, UsageError
from featurize.core.files import locked
from featurize.core.records import record

logger = logging.getLogger("frozenbench")
OPENINGS = "test-openings.jsonl"


@dataclass(frozen=True)
class Opening:
    """A line of `OPENINGS`: an evaluation of a run on the test images of the features with this fingerprint."""

    time: str
    run: str
    fingerprint: str


def training_rows(job: Job) -> FeatureRows:
    """The rows that a job trains on: in memory if a fit on all of them at once fits there, else in blocks.

    Raises:
        UsageError: the job asks for more rows than there are.
        HeadError: memory is too small, and the head cannot be fitted in blocks.
        CacheError: the cache cannot be used.
    """
    if job.fits:
        return rows_in_memory(job)
    _check_size(job)
    _check_head_for_blocks(job)
    return FeatureBlocks.of(job.info, "train", job.layers, _chosen_rows(job))


def rows_in_memory(job: Job) -> Features:
    """The training rows of a job that fits into memory.

    Raises:
        UsageError: the job asks for more rows than there are.
        CacheError: the cache cannot be used.
    """
    _check_size(job)
    info = job.info
    if memory_needed(info.rows["train"], info.dim) > job.available_memory:
        # The whole split does not fit, or not with the columns of all layers: load the chosen rows block by block.
        return FeatureBlocks.of(info, "train", job.layers, _chosen_rows(job)).load()
    train = _split(info.path, info.spec.fingerprint, "train", job.layers)
    return without_suspects(job, train if job.rows is None else stratified_subset(train, job.rows, job.seed_of_rows))


def without_suspects(job: Job, train: Features) -> Features:
    """The training rows without those whose labels are suspected, if the job drops them."""
    if job.suspects is None:
        return train
    kept = job.suspects.kept(train.ids)
    return train if kept.all() else train.select(kept)


def stratified_subset(features: Features, rows: int, seed: int) -> Features:
    """A stratified subset of `rows` rows, in the original order; all rows if there are fewer."""
    chosen = np.sort(stratified_order(features.y, seed)[:rows])
    return features.select(chosen)


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of all rows, (n,), in which every prefix has the proportions of the classes, to within one row.

    The r-th of the c rows of a class, in random order, comes at (r + 1/2) / c of the way. Prefixes of
    one order are nested, so each subset of a learning curve contains the smaller ones.
    """
    random = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((random.permutation(len(labels)), position))


def open_test_split(job: Job, folder: Path) -> tuple[FeatureRows, int]:
    """The test features, and how often they have been opened, this time included.

    This is the only way to the test features in this package. Each opening adds a line to a file in the
    folder of the cache's runs, which shows among how many runs the best one was picked.
    """
    info = job.info
    test: FeatureRows
    if memory_needed(info.rows["test"], info.dim) > job.available_memory:
        test = FeatureBlocks.of(info, "test", job.layers)
    else:
        test = _split(info.path, info.spec.fingerprint, "test", job.layers)
    opening = Opening(now(), job.name, info.spec.fingerprint)
    with locked(folder / OPENINGS) as file:
        found, damaged = _openings(file)
        file.write(json.dumps(asdict(opening)).encode() + b"\n")
    if damaged:
        logger.warning(
            "%s: damaged lines, which are not counted: %d; there were more evaluations on the test images than it says",
            folder / OPENINGS, damaged,
        )  # fmt: skip
    return test, 1 + sum(each.fingerprint == opening.fingerprint for each in found)


def _openings(file: IO[bytes]) -> tuple[list[Opening], int]:
    """The openings in an open file, and the number of damaged lines; behind them, the file is at its end.

    A process that was killed while it wrote leaves half a line, which is ended here.
    """
    file.seek(0)
    found, damaged = [], 0
    line = b"\n"
    for line in file:
        try:
            found.append(record(Opening, json.loads(line)))
        except (ValueError, RecursionError):
            damaged += 1
    if not line.endswith(b"\n"):
        file.write(b"\n")
    return found, damaged


def now() -> str:
    """The time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.lru_cache(2)
def _split(path: Path, fingerprint: str, name: str, layers: tuple[str, ...]) -> Features:
    """A split, read once for all heads; with another fingerprint, the cache is another one."""
    return load_features(path, name, layers)


def _chosen_rows(job: Job) -> np.ndarray | None:
    """The rows of a job's subset, ascending; None for all."""
    if job.train_rows == job.info.rows["train"] and job.suspects is None:
        return None
    labels, ids, _ = read_labels(job.info.path, "train")
    rows = np.sort(stratified_order(labels, job.seed_of_rows)[: job.rows])
    return rows if job.suspects is None else rows[job.suspects.kept(ids[rows])]


def _check_size(job: Job) -> None:
    available = job.info.rows["train"]
    if job.rows and job.rows > available:
        raise UsageError(
            f"--train-size {job.rows:,}: {job.info.path} holds {available:,} training images; use fewer, or make a "
            "cache of more images with frozenbench featurize"
        )


def _check_head_for_blocks(job: Job) -> None:
    """Raise HeadError if a job cannot be done in blocks of rows."""
    rows, dim, memory = job.train_rows, job.dim, job.available_memory
    problem = (
        f"{job.info.path.stem}: {rows:,} training vectors of {dim:,} numbers take about "
        f"{memory_needed(rows, dim) / 1e9:,.1f} GB of memory while a head is fitted, and there are "
        f"{memory / 1e9:,.1f} GB"
    )
    fewer = f"use --train-size N, N up to {memory // memory_needed(1, dim):,}"
    others = ",".join(name for name in HEADS_IN_BLOCKS if name != job.model)
    if job.model not in HEADS_IN_BLOCKS:
        raise HeadError(
            f"{problem}; {job.model} cannot be fitted in blocks of rows: use --model {others}, which can, or {fewer}"
        )
    # The columns for the trees, of which each worker holds a part, and four matrices (dim, dim) in float64.
    columns = min(dim, COMPONENTS_FOR_TREES) + len(job.info.class_names)
    needed = memory_needed(rows, columns) / job.workers + 4 * 8 * dim**2
    if job.model == "xgboost" and needed > memory:
        where = f" on each of {job.workers} workers" if job.workers > 1 else ""
        raise HeadError(
            f"{problem}; {job.model} in blocks of rows takes about {needed / 1e9:,.1f} GB{where}: use --model "
            f"{others}, or {fewer}"
        )
    if job.trials:
        raise HeadError(f"{problem}; --tune cannot search in blocks of rows: leave it out, or {fewer}")
