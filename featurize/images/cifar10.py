"""CIFAR-10: the official archive, its binary files, and the sample that comes with the package.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. A record of a binary file is a label byte and the red, green and
blue plane of one image.
"""

import csv
import logging
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.core.errors import DataError
from featurize.core.files import data_root
from featurize.images.dataset import (
    BATCH_ROWS,
    ImageDataset,
    Images,
    PixelArray,
    Split,
    digests_of_pixels,
    update_with_pixels,
)
from featurize.images.downloads import CIFAR10, check, fetch
from featurize.images.resize import resized

if TYPE_CHECKING:
    from hashlib import _Hash

logger = logging.getLogger("frozenbench")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32  # bytes
BATCH = 10_000  # records in a file
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"

BUNDLED = Path(__file__).parents[1] / "bundled"
SAMPLE_DIGEST = "2536aefa73c3352f64d1247a91d61bec5a5cb98e6cfde906c4dbbc9613258abe"


@dataclass(frozen=True)
class RecordedImages:
    """Images in binary files, read when they become an array; see `dataset.Images`.

    Attributes:
        files: each file and its number of records, in order.
        rows: int64 (n,), indices of records, counted over all files.
    """

    files: tuple[tuple[Path, int], ...]
    rows: np.ndarray
    root = None
    paths = None
    shape = (32, 32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> "RecordedImages":
        return RecordedImages(self.files, self.rows[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        records = np.empty((len(self.rows), RECORD), np.uint8)
        first = 0
        for path, count in self.files:
            inside = np.flatnonzero((self.rows >= first) & (self.rows < first + count))
            # Consecutive records are read in one go.
            breaks = np.flatnonzero(np.diff(self.rows[inside]) != 1) + 1
            with path.open("rb") as file:
                for run in np.split(inside, breaks):
                    if len(run):
                        file.seek(int(self.rows[run[0]] - first) * RECORD)
                        records[run] = _parse_records(file.read(len(run) * RECORD), str(path), len(run))
            first += count
        return _pixels(records).astype(dtype or np.uint8, copy=False)

    def read(self, size: int, kernel: str, aspect: str) -> tuple[np.ndarray, dict[int, str]]:
        """See `Images.read`; nothing is skipped."""
        return resized(np.asarray(self), size, kernel, aspect), {}

    @cached_property
    def digests(self) -> np.ndarray:
        """See `Images.digests`."""
        return digests_of_pixels(self)

    def update_digest(self, digest: "_Hash") -> None:
        """See `Images.update_digest`."""
        update_with_pixels(digest, self)


Batch = tuple[Images, np.ndarray]
"""The images and labels, int64 (n,), of one file."""


def load_cifar10() -> ImageDataset:
    """CIFAR-10 from the data folder; downloaded there first (170 MB) if it is missing."""
    folder = data_root() / FOLDER
    if folder.is_dir():
        return load_cifar10_folder(folder)
    archive = fetch(CIFAR10, data_root())
    check(archive, CIFAR10)
    return read_cifar10_archive(archive)


def read_cifar10_archive(path: Path) -> ImageDataset:
    """Read the six batches of a CIFAR-10 tar file, without unpacking it; other members are ignored.

    Raises:
        DataError: a batch is missing, or is not a plain file of the expected size.
    """
    size = BATCH * RECORD
    batches: dict[str, Batch] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                folder, _, name = member.name.partition("/")
                if folder != FOLDER or name not in (*TRAIN_FILES, TEST_FILE):
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size != size or name in batches:
                    raise DataError(f"{path}: {member.name} is not one plain file of {size:,} bytes")
                batches[name] = _parse_batch(file.read(size), f"{path}: {name}")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is not a readable .tar.gz file: {error}") from error
    missing = sorted({*TRAIN_FILES, TEST_FILE} - set(batches))
    if missing:
        raise DataError(f"{path} holds no {FOLDER}/{missing[0]}")
    images = np.concatenate([np.asarray(batches[name][0]) for name in TRAIN_FILES])
    return _assemble(batches, PixelArray(images))


def load_cifar10_folder(path: Path) -> ImageDataset:
    """CIFAR-10's binary files from `path`, or from the folder of the official name inside it.

    A folder with fewer records than the official five batches is accepted with a warning, and the data set is
    called `cifar10-partial`.

    Raises:
        DataError: no such files, a truncated file, or labels out of range.
    """
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    present = [name for name in TRAIN_FILES if (folder / name).is_file()]
    if not present or not (folder / TEST_FILE).is_file():
        missing = TEST_FILE if present else f"{TRAIN_FILES[0]} ..."
        raise DataError(
            f"{folder} holds no {missing}; expected the files of the CIFAR-10 binary version "
            f"({TRAIN_FILES[0]} to {TRAIN_FILES[-1]} and {TEST_FILE})"
        )
    labels = {name: _read_labels(folder / name) for name in (*present, TEST_FILE)}
    batches: dict[str, Batch] = {}
    for name, found in labels.items():
        batches[name] = RecordedImages(((folder / name, len(found)),), np.arange(len(found))), found
    files = tuple((folder / name, len(labels[name])) for name in present)
    dataset = _assemble(batches, RecordedImages(files, np.arange(sum(count for _, count in files))))
    if dataset.name != "cifar10":
        logger.warning(
            "%s is not the whole of CIFAR-10: %d of 5 training batches, %s training images (official: 50,000) "
            "and %s test images (10,000); results are not comparable with published ones",
            folder,
            len(present),
            f"{len(dataset.splits['train']):,}",
            f"{len(dataset.splits['test']):,}",
        )
    return dataset


def is_cifar10_folder(path: Path) -> bool:
    """Whether a folder looks like CIFAR-10's binary files."""
    return any((path / name).exists() for name in (FOLDER, *TRAIN_FILES, TEST_FILE))


def load_sample() -> ImageDataset:
    """3,000 real CIFAR-10 images that come with the package: 2,000 for training, 1,000 for testing.

    These are the first 200 images of each class in the official training batches 1 to 4, and the first 100 in
    batch 5; ids are indices in the official training set. See bundled/README.md.

    Raises:
        DataError: the bundled files are not the ones that were shipped.
    """
    images = np.concatenate([_read_sheet(BUNDLED / f"cifar10_sample_{number}.webp") for number in range(3)])
    with (BUNDLED / "cifar10_sample.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    labels = np.array([int(record["label"]) for record in records], np.int64)
    ids = np.array([int(record["id"]) for record in records], np.int64)
    split_names = np.array([record["split"] for record in records])
    splits = {}
    for name in ("train", "test"):
        rows = split_names == name
        splits[name] = Split(PixelArray(images[rows]), labels[rows], ids[rows])
    dataset = ImageDataset("cifar10-sample", CLASSES, splits)
    if dataset.digest != SAMPLE_DIGEST:
        raise DataError(
            f"{BUNDLED}: the sample has digest {dataset.digest}, expected {SAMPLE_DIGEST}; "
            "reinstall the package: pip install --force-reinstall frozenbench"
        )
    return dataset


def _read_sheet(path: Path) -> np.ndarray:
    """The 1,000 images of a sheet, which has 25 rows of 40 tiles: uint8 (1000, 32, 32, 3)."""
    from PIL import Image

    sheet = np.asarray(Image.open(path).convert("RGB"))
    tiles = sheet.reshape(25, 32, 40, 32, 3).swapaxes(1, 2)
    return tiles.reshape(1000, 32, 32, 3)


def _parse_batch(content: bytes, where: str) -> Batch:
    records = _parse_records(content, where, _count_records(len(content), where))
    return PixelArray(_pixels(records)), records[:, 0].astype(np.int64)


def _read_labels(path: Path) -> np.ndarray:
    """The labels of a file, int64 (n,); its images are not held in memory."""
    count = _count_records(path.stat().st_size, str(path))
    labels = np.empty(count, np.int64)
    with path.open("rb") as file:
        for start in range(0, count, BATCH_ROWS):
            rows = min(BATCH_ROWS, count - start)
            records = _parse_records(file.read(rows * RECORD), str(path), rows, start)
            labels[start : start + rows] = records[:, 0]
    return labels


def _count_records(size: int, where: str) -> int:
    count, rest = divmod(size, RECORD)
    if rest or not 0 < count <= BATCH:
        raise DataError(
            f"{where} has {size:,} bytes, expected {BATCH:,} records (or fewer, whole ones) of {RECORD:,} bytes; it "
            "is truncated or not a CIFAR-10 binary file: fetch it again"
        )
    return count


def _parse_records(content: bytes, where: str, count: int, first: int = 0) -> np.ndarray:
    """Records as uint8 (count, 3073); `first` is the index of the first one, for messages."""
    if len(content) != count * RECORD:
        raise DataError(f"{where} became shorter while it was read; fetch it again")
    records = np.frombuffer(content, np.uint8).reshape(count, RECORD)
    bad = np.flatnonzero(records[:, 0] > 9)
    if len(bad):
        raise DataError(
            f"{where}: record {first + bad[0]} has label {records[bad[0], 0]}, expected 0 to 9; fetch the file again"
        )
    return records


def _pixels(records: np.ndarray) -> np.ndarray:
    """Records (n, 3073) -> images (n, 32, 32, 3)."""
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _assemble(batches: dict[str, Batch], train_images: Images) -> ImageDataset:
    """The data set of these files; ids are indices in the official training set."""
    labels = []
    ids = []
    for number, name in enumerate(TRAIN_FILES):
        if name in batches:
            labels.append(batches[name][1])
            ids.append(number * BATCH + np.arange(len(labels[-1])))
    test_images, test_labels = batches[TEST_FILE]
    splits = {
        "train": Split(train_images, np.concatenate(labels), np.concatenate(ids)),
        "test": Split(test_images, test_labels, np.arange(len(test_labels))),
    }
    whole = len(splits["train"]) == 5 * BATCH and len(splits["test"]) == BATCH
    return ImageDataset("cifar10" if whole else "cifar10-partial", CLASSES, splits)
