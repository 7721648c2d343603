"""Rows of a feature cache that exceed memory, as blocks that are read one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from featurize.cache import CacheInfo, Columns, FeatureRows, Features, read_labels, read_rows
from featurize.core.errors import CacheError

BLOCK_BYTES = 1 << 25
SHARES = 64  # tasks in a pass: enough for many workers, with few sums to send back


@dataclass(frozen=True)
class Block:
    """Rows of a split that are read at once: the rows from `start` to `stop`, or the `chosen` ones among them.

    Attributes:
        path: of the cache.
        fingerprint: of the cache.
        split: the split's name.
        layers: the layers whose columns are read; empty for all.
        start: the first row.
        stop: the row after the last one.
        chosen: offsets from `start`, ascending; None for all rows.
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
            CacheError: the cache cannot be used, or was replaced by another one.
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
    """`Features` of which only one block at a time is in memory.

    Attributes:
        blocks: in the order of the rows.
        y: int64 (n,), 0..K-1.
        ids: int64 (n,).
        class_names: K names.
        layers: which columns belong to which layer.
        mirror: as in `Features`.
        image: as in `Features`.
        groups: as in `Features`.
    """

    blocks: tuple[Block, ...]
    y: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]
    layers: tuple[Columns, ...]
    mirror: np.ndarray | None = None
    image: tuple[int, ...] | None = None
    groups: np.ndarray | None = None

    @classmethod
    def of(cls, info: CacheInfo, split: str, layers: tuple[str, ...] = (), rows: np.ndarray | None = None) -> Self:
        """The rows of a split, or some of them, (n,), ascending.

        Raises:
            CacheError: the cache cannot be used.
            UsageError: it has no such split or layer.
        """
        columns = info.columns(layers)
        labels, ids, groups = read_labels(info.path, split)
        path = info.path.absolute()  # workers may have another working directory
        height = max(1, BLOCK_BYTES // (4 * info.dim))
        blocks = []
        for start in range(0, len(labels), height):
            stop = min(start + height, len(labels))
            chosen = None
            if rows is not None:
                first, last = np.searchsorted(rows, [start, stop])
                chosen = (rows[first:last] - start).astype(np.int32)
            block = Block(path, info.spec.fingerprint, split, layers, start, stop, chosen)
            if len(block):
                blocks.append(block)
        if rows is not None:
            labels, ids = labels[rows], ids[rows]
            groups = None if groups is None else groups[rows]
        return cls(tuple(blocks), labels, ids, info.class_names, columns, info.mirror(layers), info.image, groups)

    def followed_by(self, other: "FeatureBlocks") -> "FeatureBlocks":
        """These rows and then those of another split of the same cache."""
        groups = None
        if self.groups is not None and other.groups is not None:
            groups = np.concatenate([self.groups, other.groups])
        return replace(
            self,
            blocks=self.blocks + other.blocks,
            y=np.concatenate([self.y, other.y]),
            ids=np.concatenate([self.ids, other.ids]),
            groups=groups,
        )

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.layers[-1].stop

    def matrices(self) -> Iterator[np.ndarray]:
        """Yield the vectors, float32 (b, d), a block of rows at a time, in order."""
        for block in self.blocks:
            yield block.read()

    def select(self, rows: np.ndarray) -> Self:
        """Some of the rows, by their numbers (m,), ascending."""
        blocks = []
        start = 0
        for block in self.blocks:
            first, last = np.searchsorted(rows, [start, start + len(block)])
            chosen = (rows[first:last] - start).astype(np.int32)
            if len(chosen):
                blocks.append(replace(block, chosen=chosen if block.chosen is None else block.chosen[chosen]))
            start += len(block)
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, blocks=tuple(blocks), y=self.y[rows], ids=self.ids[rows], groups=groups)

    def load(self) -> Features:
        """All rows in memory, for when few rows of many are chosen."""
        x = np.empty((len(self.y), self.dim), np.float32)
        start = 0
        for matrix in self.matrices():
            x[start : start + len(matrix)] = matrix
            start += len(matrix)
        fingerprint = self.blocks[0].fingerprint if self.blocks else ""
        return Features(
            x, self.y, self.ids, self.class_names, fingerprint, self.layers, self.mirror, self.image, self.groups
        )


def blocks_of(features: FeatureRows) -> tuple[Block, ...]:
    """The blocks of features in blocks; none for features in memory."""
    return features.blocks if isinstance(features, FeatureBlocks) else ()


Share = list[tuple[Any, ...]]
"""The blocks of one task, each in a tuple with its slice of every array that goes with the rows."""


def shares(features: FeatureRows, *arrays: np.ndarray, most: int | None = None) -> list[Share]:
    """The rows of features in blocks, divided into tasks.

    The division does not depend on the number of workers, so that sums come out the same on any number.

    Args:
        features: in blocks.
        arrays: arrays (n, ...) that go with the rows.
        most: the largest number of tasks; None for `SHARES`.
    """
    pieces = []
    start = 0
    for block in blocks_of(features):
        stop = start + len(block)
        pieces.append((block, *(array[start:stop] for array in arrays)))
        start = stop
    bounds = np.array_split(np.arange(len(pieces)), min(most or SHARES, len(pieces)))
    return [pieces[numbers[0] : numbers[-1] + 1] for numbers in bounds]
