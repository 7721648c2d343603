"""A pool that passes over shares of rows: threads of this process, or the workers of a Dask cluster."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from classify.large.blocks import Share
from featurize.core.cluster import LOOPBACK
from featurize.core.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE = 10  # seconds between checks whether silent workers are still there


class Threads:
    """Threads of this process.

    Attributes:
        size: the number of tasks that run at the same time.
    """

    def __init__(self, threads: int, executor: ThreadPoolExecutor) -> None:
        self.size = threads
        self._executor = executor

    def send(self, value: Any) -> Any:
        """Hand out a value once, before many tasks use it; returns what to pass to the tasks."""
        return value

    def map(self, function: Callable[..., Any], shares: Sequence[Share], *arguments: Any) -> Iterator[Any]:
        """`function(share, *arguments)` of every share, in order; large arguments come from `send`."""
        return self._executor.map(lambda share: function(share, *arguments), shares)

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function(*arguments)` once in every process."""
        function(*arguments)


class Workers:
    """The workers of a Dask cluster.

    A share goes to the same worker in every pass, because that worker remembers its blocks. If a worker is
    lost, others take over.

    Attributes:
        client: of the cluster.
        size: the number of tasks that run at the same time.
    """

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.size = sum(client.nthreads().values())
        self._addresses: set[str] = set()

    @property
    def on_loopback(self) -> bool:
        """Whether no other machine can reach the workers, as with `local:N`."""
        from distributed.comm.addressing import get_address_host

        return {get_address_host(address) for address in self.client.nthreads()} <= {LOOPBACK}

    def send(self, value: Any) -> Any:
        """As in `Threads`: once to each worker instead of with every task."""
        return self.client.scatter([value], hash=False, broadcast=True)[0]

    def map(self, function: Callable[..., Any], shares: Sequence[Share], *arguments: Any) -> Iterator[Any]:
        """As in `Threads`."""
        futures = self._submit(function, shares, *arguments)
        futures.reverse()
        while futures:
            future = futures.pop()  # so that the workers free a result as soon as it is here
            self._wait(future)
            yield future.result()

    def hold(self, function: Callable[..., Any], shares: Sequence[Share], *arguments: Any) -> list["Future"]:
        """As `map`, but the results stay on the workers; returns finished futures."""
        return self.finished(self._submit(function, shares, *arguments))

    def finished(self, futures: list["Future"]) -> list["Future"]:
        """The same futures when all are finished; raises the error of the first one that failed."""
        for future in futures:
            self._wait(future)
            if error := future.exception():
                raise error
        return futures

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> None:
        """As in `Threads`."""
        self.client.run(function, *arguments, on_error="ignore")

    def _submit(self, function: Callable[..., Any], shares: Sequence[Share], *arguments: Any) -> list["Future"]:
        self._addresses = set(self.client.nthreads())
        if not self._addresses:
            raise ClusterError("the cluster has no workers any more; start some, and run the same command again")
        addresses = sorted(self._addresses)
        futures = []
        for number, share in enumerate(shares):
            worker = addresses[number % len(addresses)]
            futures.append(
                self.client.submit(function, share, *arguments, workers=[worker], allow_other_workers=True, pure=False)
            )
        return futures

    def _wait(self, future: "Future") -> None:
        """Wait for a future, but not for workers that are gone.

        Dask moves a task to another worker if there is one, and otherwise waits for the lost one for ever.
        """
        import distributed

        while future.status == "pending":
            with suppress(TimeoutError):
                distributed.wait(future, timeout=PATIENCE)
            if self._addresses.isdisjoint(self.client.nthreads()):
                raise ClusterError(
                    "all workers of the cluster were lost, most often for want of memory; look at their logs, give "
                    "them more (dask worker --memory-limit), and run the same command again"
                )


@contextmanager
def work_pool(threads: int, client: "Client | None" = None) -> Iterator[Threads | Workers]:
    """The workers of a cluster, or threads of this process.

    Args:
        threads: of this process.
        client: of the cluster; None to use the threads.

    Raises:
        ClusterError: the workers could not do the work.
    """
    if client is None:
        with ThreadPoolExecutor(threads) as executor:
            yield Threads(threads, executor)
        return
    from distributed import KilledWorker

    try:
        yield Workers(client)
    except (KilledWorker, CancelledError) as error:
        raise ClusterError(
            f"the cluster gave up a block of rows ({error or type(error).__name__}); look at the workers' logs, give "
            "them more memory (dask worker --memory-limit), and run the same command again"
        ) from error
