"""The rows of a cache, block by block, with all that other programs need to know about them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featurize.cache import CacheInfo, Features, read_info, read_paths, read_rows

BLOCK_BYTES = 1 << 24  # of vectors that are in memory at once
METADATA = "frozenbench"
"""The key under which a file's own metadata holds `CacheRows.metadata`."""


@dataclass(frozen=True)
class Block:
    """Some rows of a split; `paths` is str (m,), or None for images that are not files."""

    split: str
    features: Features
    vectors: np.ndarray
    paths: np.ndarray | None


class CacheRows:
    """A cache to be exported.

    Attributes:
        info: its description.
        splits: the names of its splits.
        dtype: the little-endian type of the stored vectors.
    """

    def __init__(self, path: Path) -> None:
        self.info: CacheInfo = read_info(path)
        self.splits = tuple(self.info.rows)
        self.dtype = np.dtype(self.info.spec.dtype).newbyteorder("<")
        self.block_rows = max(1, BLOCK_BYTES // (self.info.dim * 4))

    def blocks(self, split: str) -> Iterator[Block]:
        """Yield the rows of a split in order."""
        path = self.info.path
        paths = self.paths.get(split)
        for start in range(0, self.info.rows[split], self.block_rows):
            rows = slice(start, start + self.block_rows)
            features = read_rows(path, split, rows.start, rows.stop)
            vectors = features.x.astype(self.dtype, copy=False)
            yield Block(split, features, vectors, None if paths is None else readable(paths[rows]))

    @cached_property
    def paths(self) -> dict[str, np.ndarray]:
        """The paths of each split's image files, bytes (n,); empty for images that are not files."""
        found = {split: read_paths(self.info.path, split) for split in self.splits}
        return {split: paths for split, paths in found.items() if paths is not None}

    @cached_property
    def has_groups(self) -> bool:
        """Whether the images belong to groups."""
        return self._first.groups is not None

    @cached_property
    def has_folds(self) -> bool:
        """Whether there is a cross-validation."""
        return self._first.folds is not None

    @cached_property
    def metadata(self) -> str:
        """The description of the cache as JSON: specification and fingerprint, class names, layers."""
        info = self.info
        facts: dict[str, Any] = {
            "dataset": info.dataset,
            "weights": info.weights,
            "class_names": list(info.class_names),
            "layers": [asdict(columns) for columns in info.layers],
            "rows": info.rows,
            "digests": info.digests,
            "fingerprint": info.spec.fingerprint,
            "spec": json.loads(info.spec.to_json()),
        }
        return json.dumps(facts)

    @cached_property
    def _first(self) -> Features:
        return read_rows(self.info.path, self.splits[0], 0, 1)


def readable(paths: np.ndarray) -> np.ndarray:
    """Paths as text, str (n,); bytes that are not UTF-8 are written as escapes."""
    return np.array([path.decode(errors="backslashreplace") for path in paths.tolist()], dtype=str)
