"""Large caches: the features stay in their sealed shards, in a folder beside the file that links to them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featurize.cache.shards import Shard, Shards
from featurize.core.errors import CacheError
from featurize.core.files import sync

LINKED_FROM = 1 << 34
"""Bytes of features from which on a cache links to its shards: a copy would take as much space and minutes more."""
MEND = "python -m featurize ... --overwrite computes again what is missing"


@dataclass(frozen=True)
class LinkedRows:
    """The features of one split, in shards.

    Attributes:
        shards: those of all splits; `held` says which there are.
        split: of the features.
        left_out: int64 (m,), rows of the shards that are not rows of the cache.
    """

    shards: Shards
    split: str
    left_out: np.ndarray

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards.held[self.split].values()) - len(self.left_out)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows from `start` to `stop` (exclusive), (m, d).

        Raises:
            CacheError: a shard is damaged, or not the one that the cache was made with.
        """
        places = [place for place in self._places if place[2] < stop and place[3] > start]
        width = self.shards.dim * np.dtype(self.shards.dtype).itemsize
        for first, _, begin, end in places:  # before memory is taken for what a header claims
            path = self.shards.path(self.split, first)
            if not path.is_file():
                raise CacheError(f"{path} is missing: it belongs to a cache; keep the two together, or {MEND}")
            if path.stat().st_size < (end - begin) * width:
                raise CacheError(f"{path} is damaged: it is too short; {MEND}")
        rows = np.empty((max(stop - start, 0), self.shards.dim), np.dtype(self.shards.dtype).newbyteorder("<"))
        for first, kept, begin, end in places:
            there, _ = self.shards.read_shard(self.split, first, self.shards.held[self.split][first].seal, MEND)
            if kept is not None:
                there = there[kept]
            low, high = max(start, begin), min(stop, end)
            rows[low - start : high - start] = there[low - begin : high - begin]
        return rows

    def create(self, group: h5py.Group) -> None:
        """Make them the dataset `features` of an HDF5 file, for other tools; a shard that is missing reads as NaN."""
        dtype = np.dtype(self.shards.dtype).newbyteorder("<")
        layout = h5py.VirtualLayout((len(self), self.shards.dim), dtype)
        for first, kept, begin, end in self._places:
            count = self.shards.held[self.split][first].rows
            path = self.shards.path(self.split, first)
            source = h5py.VirtualSource(f"{path.parent.name}/{path.name}", "features", (count, self.shards.dim), dtype)
            if kept is None:
                layout[begin:end] = source
                continue
            there = np.flatnonzero(kept)
            for run in np.split(there, np.flatnonzero(np.diff(there) != 1) + 1):
                if len(run):
                    layout[begin : begin + len(run)] = source[run[0] : run[-1] + 1]
                    begin += len(run)
        group.create_virtual_dataset("features", layout, np.nan)

    @cached_property
    def _places(self) -> list[tuple[int, np.ndarray | None, int, int]]:
        """Of each shard its first row, which of its rows are rows of the cache (None: all), and where: from, to."""
        places, begin, left_out = [], 0, np.sort(self.left_out)
        for first, shard in sorted(self.shards.held[self.split].items()):
            missing = left_out[slice(*np.searchsorted(left_out, (first, first + shard.rows)))] - first
            kept = None
            if len(missing):
                kept = np.ones(shard.rows, bool)
                kept[missing] = False
            end = begin + shard.rows - len(missing)
            places.append((first, kept, begin, end))
            begin = end
        return places


def linked_folder(path: Path, fingerprint: str) -> Path:
    """Where the shards of the cache at `path` lie. Those of another specification lie elsewhere."""
    return path.with_name(f"{path.name}.shards-{fingerprint[:12]}")


def link(shards: Shards, folder: Path) -> Shards:
    """The same shards in another folder of the same disk; no byte of them is copied where the disk knows hard links.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    linked = replace(shards, folder=folder)
    for split, held in shards.held.items():
        for start in held:
            old, new = shards.path(split, start), linked.path(split, start)
            new.unlink(missing_ok=True)
            try:
                os.link(old, new)
            except OSError:  # it knows none
                old.rename(new)
    sync(folder)
    return linked


def as_json(parts: Mapping[str, LinkedRows]) -> dict[str, Any]:
    """What the header of a cache says of its shards."""
    shards = next(iter(parts.values())).shards
    return {
        "folder": shards.folder.name,
        "rows": shards.rows,
        "shards": {
            split: [[start, shard.rows, shard.seal] for start, shard in sorted(held.items())]
            for split, held in shards.held.items()
        },
        "left_out": {split: rows.left_out.tolist() for split, rows in parts.items()},
    }


def from_json(facts: Mapping[str, Any], path: Path, fingerprint: str, dim: int, dtype: str) -> dict[str, LinkedRows]:
    """The inverse of `as_json`, for the cache at `path`.

    Raises:
        ValueError: the shards are not the cache's own, or do not follow one another.
    """
    name = str(facts["folder"])
    if not name.endswith(f".shards-{fingerprint[:12]}"):
        raise ValueError(f"its shards lie in {name!r}, which is not its own folder")
    rows = {str(split): int(count) for split, count in facts["rows"].items()}
    shards = Shards(path.with_name(name), fingerprint, rows, dim, dtype)
    found = {}
    for split, count in rows.items():
        shards.held[split] = {int(start): Shard(int(n), str(seal), ()) for start, n, seal in facts["shards"][split]}
        left_out = np.array(facts["left_out"][split], np.int64)
        if (
            shards.gaps(split)
            or len(np.unique(left_out)) < len(left_out)
            or not all(0 <= row < count for row in left_out)
        ):
            raise ValueError(f"the shards of {split} are not its {count:,} rows")
        found[split] = LinkedRows(shards, split, left_out)
    return found
