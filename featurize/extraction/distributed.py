"""Stage 1 on a Dask cluster: row ranges -> workers -> sealed shards, until none is missing."""

import functools
import logging
import os
import time
from contextlib import suppress
from typing import Any

import numpy as np
from distributed import Client, Future

from featurize.cache import CacheWriter
from featurize.core.cluster import connected
from featurize.core.environment import library_versions
from featurize.core.errors import ClusterError, FrozenbenchError
from featurize.extraction.loop import Compute, Note
from featurize.extraction.plan import Plan
from featurize.extraction.ranges import Range, RangeQueue, SchedulerGoneError
from featurize.extraction.worker import PACKAGES, Done, ExtractionPlugin, check_frozen, compute_range
from featurize.images import PixelArray, Split

logger = logging.getLogger("frozenbench")
TASK_BYTES = 1 << 26  # of pixels sent, or of vectors in a worker's memory
RETRY_SECONDS = 0.25
BACK_SECONDS = 300  # for a lost scheduler to come back
REREAD_FILES = 16  # skipped files of a task that are read here as well


def on_cluster(address: str) -> Compute:
    """A `Compute` that computes the missing rows on a cluster.

    Args:
        address: as for `cluster.connected`.
    """

    def compute(plan: Plan, writer: CacheWriter, note: Note) -> str:
        versions = functools.partial(library_versions, PACKAGES)
        lost_since = None
        while True:
            try:
                with connected(address, versions) as client:
                    lost_since = None
                    return _extract(client, plan, writer, note)
            except SchedulerGoneError:
                logger.warning("the scheduler at %s is gone; the extraction resumes when it is back", address)
                lost_since = time.monotonic()
                before = writer.finished_rows
                note(writer.shards.resume() - before)  # shards whose reports were lost
            except ClusterError:
                if lost_since is None or time.monotonic() - lost_since > BACK_SECONDS:
                    raise
                time.sleep(RETRY_SECONDS)
                note(0)

    return compute


def _extract(client: Client, plan: Plan, writer: CacheWriter, note: Note) -> str:
    """Compute the missing rows on the workers of a client; returns a description of their devices."""
    shards = writer.shards
    splits = plan.dataset.splits
    plugin = ExtractionPlugin(plan, shards)
    missing = [Range(split, start, stop) for split in splits for start, stop in writer.missing(split)]
    row_bytes = max(4 * shards.dim, *(_sent_bytes(split) for split in splits.values()))

    def submit(task: Range, **options: Any) -> Future:
        part = splits[task.split][task.start : task.stop]
        if part.images.root is None:  # the pixels travel with the task; files are read by the worker
            part = Split(PixelArray(np.asarray(part.images)), part.labels, part.ids)
        return client.submit(compute_range, plugin.name, task.split, part, task.start, **options)

    ranges = RangeQueue(client, missing, submit, plan.batch_size, max(1, TASK_BYTES // row_bytes))
    devices = set()
    try:
        client.register_plugin(plugin)
        for finished in ranges:
            if finished is None:
                note(0)
                continue
            task, done = finished
            _check_skipped(splits[task.split], done)
            shards.held[task.split][task.start] = done.shard
            devices.add(done.device)
            note(done.shard.rows)
        try:
            client.run(check_frozen, plugin.name)
        except FrozenbenchError:
            writer.discard()
            raise
    finally:
        ranges.cancel()
        with suppress(Exception):  # only tidies up, and the scheduler may be gone
            client.unregister_worker_plugin(plugin.name)
    return f"a cluster ({len(ranges.workers_seen)}) of {', '.join(sorted(devices))}"


def _sent_bytes(split: Split) -> int:
    """Bytes sent to a worker for one image: its pixels, unless the worker reads its file."""
    return 0 if split.images.root is not None else np.asarray(split.images[:1]).nbytes


def _check_skipped(split: Split, done: Done) -> None:
    """Raise ClusterError if a file that a worker skipped can be read here: the cache would lack it for no reason."""
    rows = list(done.shard.skipped[:REREAD_FILES])
    if not rows or split.images.root is None or split.images.paths is None:
        return
    _, problems = split.images[rows].read(8, "bicubic", "crop")
    for index, row in enumerate(rows):
        if index not in problems:
            path = split.images.root / os.fsdecode(split.images.paths[row])
            raise ClusterError(
                f"the worker {done.worker} cannot read {path}, which can be read here; give it the same folder of "
                "images at the same path"
            )
