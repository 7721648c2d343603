"""What stands beside the features of a cache: labels, ids and the header.

A header is parsed with care: a sealed file may still be wrong, or made to mislead.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featurize.cache.features import CacheInfo, Certificate, Columns
from featurize.cache.linked import LinkedRows, linked_from_json, linked_to_json
from featurize.cache.spec import ExtractionSpec
from featurize.core.environment import library_versions

VERSIONS_OF = ("frozenbench", "tensorflow", "keras", "numba", "numpy", "h5py", "openvino", "pillow")
OPTIONAL = {"groups": 8, "folds": 8, "origins": 8, "sha256": 32}
"""Arrays that a cache may have beside the labels, and the bytes of a row."""
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
"""What `parse_header` raises if it is not the header of a cache."""


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
        MALFORMED: it is not the header of a cache.
    """
    spec = ExtractionSpec.from_json(json.dumps(header["spec"]))
    if spec.fingerprint != header["fingerprint"]:
        raise ValueError("its fingerprint does not match its specification")
    if spec.dtype not in ("float32", "float16"):
        raise ValueError(f"its type is {spec.dtype}, expected float32 or float16")
    layers = _parse_layers(header["layers"], spec)
    arrays = {
        str(split): {str(name): int(offset) for name, offset in offsets.items()}
        for split, offsets in header["arrays"].items()
    }
    rows = {split: int(header["rows"][split]) for split in arrays}
    dim = layers[-1].stop
    linked = {}
    if facts := header.get("linked"):
        linked = linked_from_json(facts, path, spec.fingerprint, dim, spec.dtype)
        if {split: len(found) for split, found in linked.items()} != rows:
            raise ValueError("its shards do not hold its rows")
    path_bytes = {split: int(header.get("path_bytes", {}).get(split, 0)) for split in arrays}
    _check_offsets(arrays, rows, path_bytes, _row_bytes(dim, spec.dtype, linked=bool(linked)), size)
    if "folds" in header["source"] and not all("folds" in offsets for offsets in arrays.values()):
        raise ValueError("a split has no folds")
    info = CacheInfo(
        path=path,
        spec=spec,
        dataset=str(header["dataset"]),
        weights=str(header["weights"]),
        class_names=tuple(map(str, header["class_names"])),
        layers=layers,
        rows=rows,
        digests={split: str(header["digests"][split]) for split in arrays},
        skipped={
            split: [(str(file), str(reason)) for file, reason in header["skipped"].get(split, [])] for split in arrays
        },
        shards=next(iter(linked.values())).shards.folder if linked else None,
        source=dict(header["source"]),
        seconds=float(header["seconds"]),
        images_per_second=float(header["images_per_second"]),
        versions={str(name): str(version) for name, version in header["versions"].items()},
        device=str(header["device"]),
        engine_choice=str(header.get("engine_choice", "")),
        certificate=Certificate(**header["certificate"]) if header.get("certificate") else None,
        taken=tuple(_parse_taken(entry) for entry in header.get("taken", [])),
    )
    return Header(info, arrays, linked, path_bytes)


def _parse_taken(entry: Any) -> dict[str, Any]:
    """The facts about a cache from which vectors were copied."""
    return {
        "file": str(entry["file"]),
        "sha256": str(entry["sha256"]),
        "rows": {str(split): int(rows) for split, rows in entry["rows"].items()},
        "versions": {str(name): str(version) for name, version in entry["versions"].items()},
        "device": str(entry["device"]),
    }


def _parse_layers(entries: Any, spec: ExtractionSpec) -> tuple[Columns, ...]:
    """The columns of each layer; they follow one another and are those of the specification."""
    layers = tuple(
        Columns(str(entry["name"]), int(entry["start"]), tuple(map(int, entry["shape"]))) for entry in entries
    )
    if tuple(columns.name for columns in layers) != spec.layers:
        raise ValueError("its layers are not those of its specification")
    end = 0
    for columns in layers:
        if len(columns.shape) not in (1, 3) or min(columns.shape) < 1:
            raise ValueError("a layer's shape is neither (rows, columns, channels) nor (length,)")
        if columns.start != end:
            raise ValueError("its layers' columns do not follow one another")
        end = columns.stop
    return layers


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
            end = offsets[name] + rows[split] * width
            if rows[split] < 0 or offsets[name] < 0 or width < 0 or end > size:
                raise ValueError(f"/{split}/{name} lies outside the file")
