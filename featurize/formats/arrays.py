"""Named arrays in one file, written a block at a time: `.npz` and `.safetensors`.

The names are those of an `.npz` data set: `x_train`, `y_train`, `x_test`, `y_test`, and with them `ids_train`,
`paths_train`, `groups_train`, `folds_train`.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurize.formats.rows import METADATA, Block, CacheRows

ALIGNMENT = 8  # of a safetensors header, in bytes
SAFETENSORS_TYPES = {"<f4": "F32", "<f2": "F16", "<i8": "I64", "|u1": "U8"}


@dataclass(frozen=True)
class StreamedArray:
    """An array that is written in blocks of rows.

    Attributes:
        name: in the file.
        shape: (n, ...).
        dtype: little-endian.
        split: of the rows.
        of_block: the rows of a block.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    split: str
    of_block: Callable[[Block], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the whole array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def blocks(self, rows: CacheRows) -> Iterator[bytes]:
        """Yield the bytes of the array in order."""
        for block in rows.blocks(self.split):
            yield np.ascontiguousarray(self.of_block(block), self.dtype).tobytes()


def write_npz(rows: CacheRows, path: Path) -> None:
    """Write an uncompressed `.npz` file, whose arrays `np.load` reads without pickle.

    Beside the arrays of the splits it holds `class_names`, str (K,), and `frozenbench`, the metadata as text.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for array in _streamed_arrays(rows, _text):
            with archive.open(f"{array.name}.npy", "w", force_zip64=True) as member:
                facts = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, facts)
                for content in array.blocks(rows):
                    member.write(content)
        for name, value in {"class_names": rows.info.class_names, METADATA: rows.metadata}.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(value, dtype=str), allow_pickle=False)


def write_safetensors(rows: CacheRows, path: Path) -> None:
    """Write a `.safetensors` file; the paths are UTF-8 in rows of bytes, padded with zeros.

    The library writes tensors that are in memory only, so this follows its format: the length of the header, the
    header as JSON, the tensors (https://huggingface.co/docs/safetensors, "Format").
    """
    arrays = _streamed_arrays(rows, _text_bytes)
    header: dict[str, object] = {"__metadata__": {METADATA: rows.metadata}}
    end = 0
    for array in arrays:
        header[array.name] = {
            "dtype": SAFETENSORS_TYPES[array.dtype.str],
            "shape": array.shape,
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.writelines(array.blocks(rows))


def _streamed_arrays(rows: CacheRows, text: Callable[[str, np.ndarray], StreamedArray]) -> list[StreamedArray]:
    """The arrays of every split; `text` makes the one of a split's paths."""
    integers = np.dtype("<i8")
    arrays = []
    for split in rows.splits:
        count = rows.info.rows[split]
        arrays += [
            StreamedArray(f"x_{split}", (count, rows.info.dim), rows.dtype, split, lambda block: block.vectors),
            StreamedArray(f"y_{split}", (count,), integers, split, lambda block: block.features.y),
            StreamedArray(f"ids_{split}", (count,), integers, split, lambda block: block.features.ids),
        ]
        if split in rows.paths:
            arrays.append(text(split, rows.paths[split]))
        if rows.has_groups:
            arrays.append(StreamedArray(f"groups_{split}", (count,), integers, split, _groups))
        if rows.has_folds:
            arrays.append(StreamedArray(f"folds_{split}", (count,), integers, split, _folds))
    return arrays


def _groups(block: Block) -> np.ndarray:
    assert block.features.groups is not None
    return block.features.groups


def _folds(block: Block) -> np.ndarray:
    assert block.features.folds is not None
    return block.features.folds


def _paths(block: Block) -> np.ndarray:
    assert block.paths is not None
    return block.paths


def _text(split: str, paths: np.ndarray) -> StreamedArray:
    """Paths as an array of text."""
    longest = _longest(paths)
    return StreamedArray(f"paths_{split}", paths.shape, np.dtype(f"<U{longest}"), split, _paths)


def _text_bytes(split: str, paths: np.ndarray) -> StreamedArray:
    """Paths as rows of UTF-8 bytes."""
    longest = _longest(paths)

    def rows_of_bytes(block: Block) -> np.ndarray:
        encoded = np.array([path.encode() for path in _paths(block).tolist()], dtype=f"S{longest}")
        return encoded.view(np.uint8).reshape(-1, longest)

    return StreamedArray(f"paths_{split}", (len(paths), longest), np.dtype("|u1"), split, rows_of_bytes)


def _longest(paths: np.ndarray) -> int:
    """Bytes that hold every path as text: an escape of a byte that is not UTF-8 takes four."""
    lengths = [len(path) if path.isascii() else 4 * len(path) for path in paths.tolist()]
    return max(1, max(lengths, default=1))
