"""Class folders of image files: which files there are, what is in them, and which split each belongs to.

    FOLDER/cats/1.jpg                                   split by content, a fifth to test
    FOLDER/train/cats/1.jpg, FOLDER/test/cats/2.jpg     split as given

A file is known by the SHA-256 of its content: that decides its split and its place in the order, so that
neither changes when files are added, removed or renamed. Nothing is decoded before its size is known.
"""

import hashlib
import logging
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from featurize.core.errors import DataError
from featurize.images.decode import decoded

logger = logging.getLogger("frozenbench")

SUFFIXES = frozenset(b".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that is there
TEST_SHARE = 0.2  # of the images of a folder without splits
EXAMPLES = 3
WORKERS = min(8, os.cpu_count() or 1)  # each holds a whole image in memory
HASHED_AT_ONCE = 256
PIECE = 1 << 16
TELL_SECONDS = 10.0


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded when it is known to what size.

    Indexing chooses files without reading them.

    Attributes:
        root: the folder that they are in.
        paths: bytes (n,), below `root`, as the file system has them.
        digests: uint8 (n, 32), the SHA-256 of each file's content.
    """

    root: Path
    paths: np.ndarray
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Any) -> "ImageFiles":
        return ImageFiles(self.root, self.paths[key], self.digests[key])

    def read(self, size: int, kernel: str, aspect: str) -> tuple[np.ndarray, dict[int, str]]:
        """Decode all of them, several at a time.

        Args:
            size: height and width of the result, in pixels.
            kernel: one of `resize.KERNELS`.
            aspect: one of `resize.ASPECTS`.

        Returns:
            uint8 (n, size, size, 3), RGB, and for each row that could not be read, and is black, the reason.
        """
        pixels = np.zeros((len(self), size, size, 3), np.uint8)
        problems: dict[int, str] = {}

        def read(row: int) -> None:
            try:
                pixels[row] = self._decoded(row, size, kernel, aspect)
            except DataError as problem:
                problems[row] = str(problem)

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(read, range(len(self))))
        return pixels, problems

    def _decoded(self, row: int, size: int, kernel: str, aspect: str) -> np.ndarray:
        try:
            with open(_joined(self.root, self.paths[row]), "rb") as file:  # noqa: PTH123 - a path in bytes
                if _sha256(file) != self.digests[row].tobytes():
                    raise DataError("its content has changed since the folder was looked through")
                file.seek(0)
                return decoded(file, size, size, kernel, aspect)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})") from error


def read_folder(root: Path) -> tuple[tuple[str, ...], dict[str, tuple[ImageFiles, np.ndarray]]]:
    """List the class folders in `root`, hash their images and tell the splits apart.

    What is left out, and what is there twice, is logged, a line each kind.

    Args:
        root: an existing folder.

    Returns:
        The class names, sorted, and of each split (`train`, `test`) its images in the order of their
        SHA-256, which mixes the classes, with their labels, int64 (n,).

    Raises:
        DataError: there are no class folders, one class only, a class that cannot be split, names that
            collide, splits of different classes, or something that cannot be read.
    """
    root = root.resolve()
    left_out = _LeftOut(root)
    parts = [
        {name: found for name, folder in classes.items() if (found := _images(folder, left_out))}
        for classes in _parts(root, left_out)
    ]
    left_out.tell()
    _check_classes(root, parts)
    class_names = tuple(parts[0])
    paths = [path for classes in parts for found in classes.values() for path in found]
    counts = [[len(classes[name]) for name in class_names] for classes in parts]
    label = np.concatenate([np.repeat(np.arange(len(class_names)), each) for each in counts])
    files = ImageFiles(root, np.array(paths), _digests(root, paths))
    words = files.digests.view(">u8")  # (n, 4)
    if len(parts) == 2:
        test = np.repeat([False, True], [sum(each) for each in counts])
    else:
        test = words[:, 0] < np.uint64(TEST_SHARE * 2**64)
    order = np.lexsort((test, *words.T[::-1]))  # by content, then split; the rest stays: by class and name
    files, label, test = files[order], label[order], test[order]
    copies = _copies(files, label, test)
    if len(parts) == 1:
        _check_split(root, class_names, label, test, copies)
    return class_names, {name: (files[side], label[side]) for name, side in (("train", ~test), ("test", test))}


@dataclass
class _LeftOut:
    """What is in the folder and not read: of each kind the number, and the first few."""

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, kind: str, path: bytes) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES:
            self.examples.setdefault(kind, []).append(path.removeprefix(_joined(self.root, b"")))

    def tell(self) -> None:
        for kind, count in self.counts.items():
            logger.info("left out: %s: %s (%s)", kind, f"{count:,}", _some(self.examples[kind], count))


def _parts(root: Path, left_out: _LeftOut) -> list[dict[str, bytes]]:
    """The class folders of the images that are to be split, or those to train on and those to test on."""
    folders = _subfolders(os.fsencode(root), left_out)
    lower = {name.lower(): name for name in folders}
    splits = [lower[name] for name in ("train", *TEST_FOLDERS) if name in lower]
    if "train" in lower and len(splits) > 1:
        train, test, *_ = splits
        for name in sorted(folders.keys() - {train, test}):
            left_out.add(f"folders beside {train} and {test}, the test split", folders[name])
        return [_subfolders(folders[name], left_out) for name in (train, test)]
    return [_subfolders(folders[lower["train"]], left_out) if list(lower) == ["train"] else folders]


def _entries(folder: bytes, left_out: _LeftOut) -> Iterator["os.DirEntry[bytes]"]:
    """What is in a folder, but for what is hidden and for links that lead out of `left_out.root`."""
    inside = _joined(left_out.root, b"")
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    left_out.add("hidden files and folders", entry.path)
                elif entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                    left_out.add("symbolic links out of the folder", entry.path)
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - a path in bytes
                    left_out.add("symbolic links to nothing", entry.path)
                else:
                    yield entry
    except OSError as error:
        raise DataError(f"{os.fsdecode(folder)} cannot be listed ({error.strerror}); change its permissions") from error


def _subfolders(folder: bytes, left_out: _LeftOut) -> dict[str, bytes]:
    """The folders in a folder: name, in Unicode's normal form C, and path; sorted.

    Raises:
        DataError: a name is no text, or two are the same but for case or normal form.
    """
    found: dict[str, tuple[str, bytes]] = {}
    for entry in _entries(folder, left_out):
        if not entry.is_dir():
            left_out.add("files beside the class folders", entry.path)
            continue
        try:
            name = unicodedata.normalize("NFC", entry.name.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"the folder {entry.path!r} has a name that is no UTF-8 text; rename it") from error
        if other := found.get(name.casefold()):
            raise DataError(
                f"the folders {os.fsdecode(other[1])} and {os.fsdecode(entry.path)} have names that differ in case or "
                "Unicode form only; rename one, or join them"
            )
        found[name.casefold()] = (name, entry.path)
    return dict(sorted(found.values()))


def _images(folder: bytes, left_out: _LeftOut) -> list[bytes]:
    """The paths, below `left_out.root`, of the image files in a class folder; sorted."""
    start = len(_joined(left_out.root, b""))
    paths = []
    for entry in _entries(folder, left_out):
        if entry.is_dir():
            left_out.add("folders inside class folders", entry.path)
        elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:  # noqa: PTH122 - a path in bytes
            left_out.add("files whose names are not those of images", entry.path)
        elif not entry.is_file():
            left_out.add("pipes, sockets and the like", entry.path)
        else:
            paths.append(entry.path[start:])
    if not paths:
        left_out.add("folders without images", folder)
    return sorted(paths)


def _digests(root: Path, paths: list[bytes]) -> np.ndarray:
    """The SHA-256 of each file, uint8 (n, 32)."""

    def several(start: int) -> bytes:
        found = []
        for path in paths[start : start + HASHED_AT_ONCE]:
            try:
                with open(_joined(root, path), "rb", buffering=0) as file:  # noqa: PTH123 - a path in bytes
                    found.append(_sha256(file))
            except OSError as error:
                raise DataError(
                    f"{root}/{os.fsdecode(path)} cannot be read ({error.strerror}); change its permissions, or move it "
                    "out of the folder"
                ) from error
        return b"".join(found)

    joined, told = bytearray(), time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        for some in pool.map(several, range(0, len(paths), HASHED_AT_ONCE)):
            joined += some
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                logger.info("looked at %s of %s files", f"{len(joined) // 32:,}", f"{len(paths):,}")
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def _sha256(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.digest()


def _check_classes(root: Path, parts: list[dict[str, list[bytes]]]) -> None:
    """Raise DataError unless all parts have the same classes, two or more."""
    if not any(parts):
        raise DataError(
            f"{root} holds neither folders of images, one for each class (cats/1.jpg, or train/cats/1.jpg and "
            "test/cats/2.jpg), nor the files of the CIFAR-10 binary version (data_batch_1.bin to data_batch_5.bin and "
            "test_batch.bin)"
        )
    for here, there, name in ((parts[0], parts[-1], "test split"), (parts[-1], parts[0], "training split")):
        if missing := sorted(here.keys() - there.keys()):
            raise DataError(
                f"{root}: the {name} has no images of {_some(missing, len(missing))}, unlike the other one; give both "
                "the same class folders"
            )
    if len(parts[0]) < 2:
        raise DataError(f"{root} holds images of one class only ({next(iter(parts[0]))}), expected two or more")


def _copies(files: ImageFiles, label: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Find files of the same content, and log them, a line each kind.

    Args:
        files: sorted by content, split and class.
        label: int64 (n,), of each.
        test: bool (n,), which are to test on.

    Returns:
        bool (n,), which are copies of a file before them in the same class.
    """
    same = (files.digests[1:] == files.digests[:-1]).all(axis=1)
    other_class, other_split = label[1:] != label[:-1], test[1:] != test[:-1]
    for found, what, level in (
        (same & ~other_class & ~other_split, "copies of others in their class, and count all the same", logging.INFO),
        (same & other_class, "copies of files in another class, so that one label is wrong", logging.WARNING),
        (same & other_split, "in both splits, so that the test figures will be too good", logging.WARNING),
    ):
        if count := int(found.sum()):
            pairs = [files.paths[row] + b" = " + files.paths[row + 1] for row in np.flatnonzero(found)[:EXAMPLES]]
            logger.log(level, "images that are %s: %s (%s)", what, f"{count:,}", _some(pairs, count))
    return np.concatenate([[False], same & ~other_class])


def _check_split(
    root: Path, class_names: tuple[str, ...], label: np.ndarray, test: np.ndarray, copies: np.ndarray
) -> None:
    """Look at what a split by content has come to.

    Raises:
        DataError: a class has one picture only or none to train on, or there is nothing to test on.
    """
    rows = [np.bincount(label[these], minlength=len(class_names)) for these in (~copies, ~test, test)]
    single, untrained, untested = ([class_names[number] for number in np.flatnonzero(count < least)]
                                   for count, least in zip(rows, (2, 1, 1), strict=True))  # fmt: skip
    for names, what in (
        (single, "only one picture for"),
        (untrained, "nothing to train on for"),
        (untested if not test.any() else [], "nothing to test on for"),
    ):
        if names:
            raise DataError(
                f"{root} has {what} {len(names):,} of {len(class_names):,} classes ({_some(names, len(names))}), where "
                f"each picture's content decides whether it is one of the {TEST_SHARE:.0%} to test on; add some, or "
                "make the splits yourself: folders train and test"
            )
    if untested:
        logger.warning(
            "%s of %s classes have no picture in the test split, as each picture's content decides its split (%s)",
            f"{len(untested):,}", f"{len(class_names):,}", _some(untested, len(untested)),
        )  # fmt: skip


def _joined(root: Path, path: bytes) -> bytes:
    return os.path.join(os.fsencode(root), path)  # noqa: PTH118 - a path in bytes


def _some(names: Sequence[str | bytes], count: int) -> str:
    """The first few names, and that there are more, as text."""
    shown = [name if isinstance(name, str) else name.decode(errors="replace") for name in names[:EXAMPLES]]
    return ", ".join([*shown, "..."] if count > EXAMPLES else shown)
