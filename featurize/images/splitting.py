"""Which images are for training and which for testing: by content, by group, or in folds.

The content of an image decides, so that a renamed file stays where it is. Groups, such as the pictures of one
patient, are never divided.
"""

import csv
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.errors import DataError, UsageError

TEST_FRACTION = 0.2  # of the images of each class
EXAMPLES = 3
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class SplitOptions:
    """How a folder of images is read: its splits, if it has none of its own, and its labels.

    Attributes:
        test_fraction: share of each class that is for testing, above 0 and below 1; None for `TEST_FRACTION`.
        folds: number of folds of a cross-validation, in which every image is tested once; None for one test split.
        groups: a regular expression, whose first group or whole match in an image's path below the root names the
            group of the image; or a CSV file with the columns `path` and `group`. Groups are not divided.
        labels: a CSV file with the columns `path` and `label`, and optionally `split` and `group`; None for
            class folders.
        max_pixels: pictures of more pixels are skipped; None for `decode.MAX_PIXELS`.
    """

    test_fraction: float | None = None
    folds: int | None = None
    groups: str | None = None
    labels: str | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UsageError(
                f"--test-fraction {self.test_fraction}: expected a number above 0 and below 1, such as 0.2"
            )
        if self.folds is not None and self.folds < 2:
            raise UsageError(f"--folds {self.folds}: expected 2 or more, such as 5")
        if self.folds and self.test_fraction:
            raise UsageError("--folds and --test-fraction: expected one of them; in folds every image is tested once")
        for option, name in (("labels", self.labels), ("groups", self.groups)):
            if name and name.endswith(".csv") and not Path(name).is_file():
                raise UsageError(f"--{option} {name}: no such file; expected a CSV file")

    def given(self) -> dict[str, Any]:
        """The options that are not None; paths are absolute."""
        options = {name: value for name, value in asdict(self).items() if value is not None}
        for name in ("groups", "labels"):
            if name in options and Path(options[name]).is_file():
                options[name] = str(Path(options[name]).resolve())
        return options


@dataclass(frozen=True)
class LabelTable:
    """The rows of a CSV file of labels: paths below the root, labels, and, where given, splits and groups."""

    paths: list[str]
    labels: list[str]
    is_test: list[bool] | None
    groups: list[str] | None


def read_labels_table(file: Path) -> LabelTable:
    """Read a CSV file with the columns `path` and `label`, and optionally `split` and `group`.

    Raises:
        DataError: it is not such a file, a cell is empty, a path occurs twice, or a split is unknown.
    """
    rows = _read_csv(file, ["path", "label"])
    is_test = None
    if "split" in rows[0]:
        is_test = [_is_test(file, number, row["split"]) for number, row in enumerate(rows, start=2)]
        if all(is_test) or not any(is_test):
            raise DataError(f"{file}: all rows are in the split {rows[0]['split']}; expected rows of train and of test")
    groups = [row["group"] for row in rows] if "group" in rows[0] else None
    return LabelTable([row["path"] for row in rows], [row["label"] for row in rows], is_test, groups)


def groups_of(paths: Sequence[bytes], option: str) -> list[str]:
    """The group of each image.

    Args:
        paths: below the root.
        option: see `SplitOptions.groups`.

    Raises:
        UsageError: it is not a regular expression.
        DataError: an image has no group.
    """
    names = [os.fsdecode(path) for path in paths]
    if Path(option).is_file():
        group_of_path = {row["path"]: row["group"] for row in _read_csv(Path(option), ["path", "group"])}
        missing = [name for name in names if name not in group_of_path]
        if missing:
            raise DataError(f"{option} has no group for {len(missing):,} of {len(names):,} images ({some_of(missing)})")
        return [group_of_path[name] for name in names]
    try:
        pattern = re.compile(option)
    except re.error as error:
        raise UsageError(
            f"--groups {option}: neither a CSV file nor a regular expression ({error}); such as 'patient[0-9]+'"
        ) from error
    found = []
    missing = []
    for name in names:
        match = pattern.search(name)
        if match is None:
            missing.append(name)
        else:
            found.append(match.group(1 if pattern.groups else 0) or "")
    if missing:
        raise DataError(
            f"--groups {option}: no match in {len(missing):,} of {len(names):,} paths ({some_of(missing)}); the "
            "expression must match every path below the folder"
        )
    return found


def split_by_content(digests: np.ndarray, labels: np.ndarray, test_fraction: float) -> np.ndarray:
    """Choose the test images: in each class those with the lowest digests.

    Digests are as good as random numbers, but they depend on nothing except the content of an image. So when
    images are added, removed or renamed, only images next to the border change sides. Each class meets the
    fraction to within one image, and has at least one distinct image on each side. Equal images stay together; if
    they are in different classes, on the side of the training images where they are not all below their borders.

    Args:
        digests: uint8 (n, 32), sorted.
        labels: int64 (n,), 0..K-1.
        test_fraction: share of the test images, 0..1.

    Returns:
        bool (n,), which images are for testing.
    """
    content = content_numbers(digests)
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(1, round(test_fraction * len(rows)))
        border = content[rows[min(count, len(rows) - 1) - 1]]
        if border == content[rows[-1]]:  # copies of the last image: without them, if another one remains
            border -= 1
        is_test[rows] = content[rows] <= border
    trained_on = np.bincount(content, ~is_test) > 0
    return is_test & ~trained_on[content]


def split_by_group(groups: np.ndarray, labels: np.ndarray, test_fraction: float) -> np.ndarray:
    """Choose the groups for testing: in each class those whose names have the lowest SHA-256.

    A group is taken if that brings its class closer to the fraction, and a class has at least one group on each
    side if it has two. When images are added to a group, or groups are added, only groups next to the border
    change sides.

    Args:
        groups: the name of each image's group, str (n,).
        labels: int64 (n,), 0..K-1.
        test_fraction: share of the test images, 0..1.

    Returns:
        bool (n,), which images are for testing.
    """
    names, numbers = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), labels.max() + 1), np.int64)  # images of each group and class
    np.add.at(counts, (numbers, labels), 1)
    hashes = [hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names]
    in_order = sorted(range(len(names)), key=lambda number: hashes[number])
    chosen = np.zeros(len(names), bool)
    # Classes with few groups have the least choice, so they come first.
    for label in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        own = [number for number in in_order if counts[number, label]]
        target = test_fraction * counts[:, label].sum()
        for number in own[:-1]:  # one group remains for training
            taken = counts[chosen, label].sum()
            if not chosen[number] and (taken == 0 or taken + counts[number, label] / 2 <= target):
                chosen[number] = True
    return chosen[numbers]


def assign_folds(groups: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
    """Divide images into folds of similar size and the same proportions of classes; groups are not divided.

    Args:
        groups: int64 (n,), the number of each image's group.
        labels: int64 (n,), 0..K-1.
        folds: their number.

    Returns:
        int64 (n,), the fold of each image.

    Raises:
        DataError: there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    distinct = len(np.unique(groups))
    if distinct < folds:
        raise DataError(f"--folds {folds}: there are only {distinct} groups or distinct images; use fewer folds")
    # Copies of all rows keep the library from refusing classes with fewer images than folds.
    rows = np.arange(len(labels))
    result = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(folds)
    repeated = np.tile(rows, folds)
    divided = splitter.split(repeated, labels[repeated], groups[repeated])
    for fold, (_, held_out) in enumerate(divided):
        result[repeated[held_out]] = fold
    return result


def content_numbers(digests: np.ndarray) -> np.ndarray:
    """Numbers, int64 (n,), that are equal for equal digests, uint8 (n, 32), which are sorted."""
    is_new = np.ones(len(digests), bool)
    is_new[1:] = (digests[1:] != digests[:-1]).any(axis=1)
    return np.cumsum(is_new)


def some_of(names: Sequence[str | bytes], count: int | None = None) -> str:
    """The first few names, as text; `count` is the number of all names, if these are not all."""
    shown = [name if isinstance(name, str) else name.decode(errors="replace") for name in names[:EXAMPLES]]
    return ", ".join([*shown, "..."] if (count or len(names)) > EXAMPLES else shown)


def _read_csv(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, in which no cell is empty and no path occurs twice."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            found = [name.strip() for name in reader.fieldnames or []]
            rows = [dict(zip(found, row.values(), strict=False)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({error}); expected a CSV file in UTF-8") from error
    missing = [name for name in columns if name not in found]
    if missing:
        raise DataError(
            f"{file} has no column {missing[0]}; expected a first line with {','.join(columns)}, got {','.join(found)}"
        )
    if not rows:
        raise DataError(f"{file} has no rows below its first line")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        for name in [*columns, *{"split", "group"}.intersection(found)]:
            if not row.get(name):
                raise DataError(f"{file}, line {number}: the column {name} is empty")
        path = row["path"] = os.path.normpath(row["path"])
        if path in seen:
            raise DataError(f"{file}, line {number}: {path} is there twice; keep one of the lines")
        seen.add(path)
    return rows


def _is_test(file: Path, number: int, name: str) -> bool:
    if name.lower() in TEST_NAMES:
        return True
    if name.lower() in TRAIN_NAMES:
        return False
    raise DataError(f"{file}, line {number}: the split {name} is unknown; expected train or test")
