"""A job: one head to train on one feature cache."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from classify.heads import Task, code_digest, estimator_name, is_own, make_head
from classify.large import memory_limit, memory_needed
from classify.suspects import Suspects
from classify.training.evaluate import plain_parameters
from featurize.cache import CacheInfo
from featurize.core.errors import UsageError

OTHER_SEEDS = 1000  # seeds from here on are the second ones of `repeats`
VERSIONS_OF = ("frozenbench", "scikit-learn", "scikit-learn-intelex", "xgboost", "keras", "tensorflow", "numpy")


@dataclass(frozen=True)
class Job:
    """One head on one cache.

    Attributes:
        model: a key of `HEADS`, or `module:Class`.
        info: the cache, from `read_info`.
        layers: use only the columns of these layers; empty for all.
        rows: train on a stratified subset of this many rows; None for all.
        seed: for everything random: the head, the subset of rows, the search.
        class_weight: `balanced`, or None.
        trials: of the search for settings; 0 for the head's defaults.
        threads: number of threads.
        wave: trials of the search that run side by side.
        memory: bytes that a fit may take; None for what this process may use.
        workers: processes with this memory each, which together fit a head that exceeds the memory of one.
        draw: the seed of the subset of rows; None for `seed`.
        suspects: training images with suspected labels, which are dropped or weighted; None to train on all alike.
    """

    model: str
    info: CacheInfo
    layers: tuple[str, ...] = ()
    rows: int | None = None
    seed: int = 0
    class_weight: str | None = None
    trials: int = 0
    threads: int = 1
    wave: int = 1
    memory: int | None = None
    workers: int = 1
    draw: int | None = None
    suspects: Suspects | None = None

    @property
    def train_rows(self) -> int:
        """Number of training rows, suspects included; in a cross-validation, those that a fold leaves."""
        if self.rows:
            return self.rows
        if folds := self.info.folds:
            rows = sum(self.info.rows.values())
            return rows - round(rows / folds)
        return self.info.rows["train"]

    @property
    def seed_of_rows(self) -> int:
        """The seed of the subset of rows."""
        return self.seed if self.draw is None else self.draw

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.info.columns(self.layers)[-1].stop

    @property
    def available_memory(self) -> int:
        """Bytes that a fit may take."""
        return self.memory or memory_limit()

    @property
    def fits(self) -> bool:
        """Whether there is memory for a fit on all its rows at once."""
        return memory_needed(self.train_rows, self.dim) <= self.available_memory

    @property
    def title(self) -> str:
        """The head and the cache, for messages."""
        return f"{estimator_name(self.model)} on {self.info.path.stem}"

    @property
    def name(self) -> str:
        """The run directory's name: the head, and eight digits that stand for everything that determines the run."""
        info = self.info
        mirror = info.mirror(self.layers)
        task = Task(self.train_rows, info.dim, self.seed, 1, self.class_weight, mirror, info.image)
        steps = [[type(step).__name__, plain_parameters(step)] for _, step in make_head(self.model, task).steps]
        layers = self.layers or [columns.name for columns in info.layers]
        search = [self.trials, self.wave] if self.wave > 1 else self.trials
        content: list[object] = [info.spec.fingerprint, layers, self.model, self.rows, self.seed, search, steps]
        content.append(self.class_weight)
        if self.draw is not None:
            content.append({"draw": self.draw})
        if is_own(self.model):
            content.append(code_digest(self.model))
        if self.suspects is not None:
            content.append([self.suspects.handling, self.suspects.digest])
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{estimator_name(self.model)}-{digest[:8]}"

    def run_dir(self, runs: Path) -> Path:
        """The run directory in the folder of all runs."""
        return runs / self.info.path.stem / self.name


def repeats(job: Job, draws: int) -> list[Job]:
    """A job on several draws of the training images, each with two seeds: what the ledger of variance is made from.

    A job on all images becomes one on half of them, so that the draws differ. The first run of a draw is the one that
    `--train-size` and `--seed` make, so a learning curve's runs are used.

    Args:
        job: what to repeat; its seed is the first draw.
        draws: number of draws.

    Raises:
        UsageError: the job takes as many images as there are, or the cache is for cross-validation.
    """
    info = job.info
    if info.folds:
        raise UsageError(f"--repeats: {info.path} is for cross-validation, whose folds are draws; leave out --repeats")
    available = info.rows["train"]
    rows = job.rows or available // 2
    if rows >= available:
        raise UsageError(
            f"--repeats: draws of {rows:,} of {available:,} training images are all alike; use a smaller --train-size"
        )
    found = []
    for draw in range(job.seed, job.seed + draws):
        found.append(replace(job, rows=rows, seed=draw))
        found.append(replace(job, rows=rows, seed=draw + OTHER_SEEDS, draw=draw))
    return found
