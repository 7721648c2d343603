"""Row ranges for the workers of a Dask cluster: how large, to whom, and what happens when a worker dies or hangs.

Tasks are made one at a time, as workers become free, so that each keeps a worker busy for seconds, and fewer
towards the end (guided self-scheduling, Polychronopoulos and Kuck, 1987). Every worker writes the same shard
for a range, so a range can be given to a second worker when the first is late (backup tasks, Dean and
Ghemawat, MapReduce, 2004).
"""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, NamedTuple

from distributed import Client, Future, KilledWorker, as_completed

from featurize.core.errors import ClusterError, FrozenbenchError
from featurize.extraction.worker import RESUMES, Done

logger = logging.getLogger("frozenbench")
TASK_SECONDS = 5.0
"""Work lost by a kill. The cluster's own overhead is a few thousandths of it (measured: docs/scaling.md)."""
LEAST_SHARE = 0.25  # of TASK_SECONDS, for the last tasks
MOST_TASKS = 200_000  # and as many shards; tasks of larger extractions take longer
AHEAD = 2  # tasks for each worker: one running, one waiting
LATE = 4  # times the median duration
LEAST_LATE_SECONDS = 1.0  # the shortest median that counts
MOST_SUSPECTS = 8
POLL_SECONDS = 0.05
WORKERS_SECONDS = 2.0  # between two counts of the workers
BACK_SECONDS = 300  # for lost workers to come back


class Range(NamedTuple):
    """Rows `start` to `stop` (exclusive) of a split."""

    split: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.split} images {self.start:,} to {self.stop - 1:,}"


class SchedulerGoneError(Exception):
    """The connection to the scheduler is lost; finished shards are not."""


class RangeQueue:
    """Gives row ranges to the workers of a cluster; iterating yields each finished range with its report.

    Args:
        client: of the cluster.
        missing: the ranges to compute; they are cut into tasks.
        submit: submits the task of a range, with options of `Client.submit`.
        batch: a task's number of rows is a multiple of this.
        most_rows: of a task.

    Attributes:
        todo: the rows that no task has, in ranges.
        workers: number of workers.
        rate: rows per second of a worker.
        workers_seen: the workers that have finished a task.
    """

    def __init__(
        self, client: Client, missing: list[Range], submit: Callable[..., Future], batch: int, most_rows: int
    ) -> None:
        self.client = client
        self.submit = submit
        self.batch = batch
        self.most_rows = most_rows
        self.workers_seen: set[str] = set()
        self.todo = deque(missing)
        self._total = sum(task.stop - task.start for task in missing)
        self._running: dict[Future, tuple[Range, float]] = {}  # and since when
        self._completed: Any = None
        self._suspects: deque[Range] = deque()
        self._alone: Range | None = None
        self.workers = 0
        self._counted = -WORKERS_SECONDS
        self._last_seen = time.monotonic()
        self.rate = 0.0
        self._seconds: deque[float] = deque(maxlen=64)  # of the latest tasks
        self._number = 0

    def __iter__(self) -> Iterator[tuple[Range, Done] | None]:
        """Yield each finished range, and None now and then while nothing happens.

        Raises:
            FrozenbenchError: the error of a failed task; ClusterError if its workers died.
            SchedulerGoneError: the connection is lost.
        """
        self._completed = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        while self.todo or self._running or self._suspects:
            self._count_workers()
            self._submit_more()
            finished = self._collect()
            yield from finished
            if not finished:
                time.sleep(POLL_SECONDS)
                yield None

    def cancel(self) -> None:
        """Cancel the tasks that have not begun."""
        with suppress(Exception):  # the scheduler may be gone
            self.client.cancel(list(self._running))
        self._running.clear()

    def _count_workers(self) -> None:
        now = time.monotonic()
        if now - self._counted < WORKERS_SECONDS:
            return
        try:
            self.workers = len(self.client.nthreads())
        except (OSError, TimeoutError) as error:
            raise SchedulerGoneError from error
        self._counted = now
        if self.workers:
            self._last_seen = now
        elif now - self._last_seen > BACK_SECONDS:
            raise ClusterError(
                f"the cluster has had no worker for {BACK_SECONDS} s; start some with dask worker; {RESUMES}"
            )

    def _submit_more(self) -> None:
        """Keep every worker busy: with new ranges, or with copies of late ones at the end."""
        running = [task for task, _ in self._running.values()]
        if self._alone in running:
            return
        if self._suspects and (not self.todo or len(self._suspects) >= MOST_SUSPECTS):
            if not running:
                self._alone = self._suspects.popleft()
                self._submit(self._alone)
            return
        ahead = AHEAD if self.rate else 1  # the first tasks are small: they measure the rate
        while len(self._running) < ahead * self.workers:
            if self.todo:
                self._submit(self._next())
            elif not self._submit_late():
                return

    def _next(self) -> Range:
        """Cut off the next range: enough rows for `TASK_SECONDS`, fewer towards the end."""
        left = sum(task.stop - task.start for task in self.todo)
        fair_share = left / (AHEAD * max(1, self.workers))
        usual = max(TASK_SECONDS * self.rate, self._total / MOST_TASKS)
        rows = max(min(usual, fair_share), LEAST_SHARE * usual)
        batches = max(1, round(min(rows, self.most_rows) / self.batch))
        split, start, stop = self.todo.popleft()
        end = start + batches * self.batch
        if end < stop:
            self.todo.appendleft(Range(split, end, stop))
        return Range(split, start, min(end, stop))

    def _submit_late(self) -> bool:
        """Give a late range to another worker as well; returns whether there was one."""
        if not self._seconds:
            return False
        limit = LATE * max(statistics.median(self._seconds), LEAST_LATE_SECONDS)
        now = time.monotonic()
        latest = dict(self._running.values())  # in order of submission, so the last copy of a range counts
        for task, since in latest.items():
            if now - since <= limit:
                continue
            keys = {future.key for future, (same, _) in self._running.items() if same == task}
            others = [worker for worker, held in self.client.processing().items() if keys.isdisjoint(held)]
            if others:
                logger.info("%s are late; another worker computes them as well", task)
                self._submit(task, workers=others)  # strictly: Dask might move it to a worker that hangs
                return True
        return False

    def _submit(self, task: Range, workers: list[str] | None = None) -> None:
        self._number += 1
        key = f"{task.split}-{task.start}-{task.stop}-{id(self)}-{self._number}"
        try:
            future = self.submit(task, key=key, pure=False, workers=workers)
            self._completed.add(future)
        except (OSError, RuntimeError) as error:  # the latter: the client is closed
            raise SchedulerGoneError from error
        self._running[future] = task, time.monotonic()

    def _collect(self) -> list[tuple[Range, Done]]:
        """The ranges that have finished since the last call."""
        finished = []
        for future, result in self._completed.next_batch(block=False):
            if future not in self._running:  # a copy of a finished range
                continue
            task, since = self._running.pop(future)
            if future.status == "error":
                self._handle_error(task, result[1])
            elif isinstance(result, Done):
                self._learn(task, time.monotonic() - since, result)
                finished.append((task, result))
            elif isinstance(result, (CancelledError, OSError)):  # lost with its scheduler
                self.todo.appendleft(task)
        if self.client.status != "running":
            raise SchedulerGoneError
        return finished

    def _handle_error(self, task: Range, error: BaseException) -> None:
        """Raise a task's error, unless its workers died and it may not be to blame.

        Dask blames a death on all tasks of the worker. So a suspect is computed once more with nothing beside
        it: after all others, or as soon as there are several suspects.
        """
        if not isinstance(error, KilledWorker) or not self.workers_seen or task == self._alone:
            raise _as_error(task, error)
        logger.warning("the workers that had the %s died; these are computed again, by themselves", task)
        self._suspects.append(task)

    def _learn(self, task: Range, seconds: float, done: Done) -> None:
        """Update the measured rate, and cancel the copies of a finished task."""
        copies = [future for future, (same, _) in self._running.items() if same == task]
        for copy in copies:
            del self._running[copy]
            copy.cancel()
        self._seconds.append(seconds)
        rate = done.shard.rows / max(done.seconds, 1e-6)
        self.rate = (self.rate + rate) / 2 if self.rate else rate
        self.workers_seen.add(done.worker)


def _as_error(task: Range, error: BaseException) -> FrozenbenchError:
    if isinstance(error, FrozenbenchError):
        return error
    if isinstance(error, (KilledWorker, MemoryError)):
        limit = getattr(getattr(error, "last_worker", None), "memory_limit", 0)
        allowed = f", which is limited to {limit / 1e9:.1f} GB" if limit else ""
        return ClusterError(
            f"the workers that computed the {task} died, most likely for lack of memory{allowed}; give each more "
            f"(fewer workers on a machine, dask worker --memory-limit) or choose a smaller --batch-size; {RESUMES}"
        )
    return ClusterError(f"the {task} could not be computed: {type(error).__name__}: {error}; {RESUMES}")
