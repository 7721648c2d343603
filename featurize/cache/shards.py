"""Shards: the finished rows of an unfinished extraction, each file sealed.

The folder `<cache>.parts/` holds `lock`, `plan.json` (the specification) and, for every few seconds of work,
`<split>-<first row>.h5`. Such a shard has a line with its seal, a line with the offset and the number of its
rows, and, from byte 512 on, HDF5 content with the rows as `/features`. The seal is the SHA-256 of the plan, the
split, the first row and everything behind the seal, so a shard is never taken for another one. Each file is
written whole or not at all. A large cache links to its shards instead of copying them.
"""

import functools
import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import h5py
import numpy as np

from featurize.cache.format import LIBVER, SEAL_BYTES, create_contiguous
from featurize.core.errors import CacheError
from featurize.core.files import write_whole

logger = logging.getLogger("frozenbench")
PLAN = "plan.json"
LOCK = "lock"
SHARD_SECONDS = 2.0  # what a kill may cost
SHARD_BYTES = 1 << 24  # a shard is written earlier when its rows take this much memory
BLOCK_BYTES = 512  # HDF5's smallest user block
RUN_AGAIN = "run the same command again"


class Shard(NamedTuple):
    """A shard on disk: its number of rows, its seal, and the rows of the split whose images were skipped.

    The vector of a skipped image is NaN.
    """

    rows: int
    seal: str
    skipped: tuple[int, ...]


@dataclass
class Shards:
    """The shards of one extraction, of any size and in any order.

    Attributes:
        folder: of the shards; a `UPath` of universal_pathlib for a store that fsspec reaches.
        plan: fingerprint of the extraction; shards of another plan are never taken.
        rows: number of rows of each split in the finished extraction.
        dim: numbers in a row.
        dtype: of the numbers.
        held: the shards of each split by their first row.
    """

    folder: Path
    plan: str
    rows: dict[str, int]
    dim: int
    dtype: str
    held: dict[str, dict[int, Shard]] = field(default_factory=dict)

    @property
    def done(self) -> dict[str, int]:
        """The number of finished rows of each split."""
        return {split: sum(shard.rows for shard in shards.values()) for split, shards in self.held.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * np.dtype(self.dtype).itemsize

    @property
    def stored_dtype(self) -> np.dtype:
        """The little-endian dtype in the files."""
        return np.dtype(self.dtype).newbyteorder("<")

    def missing(self, split: str) -> list[tuple[int, int]]:
        """The row ranges of a split that no shard holds: start, stop (exclusive)."""
        ranges = []
        end = 0
        for start, shard in sorted(self.held[split].items()):
            if start > end:
                ranges.append((end, start))
            end = start + shard.rows
        if end < self.rows[split]:
            ranges.append((end, self.rows[split]))
        return ranges

    def resume(self) -> int:
        """Find the shards on disk, and remove damaged ones and those that overlap others.

        Returns:
            The number of finished rows.
        """
        for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        for split in self.rows:
            self.held[split] = {}
            end = 0
            for path in sorted(self.folder.glob(f"{split}-*.h5")):
                try:
                    start = self._first_row(path)
                    if start >= end:
                        rows, seal = self.read_shard(split, start)
                        self.held[split][start] = Shard(len(rows), seal, _skipped(rows, start))
                        end = start + len(rows)
                        continue
                except CacheError as error:
                    logger.warning("%s; its rows are computed again", error)
                path.unlink()
        return sum(self.done.values())

    def clear(self) -> None:
        """Remove every shard."""
        for path in self.folder.glob("*.h5"):
            path.unlink()

    def path(self, split: str, start: int) -> Path:
        """The path of the shard whose first row is `start`."""
        return self.folder / f"{split}-{start:012d}.h5"

    def add(self, split: str, start: int, block: np.ndarray) -> None:
        """Write the rows (m, dim) from `start` on as a shard, and hold it."""
        self.held[split][start] = self.write(split, start, block)

    def write(self, split: str, start: int, block: np.ndarray) -> Shard:
        """Write the rows (m, dim) from `start` on as a shard; the caller adds it to `held`."""
        rows = np.ascontiguousarray(block, self.stored_dtype)
        before, behind = _structure(rows.shape, rows.dtype)
        offset_line = f"{BLOCK_BYTES + len(before)} {len(rows)}\n".encode()
        content = (
            offset_line.ljust(BLOCK_BYTES - SEAL_BYTES, b"\n"),
            before,
            rows.data.cast("B"),
            behind,
        )
        seal = self._seal(split, start, *content)
        write_whole(self.path(split, start), seal.encode() + b"\n", *content)
        return Shard(len(rows), seal, _skipped(rows, start))

    def read(self, split: str) -> Iterator[np.ndarray]:
        """Yield the rows of a split in order, (m, dim), one shard at a time.

        Raises:
            CacheError: a shard is damaged; it has been removed.
        """
        for start, shard in sorted(self.held[split].items()):
            try:
                yield self.read_shard(split, start, shard.seal)[0]
            except CacheError:
                self.path(split, start).unlink(missing_ok=True)
                raise

    def skipped(self, split: str) -> np.ndarray:
        """The rows of a split whose images were skipped, int64 (m,)."""
        rows = [row for _, shard in sorted(self.held[split].items()) for row in shard.skipped]
        return np.array(rows, np.int64)

    def read_shard(
        self, split: str, start: int, seal: str | None = None, remedy: str = RUN_AGAIN
    ) -> tuple[np.ndarray, str]:
        """Read one shard.

        Args:
            split: of the rows.
            start: the first row.
            seal: the seal that the shard must have, if it is known.
            remedy: the end of an error message.

        Returns:
            The rows (m, dim), and the shard's seal.

        Raises:
            CacheError: the shard is missing or damaged.
        """
        path = self.path(split, start)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise CacheError(f"{path} is missing; {remedy}") from error
        behind_seal = memoryview(content)[SEAL_BYTES:]
        found = self._seal(split, start, behind_seal)
        if content[:SEAL_BYTES] != found.encode() + b"\n" or seal not in (None, found):
            raise CacheError(f"{path} is damaged: its content does not match its seal; {remedy}")
        offset, count = _parse_offset(bytes(behind_seal[: BLOCK_BYTES - SEAL_BYTES]))
        last_offset = len(content) - count * self.row_bytes
        if not count or not BLOCK_BYTES <= offset <= last_offset or start + count > self.rows[split]:
            raise CacheError(f"{path} is sealed, but is not a shard of this extraction; {remedy}")
        rows = np.frombuffer(content, self.stored_dtype, count * self.dim, offset)
        return rows.reshape(count, self.dim), found

    def _seal(self, split: str, start: int, *content: bytes | memoryview) -> str:
        digest = hashlib.sha256(json.dumps([self.plan, split, start]).encode())
        for part in content:
            digest.update(part)
        return digest.hexdigest()

    def _first_row(self, path: Path) -> int:
        """The first row of a shard, from its file name."""
        split, _, digits = path.stem.rpartition("-")
        try:
            start = int(digits)
        except ValueError:
            start = -1
        if start < 0 or path.name != self.path(split, start).name:
            raise CacheError(f"{path} is not a shard")
        return start


class RowAppender:
    """Adds consecutive rows to shards; a background thread writes them every few seconds.

    Use it as a context manager: leaving the block writes the rest, also after an error, so that finished
    rows are never lost. At most one write is under way. Its error is raised by the next write or at the end.

    Args:
        shards: that take the rows.
        split: of the rows.
        start: the first row.
    """

    def __init__(self, shards: Shards, split: str, start: int) -> None:
        self.shards = shards
        self.split = split
        self.start = start
        self._waiting: list[np.ndarray] = []
        self._since = time.monotonic()
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._write()
            self._wait()
        finally:
            self._pool.shutdown()

    def add(self, block: np.ndarray) -> None:
        """Add the next rows, (m, dim)."""
        self._waiting.append(block)
        waiting_bytes = sum(each.nbytes for each in self._waiting)
        if time.monotonic() - self._since >= SHARD_SECONDS or waiting_bytes >= SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        """Hand the waiting rows to the background thread, as soon as it is free."""
        self._wait()
        if self._waiting:
            block = np.concatenate(self._waiting)
            self._writing = self._pool.submit(self.shards.add, self.split, self.start, block)
            self._waiting.clear()
            self.start += len(block)
        self._since = time.monotonic()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()


def discard(folder: Path) -> None:
    """Remove an unfinished extraction whose lock this process holds.

    The plan goes after the shards and the lock last: a kill in between leaves no shard without its plan.
    """
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == LOCK, path.name == PLAN)):
        path.unlink()
    with suppress(OSError):  # a process that waited for the lock may have begun anew in the folder
        folder.rmdir()


def _parse_offset(line: bytes) -> tuple[int, int]:
    """The offset and the number of the rows; zeros for a line that is neither."""
    words = line.split()
    if len(words) != 2 or not b"".join(words).isdigit():
        return 0, 0
    return int(words[0]), int(words[1])


def _skipped(rows: np.ndarray, start: int) -> tuple[int, ...]:
    """The rows of the split that are NaN: those of skipped images."""
    return tuple((start + np.flatnonzero(np.isnan(rows[:, 0]))).tolist())


@functools.lru_cache(4)
def _structure(shape: tuple[int, int], dtype: np.dtype) -> tuple[bytes, bytes]:
    """The HDF5 bytes before and behind the rows of a file that holds them as `/features`, without the user block."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=LIBVER, userblock_size=BLOCK_BYTES) as opened:
        offset = create_contiguous(opened, "features", shape, dtype)
    content = file.getbuffer()
    end = offset + shape[0] * shape[1] * dtype.itemsize
    return bytes(content[BLOCK_BYTES:offset]), bytes(content[end:])
