"""Tables as sources of vectors: Parquet, Arrow (files and streams) and CSV, read by pyarrow."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.errors import DataError, first_line
from featurize.formats.rows import BLOCK_BYTES, METADATA
from featurize.formats.sources import ColumnNames, VectorRows, own_facts
from featurize.formats.tables import csv_metadata_path

USUAL = {name: name for name in ("vector", "label", "split", "path", "id", "group", "fold")}
CSV_BLOCK = 1 << 24  # bytes; a line must fit
TEXT = ("label", "split", "path", "group")
Batches = Callable[[Sequence[str], int], Iterator[Any]]
"""Columns and a number of rows -> record batches of at most as many rows."""


def read_table(file: Path, names: ColumnNames) -> VectorRows:
    """The vectors of a table.

    Raises:
        UsageError: a column does not exist.
        DataError: the file cannot be read, is empty, or a column holds something else than it should.
    """
    with reading(file):
        present, batches, metadata = OPENERS[file.suffix](file, names)
    doubled = {name for name in present if present.count(name) > 1}
    if doubled:
        raise DataError(f"{file} has the column {doubled.pop()} twice; rename one of them")
    wanted = names.vector or USUAL["vector"]
    numbered = _numbered(present, wanted)
    found = names.found_in(file, [*present, *([wanted] if numbered else [])], USUAL, ("vector", "label"))
    del found["vector"]
    vector = [wanted] if wanted in present else numbered

    with reading(file):
        table: dict[str, list[Any]] = {name: [] for name in found}
        for batch in batches(list(found.values()), 1 << 16):
            for name, column in found.items():
                table[name].append(batch.column(column))
        columns = {name: _values(file, found[name], parts) for name, parts in table.items()}
    if not len(columns["label"]):
        raise DataError(f"{file} has no rows")
    ids = columns.get("id")
    if ids is not None and ids.dtype.kind != "i" and names.id is None:
        ids = None  # another program's column of that name
    dim, dtype = _vector_type(file, vector, batches)

    def blocks() -> Iterator[np.ndarray]:
        with reading(file):
            for batch in batches(vector, max(1, BLOCK_BYTES // (4 * dim))):
                yield _matrix(file, batch, vector, dim)

    return VectorRows(
        file,
        dim,
        dtype,
        columns["label"],
        blocks,
        columns.get("split"),
        columns.get("path"),
        ids,
        columns.get("group"),
        columns.get("fold"),
        own_facts(metadata),
    )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into a DataError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(f"{file} cannot be read as {file.suffix.removeprefix('.')}: {first_line(error)}") from error


def _open_parquet(file: Path, _: ColumnNames) -> tuple[list[str], Batches, bytes]:
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(file)

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        return opened.iter_batches(rows, columns=list(columns))

    return opened.schema_arrow.names, batches, _schema_metadata(opened.schema_arrow)


def _open_arrow(file: Path, _: ColumnNames) -> tuple[list[str], Batches, bytes]:
    import pyarrow

    def parts() -> Iterator[Any]:
        mapped = pyarrow.memory_map(str(file))
        try:
            reader = pyarrow.ipc.open_file(mapped)
        except pyarrow.ArrowInvalid:  # the format of streams, in which `datasets` keeps its files
            mapped.seek(0)
            return iter(pyarrow.ipc.open_stream(mapped))
        return (reader.get_batch(number) for number in range(reader.num_record_batches))

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        for part in parts():
            part.validate(full=True)
            chosen = part.select(list(columns))
            for start in range(0, len(chosen), rows):
                yield chosen.slice(start, rows)

    schema = _arrow_schema(file)
    return schema.names, batches, _schema_metadata(schema)


def _arrow_schema(file: Path) -> Any:
    import pyarrow

    with pyarrow.memory_map(str(file)) as mapped:
        try:
            return pyarrow.ipc.open_file(mapped).schema
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            return pyarrow.ipc.open_stream(mapped).schema


def _open_csv(file: Path, names: ColumnNames) -> tuple[list[str], Batches, bytes]:
    import pyarrow.csv

    options = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK)
    with pyarrow.csv.open_csv(file, options) as reader:
        present = reader.schema.names
    types = dict.fromkeys(present, pyarrow.float32())
    for name in TEXT:
        types[getattr(names, name) or USUAL[name]] = pyarrow.string()
    for name in ("id", "fold"):
        types.pop(getattr(names, name) or USUAL[name], None)

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        convert = pyarrow.csv.ConvertOptions(include_columns=list(columns), column_types=types)
        with pyarrow.csv.open_csv(file, options, convert_options=convert) as reader:
            for batch in reader:
                for start in range(0, len(batch), rows):
                    yield batch.slice(start, rows)

    beside = csv_metadata_path(file)
    if not beside.is_file():
        return present, batches, b""
    try:
        [facts] = json.loads(beside.read_text("utf-8"))["notes"]
        return present, batches, json.dumps(facts[METADATA]).encode()
    except (KeyError, TypeError, ValueError, RecursionError):  # another program's description
        return present, batches, b""


OPENERS: dict[str, Callable[[Path, ColumnNames], tuple[list[str], Batches, bytes]]] = {
    ".parquet": _open_parquet,
    ".arrow": _open_arrow,
    ".csv": _open_csv,
}
"""Suffix -> what opens a table: the names of its columns, what reads it, and our metadata."""


def _schema_metadata(schema: Any) -> bytes:
    return (schema.metadata or {}).get(METADATA.encode(), b"")


def _numbered(present: list[str], name: str) -> list[str]:
    """The columns `name_0`, `name_1`, ... in order; none if a number is missing."""
    matches = [re.fullmatch(rf"{re.escape(name)}_?([0-9]{{1,9}})", column) for column in present]
    by_number = {int(match[1]): match[0] for match in matches if match}
    first = min(by_number, default=0)
    if first > 1 or sorted(by_number) != list(range(first, first + len(by_number))):
        return []
    return [by_number[number] for number in sorted(by_number)]


def _values(file: Path, column: str, parts: list[Any]) -> np.ndarray:
    """A column of integers or text, (n,).

    Raises:
        DataError: it holds something else, or a row is empty.
    """
    import pyarrow

    whole = pyarrow.chunked_array(parts) if parts else pyarrow.chunked_array([[]], pyarrow.int64())
    if pyarrow.types.is_dictionary(whole.type):
        whole = whole.cast(whole.type.value_type)
    if whole.null_count:
        row = int(np.argmax(whole.is_null().to_numpy()))
        raise DataError(f"{file}: the column {column} is empty in row {row} (counted from 0)")
    if pyarrow.types.is_integer(whole.type):
        return whole.cast(pyarrow.int64()).to_numpy()
    if pyarrow.types.is_string(whole.type) or pyarrow.types.is_large_string(whole.type):
        return np.array(whole.to_pylist(), dtype=str)
    if "view" in str(whole.type):
        return np.array(whole.to_pylist(), dtype=str)
    raise DataError(f"{file}: the column {column} holds {whole.type}, expected integers or text")


def _vector_type(file: Path, columns: list[str], batches: Batches) -> tuple[int, str]:
    """The length of a vector, and the type in which vectors are stored."""
    import pyarrow

    with reading(file):
        first = next(iter(batches(columns, 1)))
        if len(columns) > 1 or not _is_list(first.column(0).type):
            return len(columns), "float32"
        lists = _storage(first.column(0))
        dim = len(lists.flatten())
        dtype = "float16" if pyarrow.types.is_float16(lists.type.value_type) else "float32"
    if not dim:
        raise DataError(f"{file}: the first vector of the column {columns[0]} is empty")
    return dim, dtype


def _matrix(file: Path, batch: Any, columns: list[str], dim: int) -> np.ndarray:
    """The vectors of a batch, (m, dim).

    Raises:
        DataError: a vector has another length, or the column does not hold numbers.
    """
    if len(columns) > 1 or not _is_list(batch.column(0).type):
        numbers = [_numbers(file, name, batch.column(name)) for name in columns]
        return np.stack(numbers, axis=1)
    lists = _storage(batch.column(0))
    lengths = lists.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    if (lengths != dim).any():
        other = int(lengths[np.argmax(lengths != dim)])
        length = "none" if other < 0 else f"{other} numbers"
        raise DataError(f"{file}: the vectors of {columns[0]} differ in length: {dim} numbers, and {length}")
    return _numbers(file, columns[0], lists.flatten()).reshape(len(batch), dim)


def _numbers(file: Path, name: str, values: Any) -> np.ndarray:
    import pyarrow

    if not (pyarrow.types.is_floating(values.type) or pyarrow.types.is_integer(values.type)):
        raise DataError(f"{file}: the column {name} holds {values.type}, expected lists of numbers or numbers")
    return values.to_numpy(zero_copy_only=False)


def _is_list(kind: Any) -> bool:
    import pyarrow

    kind = getattr(kind, "storage_type", kind)
    tests = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _storage(column: Any) -> Any:
    """The lists of a column; a tensor column, for example, wraps them."""
    return getattr(column, "storage", column)
