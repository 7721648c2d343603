"""The header of a cache, parsed and checked: a sealed file may still be wrong, or made to mislead."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurize.cache.features import CacheInfo, Certificate, Columns
from featurize.cache.linked import LinkedRows, linked_from_json
from featurize.cache.spec import ExtractionSpec

OPTIONAL = {"groups", "folds"}
"""Arrays of integers that a cache may have beside the labels."""


@dataclass(frozen=True)
class Header:
    """The description of a cache, the offset of each array, and, if it links to shards, its features.

    `path_bytes` is the length of every stored path of a split; 0 without paths, or in a cache of version 0.1.
    """

    info: CacheInfo
    arrays: dict[str, dict[str, int]]
    linked: dict[str, LinkedRows]
    path_bytes: dict[str, int]


def parse_header(path: Path, header: Any, size: int) -> Header:
    """Parse the JSON object of a header.

    Args:
        path: of the cache.
        header: what `format.read_seal` returned.
        size: of the file, in bytes; every array must lie inside.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, IndexError: it is not the header of a cache.
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
    )
    return Header(info, arrays, linked, path_bytes)


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
        optional = dict.fromkeys(OPTIONAL.intersection(offsets), 8)
        if path_bytes[split]:
            optional["paths"] = path_bytes[split]
        for name, width in {**row_bytes, **optional}.items():
            end = offsets[name] + rows[split] * width
            if rows[split] < 0 or offsets[name] < 0 or width < 0 or end > size:
                raise ValueError(f"/{split}/{name} lies outside the file")
