"""Jobs on the workers of a Dask cluster, one per worker at a time."""

import dataclasses
import logging
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from classify.training.job import VERSIONS_OF
from featurize.core.cluster import check_same
from featurize.core.environment import library_versions
from featurize.core.errors import ClusterError, HeadError, UsageError
from featurize.core.files import temporary_folder

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger("frozenbench")
SEAL_BYTES = 512  # at the start of a feature cache; they include its seal, which covers all the rest
Key = TypeVar("Key", bound=Hashable)
_one_at_a_time = threading.Lock()


def check_shared(client: "Client", caches: Iterable[Path], runs: Path, *, children: bool = False) -> None:
    """Check that all workers see the same feature caches and the same folder of runs as this process.

    Args:
        client: of the cluster.
        caches: absolute paths of feature caches.
        runs: the absolute path of the folder of all runs, which is created if needed.
        children: whether workers must be able to start processes of their own.

    Raises:
        ClusterError: a worker cannot read a cache, has another file there, or cannot write to the folder.
        UsageError: a worker may not start processes.
        OSError: this process cannot read a cache or write to the folder.
    """
    runs.mkdir(parents=True, exist_ok=True)
    seals = {path: _seal(path) for path in caches}
    # A new name: only a machine that shares the folder of runs has this folder in it.
    with temporary_folder(runs / "shared") as folder:
        problems = client.run(_problem, seals, folder)
    for worker, problem in problems.items():
        if problem:
            raise ClusterError(
                f"the worker {worker} {problem}; caches and runs must be on a drive that all machines share, under the "
                "same name: see --features and --runs"
            )
    if not children:
        return
    for worker, daemonic in client.run(_is_daemonic).items():
        if daemonic:
            raise UsageError(
                f"--time-limit: the worker {worker} may not start the process that can be stopped; start workers with "
                "DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment, or leave the limit out"
            )


def run_on_workers(
    client: "Client", function: Callable[..., Any], calls: Mapping[Key, tuple[Any, ...]]
) -> Iterator[tuple[Key, Any]]:
    """Call a function on the workers, one call per worker at a time, each with all threads of its worker.

    If a worker dies, Dask repeats its call on another one, as often as its `allowed-failures` permits.
    The lines that a call logs to the logger "frozenbench" are logged here too.

    Args:
        client: of the cluster.
        function: at the top level of a module.
        calls: the arguments of each call, by its key. They are pickled. The first one is a `Job`, whose
            `threads` become those of the worker.

    Yields:
        The key of a call and its result, in the order in which the calls finish.

    Raises:
        HeadError: every worker that ran a call died.
        ClusterError: the cluster's scheduler is gone, or a worker has other versions than this process.
        Exception: an exception of the function, unchanged. Calls that wait are not made then.
    """
    from distributed import as_completed

    client.forward_logging(logger.name)
    level, versions = logger.getEffectiveLevel(), library_versions(VERSIONS_OF)
    waiting = iter(calls.items())
    keys: dict[Future, Key] = {}
    running = as_completed(loop=client.loop)

    def submit_next() -> None:
        for key, (job, *arguments) in waiting:
            future = client.submit(_on_worker, function, level, versions, job, *arguments, pure=False)
            keys[future] = key
            running.add(future)
            return

    # With no more calls than workers, Dask finds an idle worker for each, however many threads the workers have, and a
    # worker that finishes early takes the next call.
    for _ in range(max(1, len(client.nthreads()))):
        submit_next()
    try:
        for future in running:
            key = keys.pop(future)
            result = _result(future, calls[key][0].title)
            submit_next()
            yield key, result
    finally:
        for future in keys:
            future.release()


def _result(future: "Future", title: str) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise HeadError(_how_they_died(title, error)) from error
    except CancelledError as error:  # nothing here cancels a call
        raise ClusterError(
            "the cluster's scheduler is gone; finished runs are saved, and the same command resumes"
        ) from error


def _how_they_died(title: str, error: Any) -> str:
    limit = error.last_worker.memory_limit
    has = f"; each may use {limit / 2**30:.1f} GiB" if limit else ""
    return (
        f"{title} ended every worker that it ran on, {error.allowed_failures + 1} in all, the last one "
        f"{error.last_worker.address}: most likely memory ran out{has}; use fewer rows (a smaller --train-size), "
        "shorter vectors (--layers), or workers with more memory"
    )


def _on_worker(function: Callable[..., Any], level: int, versions: dict[str, str], job: Any, *arguments: Any) -> Any:
    """The task of a worker."""
    from distributed import get_worker

    worker = get_worker()
    check_same(worker.address, versions, library_versions(VERSIONS_OF))  # it may have joined after the first check
    logger.setLevel(level)
    # All threads of the worker are for one call. Another one may meet it here when its own worker has died.
    with _one_at_a_time:
        return function(dataclasses.replace(job, threads=worker.state.nthreads), *arguments)


def _problem(seals: dict[Path, bytes], folder: Path) -> str:
    """What keeps this worker from reading the caches or from writing runs; empty if nothing does."""
    for path, seal in seals.items():
        try:
            if _seal(path) != seal:
                return f"has another file under the name {path}"
        except OSError as error:
            return f"cannot read {path} ({error.strerror})"
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"cannot write to {folder.parent} ({error.strerror})"
    return ""


def _seal(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SEAL_BYTES)


def _is_daemonic() -> bool:
    return multiprocessing.current_process().daemon
