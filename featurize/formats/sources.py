"""Vectors in the files of other programs, with their labels, read a block at a time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.errors import DataError, UsageError, suggestion

SHOWN = 80  # letters of a value in a message


@dataclass(frozen=True)
class ColumnNames:
    """How a file calls its columns or arrays; None for the names of an export of ours.

    Attributes:
        vector: the vectors; numbers in columns of their own are called `vector_0`, `vector_1`, ...
        label: class names or numbers.
        split: `train` or `test`.
        path: of the image files.
        id: integers.
        group: the images of a group are never divided.
        fold: of a cross-validation, integers from 0.
    """

    vector: str | None = None
    label: str | None = None
    split: str | None = None
    path: str | None = None
    id: str | None = None
    group: str | None = None
    fold: str | None = None

    def found_in(
        self, file: Path, present: list[str], usual: dict[str, str], needed: tuple[str, ...]
    ) -> dict[str, str]:
        """The names that the file has, by field.

        Args:
            file: for messages.
            present: the columns of the file.
            usual: the names of fields that are None.
            needed: fields that the file must have.

        Raises:
            UsageError: a column that was named, or that is needed, does not exist.
        """
        found = {}
        for each in fields(self):
            asked = getattr(self, each.name)
            name = asked or usual[each.name]
            if name in present:
                found[each.name] = name
            elif asked or each.name in needed:
                raise UsageError(
                    f"{file} has no column {name}; {suggestion(name, present)} Name it with --{each.name} COLUMN"
                )
        return found


@dataclass(frozen=True)
class VectorRows:
    """The rows of a file, in its order.

    Attributes:
        file: the file.
        dim: length of a vector.
        dtype: the type in which the vectors are stored, float32 or float16.
        labels: integers or str, (n,).
        blocks: yields the vectors, (m, dim); it can be called again.
        splits: str (n,), or None.
        paths: str (n,), or None.
        ids: int64 (n,), or None.
        groups: (n,) of any type that sorts, or None.
        folds: int64 (n,), or None.
        facts: what an export of ours says about itself; empty for other files.
    """

    file: Path
    dim: int
    dtype: str
    labels: np.ndarray
    blocks: Callable[[], Iterator[np.ndarray]]
    splits: np.ndarray | None = None
    paths: np.ndarray | None = None
    ids: np.ndarray | None = None
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def checked_blocks(self) -> Iterator[np.ndarray]:
        """Yield the vectors in the stored type, and check them.

        Raises:
            DataError: a value is not finite.
        """
        row = 0
        for block in self.blocks():
            with np.errstate(over="ignore"):  # too large for the stored type: found below
                stored = block.astype(self.dtype, copy=False)
            finite = np.isfinite(stored).all(axis=1)
            if not finite.all():
                bad = row + int(np.argmin(finite))
                raise DataError(
                    f"{self.file}: the vector of row {bad} (counted from 0) holds a value that is not finite as "
                    f"{self.dtype}; leave out the row, or compute it again"
                )
            yield stored
            row += len(block)
        if row != len(self):
            raise DataError(f"{self.file} has {row:,} vectors for {len(self):,} labels; expected as many")


def shown(value: object) -> str:
    """A value of a file in a message: one line, and not too long."""
    return " ".join(str(value).split())[:SHOWN]


def own_facts(metadata: bytes | str) -> dict[str, Any]:
    """The metadata of an export of ours, parsed; empty for anything else."""
    try:
        facts = json.loads(metadata or "{}")
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
