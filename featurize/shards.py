"""Unfinished extractions: sealed shards of finished rows, until the cache is assembled.

The folder `<cache>.parts/` holds `lock`, `plan.json` (what is being made) and, for every few seconds
of work, `<split>-<first row>.rows`: a line with the SHA-256 of the shard's place and content, then
the rows, C order, little-endian. Each file is written whole or not at all.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurize.errors import CacheError
from featurize.files import written_whole

logger = logging.getLogger("frozenbench")
LOCK_POLL_SECONDS = 0.2
SHARD_SECONDS = 2.0
SHARD_BYTES = 1 << 24
PLAN = "plan.json"
SEAL_BYTES = 65  # 64 hexadecimal digits and a line feed


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; wait while another process has it.

    The lock is flock's: it ends with the process that holds it, however that ends. HDF5's own lock
    is not used, because the environment can switch it off.
    """
    waiting = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    logger.info("another process is at work in %s; waiting for it to end", folder)
                    waiting = True
                time.sleep(LOCK_POLL_SECONDS)
                continue
            # The process before us may have finished and removed the folder, this lock with it.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                yield
                return
        finally:
            os.close(handle)


def discard(folder: Path) -> None:
    """Remove an unfinished extraction whose lock is held, the plan last, so that the rest never lacks it."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == "lock", path.name == PLAN)):
        path.unlink()
    with suppress(OSError):  # a process that waited has begun anew in it
        folder.rmdir()


@dataclass
class Shards:
    """The rows of one unfinished extraction that are safe on the disk.

    Attributes:
        folder: where they lie.
        plan: a text that stands for what is being made; rows of another plan are never taken.
        rows: rows of each split when the extraction is finished.
        dim: numbers in a row.
        dtype: their type.
        done: rows of each split that are there, from the first on.
    """

    folder: Path
    plan: str
    rows: dict[str, int]
    dim: int
    dtype: str
    done: dict[str, int] = field(default_factory=dict)

    def resume(self) -> int:
        """Find what is there; returns the number of rows. Damaged shards are removed.

        Only what is whole counts: a split's rows up to the first gap.
        """
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        for split in self.rows:
            self.done[split] = 0
            for path in sorted(self.folder.glob(f"{split}-*.rows")):
                try:
                    if self._start(path) == self.done[split]:
                        self.done[split] += len(self._read(path, split))
                        continue
                except CacheError as error:
                    logger.warning("%s; its rows are computed again", error)
                path.unlink()
        return sum(self.done.values())

    def clear(self) -> None:
        """Remove every row."""
        for path in self.folder.glob("*.rows"):
            path.unlink()

    def write(self, split: str, block: np.ndarray) -> None:
        """Add the next rows (m, dim) of a split."""
        start = self.done[split]
        content = np.ascontiguousarray(block, np.dtype(self.dtype).newbyteorder("<")).data.cast("B")
        with written_whole(self.folder / f"{split}-{start:012d}.rows") as temporary, temporary.open("wb") as file:
            file.write(self._seal(split, start, content))
            file.write(content)
        self.done[split] += len(block)

    def read(self, split: str) -> Iterator[np.ndarray]:
        """The rows of a split (m, dim) in order, a shard at a time.

        Raises:
            CacheError: a shard is damaged; it has been removed.
        """
        for path in sorted(self.folder.glob(f"{split}-*.rows")):
            try:
                yield self._read(path, split)
            except CacheError:
                path.unlink(missing_ok=True)
                raise

    def not_numbers(self, split: str) -> np.ndarray:
        """The rows of a split that begin with NaN, int64 (m,): of images that could not be read.

        Raises:
            CacheError: a shard is damaged; it has been removed.
        """
        return np.flatnonzero(np.concatenate([np.isnan(rows[:, 0]) for rows in self.read(split)]))

    def _read(self, path: Path, split: str) -> np.ndarray:
        content = path.read_bytes()
        seal, rows = content[:SEAL_BYTES], memoryview(content)[SEAL_BYTES:]
        width = self.dim * np.dtype(self.dtype).itemsize
        if not rows or len(rows) % width or seal != self._seal(split, self._start(path), rows):
            raise CacheError(f"{path} is damaged: its content does not belong to its seal; run the same command again")
        return np.frombuffer(rows, np.dtype(self.dtype).newbyteorder("<")).reshape(-1, self.dim)

    def _seal(self, split: str, start: int, content: memoryview) -> bytes:
        digest = hashlib.sha256(json.dumps([self.plan, split, start]).encode())
        digest.update(content)
        return digest.hexdigest().encode() + b"\n"

    def _start(self, path: Path) -> int:
        try:
            return int(path.stem.rpartition("-")[2])
        except ValueError as error:
            raise CacheError(f"{path} is no shard") from error
