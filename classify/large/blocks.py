"""Rows of a feature cache that are larger than memory: read in blocks, by threads or by the workers of a cluster."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from featurize.cache import CacheInfo, Columns, Features, read_labels, read_rows
from featurize.core.cluster import LOOPBACK
from featurize.core.errors import CacheError, ClusterError

BLOCK_BYTES = 1 << 25
SHARES = 64  # tasks of a pass: enough for many workers, and few sums to send back
COPIES_IN_MEMORY = 6
"""What a fit on the whole matrix holds at once, in float32 matrices.

Measured, 4.6: the vectors, their signed root, and their differences from the mean in float64, which count twice;
the rest is room for whatever else there is.
"""
PATIENCE = 10  # seconds between looks at workers that keep silent
SHARE_KEPT = 0.5  # of a process's memory, for blocks that are used again and again
CONTROL_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit() -> int:
    """Bytes that this process may use: the machine's, or fewer in a container or as a worker of a Dask cluster."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTROL_GROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such control, or no limit: `max`
            limits.append(int(path.read_text()))
    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # this is no worker
            limits.append(get_worker().memory_manager.memory_limit or limits[0])
    return min(limits)


def worker_memory(dask_worker: Any) -> int:
    """Bytes that a worker may use: to be given to `Client.run`."""
    return min(memory_limit(), dask_worker.memory_manager.memory_limit or sys.maxsize)


def memory_needed(rows: int, dim: int) -> int:
    """Bytes that a fit on so many vectors (rows, dim) in memory takes."""
    return COPIES_IN_MEMORY * 4 * rows * dim


@dataclass(frozen=True)
class Block:
    """Rows of a split that are read at once: those from `start` to `stop`, or the `chosen` ones of them.

    Attributes:
        path: of the cache.
        fingerprint: of the cache.
        split: of the rows.
        layers: whose columns; empty for all.
        start: the first row.
        stop: the row after the last one.
        chosen: rows, counted from `start`, ascending; None for all.
    """

    path: Path
    fingerprint: str
    split: str
    layers: tuple[str, ...]
    start: int
    stop: int
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return self.stop - self.start if self.chosen is None else len(self.chosen)

    def read(self) -> np.ndarray:
        """The vectors, float32 (b, d).

        Raises:
            CacheError: the cache cannot be used, or is another one by now.
        """
        features = read_rows(self.path, self.split, self.start, self.stop, self.layers)
        if features.fingerprint != self.fingerprint:
            raise CacheError(
                f"{self.path} has been replaced while it was read: it has the fingerprint {features.fingerprint[:12]}, "
                f"expected {self.fingerprint[:12]}; run the same command again"
            )
        return features.x if self.chosen is None else features.x[self.chosen]


@dataclass(frozen=True)
class FeatureBlocks:
    """`Features` of which only a block at a time is in memory.

    Attributes:
        blocks: in the order of the rows.
        y: int64 (n,), 0..K-1.
        ids: int64 (n,).
        class_names: K names.
        layers: which columns belong to which layer.
        mirror: as in `Features`.
        image: as in `Features`.
    """

    blocks: tuple[Block, ...]
    y: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    layers: tuple[Columns, ...]
    mirror: np.ndarray | None = None
    image: tuple[int, ...] | None = None

    @classmethod
    def of(cls, info: CacheInfo, split: str, layers: tuple[str, ...] = (), rows: np.ndarray | None = None) -> Self:
        """The rows of a split, or some of them, (n,), ascending.

        Raises:
            CacheError: the cache cannot be used.
            UsageError: it has no such split or layer.
        """
        parts = info.columns(layers)
        labels, ids = read_labels(info.path, split)
        height = max(1, BLOCK_BYTES // (4 * info.dim))
        path = info.path.absolute()  # for workers, who may be elsewhere
        blocks = []
        for start in range(0, len(labels), height):
            block = Block(path, info.spec.fingerprint, split, layers, start, min(start + height, len(labels)))
            if rows is not None:
                first, last = np.searchsorted(rows, [block.start, block.stop])
                chosen = (rows[first:last] - block.start).astype(np.int32)
                block = Block(path, block.fingerprint, split, layers, block.start, block.stop, chosen)
            if len(block):
                blocks.append(block)
        if rows is not None:
            labels, ids = labels[rows], ids[rows]
        return cls(tuple(blocks), labels, ids, info.class_names, parts, info.mirror(layers), info.image)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.layers[-1].stop

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield the vectors, float32 (b, d), a block of rows at a time, in order."""
        for block, _ in self.places():
            yield block.read()

    def places(self) -> Iterator[tuple[Block, slice]]:
        """Each block with the place of its rows among all."""
        start = 0
        for block in self.blocks:
            yield block, slice(start, start + len(block))
            start += len(block)

    def load(self) -> Features:
        """All rows in memory after all, where few are chosen of many."""
        x = np.empty((len(self.y), self.dim), np.float32)
        for block, place in self.places():
            x[place] = block.read()
        fingerprint = self.blocks[0].fingerprint if self.blocks else ""
        return Features(x, self.y, self.ids, self.class_names, fingerprint, self.layers, self.mirror, self.image)


@dataclass(frozen=True)
class Share:
    """Blocks that are one task, with the numbers (n,) that go with their rows."""

    blocks: tuple[Block, ...]
    places: tuple[slice, ...]
    beside: tuple[np.ndarray, ...]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for block, place in zip(self.blocks, self.places, strict=True):
            yield (block, *(numbers[place] for numbers in self.beside))


def shares(features: FeatureBlocks, *beside: np.ndarray, most: int | None = None) -> list[Share]:
    """The rows in at most `SHARES` parts, the same however many work on them, so that sums come out the same.

    Args:
        features: the rows.
        beside: arrays (n, ...) with something of each row, which goes with it.
        most: parts, if not `SHARES`.
    """
    placed = list(features.places())
    parts = []
    for numbers in np.array_split(np.arange(len(placed)), min(most or SHARES, len(placed))):
        blocks, places = zip(*(placed[number] for number in numbers), strict=True)
        first, last = places[0].start, places[-1].stop
        within = tuple(slice(place.start - first, place.stop - first) for place in places)
        parts.append(Share(blocks, within, tuple(each[first:last] for each in beside)))
    return parts


class Team:
    """Threads of this process.

    Attributes:
        size: how many tasks can be done at once.
    """

    def __init__(self, pool: Executor, size: int) -> None:
        self.pool = pool
        self.size = size

    def send(self, value: Any) -> Any:
        """Give everyone a value; what tasks take in its place."""
        return value

    def each(self, function: Callable[..., Any], shares: Sequence[Share], *arguments: Any) -> Iterator[Any]:
        """`function(share, *arguments)` of every share, in their order; large arguments are to be sent before."""
        members = self._members()
        futures = [
            members[number % len(members)].submit(function, share, *arguments) for number, share in enumerate(shares)
        ]
        futures.reverse()
        while futures:  # what a task gave is not held any longer than it takes to add it up
            yield self._result(futures.pop())

    def everyone(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function(*arguments)` in each process."""
        for future in [member.submit(function, *arguments) for member in self._members()]:
            self._result(future)

    def _members(self) -> list[Executor]:
        return [self.pool]

    def _result(self, future: Future[Any]) -> Any:
        return future.result()


class Workers(Team):
    """The workers of a Dask cluster; a share is always given to the same one, which has it in memory by then.

    Should a worker be lost, others take over. joblib would give a share to any of them, each time.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.addresses: set[str] = set()
        self.size = sum(client.nthreads().values())

    @property
    def on_loopback(self) -> bool:
        """Whether the cluster is this machine's own, which no other one can reach: `local:N`."""
        from distributed.comm.addressing import get_address_host

        return {get_address_host(address) for address in self.client.nthreads()} <= {LOOPBACK}

    def send(self, value: Any) -> Any:
        """To each of the workers once, not with every task."""
        return self.client.scatter([value], hash=False, broadcast=True)[0]

    def hold(self, function: Callable[..., Any], shares: Sequence[Share], *arguments: Any) -> list[Any]:
        """`function(share, *arguments)` of every share, left where it was made: Dask's futures, which are done."""
        addresses = self._addresses()
        held = [
            self.client.submit(
                function,
                share,
                *arguments,
                workers=[addresses[number % len(addresses)]],
                allow_other_workers=True,
                pure=False,
            )
            for number, share in enumerate(shares)
        ]
        self.wait(held)
        return held

    def wait(self, futures: Sequence[Any]) -> None:
        """Until Dask's futures are done; raises what the first one that failed did."""
        import distributed

        for future in futures:
            while future.status == "pending":
                with suppress(TimeoutError):
                    distributed.wait(future, timeout=PATIENCE)
                self._check_alive()
            if error := future.exception():
                raise error

    def _members(self) -> list[Executor]:
        return [
            self.client.get_executor(workers=[address], allow_other_workers=True, pure=False)
            for address in self._addresses()
        ]

    def _addresses(self) -> list[str]:
        self.addresses = set(self.client.nthreads())
        if not self.addresses:
            raise ClusterError("the cluster has no workers any more; start some, and run the same command again")
        return sorted(self.addresses)

    def _result(self, future: Future[Any]) -> Any:
        while not wait([future], timeout=PATIENCE).done:
            self._check_alive()
        return future.result()

    def _check_alive(self) -> None:
        """Dask gives a task to another worker if there is one; later, it waits for the old one without an end."""
        if self.addresses.isdisjoint(self.client.nthreads()):
            raise ClusterError(
                "all workers of the cluster were lost, most often for want of memory; look at their logs, give "
                "them more (dask worker --memory-limit), and run the same command again"
            )


@contextmanager
def team(threads: int) -> Iterator[Team]:
    """The workers of the Dask cluster that `joblib.parallel_config` has made active, else so many threads.

    Raises:
        ClusterError: the workers could not do the work.
    """
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    client = getattr(backend, "client", None)
    if client is None:
        with ThreadPoolExecutor(threads) as pool:
            yield Team(pool, threads)
        return
    from distributed import KilledWorker, get_worker, worker_client

    try:
        try:
            get_worker()
        except ValueError:
            yield Workers(client)
        else:  # this is a task itself, which must not take up the place of those that it waits for
            with worker_client() as client:
                yield Workers(client)
    except (KilledWorker, CancelledError) as error:
        raise ClusterError(
            f"the cluster gave up a block of rows ({error or type(error).__name__}); look at the workers' logs, give "
            "them more memory (dask worker --memory-limit), and run the same command again"
        ) from error


_kept: dict[tuple[str, int], np.ndarray] = {}
_lock = threading.Lock()


def kept(purpose: str, block: Block, make: Callable[[Block], np.ndarray]) -> np.ndarray:
    """What `make` gives for a block, from memory where this process has it there.

    What is kept stays until `forget`, as every pass needs the blocks in the same order: the one that was
    not used for the longest time, which other stores throw out, is the one that is needed next. Only what
    serves another purpose makes room.
    """
    key = (purpose, block.start)
    with _lock:
        if key in _kept:
            return _kept[key]
    made = make(block)
    with _lock:
        room = int(SHARE_KEPT * memory_limit()) - made.nbytes - sum(each.nbytes for each in _kept.values())
        for other in [other for other in _kept if other[0] != purpose]:
            if room < 0:
                room += _kept.pop(other).nbytes
        if room >= 0:
            _kept[key] = made
    return made


def forget(purpose: str) -> None:
    """Free what this process keeps for a purpose."""
    with _lock:
        for key in [key for key in _kept if key[0] == purpose]:
            del _kept[key]
