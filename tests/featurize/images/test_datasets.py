import hashlib
import io
import logging
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_data import make_dataset

from featurize.core.errors import DataError, DownloadError, UsageError
from featurize.images import ImageDataset, Split, cifar10, class_counts, load_dataset
from featurize.images.cifar10 import BUNDLED, RECORD, load_sample, read_cifar10_archive


def test_binary_folder(cifar_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load_dataset(str(cifar_folder))
    train = dataset.splits["train"]
    assert dataset.name == "cifar10-partial"
    images = np.asarray(train.images)
    assert images.shape == (30, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(train.images[5:25], images[5:25])
    np.testing.assert_array_equal(train.images[np.array([29, 3, 4, 20, 0])], images[[29, 3, 4, 20, 0]])
    assert len(train.images[25:40]) == 5
    assert train.labels.dtype == np.int64
    assert train.ids.tolist() == [*range(20), *range(20_000, 20_010)]  # batch 3 keeps its place
    assert len(dataset.splits["test"]) == 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "2 of 5 training batches, 30 training images" in caplog.text
    inner = load_dataset(str(cifar_folder / "cifar-10-batches-bin"))
    assert inner.digest == dataset.digest


def test_pixels_keep_their_place_and_channel(tmp_path: Path) -> None:
    record = np.zeros(RECORD, np.uint8)
    record[0] = 3
    record[1 + 5 * 32 + 7] = 10  # red, row 5, column 7
    record[1 + 1024 + 5 * 32 + 7] = 20
    record[1 + 2048 + 5 * 32 + 7] = 30
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(record.tobytes())
    split = load_dataset(str(tmp_path)).splits["test"]
    images = np.asarray(split.images)
    assert images[0, 5, 7].tolist() == [10, 20, 30]
    assert images.sum() == 60
    assert split.labels.tolist() == [3]


@pytest.mark.parametrize("cut", [1, RECORD - 1])
def test_truncated_batch(cifar_folder: Path, cut: int) -> None:
    path = cifar_folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"data_batch_3.bin has .* truncated"):
        load_dataset(str(cifar_folder))


def test_a_batch_that_shrinks_while_it_is_used(cifar_folder: Path) -> None:
    dataset = load_dataset(str(cifar_folder))
    path = cifar_folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    np.asarray(dataset.splits["train"].images[:29])
    with pytest.raises(DataError, match="data_batch_3.bin became shorter"):
        np.asarray(dataset.splits["train"].images[28:])


def test_the_digest_does_not_tell_how_images_are_kept(cifar_folder: Path) -> None:
    split = load_dataset(str(cifar_folder)).splits["train"].first(25)
    assert Split(np.asarray(split.images), split.labels, split.ids).digest == split.digest


def test_empty_and_oversized_batch(cifar_folder: Path) -> None:
    path = cifar_folder / "cifar-10-batches-bin" / "test_batch.bin"
    for content in (b"", bytes(RECORD * 10_001)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="test_batch.bin has"):
            load_dataset(str(cifar_folder))


def test_label_out_of_range(cifar_folder: Path) -> None:
    path = cifar_folder / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[4 * RECORD] = 10
    path.write_bytes(content)
    with pytest.raises(DataError, match="record 4 has label 10, expected 0 to 9"):
        load_dataset(str(cifar_folder))


@pytest.mark.parametrize("missing", ["data_batch_*.bin", "test_batch.bin"])
def test_wrong_folder(cifar_folder: Path, missing: str) -> None:
    for path in (cifar_folder / "cifar-10-batches-bin").glob(missing):
        path.unlink()
    with pytest.raises(DataError, match="holds no " + missing.split("*")[0]):
        load_dataset(str(cifar_folder))


def test_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean cifar10"):
        load_dataset("cifar100")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="neither a folder nor"):
        load_dataset(str(tmp_path / "notes.txt"))


def test_cifar10_is_found_in_the_data_folder(cifar_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROZENBENCH_DATA", str(cifar_folder))
    assert len(load_dataset("cifar10").splits["train"]) == 30


def test_an_archive_of_another_content_is_refused(data_folder: Path) -> None:
    data_folder.mkdir()
    (data_folder / "cifar-10-binary.tar.gz").write_bytes(b"not it")
    with pytest.raises(DownloadError, match="has 6 bytes, expected 170,052,171; delete it"):
        load_dataset("cifar10")


def write_archive(path: Path, changes: dict[str, bytes | None] | None = None, extra: tuple = ()) -> None:
    batches = {f"cifar-10-batches-bin/data_batch_{n}.bin": bytes(2 * RECORD) for n in range(1, 6)}
    batches["cifar-10-batches-bin/test_batch.bin"] = bytes(2 * RECORD)
    batches.update(changes or {})
    with tarfile.open(path, "w:gz") as archive:
        for name, content in [*batches.items(), *extra]:
            if content is None:
                continue
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def two_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "BATCH", 2)


@pytest.mark.usefixtures("two_records")
def test_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = [("../outside.bin", b"x"), ("/tmp/absolute.bin", b"x"), ("cifar-10-batches-bin/readme.html", b"x")]
    write_archive(tmp_path / "good.tar.gz", extra=tuple(foreign))
    monkeypatch.chdir(tmp_path)
    dataset = read_cifar10_archive(tmp_path / "good.tar.gz")
    assert dataset.name == "cifar10"
    assert dataset.splits["train"].ids.tolist() == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["good.tar.gz"]  # nothing was unpacked


@pytest.mark.usefixtures("two_records")
@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({"cifar-10-batches-bin/test_batch.bin": None}, (), "holds no cifar-10-batches-bin/test_batch.bin"),
        ({"cifar-10-batches-bin/data_batch_2.bin": b"short"}, (), "data_batch_2.bin is not one plain file"),
        ({"cifar-10-batches-bin/data_batch_2.bin": "/etc/passwd"}, (), "data_batch_2.bin is not one plain file"),
        ({}, (("cifar-10-batches-bin/test_batch.bin", bytes(2 * RECORD)),), "is not one plain file"),
    ],
)
def test_bad_archives(tmp_path: Path, changes: dict, extra: tuple, message: str) -> None:
    write_archive(tmp_path / "bad.tar.gz", changes, extra)
    with pytest.raises(DataError, match=message):
        read_cifar10_archive(tmp_path / "bad.tar.gz")


@pytest.mark.usefixtures("two_records")
def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(b"no archive at all")
    with pytest.raises(DataError, match=r"not a readable .tar.gz"):
        read_cifar10_archive(path)
    write_archive(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="bad.tar.gz"):
        read_cifar10_archive(path)
    # Found by fuzzing: zlib's own error, behind a header that tarfile could read.
    with pytest.raises(DataError, match="not a readable .tar.gz file: .*while decompressing"):
        read_cifar10_archive(Path(__file__).parents[2] / "attacks" / "cifar10_broken_block.tar.gz")


def test_sample() -> None:
    dataset = load_sample()
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert np.bincount(train.labels).tolist() == [200] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert not set(train.ids) & set(test.ids)
    assert train.ids.max() < 40_000 <= test.ids.min()
    assert dataset.class_names[train.labels[0]] == "frog"  # CIFAR-10's first image


def test_the_sample_is_the_real_thing(shared: Path) -> None:
    import runpy

    images, labels = runpy.run_path(str(shared / "make_cifar10.py"))["load"]()
    for split in load_sample().splits.values():
        np.testing.assert_array_equal(split.images, images[split.ids])
        np.testing.assert_array_equal(split.labels, labels[split.ids])


def test_bundled_files_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (BUNDLED / "README.md").read_text(), re.MULTILINE)
    documented = dict(rows)
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in BUNDLED.iterdir()
        if path.suffix in {".h5", ".webp", ".csv"}
    }
    assert documented == found


def test_a_changed_sample_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in BUNDLED.glob("cifar10_sample*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "cifar10_sample.csv"
    table.write_text(table.read_text().replace("train,0,6", "train,0,5"))
    monkeypatch.setattr(cifar10, "BUNDLED", tmp_path)
    with pytest.raises(DataError, match="reinstall"):
        load_sample()


def npz_arrays() -> dict[str, np.ndarray]:
    splits = make_dataset(6, 3).splits
    return {
        "x_train": splits["train"].images,
        "y_train": splits["train"].labels,
        "x_test": splits["test"].images,
        "y_test": splits["test"].labels[:, None].astype(np.uint8),  # as keras.datasets has them
    }


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **npz_arrays())
    dataset = load_dataset(str(tmp_path / "mine.npz"))
    assert dataset.name == "mine"
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.splits["test"].labels.tolist() == [0, 1, 2]
    assert dataset.splits["test"].labels.dtype == np.int64


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 8, 8, 1)])
def test_grey_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "grey.npz", **{**npz_arrays(), "x_train": grey})
    images = np.asarray(ImageDataset.from_npz(tmp_path / "grey.npz").splits["train"].images)
    assert images.shape == (6, 8, 8, 3)
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel], grey.reshape(6, 8, 8))


def test_named_classes(tmp_path: Path) -> None:
    arrays = npz_arrays()
    names = np.array(["cow", "ant", "bee"])
    labels = {key: names[arrays[key].ravel()] for key in ("y_train", "y_test")}
    np.savez(tmp_path / "text.npz", **{**arrays, **labels})
    dataset = ImageDataset.from_npz(tmp_path / "text.npz")
    assert dataset.class_names == ("ant", "bee", "cow")
    for split in ("train", "test"):
        found = [dataset.class_names[label] for label in dataset.splits[split].labels]
        assert found == labels[f"y_{split}"].tolist()
    np.savez(tmp_path / "named.npz", **arrays, class_names=names)
    assert ImageDataset.from_npz(tmp_path / "named.npz").class_names == ("cow", "ant", "bee")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x_train", None, "holds no array x_train"),
        ("x_train", np.zeros((6, 8, 8, 3), np.float32), "x_train is float32"),
        ("x_train", np.zeros((6, 8, 8, 2), np.uint8), r"x_train is uint8 .*or grey images \(n, height, width\)"),
        ("x_train", np.zeros((6, 8), np.uint8), "x_train is uint8"),
        ("x_train", np.zeros((0, 8, 8, 3), np.uint8), "x_train is uint8"),
        ("x_test", np.array([{}], object), "cannot be read as plain arrays"),
        ("y_train", np.array([0, 1, 2, 0, 1]), "y_train has 5 labels for 6 images of x_train"),
        ("y_train", np.zeros((6, 2), np.int64), "y_train is int64"),
        ("y_train", np.array(["a", "b", "c", "a", "b", "c"]), "no image of class"),  # y_test has numbers
        ("class_names", np.array(["ant", "bee"]), r"class_names is <U3 \(2,\), expected strings \(3,\), one for each"),
        ("class_names", np.arange(3), r"class_names is int64 \(3,\), expected strings"),
        ("y_train", np.zeros(6), "y_train is float64"),
        ("y_train", np.array([0, 1, -1, 0, 1, 2]), "the label -1"),
        ("y_train", np.array([0, 2, 0, 2, 0, 2]), "no image of class 1"),
        ("y_test", np.array([0, 1, 10**15]), "no image of class 1000000000000000, which y_test has"),
    ],
)
def test_bad_npz(tmp_path: Path, name: str, value: np.ndarray | None, message: str) -> None:
    arrays = {**npz_arrays(), name: value}
    np.savez(tmp_path / "bad.npz", **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=message):
        ImageDataset.from_npz(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage", b"\x93NUMPY\x01\x00"])
def test_not_an_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as plain arrays"):
        ImageDataset.from_npz(tmp_path / "bad.npz")


def test_a_lone_array_is_not_an_npz(tmp_path: Path) -> None:
    with (tmp_path / "bad.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="cannot be read as plain arrays"):
        ImageDataset.from_npz(tmp_path / "bad.npz")


def test_the_digest_sees_every_change() -> None:
    base = make_dataset()
    train = base.splits["train"]
    swapped = train.labels.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    pixel = np.array(train.images)
    pixel[5, 3, 2, 1] ^= 1
    others = [
        Split(pixel, train.labels, train.ids),
        Split(train.images, swapped, train.ids),
        Split(train.images, train.labels, train.ids[::-1]),
        train.first(100),
    ]
    digests = {ImageDataset("x", base.class_names, {**base.splits, "train": split}).digest for split in others}
    digests.add(ImageDataset("x", ("ant", "bee", "dog"), base.splits).digest)
    assert len(digests) == 5
    assert base.digest not in digests
    assert ImageDataset("another name", base.class_names, base.splits).digest == base.digest


def test_first_images() -> None:
    dataset = make_dataset().first(train=7, test=None)
    assert [len(split) for split in dataset.splits.values()] == [7, 60]


def test_class_counts() -> None:
    def counted(*counts: int, test: tuple[int, ...] = (1, 1)) -> list[str]:
        splits = {
            name: Split(
                np.zeros((sum(some), 2, 2, 3), np.uint8), np.repeat(np.arange(len(some)), some), np.arange(sum(some))
            )
            for name, some in (("train", counts), ("test", test))
        }
        return class_counts(ImageDataset("x", tuple(f"c{number}" for number in range(len(counts))), splits))

    assert counted(1500, 1500) == [
        "train: 3,000 images of 2 classes, 1,500 each",
        "test: 2 images of 2 classes, 1 each",
    ]
    assert counted(30, 10)[0] == "train: 40 images of 2 classes, c0 30, c1 10"
    assert len(counted(30, 10, test=(9, 1))) == 2
    assert counted(10, 31)[1] == (
        "the largest class has 3.1 times as many training images as the smallest: consider "
        "frozenbench classify --class-weight balanced"
    )
    assert counted(5, 0)[0] == "train: 5 images of 2 classes, c0 5, c1 0"
    assert counted(*range(1, 21))[0] == "train: 210 images of 20 classes, 1 (c0) to 20 (c19)"
