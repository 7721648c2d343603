"""The experiment: its sources, sizes and steps; interruptions; what cannot be trained."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from tiny_data import write_tiny_cache
from tiny_networks import save_tiny_network
from tiny_onnx import save_tiny
from tiny_steps import Recorded

from analysis import experiment
from analysis.experiment import (
    PRESETS,
    Experiment,
    Preset,
    Source,
    Study,
    Training,
    experiment_folder,
    extracted,
    feature_sources,
    planned_trainings,
    run_experiment,
    training_sizes,
)
from analysis.steps import Steps
from classify.heads import registry as heads
from classify.runs.results import RunResult, load_runs
from featurize.cache import CacheInfo, read_info
from featurize.core.errors import HeadError, UsageError
from featurize.images import ImageDataset, Split, load_dataset


def dataset_of(*counts: int) -> ImageDataset:
    """Black images, so many of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    split = Split(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, np.arange(len(labels)))
    return ImageDataset("black", tuple(f"class {k}" for k in range(len(counts))), {"train": split, "test": split})


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """Nine images of each of ten classes, and heads that ignore the features."""
    sample = load_dataset("sample")
    splits = {}
    for name, split in sample.splits.items():
        of_each = [np.flatnonzero(split.labels == k)[:9] for k in range(10)]
        splits[name] = split[np.stack(of_each, axis=1).ravel()]
    monkeypatch.setattr(experiment, "FEW_IMAGES", 50)
    monkeypatch.setitem(PRESETS, "quick", Preset(90, sizes=2, sparse=True, seeds=2, pool="grid2", flip=True))

    def dummy(task: heads.Task) -> Any:
        from sklearn.pipeline import make_pipeline

        return make_pipeline(DummyClassifier(strategy="stratified", random_state=task.seed))

    for name in ("logreg", "cnn"):
        monkeypatch.setitem(heads.HEADS, name, dummy)
    monkeypatch.setattr("classify.heads.ALL", ("logreg",))
    return ImageDataset(sample.name, sample.class_names, splits, sample.source)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny caches in place of the extracted features."""

    def extracted(dataset: Any, source: Source, study: Study, folder: Path, progress: Any) -> CacheInfo:
        path = folder / f"{source.name}.h5"
        return read_info(path if path.exists() else write_tiny_cache(path))

    monkeypatch.setattr(experiment, "extracted", extracted)


def whole(folder: Path) -> dict[tuple[str, str, int, int], RunResult]:
    runs, left_out = load_runs(folder / "runs")
    assert left_out == []
    found = {(run.model, run.features, run.train_rows, run.seed): run for run in runs.values()}
    assert len(found) == len(runs)
    return found


@pytest.mark.slow
def test_every_head_on_every_kind_of_features_and_size(dataset: ImageDataset, tmp_path: Path) -> None:
    run_experiment(Study(), dataset, Steps(Recorded()), folder=tmp_path)
    runs = whole(tmp_path)
    features = {name.removeprefix("cifar10-sample-") for _, name, _, _ in runs}
    assert features == {
        "vgg16-imagenet-64px-block3_pool-grid2-flip", "vgg16-random-0-64px-block3_pool-grid2-flip", "pixels-32px",
    }  # fmt: skip
    sizes = {(rows, seed) for _, _, rows, seed in runs}
    assert sizes == {(90, 0), (50, 0), (50, 1), (20, 0), (20, 1)}
    assert len(runs) == 4 + 4 * 3
    assert {name.removeprefix("cifar10-sample-") for model, name, _, _ in runs if model == "cnn"} == {"pixels-32px"}
    assert {run.spec["flip"] for key, run in runs.items() if "vgg16" in key[1]} == {True}
    assert {run.head_bytes > 0 for key, run in runs.items() if "imagenet" in key[1] and key[2] == 90} == {True}
    assert {run.head_bytes for key, run in runs.items() if "imagenet" not in key[1] or key[2] < 90} == {0}


@pytest.mark.usefixtures("no_network")
def test_an_interrupted_experiment_resumes(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, trained = Experiment._train, []

    def interrupted(self: Experiment, training: Training) -> None:
        if len(trained) == 4:
            raise KeyboardInterrupt
        real(self, training)
        trained.append(training)

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(Study(), dataset, Steps(Recorded()), folder=tmp_path)
    before = whole(tmp_path)
    assert len(before) == 4
    shown = Recorded()
    done = run_experiment(Study(), dataset, Steps(shown), folder=tmp_path)
    after = whole(tmp_path)
    assert {key: after[key] for key in before} == before
    assert len(done.runs) == len(after) == 16
    # Three steps for the features, which are there already, and one for each run that is missing.
    assert [number for number, _, _ in shown.begun] == list(range(1, 3 + 12 + 1))
    assert shown.begun[-1][1] == 3 + 12
    shown = Recorded()
    run_experiment(Study(), dataset, Steps(shown), folder=tmp_path)
    assert len(shown.begun) == 3
    assert whole(tmp_path) == after


@pytest.mark.usefixtures("no_network")
def test_a_head_that_cannot_be_trained_is_left_out(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.training.train.search_and_fit", one_head_fails("svm"))
    done = run_experiment(Study(models=("logreg", "svm")), dataset, Steps(Recorded()), folder=tmp_path)
    assert {run.model for run in done.runs.values()} == {"logreg", "cnn"}
    assert len(done.left_out) == 3 + 4 * 2
    assert {reason.partition(" is left out: ")[2] for _, reason in done.left_out} == {"svm needs more images"}


@pytest.mark.usefixtures("no_network")
def test_few_images_are_drawn_once(dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "FEW_IMAGES", 91)
    run_experiment(Study(), dataset, Steps(Recorded()), folder=tmp_path)
    assert {seed for _, _, rows, seed in whole(tmp_path)} == {0}


@pytest.mark.usefixtures("no_network")
def test_without_any_head_there_is_no_result(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.training.train.search_and_fit", one_head_fails("logreg", "cnn"))
    with pytest.raises(HeadError, match="logreg needs more images"):
        run_experiment(Study(), dataset, Steps(Recorded()), folder=tmp_path)


def one_head_fails(*names: str) -> Any:
    from classify.training.train import search_and_fit

    def fit(job: Any, *rest: Any) -> Any:
        if job.model in names:
            raise HeadError(f"{job.model} needs more images")
        return search_and_fit(job, *rest)

    return fit


def test_draw_after_draw_so_that_half_of_it_is_an_answer() -> None:
    preset = replace(PRESETS["full"], seeds=2)
    planned = planned_trainings([Source("vgg16"), Source("pixels")], ["logreg"], [30, 60], preset)
    stages = list(dict.fromkeys((each.rows, each.seed) for each in planned))
    assert stages == [(None, 0), (60, 0), (30, 0), (60, 1), (30, 1)]
    assert [(each.source.backbone, each.model) for each in planned[:3]] == [
        ("vgg16", "logreg"), ("pixels", "logreg"), ("pixels", "cnn"),
    ]  # fmt: skip


@pytest.mark.parametrize(("preset", "sizes"), [("quick", {None}), ("full", {None, 30})])
def test_the_untrained_network_has_a_learning_curve_in_full(preset: str, sizes: set[int | None]) -> None:
    sources = [Source("vgg16"), Source("vgg16", "random")]
    planned = planned_trainings(sources, ["logreg"], [30], PRESETS[preset])
    assert {each.rows for each in planned if each.source.weights == "random"} == sizes
    assert {each.rows for each in planned if each.source.weights == "imagenet"} == {None, 30}


def test_the_network_from_scratch_is_trained_once_and_on_pixels() -> None:
    planned = planned_trainings([Source("vgg16"), Source("pixels")], ["cnn", "svm"], [], PRESETS["quick"])
    assert [(each.source.backbone, each.model) for each in planned] == [
        ("vgg16", "svm"), ("pixels", "svm"), ("pixels", "cnn"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "counts", "expected"),
    [
        ("quick", (300,) * 10, [100, 1000]),  # as in the reference results
        ("full", (5000,) * 10, [100, 300, 1000, 3000, 10_000]),
        ("quick", (80,) * 3, [15, 90]),
        ("full", (80,) * 3, [6, 15, 30, 90]),
        ("quick", (12,) * 5, [10, 25]),
        ("quick", (4, 4), [4]),
        ("quick", (3, 3), [4]),
        ("quick", (2, 2), []),
        ("quick", (100, 10), [20, 60]),  # 2 of 55 would leave the small class without an image
    ],
)
def test_the_sizes_of_the_learning_curve_follow_the_data(
    preset: str, counts: tuple[int, ...], expected: list[int]
) -> None:
    assert training_sizes(Study(preset=preset), dataset_of(*counts)) == expected


def test_sizes_that_are_asked_for() -> None:
    assert training_sizes(Study(sizes=(20, 6, 20, 30)), dataset_of(10, 20)) == [6, 20]  # all 30 come anyway
    with pytest.raises(UsageError, match="train_size 31: expected at most 30"):
        training_sizes(Study(sizes=(6, 31)), dataset_of(10, 20))


def test_the_sources_are_the_networks_and_the_controls() -> None:
    sources = feature_sources(Study(backbones=("vgg16", "mobilenetv2", "pixels")))
    assert sources == [
        Source("vgg16"), Source("mobilenetv2"), Source("vgg16", "random"), Source("pixels"),
    ]  # fmt: skip
    assert [source.is_pretrained for source in sources] == [True, True, False, False]
    assert feature_sources(Study(backbones=("pixels",))) == [Source("pixels")]


def test_an_unknown_preset() -> None:
    with pytest.raises(UsageError, match="preset fast: known: quick, full"):
        Study(preset="fast")


def test_the_default_folder_names_the_images_and_the_preset(dataset: ImageDataset) -> None:
    assert experiment_folder(dataset, "quick").parts[-2:] == ("experiments", "cifar10-sample-quick")


def test_onnx_files_beside_other_networks(tmp_path: Path, dataset: ImageDataset) -> None:
    """They have no random weights, so that another network is the control; each has its own size and preprocessing."""
    if find_spec("openvino") is None:  # without importing it here, see `import_openvino`
        pytest.skip("openvino is not installed")
    onnx_file = str(save_tiny(tmp_path / "tiny.onnx", size=8))
    keras_file = str(save_tiny_network(tmp_path / "tinynet.keras"))
    study = Study(backbones=(onnx_file, keras_file), preprocess="tf,auto")
    sources = feature_sources(study)
    assert sources == [Source(onnx_file), Source(keras_file), Source(keras_file, "random"), Source("pixels")]
    assert feature_sources(Study(backbones=(onnx_file,))) == [Source(onnx_file), Source("pixels")]
    assert [source.name for source in sources[:2]] == ["tiny with imagenet weights", "tinynet with imagenet weights"]
    specs = [extracted(dataset, source, study, tmp_path / "features", lambda *_: None).spec for source in sources[:2]]
    assert [(spec.engine, spec.image_size, spec.preprocess) for spec in specs] == [
        ("openvino", 8, "tf"),
        ("tensorflow", 96, "none"),
    ]
    assert Study(preprocess="mean 0,0,0 std 1,1,1").preprocess_of("vgg16") == "mean 0,0,0 std 1,1,1"
    with pytest.raises(UsageError, match="one for each of the 1"):
        Study(preprocess="tf,auto")
