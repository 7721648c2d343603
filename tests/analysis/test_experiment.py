import logging
from pathlib import Path
from typing import Any

import pytest
from sklearn.dummy import DummyClassifier
from tiny_data import write_tiny_cache

from analysis import experiment
from analysis.experiment import PRESETS, Preset, experiment_folder, run_experiment
from classify.heads import registry as heads
from classify.runs.results import RunResult, load_runs
from featurize.cache import CacheInfo, read_info
from featurize.core.errors import UsageError
from featurize.images import load_dataset


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images of each of ten classes, and heads that ignore the features."""
    sample = load_dataset("sample")
    picked = {name: type(split)(split.images[::20], split.labels[::20], split.ids[::20]) for name, split in
              sample.splits.items()}  # fmt: skip
    dataset = type(sample)(sample.name, sample.class_names, picked, sample.source)
    monkeypatch.setattr("featurize.images.load_dataset", lambda source: dataset)
    monkeypatch.setitem(PRESETS, "quick", Preset(90, (5, 100), 2, "grid2", True))

    def dummy(task: heads.Task) -> Any:
        from sklearn.pipeline import make_pipeline

        return make_pipeline(DummyClassifier(strategy="stratified", random_state=task.seed))

    for name in ("logreg", "cnn"):
        monkeypatch.setitem(heads.HEADS, name, dummy)
    monkeypatch.setattr("classify.heads.ALL", ("logreg",))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny caches in place of the extracted features."""

    def extracted(dataset: Any, weights: str, preset: Preset, folder: Path) -> CacheInfo:
        path = folder / f"{weights or 'pixels'}.h5"
        return read_info(path if path.exists() else write_tiny_cache(path))

    monkeypatch.setattr(experiment, "extracted", extracted)


def whole() -> dict[tuple[str, str, int, int], RunResult]:
    runs, left_out = load_runs(experiment_folder("quick") / "runs")
    assert left_out == []
    found = {(run.model, run.features, run.train_rows, run.seed): run for run in runs.values()}
    assert len(found) == len(runs)
    return found


@pytest.mark.slow
def test_every_head_on_every_kind_of_features_and_size() -> None:
    assert run_experiment("quick", "sample") == experiment_folder("quick") / "runs"
    runs = whole()
    features = {name.removeprefix("cifar10-sample-") for _, name, _, _ in runs}
    assert features == {
        "vgg16-imagenet-64px-block3_pool-grid2-flip", "vgg16-random-0-64px-block3_pool-grid2-flip", "pixels",
    }  # fmt: skip
    sizes = {(rows, seed) for _, _, rows, seed in runs}
    assert sizes == {(90, 0), (50, 0), (50, 1)}  # 100 a class are more than there are
    assert len(runs) == (3 + 1) * 3
    assert {name.removeprefix("cifar10-sample-") for model, name, _, _ in runs if model == "cnn"} == {"pixels"}
    assert all(run.spec["flip"] for run in runs.values())
    assert {run.head_bytes > 0 for key, run in runs.items() if "imagenet" in key[1] and key[2] == 90} == {True}
    assert {run.head_bytes for key, run in runs.items() if "imagenet" not in key[1] or key[2] < 90} == {0}


@pytest.mark.usefixtures("no_network")
def test_an_interrupted_experiment_resumes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    real, done = experiment.training_steps, []

    def interrupted(*args: Any) -> Any:
        for number, step in enumerate(real(*args)):
            if number == 4:
                raise KeyboardInterrupt
            step.carry_out()
            done.append(step.title)

    monkeypatch.setattr(experiment, "training_steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_experiment("quick", "sample")
    monkeypatch.setattr(experiment, "training_steps", real)
    before = whole()
    assert len(before) == len(done) == 4
    caplog.clear()
    run_experiment("quick", "sample")
    after = whole()
    assert {key: after[key] for key in before} == before
    steps = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert [line.split(",")[0] for line in steps] == [f"step {number} of 12" for number in range(5, 13)]
    assert all(" left: " in line for line in steps)
    caplog.clear()
    run_experiment("quick", "sample")
    assert whole() == after
    assert not any(record.getMessage().startswith("step ") for record in caplog.records)


def test_draw_after_draw_so_that_half_of_it_is_an_answer(cache: Path, tmp_path: Path) -> None:
    preset = Preset(train=None, images_per_class=(10, 20), seeds=2, pool="avg", flip=False)
    steps = list(experiment.training_steps([read_info(cache)] * 3, preset, tmp_path, threads=1))
    stages = list(dict.fromkeys(step.title.partition(", ")[2] for step in steps))
    assert stages == [
        "120 images", "60 images, draw 1", "30 images, draw 1", "60 images, draw 2", "30 images, draw 2",
    ]  # fmt: skip


def test_the_time_left_follows_the_time_spent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four steps worth 10 s each that take 30 s: after the first, three are left."""
    caplog.set_level(logging.INFO)
    clock = [0.0]

    def work() -> None:
        clock[0] += 30

    steps = [experiment.Step(f"s{number}", 10.0, False, work) for number in range(4)]
    monkeypatch.setattr(experiment.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(experiment, "training_steps", lambda *args: iter(steps))
    monkeypatch.setattr(experiment, "extracted", lambda *args: None)
    run_experiment("quick", "sample")
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert [line.partition("about ")[2] for line in lines] == [
        "40 s left: s0", "2 min left: s1", "60 s left: s2", "30 s left: s3",
    ]  # fmt: skip
    assert caplog.records[-1].getMessage() == "the experiment took 2 min, without what was finished before"


def test_an_unknown_preset() -> None:
    with pytest.raises(UsageError, match="--preset fast: known: quick, full"):
        run_experiment("fast")


def test_durations() -> None:
    assert [experiment._duration(seconds) for seconds in (4, 29, 95, 7100, 7300)] == [
        "4 s", "29 s", "2 min", "118 min", "2.0 h",
    ]  # fmt: skip


@pytest.mark.usefixtures("no_network")
def test_the_folder_is_the_users_choice(tmp_path: Path) -> None:
    assert run_experiment("quick", "sample", folder=tmp_path / "mine") == tmp_path / "mine" / "runs"
    assert not experiment_folder("quick").exists()
