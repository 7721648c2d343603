"""The loop of stage 2: feature cache -> head -> evaluation -> run directory."""

import dataclasses
import functools
import json
import logging
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classify.guarantee import Guarantee, is_known
from classify.heads import Task, is_own, types_in
from classify.large import worker_memory
from classify.runs import (
    CARD,
    GUARANTEE,
    HEAD,
    RunResult,
    coded,
    model_card,
    new_run,
    save_head,
    save_own_head,
    tested_digest,
    write_result,
)
from classify.training.checks import check_overlap, check_train, survey
from classify.training.distributed import check_shared, run_on_workers
from classify.training.evaluate import Evaluation, FittedHead, evaluate_head
from classify.training.folds import cross_validate
from classify.training.held_out import fit_and_hold_out, novelty_of
from classify.training.job import VERSIONS_OF, Job
from classify.training.rows import now, open_test_split, rows_in_memory, training_rows
from classify.training.time_limit import HeadTimeoutError, run_with_limit
from classify.training.tuning import Measure, Settings, run_trial, tune
from featurize.cache import CacheInfo, FeatureRows, Features, read_labels, read_paths
from featurize.core.environment import blas_threads, library_versions, processor_name
from featurize.core.errors import DataError, HeadError

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger("frozenbench")
Outcome = RunResult | str
"""The result of a head, or a line that says why there is none: the time limit, or rows that it cannot be fitted on."""


def train_heads(
    jobs: Iterable[Job],
    runs: Path,
    *,
    time_limit: float | None = None,
    force: bool = False,
    keep_heads: bool = True,
    client: "Client | None" = None,
) -> tuple[dict[Path, RunResult], list[str]]:
    """Fit and evaluate heads, and save each as a run.

    Args:
        jobs: what to train.
        runs: the folder of all runs.
        time_limit: seconds for each head, its search included; the head then runs in a process of its own.
        force: repeat finished runs.
        keep_heads: save the fitted heads with their runs.
        client: of a cluster (see `featurize.core.cluster.connected`) whose workers share the caches and
            the folder of runs with this process. Each worker trains one head at a time, with all its
            threads. The trials of a search run on all workers, and a head on more rows than a worker's
            memory holds is fitted by all workers together; with a time limit, a head stays in one
            process. None to train one head after another here.

    Returns:
        The result of each head by its run directory, reused ones included, and a line for each head that was
        stopped at the limit or cannot be fitted, both in the order of the jobs.

    Raises:
        ClusterError: the workers cannot do the work.
        FrozenbenchError: the features cannot be used; finished runs stay.
    """
    if client is not None:
        jobs = _prepare_cluster(client, list(jobs), runs, time_limit)
    planned = {job.run_dir(runs): job for job in jobs}
    finished = {} if force else _finished_runs(planned)
    todo = {run_dir: job for run_dir, job in planned.items() if run_dir not in finished}

    train = functools.partial(train_head, time_limit=time_limit, keep_heads=keep_heads)
    if client is None:
        trained = {run_dir: train(job, run_dir) for run_dir, job in todo.items()}
    else:
        trained = _train_on_cluster(client, todo, train, time_limit)

    outcomes = [(run_dir, (finished | trained)[run_dir]) for run_dir in planned]
    results = {run_dir: outcome for run_dir, outcome in outcomes if isinstance(outcome, RunResult)}
    return results, [outcome for _, outcome in outcomes if isinstance(outcome, str)]


def train_head(
    job: Job,
    run_dir: Path,
    settings: Settings | None = None,
    *,
    time_limit: float | None = None,
    keep_heads: bool = True,
    client: "Client | None" = None,
) -> Outcome:
    """Fit and evaluate one head, and save it as a run: here, or on a worker of a cluster.

    Args:
        job: what to train.
        run_dir: where the run is saved.
        settings: the result of a search; None to search here, if the job asks for it.
        time_limit: as for `train_heads`.
        keep_heads: as for `train_heads`.
        client: of a cluster whose workers fit the head together, if its rows come in blocks.

    Raises:
        FrozenbenchError: the features cannot be used.
    """
    train = training_rows(job)
    train_survey = survey(train, "training", job.threads, client)
    warnings = check_train(train_survey, job.class_weight)
    logger.info("%s: %s x %s", job.title, f"{len(train.y):,}", f"{train.dim:,}")
    studies = run_dir.parent
    crossed = None
    try:
        if job.info.folds:
            crossed = run_with_limit(time_limit, cross_validate, job, what=job.title)
            fitted = crossed.fitted
        else:
            fitted = run_with_limit(time_limit, search_and_fit, job, studies, settings, client, what=job.title)
    except HeadTimeoutError as error:
        logger.warning(error)
        return error.with_options
    except HeadError as error:  # these rows are no good for this head: the others go on
        line = f"{job.title} is left out: {error.with_options}"
        logger.warning(line)
        return line
    with blas_threads(job.threads):
        novelty = novelty_of(job, train if crossed is None else crossed.rows)
    test, opened = open_test_split(job, run_dir.parent)
    tested = None
    if crossed is not None:
        rows, test, evaluation = job.train_rows, crossed.rows, crossed.evaluation
    else:
        rows, evaluation = len(train.y), evaluate_head(fitted, test)
        warnings += check_overlap(train_survey, survey(test, "test", job.threads, client))
        if novelty is not None:
            with blas_threads(job.threads):
                tested = np.concatenate([novelty.distances(x) for x in test.matrices()])
    warnings += [coded("FB005", warning) for warning in fitted.warnings]
    for warning in warnings:
        logger.warning("%s: %s", fitted.name, warning)
    result = _run_result(job, rows, fitted, evaluation, opened, warnings)
    result = dataclasses.replace(result, groups=0 if test.groups is None else len(np.unique(test.groups)))
    if novelty is not None and tested is not None:
        unknown = ~is_known(novelty.strangeness_of(tested))
        result = dataclasses.replace(result, unknown=float(unknown.mean()))
    guarantee = Guarantee(fitted.sets, novelty, tested)
    predictions = _predictions_table(job.info, test, evaluation)
    return _save_run(run_dir, result, fitted if keep_heads else None, guarantee, predictions)


def search_and_fit(job: Job, studies: Path, settings: Settings | None, client: "Client | None" = None) -> FittedHead:
    """Search the head's settings, unless they are given, and fit it with them; the test split stays closed."""
    if settings is None:
        settings = search(job, studies)
    return fit_and_hold_out(
        job.model,
        training_rows(job),
        settings=settings,
        seed=job.seed,
        jobs=job.threads,
        class_weight=job.class_weight,
        suspects=job.suspects,
        client=client,
    )


def search(job: Job, studies: Path, measure: Measure | None = None) -> Settings:
    """The best settings that a search finds, if the job asks for one; else none, for the head's defaults."""
    if not job.trials:
        return {}
    train = rows_in_memory(job)
    return tune(job.model, train, job.trials, _task(job, train), studies, wave=job.wave, measure=measure).settings


def run_job_trial(job: Job, trial: "Trial") -> "FrozenTrial":
    """Measure one trial of the job's search; see `classify.training.tuning.run_trial`."""
    train = rows_in_memory(job)
    return run_trial(trial, job.model, train, _task(job, train))


def _finished_runs(planned: dict[Path, Job]) -> dict[Path, Outcome]:
    """The results of the planned runs that are already there and readable."""
    finished: dict[Path, Outcome] = {}
    for run_dir, job in planned.items():
        if run_dir.exists():
            try:
                finished[run_dir] = RunResult.read(run_dir)
                logger.info("%s: already there", job.title)
            except DataError as error:
                logger.warning("%s; running it again", error)
    return finished


def _prepare_cluster(client: "Client", jobs: list[Job], runs: Path, time_limit: float | None) -> list[Job]:
    """Check that the workers share our files, and adapt the jobs to the workers' number and memory."""
    workers = len(client.nthreads()) if time_limit is None else 1
    memory = min(client.run(worker_memory).values())
    prepared = []
    for job in jobs:
        info = dataclasses.replace(job.info, path=job.info.path.absolute())  # for any working directory
        wave = workers if job.trials else 1
        prepared.append(dataclasses.replace(job, info=info, wave=wave, memory=memory, workers=workers))
    check_shared(client, {job.info.path for job in prepared}, runs.absolute(), children=time_limit is not None)
    return prepared


def _train_on_cluster(
    client: "Client", todo: dict[Path, Job], train: Callable[..., Outcome], time_limit: float | None
) -> dict[Path, Outcome]:
    """Train one head per worker at a time, then the searches, then the heads that need all workers' memory."""
    single, searches, large = {}, {}, {}
    for run_dir, job in todo.items():
        if not job.fits:
            large[run_dir] = job
        elif job.trials and time_limit is None:
            searches[run_dir] = job
        else:
            single[run_dir] = (job, run_dir.absolute())

    trained: dict[Path, Outcome] = dict(run_on_workers(client, train, single))
    for run_dir, job in searches.items():
        settings = search(job, run_dir.parent, functools.partial(_measure_on_workers, client, job))
        trained.update(run_on_workers(client, train, {run_dir: (job, run_dir.absolute(), settings)}))
    for run_dir, job in large.items():
        # With a limit, the fit is in a process of its own, which has no connection to the cluster.
        trained[run_dir] = train(job, run_dir, client=client if time_limit is None else None)
    return trained


def _measure_on_workers(client: "Client", job: Job, trials: list["Trial"]) -> Iterator["FrozenTrial"]:
    """Run a wave of trials side by side on the workers; yield them in order."""
    calls = {trial.number: (job, trial) for trial in trials}
    measured = dict(run_on_workers(client, run_job_trial, calls))
    for number in calls:
        yield measured[number]


def _task(job: Job, train: Features) -> Task:
    return Task.of(train, job.seed, job.threads, job.class_weight)


def _save_run(
    run_dir: Path, result: RunResult, fitted: FittedHead | None, guarantee: Guarantee, predictions: "pd.DataFrame"
) -> RunResult:
    """Write the run directory; returns the result with the digests of the saved files."""
    with new_run(run_dir) as folder:
        if fitted is not None:
            if result.own_head:
                digest = save_own_head(fitted.head, folder / HEAD, types_in(fitted.head), result.model)
            else:
                digest = save_head(fitted.head, folder / HEAD)
            if digest:
                size = (folder / HEAD).stat().st_size
                result = dataclasses.replace(result, head_sha256=digest, head_bytes=size)
                result = dataclasses.replace(result, guarantee_sha256=save_head(guarantee, folder / GUARANTEE))
        (folder / CARD).write_text(model_card(result), "utf-8")
        write_result(folder, result, predictions)
    return result


def _run_result(
    job: Job, rows: int, fitted: FittedHead, evaluation: Evaluation, opened: int, warnings: list[str]
) -> RunResult:
    """The record of a run, whose head is not saved yet."""
    info = job.info
    coverage = {} if evaluation.coverage is None else dataclasses.asdict(evaluation.coverage)
    layers = [layer for layer in info.layers if not job.layers or layer.name in job.layers]
    return RunResult(
        model=fitted.name,
        features=info.path.stem,
        fingerprint=info.spec.fingerprint,
        spec=json.loads(info.spec.to_json()),
        source=info.source,
        dataset=info.dataset,
        weights=info.weights,
        class_names=list(info.class_names),
        layers=[layer.name for layer in layers],
        dim=sum(int(np.prod(layer.shape)) for layer in layers),
        train_rows=rows,
        train_size=job.rows,
        test_rows=len(evaluation.predicted),
        test_digest=tested_digest(info.digests, info.folds),
        folds=info.folds,
        groups=0,
        seed=job.seed,
        draw=job.draw,
        drawn_from=info.rows["train"],
        class_weight=job.class_weight,
        parameters=fitted.parameters,
        tuned=job.trials,
        **dataclasses.asdict(evaluation.metrics),
        test_opened=opened,
        extraction_seconds=info.seconds_per_image,
        fit_seconds=fitted.seconds,
        predict_ms_per_image=evaluation.predict_ms_per_image,
        iterations=fitted.iterations,
        converged=fitted.converged,
        history=fitted.history,
        warnings=warnings,
        head_sha256="",
        head_bytes=0,
        cache=str(info.path),
        versions=library_versions(VERSIONS_OF),
        machine=", ".join(filter(None, [f"{os.cpu_count()} cores", platform.machine(), processor_name()])),
        finished=now(),
        own_head=job.model if is_own(job.model) else "",
        certificate=dataclasses.asdict(info.certificate) if info.certificate else None,
        **coverage,
        held_out_rows=0 if fitted.held_out is None else len(fitted.held_out.labels),
        suspects=job.suspects.handling if job.suspects else None,
        suspects_file=str(job.suspects.file) if job.suspects else "",
        suspects_rows=len(job.suspects.ids) if job.suspects else 0,
    )


def _predictions_table(info: CacheInfo, test: FeatureRows, evaluation: Evaluation) -> "pd.DataFrame":
    """A row per test image, see `classify.runs.results`."""
    import pandas as pd

    table = pd.DataFrame({"id": test.ids, "label": test.y, "predicted": evaluation.predicted})
    if paths := _paths_by_id(info):
        table.insert(1, "path", [paths[row] for row in test.ids.tolist()])
    if info.folds and isinstance(test, Features):
        table["fold"] = test.folds
    if test.groups is not None:
        table["group"] = test.groups
    probabilities = pd.DataFrame(evaluation.probabilities, columns=[f"p_{name}" for name in test.class_names])
    return pd.concat([table, probabilities], axis=1)


def _paths_by_id(info: CacheInfo) -> dict[int, str]:
    """The names of the tested image files by their ids; empty for images from other sources."""
    found: dict[int, str] = {}
    for split in info.rows if info.folds else ["test"]:
        paths = read_paths(info.path, split)
        if paths is None:
            return {}
        _, ids, _ = read_labels(info.path, split)
        names = [os.fsencode(path).decode(errors="replace") for path in paths.tolist()]
        found |= dict(zip(ids.tolist(), names, strict=True))
    return found
