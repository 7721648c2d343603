"""Tables with a row for each image: Parquet, Arrow and CSV, written a block at a time by pyarrow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featurize.formats.rows import METADATA, Block, CacheRows

VECTOR = "vector"


def write_parquet(rows: CacheRows, path: Path) -> None:
    """Write a Parquet file; the vectors are a column of float32 lists, because few readers know float16."""
    import pyarrow.parquet

    schema = _schema(rows, _list_column(rows, "float32"))
    with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=["split", "label"]) as writer:
        for batch in _batches(rows, schema):
            writer.write_batch(batch)


def write_arrow(rows: CacheRows, path: Path) -> None:
    """Write an Arrow file (the IPC file format, also known as Feather); the vectors keep their type."""
    import pyarrow

    schema = _schema(rows, _list_column(rows, rows.info.spec.dtype))
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        for batch in _batches(rows, schema):
            writer.write_batch(batch)


def write_csv(rows: CacheRows, path: Path) -> None:
    """Write a CSV file; number i of the vectors is the column `vector_i`, in the shortest text that is exact."""
    import pyarrow.csv

    schema = _schema(rows, _number_columns(rows))
    with pyarrow.csv.CSVWriter(path, schema) as writer:
        for batch in _batches(rows, schema):
            writer.write_batch(batch)


def write_numbers(rows: CacheRows, path: Path) -> None:
    """Write the vectors alone, a line for each image, the numbers between tabs."""
    import pyarrow.csv

    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t")
    schema = pyarrow.schema(_number_columns(rows))
    with pyarrow.csv.CSVWriter(path, schema, write_options=options) as writer:
        for batch in _batches(rows, schema):
            writer.write_batch(batch)


def csv_metadata(rows: CacheRows, name: str) -> bytes:
    """The description beside a CSV file, which has no metadata of its own (https://www.w3.org/TR/tabular-metadata/)."""
    facts = {"@context": "http://www.w3.org/ns/csvw", "url": name, "notes": [{METADATA: json.loads(rows.metadata)}]}
    return json.dumps(facts, indent=1).encode()


def csv_metadata_path(path: Path) -> Path:
    """Where the description of a CSV file is."""
    return path.with_name(f"{path.name}-metadata.json")


def _list_column(rows: CacheRows, dtype: str) -> list[Any]:
    import pyarrow

    number = pyarrow.from_numpy_dtype(np.dtype(dtype))
    return [pyarrow.field(VECTOR, pyarrow.list_(number, rows.info.dim), False)]


def _number_columns(rows: CacheRows) -> list[Any]:
    import pyarrow

    return [pyarrow.field(f"{VECTOR}_{index}", pyarrow.float32(), False) for index in range(rows.info.dim)]


def _schema(rows: CacheRows, vectors: list[Any]) -> Any:
    """The columns of a table; `vectors` are those of the vectors."""
    import pyarrow

    types = {"id": pyarrow.int64()}
    if rows.paths:
        types["path"] = pyarrow.string()
    types |= {"split": pyarrow.string(), "label": pyarrow.string(), "class_id": pyarrow.int64()}
    if rows.has_groups:
        types["group"] = pyarrow.int64()
    if rows.has_folds:
        types["fold"] = pyarrow.int64()
    fields = [pyarrow.field(name, kind, False) for name, kind in types.items()]
    return pyarrow.schema([*fields, *vectors], metadata={METADATA: rows.metadata})


def _batches(rows: CacheRows, schema: Any) -> Iterator[Any]:
    """Yield the rows of all splits as record batches of a schema."""
    import pyarrow

    names = np.array(rows.info.class_names, dtype=object)
    for split in rows.splits:
        for block in rows.blocks(split):
            values = {**_columns(block, names), **_vector_columns(block, schema)}
            arrays = [pyarrow.array(values[field.name], field.type) for field in schema if field.name != VECTOR]
            if VECTOR in values:
                kind = schema.field(VECTOR).type
                flat = pyarrow.array(values[VECTOR].ravel(), kind.value_type)
                arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=kind))
            yield pyarrow.record_batch(arrays, schema)


def _columns(block: Block, class_names: np.ndarray) -> dict[str, Any]:
    """The values of the columns that are not vectors."""
    features = block.features
    return {
        "id": features.ids,
        "path": block.paths,
        "split": [block.split] * len(features.ids),
        "label": class_names[features.y],
        "class_id": features.y,
        "group": features.groups,
        "fold": features.folds,
    }


def _vector_columns(block: Block, schema: Any) -> dict[str, np.ndarray]:
    """The vectors as one column of lists, or as a column for each number."""
    if VECTOR in schema.names:
        number = schema.field(VECTOR).type.value_type.to_pandas_dtype()
        return {VECTOR: block.vectors.astype(number, copy=False)}
    turned = np.ascontiguousarray(block.features.x.T)
    return {f"{VECTOR}_{index}": column for index, column in enumerate(turned)}
