"""Class folders of image files: the files, their content, and the split of each.

    FOLDER/cats/1.jpg                                   split by content, by group or in folds, see `splitting`
    FOLDER/train/cats/1.jpg, FOLDER/test/cats/2.jpg     split as given

The SHA-256 of a file's content decides its split and its position in the order, whatever its name. Nothing is
decoded here.
"""

import logging
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurize.core.errors import DataError, UsageError
from featurize.images.dataset import ImageDataset, Split
from featurize.images.decode import HEIF_ADVICE, HEIF_SUFFIXES, reads_heif
from featurize.images.files import WORKERS, ImageFiles, join_bytes, sha256
from featurize.images.splitting import (
    EXAMPLES,
    TEST_FRACTION,
    TEST_NAMES,
    TRAIN_NAMES,
    SplitOptions,
    assign_folds,
    content_numbers,
    groups_of,
    read_labels_table,
    some_of,
    split_by_content,
    split_by_group,
)

logger = logging.getLogger("frozenbench")

SUFFIXES = frozenset(b".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
HEIF = frozenset(suffix.encode() for suffix in HEIF_SUFFIXES)
HASHED_AT_ONCE = 256
PROGRESS_SECONDS = 10.0

ClassFolders = dict[str, list[bytes]]
"""Class name -> the paths of its image files below the root."""


def load_image_folder(root: Path, options: SplitOptions | None = None) -> ImageDataset:
    """A data set from class folders, or from the files in a table of labels; named after the folder.

    Ignored entries and duplicate images are logged, one line for each kind. The images of a split are in the
    order of their SHA-256, which mixes the classes.

    Args:
        root: an existing folder.
        options: how the images are split if the folder has no splits, and where the labels come from.

    Raises:
        UsageError: the folder has splits of its own, and the options ask for others.
        DataError: there are no class folders, one class only, a class that cannot be split, colliding names,
            splits with different classes, an entry that cannot be read, or a damaged table.
    """
    root = root.resolve()
    options = options or SplitOptions()
    found = _from_table(root, Path(options.labels)) if options.labels else _from_class_folders(root)
    names = np.array(found.groups) if found.groups else None
    if options.groups:
        names = np.array(groups_of(found.paths, options.groups))
    files = ImageFiles(root, np.array(found.paths), _digests(root, found.paths), options.max_pixels)
    labels = np.array(found.labels, np.int64)
    in_test = np.array(found.is_test or [False] * len(labels))

    # By content. The sort is stable, so equal files stay in the order of split, class and name.
    order = np.lexsort(files.digests.view(">u8").T[::-1])
    files, labels, in_test = files[order], labels[order], in_test[order]
    groups = None
    if names is not None:
        names = names[order]
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    folds = None
    if found.is_test:
        if options.folds or options.test_fraction:
            option = "--folds" if options.folds else "--test-fraction"
            raise UsageError(f"{option}: {root} has splits of its own; leave out the option")
        is_test = in_test
    else:
        _check_distinct_images(root, found.class_names, files.digests, labels, names)
        if options.folds:
            together = content_numbers(files.digests) if groups is None else groups
            folds = assign_folds(together, labels, options.folds)
            is_test = folds == 0
        elif names is not None:
            is_test = split_by_group(names, labels, options.test_fraction or TEST_FRACTION)
        else:
            is_test = split_by_content(files.digests, labels, options.test_fraction or TEST_FRACTION)
    _report_duplicates(files, labels, is_test)
    if not options.folds:
        _warn_of_untested(found.class_names, labels[is_test])
    ids = _ids(is_test, options.folds)
    splits = {}
    for split, rows in (("train", ~is_test), ("test", is_test)):
        splits[split] = Split(files[rows], labels[rows], ids[rows], _some(groups, rows), _some(folds, rows))
    return ImageDataset(root.name or "images", found.class_names, splits, split_options=options.given())


def _ids(is_test: np.ndarray, folds: int | None) -> np.ndarray:
    """The ids of the images, int64 (n,): in folds, where both splits are tested, their ids differ."""
    if folds:
        return np.arange(len(is_test))
    ids = np.empty(len(is_test), np.int64)
    for rows in (is_test, ~is_test):
        ids[rows] = np.arange(np.count_nonzero(rows))
    return ids


def _some(values: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[rows]


@dataclass(frozen=True)
class _Found:
    """The image files before they are read; `is_test` is None for images that have to be split."""

    class_names: tuple[str, ...]
    paths: list[bytes]
    labels: list[int]
    is_test: list[bool] | None
    groups: list[str] | None = None


def _from_class_folders(root: Path) -> _Found:
    parts = _list_images(root)
    _check_classes(root, parts)
    class_names = tuple(parts[0])
    paths: list[bytes] = []
    labels: list[int] = []
    is_test: list[bool] = []
    for number, part in enumerate(parts):
        for label, name in enumerate(class_names):
            paths += part[name]
            labels += [label] * len(part[name])
            is_test += [number == 1] * len(part[name])
    return _Found(class_names, paths, labels, is_test if len(parts) == 2 else None)


def _from_table(root: Path, file: Path) -> _Found:
    """The images that a table of labels names.

    Raises:
        DataError: a file is missing or lies outside of the folder, or the classes cannot be used.
    """
    table = read_labels_table(file)
    outside = [path for path in table.paths if Path(path).is_absolute() or path.startswith("..")]
    if outside:
        raise DataError(f"{file}: {some_of(outside)} lies outside of {root}; expected paths below that folder")
    missing = [path for path in table.paths if not (root / path).is_file()]
    if missing:
        raise DataError(
            f"{file}: {len(missing):,} of {len(table.paths):,} files are not in {root} ({some_of(missing)}); expected "
            "paths below that folder"
        )
    class_names = tuple(sorted(set(table.labels)))
    if len(class_names) < 2:
        raise DataError(f"{file} holds images of one class only ({class_names[0]}), expected two or more")
    number_of = {name: number for number, name in enumerate(class_names)}
    # In the order of the paths, so that the order of the lines makes no difference.
    order = sorted(range(len(table.paths)), key=lambda row: table.paths[row])
    return _Found(
        class_names,
        [os.fsencode(table.paths[row]) for row in order],
        [number_of[table.labels[row]] for row in order],
        [table.is_test[row] for row in order] if table.is_test else None,
        [table.groups[row] for row in order] if table.groups else None,
    )


@dataclass
class _Ignored:
    """The entries of the folder that are not read: the number of each kind, and the first few."""

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, kind: str, path: bytes) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES:
            self.examples.setdefault(kind, []).append(path.removeprefix(join_bytes(self.root, b"")))

    def log(self) -> None:
        for kind, count in self.counts.items():
            logger.info("ignored: %s: %s (%s)", kind, f"{count:,}", some_of(self.examples[kind], count))


def _list_images(root: Path) -> list[ClassFolders]:
    """The images by class: one part to be split, or two, for training and for testing."""
    ignored = _Ignored(root)
    parts = []
    for folders in _parts(root, ignored):
        found = {name: _image_paths(folder, ignored) for name, folder in folders.items()}
        parts.append({name: paths for name, paths in found.items() if paths})
    ignored.log()
    return parts


def _parts(root: Path, ignored: _Ignored) -> list[dict[str, bytes]]:
    """The class folders to be split, or those for training and those for testing."""
    folders = _subfolders(os.fsencode(root), ignored)
    lower = {name.lower(): name for name in folders}
    trains = [lower[name] for name in TRAIN_NAMES if name in lower]
    tests = [lower[name] for name in TEST_NAMES if name in lower]
    if trains and len(lower) == 1:
        return [_subfolders(folders[trains[0]], ignored)]
    if not (trains and tests):
        return [folders]
    train, test = trains[0], tests[0]
    for name in sorted(folders.keys() - {train, test}):
        ignored.add(f"folders beside {train} and {test}, the test split", folders[name])
    return [_subfolders(folders[train], ignored), _subfolders(folders[test], ignored)]


def _entries(folder: bytes, ignored: _Ignored) -> Iterator["os.DirEntry[bytes]"]:
    """The entries of a folder, without hidden ones, broken links, and links that lead out of the root."""
    inside = join_bytes(ignored.root, b"")
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    ignored.add("hidden files and folders", entry.path)
                elif entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                    ignored.add("symbolic links out of the folder", entry.path)
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - a path in bytes
                    ignored.add("broken symbolic links", entry.path)
                else:
                    yield entry
    except OSError as error:
        raise DataError(f"{os.fsdecode(folder)} cannot be listed ({error.strerror}); change its permissions") from error


def _subfolders(folder: bytes, ignored: _Ignored) -> dict[str, bytes]:
    """The folders in a folder, sorted: name, in Unicode's normal form C, and path.

    Raises:
        DataError: a name is not text, or two names differ in case or normal form only.
    """
    found: dict[str, tuple[str, bytes]] = {}
    for entry in _entries(folder, ignored):
        if not entry.is_dir():
            ignored.add("files beside the class folders", entry.path)
            continue
        try:
            name = unicodedata.normalize("NFC", entry.name.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"the folder {entry.path!r} has a name that is not UTF-8 text; rename it") from error
        if other := found.get(name.casefold()):
            raise DataError(
                f"the folders {os.fsdecode(other[1])} and {os.fsdecode(entry.path)} have names that differ in case or "
                "Unicode form only; rename one, or merge them"
            )
        found[name.casefold()] = (name, entry.path)
    return dict(sorted(found.values()))


def _image_paths(folder: bytes, ignored: _Ignored) -> list[bytes]:
    """The sorted paths, below the root, of the image files in a class folder and the folders inside it."""
    prefix = len(join_bytes(ignored.root, b""))
    paths = []
    for entry in _entries(folder, ignored):
        if entry.is_dir(follow_symlinks=False):
            paths += _image_paths(entry.path, ignored)
        elif entry.is_dir():  # a loop would never end
            ignored.add("symbolic links to folders inside class folders", entry.path)
        elif (suffix := os.path.splitext(entry.name)[1].lower()) in HEIF and not reads_heif():  # noqa: PTH122
            ignored.add(f"HEIC pictures: {HEIF_ADVICE}", entry.path)
        elif suffix not in SUFFIXES | HEIF:
            ignored.add("files without an image's suffix", entry.path)
        elif not entry.is_file():
            ignored.add("pipes, sockets and devices", entry.path)
        else:
            paths.append(entry.path[prefix:])
    if not paths:
        ignored.add("folders without images", folder)
    return sorted(paths)


def _digests(root: Path, paths: list[bytes]) -> np.ndarray:
    """The SHA-256 of each file, uint8 (n, 32)."""

    def hash_some(start: int) -> bytes:
        found = []
        for path in paths[start : start + HASHED_AT_ONCE]:
            try:
                with open(join_bytes(root, path), "rb", buffering=0) as file:  # noqa: PTH123 - a path in bytes
                    found.append(sha256(file))
            except OSError as error:
                raise DataError(
                    f"{root}/{os.fsdecode(path)} cannot be read ({error.strerror}); change its permissions, or move it "
                    "out of the folder"
                ) from error
        return b"".join(found)

    joined = bytearray()
    logged = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        for some in pool.map(hash_some, range(0, len(paths), HASHED_AT_ONCE)):
            joined += some
            if time.monotonic() - logged > PROGRESS_SECONDS:
                logged = time.monotonic()
                logger.info("hashed %s of %s files", f"{len(joined) // 32:,}", f"{len(paths):,}")
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def _check_classes(root: Path, parts: list[ClassFolders]) -> None:
    """Raise DataError unless all parts have the same classes, two or more."""
    if not any(parts):
        raise DataError(
            f"{root} holds neither folders of images, one for each class (cats/1.jpg, or train/cats/1.jpg and "
            "test/cats/2.jpg), nor the files of the CIFAR-10 binary version (data_batch_1.bin to data_batch_5.bin and "
            "test_batch.bin)"
        )
    first, last = parts[0], parts[-1]
    for here, there, name in ((first, last, "test split"), (last, first, "training split")):
        missing = sorted(here.keys() - there.keys())
        if missing:
            raise DataError(
                f"{root}: the {name} has no images of {some_of(missing)}, unlike the other one; give both the same "
                "class folders"
            )
    if len(first) < 2:
        raise DataError(f"{root} holds images of one class only ({next(iter(first))}), expected two or more")


def _report_duplicates(files: ImageFiles, labels: np.ndarray, is_test: np.ndarray) -> None:
    """Log the files of equal content, one line for each kind.

    Args:
        files: sorted by content, split and class.
        labels: int64 (n,).
        is_test: bool (n,).
    """
    same = (files.digests[1:] == files.digests[:-1]).all(axis=1)
    other_class = labels[1:] != labels[:-1]
    other_split = is_test[1:] != is_test[:-1]

    def report(found: np.ndarray, what: str, level: int) -> None:
        rows = np.flatnonzero(found)
        if len(rows):
            pairs = [files.paths[row] + b" = " + files.paths[row + 1] for row in rows[:EXAMPLES]]
            logger.log(level, "%s: %s (%s)", what, f"{len(rows):,}", some_of(pairs, len(rows)))

    report(same & ~other_class & ~other_split, "duplicate images within a class, all of which count", logging.INFO)
    report(same & other_class, "duplicate images in different classes, so one label is wrong", logging.WARNING)
    report(same & other_split, "duplicate images in both splits, so test accuracy is too high", logging.WARNING)


def _check_distinct_images(
    root: Path, class_names: tuple[str, ...], digests: np.ndarray, labels: np.ndarray, groups: np.ndarray | None
) -> None:
    """Raise DataError if a class has one distinct image or group only: it cannot be split."""
    single = []
    for label, name in enumerate(class_names):
        found = digests if groups is None else groups[:, None]
        of_class = found[labels == label]
        if (of_class == of_class[0]).all():
            single.append(name)
    if single:
        what = "image" if groups is None else "group"
        raise DataError(
            f"{root} has only one {what} for {len(single):,} of {len(class_names):,} classes "
            f"({some_of(single)}), expected two, one for training and one for testing; add some, or make "
            "the splits yourself: folders train and test"
        )


def _warn_of_untested(class_names: tuple[str, ...], test_labels: np.ndarray) -> None:
    counts = np.bincount(test_labels, minlength=len(class_names))
    untested = [class_names[number] for number in np.flatnonzero(counts == 0)]
    if untested:
        logger.warning(
            "%s of %s classes have no test image, because theirs are training images of other classes (%s)",
            f"{len(untested):,}",
            f"{len(class_names):,}",
            some_of(untested),
        )
