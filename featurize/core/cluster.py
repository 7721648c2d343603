"""A connection to a Dask cluster (https://distributed.dask.org). Its workers are checked before they get work."""

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featurize.core.errors import ClusterError, UsageError, first_line

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("frozenbench")
CONNECT_SECONDS = 10
WORKER_SECONDS = 60  # for the first worker to join
LOOPBACK = "127.0.0.1"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
"""Environment variables that set the number of threads of libraries; the last one is joblib's and ours."""


@contextmanager
def connected(address: str, versions: Callable[[], dict[str, str]]) -> Iterator["Client"]:
    """Connect to a cluster and check its workers.

    Args:
        address: `local:N` for N worker processes on this machine, which end with the block; or the address of a
            scheduler: `tcp://HOST:PORT`, or `tls://HOST:PORT` with the certificates from Dask's configuration
            (https://distributed.dask.org/en/stable/tls.html).
        versions: returns the versions of the packages that must agree, by name; also called on every worker.

    Raises:
        UsageError: the address is not valid, or Dask is not installed.
        ClusterError: no scheduler answers, it has no workers, or a worker has other packages.
    """
    check_address(address)
    import dask
    from distributed.utils import silence_logging_cmgr

    settings = {
        "distributed.admin.large-graph-warning-threshold": "1 GB",  # a task may carry the pixels of its images
        # Otherwise Dask gives up a local worker that does not return in 15 s, for instance because it died again.
        "distributed.deploy.lost-worker-timeout": "1 day",
        "distributed.worker.daemon": False,  # a daemon may not start processes, such as a head with a time limit
    }
    workers = _local_workers(address)
    with (
        dask.config.set(settings),
        silence_logging_cmgr(logging.CRITICAL),
        _local_client(workers) if workers else _remote_client(address) as client,
    ):
        check_workers(client, address, versions)
        yield client


@contextmanager
def _local_client(workers: int) -> Iterator["Client"]:
    """Start a cluster on this machine. Its workers share the processors, and only listen on the loopback interface."""
    from distributed import Client, LocalCluster

    threads = max(1, (os.cpu_count() or 1) // workers)
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        host=LOOPBACK,
        dashboard_address=f"{LOOPBACK}:0",
        silence_logs=logging.CRITICAL,
        env={name: str(threads) for name in THREAD_VARIABLES},
    )
    with cluster, Client(cluster) as client:
        yield client


def _remote_client(address: str) -> "Client":
    """Connect to a scheduler that is already running."""
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ClusterError(
            f"--cluster {address}: no scheduler answers there ({first_line(error)}); start one with dask scheduler, "
            "or use local:N"
        ) from error


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
                f"the worker {worker} has no frozenbench ({first_line(theirs)}); "
                f"install frozenbench {ours['frozenbench']} where it runs, and start it again"
            )
        check_same(worker, {"frozenbench": ours["frozenbench"]}, {"frozenbench": theirs})
    for worker, theirs in client.run(versions, on_error="return").items():
        if isinstance(theirs, Exception):
            raise ClusterError(f"the worker {worker} cannot use frozenbench: {first_line(theirs)}")
        check_same(worker, ours, theirs)
    threads = client.nthreads()
    logger.info("cluster: workers %d, threads %d; %s", len(threads), sum(threads.values()), client.dashboard_link)


def check_same(worker: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Raise ClusterError if a worker's packages differ from ours. Python's patch level may differ."""
    for package, expected in ours.items():
        found = theirs.get(package, "(none)")
        same = found == expected
        if package == "python":
            same = found.split(".")[:2] == expected.split(".")[:2]
        if not same:
            raise ClusterError(
                f"the worker {worker} has {package} {found}, expected {expected} as here; "
                "install the same versions there, and start it again"
            )


def check_address(address: str) -> None:
    """Raise UsageError if the address is not valid, or Dask is not installed."""
    _local_workers(address)
    if importlib.util.find_spec("distributed") is None:
        raise UsageError("--cluster needs Dask, which is not installed; pip install 'frozenbench[cluster]'")


def _local_workers(address: str) -> int:
    """The number of workers to start on this machine; 0 for the address of a scheduler."""
    kind, _, rest = address.partition(":")
    if kind == "local" and rest.isascii() and rest.isdigit() and int(rest):
        return int(rest)
    if kind in ("tcp", "tls") and rest.startswith("//") and rest.rpartition(":")[2].isdigit():
        return 0
    raise UsageError(f"--cluster {address}: expected local:N, or a scheduler's address such as tcp://HOST:8786")
