"""Unfinished extractions: sealed shards of finished rows, until the cache is assembled.

The folder `<cache>.parts/` holds `lock`, `plan.json` (what is being made) and, for every few seconds
of work, `<split>-<first row>.h5`: a line with the SHA-256 of the shard's place and of everything
behind the line, a line with the offset and the number of its rows, and, from byte 512 on, HDF5 with
the rows as `/features`. Each file is written whole or not at all. A large cache links to its shards
instead of copying them.
"""

import fcntl
import functools
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from featurize.cache.hdf5 import LIBVER, room_for
from featurize.core.errors import CacheError
from featurize.core.files import write_whole

logger = logging.getLogger("frozenbench")
LOCK_POLL_SECONDS = 0.2
SHARD_SECONDS = 2.0
SHARD_BYTES = 1 << 24
PLAN = "plan.json"
SEAL_BYTES = 65  # 64 hexadecimal digits and a line feed
BLOCK_BYTES = 512  # HDF5's smallest user block


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


class Shard(NamedTuple):
    """A shard that is there: how many rows it has, the SHA-256 in front of it, and which rows begin with NaN.

    These are rows of the split, of images that could not be read.
    """

    rows: int
    seal: str
    not_numbers: tuple[int, ...]


@dataclass
class Shards:
    """The rows of one extraction that are safe on the disk, in shards of any size, in any order.

    Attributes:
        folder: where they lie; maybe one that fsspec reaches, as a `UPath` of universal_pathlib.
        plan: a text that stands for what is being made; rows of another plan are never taken.
        rows: rows of each split when the extraction is finished.
        dim: numbers in a row.
        dtype: their type.
        held: of each split the shards, by their first row.
    """

    folder: Path
    plan: str
    rows: dict[str, int]
    dim: int
    dtype: str
    held: dict[str, dict[int, Shard]] = field(default_factory=dict)

    @property
    def done(self) -> dict[str, int]:
        """How many rows of each split are there."""
        return {split: sum(shard.rows for shard in shards.values()) for split, shards in self.held.items()}

    def gaps(self, split: str) -> list[tuple[int, int]]:
        """The rows of a split that are not there: from, to (exclusive)."""
        found, end = [], 0
        for start, shard in sorted(self.held[split].items()):
            if start > end:
                found.append((end, start))
            end = start + shard.rows
        return found if end == self.rows[split] else [*found, (end, self.rows[split])]

    def resume(self) -> int:
        """Find what is there; returns the number of rows. Damaged shards are removed, and those that overlap others."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        for split in self.rows:
            self.held[split], end = {}, 0
            for path in sorted(self.folder.glob(f"{split}-*.h5")):
                try:
                    start = self._start(path)
                    if start >= end:
                        rows, seal = self.read_shard(split, start)
                        self.held[split][start] = Shard(len(rows), seal, _not_numbers(rows, start))
                        end = start + len(rows)
                        continue
                except CacheError as error:
                    logger.warning("%s; its rows are computed again", error)
                path.unlink()
        return sum(self.done.values())

    def clear(self) -> None:
        """Remove every row."""
        for path in self.folder.glob("*.h5"):
            path.unlink()

    def path(self, split: str, start: int) -> Path:
        """The shard whose first row is `start`."""
        return self.folder / f"{split}-{start:012d}.h5"

    def add(self, split: str, start: int, block: np.ndarray) -> None:
        """Put the rows (m, dim) from `start` on into a shard, which then is one of `held`."""
        self.held[split][start] = self.write(split, start, block)

    def write(self, split: str, start: int, block: np.ndarray) -> Shard:
        """Put the rows (m, dim) from `start` on into a shard; whoever has `held` is to take it up there."""
        rows = np.ascontiguousarray(block, np.dtype(self.dtype).newbyteorder("<"))
        before, behind = _structure(rows.shape, rows.dtype)
        place = f"{BLOCK_BYTES + len(before)} {len(rows)}\n".encode().ljust(BLOCK_BYTES - SEAL_BYTES, b"\n")
        content = (place, before, rows.data.cast("B"), behind)
        seal = self._seal(split, start, *content)
        write_whole(self.path(split, start), seal.encode() + b"\n", *content)
        return Shard(len(rows), seal, _not_numbers(rows, start))

    def read(self, split: str) -> Iterator[np.ndarray]:
        """The rows of a split (m, dim) in order, a shard at a time.

        Raises:
            CacheError: a shard is damaged; it has been removed.
        """
        for start, shard in sorted(self.held[split].items()):
            try:
                yield self.read_shard(split, start, shard.seal)[0]
            except CacheError:
                self.path(split, start).unlink(missing_ok=True)
                raise

    def not_numbers(self, split: str) -> np.ndarray:
        """The rows of a split that begin with NaN, int64 (m,): of images that could not be read."""
        return np.array([row for _, shard in sorted(self.held[split].items()) for row in shard.not_numbers], np.int64)

    def read_shard(
        self, split: str, start: int, seal: str | None = None, remedy: str = "run the same command again"
    ) -> tuple[np.ndarray, str]:
        """The rows (m, dim) of one shard, and its seal.

        Args:
            split: of the rows.
            start: the first one.
            seal: the one that it must have, if that is known.
            remedy: what an error tells to do.

        Raises:
            CacheError: it is damaged or not there.
        """
        path = self.path(split, start)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise CacheError(f"{path} is not there; {remedy}") from error
        behind, width = memoryview(content)[SEAL_BYTES:], self.dim * np.dtype(self.dtype).itemsize
        found = self._seal(split, start, behind)
        if content[:SEAL_BYTES] != found.encode() + b"\n" or seal not in (None, found):
            raise CacheError(f"{path} is damaged: its content does not belong to its seal; {remedy}")
        words = bytes(behind[: BLOCK_BYTES - SEAL_BYTES]).split()
        offset, count = (int(word) for word in words) if len(words) == 2 and b"".join(words).isdigit() else (0, 0)
        if not count or not BLOCK_BYTES <= offset <= len(content) - count * width or start + count > self.rows[split]:
            raise CacheError(f"{path} is sealed, but no shard of this extraction; {remedy}")
        rows = np.frombuffer(content, np.dtype(self.dtype).newbyteorder("<"), count * self.dim, offset)
        return rows.reshape(count, self.dim), found

    def _seal(self, split: str, start: int, *content: bytes | memoryview) -> str:
        digest = hashlib.sha256(json.dumps([self.plan, split, start]).encode())
        for part in content:
            digest.update(part)
        return digest.hexdigest()

    def _start(self, path: Path) -> int:
        try:
            start = int(path.stem.rpartition("-")[2])
        except ValueError:
            start = -1
        if start < 0 or path.name != self.path(path.stem.rpartition("-")[0], start).name:
            raise CacheError(f"{path} is no shard")
        return start


def _not_numbers(rows: np.ndarray, start: int) -> tuple[int, ...]:
    return tuple((start + np.flatnonzero(np.isnan(rows[:, 0]))).tolist())


@functools.lru_cache(4)
def _structure(shape: tuple[int, int], dtype: np.dtype) -> tuple[bytes, bytes]:
    """What HDF5 has before and behind the rows of a file that holds them as `/features`; without the user block."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=LIBVER, userblock_size=BLOCK_BYTES) as opened:
        offset = room_for(opened, "features", shape, dtype)
    content, size = file.getbuffer(), shape[0] * shape[1] * dtype.itemsize
    return bytes(content[BLOCK_BYTES:offset]), bytes(content[offset + size :])
