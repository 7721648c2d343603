"""Class folders of image files: the files, their content, and the split of each.

    FOLDER/cats/1.jpg                                   split by content, a fifth of each class to test
    FOLDER/train/cats/1.jpg, FOLDER/test/cats/2.jpg     split as given

The SHA-256 of a file's content decides its split and its position in the order, whatever its name. Nothing is
decoded here.
"""

import logging
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurize.core.errors import DataError, UsageError
from featurize.images.dataset import ImageDataset, Split
from featurize.images.files import WORKERS, ImageFiles, join_bytes, sha256

logger = logging.getLogger("frozenbench")

SUFFIXES = frozenset(b".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
TRAIN_FOLDERS = ("train", "training")  # the first that exists
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")  # the first that exists
TEST_FRACTION = 0.2  # of the images of each class, in a folder without splits
EXAMPLES = 3
HASHED_AT_ONCE = 256
PROGRESS_SECONDS = 10.0

ClassFolders = dict[str, list[bytes]]
"""Class name -> the paths of its image files below the root."""


def load_image_folder(root: Path, test_fraction: float | None = None) -> ImageDataset:
    """A data set from class folders, named after the folder.

    Ignored entries and duplicate images are logged, one line for each kind. The images of a split are in the
    order of their SHA-256, which mixes the classes.

    Args:
        root: an existing folder.
        test_fraction: share of each class that is for testing, 0..1, if the folder has no splits; None for
            `TEST_FRACTION`.

    Raises:
        UsageError: the folder has splits of its own, and a test fraction is given.
        DataError: there are no class folders, one class only, a class that cannot be split, colliding names,
            splits with different classes, or an entry that cannot be read.
    """
    root = root.resolve()
    parts = _list_images(root)
    _check_classes(root, parts)
    class_names = tuple(parts[0])
    files, labels, in_second = _flatten(root, parts, class_names)

    # By content. The sort is stable, so equal files stay in the order of split, class and name.
    order = np.lexsort(files.digests.view(">u8").T[::-1])
    files, labels, in_second = files[order], labels[order], in_second[order]
    if len(parts) == 2:
        if test_fraction is not None:
            raise UsageError(f"--test-fraction: {root} has splits of its own; leave out the option")
        is_test = in_second
    else:
        _check_distinct_images(root, class_names, files.digests, labels)
        is_test = split_by_content(files.digests, labels, test_fraction or TEST_FRACTION)
    _report_duplicates(files, labels, is_test)
    splits = {}
    for split, rows in (("train", ~is_test), ("test", is_test)):
        splits[split] = Split(files[rows], labels[rows], np.arange(np.count_nonzero(rows)))
    _warn_of_untested(class_names, splits["test"].labels)
    return ImageDataset(root.name or "images", class_names, splits, test_fraction=test_fraction)


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
    is_new = np.ones(len(labels), bool)
    is_new[1:] = (digests[1:] != digests[:-1]).any(axis=1)
    content = np.cumsum(is_new)  # equal images have the same number
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
            logger.info("ignored: %s: %s (%s)", kind, f"{count:,}", _some(self.examples[kind], count))


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
    trains = [lower[name] for name in TRAIN_FOLDERS if name in lower]
    tests = [lower[name] for name in TEST_FOLDERS if name in lower]
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
        elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:  # noqa: PTH122 - a path in bytes
            ignored.add("files without an image's suffix", entry.path)
        elif not entry.is_file():
            ignored.add("pipes, sockets and devices", entry.path)
        else:
            paths.append(entry.path[prefix:])
    if not paths:
        ignored.add("folders without images", folder)
    return sorted(paths)


def _flatten(
    root: Path, parts: list[ClassFolders], class_names: tuple[str, ...]
) -> tuple[ImageFiles, np.ndarray, np.ndarray]:
    """All files of all parts, by part, class and name; their labels, int64 (n,); and whether the second part's."""
    paths: list[bytes] = []
    labels: list[int] = []
    in_second: list[bool] = []
    for number, part in enumerate(parts):
        for label, name in enumerate(class_names):
            found = part[name]
            paths += found
            labels += [label] * len(found)
            in_second += [number == 1] * len(found)
    files = ImageFiles(root, np.array(paths), _digests(root, paths))
    return files, np.array(labels, np.int64), np.array(in_second)


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
                f"{root}: the {name} has no images of {_some(missing, len(missing))}, unlike the other one; give both "
                "the same class folders"
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
            logger.log(level, "%s: %s (%s)", what, f"{len(rows):,}", _some(pairs, len(rows)))

    report(same & ~other_class & ~other_split, "duplicate images within a class, all of which count", logging.INFO)
    report(same & other_class, "duplicate images in different classes, so one label is wrong", logging.WARNING)
    report(same & other_split, "duplicate images in both splits, so test accuracy is too high", logging.WARNING)


def _check_distinct_images(root: Path, class_names: tuple[str, ...], digests: np.ndarray, labels: np.ndarray) -> None:
    """Raise DataError if a class has one distinct image only: it cannot be split."""
    single = []
    for label, name in enumerate(class_names):
        found = digests[labels == label]
        if (found == found[0]).all():
            single.append(name)
    if single:
        raise DataError(
            f"{root} has only one image for {len(single):,} of {len(class_names):,} classes "
            f"({_some(single, len(single))}), expected two, one for training and one for testing; add some, or make "
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
            _some(untested, len(untested)),
        )


def _some(names: Sequence[str | bytes], count: int) -> str:
    """The first few of `count` names, as text."""
    shown = [name if isinstance(name, str) else name.decode(errors="replace") for name in names[:EXAMPLES]]
    return ", ".join([*shown, "..."] if count > EXAMPLES else shown)
