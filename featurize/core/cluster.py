"""A connection to a Dask cluster (https://distributed.dask.org) whose workers are checked before they get work."""

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featurize.core.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("frozenbench")
CONNECT_SECONDS = 10
WORKER_SECONDS = 60  # for the first worker to join
LOOPBACK = "127.0.0.1"
THREADS_OF = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
"""Environment variables from which libraries take their number of threads; the last one is joblib's and ours."""


@contextmanager
def connected(address: str, versions: Callable[[], dict[str, str]]) -> Iterator["Client"]:
    """Connect to a cluster and check its workers.

    Args:
        address: `local:N` for N processes on this machine, which only listen on the loopback interface and end
            with the block; or the address of a scheduler: `tcp://HOST:PORT`, or `tls://HOST:PORT` with the
            certificates from Dask's configuration (https://distributed.dask.org/en/stable/tls.html).
        versions: returns the versions of the packages that must agree, by name; called on every worker.

    Raises:
        UsageError: the address is not valid, or Dask is not installed.
        ClusterError: no scheduler answers, it has no workers, or a worker has other packages.
    """
    check_address(address)
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import silence_logging_cmgr

    scheduler = _scheduler(address)
    settings = {
        "distributed.admin.large-graph-warning-threshold": "1 GB",  # a task may carry the pixels of its images
        # Dask gives up a local worker that is not back this long after a death, for instance because it died again.
        "distributed.deploy.lost-worker-timeout": "1 day",
        "distributed.worker.daemon": False,  # a daemon may not start processes, such as a head with a time limit
    }
    with dask.config.set(settings), silence_logging_cmgr(logging.CRITICAL):
        if isinstance(scheduler, int):
            threads = max(1, (os.cpu_count() or 1) // scheduler)
            with (
                LocalCluster(
                    n_workers=scheduler,
                    threads_per_worker=threads,
                    host=LOOPBACK,
                    dashboard_address=f"{LOOPBACK}:0",
                    silence_logs=logging.CRITICAL,
                    env={name: str(threads) for name in THREADS_OF},
                ) as cluster,
                Client(cluster) as client,
            ):
                check_workers(client, address, versions)
                yield client
            return
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise ClusterError(
                f"--cluster {address}: no scheduler answers there ({_line(error)}); start one with dask scheduler, or "
                "use local:N"
            ) from error
        with client:
            check_workers(client, address, versions)
            yield client


def check_workers(client: "Client", address: str, versions: Callable[[], dict[str, str]]) -> None:
    """Wait for workers, and raise ClusterError if there are none or one has other packages."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"--cluster {address}: the scheduler has no workers; start some with dask worker {address}"
        ) from error
    ours = versions()
    # Ask the standard library first: a worker without the package cannot even receive one of its functions.
    installed = client.run(importlib.metadata.version, "frozenbench", on_error="return")
    for worker, theirs in installed.items():
        if isinstance(theirs, Exception):
            raise ClusterError(
                f"the worker {worker} has no frozenbench ({_line(theirs)}); install frozenbench {ours['frozenbench']} "
                "where it runs, and start it again"
            )
        check_same(worker, {"frozenbench": ours["frozenbench"]}, {"frozenbench": theirs})
    for worker, theirs in client.run(versions, on_error="return").items():
        if isinstance(theirs, Exception):
            raise ClusterError(f"the worker {worker} cannot use frozenbench: {_line(theirs)}")
        check_same(worker, ours, theirs)
    threads = client.nthreads()
    logger.info("cluster: workers %d, threads %d; %s", len(threads), sum(threads.values()), client.dashboard_link)


def check_same(worker: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Raise ClusterError if a worker's packages differ from ours; Python's patch level may differ."""
    for package, version in ours.items():
        there = theirs.get(package, "")
        if there.split(".")[:2] != version.split(".")[:2] or (package != "python" and there != version):
            raise ClusterError(
                f"the worker {worker} has {package} {theirs.get(package, '(none)')}, expected {version} as here; "
                "install the same versions there, and start it again"
            )


def check_address(address: str) -> None:
    """Raise UsageError if the address is not valid, or Dask is not installed."""
    _scheduler(address)
    if importlib.util.find_spec("distributed") is None:
        raise UsageError("--cluster needs Dask, which is not installed; pip install 'frozenbench[cluster]'")


def _scheduler(address: str) -> str | int:
    """The scheduler's address, or the number of workers to start on this machine."""
    kind, _, rest = address.partition(":")
    if kind == "local" and rest.isascii() and rest.isdigit() and int(rest):
        return int(rest)
    if kind in ("tcp", "tls") and rest.startswith("//") and rest.rpartition(":")[2].isdigit():
        return address
    raise UsageError(f"--cluster {address}: expected local:N, or a scheduler's address such as tcp://HOST:8786")


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
