"""Labelled images: CIFAR-10, the sample that comes with the package, class folders of images, or an .npz file.

Every source becomes an `ImageDataset`: uint8 images in NHWC order, labels, ids and class names.
"""

import csv
import hashlib
import json
import logging
import math
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.errors import DataError, UsageError, suggestion
from featurize.core.files import data_root
from featurize.images.downloads import CIFAR10, check, fetch
from featurize.images.folder import ImageFiles, read_folder

logger = logging.getLogger("frozenbench")

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label byte, then 1,024 red, 1,024 green and 1,024 blue bytes
CIFAR10_BATCH = 10_000
DIGEST_ROWS = 1_000  # images that are read at once where all are needed in turn
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST = "test_batch.bin"

CLASSES_SHOWN = 12
IMBALANCE = 3  # largest class over smallest, from which on weights are worth a thought

BUNDLED = Path(__file__).parents[1] / "bundled"
SAMPLE_DIGEST = "2536aefa73c3352f64d1247a91d61bec5a5cb98e6cfde906c4dbbc9613258abe"


@dataclass(frozen=True)
class RecordedImages:
    """Images in CIFAR-10's binary files, read when they are made an array.

    Indexing chooses images without reading them; `np.asarray` gives uint8 (n, 32, 32, 3).

    Attributes:
        files: each file and its number of records, in order.
        rows: int64 (n,), which records of all files together.
    """

    files: tuple[tuple[Path, int], ...]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> "RecordedImages":
        return RecordedImages(self.files, self.rows[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        records = np.empty((len(self.rows), CIFAR10_RECORD), np.uint8)
        first = 0
        for path, count in self.files:
            inside = np.flatnonzero((self.rows >= first) & (self.rows < first + count))
            with path.open("rb") as file:
                for run in np.split(inside, np.flatnonzero(np.diff(self.rows[inside]) != 1) + 1):
                    if len(run):
                        file.seek(int(self.rows[run[0]] - first) * CIFAR10_RECORD)
                        records[run] = _parse_records(file.read(len(run) * CIFAR10_RECORD), str(path), len(run))
            first += count
        return _pixels_of(records).astype(dtype or np.uint8, copy=False)


@dataclass(frozen=True)
class Split:
    """The images of one split, in the order of their source.

    Attributes:
        images: uint8 (n, height, width, 3), RGB; an array, what `np.asarray` makes one of, or image files.
        labels: int64 (n,), 0..K-1.
        ids: int64 (n,), the record's index in the source; of image files, the place in their order.
    """

    images: np.ndarray | RecordedImages | ImageFiles
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> "Split":
        """The first `count` images, or all of them."""
        return self[:count]

    def __getitem__(self, rows: Any) -> "Split":
        """Some of the images, by a slice, row numbers or a mask."""
        return Split(self.images[rows], self.labels[rows], self.ids[rows])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the ids, labels and pixels, or the files' content."""
        digest = hashlib.sha256()
        for kind, content in ((self.ids.dtype.str, self.ids), (self.labels.dtype.str, self.labels)):
            digest.update(f"{kind} {content.shape}".encode() + np.ascontiguousarray(content).tobytes())
        if isinstance(self.images, ImageFiles):
            digest.update(b"files" + self.images.digests.tobytes())
            return digest.hexdigest()
        shape = (len(self), *np.asarray(self.images[:1]).shape[1:])
        digest.update(f"{np.dtype(np.uint8).str} {shape}".encode())
        for start in range(0, len(self), DIGEST_ROWS):
            digest.update(np.ascontiguousarray(self.images[start : start + DIGEST_ROWS]).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images in the splits `train` and `test`; `source` is what loads them again."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    source: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the class names and every split: the name does not enter."""
        content = [self.class_names, {name: split.digest for name, split in self.splits.items()}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def first(self, **counts: int | None) -> "ImageDataset":
        """The first images of each split: `dataset.first(train=2000, test=None)`."""
        splits = {name: split.first(counts.get(name)) for name, split in self.splits.items()}
        return ImageDataset(self.name, self.class_names, splits, self.source)


def load_dataset(source: str) -> ImageDataset:
    """Load labelled images.

    Args:
        source: `cifar10`, `sample`, a folder with CIFAR-10's binary files, a folder with a folder of image
            files for each class, or an `.npz` file.

    Raises:
        UsageError: the source is neither a known name nor an existing path.
        DataError: the files are damaged or not of the expected layout.
        DownloadError: CIFAR-10 is not here and could not be fetched.
    """
    if source in DATASETS:
        return replace(DATASETS[source](), source=source)
    path = Path(source)
    if path.is_dir():
        load = load_cifar10_folder if _is_cifar10(path) else load_image_folder
        return replace(load(path), source=str(path.resolve()))
    if path.suffix == ".npz" and path.is_file():
        return replace(load_npz(path), source=str(path.resolve()))
    if path.exists():
        raise DataError(f"{path} is neither a folder nor an .npz file; see --data in python -m featurize --help")
    raise UsageError(f"--data {source}: no such file or folder; {suggestion(source, list(DATASETS))}")


def class_counts(dataset: ImageDataset) -> list[str]:
    """How many images the classes have, a line for each split, and one more where they are very unequal."""
    lines = []
    for name, split in dataset.splits.items():
        counts = np.bincount(split.labels, minlength=len(dataset.class_names))
        order = np.argsort(-counts, kind="stable")
        least, most = counts[order[-1]], counts[order[0]]
        if least == most:
            what = f"{most:,} each"
        elif len(counts) <= CLASSES_SHOWN:
            what = ", ".join(
                f"{class_name} {count:,}" for class_name, count in zip(dataset.class_names, counts, strict=True)
            )
        else:
            what = f"{least:,} ({dataset.class_names[order[-1]]}) to {most:,} ({dataset.class_names[order[0]]})"
        lines.append(f"{name}: {len(split):,} images of {len(counts):,} classes, {what}")
        if name == "train" and least and most > IMBALANCE * least:
            lines.append(
                f"the largest class has {most / least:.1f} times as many training images as the smallest: consider "
                "python -m classify --class-weight balanced"
            )
    return lines


def load_cifar10() -> ImageDataset:
    """CIFAR-10 from the data folder, downloaded there (170 MB) when it is not.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    folder = data_root() / CIFAR10_FOLDER
    if folder.is_dir():
        return load_cifar10_folder(folder)
    return load_cifar10_archive(fetch(CIFAR10, data_root()))


def load_cifar10_archive(path: Path) -> ImageDataset:
    """CIFAR-10 straight from the official tar file: nothing is unpacked to the disk.

    Raises:
        DownloadError: the archive is not the official one.
    """
    check(path, CIFAR10)
    return read_cifar10_archive(path)


def read_cifar10_archive(path: Path) -> ImageDataset:
    """Read the six batches of a CIFAR-10 tar file, ignoring every other member.

    Raises:
        DataError: a batch is missing, or is not a plain file of the expected size.
    """
    size = CIFAR10_BATCH * CIFAR10_RECORD
    batches = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                folder, _, name = member.name.partition("/")
                if folder != CIFAR10_FOLDER or name not in (*CIFAR10_TRAIN, CIFAR10_TEST):
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size != size or name in batches:
                    raise DataError(f"{path}: {member.name} is not one plain file of {size:,} bytes")
                batches[name] = _parse_cifar10(file.read(size), f"{path}: {name}")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is not a readable .tar.gz file: {error}") from error
    missing = sorted({*CIFAR10_TRAIN, CIFAR10_TEST} - set(batches))
    if missing:
        raise DataError(f"{path} holds no {CIFAR10_FOLDER}/{missing[0]}")
    return _assemble_cifar10(batches)


def load_cifar10_folder(path: Path) -> ImageDataset:
    """CIFAR-10's binary files from `path`, or from the folder of the official name inside it.

    A folder with fewer records than the official five batches is accepted with a warning, and the
    data set is then called `cifar10-partial`.

    Raises:
        DataError: no such files, a truncated file, or labels out of range.
    """
    folder = path / CIFAR10_FOLDER if (path / CIFAR10_FOLDER).is_dir() else path
    present = [name for name in CIFAR10_TRAIN if (folder / name).is_file()]
    if not present or not (folder / CIFAR10_TEST).is_file():
        missing = CIFAR10_TEST if present else f"{CIFAR10_TRAIN[0]} ..."
        raise DataError(
            f"{folder} holds no {missing}; expected the files of the CIFAR-10 binary version "
            f"({CIFAR10_TRAIN[0]} to {CIFAR10_TRAIN[-1]} and {CIFAR10_TEST})"
        )
    dataset = _assemble_cifar10({name: _recorded(folder / name) for name in (*present, CIFAR10_TEST)})
    if dataset.name != "cifar10":
        train, test = len(dataset.splits["train"]), len(dataset.splits["test"])
        logger.warning(
            "%s is not the whole of CIFAR-10: %d of 5 training batches, %s training images (official: 50,000) "
            "and %s test images (10,000); results are not comparable with published ones",
            folder, len(present), f"{train:,}", f"{test:,}",
        )  # fmt: skip
    return dataset


def _is_cifar10(path: Path) -> bool:
    return any((path / name).exists() for name in (CIFAR10_FOLDER, *CIFAR10_TRAIN, CIFAR10_TEST))


def load_image_folder(path: Path) -> ImageDataset:
    """A folder with a folder of image files for each class, or with such ones in `train` and in `test`.

    The data set is named after the folder. See `image_files.read_folder`.

    Raises:
        DataError: it is laid out otherwise, or cannot be used.
    """
    class_names, splits = read_folder(path)
    found = {name: Split(files, labels, np.arange(len(files))) for name, (files, labels) in splits.items()}
    return ImageDataset(path.resolve().name or "images", class_names, found)


Batch = tuple[np.ndarray | RecordedImages, np.ndarray]
"""Images (n, 32, 32, 3) and labels int64 (n,) of one of CIFAR-10's files."""


def _parse_cifar10(content: bytes, where: str) -> Batch:
    """The content of a file, read whole."""
    records = _parse_records(content, where, _count_records(len(content), where))
    return _pixels_of(records), records[:, 0].astype(np.int64)


def _recorded(path: Path) -> Batch:
    """A file's images, to be read later, and its labels."""
    count = _count_records(path.stat().st_size, str(path))
    labels = np.empty(count, np.int64)
    with path.open("rb") as file:
        for start in range(0, count, DIGEST_ROWS):
            rows = min(DIGEST_ROWS, count - start)
            labels[start : start + rows] = _parse_records(file.read(rows * CIFAR10_RECORD), str(path), rows, start)[
                :, 0
            ]
    return RecordedImages(((path, count),), np.arange(count)), labels


def _count_records(size: int, where: str) -> int:
    count, rest = divmod(size, CIFAR10_RECORD)
    if rest or not 0 < count <= CIFAR10_BATCH:
        raise DataError(
            f"{where} has {size:,} bytes, expected {CIFAR10_BATCH:,} records (or fewer, whole ones) of "
            f"{CIFAR10_RECORD:,} bytes; it is truncated or not a CIFAR-10 binary file: fetch it again"
        )
    return count


def _parse_records(content: bytes, where: str, count: int, first: int = 0) -> np.ndarray:
    """uint8 (count, 3073): a label and the planes of each record."""
    if len(content) != count * CIFAR10_RECORD:
        raise DataError(f"{where} became shorter while it was read; fetch it again")
    records = np.frombuffer(content, np.uint8).reshape(count, CIFAR10_RECORD)
    if records[:, 0].max() > 9:
        row = int(np.argmax(records[:, 0] > 9))
        raise DataError(
            f"{where}: record {first + row} has label {records[row, 0]}, expected 0 to 9; fetch the file again"
        )
    return records


def _pixels_of(records: np.ndarray) -> np.ndarray:
    """Records (n, 3073) -> images (n, 32, 32, 3)."""
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _assemble_cifar10(batches: dict[str, Batch]) -> ImageDataset:
    train = [name for name in CIFAR10_TRAIN if name in batches]
    ids = [CIFAR10_TRAIN.index(name) * CIFAR10_BATCH + np.arange(len(batches[name][1])) for name in train]
    splits = {
        "train": Split(
            _joined([batches[name][0] for name in train]),
            np.concatenate([batches[name][1] for name in train]),
            np.concatenate(ids),
        ),
        "test": Split(*batches[CIFAR10_TEST], np.arange(len(batches[CIFAR10_TEST][1]))),
    }
    whole = len(splits["train"]) == 5 * CIFAR10_BATCH and len(splits["test"]) == CIFAR10_BATCH
    return ImageDataset("cifar10" if whole else "cifar10-partial", CIFAR10_CLASSES, splits)


def _joined(images: list[np.ndarray | RecordedImages]) -> np.ndarray | RecordedImages:
    """The images of several files as those of one."""
    recorded = [each for each in images if isinstance(each, RecordedImages)]
    if len(recorded) < len(images):
        return np.concatenate(images)
    files = tuple(file for each in recorded for file in each.files)
    return RecordedImages(files, np.arange(sum(count for _, count in files)))


def load_sample() -> ImageDataset:
    """3,000 real CIFAR-10 images that come with the package: 2,000 to train, 1,000 to test.

    Of each class the first 200 of the official training batches 1 to 4 and the first 100 of batch
    5; ids are indices in the official training set. See bundled/README.md.

    Raises:
        DataError: the bundled files are not the ones that were shipped.
    """
    from PIL import Image

    sheets = [
        # 25 x 40 tiles of 32 x 32 pixels, row by row
        np.asarray(Image.open(BUNDLED / f"cifar10_sample_{number}.webp").convert("RGB"))
        .reshape(25, 32, 40, 32, 3)
        .swapaxes(1, 2)
        .reshape(1000, 32, 32, 3)
        for number in range(3)
    ]
    images = np.concatenate(sheets)
    with (BUNDLED / "cifar10_sample.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    splits = {}
    for name in ("train", "test"):
        where = [position for position, row in enumerate(rows) if row["split"] == name]
        splits[name] = Split(
            images[where],
            np.array([int(rows[position]["label"]) for position in where], np.int64),
            np.array([int(rows[position]["id"]) for position in where], np.int64),
        )
    dataset = ImageDataset("cifar10-sample", CIFAR10_CLASSES, splits)
    if dataset.digest != SAMPLE_DIGEST:
        raise DataError(
            f"{BUNDLED}: the sample has digest {dataset.digest}, expected {SAMPLE_DIGEST}; "
            "reinstall the package: pip install --force-reinstall frozenbench"
        )
    return dataset


def load_npz(path: Path) -> ImageDataset:
    """Images from an `.npz` file with `x_train`, `y_train`, `x_test` and `y_test`.

    `x_*` are uint8 (n, height, width, 3) RGB; `y_*` integers (n,) or (n, 1), 0..K-1. Ids are row
    numbers; class names are the numbers themselves.

    Raises:
        DataError: an array is missing, holds objects, or has another shape or type.
    """
    arrays = _read_npz(path, ["x_train", "y_train", "x_test", "y_test"])
    splits = {}
    for name in ("train", "test"):
        x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not x.size:
            raise DataError(
                f"{path}: x_{name} is {x.dtype} {x.shape}, expected uint8 (n, height, width, 3) with values 0..255"
            )
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise DataError(f"{path}: y_{name} is {y.dtype} {y.shape}, expected integers ({len(x)},)")
        if y.min() < 0:
            raise DataError(f"{path}: y_{name} holds the label {y.min()}, expected labels from 0")
        splits[name] = Split(x, y.astype(np.int64), np.arange(len(x)))
    classes = 1 + max(int(split.labels.max()) for split in splits.values())
    present = np.unique(splits["train"].labels)
    if len(present) < classes:
        absent = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise DataError(f"{path}: y_train has no image of class {absent}, expected every class from 0 to {classes - 1}")
    return ImageDataset(path.stem, tuple(map(str, range(classes))), splits)


def _read_npz(path: Path, names: Iterable[str]) -> dict[str, Any]:
    try:
        with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [name for name in names if name not in held]
            if missing:
                raise DataError(f"{path} holds no array {missing[0]} (it holds: {', '.join(held[:20])})")
            return {name: _read_npy(archive, archive.getinfo(f"{name}.npy")) for name in names}
    except (
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{path} cannot be read as plain arrays: {error}; write it with np.savez(path, x_train=..., ...)"
        ) from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, whose header may not claim more than the member holds: np.load would make room for it."""
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(
                f"{member.filename} holds objects, or another number of bytes than its shape {shape} takes"
            )
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


DATASETS: dict[str, Callable[[], ImageDataset]] = {"cifar10": load_cifar10, "sample": load_sample}
