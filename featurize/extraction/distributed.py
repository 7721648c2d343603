"""Stage 1 on a cluster: row ranges -> workers -> sealed shards, until none is missing.

A task is a range of rows of a split. Tasks are made one by one as workers become free, of a size
that keeps a worker busy for seconds and gets smaller towards the end (guided self-scheduling,
Polychronopoulos and Kuck, 1987). Whoever works on a range writes the same shard, so that a range is
given to another worker when its own is gone or late (backup tasks: Dean and Ghemawat, MapReduce,
2004), and an extraction goes on from whatever shards it finds.
"""

import functools
import logging
import os
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker

from featurize.cache import PLAN, ExtractionSpec, Shard, Shards
from featurize.core.cluster import check_same, connected
from featurize.core.environment import import_keras, library_versions, limit_threads
from featurize.core.errors import ClusterError, FrozenbenchError
from featurize.extraction.extract import (
    Compute,
    Extractor,
    Note,
    Plan,
    device_of,
    recorded_backbone,
    recorded_extractor,
    vectors_of,
)
from featurize.images import ImageFiles, Split

logger = logging.getLogger("frozenbench")
PACKAGES = ("frozenbench", "tensorflow", "keras", "mnn", "numba", "numpy", "pillow", "distributed")
"""What must be the same on all machines, for the vectors' and the messages' sake."""

TASK_SECONDS = 5.0
"""What a kill may cost; at this length the cluster's own work is some thousandths (measured: docs/scaling.md)."""
LEAST_SHARE = 0.25  # of that, for the last tasks
MOST_TASKS = 200_000  # in one extraction, which is as many shards: above, tasks take longer
TASK_BYTES = 1 << 26  # of pixels on their way, or of vectors in a worker's memory
AHEAD = 2  # tasks for each worker: one that it works on, one that waits there
LATE, LEAST_LATE_SECONDS = 4, 1.0  # times as long as others take, which are this long at least
POLL_SECONDS = 0.25
WORKERS_SECONDS = 2.0  # between two looks at who is there
BACK_SECONDS = 300  # for a scheduler that is gone to come back
LOOKED_AT = 16  # unreadable files of a task that are tried here as well


class Range(NamedTuple):
    """Rows `start` to `stop` (exclusive) of a split."""

    split: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.split} images {self.start:,} to {self.stop - 1:,}"


class Done(NamedTuple):
    """What a worker says of a range that it has finished: its address, the shard, its seconds, and its device."""

    worker: str
    shard: Shard
    seconds: float
    device: str


def over(address: str) -> Compute:
    """What computes the rows that an extraction lacks on a cluster.

    Args:
        address: as for `cluster.connected`.
    """

    def compute(plan: Plan, shards: Shards, note: Note) -> str:
        versions = functools.partial(library_versions, PACKAGES)
        gone_since = None
        while True:
            try:
                with connected(address, versions) as client:
                    gone_since = None
                    return _extract(client, plan, shards, note)
            except SchedulerGoneError:
                logger.warning("the scheduler at %s is gone; going on when it is back", address)
                gone_since, before = time.monotonic(), sum(shards.done.values())
                note(shards.resume() - before)  # what was sealed and could not be told any more
            except ClusterError:
                if gone_since is None or time.monotonic() - gone_since > BACK_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
                note(0)

    return compute


class SchedulerGoneError(Exception):
    """The connection to the scheduler is lost; what is finished is finished."""


def compute_range(plugin: str, name: str, part: Split, start: int) -> Done:
    """A task: the vectors of some rows of a split, from row `start` on, written as a shard by this worker."""
    worker = get_worker()
    there = worker.plugins.get(plugin)
    if not isinstance(there, Extracting):
        raise ClusterError(f"the worker {worker.address} was not made ready for the extraction; its own log says why")
    return there.compute(name, part, start)


def check_frozen(plugin: str, dask_worker: Worker) -> None:
    """Raise BackboneError if a worker's network is no longer the one that was loaded."""
    there = dask_worker.plugins.get(plugin)
    if isinstance(there, Extracting) and there.extractor is not None:
        there.extractor.backbone.check_frozen()


class Extracting(WorkerPlugin):
    """What a worker has for one extraction: the network, loaded once, and the place for shards.

    Args:
        plan: of the extraction.
        shards: that are to be written.
    """

    extractor: Extractor | None = None
    problem = ""

    def __init__(self, plan: Plan, shards: Shards) -> None:
        self.name = f"frozenbench-{plan.spec.fingerprint}"
        self.spec: ExtractionSpec = plan.spec
        self.source = plan.backbone.source
        self.batch_size = plan.batch_size
        folder = shards.folder.absolute() if isinstance(shards.folder, Path) else shards.folder
        self.shards = Shards(folder, shards.plan, shards.rows, shards.dim, shards.dtype)
        self.versions = library_versions(PACKAGES)
        images = [split.images for split in plan.dataset.splits.values() if isinstance(split.images, ImageFiles)]
        self.roots = {each.root for each in images}

    def setup(self, worker: Worker) -> None:
        """Look for what is needed; the network is loaded by the first task, beside the worker's conversation.

        Raises:
            ClusterError: packages of other versions, or folders that are not to be seen from here.
        """
        self.address, self.lock = worker.address, threading.Lock()
        self.threads = worker.state.nthreads
        os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(self.threads))  # which the engines go by
        try:
            self._look_around()
        except ClusterError as error:
            self.problem = str(error)  # of a worker that comes late, Dask only logs it
            raise

    def _look_around(self) -> None:
        check_same(self.address, self.versions, library_versions(PACKAGES))
        folder = self.shards.folder
        try:
            shared = (folder / PLAN).read_text("utf-8") == self.spec.to_json()
        except OSError:
            shared = False
        if not shared:
            raise ClusterError(
                f"the worker {self.address} does not see {folder}, where the shards are to be written; choose a folder "
                "that all machines have at the same path (--out), or a place that all reach (--shards URL)"
            )
        for root in self.roots:
            if not root.is_dir():
                raise ClusterError(
                    f"the worker {self.address} has no {root}, where the images are; give it the folder at the "
                    "same path"
                )

    def teardown(self, worker: Worker) -> None:
        """Let go of the network."""
        self.extractor = None

    def compute(self, name: str, part: Split, start: int) -> Done:
        """Write the shard of some rows; one range at a time, by all threads of this worker.

        Raises:
            FrozenbenchError: the network cannot be loaded, a vector is not finite, or the shard cannot be written.
        """
        if self.problem:
            raise ClusterError(self.problem)
        with self.lock:
            if self.extractor is None:
                self.extractor = self._loaded()
                next(vectors_of(self.extractor, name, part[: self.batch_size], self.batch_size))  # makes the engine
            began = time.perf_counter()
            block = np.concatenate(list(vectors_of(self.extractor, name, part, self.batch_size)))
            seconds = time.perf_counter() - began
        try:
            if not (self.shards.folder / PLAN).exists():  # a late task of an extraction that is over leaves nothing
                raise ClusterError(f"{self.shards.folder} is no longer there")
            shard = self.shards.write(name, start, block)
        except OSError as error:
            raise ClusterError(
                f"the worker {self.address} cannot write to {self.shards.folder}: {error}; give it the permission or "
                "the space; what is finished is kept, and the same command goes on"
            ) from error
        return Done(self.address, shard, seconds, device_of(self.spec.engine))

    def _loaded(self) -> Extractor:
        if self.spec.engine:
            import_keras()
            limit_threads(self.threads)
        extractor = recorded_extractor(recorded_backbone(self.spec, self.source), self.spec)
        if extractor.engine.version != self.spec.engine_version:
            raise ClusterError(
                f"the worker {self.address} has {self.spec.engine} {extractor.engine.version}, expected "
                f"{self.spec.engine_version}; install the same version there"
            )
        return extractor


def _extract(client: Client, plan: Plan, shards: Shards, note: Note) -> str:
    """Compute what the shards lack on a cluster; returns what its devices are."""
    plugin, devices = Extracting(plan, shards), set()
    splits = plan.dataset.splits

    def call(task: Range) -> tuple[Callable[..., Done], tuple[Any, ...]]:
        part = splits[task.split][task.start : task.stop]
        if not isinstance(part.images, ImageFiles):  # small images travel; large ones are read where they are needed
            part = Split(np.asarray(part.images), part.labels, part.ids)
        return compute_range, (plugin.name, task.split, part, task.start)

    gaps = [Range(split, start, stop) for split in splits for start, stop in shards.gaps(split)]
    row_bytes = max(4 * shards.dim, *(_sent_bytes(split) for split in splits.values()))
    ranges = HandOut(client, deque(gaps), call, plan.batch_size, max(1, TASK_BYTES // row_bytes))
    try:
        client.register_plugin(plugin)
        for found in ranges:
            if found is None:
                note(0)
                continue
            task, done = found
            _check_readable(splits[task.split], done)
            shards.held[task.split][task.start] = done.shard
            devices.add(done.device)
            note(done.shard.rows)
        try:
            client.run(check_frozen, plugin.name)
        except FrozenbenchError:
            shards.clear()
            raise
    finally:
        ranges.cancel()
        with suppress(Exception):  # it only tidies up, and the scheduler may be gone
            client.unregister_worker_plugin(plugin.name)
    return f"a cluster ({len(ranges.seen)}) of {', '.join(sorted(devices))}"


def _sent_bytes(split: Split) -> int:
    """Of an image: its pixels, where it is not read by the worker."""
    return 0 if isinstance(split.images, ImageFiles) else np.asarray(split.images[:1]).nbytes


def _check_readable(split: Split, done: Done) -> None:
    """Make sure that the files which a worker could not read are no better here: they would be left out."""
    if not isinstance(split.images, ImageFiles) or not done.shard.not_numbers:
        return
    rows = list(done.shard.not_numbers[:LOOKED_AT])
    _, problems = split.images[rows].read(8, "bicubic", "crop")
    for place, row in enumerate(rows):
        if place not in problems:
            path = split.images.root / os.fsdecode(split.images.paths[row])
            raise ClusterError(
                f"the worker {done.worker} cannot read {path}, which can be read here; give it the same folder of "
                "images at the same path"
            )


@dataclass
class HandOut:
    """Ranges of rows, handed out to a cluster's workers; iterating gives each with what its worker says of it.

    Attributes:
        client: of the cluster.
        todo: ranges that are not handed out yet, or not in one piece.
        call: the function and the arguments that do a range.
        batch: ranges are multiples of so many rows.
        most: rows of a task.
        running: the tasks handed out, and since when.
        seen: the workers that have finished something.
    """

    client: Client
    todo: deque[Range]
    call: Callable[[Range], tuple[Callable[..., Done], tuple[Any, ...]]]
    batch: int
    most: int
    running: dict[Future, tuple[Range, float]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._rate = 0.0  # rows a second, of a worker
        self._took: deque[float] = deque(maxlen=64)
        self._workers, self._looked, self._alone_since = 0, -WORKERS_SECONDS, time.monotonic()
        self._number, self._finished, self._deaths = 0, 0, 0  # the last: of tasks, since one was finished
        self._suspects: deque[Range] = deque()
        self._alone: Range | None = None
        self._total = sum(task.stop - task.start for task in self.todo)

    def __iter__(self) -> Iterator[tuple[Range, Done] | None]:
        """Yield each range when it is done, and None now and then while nothing happens.

        Raises:
            FrozenbenchError: of the task that failed; ClusterError if its workers died.
            SchedulerGoneError: the connection is lost.
        """
        while self.todo or self.running or self._suspects:
            self._look_around()
            suspected = bool(self._suspects) or any(task == self._alone for task, _ in self.running.values())
            careful = suspected and self._deaths > AHEAD * self._workers  # more than may be chance
            if self._suspects and not self.running and self._workers and (careful or not self.todo):
                self._alone = self._suspects.popleft()
                self._submit(self._alone)
            ahead = AHEAD if self._rate else 1  # the first ones are small: they are there to learn by
            for _ in range(0 if careful else ahead * self._workers - len(self.running)):
                if self.todo:
                    self._submit(self._next())
                elif late := self._late():
                    logger.info("%s take long; another worker begins with them as well", late)
                    self._submit(late, self._others(late))
                else:
                    break
            found = self._collected()
            yield from found
            if not found:
                yield None

    def cancel(self) -> None:
        """Take back what is handed out, as far as it has not begun."""
        for future in self.running:
            with suppress(Exception):  # the scheduler may be gone
                future.cancel()
        self.running.clear()

    def _look_around(self) -> None:
        """See how many workers there are, every few seconds."""
        now = time.monotonic()
        if now - self._looked < WORKERS_SECONDS:
            return
        try:
            self._workers = len(self.client.nthreads())
        except (OSError, TimeoutError) as error:
            raise SchedulerGoneError from error
        self._looked = now
        if self._workers:
            self._alone_since = now
        elif now - self._alone_since > BACK_SECONDS:
            raise ClusterError(
                f"the cluster has had no worker for {BACK_SECONDS} s; start some with dask worker; what is finished is "
                "kept, and the same command goes on"
            )

    def _next(self) -> Range:
        """The next rows to hand out: enough for `TASK_SECONDS`, fewer towards the end."""
        left = sum(task.stop - task.start for task in self.todo)
        fair = left / (AHEAD * max(1, self._workers))
        usual = max(TASK_SECONDS * self._rate, self._total / MOST_TASKS)
        rows = min(max(min(usual, fair), LEAST_SHARE * usual), self.most)
        rows = max(1, round(rows / self.batch)) * self.batch
        split, start, stop = self.todo.popleft()
        if start + rows < stop:
            self.todo.appendleft(Range(split, start + rows, stop))
        return Range(split, start, min(start + rows, stop))

    def _late(self) -> Range | None:
        """A range that takes much longer than others, and that one worker has only."""
        if not self._took:
            return None
        limit = LATE * max(statistics.median(self._took), LEAST_LATE_SECONDS)
        now, ranges = time.monotonic(), [task for task, _ in self.running.values()]
        for task, since in self.running.values():
            if now - since > limit and ranges.count(task) == 1:
                return task
        return None

    def _others(self, task: Range) -> list[str]:
        """The workers that do not have the range: Dask would give it to the same one again."""
        keys = {future.key for future, (same, _) in self.running.items() if same == task}
        return [worker for worker, held in self.client.processing().items() if keys.isdisjoint(held)]

    def _submit(self, task: Range, workers: list[str] | None = None) -> None:
        function, arguments = self.call(task)
        self._number += 1
        key = f"{task.split}-{task.start}-{task.stop}-{id(self)}-{self._number}"
        try:
            future = self.client.submit(
                function, *arguments, key=key, pure=False, workers=workers or None, allow_other_workers=bool(workers)
            )
        except (OSError, RuntimeError) as error:  # the latter: the client is closed
            raise SchedulerGoneError from error
        self.running[future] = task, time.monotonic()
        future.add_done_callback(self._ended.put)

    def _collected(self) -> list[tuple[Range, Done]]:
        """What has become of the tasks that have ended; a range that is lost is to be done again."""
        ended = []
        with suppress(queue.Empty):
            ended.append(self._ended.get(timeout=POLL_SECONDS))
            while True:  # many at once, where there are many workers: fetching results takes a conversation
                ended.append(self._ended.get_nowait())
        ended = [future for future in ended if future in self.running]  # no twin of one that was faster
        for future in ended:
            if future.status == "error":
                self._failed(self.running[future][0], future.exception())
        if self.client.status != "running":
            raise SchedulerGoneError
        finished = [future for future in ended if future.status == "finished"]
        try:
            results: list[Done] = self.client.gather(finished)
        except (OSError, CancelledError) as error:
            raise SchedulerGoneError from error
        found = []
        for future, done in zip(finished, results, strict=True):
            if future in self.running:
                found.append((self.running[future][0], done))
                self._take_note(future, done)
        for future in ended:
            if future in self.running:
                task, _ = self.running.pop(future)
                if future.status != "error":  # lost with its scheduler, or taken back by it
                    self.todo.appendleft(task)
        return found

    def _failed(self, task: Range, error: BaseException | None) -> None:
        """Raise an error, unless it is that workers died, and others do their work.

        Dask holds a death against every task that the worker had, so that it says little of any of them.
        Such a range is done again by itself: after all others, or at once where nothing else is done.
        """
        if not isinstance(error, KilledWorker) or not self._finished or task == self._alone:
            raise _as_error(task, error)
        logger.warning("workers that had the %s died; they are computed once more, by themselves", task)
        self._deaths += 1
        self._suspects.append(task)

    def _take_note(self, future: Future, done: Done) -> None:
        """Learn from a task that is done, and forget it and its twin."""
        task, since = self.running.pop(future)
        for twin in [other for other, (same, _) in self.running.items() if same == task]:
            del self.running[twin]
            twin.cancel()
        self._finished, self._deaths = self._finished + 1, 0
        self._took.append(time.monotonic() - since)
        rate = done.shard.rows / max(done.seconds, 1e-6)
        self._rate = (self._rate + rate) / 2 if self._rate else rate
        self.seen.add(done.worker)


def _as_error(task: Range, error: BaseException | None) -> FrozenbenchError:
    if isinstance(error, FrozenbenchError):
        return error
    kept = "what is finished is kept, and the same command goes on"
    if isinstance(error, (KilledWorker, MemoryError)):
        limit = getattr(getattr(error, "last_worker", None), "memory_limit", 0)
        allowed = f", of which they may take {limit / 1e9:.1f} GB" if limit else ""
        return ClusterError(
            f"the workers that computed the {task} died, most likely for want of memory{allowed}; give each more "
            f"(fewer workers on a machine, dask worker --memory-limit) or choose a smaller --batch-size; {kept}"
        )
    return ClusterError(f"the {task} could not be computed: {type(error).__name__}: {error}; {kept}")
