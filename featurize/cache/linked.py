"""Large caches: the features stay in their sealed shards, in a folder beside the file that links to them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from featurize.cache.shards import Shard, Shards
from featurize.core.errors import CacheError
from featurize.core.files import sync
from featurize.core.records import Count, Digest, Positive

LINKED_FROM = 1 << 34
"""Bytes of features from which on a cache links to its shards: a copy would double the space and take minutes."""
REPAIR = "frozenbench featurize ... --overwrite computes the missing rows again"


class Extent(NamedTuple):
    """A shard's part of the cache: its first row, a mask of its kept rows (None: all), and where they lie."""

    first: int
    kept: np.ndarray | None
    begin: int
    end: int


@dataclass(frozen=True)
class LinkedRecord:
    """What the header of a cache records about its shards.

    Attributes:
        folder: name of the folder that holds them, beside the cache.
        rows: number of rows in the shards of each split.
        shards: first row, number of rows and seal of each shard of each split.
        left_out: rows of the shards that are not rows of the cache.
    """

    folder: str
    rows: dict[str, Count]
    shards: dict[str, list[tuple[Count, Positive, Digest]]]
    left_out: dict[str, list[Count]]


@dataclass(frozen=True)
class LinkedRows:
    """The features of one split, in shards.

    Attributes:
        shards: the shards of all splits.
        split: of the features.
        skipped: int64 (m,), rows of the shards that are not rows of the cache.
    """

    shards: Shards
    split: str
    skipped: np.ndarray

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards.held[self.split].values()) - len(self.skipped)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows `start` to `stop` (exclusive), (m, d).

        Raises:
            CacheError: a shard is missing, damaged, or not the one that the cache was made with.
        """
        extents = [extent for extent in self._extents if extent.begin < stop and extent.end > start]
        self._check_sizes(extents)  # before making room for as many rows as a header claims
        rows = np.empty((max(stop - start, 0), self.shards.dim), self.shards.stored_dtype)
        for extent in extents:
            seal = self.shards.held[self.split][extent.first].seal
            shard, _ = self.shards.read_shard(self.split, extent.first, seal, REPAIR)
            if extent.kept is not None:
                shard = shard[extent.kept]
            low = max(start, extent.begin)
            high = min(stop, extent.end)
            rows[low - start : high - start] = shard[low - extent.begin : high - extent.begin]
        return rows

    def select(self, rows: np.ndarray) -> np.ndarray:
        """Some rows by their ascending numbers, int64 (m,): (m, d). Errors are those of `read`."""
        found = np.empty((len(rows), self.shards.dim), self.shards.stored_dtype)
        begins = [extent.begin for extent in self._extents]
        for number in np.unique(np.searchsorted(begins, rows, "right") - 1):
            extent = self._extents[number]
            low, high = np.searchsorted(rows, (extent.begin, extent.end))
            found[low:high] = self.read(extent.begin, extent.end)[rows[low:high] - extent.begin]
        return found

    def create(self, group: h5py.Group) -> None:
        """Create the virtual dataset `features` for other tools; they read a missing shard as NaN."""
        dtype = self.shards.stored_dtype
        layout = h5py.VirtualLayout((len(self), self.shards.dim), dtype)
        for extent in self._extents:
            count = self.shards.held[self.split][extent.first].rows
            path = self.shards.path(self.split, extent.first)
            source = h5py.VirtualSource(f"{path.parent.name}/{path.name}", "features", (count, self.shards.dim), dtype)
            if extent.kept is None:
                layout[extent.begin : extent.end] = source
                continue
            # HDF5 maps slices only: every run of kept rows is a mapping of its own.
            begin = extent.begin
            kept = np.flatnonzero(extent.kept)
            for run in np.split(kept, np.flatnonzero(np.diff(kept) != 1) + 1):
                if len(run):
                    layout[begin : begin + len(run)] = source[run[0] : run[-1] + 1]
                    begin += len(run)
        group.create_virtual_dataset("features", layout, np.nan)

    def _check_sizes(self, extents: list[Extent]) -> None:
        for extent in extents:
            path = self.shards.path(self.split, extent.first)
            if not path.is_file():
                raise CacheError(f"{path} is missing: it belongs to a cache; keep the two together, or {REPAIR}")
            if path.stat().st_size < (extent.end - extent.begin) * self.shards.row_bytes:
                raise CacheError(f"{path} is damaged: it is too short; {REPAIR}")

    @cached_property
    def _extents(self) -> list[Extent]:
        """The extent of each shard, in order; sorted once, as there may be 200,000."""
        extents = []
        begin = 0
        skipped = np.sort(self.skipped)
        for first, shard in sorted(self.shards.held[self.split].items()):
            low, high = np.searchsorted(skipped, (first, first + shard.rows))
            kept = None
            if high > low:
                kept = np.ones(shard.rows, bool)
                kept[skipped[low:high] - first] = False
            end = begin + shard.rows - int(high - low)
            extents.append(Extent(first, kept, begin, end))
            begin = end
        return extents


def linked_folder(path: Path, fingerprint: str) -> Path:
    """The folder of the shards that the cache at `path` links to; another specification has another folder."""
    return path.with_name(path.name + _folder_suffix(fingerprint))


def link(shards: Shards, folder: Path) -> Shards:
    """The same shards in another folder of the same disk, by hard links where the file system has them.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    linked = replace(shards, folder=folder)
    for split, held in shards.held.items():
        for start in held:
            old = shards.path(split, start)
            new = linked.path(split, start)
            new.unlink(missing_ok=True)
            try:
                os.link(old, new)
            except OSError:  # a file system without hard links
                old.rename(new)
    sync(folder)
    return linked


def linked_to_json(parts: Mapping[str, LinkedRows]) -> dict[str, Any]:
    """What the header of a cache records about its shards."""
    shards = next(iter(parts.values())).shards
    entries = {}
    for split, held in shards.held.items():
        entries[split] = [[start, shard.rows, shard.seal] for start, shard in sorted(held.items())]
    return {
        "folder": shards.folder.name,
        "rows": shards.rows,
        "shards": entries,
        "left_out": {split: rows.skipped.tolist() for split, rows in parts.items()},
    }


def linked_rows(facts: LinkedRecord, path: Path, fingerprint: str, dim: int, dtype: str) -> dict[str, LinkedRows]:
    """The shards that the header of the cache at `path` records.

    Raises:
        ValueError: the shards are in another cache's folder, or do not follow one another.
    """
    if not facts.folder.endswith(_folder_suffix(fingerprint)):
        raise ValueError(f"its shards lie in {facts.folder!r}, which is not its own folder")
    if not set(facts.rows) == set(facts.shards) == set(facts.left_out):
        raise ValueError("it records the shards of other splits than its own")
    shards = Shards(path.with_name(facts.folder), fingerprint, facts.rows, dim, dtype)
    parts = {}
    for split, count in facts.rows.items():
        shards.held[split] = {start: Shard(length, seal, ()) for start, length, seal in facts.shards[split]}
        skipped = np.array(facts.left_out[split], np.int64)
        unique = len(np.unique(skipped)) == len(skipped)
        inside = all(row < count for row in facts.left_out[split])
        if shards.missing(split) or not unique or not inside:
            raise ValueError(f"the shards of {split} are not its {count:,} rows")
        parts[split] = LinkedRows(shards, split, skipped)
    return parts


def _folder_suffix(fingerprint: str) -> str:
    return f".shards-{fingerprint[:12]}"
