"""A stranger's folders and commands: no traceback, one line for a refusal, and a remedy that works.

The commands run in this process, in an empty folder, as the console command `frozenbench`.
"""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from tiny_pictures import write_picture

from analysis import frozenbench

Build = Callable[[Path], object]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which `data` and `photos` will be."""
    monkeypatch.delenv("FROZENBENCH_DATA")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path.cwd()


def given(line: str) -> Done:
    """Run `frozenbench LINE`; a word may contain a space as `~`."""
    words = [word.replace("~", " ") for word in line.split()]
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("frozenbench")
    handlers, level = list(logger.handlers), logger.level
    try:
        with (
            mock.patch.object(sys, "argv", ["frozenbench", *words]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            frozenbench.main()
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    assert "Traceback" not in err.getvalue() + out.getvalue()
    code = end.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def works(line: str) -> Done:
    """Run a command that must succeed."""
    done = given(line)
    assert done.code == 0, done.err
    return done


def refused(line: str, code: int, *parts: str) -> Done:
    """Run a command that must be refused with one line that holds the parts."""
    done = given(line)
    errors = [text for text in done.err.splitlines() if text.startswith("error: ")]
    assert done.code == code, done.err
    assert len(errors) == 1, done.err
    for part in parts:
        assert part in errors[0], errors[0]
    assert done.out == ""
    return done


def photos(root: Path, names: tuple[str, ...] = ("cat", "dog"), each: int = 4, suffix: str = "png") -> Path:
    """Class folders with pictures of random pixels."""
    for k, name in enumerate(names):
        for number in range(each):
            write_picture(root / name / f"{number}.{suffix}", 100 * k + number, 8 + number % 3, 9)
    return root


def of_classes(*names: str, each: int = 4, suffix: str = "png") -> Build:
    return lambda root: photos(root, names, each, suffix)


def in_splits(train: str, test: str) -> Build:
    def build(root: Path) -> None:
        photos(root / train)
        photos(root / test, each=5)

    return build


def with_files(*files: tuple[str, bytes]) -> Build:
    def build(root: Path) -> None:
        photos(root)
        for name, content in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    return build


def in_modes(root: Path) -> None:
    photos(root)
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for mode in ("L", "RGBA", "P", "CMYK", "1", "LA"):
        suffix = "tiff" if mode in ("CMYK", "LA") else "png"
        grey.convert("L").convert("RGBA" if mode == "LA" else mode).save(root / "cat" / f"{mode}.{suffix}")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999).save(root / "dog" / "16-bit.png")


def in_formats(root: Path) -> None:
    photos(root)
    for number, suffix in enumerate(("jpg", "JPEG", "webp", "bmp", "gif", "tif", "ppm")):
        write_picture(root / "dog" / f"more{number}.{suffix}", number)


def nested(root: Path) -> None:
    photos(root / "cat", ("2023", "2024"))
    photos(root / "dog", ("2023", "2024/may"))


def copies(root: Path) -> None:
    photos(root)
    for number in range(3):
        (root / "cat" / f"copy{number}.png").write_bytes((root / "cat" / "0.png").read_bytes())
    (root / "dog" / "stolen.png").write_bytes((root / "cat" / "1.png").read_bytes())


def linked(root: Path) -> None:
    photos(root.parent / "real")
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for file in (root.parent / "real" / name).iterdir():
            (root / name / file.name).write_bytes(file.read_bytes())
    (root / "cat" / "same.png").symlink_to(root / "cat" / "0.png")
    (root / "cat" / "gone.png").symlink_to(root / "cat" / "nothing.png")


def shaped(root: Path) -> None:
    photos(root)
    for number, (height, width) in enumerate([(1, 1), (1, 300), (300, 1), (2, 2)]):
        write_picture(root / "cat" / f"shape{number}.png", number, height, width)


FOLDERS: dict[str, tuple[Build, str]] = {
    "three classes of three": (of_classes("a", "b", "c", each=3), ""),
    "two classes of two": (of_classes("a", "b", each=2), ""),
    "numbers as names": (of_classes("0", "1", "10"), ""),
    "spaces and quotes": (of_classes("my cat", 'dog\'s "best"'), ""),
    "umlauts, Chinese, emoji": (of_classes("Kätzchen", "猫", "🐶"), ""),
    "formulas and markup": (of_classes("$5", "[red]", "$\\undefined$", "<b>&amp;"), ""),
    "a hundred characters": (of_classes("x" * 100, "x" * 99 + "y"), ""),
    "dashes first": (of_classes("-v", "--help"), ""),
    "a line feed": (of_classes("two\nlines", "one"), ""),
    "a hundred classes": (of_classes(*(f"species {k}" for k in range(100)), each=2), ""),
    "a class called train": (of_classes("train", "plane"), ""),
    "fifty to two": (lambda root: (photos(root, ("many",), 50), photos(root, ("few",), 2)), "class-weight balanced"),
    "train and test": (in_splits("train", "test"), ""),
    "training and testing": (in_splits("training", "testing"), ""),
    "Train and Val": (in_splits("Train", "Val"), ""),
    "train alone": (lambda root: photos(root / "train"), ""),
    "folders in folders": (nested, ""),
    "every mode": (in_modes, ""),
    "every format": (in_formats, ""),
    "JPG in capitals": (of_classes("a", "b", suffix="JPG"), ""),
    "odd shapes": (shaped, ""),
    "copies": (copies, "duplicate images in different classes"),
    "links": (linked, "broken symbolic links: 1"),
    "a torn picture": (with_files(("cat/torn.png", b"\x89PNG\r\n\x1a\n123")), "1 train images|1 test images"),
    "an empty file": (with_files(("cat/empty.jpg", b"")), "could not be read"),
    "text called png": (with_files(("dog/readme.png", b"hello")), "could not be read"),
    "hidden files": (with_files(("cat/.DS_Store", b"1"), (".git/config", b"2")), "hidden files and folders: 2"),
    "other files": (with_files(("cat/Thumbs.db", b"1"), ("labels.txt", b"2")), "without an image's suffix: 1"),
    "a film": (with_files(("cat/film.mp4", b"1")), "without an image's suffix: 1"),
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_that_work(folder: str, empty_folder: Path) -> None:
    build, told = FOLDERS[folder]
    build(empty_folder / "photos")
    made = works("featurize --data photos --backbone pixels --image-size 4")
    assert any(part in made.err + made.out for part in told.split("|")), made.err
    ran = given("classify --model knn,dummy")
    assert ran.code == 0, ran.err
    assert "knn" in ran.out


def test_every_name_reaches_the_report(empty_folder: Path) -> None:
    photos(empty_folder / "photos", ("$5", "[red]", "猫", "x" * 100, "<b>", "American Staffordshire Terrier"), 5)
    works("featurize --data photos --backbone pixels --image-size 4")
    works("classify --model logreg,knn")
    done = works("analysis --out out")
    assert not [line for line in done.err.splitlines() if "arning" in line], done.err
    page = (empty_folder / "out" / "report.html").read_text("utf-8")
    assert "Some figures are missing" not in page
    assert "American Staffordshire Terrier" in (empty_folder / "out" / "mistakes.csv").read_text("utf-8") + page


class Wall(NamedTuple):
    """A refusal and its remedy.

    Attributes:
        build: makes `photos`.
        line: the command.
        code: its exit code.
        parts: of the error.
        remedy: the command that the error leads to, or what is done to the folder before the same command again.
    """

    build: Build
    line: str
    code: int
    parts: tuple[str, ...]
    remedy: str | Build


PIXELS = "featurize --data photos --backbone pixels --image-size 4"


def cached(root: Path) -> None:
    """A folder with a cache of it."""
    photos(root, ("cat", "dog"), 8)
    works(PIXELS)


def trained(root: Path) -> None:
    """A folder with a cache and a run."""
    cached(root)
    works("classify --model logreg")


def flat(root: Path) -> None:
    for number in range(6):
        write_picture(root / f"{number}.png", number)
    lines = [f"{number}.png,{'even' if number % 2 == 0 else 'odd'}" for number in range(6)]
    Path("labels.csv").write_text("\n".join(["path,label", *lines]))


def in_groups(root: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        for number in range(8):
            write_picture(root / name / f"cam{number % 4}-{number}.png", 100 * k + number)


def one_more(root: Path) -> None:
    write_picture(root / "dog" / "more.png", 999)


def nothing(_: Path) -> None:
    """No folder at all."""


WALLS: dict[str, Wall] = {
    "no folder": Wall(nothing, PIXELS, 2, ("--data photos: no such file or folder",), lambda root: photos(root)),
    "an empty folder": Wall(Path.mkdir, PIXELS, 1, ("neither folders of images",), lambda root: photos(root)),
    "one class": Wall(of_classes("cat"), PIXELS, 1, ("one class only (cat)",), lambda root: photos(root)),
    "one picture": Wall(
        lambda root: (photos(root, ("cat",)), photos(root, ("dog",), 1)), PIXELS, 1, ("one image for 1 of 2",), one_more
    ),
    "pictures without folders": Wall(
        flat, PIXELS, 1, ("one for each class (cats/1.jpg",), f"{PIXELS} --labels labels.csv"
    ),
    "another class in test": Wall(
        lambda root: (photos(root / "train"), photos(root / "test", ("cat",))),
        PIXELS,
        1,
        ("test split has no images of dog", "give both the same class folders"),
        lambda root: photos(root / "test"),
    ),
    "nothing can be read": Wall(
        lambda root: [
            (root / k / f"{n}.png").write_text(f"{k}{n}")
            for k in "ab"
            for n in range(3)
            if (root / k).mkdir(parents=True, exist_ok=True) is None
        ],
        PIXELS,
        1,
        ("images could be read", "no image of a format"),
        lambda root: photos(root, ("a", "b")),
    ),
    "a file": Wall(
        lambda root: root.write_text("x"),
        PIXELS,
        1,
        ("neither a folder nor an .npz",),
        lambda root: (root.unlink(), photos(root)),
    ),
    "names that differ in case": Wall(
        of_classes("Cat", "cat", "dog"),
        PIXELS,
        1,
        ("Cat and", "rename one"),
        lambda root: (root / "Cat").rename(root / "lion"),
    ),
    "no such network": Wall(
        photos, "featurize --data photos --backbone pixel --image-size 4", 2, ("did you mean pixels",), PIXELS
    ),
    "no such pooling": Wall(photos, f"{PIXELS} --pool average", 2, ("--pool average",), f"{PIXELS} --pool avg"),
    "no such kernel": Wall(
        photos, f"{PIXELS} --resize cubic", 2, ("did you mean bicubic",), f"{PIXELS} --resize bicubic"
    ),
    "no such aspect": Wall(photos, f"{PIXELS} --aspect cut", 2, ("crop",), f"{PIXELS} --aspect crop"),
    "no such type": Wall(photos, f"{PIXELS} --dtype float8", 2, ("float16",), f"{PIXELS} --dtype float16"),
    "no such engine": Wall(photos, f"{PIXELS} --engine tensor", 2, ("tensorflow",), f"{PIXELS} --engine tensorflow"),
    "no such weights": Wall(
        photos, "featurize --data photos --weights w.h5", 2, ("expected imagenet, random",), PIXELS
    ),
    "size zero": Wall(photos, "featurize --data photos --image-size 0", 2, ("--image-size",), PIXELS),
    "fraction one": Wall(photos, f"{PIXELS} --test-fraction 1", 2, ("such as 0.2",), f"{PIXELS} --test-fraction 0.2"),
    "fraction of given splits": Wall(
        in_splits("train", "test"), f"{PIXELS} --test-fraction 0.2", 2, ("leave out the option",), PIXELS
    ),
    "one fold": Wall(photos, f"{PIXELS} --folds 1", 2, ("--folds",), f"{PIXELS} --folds 2"),
    "more folds than pictures": Wall(photos, f"{PIXELS} --folds 99", 1, ("only 8",), f"{PIXELS} --folds 8"),
    "folds and a fraction": Wall(
        photos, f"{PIXELS} --folds 4 --test-fraction 0.2", 2, ("one of them",), f"{PIXELS} --folds 4"
    ),
    "groups that match nothing": Wall(
        in_groups, f"{PIXELS} --groups patient[0-9]+", 1, ("no match in 16 of 16",), f"{PIXELS} --groups cam[0-9]+"
    ),
    "groups that are no expression": Wall(
        in_groups, f"{PIXELS} --groups (cam", 2, ("regular expression",), f"{PIXELS} --groups (cam.)"
    ),
    "labels that are not there": Wall(
        flat, f"{PIXELS} --labels label.csv", 2, ("label.csv: no such file",), f"{PIXELS} --labels labels.csv"
    ),
    "a folder for the cache": Wall(
        photos,
        f"{PIXELS} --out photos",
        2,
        ("give a file name, such as photos/features.h5",),
        f"{PIXELS} --out photos/features.h5",
    ),
    "a folder that cannot be made": Wall(
        photos, f"{PIXELS} --out photos/cat/0.png/x.h5", 1, ("could not be written",), f"{PIXELS} --out x.h5"
    ),
    "other choices": Wall(
        cached,
        f"{PIXELS} --out data/features/photos-pixels-4px.h5 --aspect pad",
        1,
        ("--overwrite",),
        f"{PIXELS} --out data/features/photos-pixels-4px.h5 --aspect pad --overwrite",
    ),
    "a path without its option": Wall(
        photos, "featurize photos", 2, ("did you mean frozenbench featurize --data photos",), PIXELS
    ),
    "a mistyped option": Wall(photos, f"{PIXELS} --flipp", 2, ("--flip",), f"{PIXELS} --flip"),
    "no cache yet": Wall(photos, "classify --model knn", 2, ("no feature cache", "frozenbench featurize"), PIXELS),
    "a cache without its option": Wall(
        cached,
        "classify data/features/photos-pixels-4px.h5",
        2,
        ("did you mean frozenbench classify --features data/features/photos-pixels-4px.h5",),
        "classify --features data/features/photos-pixels-4px.h5 --model knn",
    ),
    "a folder of caches": Wall(
        cached,
        "classify --features data/features --model knn",
        2,
        ("it holds photos-pixels-4px.h5",),
        "classify --features data/features/photos-pixels-4px.h5 --model knn",
    ),
    "no such cache": Wall(
        photos, "classify --features x.h5", 2, ("frozenbench featurize --out x.h5",), f"{PIXELS} --out x.h5"
    ),
    "a picture for a cache": Wall(
        cached, "classify --features photos/cat/0.png", 1, ("not a feature cache",), "classify --model knn"
    ),
    "no such head": Wall(cached, "classify --model logres", 2, ("did you mean logreg",), "classify --model logreg"),
    "no head": Wall(cached, "classify --model ,", 2, ("--model names no head",), "classify --model knn"),
    "size zero of rows": Wall(
        cached, "classify --model knn --train-size 0", 2, ("from 1 on",), "classify --model knn --train-size 4"
    ),
    "more rows than there are": Wall(
        cached,
        "classify --model knn --train-size 500",
        2,
        ("holds 12 training images",),
        "classify --model knn --train-size 12",
    ),
    "rows of one class": Wall(
        cached,
        "classify --model logreg --train-size 1",
        1,
        ("a larger --train-size",),
        "classify --model logreg --train-size 4",
    ),
    "a seed below zero": Wall(
        cached, "classify --model knn --seed -1", 2, ("from 0 on",), "classify --model knn --seed 1"
    ),
    "a limit of zero": Wall(
        cached,
        "classify --model knn --time-limit 0",
        2,
        ("more than 0 seconds",),
        "classify --model knn --time-limit 60",
    ),
    "no such weight": Wall(
        cached,
        "classify --model knn --class-weight even",
        2,
        ("none or balanced",),
        "classify --model knn --class-weight none",
    ),
    "no such layer": Wall(
        cached, "classify --model knn --layers block1", 2, ("pixels",), "classify --model knn --layers pixels"
    ),
    "no threads": Wall(cached, "classify --model knn --jobs 0", 2, ("--jobs",), "classify --model knn --jobs 1"),
    "a run that there is not": Wall(
        trained, "classify predict svm photos/cat", 2, ("no such run", "logreg-"), "classify predict logreg photos/cat"
    ),
    "no runs to predict with": Wall(
        cached, "classify predict logreg photos/cat", 2, ("frozenbench classify",), "classify --model logreg"
    ),
    "two forms of output": Wall(
        trained,
        "classify predict logreg photos/cat --csv --json",
        2,
        ("one of them",),
        "classify predict logreg photos/cat --csv",
    ),
    "no pictures": Wall(
        trained, "classify predict logreg", 2, ("frozenbench classify predict --help",), "classify predict --help"
    ),
    "no runs to analyse": Wall(
        cached, "analysis", 2, ("no runs in data/runs", "frozenbench classify"), "classify --model knn"
    ),
    "runs without their option": Wall(
        trained,
        "analysis data/runs",
        2,
        ("did you mean frozenbench analysis --runs data/runs",),
        "analysis --runs data/runs --out out",
    ),
    "a file for the output": Wall(
        trained, "analysis --out photos/cat/0.png", 1, ("photos/cat/0.png",), "analysis --out out"
    ),
    "no data": Wall(photos, "run", 2, ("frozenbench run photos", "run sample"), "run --help"),
    "no such preset": Wall(photos, "run photos --preset fast", 2, ("known: quick, full",), "run --help"),
    "no such data": Wall(photos, "run photo", 2, ("--data photo: no such file or folder",), "run --help"),
    "more than all": Wall(
        photos, "run photos --train-size 99 --backbone pixels", 2, ("expected at most 6",), "run --help"
    ),
    "no such stage": Wall(photos, "featurise", 2, ("featurize",), "--help"),
}


@pytest.mark.parametrize("wall", WALLS)
def test_walls_and_their_remedies(wall: str, empty_folder: Path) -> None:
    build, line, code, parts, remedy = WALLS[wall]
    build(empty_folder / "photos")
    refused(line, code, *parts)
    assert list(empty_folder.rglob("*.tmp")) == []
    if isinstance(remedy, str):
        works(remedy)
    else:
        remedy(empty_folder / "photos")
        works(line)


def test_there_are_enough_of_them() -> None:
    assert len(FOLDERS) + len(WALLS) >= 60


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(empty_folder: Path) -> None:
    photos(empty_folder / "photos")
    (empty_folder / "photos" / "cat" / "0.png").chmod(0)
    refused(PIXELS, 1, "cat/0.png cannot be read", "change its permissions")
    (empty_folder / "photos" / "cat" / "0.png").chmod(0o600)
    works(PIXELS)


@pytest.mark.slow
def test_one_command_from_photos_to_the_report(empty_folder: Path) -> None:
    photos(empty_folder / "photos", ("cat", "dog"), 15)
    line = "run photos --model logreg,knn,xgboost --train-size 4"
    done = works(line)
    best, gain, report = done.out.splitlines()[-3:]
    assert best.startswith("best head: ")
    assert "points (" in gain
    assert Path(report.removeprefix("report: ")).is_file()
    assert "xgboost is fitted in 3 folds and needs 3 training images of each class" in done.out
    again = works(f"{line} --json --quiet")
    assert [line for line in again.err.splitlines() if not line.startswith("warning: ")] == []
    found = json.loads(again.out)
    assert set(found) == {"report", "best", "gain", "runs", "left_out"}
    assert {"what", "why"} == set(found["left_out"][0])
    assert set(found["best"]) == {"model", "features", "accuracy", "accuracy_low", "accuracy_high"}
    assert {run["train_rows"] for run in found["runs"]} == {4, 24}
