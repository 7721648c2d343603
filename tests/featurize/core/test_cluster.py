"""A cluster is checked before it gets work."""

import functools
import importlib.util
import multiprocessing
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import dask
import psutil
import pytest
from distributed import LocalCluster

from featurize.core import cluster as cluster_module
from featurize.core.cluster import check_address, check_workers, connected
from featurize.core.errors import ClusterError, UsageError


def versions() -> dict[str, str]:
    return {"frozenbench": version("frozenbench"), "numpy": version("numpy")}


def other_versions() -> dict[str, str]:
    """On a worker, of another numpy."""
    here = multiprocessing.parent_process() is None
    return {**versions(), "numpy": "9.9" if here else version("numpy")}


@pytest.fixture(scope="module")
def empty_cluster() -> Iterator[str]:
    """The address of a scheduler without workers."""
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize(
    "address", ["local", "local:", "local:0", "local:two", "tcp:/host:1", "tcp://host", "http://host:1", "8786", ""]
)
def test_an_invalid_address(address: str) -> None:
    with pytest.raises(UsageError, match="cluster .*: expected local:N, or a scheduler's address such as tcp://HOST"):
        check_address(address)


@pytest.mark.parametrize("address", ["local:1", "local:12", "tcp://host:8786", "tls://10.0.0.1:8786", "tcp://[::1]:80"])
def test_addresses(address: str) -> None:
    check_address(address)


def test_dask_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    with (
        pytest.raises(UsageError, match=r"not installed; pip install 'frozenbench\[cluster\]'"),
        connected("local:1", versions),
    ):
        pass


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(ClusterError, match="no scheduler answers there .*; start one with dask scheduler"),
        connected("tcp://127.0.0.1:9", versions),
    ):
        pass


def test_no_workers(empty_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "WORKER_SECONDS", 0.3)
    with (
        pytest.raises(ClusterError, match=f"the scheduler has no workers; start some with dask worker {empty_cluster}"),
        connected(empty_cluster, versions),
    ):
        pass


def test_a_local_cluster(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "frozenbench")
    with connected("local:2", versions) as client:
        # Otherwise a worker that dies twice within the default of 15 s may never come back.
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1 day"
        threads = client.nthreads()
        assert list(threads.values()) == [max(1, (os.cpu_count() or 1) // 2)] * 2
        assert f"cluster: workers 2, threads {sum(threads.values())}; http://127.0.0.1:" in caplog.text
        settings = client.run(functools.partial(os.environ.get, "OMP_NUM_THREADS"))
        assert set(settings.values()) == {str(next(iter(threads.values())))}
        # No other machine can connect to it.
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [
            link.laddr.ip
            for process in family
            for link in process.net_connections()
            if link.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 4
        assert set(listening) == {"127.0.0.1"}
        with pytest.raises(
            ClusterError, match=r"the worker tcp.* has numpy .*, expected 9.9 as here; install the same"
        ):
            check_workers(client, "local:2", other_versions)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (PackageNotFoundError("frozenbench"), "the worker tcp://far:1 has no frozenbench .*; install frozenbench "),
        ("0.0.9", "the worker tcp://far:1 has frozenbench 0.0.9, expected "),
    ],
)
def test_workers_without_the_package(found: object, message: str) -> None:
    """They only get functions of the standard library, because they cannot unpickle those of the package."""

    def run(function: object, *arguments: str, on_error: str) -> dict[str, object]:
        assert function is version
        assert arguments == ("frozenbench",)
        return {"tcp://far:1": found}

    client = SimpleNamespace(run=run, wait_for_workers=lambda *_, **__: None)
    with pytest.raises(ClusterError, match=message):
        check_workers(client, "tcp://far:0", versions)  # type: ignore[arg-type]
