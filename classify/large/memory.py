"""How much memory there is, how much a fit takes, and blocks that stay in memory between passes."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from classify.large.blocks import Block

COPIES_IN_MEMORY = 6
"""The memory that a fit on the whole matrix takes, in float32 matrices.

Measured: 4.6, for the vectors, their signed root, and their differences from the mean in float64, which
count twice. The rest is a reserve for everything else in the process.
"""
SHARE_FOR_BLOCKS = 0.5  # of a process's memory, for blocks that are used in every pass
CONTROL_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

_blocks: dict[tuple[str, str, int], np.ndarray] = {}
_lock = threading.Lock()


def memory_limit() -> int:
    """Bytes that this process may use: the machine's, or fewer in a container or as a worker of a Dask cluster."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTROL_GROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such control, or no limit: `max`
            limits.append(int(path.read_text()))
    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # this process is not a worker
            limits.append(get_worker().memory_manager.memory_limit or limits[0])
    return min(limits)


def worker_memory(dask_worker: Any) -> int:
    """Bytes that a worker may use; for `Client.run`, which passes the worker."""
    return min(memory_limit(), dask_worker.memory_manager.memory_limit or sys.maxsize)


def memory_needed(rows: int, dim: int) -> int:
    """Bytes that a fit on vectors (rows, dim) in memory takes."""
    return COPIES_IN_MEMORY * 4 * rows * dim


def remembered_block(fit: str, block: Block, compute: Callable[[Block], np.ndarray]) -> np.ndarray:
    """The result of `compute(block)`, which stays in memory until `forget_blocks` if there is room.

    Args:
        fit: identifies the fit that the block belongs to.
        block: of rows.
        compute: called if the result is not in memory.
    """
    key = (fit, block.split, block.start)
    with _lock:
        if key in _blocks:
            return _blocks[key]
    computed = compute(block)
    with _lock:
        # Every pass needs the blocks in the same order, so the least recently used block is the one needed next, and
        # evicting it would leave no hits at all. Only blocks of other fits make room.
        room = int(SHARE_FOR_BLOCKS * memory_limit()) - computed.nbytes
        room -= sum(other.nbytes for other in _blocks.values())
        for other in [other for other in _blocks if other[0] != fit]:
            if room < 0:
                room += _blocks.pop(other).nbytes
        if room >= 0:
            _blocks[key] = computed
    return computed


def forget_blocks(fit: str) -> None:
    """Free the blocks that this process remembers for a fit."""
    with _lock:
        for key in [key for key in _blocks if key[0] == fit]:
            del _blocks[key]
