"""The suspected labels of an audit, as training takes them: left out, or with less weight.

May import: featurize.core, featurize.cache.
"""

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurize.cache import CacheInfo, read_labels, read_paths
from featurize.core.errors import UsageError

COLUMNS = ("path", "id", "split", "label", "probability")  # that are read of an audit's suspects.csv
DROPPED, WEIGHTED = "dropped", "weighted"


@dataclass(frozen=True, eq=False)
class Suspects:
    """Training images with suspected labels.

    Attributes:
        file: the table that names them.
        handling: `dropped`, or `weighted`.
        ids: of the images, int64 (s,), ascending.
        right: the probability that each label is right, float32 (s,).
    """

    file: Path
    handling: str
    ids: np.ndarray
    right: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of what training takes from the table."""
        numbers = self.ids.tobytes() + (self.right.tobytes() if self.handling == WEIGHTED else b"")
        return hashlib.sha256(numbers).hexdigest()

    def kept(self, ids: np.ndarray) -> np.ndarray:
        """Which training images are trained on, bool (n,), by their ids (n,)."""
        if self.handling == WEIGHTED:
            return np.ones(len(ids), bool)
        return ~np.isin(ids, self.ids)

    def weights(self, ids: np.ndarray) -> np.ndarray | None:
        """The weights of training images, float32 (n,), by their ids (n,); None if all weigh the same."""
        if self.handling == DROPPED:
            return None
        found = np.ones(len(ids), np.float32)
        suspected = np.isin(ids, self.ids)
        found[suspected] = self.right[np.searchsorted(self.ids, ids[suspected])]
        return found


def read_suspects(file: Path, info: CacheInfo, handling: str) -> Suspects:
    """The training images of a cache in the table `suspects.csv` of an audit; in folds, every image is one.

    The audit may be of another cache of the same images.

    Args:
        file: the table.
        info: of the cache.
        handling: `dropped`, or `weighted`.

    Raises:
        UsageError: the file is no such table, or it is of other images or labels.
        CacheError: the cache cannot be used.
    """
    held = {split: _images(info, split) for split in info.rows}
    found: dict[int, float] = {}
    for line, (split, number, path, label, wrong) in _lines(file):
        if held.get(split, {}).get(number) != (path, label):
            image = path or f"image {number}"
            raise UsageError(
                f"{file}: line {line} names {image} of the split {split} with the label {label}, which {info.path} "
                f"does not hold: the table is of other images or labels; make one with frozenbench audit {info.path}"
            )
        if info.folds or split == "train":
            found[number] = 1 - wrong
    ids = np.array(sorted(found), np.int64)
    right = np.array([found[number] for number in ids.tolist()], np.float32)
    suspects = Suspects(file, handling, ids, right)
    _check_classes(suspects, info)
    return suspects


def _images(info: CacheInfo, split: str) -> dict[int, tuple[str, str]]:
    """The path and the label of each image of a split, by its id; images from other sources have an empty path."""
    labels, ids, _ = read_labels(info.path, split)
    paths = read_paths(info.path, split)
    names = [""] * len(ids) if paths is None else [os.fsdecode(path) for path in paths.tolist()]
    given = [info.class_names[label] for label in labels.tolist()]
    return dict(zip(ids.tolist(), zip(names, given, strict=True), strict=True))


def _lines(file: Path) -> Iterator[tuple[int, tuple[str, int, str, str, float]]]:
    """Yield the number of each line, and its split, id, path, label and probability of a wrong label."""
    line = 1
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
            table = csv.DictReader(opened)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise ValueError(f"it has no column {missing[0]}")
            for line, row in enumerate(table, start=2):
                wrong = float(row["probability"])
                if not 0 <= wrong <= 1:
                    raise ValueError(f"the probability {wrong} is not within 0 and 1")
                yield line, (row["split"], int(row["id"]), row["path"], row["label"], wrong)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{file}: line {line} cannot be used ({error}); expected suspects.csv of frozenbench audit"
        ) from error


def _check_classes(suspects: Suspects, info: CacheInfo) -> None:
    """Raise UsageError if no training image of a class is left."""
    parts = [read_labels(info.path, split) for split in info.rows if info.folds or split == "train"]
    labels = np.concatenate([labels for labels, _, _ in parts])
    ids = np.concatenate([ids for _, ids, _ in parts])
    left = np.unique(labels[suspects.kept(ids)])
    if lost := np.setdiff1d(labels, left).tolist():
        raise UsageError(
            f"--drop-suspects {suspects.file}: it names every training image of {info.class_names[lost[0]]}; use a "
            "table of fewer images, or --weight-suspects"
        )
