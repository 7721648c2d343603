"""What stands beside the features of a cache: labels, ids and the header.

A header is parsed with care: a sealed file may still be wrong, or made to mislead.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from annotated_types import MinLen

from featurize.cache.features import CacheInfo, Certificate, Columns, Source
from featurize.cache.linked import LinkedRecord, LinkedRows, linked_rows, linked_to_json
from featurize.cache.spec import ExtractionSpec
from featurize.core.environment import library_versions
from featurize.core.records import Amount, Count, Digest, record

VERSIONS_OF = ("frozenbench", "tensorflow", "keras", "numba", "numpy", "h5py", "openvino", "pillow")
OPTIONAL = {"groups": 8, "folds": 8, "origins": 8, "sha256": 32}
"""Arrays that a cache may have beside the labels, and the bytes of a row."""
MALFORMED = (ValueError, RecursionError)
"""What a text raises that is not the header of a cache."""
SLOWEST = 1e-9  # images/s; below it the seconds of an image are no number


@dataclass(frozen=True)
class SplitRecords:
    """What stands beside the features of a split, each (n,), and the digest of its images, labels and ids.

    `paths` holds the names of image files, as bytes; None for images from other sources. `groups` and `folds`,
    int64 or None, are those of `images.Split`. `sha256`, uint8 (n, 32), has the digest of each image. `origins`, int64,
    is 0 for a vector that was computed for this cache, else the number, from 1, of its cache in `CacheInfo.taken`.
    """

    labels: np.ndarray
    ids: np.ndarray
    digest: str
    paths: np.ndarray | None = None
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None
    sha256: np.ndarray | None = None
    origins: np.ndarray | None = None

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
            chosen(self.sha256),
            chosen(self.origins),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays as they are stored, by name."""
        arrays = {"labels": self.labels.astype("<i8"), "ids": self.ids.astype("<i8")}
        for name, values in (("groups", self.groups), ("folds", self.folds), ("origins", self.origins)):
            if values is not None:
                arrays[name] = values.astype("<i8")
        if self.sha256 is not None:
            arrays["sha256"] = self.sha256
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

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of each split, those of skipped images included."""
        return {split: len(records) for split, records in self.splits.items()}

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.layers[-1].stop


@dataclass(frozen=True)
class Taken:
    """What a cache records about another one from which vectors were copied."""

    file: str
    sha256: Digest
    rows: dict[str, Count]
    versions: dict[str, str]
    device: str


@dataclass(frozen=True)
class HeaderRecord:
    """The JSON object; docs/file-format.md describes its fields."""

    spec: ExtractionSpec
    fingerprint: Digest
    dataset: str
    weights: str
    class_names: Annotated[tuple[str, ...], MinLen(1)]
    layers: Annotated[tuple[Columns, ...], MinLen(1)]
    rows: dict[str, Count]
    digests: dict[str, str]
    arrays: dict[str, dict[str, Count]]
    skipped: dict[str, list[tuple[str, str]]]
    source: dict[str, Any]
    versions: dict[str, str]
    device: str
    seconds: Amount
    images_per_second: Amount
    engine_choice: str = ""
    path_bytes: dict[str, Count] = field(default_factory=dict)
    linked: LinkedRecord | None = None
    certificate: Certificate | None = None
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True)
class Header:
    """The description of a cache, the offset of each array, and, if it links to shards, its features.

    `path_bytes` is the length of every stored path of a split; 0 without paths, or in a cache of version 0.1.
    """

    info: CacheInfo
    arrays: dict[str, dict[str, int]]
    linked: dict[str, LinkedRows]
    path_bytes: dict[str, int]


def make_header(
    spec: ExtractionSpec,
    content: CacheContent,
    records: Mapping[str, SplitRecords],
    skipped: Mapping[str, Mapping[int, str]],
    links: Mapping[str, LinkedRows],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The header without the offsets of the arrays.

    Args:
        spec: of the cache.
        content: everything but the features, with the skipped images.
        records: what is written of each split.
        skipped: the rows of each split whose images were skipped, and why.
        links: the features of a large cache.
        facts: other fields.
    """
    files: dict[str, list[list[str]]] = {}
    for split, whole in content.splits.items():
        files[split] = []
        if whole.paths is not None:  # only image files are skipped
            for row, why in skipped.get(split, {}).items():
                files[split].append([os.fsdecode(whole.paths[row]), why])
    lengths = {split: rows.path_bytes for split, rows in records.items() if rows.path_bytes}
    if lengths:
        facts = {**facts, "path_bytes": lengths}
    return {
        "spec": json.loads(spec.to_json()),
        "fingerprint": spec.fingerprint,
        "dataset": content.dataset,
        "weights": content.weights,
        "class_names": list(content.class_names),
        "layers": [asdict(columns) for columns in content.layers],
        "rows": {split: len(rows) for split, rows in records.items()},
        "skipped": files,
        "digests": {split: rows.digest for split, rows in records.items()},
        "versions": library_versions(VERSIONS_OF),
        "linked": linked_to_json(links) if links else None,
        **facts,
    }


def parse_header(path: Path, header: Any, size: int) -> Header:
    """Parse the JSON object of a header.

    Args:
        path: of the cache.
        header: what `format.read_seal` returned.
        size: of the file, in bytes; every array must lie inside.

    Raises:
        ValueError: it is not the header of a cache.
    """
    found = record(HeaderRecord, header)
    source = record(Source, found.source)
    spec, rows = found.spec, found.rows
    if spec.fingerprint != found.fingerprint:
        raise ValueError("its fingerprint does not match its specification")
    if spec.dtype not in ("float32", "float16"):
        raise ValueError(f"its type is {spec.dtype}, expected float32 or float16")
    if not rows or not set(rows) == set(found.digests) == set(found.arrays):
        raise ValueError("its fields rows, digests and arrays are of different splits")
    if len(set(found.class_names)) < len(found.class_names):
        raise ValueError("two of its classes have the same name")
    if 0 < found.images_per_second < SLOWEST:
        raise ValueError(f"its field images_per_second is {found.images_per_second}, expected 0 or {SLOWEST} and more")
    _check_layers(found.layers, spec)
    dim = found.layers[-1].stop
    linked = {}
    if found.linked:
        linked = linked_rows(found.linked, path, spec.fingerprint, dim, spec.dtype)
        if {split: len(each) for split, each in linked.items()} != rows:
            raise ValueError("its shards do not hold its rows")
    path_bytes = {split: found.path_bytes.get(split, 0) for split in rows}
    _check_offsets(found.arrays, rows, path_bytes, _row_bytes(dim, spec.dtype, linked=bool(linked)), size)
    if source.folds and not all("folds" in offsets for offsets in found.arrays.values()):
        raise ValueError("a split has no folds")
    info = CacheInfo(
        path=path,
        spec=spec,
        dataset=found.dataset,
        weights=found.weights,
        class_names=found.class_names,
        layers=found.layers,
        rows=rows,
        digests=found.digests,
        skipped={split: found.skipped.get(split, []) for split in rows},
        shards=next(iter(linked.values())).shards.folder if linked else None,
        source=found.source,
        seconds=found.seconds,
        images_per_second=found.images_per_second,
        versions=found.versions,
        device=found.device,
        engine_choice=found.engine_choice,
        certificate=found.certificate,
        taken=tuple(asdict(entry) for entry in found.taken),
    )
    return Header(info, found.arrays, linked, path_bytes)


def _check_layers(layers: tuple[Columns, ...], spec: ExtractionSpec) -> None:
    """Raise ValueError unless the layers' columns follow one another and are those of the specification."""
    if tuple(columns.name for columns in layers) != spec.layers:
        raise ValueError("its layers are not those of its specification")
    end = 0
    for columns in layers:
        if len(columns.shape) not in (1, 3):
            raise ValueError("a layer's shape is neither (rows, columns, channels) nor (length,)")
        if columns.start != end:
            raise ValueError("its layers' columns do not follow one another")
        end = columns.stop


def _row_bytes(dim: int, dtype: str, *, linked: bool) -> dict[str, int]:
    """Bytes of one row of each array that every cache has in the file."""
    widths = {"labels": 8, "ids": 8}
    return widths if linked else {"features": dim * np.dtype(dtype).itemsize, **widths}


def _check_offsets(
    arrays: dict[str, dict[str, int]],
    rows: dict[str, int],
    path_bytes: dict[str, int],
    row_bytes: dict[str, int],
    size: int,
) -> None:
    """Raise ValueError if an array reaches outside of the file of `size` bytes."""
    if row_bytes.get("features", 0) > size:  # also for a split without rows: readers make room for a vector
        raise ValueError("one vector alone is larger than the file")
    for split, offsets in arrays.items():
        optional = {name: width for name, width in OPTIONAL.items() if name in offsets}
        if path_bytes[split]:
            optional["paths"] = path_bytes[split]
        for name, width in {**row_bytes, **optional}.items():
            if name not in offsets:
                raise ValueError(f"it does not say where /{split}/{name} lies")
            if offsets[name] + rows[split] * width > size:
                raise ValueError(f"/{split}/{name} lies outside the file")
