"""Several networks on few images first: who is left out, what it may be worth, and that no test image takes part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import make_spec
from tiny_steps import Recorded

from analysis import screening
from analysis.experiment import Source, Study
from analysis.screening import LeftOut, _halved, screen, screened
from analysis.steps import Steps
from featurize.cache import CacheContent, CacheInfo, Columns, SplitRecords, open_writer
from featurize.core.errors import UsageError
from featurize.images import ImageDataset, Split
from featurize.images.splitting import assign_folds

NOISE = {"good": 0.5, "fair.onnx": 1.5, "poor.keras": 4.0, "bad": 9.0}
DIM = 8


@pytest.fixture
def dataset() -> ImageDataset:
    """300 training images of three classes; the test images would raise an error if they were read."""
    labels = np.arange(300) % 3
    train = Split(np.zeros((300, 4, 4, 3), np.uint8), labels, np.arange(300))
    return ImageDataset("black", ("ant", "bee", "cow"), {"train": train, "test": train[:0]})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Vectors that separate the classes as well as `NOISE` says, in place of a network's; records who was asked."""
    calls: list[tuple[str, list[int]]] = []

    def extracted(dataset: ImageDataset, source: Source, study: Study, folder: Path, progress: Any) -> CacheInfo:
        assert list(dataset.splits) == ["train"]
        train = dataset.splits["train"]
        calls.append((source.backbone, train.ids.tolist()))
        random = np.random.default_rng(len(calls))
        x = np.eye(3, DIM)[train.labels] * 3 + NOISE[source.backbone] * random.normal(size=(len(train), DIM))
        records = SplitRecords(train.labels, train.ids, train.digest, groups=train.groups)
        content = CacheContent(dataset.name, dataset.class_names, "x", [Columns("v", 0, (DIM,))], {"train": records})
        spec = make_spec(dataset, layers=("v",), backbone=source.backbone)
        with open_writer(folder / f"{dataset.name}-{source.backbone}.h5", spec, content) as writer:
            writer.shards.add("train", 0, x.astype(np.float32))
            return writer.commit(seconds=1.0, images_per_second=1.0, device="", source={})

    monkeypatch.setattr(screening, "extracted", extracted)
    return calls


def run(study: Study, dataset: ImageDataset, folder: Path, first: int) -> tuple[Study, list[LeftOut]]:
    return screen(study, dataset, Steps(Recorded()), first=first, folder=folder, threads=1, later=[])


def test_half_of_the_networks_is_left_out_in_each_round(dataset: ImageDataset, asked: Any, tmp_path: Path) -> None:
    study = Study(backbones=("bad", "fair.onnx", "good", "poor.keras", "pixels"), preprocess="auto,tf,auto,none,auto")
    left, out = run(study, dataset, tmp_path, 60)
    assert (left.backbones, left.preprocess) == (("good",), "auto")
    assert [(each.backbone, each.best, each.images) for each in out] == [
        ("poor.keras", "good", 60),
        ("bad", "good", 60),
        ("fair.onnx", "good", 120),
    ]
    assert [(name, len(ids)) for name, ids in asked] == [
        ("bad", 60),
        ("fair.onnx", 60),
        ("good", 60),
        ("poor.keras", 60),
        ("fair.onnx", 60),
        ("good", 60),
    ]
    first, second = asked[2][1], asked[5][1]  # only images that are new
    assert set(first).isdisjoint(second)
    assert np.bincount(dataset.splits["train"].labels[first]).tolist() == [20, 20, 20]  # stratified
    assert all(each.low < each.behind < each.high for each in out)
    assert out[1].low > 0


def test_several_remain_if_the_images_do_not_suffice(dataset: ImageDataset, asked: Any, tmp_path: Path) -> None:
    study = Study(backbones=("bad", "fair.onnx", "good", "poor.keras"), preprocess="auto,tf,none,none")
    left, out = run(study, dataset, tmp_path, 150)
    assert (left.backbones, left.preprocess) == (("fair.onnx", "good"), "tf,none")
    assert len(out) == 2
    assert run(Study(backbones=("good",)), dataset, tmp_path, 150) == (Study(backbones=("good",)), [])


def test_groups_widen_the_interval() -> None:
    """Twenty groups of ten images, each of which one network gets right as a whole."""
    groups = np.arange(200) // 10
    correct = {"good": groups % 4 > 0, "fair": groups % 2 > 0}
    [kept], [alone] = _halved(correct, None)
    _, [together] = _halved(correct, groups)
    assert kept == "good"
    assert (alone.behind, together.behind) == (0.25, 0.25)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_images_of_a_group_stay_in_one_fold(
    dataset: ImageDataset, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = dataset.splits["train"]
    grouped = Split(train.images, train.labels, train.ids, np.arange(300) // 6)
    used = []

    def noted(correct: dict[str, np.ndarray], groups: np.ndarray | None) -> Any:
        used.append(groups)
        return _halved(correct, groups)

    def divided(groups: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
        used.append(groups)
        return assign_folds(groups, labels, folds)

    monkeypatch.setattr(screening, "_halved", noted)
    monkeypatch.setattr("featurize.images.splitting.assign_folds", divided)
    run(Study(backbones=("good", "bad")), ImageDataset("b", dataset.class_names, {"train": grouped}), tmp_path, 150)
    expected = grouped.groups[asked[0][1]]
    assert [groups.tolist() for groups in used] == 3 * [expected.tolist()]  # two networks, and their comparison


def test_what_the_report_says() -> None:
    unsure = LeftOut("nets/fair.onnx", "good", 500, 0.031, -0.012, 0.074)
    assert unsure.line() == (
        "Screening left out fair after 500 training images: 3.1 points behind good (95% interval -1.2 to 7.4). It may "
        "be up to 1.2 points better."
    )
    sure = LeftOut("nets/fair.onnx", "good", 500, 0.031, 0.012, 0.074)
    assert sure.line().endswith("(95% interval 1.2 to 7.4). It is unlikely to be better.")


def test_without_screening_nothing_changes(dataset: ImageDataset, asked: Any, tmp_path: Path) -> None:
    study = Study(backbones=("good", "bad"))
    steps = Steps(Recorded())
    assert screened(study, dataset, steps, first=None, folder=tmp_path) == (study, [])
    assert asked == []
    left, lines = screened(study, dataset, steps, first=90, folder=tmp_path)
    assert left.backbones == ("good",)
    [(path, line)] = lines
    assert path == tmp_path / "screening" / "bad"
    assert line.startswith("Screening left out bad after 90 training images: ")
    with pytest.raises(UsageError, match="screen 14: expected at least 15, 5 images of each class"):
        screened(study, dataset, steps, first=14, folder=tmp_path)
