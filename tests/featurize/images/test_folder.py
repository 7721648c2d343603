import hashlib
import logging
import os
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pictures import write_picture

from featurize.core.errors import DataError, UsageError
from featurize.images import Split, load_dataset
from featurize.images import files as files_module
from featurize.images import folder as folder_module
from featurize.images.files import ImageFiles
from featurize.images.folder import load_image_folder
from featurize.images.splitting import EXAMPLES, SplitOptions


def fill(folder: Path, **classes: int) -> Path:
    """Class folders with so many files each; nothing is decoded here, so that any content will do."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / name / f"{number:03}.png").write_text(f"{name} {number}")
    return folder


def found_in(folder: Path) -> dict[str, dict[str, str]]:
    """Of each split the files' paths and the names of their classes."""
    dataset = load_image_folder(folder)
    found: dict[str, dict[str, str]] = {}
    for name, split in dataset.splits.items():
        classes = [dataset.class_names[label] for label in split.labels]
        found[name] = {os.fsdecode(path): label for path, label in zip(split.images.paths, classes, strict=True)}
    return found


def test_given_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", cats=3, dogs=2)
    fill(tmp_path / "test", dogs=1, cats=4)
    found = found_in(tmp_path)
    assert {name: len(files) for name, files in found.items()} == {"train": 5, "test": 7 - 2}
    assert found["train"]["train/dogs/001.png"] == "dogs"
    assert found["test"]["test/cats/003.png"] == "cats"


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_split_is_the_test_split_where_there_is_no_other(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fill(tmp_path / "train", cats=3, dogs=2)
    fill(tmp_path / name, cats=1, dogs=1)
    assert set(found_in(tmp_path)["test"]) == {f"{name}/cats/000.png", f"{name}/dogs/000.png"}
    assert "ignored" not in caplog.text
    fill(tmp_path / "test", cats=1, dogs=2)
    assert len(found_in(tmp_path)["test"]) == 3
    assert f"ignored: folders beside train and test, the test split: 1 ({name})" in caplog.text


def test_train_alone_is_split(tmp_path: Path) -> None:
    fill(tmp_path / "train", cats=30, dogs=30)
    inner, outer = found_in(tmp_path / "train"), found_in(tmp_path)
    assert {f"train/{path}": name for path, name in inner["test"].items()} == outer["test"]


def test_capital_letters_do_not_matter_in_the_splits_names(tmp_path: Path) -> None:
    fill(tmp_path / "Train", cats=3, dogs=2)
    fill(tmp_path / "Validation", cats=1, dogs=1)
    assert set(found_in(tmp_path)["test"]) == {"Validation/cats/000.png", "Validation/dogs/000.png"}


def test_train_may_be_a_class(tmp_path: Path) -> None:
    assert load_image_folder(fill(tmp_path, train=30, bus=30)).class_names == ("bus", "train")


@pytest.mark.parametrize("name", ["training", "Training"])
def test_training_and_testing(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name, cats=3, dogs=2)
    fill(tmp_path / "testing", cats=1, dogs=1)
    assert set(found_in(tmp_path)["test"]) == {"testing/cats/000.png", "testing/dogs/000.png"}


@pytest.mark.parametrize("fraction", [None, 0.01, 0.2, 0.5, 0.99])
def test_every_class_meets_the_fraction(tmp_path: Path, fraction: float | None) -> None:
    sizes = {"two": 2, "three": 3, "twelve": 12, "many": 333}
    dataset = load_image_folder(fill(tmp_path, **sizes), SplitOptions(fraction))
    for label, name in enumerate(dataset.class_names):
        test = int((dataset.splits["test"].labels == label).sum())
        train = int((dataset.splits["train"].labels == label).sum())
        assert test + train == sizes[name]
        assert min(test, train) >= 1
        assert abs(test - (fraction or 0.2) * sizes[name]) <= 1


def test_the_fraction_does_not_apply_to_given_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", cats=3, dogs=2)
    fill(tmp_path / "test", cats=3, dogs=2)
    with pytest.raises(UsageError, match="test_fraction: .* has splits of its own; leave out the option"):
        load_dataset(str(tmp_path), 0.5)
    with pytest.raises(UsageError, match="test_fraction: sample has splits and labels of its own"):
        load_dataset("sample", 0.5)
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=f"test_fraction {fraction}: expected a number above 0 and below 1"):
            load_dataset(str(tmp_path), fraction)


def test_folders_inside_class_folders(tmp_path: Path) -> None:
    fill(tmp_path / "cats", kittens=5, old=3)
    fill(tmp_path, cats=2, dogs=9)
    found = found_in(tmp_path)
    assert sum(map(len, found.values())) == 19
    assert (found["train"] | found["test"])["cats/kittens/004.png"] == "cats"
    (tmp_path / "cats" / "kittens" / "up").symlink_to(tmp_path / "cats")  # would never end
    assert found_in(tmp_path) == found


def test_the_order_mixes_the_classes(tmp_path: Path) -> None:
    dataset = load_image_folder(fill(tmp_path, ant=100, bee=100, cow=100))
    train = dataset.splits["train"]
    assert len(np.unique(train.labels[:20])) == 3
    digests = [digest.tobytes() for digest in train.images.digests]
    assert digests == sorted(digests)
    assert dataset.class_names == ("ant", "bee", "cow")


def test_few_images_move_when_files_come_go_or_are_renamed(tmp_path: Path) -> None:
    before = found_in(fill(tmp_path, cats=40, dogs=40))
    (tmp_path / "cats" / "007.png").rename(tmp_path / "cats" / "zzz.jpeg")
    renamed = found_in(tmp_path)
    side = "train" if "cats/007.png" in before["train"] else "test"
    assert set(renamed[side]) == set(before[side]) - {"cats/007.png"} | {"cats/zzz.jpeg"}
    fill(tmp_path, cats=50, eels=30)  # the border of the cats is at 10 instead of 8
    (tmp_path / "dogs" / "003.png").unlink()
    after = found_in(tmp_path)
    moved = [path for path in after["test"] if path in renamed["train"]]
    moved += [path for path in after["train"] if path in renamed["test"]]
    assert all(path.startswith("cats/") for path in moved)
    assert len(moved) <= 2 + 2


def test_the_digest_is_that_of_content_and_classes(tmp_path: Path) -> None:
    fill(tmp_path, cats=20, dogs=20)
    digest = load_dataset(str(tmp_path)).digest
    (tmp_path / "cats" / "000.png").rename(tmp_path / "cats" / "other name.JPG")
    assert load_dataset(str(tmp_path)).digest == digest
    (tmp_path / "cats" / "other name.JPG").rename(tmp_path / "dogs" / "x.png")
    moved = load_dataset(str(tmp_path)).digest
    assert moved != digest
    (tmp_path / "dogs" / "x.png").write_text("changed")
    assert load_dataset(str(tmp_path)).digest not in (digest, moved)


def test_a_splits_digest_is_that_of_its_files_content(tmp_path: Path) -> None:
    """The files' names do not count, their number, labels and every bit of their SHA-256 do."""
    digests = np.random.default_rng(0).integers(0, 256, (5, 32), np.uint8)
    other = digests.copy()
    other[4, 31] ^= 1

    def digest(path: bytes, content: np.ndarray) -> str:
        return Split(ImageFiles(tmp_path, np.array([path] * 5), content), np.zeros(5, int), np.arange(5)).digest

    assert digest(b"a", digests) == digest(b"b", digests) != digest(b"a", other)


def test_what_is_left_out_is_told_a_line_a_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outside = fill(tmp_path / "elsewhere", cats=1)
    root = fill(tmp_path / "images", cats=20, dogs=20)
    (root / "notes.txt").write_text("")
    (root / "empty").mkdir()
    (root / ".git").mkdir()
    (root / "cats" / "inner").mkdir()
    (root / "cats" / "around").symlink_to(root / "cats")
    (root / "cats" / "link.png").symlink_to(outside / "cats" / "000.png")
    (root / "linked").symlink_to(outside)
    (root / "cats" / "nowhere.png").symlink_to(root / "gone.png")
    (root / "cats" / "loop.png").symlink_to(root / "cats" / "loop.png")
    os.mkfifo(root / "cats" / "pipe.png")
    for number in range(EXAMPLES + 1):
        (root / "dogs" / f"._{number}.png").write_text("")
        (root / "dogs" / f"{number}.mov").write_text("")
    (root / "dogs" / "inside.png").symlink_to(root / "dogs" / "000.png")
    found = found_in(root)
    assert sum(map(len, found.values())) == 41  # the link inside the folder is one more
    lines = [line for line in caplog.messages if line.startswith("ignored: ")]
    for line in (
        "files beside the class folders: 1 (notes.txt)",
        "folders without images: 2 (cats/inner, empty)",
        "symbolic links to folders inside class folders: 1 (cats/around)",
        "pipes, sockets and devices: 1 (cats/pipe.png)",
    ):
        assert f"ignored: {line}" in lines
    (links,) = [line for line in lines if "links out of the folder" in line]
    assert "symbolic links out of the folder: 2 (" in links
    assert "cats/link.png" in links
    assert "linked" in links
    (hidden,) = [line for line in lines if "hidden" in line]
    assert f"hidden files and folders: {EXAMPLES + 2} (" in hidden
    assert hidden.endswith(", ...)")
    assert any("files without an image's suffix: 4 (" in line for line in lines)
    assert any("broken symbolic links: 2 (" in line for line in lines)
    assert len(lines) == 8


def test_copies_are_told_and_stay_on_one_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fill(tmp_path, cats=20, dogs=20)
    for name in ("b", "c"):
        (tmp_path / "cats" / f"{name}.png").write_text("cats 5")
    (tmp_path / "dogs" / "a.png").write_text("cats 6")
    found = found_in(tmp_path)
    assert any({"cats/005.png", "cats/b.png", "cats/c.png"} <= set(files) for files in found.values())
    assert any({"cats/006.png", "dogs/a.png"} <= set(files) for files in found.values())
    told = {record.message: record.levelname for record in caplog.records if record.message.startswith("duplicate")}
    assert told == {
        "duplicate images within a class, all of which count: 2 "
        "(cats/005.png = cats/b.png, cats/b.png = cats/c.png)": "INFO",
        "duplicate images in different classes, so one label is wrong: 1 "
        "(cats/006.png = dogs/a.png)": "WARNING",
    }  # fmt: skip


def test_copies_in_both_splits_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "train", cats=9, dogs=9)
    fill(tmp_path / "test", cats=5, dogs=1)
    found_in(tmp_path)
    (line,) = caplog.messages
    assert line.startswith("duplicate images in both splits, so test accuracy is too high: 6 (train/")
    assert line.endswith(", ...)")
    caplog.clear()
    (tmp_path / "test" / "dogs" / "000.png").write_text("cats 8")  # in both, and under two names
    found_in(tmp_path)
    assert [line.partition(" (")[0] for line in caplog.messages] == [
        "duplicate images in different classes, so one label is wrong: 1",
        "duplicate images in both splits, so test accuracy is too high: 6",
    ]


SAME_NAME = "have names that differ in case or Unicode form only"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "holds neither folders of images, one for each class .* nor the files of the CIFAR-10 binary version"),
        ({"cats": 0, "dogs": 0}, "holds neither folders of images"),
        ({"cats": 9}, r"holds images of one class only \(cats\), expected two or more"),
        ({"cats": 9, "dogs": 0}, "holds images of one class only"),
        ({"train": 9, "test": 9}, "holds neither folders of images"),  # no classes inside
        ({"train/cats": 3, "train/dogs": 3, "test/cats": 3}, "the test split has no images of dogs, unlike"),
        ({"train/cats": 3, "test/cats": 3, "test/Dogs": 3}, "the training split has no images of Dogs, unlike"),
        ({"train/cats": 3, "test/dogs": 3}, "the test split has no images of cats, unlike"),
        ({"train/cats": 3, "test/cats": 3}, "holds images of one class only"),
        ({"train/cats": 3, "train/dogs": 3, "test/cats": 0}, "the test split has no images of cats, dogs, unlike"),
        ({"cats": 9, "dogs": 1}, r"has only one image for 1 of 2 classes \(dogs\)"),
        ({"cats": 9, "Cats": 9}, SAME_NAME),
        ({"caf\u00e9": 9, "cafe\u0301": 9}, SAME_NAME),
        ({"train": 9, "Train": 9}, SAME_NAME),
        ({"train/\u00e9": 9, "train/E\u0301": 9, "test/\u00e9": 9}, SAME_NAME),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path: Path, layout: dict[str, int], message: str) -> None:
    fill(tmp_path, **layout)
    with pytest.raises(DataError, match=message) as raised:
        load_dataset(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_class_of_one_image_and_its_copies(tmp_path: Path) -> None:
    fill(tmp_path, a=5)
    (tmp_path / "b").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "b" / name).write_text("the same")
    with pytest.raises(DataError, match=r"has only one image for 1 of 2 classes \(b\), .*folders train and test"):
        load_image_folder(tmp_path)
    (tmp_path / "b" / "3.png").write_text("another")
    assert {len(split.labels[split.labels == 1]) for split in load_image_folder(tmp_path).splits.values()} == {1, 2}


def test_classes_of_the_same_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An image in two classes trains wherever one of them trains on it."""
    fill(tmp_path, a=2, b=9)
    (tmp_path / "c").mkdir()
    for number, path in enumerate(sorted((tmp_path / "a").iterdir())):
        (tmp_path / "c" / f"{number}.png").write_bytes(path.read_bytes())
    splits = load_image_folder(tmp_path).splits
    assert sorted(np.unique(splits["test"].labels)) == [0, 1, 2]  # both have the same border
    (tmp_path / "c" / "more.png").write_text("c 1")
    (tmp_path / "c" / "still more.png").write_text("c 2")
    splits = load_image_folder(tmp_path).splits
    train, test = (set(map(bytes, split.images.digests)) for split in splits.values())
    assert not train & test


def test_a_class_that_only_others_train_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = sorted((str(number) for number in range(9)), key=lambda text: hashlib.sha256(text.encode()).digest())
    for name, chosen in (("a", contents[2:4]), ("b", contents[:9])):
        (tmp_path / name).mkdir()
        for content in chosen:
            (tmp_path / name / f"{content}.png").write_text(content)
    assert set(load_image_folder(tmp_path).splits["test"].labels) == {1}
    assert "1 of 2 classes have no test image, because theirs are training images of other classes (a)" in caplog.text


def test_a_folder_or_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, cats=9, dogs=9)
    real_open, real_scandir = open, os.scandir

    def refused(path: bytes, *words: object, **named: object) -> object:
        if isinstance(path, bytes) and path.endswith(b"dogs/003.png"):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *words, **named)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        with pytest.raises(
            DataError, match=r"/dogs/003.png cannot be read \(Permission denied\); change its permissions"
        ):
            load_image_folder(tmp_path)

    def closed(path: bytes) -> object:
        if path.endswith(b"dogs"):
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"dogs cannot be listed \(Permission denied\); change its permissions"):
        load_image_folder(tmp_path)


def test_names_of_any_script(tmp_path: Path) -> None:
    names = ["\u732b", "\u0441\u043e\u0431\u0430\u043a\u0430", "caf\u00e9 au lait", "\U0001f42e", "-rf", "a\nb"]
    fill(tmp_path / "train", **dict.fromkeys(names, 2))
    fill(tmp_path / "test", **{unicodedata.normalize("NFD", name): 1 for name in names})
    dataset = load_image_folder(tmp_path)
    assert dataset.class_names == tuple(sorted(names))
    assert len(dataset.splits["test"]) == len(names)
    (tmp_path / "train" / "\u732b" / os.fsdecode(b"\xff.png")).write_text("a name that is no UTF-8")
    assert b"train/\xe7\x8c\xab/\xff.png" in load_image_folder(tmp_path).splits["train"].images.paths
    (tmp_path / "train" / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(DataError, match=r"\\xff' has a name that is not UTF-8 text; rename it"):
        load_image_folder(tmp_path)


def test_cifar10s_files_come_first(cifar_folder: Path, tmp_path: Path) -> None:
    fill(cifar_folder, cats=9, dogs=9)
    assert load_dataset(str(cifar_folder)).name == "cifar10-partial"
    fill(tmp_path / "mine", cats=20, dogs=20)
    dataset = load_dataset(str(tmp_path / "mine"))
    assert dataset.name == "mine"
    assert dataset.source == str(tmp_path / "mine")
    ids = dataset.splits["train"].ids
    assert ids.tolist() == list(range(len(ids)))


CONTENTS = st.lists(st.integers(0, 40), max_size=12)
LAYOUTS = st.dictionaries(
    st.text("abcdefgh\u00e9\u732b ", min_size=1, max_size=5).filter(str.strip), CONTENTS, max_size=4
)


@settings(max_examples=150, deadline=None)
@given(LAYOUTS, LAYOUTS)
def test_any_layout(train: dict[str, list[int]], test: dict[str, list[int]]) -> None:
    """What is found is what is there, on the side where it belongs; or it is refused for a reason that holds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written: dict[str, tuple[str, int]] = {}
        given_splits = bool(test)
        for split, classes in (("train", train), ("test", test)):
            for name, contents in classes.items():
                base = root / split / name if given_splits else root / name
                base.mkdir(parents=True)
                for number, content in enumerate(contents):
                    (base / f"{number}.png").write_text(str(content))
                    written[str((base / f"{number}.png").relative_to(root))] = (name, content)
        parts = [{name: set(contents) for name, contents in classes.items() if contents} for classes in (train, test)]
        if given_splits:
            good = train and parts[0].keys() == parts[1].keys() and len(parts[0]) > 1
        else:
            good = len(parts[0]) > 1 and all(len(contents) > 1 for contents in parts[0].values())
        if not good:
            with pytest.raises(DataError):
                load_image_folder(root)
            return
        found = found_in(root)
        assert {path: name for files in found.values() for path, name in files.items()} == {
            path: name for path, (name, _) in written.items()
        }
        for split, files in found.items():
            for path in files:
                assert not given_splits or path.startswith(f"{split}/")
        if not given_splits:
            contents = [{written[path][1] for path in files} for files in found.values()]
            assert not contents[0] & contents[1]


def test_long_work_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(folder_module, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(folder_module, "HASHED_AT_ONCE", 50)
    load_image_folder(fill(tmp_path, cats=60, dogs=60))
    told = [line for line in caplog.messages if line.startswith("hashed")]
    assert told == [f"hashed {count} of 120 files" for count in (50, 100, 120)]


def files_of(root: Path) -> ImageFiles:
    paths = sorted(os.fsencode(path.relative_to(root)) for path in root.rglob("*.*"))
    return ImageFiles(root, np.array(paths), folder_module._digests(root, paths))


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    pixels = [write_picture(tmp_path / f"{number:02}.png", number, 8, 8) for number in range(40)]
    files = files_of(tmp_path)
    found, problems = files.read(8, "bicubic", "crop")
    np.testing.assert_array_equal(found, pixels)
    assert problems == {}
    np.testing.assert_array_equal(
        files[np.array([7, 0, 7])].read(8, "bicubic", "crop")[0], [pixels[7], pixels[0], pixels[7]]
    )
    assert len(files[5:100]) == 35
    empty, problems = files[:0].read(8, "bicubic", "crop")
    assert empty.shape == (0, 8, 8, 3)


def test_what_cannot_be_read_is_black_and_has_a_reason(tmp_path: Path) -> None:
    for number in range(6):
        write_picture(tmp_path / f"{number}.png", number)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "2.png").write_bytes(b"")
    files = files_of(tmp_path)
    write_picture(tmp_path / "3.png", 99)
    (tmp_path / "4.png").unlink()
    found, problems = files.read(6, "bicubic", "crop")
    assert [bool(image.any()) for image in found] == [True, False, False, False, False, True]
    assert sorted(problems) == [1, 2, 3, 4]
    assert problems[1].startswith("cannot be read (")
    assert problems[2].startswith("no image of a format that is read here")
    assert problems[3] == "its content has changed since the folder was listed"
    assert problems[4] == "cannot be read (No such file or directory)"


def test_an_error_of_another_kind_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "1.png")

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    files = files_of(tmp_path)
    monkeypatch.setattr(files_module, "decoded", out_of_memory)
    with pytest.raises(MemoryError):
        files.read(6, "bicubic", "crop")


def test_files_larger_than_a_piece_are_hashed_whole(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * files_module.PIECE + 5)
    (tmp_path / "a.png").write_bytes(content)
    assert files_of(tmp_path).digests[0].tobytes() == hashlib.sha256(content).digest()
