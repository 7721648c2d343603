"""Groups, folds and tables of labels."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from featurize.core.errors import DataError, UsageError
from featurize.images import ImageDataset, load_dataset
from featurize.images.sources import recorded_dataset
from featurize.images.splitting import assign_folds, split_by_group


def patients(folder: Path, classes: int = 2, of_each: int = 10, pictures: int = 3) -> Path:
    """Class folders with some pictures of each patient; nothing is decoded here, so that any content will do."""
    for k in range(classes):
        (folder / f"class{k}").mkdir(parents=True)
        for patient in range(of_each):
            for number in range(pictures):
                (folder / f"class{k}" / f"patient{k}{patient:02}-{number}.png").write_text(f"{k} {patient} {number}")
    return folder


def names_in(dataset: ImageDataset, split: str) -> list[str]:
    paths = dataset.splits[split].images.paths
    assert paths is not None
    return [os.fsdecode(path) for path in paths]


def patients_in(dataset: ImageDataset, split: str) -> set[str]:
    return {name.partition("/")[2].partition("-")[0] for name in names_in(dataset, split)}


def write(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.mark.parametrize("pattern", ["patient[0-9]+", "/(patient[0-9]+)-"])
def test_a_group_stays_on_one_side(tmp_path: Path, pattern: str) -> None:
    dataset = load_dataset(patients(tmp_path / "photos"), groups=pattern)
    train, test = patients_in(dataset, "train"), patients_in(dataset, "test")
    assert len(train) == 16
    assert len(test) == 4  # a fifth of each class
    assert not train & test
    assert Counter(dataset.splits["test"].labels.tolist()) == {0: 6, 1: 6}
    groups = dataset.splits["train"].groups
    assert groups is not None
    named = list(zip(groups.tolist(), (name.partition("-")[0] for name in names_in(dataset, "train")), strict=True))
    assert len(set(named)) == len(set(groups.tolist())) == 16


def test_few_groups_move_when_images_are_added(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos")
    before = patients_in(load_dataset(folder, groups="patient[0-9]+"), "test")
    (folder / "class0" / "patient003-9.png").write_text("another one")
    (folder / "class1" / "patient199-0.png").write_text("a new patient")
    after = patients_in(load_dataset(folder, groups="patient[0-9]+"), "test")
    assert len(before ^ after) <= 1


def test_groups_of_a_file(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos", of_each=2, pictures=2)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    groups = [f"{name},{'left' if number % 2 else 'right'}" for number, name in enumerate(names)]
    file = write(tmp_path / "groups.csv", "path,group", *groups)
    dataset = load_dataset(folder, groups=file)
    side = {name: group.partition(",")[2] for name, group in zip(names, groups, strict=True)}
    sides = {split: {side[name] for name in names_in(dataset, split)} for split in ("train", "test")}
    assert sorted(map(sorted, sides.values())) == [["left"], ["right"]]
    write(tmp_path / "groups.csv", "path,group", *groups[1:])
    with pytest.raises(DataError, match=r"groups.csv has no group for 1 of 8 images \(class0/patient000-0.png\)"):
        load_dataset(folder, groups=file)


def test_a_pattern_must_match_every_path(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos")
    with pytest.raises(DataError, match=r"groups camera: no match in 60 of 60 paths \(class0/patient000-0.png, "):
        load_dataset(folder, groups="camera")
    with pytest.raises(UsageError, match=r"groups \(: neither a CSV file nor a regular expression \(missing \)"):
        load_dataset(folder, groups="(")
    with pytest.raises(UsageError, match="groups g.csv: no such file"):
        load_dataset(folder, groups="g.csv")


def test_a_class_in_one_group_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only one group for 2 of 2 classes"):
        load_dataset(patients(tmp_path / "photos", of_each=1), groups="patient[0-9]+")


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_each_class_has_a_group_on_each_side(fraction: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        groups = random.integers(0, 12, 80)
        labels = groups % 3
        is_test = split_by_group(groups.astype(str), labels, fraction)
        for label in range(3):
            assert len(np.unique(is_test[labels == label])) == 2
        assert not set(groups[is_test]) & set(groups[~is_test])


def test_every_image_is_in_one_fold_and_classes_are_even(tmp_path: Path) -> None:
    dataset = load_dataset(patients(tmp_path / "photos"), folds=5)
    splits = dataset.splits.values()
    folds = np.concatenate([split.folds for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    assert {len(split) for split in splits} == {12, 48}
    assert set(dataset.splits["test"].folds) == {0}
    for fold in range(5):
        assert Counter(labels[folds == fold].tolist()) == {0: 6, 1: 6}
    ids = np.concatenate([split.ids for split in splits])
    assert sorted(ids) == list(range(60))  # of both splits together, as both are tested


def test_folds_keep_groups_and_copies_together(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos")
    dataset = load_dataset(folder, folds=4, groups="patient[0-9]+")
    groups = np.concatenate([split.groups for split in dataset.splits.values()])
    folds = np.concatenate([split.folds for split in dataset.splits.values()])
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    for number in range(9):
        (folder / "class0" / f"copy{number}.png").write_text("0 0 0")
    dataset = load_dataset(folder, folds=4)
    fold_of = {}
    for name, split in dataset.splits.items():
        fold_of |= dict(zip(names_in(dataset, name), split.folds.tolist(), strict=True))
    assert len({fold_of[f"class0/copy{number}.png"] for number in range(9)} | {fold_of["class0/patient000-0.png"]}) == 1


def test_folds_for_classes_with_fewer_images_than_folds() -> None:
    labels = np.repeat([0, 1], [20, 2])
    folds = assign_folds(np.arange(22), labels, 5)
    assert sorted(np.bincount(folds, minlength=5).tolist()) == [4, 4, 4, 5, 5]
    assert len(set(folds[20:])) == 2


def test_more_folds_than_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folds 5: there are only 4 groups or distinct images"):
        load_dataset(patients(tmp_path / "photos", of_each=2, pictures=1), folds=5)


def test_folds_and_a_fraction_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folds and test_fraction: expected one of them"):
        load_dataset(tmp_path, 0.2, folds=5)
    with pytest.raises(UsageError, match="folds 1: expected 2 or more"):
        load_dataset(tmp_path, folds=1)
    with pytest.raises(UsageError, match="folds: sample has splits and labels of its own"):
        load_dataset("sample", folds=5)


@pytest.mark.parametrize(
    "options", [{}, {"test_fraction": 0.4}, {"folds": 3}, {"groups": "patient[0-9]+"}, {"labels": "labels.csv"}]
)
def test_a_record_leads_to_the_same_images(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = patients(tmp_path / "photos")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.png")]
    write(tmp_path / "labels.csv", "path,label", *(f"{name},{name[-5]}" for name in names))
    dataset = load_dataset("photos", **options)  # type: ignore[arg-type]
    record = {"data": dataset.source, **dataset.split_options}
    monkeypatch.chdir("/")
    assert recorded_dataset(record).digest == dataset.digest


def test_labels_from_a_table(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos", pictures=1)
    lines = [f"class0/patient00{number}-0.png,{'even' if number % 2 == 0 else 'odd'}" for number in range(10)]
    dataset = load_dataset(folder, labels=write(tmp_path / "l.csv", "path,label", *lines))
    assert dataset.class_names == ("even", "odd")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "test": 2}
    for name, split in dataset.splits.items():
        for path, label in zip(names_in(dataset, name), split.labels, strict=True):
            assert dataset.class_names[label] == ("even" if int(path[-7]) % 2 == 0 else "odd")
    again = load_dataset(folder, labels=write(tmp_path / "l.csv", "path,label", *lines[::-1]))
    assert again.digest == dataset.digest  # whatever the order of the lines


def test_splits_and_groups_from_a_table(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos", pictures=1)
    lines = []
    for number in range(10):
        split = "val" if number in (0, 9) else "train"
        lines.append(f"class0/patient00{number}-0.png,{'ab'[number // 5]},{split},g{number}")
    dataset = load_dataset(folder, labels=write(tmp_path / "l.csv", "path,label,split,group", *lines))
    assert sorted(names_in(dataset, "test")) == ["class0/patient000-0.png", "class0/patient009-0.png"]
    assert dataset.splits["train"].groups is not None
    with pytest.raises(UsageError, match="folds: .* has splits of its own"):
        load_dataset(folder, labels=tmp_path / "l.csv", folds=2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,class", "class0/patient000-0.png,a"], "has no column label; expected a first line with path,label"),
        (["path,label"], "has no rows below its first line"),
        (["path,label", "class0/patient000-0.png,"], "line 2: the column label is empty"),
        (["path,label", "gone.png,a", "class0/patient000-0.png,b"], r"1 of 2 files are not in .*photos \(gone.png\)"),
        (["path,label", "class0/patient000-0.png,a", "./class0/patient000-0.png,b"], "line 3: .* is there twice"),
        (["path,label", "../secret.png,a", "class0/patient000-0.png,b"], "secret.png lies outside of"),
        (["path,label", "class0/patient000-0.png,a"], "holds images of one class only"),
        (["path,label,split", "class0/patient000-0.png,a,exam"], "line 2: the split exam is unknown; expected train"),
        (["path,label,split", "class0/patient000-0.png,a,train"], "all rows are in the split train"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, lines: list[str], message: str) -> None:
    folder = patients(tmp_path / "photos")
    with pytest.raises(DataError, match=message):
        load_dataset(folder, labels=write(tmp_path / "l.csv", *lines))


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"l.csv cannot be read .*expected a CSV file in UTF-8"):
        load_dataset(patients(tmp_path / "photos"), labels=tmp_path / "l.csv")
