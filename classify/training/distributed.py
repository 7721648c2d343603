"""Calls spread over the workers of a Dask cluster, by joblib's Dask backend."""

import dataclasses
import logging
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging.handlers import QueueHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featurize.core.cluster import check_same
from featurize.core.environment import library_versions
from featurize.core.errors import ClusterError, HeadError, UsageError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("frozenbench")
BEGINNING = 512  # bytes of a feature cache: its seal is among them, which stands for all others
Key = TypeVar("Key")
_one_at_a_time = threading.Lock()


def check_shared(client: "Client", caches: Iterable[Path], runs: Path, *, children: bool = False) -> None:
    """Make sure that all workers see the same feature caches and the same folder of runs as this process.

    Args:
        client: of the cluster.
        caches: absolute paths of feature caches.
        runs: the absolute path of the folder of all runs; it is made if need be.
        children: whether a worker is to start processes of its own.

    Raises:
        ClusterError: a worker cannot read a cache, has another file there, or cannot write to the folder.
        UsageError: a worker may not start processes.
        OSError: so for this process.
    """
    runs.mkdir(parents=True, exist_ok=True)
    beginnings = {path: _beginning(path) for path in caches}
    # No other machine has a folder of this name, unless it is the same one.
    with tempfile.TemporaryDirectory(prefix=".", dir=runs) as place:
        problems = client.run(_problem, beginnings, Path(place))
    for worker, problem in problems.items():
        if problem:
            raise ClusterError(
                f"the worker {worker} {problem}; caches and runs must be on a drive that all machines share, under the "
                "same name: see --features and --runs"
            )
    if children and (bound := [worker for worker, daemonic in client.run(_is_daemonic).items() if daemonic]):
        raise UsageError(
            f"--time-limit: the worker {bound[0]} may not start the process that can be stopped; start workers with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment, or leave the limit out"
        )


def spread(
    client: "Client",
    function: Callable[..., Any],
    calls: Mapping[Key, tuple[Any, ...]],
    *,
    what: Callable[..., str],
    packages: Sequence[str],
    ordered: bool = False,
) -> Iterator[tuple[Key, Any]]:
    """Call a function on the workers, as many times at once as there are workers now.

    Each worker makes one call at a time, with all its threads. A call whose worker dies is made again on
    another one, as often as Dask's `allowed-failures` says.

    Args:
        client: of the cluster.
        function: at the top level of a module.
        calls: the arguments of each call, by whatever stands for it here. They are pickled. The first one is
            a dataclass: its `threads` become those of the worker.
        what: names a call, given its arguments, in an error message.
        packages: whose versions must be the same on every worker, those that come late among them.
        ordered: yield in the order of the calls, and not as they are done.

    Yields:
        What stands for a call, and what the call returned. What it logged to the logger "frozenbench"
        is logged here before.

    Raises:
        HeadError: the workers died of a call.
        ClusterError: the cluster's scheduler is gone.
        Exception: what the function raised, as it is. Calls that have not begun are not made then.
    """
    from joblib import Parallel, delayed

    keys, level, call = list(calls), logger.getEffectiveLevel(), delayed(_on_worker)
    versions = library_versions(packages)
    parallel = Parallel(
        backend=_backend(client, lambda number: what(*calls[keys[number]])),
        # Never more calls under way than workers: Dask then finds an idle worker for each, however many threads the
        # workers have, and where a call is made is decided as late as possible.
        pre_dispatch=len(client.nthreads()),
        batch_size=1,
        return_as="generator" if ordered else "generator_unordered",
    )
    todo = (call(number, level, versions, function, *args) for number, args in enumerate(calls.values()))
    for number, value, records in parallel(todo):
        for record in records:
            logger.handle(record)
        yield keys[number], value


def _backend(client: "Client", what: Callable[[int], str]) -> Any:
    """Joblib's Dask backend, but for two of its ways that would leave a user waiting or surprised (joblib 1.6)."""
    from distributed import CancelledError, KilledWorker
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            """At least 2: with a single thread in the whole cluster, joblib would make the calls in this process."""
            return max(2, int(super().effective_n_jobs(n_jobs)))

        def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
            """Joblib waits for ever for a call that ends by the death of its worker: tell it."""
            [(_, (number, *_), _)] = func.items
            future = super().submit(func, callback)

            def done(future: Any) -> None:
                error = future.exception()
                if isinstance(error, KilledWorker):
                    error = HeadError(_how_they_died(what(number), error))
                if error is not None and callback is not None:
                    callback(error)

            future.add_done_callback(done)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, CancelledError):  # nobody here cancels a call
                raise ClusterError(
                    "the cluster's scheduler is gone; what is finished is kept: the same command goes on from there"
                )
            if isinstance(out, BaseException):
                raise out
            return super().retrieve_result_callback(out)

    return Backend(client=client)


def _how_they_died(what: str, error: Any) -> str:
    limit = error.last_worker.memory_limit
    has = f"; each may use {limit / 2**30:.1f} GiB" if limit else ""
    return (
        f"{what} ended every worker that it ran on, {error.allowed_failures + 1} in all, the last one "
        f"{error.last_worker.address}: most likely memory ran out{has}; use fewer rows (a smaller --train-size), "
        "shorter vectors (--layers), or workers with more memory"
    )


def _on_worker(
    number: int, level: int, versions: dict[str, str], function: Callable[..., Any], job: Any, *args: Any
) -> tuple[int, Any, list[logging.LogRecord]]:
    """What a worker does: the call's number, what it returned, and what it logged."""
    from distributed import get_worker
    from joblib import parallel_config

    check_same(get_worker().address, versions, library_versions(tuple(versions)[1:]))  # the first is Python's own
    records: Any = []
    handler = _Kept(records)
    logger.setLevel(level)
    # A worker's threads are all for one head: the lock is for what finds another one under way, such as the call of
    # a worker that died. Joblib's own backend would send what scikit-learn does inside a head, features and all,
    # back to the cluster.
    with _one_at_a_time, parallel_config("threading"):
        logger.addHandler(handler)
        try:
            value = function(dataclasses.replace(job, threads=get_worker().state.nthreads), *args)
        finally:
            logger.removeHandler(handler)
    return number, value, records


class _Kept(QueueHandler):
    """Keeps log records in a list, in a form that can be pickled."""

    queue: Any

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.append(record)


def _problem(beginnings: dict[Path, bytes], place: Path) -> str:
    """What keeps this worker from reading the caches and from writing runs; nothing where all is well."""
    for path, beginning in beginnings.items():
        try:
            if _beginning(path) != beginning:
                return f"has another file under the name {path}"
        except OSError as error:
            return f"cannot read {path} ({error.strerror})"
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return f"cannot write to {place.parent} ({error.strerror})"
    return ""


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BEGINNING)


def _is_daemonic() -> bool:
    return multiprocessing.current_process().daemon
