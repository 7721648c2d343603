"""The loop of stage 2: feature cache -> head -> evaluation -> run directory."""

import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.heads import COLUMNS_FOR_TREES, HEADS_IN_BLOCKS, Task, make_head
from classify.large import FeatureBlocks, memory_limit, memory_needed, worker_memory
from classify.runs import CARD, HEAD, RunResult, model_card, new_run, save_head, write_result
from classify.training.checks import check_overlap, check_train, survey
from classify.training.distributed import check_shared, spread
from classify.training.evaluate import Evaluation, FittedHead, evaluate_head, fit_head, plain_parameters
from classify.training.time_limit import HeadTimeoutError, within
from classify.training.tuning import Measure, Settings, run_trial, tune
from featurize.cache import CacheInfo, Features, load_features, read_labels
from featurize.core.environment import library_versions
from featurize.core.errors import DataError, HeadError, UsageError

if TYPE_CHECKING:
    from distributed import Client
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger("frozenbench")
VERSIONS_OF = ("frozenbench", "scikit-learn", "scikit-learn-intelex", "xgboost", "keras", "tensorflow", "numpy")
OPENINGS = "test-openings.jsonl"


@dataclass(frozen=True)
class Job:
    """One head on one cache.

    Attributes:
        model: a key of `HEADS`.
        info: the cache, from `read_info`.
        layers: use only these layers' columns; empty for all.
        rows: train on so many rows, of all classes in their proportions; None for all.
        seed: for whatever is random: in the head, of the rows, of the search.
        class_weight: `balanced`, or None.
        trials: of the search for settings; 0 for the head's defaults.
        threads: how many.
        wave: trials of the search that are looked at side by side.
        memory: bytes that a fit may take; None for what this process may use.
        workers: processes with so much memory each that fit it together if it does not fit into one.
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

    @property
    def fits(self) -> bool:
        """Whether memory is large enough for a fit on all its rows at once."""
        rows, dim = self.rows or self.info.rows["train"], self.info.columns(self.layers)[-1].stop
        return memory_needed(rows, dim) <= (self.memory or memory_limit())

    @property
    def name(self) -> str:
        """The run directory's name: the head, and eight digits that stand for all that makes the run what it is."""
        rows, info = self.rows or self.info.rows["train"], self.info
        mirror = info.mirror(self.layers)
        task = Task(rows, info.dim, self.seed, class_weight=self.class_weight, mirror=mirror, image=info.image)
        steps = [[type(step).__name__, plain_parameters(step)] for _, step in make_head(self.model, task).steps]
        layers = self.layers or [columns.name for columns in self.info.layers]
        search = [self.trials, self.wave] if self.wave > 1 else self.trials
        content = [self.info.spec.fingerprint, layers, self.model, self.rows, self.seed, search, steps]
        digest = hashlib.sha256(json.dumps([*content, self.class_weight], sort_keys=True).encode()).hexdigest()
        return f"{self.model}-{digest[:8]}"


def train_heads(
    jobs: Iterable[Job],
    runs: Path,
    *,
    time_limit: float | None = None,
    force: bool = False,
    keep_heads: bool = True,
    client: "Client | None" = None,
) -> tuple[dict[Path, RunResult], list[str]]:
    """Fit and evaluate heads, and keep each as a run.

    Args:
        jobs: what to train.
        runs: the folder of all runs.
        time_limit: seconds for each head, its search included; it then runs in a process of its own.
        force: run again what is already there.
        keep_heads: save the fitted heads with their runs.
        client: of a cluster (see `featurize.core.cluster.connected`) whose workers share the caches and the
            folder of runs with this process: a head at a time on each, with the worker's threads. A
            search is spread over them, a trial for each worker at a time, unless there is a time
            limit: then each stays with its head. A head on more rows than a worker's memory holds is
            fitted by all workers together. None to train one head after another here.

    Returns:
        The result of each head by its run directory, reused ones included, and a line for each head
        that was stopped at the limit, both in the order of the jobs.

    Raises:
        ClusterError: the workers cannot do the work.
        FrozenbenchError: the features or a head cannot be used; runs finished before are kept.
    """
    work = functools.partial(train_head, time_limit=time_limit, keep_heads=keep_heads)
    outcomes: dict[Path, RunResult | str] = {}
    if client is None:
        for run_dir, job in _to_do(jobs, runs, force, outcomes):
            outcomes[run_dir] = work(job, run_dir)
    else:
        from joblib import parallel_config

        workers = len(client.nthreads()) if time_limit is None else 1
        memory = min(client.run(worker_memory).values())
        jobs = [_for_workers(job, workers, memory) for job in jobs]
        check_shared(client, {job.info.path for job in jobs}, runs.absolute(), children=time_limit is not None)
        todo = dict(_to_do(jobs, runs, force, outcomes))
        large = {run_dir: job for run_dir, job in todo.items() if not job.fits}
        small = {run_dir: job for run_dir, job in todo.items() if run_dir not in large}
        searches = {run_dir: job for run_dir, job in small.items() if job.trials and time_limit is None}
        others = {run_dir: (job, run_dir.absolute()) for run_dir, job in small.items() if run_dir not in searches}
        outcomes.update(spread(client, work, others, what=_title, packages=VERSIONS_OF))
        for run_dir, job in searches.items():
            settings = searched(job, run_dir.parent, functools.partial(_trials_on, client, job))
            outcomes.update(
                spread(client, work, {run_dir: (job, run_dir.absolute(), settings)}, what=_title, packages=VERSIONS_OF)
            )
        for run_dir, job in large.items():
            with parallel_config("dask", client=client):  # which `blocks.team` looks for
                outcomes[run_dir] = work(job, run_dir)
    results = {run_dir: outcome for run_dir, outcome in outcomes.items() if isinstance(outcome, RunResult)}
    return results, [outcome for outcome in outcomes.values() if isinstance(outcome, str)]


def _to_do(
    jobs: Iterable[Job], runs: Path, force: bool, outcomes: dict[Path, RunResult | str]
) -> Iterator[tuple[Path, Job]]:
    """Each job that is not done yet, with its run directory; the result of each other one goes to `outcomes`."""
    for job in jobs:
        run_dir = runs / job.info.path.stem / job.name
        if run_dir.exists() and not force:
            try:
                outcomes[run_dir] = RunResult.read(run_dir)
                logger.info("%s on %s: already there", job.model, job.info.path.stem)
                continue
            except DataError as error:
                logger.warning("%s; running it again", error)
        outcomes[run_dir] = ""  # keeps its place in the order
        yield run_dir, job


def train_head(
    job: Job,
    run_dir: Path,
    settings: Settings | None = None,
    *,
    time_limit: float | None = None,
    keep_heads: bool = True,
) -> RunResult | str:
    """Fit and evaluate one head, and keep it as a run: here, or on a worker of a cluster.

    Args:
        job: what to train.
        run_dir: where it is kept.
        settings: what a search has found; None to search here, if the job asks for it.
        time_limit: as for `train_heads`.
        keep_heads: as for `train_heads`.

    Returns:
        The result, or a line that says that the head was stopped at the limit.

    Raises:
        FrozenbenchError: the features or the head cannot be used.
    """
    train = training_rows(job)
    seen = survey(train, "training", job.threads)
    found = check_train(seen)
    logger.info("%s on %s: %s x %s", job.model, job.info.path.stem, f"{len(train.y):,}", f"{len(seen.low):,}")
    try:
        fitted = within(time_limit, searched_and_fitted, job, run_dir.parent, settings, what=_title(job))
    except HeadTimeoutError as error:
        logger.warning(error)
        return str(error)
    test, opened = open_test_split(job, run_dir.parent)
    found += [*check_overlap(seen, survey(test, "test", job.threads)), *fitted.warnings]
    evaluation = evaluate_head(fitted, test)
    for warning in found:
        logger.warning("%s: %s", job.model, warning)
    result = _as_result(job, len(train.y), fitted, evaluation, opened, found)
    with new_run(run_dir) as folder:
        if keep_heads:
            digest = save_head(fitted.head, folder / HEAD)
            size = (folder / HEAD).stat().st_size
            result = dataclasses.replace(result, head_sha256=digest, head_bytes=size)
        (folder / CARD).write_text(model_card(result), "utf-8")
        write_result(folder, result, _predictions_table(test, evaluation))
    return result


def searched_and_fitted(job: Job, studies: Path, settings: Settings | None = None) -> FittedHead:
    """Search the head's settings, if there are none yet, and fit it with them; the test split stays closed."""
    if settings is None:
        settings = searched(job, studies)
    train = training_rows(job)
    return fit_head(job.model, train, settings=settings, seed=job.seed, jobs=job.threads, class_weight=job.class_weight)


def searched(job: Job, studies: Path, measure: Measure | None = None) -> Settings:
    """The settings that a search finds, if the job asks for one; none for the head's defaults."""
    if not job.trials:
        return {}
    train = _rows_in_memory(job)
    return tune(job.model, train, job.trials, _task(job, train), studies, wave=job.wave, measure=measure).settings


def trial_here(job: Job, trial: "Trial") -> "FrozenTrial":
    """One trial of the job's search, done; see `classify.training.tuning.run_trial`."""
    train = _rows_in_memory(job)
    return run_trial(trial, job.model, train, _task(job, train))


def _trials_on(client: "Client", job: Job, trials: list["Trial"]) -> Iterator["FrozenTrial"]:
    calls = {trial.number: (job, trial) for trial in trials}
    for _, trial in spread(client, trial_here, calls, what=_title, packages=VERSIONS_OF, ordered=True):
        yield trial


def _for_workers(job: Job, workers: int, memory: int) -> Job:
    """The same job with a path that holds in any working directory, a trial for each worker, and a worker's memory."""
    info = dataclasses.replace(job.info, path=job.info.path.absolute())
    return dataclasses.replace(job, info=info, wave=workers if job.trials else 1, memory=memory, workers=workers)


def _rows_in_memory(job: Job) -> Features:
    train = training_rows(job)
    assert isinstance(train, Features)  # `training_rows` has seen to it
    return train


def _task(job: Job, train: Features) -> Task:
    return Task.of(train, job.seed, job.threads, job.class_weight)


def _title(job: Job, *_: Any) -> str:
    return f"{job.model} on {job.info.path.stem}"


def training_rows(job: Job) -> Features | FeatureBlocks:
    """The rows that a job trains on; in blocks where a fit on all of them at once would take more memory than there is.

    Raises:
        UsageError: it asks for more rows than there are.
        HeadError: memory is too small, and the head cannot be fitted in blocks.
        CacheError: the cache cannot be used.
    """
    info, all_rows = job.info, job.info.rows["train"]
    rows = job.rows or all_rows
    if rows > all_rows:
        raise UsageError(
            f"--train-size {rows:,}: {info.path} holds {all_rows:,} training images; use fewer, or make a "
            "cache of more images with python -m featurize"
        )
    if not job.fits:
        _check_head_for_blocks(job, rows, info.columns(job.layers)[-1].stop)
    elif memory_needed(all_rows, info.dim) <= (job.memory or memory_limit()):
        train = _split(info.path, info.spec.fingerprint, "train", job.layers)
        return train if job.rows is None else stratified_subset(train, job.rows, job.seed)
    chosen = None
    if rows < all_rows:
        chosen = np.sort(stratified_order(read_labels(info.path, "train")[0], job.seed)[:rows])
    blocks = FeatureBlocks.of(info, "train", job.layers, chosen)
    return blocks.load() if job.fits else blocks


def _check_head_for_blocks(job: Job, rows: int, dim: int) -> None:
    """Raise HeadError where a head cannot be fitted in blocks."""
    needed, there = memory_needed(rows, dim), job.memory or memory_limit()
    what = (
        f"{job.info.path.stem}: {rows:,} training vectors of {dim:,} numbers take about {needed / 1e9:,.1f} GB of "
        f"memory while a head is fitted, and there are {there / 1e9:,.1f} GB"
    )
    fewer = f"use --train-size N, N up to {there // memory_needed(1, dim):,}"
    others = ",".join(name for name in HEADS_IN_BLOCKS if name != job.model)
    if job.model not in HEADS_IN_BLOCKS:
        raise HeadError(
            f"{what}; {job.model} cannot be fitted in blocks of rows: use --model {others}, which can, or {fewer}"
        )
    # What the trees see of all rows, of which each worker has a part, and matrices of all columns by all columns.
    left = memory_needed(rows, min(dim, COLUMNS_FOR_TREES)) / job.workers + 4 * 8 * dim**2
    if job.model == "xgboost" and left > there:
        where = f" on each of {job.workers} workers" if job.workers > 1 else ""
        raise HeadError(
            f"{what}; {job.model} in blocks of rows takes about {left / 1e9:,.1f} GB{where}: use --model {others}, or "
            f"{fewer}"
        )
    if job.trials:
        raise HeadError(f"{what}; --tune cannot search in blocks of rows: leave it out, or {fewer}")


def stratified_subset(features: Features, rows: int, seed: int) -> Features:
    """So many rows, of all classes in their proportions, in their order; all of them where there are fewer."""
    chosen = np.sort(stratified_order(features.y, seed)[:rows])
    return dataclasses.replace(features, x=features.x[chosen], y=features.y[chosen], ids=features.ids[chosen])


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of all rows, (n,), whose every beginning holds the classes in their proportions, to within a row.

    The r-th of the c rows of a class, in random order, comes at (r + 1/2) / c of the way. Subsets
    that begin the same order are nested: what a learning curve adds is added to what was there.
    """
    random = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((random.permutation(len(labels)), place))


def open_test_split(job: Job, folder: Path) -> tuple[Features | FeatureBlocks, int]:
    """The test features, and how often they have been opened, this time included.

    The only way to them in this package. Each opening is a line of a file in the folder of the
    cache's runs: whoever picks the best of many runs sees among how many.
    """
    info = job.info
    test = (
        FeatureBlocks.of(info, "test", job.layers)
        if memory_needed(info.rows["test"], info.dim) > memory_limit()
        else _split(info.path, info.spec.fingerprint, "test", job.layers)
    )
    folder.mkdir(parents=True, exist_ok=True)
    line = {"time": _now(), "run": job.name, "fingerprint": job.info.spec.fingerprint}
    with (folder / OPENINGS).open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # other processes open it too, on other machines perhaps
        file.write(json.dumps(line) + "\n")
        file.seek(0)
        opened = sum(job.info.spec.fingerprint in other for other in file)
    return test, opened


@functools.lru_cache(2)
def _split(path: Path, fingerprint: str, name: str, layers: tuple[str, ...]) -> Features:
    """Read once for all heads; the fingerprint tells a cache from one that took its place."""
    return load_features(path, name, layers)


def _as_result(
    job: Job, rows: int, fitted: FittedHead, evaluation: Evaluation, opened: int, found: list[str]
) -> RunResult:
    """Everything that is to be remembered of a run."""
    info = job.info
    columns = [each for each in info.layers if not job.layers or each.name in job.layers]
    return RunResult(
        model=job.model,
        features=info.path.stem,
        fingerprint=info.spec.fingerprint,
        spec=json.loads(info.spec.to_json()),
        source=info.source,
        dataset=info.dataset,
        weights=info.weights,
        class_names=list(info.class_names),
        layers=[each.name for each in columns],
        dim=sum(math.prod(each.shape) for each in columns),
        train_rows=rows,
        test_rows=len(evaluation.predicted),
        test_digest=info.digests["test"],
        seed=job.seed,
        class_weight=job.class_weight,
        parameters=fitted.parameters,
        tuned=job.trials,
        **dataclasses.asdict(evaluation.metrics),
        test_opened=opened,
        extraction_seconds=1 / info.images_per_second,
        fit_seconds=fitted.seconds,
        predict_ms_per_image=evaluation.predict_ms_per_image,
        iterations=fitted.iterations,
        converged=fitted.converged,
        history=fitted.history,
        warnings=found,
        head_sha256="",
        head_bytes=0,
        cache=str(info.path),
        versions=library_versions(VERSIONS_OF),
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        finished=_now(),
    )


def _predictions_table(test: Features | FeatureBlocks, evaluation: Evaluation) -> Any:
    """A DataFrame with a row per test image: id, label, predicted, p_<class>."""
    import pandas as pd

    table = pd.DataFrame({"id": test.ids, "label": test.y, "predicted": evaluation.predicted})
    for column, name in enumerate(test.class_names):
        table[f"p_{name}"] = evaluation.probabilities[:, column]
    return table


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
