"""A feature cache of vectors that were made elsewhere."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurize.cache import (
    IMPORTED,
    CacheContent,
    CacheInfo,
    Columns,
    ExtractionSpec,
    SplitRecords,
    features_folder,
    finished_cache,
    open_writer,
)
from featurize.core.errors import DataError, UsageError, suggestion
from featurize.formats import archives, columnar
from featurize.formats.sources import ColumnNames, VectorRows, shown
from featurize.images.arrays import check_name
from featurize.images.splitting import (
    TEST_FRACTION,
    TEST_NAMES,
    TRAIN_NAMES,
    SplitOptions,
    split_by_content,
    split_by_group,
)

READERS: dict[str, Callable[[Path, ColumnNames], VectorRows]] = {
    **dict.fromkeys(columnar.OPENERS, columnar.read_table),
    **dict.fromkeys(archives.OPENERS, archives.read_archive),
}
"""Suffix of a file -> what reads it."""
Progress = Callable[[int, int], None]
"""Called with the numbers of vectors that are done and in all."""


@dataclass(frozen=True)
class Imported:
    """A finished cache, and whether it existed before."""

    info: CacheInfo
    reused: bool


def import_features(
    file: Path | str,
    name: str,
    *,
    out: Path | str | None = None,
    test_fraction: float | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    **columns: str | None,
) -> Imported:
    """Make a cache of vectors that were made elsewhere. Heads, tables and reports work with it.

    The vectors, and labels as integers or text, are in a table (`.parquet`, `.arrow`, `.csv`) or in arrays (`.npz`,
    `.safetensors`); see docs/formats.md. Vectors are stored as float32, or float16 if the file has float16. Without a
    split of its own, the SHA-256 of the vectors decides, as that of files does for class folders.

    Args:
        file: the file.
        name: of the network, such as `dinov3-vitb16`.
        out: path of the cache; by default a name in the data folder that says what is inside.
        test_fraction: share of each class that is for testing, if the file has no split; None for a fifth.
        overwrite: replace a cache that has another specification or cannot be read.
        progress: called after each block of vectors.
        columns: what the file calls its columns, by field of `ColumnNames`: `vector`, `label`, `split`, `path`, `id`,
            `group`, `fold`.

    Raises:
        UsageError: there is no such file or column, or the suffix is unknown.
        DataError: the file is damaged, or what it holds cannot be used.
        CacheMismatchError: `out` holds a cache of another specification.
        CacheError: the cache cannot be written.
    """
    file = Path(file)
    options = SplitOptions(test_fraction)
    check_name(name)
    if file.suffix not in READERS:
        raise UsageError(f"{file}: unknown suffix; {suggestion(file.suffix, list(READERS))}")
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    began = time.perf_counter()
    rows = READERS[file.suffix](file, ColumnNames(**columns))
    dataset = str(rows.facts.get("dataset") or file.stem)
    check_name(dataset)
    class_names, labels = _classes(rows, usual_label=columns.get("label") is None)
    total = 2 * len(rows)
    digests = _row_digests(rows, lambda done: progress(done, total))
    is_test = _is_test(rows, labels, digests, options)
    _check_classes(rows, class_names, labels, is_test)
    layers, choices = _recorded_layers(rows)
    records = _records(rows, labels, digests, is_test)
    content = CacheContent(dataset, class_names, IMPORTED, layers, records)
    spec = ExtractionSpec(
        dataset_digest=_digest([list(class_names), {split: each.digest for split, each in records.items()}]),
        backbone=name,
        weights_digest=hashlib.sha256(digests.tobytes()).hexdigest(),
        layers=tuple(each.name for each in layers),
        dtype=rows.dtype,
        engine=IMPORTED,
        engine_version="",
        **choices,
    )
    path = Path(out) if out else features_folder() / f"{dataset}-{name}.h5"
    if info := finished_cache(path, spec, overwrite=overwrite):
        return Imported(info, reused=True)
    sides = {"train": ~is_test, "test": is_test}
    with open_writer(path, spec, content, overwrite=overwrite) as writer:
        writer.discard()  # an interrupted import starts again
        writer.shards.resume()
        with ExitStack() as stack:
            appenders = {split: stack.enter_context(writer.append(split, 0)) for split in sides}
            start = 0
            for block in rows.checked_blocks():
                stop = start + len(block)
                for split, chosen in sides.items():
                    part = block[chosen[start:stop]]
                    if len(part):
                        appenders[split].add(part)
                start = stop
                progress(len(rows) + stop, total)
        seconds = time.perf_counter() - began
        source: dict[str, Any] = {IMPORTED: str(file.resolve()), "columns": {k: v for k, v in columns.items() if v}}
        if rows.folds is not None:
            source["folds"] = int(rows.folds.max()) + 1
        info = writer.commit(
            seconds=seconds, images_per_second=len(rows) / seconds, device="", engine_choice="", source=source
        )
    return Imported(info, reused=False)


def _classes(rows: VectorRows, *, usual_label: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """The class names, and the labels as int64 (n,), 0..K-1.

    The names that the file records count, unless the user chose another column of labels.

    Raises:
        DataError: a label is not among the recorded names.
    """
    recorded = rows.facts.get("class_names") if usual_label else None
    if not isinstance(recorded, list) or not all(isinstance(name, str) for name in recorded):
        recorded = None
    present, labels = np.unique(rows.labels, return_inverse=True)
    names = [str(name) for name in present.tolist()]
    if recorded is None:
        if all(name.isdecimal() for name in names):  # numbers that were read as text
            order = np.argsort([int(name) for name in names], kind="stable")
            return tuple(names[index] for index in order), np.argsort(order)[labels]
        return tuple(names), labels.astype(np.int64)
    if present.dtype.kind == "i":
        outside = [name for name in present.tolist() if not 0 <= name < len(recorded)]
        if outside:
            raise DataError(
                f"{rows.file} has the label {outside[0]}, expected 0 to {len(recorded) - 1}, one for each of its "
                "class names"
            )
        return tuple(recorded), present[labels]
    numbers = {name: number for number, name in enumerate(recorded)}
    for name in names:
        if name not in numbers:
            raise DataError(
                f"{rows.file} has the label {shown(name)}, which is not one of its class names; "
                f"{suggestion(name, recorded)}"
            )
    return tuple(recorded), np.array([numbers[name] for name in names], np.int64)[labels]


def _row_digests(rows: VectorRows, progress: Callable[[int], None]) -> np.ndarray:
    """The SHA-256 of each vector as it is stored, uint8 (n, 32)."""
    digests = np.empty((len(rows), 32), np.uint8)
    row = 0
    for block in rows.checked_blocks():
        little = np.ascontiguousarray(block, block.dtype.newbyteorder("<"))
        for vector in little:
            digests[row] = np.frombuffer(hashlib.sha256(vector.data).digest(), np.uint8)
            row += 1
        progress(row)
    return digests


def _is_test(rows: VectorRows, labels: np.ndarray, digests: np.ndarray, options: SplitOptions) -> np.ndarray:
    """Which rows are for testing, bool (n,): by their fold, their split, their group, or the content of the vectors.

    Raises:
        UsageError: the file has a split, and the options ask for another.
        DataError: a split or a fold is unknown, or a split is empty.
    """
    if options.test_fraction and (rows.folds is not None or rows.splits is not None):
        raise UsageError(f"--test-fraction: {rows.file} has a split of its own; leave out the option")
    fraction = options.test_fraction or TEST_FRACTION
    if rows.folds is not None:
        count = len(np.unique(rows.folds))
        if count < 2 or rows.folds.dtype.kind != "i" or (rows.folds.min(), rows.folds.max()) != (0, count - 1):
            raise DataError(f"{rows.file}: the folds are not numbered from 0, or there are fewer than two")
        return rows.folds == 0
    if rows.splits is not None:
        is_test = np.zeros(len(rows), bool)
        for split in np.unique(rows.splits).tolist():
            if str(split).lower() not in (*TEST_NAMES, *TRAIN_NAMES):
                raise DataError(f"{rows.file}: the split {shown(split)} is unknown; expected train or test")
            is_test[rows.splits == split] = str(split).lower() in TEST_NAMES
        if is_test.all() or not is_test.any():
            raise DataError(
                f"{rows.file}: all rows are in the split {shown(rows.splits[0])}; expected rows of train and test"
            )
        return is_test
    if rows.groups is not None:
        return split_by_group(rows.groups.astype(str), labels, fraction)
    order = np.lexsort(digests.view(">u8").T[::-1])
    is_test = np.empty(len(rows), bool)
    is_test[order] = split_by_content(digests[order], labels[order], fraction)
    return is_test


def _check_classes(rows: VectorRows, class_names: tuple[str, ...], labels: np.ndarray, is_test: np.ndarray) -> None:
    """Raise DataError unless there are two classes, and training vectors of each class that is tested."""
    trained = np.unique(labels[~is_test])
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{rows.file}: all rows have the label {shown(class_names[labels[0]])}; expected two classes or more"
        )
    missing = np.setdiff1d(labels[is_test], trained)
    if len(missing):
        raise DataError(
            f"{rows.file}: no training row has the label {shown(class_names[missing[0]])}, which test rows have"
        )
    if not is_test.any():
        raise DataError(f"{rows.file}: no class has two distinct vectors, so that none can be tested")


def _records(rows: VectorRows, labels: np.ndarray, digests: np.ndarray, is_test: np.ndarray) -> dict[str, SplitRecords]:
    """What stands beside the vectors of each split.

    Raises:
        DataError: an id occurs twice in a split, or ids are not integers.
    """
    ids = np.arange(len(rows)) if rows.ids is None else rows.ids
    if ids.dtype.kind != "i":
        raise DataError(f"{rows.file}: the ids are text, expected integers; name the column with --id, or leave it out")
    paths = None if rows.paths is None else np.char.encode(rows.paths.astype(str), "utf-8", "backslashreplace")
    groups = None
    if rows.groups is not None:
        groups = np.unique(rows.groups, return_inverse=True)[1].astype(np.int64)
    records = {}
    for split, chosen in (("train", ~is_test), ("test", is_test)):
        together = np.ones(len(rows), bool) if rows.folds is not None else chosen
        values, counts = np.unique(ids[together], return_counts=True)
        if counts.max() > 1:
            raise DataError(f"{rows.file}: the id {values[np.argmax(counts > 1)]} occurs twice among the {split} rows")
        arrays = [ids, labels, groups, rows.folds, paths]
        own = [None if array is None else array[chosen] for array in arrays]
        digest = hashlib.sha256()
        for array in (*own, digests[chosen]):
            if array is not None:
                digest.update(f"{array.dtype.str} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        own_ids, own_labels, own_groups, own_folds, own_paths = own
        assert own_ids is not None
        assert own_labels is not None
        records[split] = SplitRecords(own_labels, own_ids, digest.hexdigest(), own_paths, own_groups, own_folds)
    return records


def _recorded_layers(rows: VectorRows) -> tuple[tuple[Columns, ...], dict[str, Any]]:
    """The columns of each layer, and how images became vectors, as an export of ours records them.

    For vectors of other programs there is one layer, `vector`, and nothing is known of the images.
    """
    unknown: dict[str, Any] = {"pool": "", "image_size": 0, "resize": "", "aspect": "", "flip": False, "preprocess": ""}
    whole = (Columns("vector", 0, (rows.dim,)),)
    try:
        layers = tuple(
            Columns(str(entry["name"]), int(entry["start"]), tuple(map(int, entry["shape"])))
            for entry in rows.facts["layers"]
        )
        choices = {name: type(value)(rows.facts["spec"][name]) for name, value in unknown.items()}
    except (KeyError, TypeError, ValueError):
        return whole, unknown
    ends = [0, *(columns.stop for columns in layers)]
    follow = all(columns.start == end for columns, end in zip(layers, ends, strict=False))
    shapes = all(len(columns.shape) in (1, 3) and min(columns.shape) > 0 for columns in layers)
    distinct = len({columns.name for columns in layers}) == len(layers)
    return (layers, choices) if layers and follow and shapes and distinct and ends[-1] == rows.dim else (whole, unknown)


def _digest(facts: object) -> str:
    """SHA-256 of facts as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
