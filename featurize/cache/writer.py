"""Writing a cache: rows go into sealed shards, and finished shards become one sealed file.

A kill at any moment leaves the old cache or the new one, and the finished shards. The order of the last
steps makes sure of that: the file is written beside the shards, sealed, flushed and renamed; only then are
the shards removed.
"""

import glob
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from featurize.cache import linked
from featurize.cache.existing import parts_folder, read_plan
from featurize.cache.features import CacheInfo, Columns
from featurize.cache.format import LIBVER, PatientFile, block_size, create_contiguous, write_seal
from featurize.cache.linked import LinkedRows
from featurize.cache.reader import opened, read_info
from featurize.cache.shards import LOCK, PLAN, RowAppender, Shards, discard
from featurize.cache.spec import SCHEMA_VERSION, ExtractionSpec, explain_difference
from featurize.core.environment import library_versions
from featurize.core.errors import CacheError, CacheMismatchError
from featurize.core.files import locked, write_whole, written_whole

logger = logging.getLogger("frozenbench")
VERSIONS_OF = ("frozenbench", "tensorflow", "keras", "numba", "numpy", "h5py", "openvino", "pillow")


@dataclass(frozen=True)
class SplitRecords:
    """What stands beside the features of a split, each (n,), and the digest of its images, labels and ids.

    `paths` holds the names of image files, as bytes; None for images from other sources. `groups` and `folds`,
    int64 or None, are those of `images.Split`.
    """

    labels: np.ndarray
    ids: np.ndarray
    digest: str
    paths: np.ndarray | None = None
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> "SplitRecords":
        """Some of the rows, by a mask, bool (n,)."""

        def chosen(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return SplitRecords(
            self.labels[rows],
            self.ids[rows],
            self.digest,
            chosen(self.paths),
            chosen(self.groups),
            chosen(self.folds),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays as they are stored, by name."""
        arrays = {"labels": self.labels.astype("<i8"), "ids": self.ids.astype("<i8")}
        for name, values in (("groups", self.groups), ("folds", self.folds)):
            if values is not None:
                arrays[name] = values.astype("<i8")
        if self.paths is not None:
            arrays["paths"] = self.paths.astype(h5py.string_dtype("utf-8", self.path_bytes))
        return arrays

    @property
    def path_bytes(self) -> int:
        """The length of every stored path; 0 without paths."""
        if self.paths is None:
            return 0
        return max(1, int(np.char.str_len(self.paths).max(initial=0)))


@dataclass(frozen=True)
class CacheContent:
    """Everything in a cache but its features.

    Attributes:
        dataset: name of the data set.
        class_names: K names.
        weights: where the backbone's weights come from.
        layers: which columns belong to which layer.
        splits: what stands beside the features of each split.
    """

    dataset: str
    class_names: Sequence[str]
    weights: str
    layers: Sequence[Columns]
    splits: Mapping[str, SplitRecords]


class CacheWriter:
    """An unfinished cache, made by `open_writer`.

    Attributes:
        path: of the finished cache.
        spec: what determines the values.
        content: everything but the features.
        shards: the finished rows.
    """

    def __init__(self, path: Path, spec: ExtractionSpec, content: CacheContent, shards: Shards) -> None:
        self.path = path
        self.spec = spec
        self.content = content
        self.shards = shards

    @property
    def total_rows(self) -> int:
        """The number of rows of all splits."""
        return sum(self.shards.rows.values())

    @property
    def finished_rows(self) -> int:
        """The number of rows that shards hold."""
        return sum(self.shards.done.values())

    def missing(self, split: str) -> list[tuple[int, int]]:
        """The row ranges that are still missing: start, stop (exclusive)."""
        return self.shards.missing(split)

    def skipped(self, split: str) -> np.ndarray:
        """The rows whose images were skipped, int64 (m,)."""
        return self.shards.skipped(split)

    def append(self, split: str, start: int) -> RowAppender:
        """A context manager that takes the rows from `start` on, block by block."""
        return RowAppender(self.shards, split, start)

    def discard(self) -> None:
        """Remove the finished rows."""
        self.shards.clear()

    def commit(self, skipped: Mapping[str, Mapping[int, str]] | None = None, **facts: Any) -> CacheInfo:
        """Make the cache from its shards, seal it, name it, and remove the shards.

        A cache of `linked.LINKED_FROM` bytes or more links to its shards, in a folder beside it.

        Args:
            skipped: the rows of each split whose images were skipped, and why.
            facts: `seconds`, `images_per_second`, `device`, `engine_choice`, `certificate` and `source`.

        Returns:
            The description of the finished cache.

        Raises:
            CacheError: rows are missing, or a shard is damaged.
            OSError: the disk is full or the folder cannot be written to.
        """
        skipped = skipped or {}
        for split, rows in self.shards.rows.items():
            if self.shards.done[split] != rows:
                raise CacheError(f"{self.path}: rows of {split} are missing; this is an error in the program")
        keep = {
            split: ~np.isin(np.arange(rows), list(skipped.get(split, ()))) for split, rows in self.shards.rows.items()
        }
        records = {split: self.content.splits[split].select(rows) for split, rows in keep.items()}
        folder = linked.linked_folder(self.path, self.spec.fingerprint)
        links: dict[str, LinkedRows] = {}
        if _is_linked(self.path, self.shards):
            moved = linked.link(self.shards, folder)
            links = {split: LinkedRows(moved, split, np.flatnonzero(~rows)) for split, rows in keep.items()}
        with written_whole(self.path, parts_folder(self.path)) as temporary:
            header = self._header(records, skipped, links, facts)
            block = block_size(header)
            header["arrays"] = self._write_structure(temporary, block, header, records, links)
            with temporary.open("r+b") as file:
                for split, offsets in header["arrays"].items():
                    if not links:
                        file.seek(offsets["features"])
                        self._copy_rows(split, keep[split], file)
                    for name, values in records[split].arrays().items():
                        file.seek(offsets[name])
                        file.write(values.tobytes())
                write_seal(file, block, header)
        self.shards.clear()
        self._remove_old_shards(folder if links else None)
        return read_info(self.path)

    def _header(
        self,
        records: Mapping[str, SplitRecords],
        skipped: Mapping[str, Mapping[int, str]],
        links: Mapping[str, LinkedRows],
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The header without the offsets of the arrays."""
        files: dict[str, list[list[str]]] = {}
        for split, content in self.content.splits.items():
            files[split] = []
            if content.paths is not None:  # only image files are skipped
                for row, why in skipped.get(split, {}).items():
                    files[split].append([os.fsdecode(content.paths[row]), why])
        lengths = {split: rows.path_bytes for split, rows in records.items() if rows.path_bytes}
        if lengths:
            facts = {**facts, "path_bytes": lengths}
        return {
            "spec": json.loads(self.spec.to_json()),
            "fingerprint": self.spec.fingerprint,
            "dataset": self.content.dataset,
            "weights": self.content.weights,
            "class_names": list(self.content.class_names),
            "layers": [asdict(columns) for columns in self.content.layers],
            "rows": {split: len(rows) for split, rows in records.items()},
            "skipped": files,
            "digests": {split: rows.digest for split, rows in records.items()},
            "versions": library_versions(VERSIONS_OF),
            "linked": linked.linked_to_json(links) if links else None,
            **facts,
        }

    def _write_structure(
        self,
        temporary: Path,
        block: int,
        header: Mapping[str, Any],
        records: Mapping[str, SplitRecords],
        links: Mapping[str, LinkedRows],
    ) -> dict[str, dict[str, int]]:
        """Write the HDF5 structure with room for the arrays; returns each array's offset in the file."""
        offsets: dict[str, dict[str, int]] = {}
        with PatientFile(temporary, "r+") as raw:
            with h5py.File(raw, "w", libver=LIBVER, userblock_size=block) as file:
                file.attrs["schema_version"] = SCHEMA_VERSION
                for key, value in header.items():
                    if key != "linked":  # it may exceed an attribute, and the datasets themselves say the same
                        file.attrs[key] = value if isinstance(value, (str, int, float)) else json.dumps(value)
                for split, rows in records.items():
                    group = file.create_group(split)
                    group.attrs["digest"] = rows.digest
                    offsets[split] = {}
                    if links:
                        links[split].create(group)
                    else:
                        shape = (len(rows), self.shards.dim)
                        dtype = self.shards.stored_dtype
                        offsets[split]["features"] = create_contiguous(group, "features", shape, dtype)
                    for name, values in rows.arrays().items():
                        offsets[split][name] = create_contiguous(group, name, values.shape, values.dtype)
            raw.raise_error()
        return offsets

    def _copy_rows(self, split: str, keep: np.ndarray, file: BinaryIO) -> None:
        """Write the kept rows of a split, bool (n,), into the file."""
        first = 0
        for rows in self.shards.read(split):
            kept = keep[first : first + len(rows)]
            chosen = rows if kept.all() else rows[kept]
            file.write(np.ascontiguousarray(chosen).data.cast("B"))
            first += len(rows)

    def _remove_old_shards(self, current: Path | None) -> None:
        """Remove the linked shards of earlier caches at this path."""
        for folder in self.path.parent.glob(f"{glob.escape(self.path.name)}.shards-*"):
            if folder != current:
                shutil.rmtree(folder)


@contextmanager
def open_writer(
    path: Path,
    spec: ExtractionSpec,
    content: CacheContent,
    *,
    overwrite: bool = False,
    shards_at: Path | None = None,
) -> Iterator[CacheWriter]:
    """Open a cache for writing and resume its unfinished extraction, if there is one.

    One process at a time holds the writer; others wait. However the block ends, finished shards stay on
    disk until `CacheWriter.commit` has made the cache from them.

    Args:
        path: of the cache.
        spec: what determines the values.
        content: everything but the features.
        overwrite: discard an unfinished extraction with another specification.
        shards_at: the folder for shards, which may be remote; beside the cache by default.

    Raises:
        CacheError: the disk is full or the folder cannot be written to.
        CacheMismatchError: the unfinished extraction has another specification.
    """
    folder = parts_folder(path)
    remote = None if shards_at is None else shards_at / folder.name
    shards_folder = remote or folder
    rows = {split: len(records) for split, records in content.splits.items()}
    shards = Shards(shards_folder, spec.fingerprint, rows, content.layers[-1].stop, spec.dtype)
    try:
        with locked(folder / LOCK):
            try:
                _take_over(folder, spec, overwrite)
                if overwrite:
                    _recover_linked_shards(path, spec, shards)
                if remote:
                    remote.mkdir(parents=True, exist_ok=True)
                    _take_over(remote, spec, overwrite)
                shards.resume()
                _check_space(path, shards)
                yield CacheWriter(path, spec, content, shards)
            finally:
                if not any(shards_folder.glob("*.h5")):  # nothing to resume
                    discard(folder)
                    if remote:
                        discard(remote)
    except OSError as error:
        if not folder.exists():  # nothing was finished
            raise CacheError(
                f"{path} could not be written: {error}; choose a folder with the permission and the space (--out)"
            ) from error
        raise CacheError(
            f"{path} could not be written: {error}; finished rows stay in {shards_folder}, and the same command "
            "resumes from there"
        ) from error


def _take_over(folder: Path, spec: ExtractionSpec, overwrite: bool) -> None:
    """Make the folder one of this specification: keep its shards if they match, or begin anew."""
    recorded = read_plan(folder)
    if recorded == spec:
        return
    if recorded is not None and not overwrite:
        raise CacheMismatchError(explain_difference(f"the unfinished extraction in {folder}", recorded, spec))
    for leftover in folder.glob("*.h5"):
        leftover.unlink()
    write_whole(folder / PLAN, spec.to_json().encode())


def _recover_linked_shards(path: Path, spec: ExtractionSpec, shards: Shards) -> None:
    """Move the shards of a finished, linked cache back, so that only damaged ones are computed again."""
    if shards.folder != parts_folder(path) or not path.is_file():
        return
    try:
        with opened(path) as (header, _):
            pass
    except CacheError:
        return
    if not header.linked or header.info.spec != spec:
        return
    old = next(iter(header.linked.values())).shards
    present = {
        split: {start: shard for start, shard in held.items() if old.path(split, start).exists()}
        for split, held in old.held.items()
    }
    linked.link(replace(old, held=present), shards.folder)


def _is_linked(path: Path, shards: Shards) -> bool:
    """Whether the cache will link to its shards: if they are large and lie beside it."""
    size = sum(shards.rows.values()) * shards.row_bytes
    return size >= linked.LINKED_FROM and shards.folder == parts_folder(path)


def _check_space(path: Path, shards: Shards) -> None:
    """Raise CacheError if the disk cannot take the missing shards and the cache made from them."""
    total = sum(shards.rows.values())
    missing = total - sum(shards.done.values())
    needed = total * 16 + (1 << 20)  # labels, ids and the header
    if shards.folder == parts_folder(path):
        needed += missing * shards.row_bytes
    if not _is_linked(path, shards):
        needed += total * shards.row_bytes
    free = shutil.disk_usage(parts_folder(path)).free
    if free < needed:
        raise CacheError(
            f"{path} needs {needed / 1e6:,.0f} MB, its disk has {free / 1e6:,.0f} MB free; free some space, or choose "
            "another disk (--out), a shorter vector (--pool avg) or --dtype float16"
        )
