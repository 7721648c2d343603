"""A run as one ONNX file: what it computes, what it says, and when it is refused."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT
from slow_cases import mark_slow
from tiny_data import make_dataset, save_npz
from tiny_onnx import save_tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from classify import export  # noqa: E402
from classify.export import Check, export_run  # noqa: E402
from classify.guarantee import Guarantee  # noqa: E402
from classify.predict import Classifier  # noqa: E402
from classify.runs import GUARANTEE, RunResult, load_guarantee  # noqa: E402
from classify.training import Job, train_heads  # noqa: E402
from featurize import extract_features, import_features, load_backbone, load_dataset, load_features  # noqa: E402
from featurize.cache import CacheInfo, read_info  # noqa: E402
from featurize.core.errors import DataError, FrozenbenchError, UsageError  # noqa: E402
from featurize.images import resized  # noqa: E402

needs_tf2onnx = pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason="tf2onnx is not installed")
Trained = Callable[..., Path]


@pytest.fixture
def trained(data_folder: Path, one_fold: None) -> Trained:
    """Trains a head on a cache; returns the run's directory."""

    def train(info: CacheInfo, head: str, **choices: Any) -> Path:
        job = Job(head, info, choices.pop("layers", ()), threads=1, **choices)
        results, left_out = train_heads([job], runs=data_folder / "runs")
        assert not left_out
        return next(iter(results))

    return train


def extracted(folder: Path, *, classes: int = 3, **options: Any) -> CacheInfo:
    """A cache of tiny pictures that the classes differ in."""
    dataset = make_dataset(90, 45, size=10)
    arrays = {}
    for name, split in dataset.splits.items():
        rows = split.labels < classes
        images = np.asarray(split.images)[rows] // 2
        images[..., 0] += (split.labels[rows] * 40).astype(np.uint8)[:, None, None]
        arrays |= {f"x_{name}": images, f"y_{name}": split.labels[rows]}
    backbone = load_backbone(options.pop("backbone", "pixels"), **{"image_size": 12, **options.pop("load", {})})
    source = load_dataset(save_npz(folder / "tiny.npz", dataset, **arrays))
    return extract_features(source, backbone, **{"resize": "lanczos", "out": folder / "tiny.h5", **options}).info


def outputs(file: Path, given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {session.get_inputs()[0].name: given})[0]


def facts(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


@pytest.mark.parametrize("name", mark_slow(["logreg", "lda", "linear-svm", "svm", "xgboost", "mlp", "stack"], "stack"))
def test_a_head_alone(cache: Path, tmp_path: Path, trained: Trained, name: str) -> None:
    run = trained(read_info(cache), name)
    file = tmp_path / "head.onnx"
    check = export_run(run, file, head_only=True)
    assert (check.images, check.same) == (60, 60)
    assert check.largest_difference < 1e-3
    x = load_features(cache, "test").x
    result = RunResult.read(run)
    expected = export.load_head(run / "head.skops", result.head_sha256).predict_proba(x)
    assert np.allclose(outputs(file, x), expected, atol=1e-3)
    given = json.loads(facts(file)["input"])
    assert given == {"name": "vectors", "values": "float32", "layers": ["early", "late"], "pool": "avg"}


def test_what_the_file_says(cache: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(read_info(cache), "logreg")
    export_run(run, tmp_path / "head.onnx", head_only=True)
    found, result = facts(tmp_path / "head.onnx"), RunResult.read(run)
    assert json.loads(found["class_names"]) == ["ant", "bee", "cow"]
    assert found["fingerprint"] == result.fingerprint
    assert found["model_card"] == (run / "README.md").read_text()
    sets = load_guarantee(run / GUARANTEE, result.guarantee_sha256, Guarantee).sets
    conformal = json.loads(found["conformal"])
    assert conformal == {"coverage": 0.9, "thresholds": sets.thresholds(0.9).tolist()}
    model = onnx.load(tmp_path / "head.onnx")
    assert model.producer_name == "frozenbench"


def test_too_few_held_out_images_for_a_threshold(cache: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(read_info(cache), "logreg", rows=12)
    export_run(run, tmp_path / "head.onnx", head_only=True)
    assert json.loads(facts(tmp_path / "head.onnx")["conformal"])["thresholds"] == [None] * 3


@pytest.mark.parametrize("classes", [3, 2])
def test_a_run_on_pixels(tmp_path: Path, trained: Trained, classes: int) -> None:
    info = extracted(tmp_path, classes=classes)
    run = trained(info, "svm", class_weight="balanced")
    file = tmp_path / "whole.onnx"
    check = export_run(run, file)
    assert check.same == check.images == 15 * classes
    assert check.largest_difference < 1e-4
    given = json.loads(facts(file)["input"])
    first = {"height": 10, "width": 10, "kernel": "bicubic", "aspect": "crop"}
    assert given["resize"] == [first, {"height": 12, "width": 12, "kernel": "lanczos", "aspect": "crop"}]
    pictures = np.load(tmp_path / "tiny.npz")["x_test"]
    classifier = Classifier(run)
    expected = classifier.probabilities(classifier.vectors(pictures))
    assert np.allclose(outputs(file, resized(pictures, 12, "lanczos")), expected, atol=1e-4)


@needs_tf2onnx
def test_a_run_on_some_layers_of_a_keras_network_with_mirror_images(
    tmp_path: Path, trained: Trained, tiny_network: Path
) -> None:
    """Its MLP averages mirrored vectors."""
    info = extracted(tmp_path, backbone=str(tiny_network), load={"layers": ("early", "late")}, pool="grid2", flip=True)
    run = trained(info, "mlp", layers=("late",))
    check = export_run(run, tmp_path / "whole.onnx")
    assert (check.images, check.same) == (45, 45)
    assert Classifier(run).head[-1].estimator_.mirror is not None


@needs_tf2onnx
@pytest.mark.slow
def test_a_run_on_vgg16_with_tuned_settings(tmp_path: Path, trained: Trained) -> None:
    pytest.importorskip("optuna")
    layers = {"layers": ("block1_pool", "block3_pool"), "image_size": 32}
    info = extracted(tmp_path, backbone="vgg16", load=layers, pool="grid2", flip=True)
    for head in ("logreg", "xgboost"):
        assert export_run(trained(info, head, trials=2), tmp_path / f"{head}.onnx").same == 45


@pytest.mark.engines
@pytest.mark.parametrize("batch", ["n", 7])
def test_a_run_on_an_onnx_file(tmp_path: Path, trained: Trained, batch: int | str) -> None:
    pytest.importorskip("openvino")
    file = save_tiny(tmp_path / "tiny.onnx", batch=batch)
    info = extracted(tmp_path, backbone=str(file), load={"preprocess": "tf", "layers": "relu"}, pool="grid2")
    check = export_run(trained(info, "lda"), tmp_path / "whole.onnx")
    assert (check.images, check.same) == (45, 45)
    assert outputs(tmp_path / "whole.onnx", np.zeros((7, 12, 12, 3), np.uint8)).shape == (7, 3)


def test_a_file_that_differs_from_its_run_is_not_written(
    cache: Path, tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(read_info(cache), "logreg")
    load_head = export.load_head

    def of_other_classes(*arguments: Any) -> Any:
        head = load_head(*arguments)
        probabilities = head.predict_proba
        head.predict_proba = lambda x: np.roll(probabilities(x), 1, axis=1)
        return head

    monkeypatch.setattr(export, "load_head", of_other_classes)
    with pytest.raises(FrozenbenchError, match="is not written, because it differs from logreg-.*have another class"):
        export_run(run, tmp_path / "head.onnx", head_only=True)
    monkeypatch.undo()
    monkeypatch.setattr(export, "_compared", lambda *_: Check(60, 59, 1e-6))
    with pytest.raises(FrozenbenchError, match="of 60 test images, 1 have another class"):
        export_run(run, tmp_path / "head.onnx", head_only=True)
    monkeypatch.setattr(export, "_compared", lambda *_: Check(60, 60, 2e-4))
    with pytest.raises(FrozenbenchError, match="probabilities differ by up to 2.0e-04, expected at most 1e-04"):
        export_run(run, tmp_path / "head.onnx", head_only=True)
    assert list(tmp_path.glob("*.onnx*")) == []


def test_nothing_is_left_of_a_file_that_cannot_be_finished(
    cache: Path, tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(read_info(cache), "logreg")
    out = tmp_path / "out"
    out.mkdir()

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        export_run(run, out / "head.onnx", head_only=True)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("head", ["knn", "dummy", "sklearn.naive_bayes:GaussianNB"])
def test_heads_that_cannot_be_exported(cache: Path, tmp_path: Path, trained: Trained, head: str) -> None:
    run = trained(read_info(cache), head)
    with pytest.raises(UsageError, match=f"the head {head} cannot be exported; expected a run of logreg, lda"):
        export_run(run, tmp_path / "head.onnx", head_only=True)


def test_imported_vectors_have_no_network(tmp_path: Path, trained: Trained) -> None:
    random = np.random.default_rng(0)
    y = np.arange(80) % 2
    np.savez(tmp_path / "clip.npz", x=(random.normal(size=(80, 6)) + y[:, None]).astype(np.float32), y=y)
    run = trained(import_features(tmp_path / "clip.npz", "clip").info, "logreg")
    with pytest.raises(UsageError, match="its vectors were imported from .*clip.npz, so there is no network to export"):
        export_run(run, tmp_path / "whole.onnx")
    assert export_run(run, tmp_path / "head.onnx", head_only=True).same == 16


def test_wrong_names_and_files_that_exist(cache: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(read_info(cache), "logreg")
    with pytest.raises(UsageError, match="model.pb: expected a file with the suffix .onnx"):
        export_run(run, tmp_path / "model.pb")
    file = tmp_path / "head.onnx"
    file.write_text("mine")
    with pytest.raises(UsageError, match="it exists; choose another name, or replace it with overwrite"):
        export_run(run, file, head_only=True)
    assert file.read_text() == "mine"
    assert export_run(run, file, head_only=True, overwrite=True).same == 60


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "tf2onnx"])
def test_a_package_is_missing(
    cache: Path, tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    run = trained(read_info(cache), "logreg")
    find = importlib.util.find_spec
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == package else find("json"))
    with pytest.raises(UsageError, match=f"export needs {package}, which is not installed; pip install 'frozenbench"):
        export_run(run, tmp_path / "whole.onnx")


def test_damaged_runs(cache: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(read_info(cache), "logreg")
    file = tmp_path / "head.onnx"
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "head.skops").write_bytes(b"x")
    with pytest.raises(DataError, match="head.skops is not the file that was saved"):
        export_run(broken, file, head_only=True)
    (broken / "result.json").write_text("{}")
    with pytest.raises(DataError, match="result.json cannot be used"):
        export_run(broken, file)
    cache.unlink()
    with pytest.raises(FrozenbenchError, match="tiny-net.h5: no such feature cache"):
        export_run(run, file, head_only=True)


def test_low_precision_is_refused(cache: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(read_info(cache), "logreg")
    values = json.loads((run / "result.json").read_text())
    values["spec"]["precision"] = "int8"
    (run / "result.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match="its features are in int8, and the file would compute in float32"):
        export_run(run, tmp_path / "whole.onnx")


def test_the_command(cache: Path, tmp_path: Path, trained: Trained) -> None:
    import subprocess

    run = trained(read_info(cache), "logreg")
    code = "import sys; from analysis.frozenbench import main; sys.argv[0] = 'frozenbench'; main()"
    words = [sys.executable, "-c", code, "export", run.name[:9], "--head-only", "--to", str(tmp_path / "head.onnx")]
    done = subprocess.run([*words, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["written"] == [str(tmp_path / "head.onnx")]
    assert answer["checked"]["images"] == answer["checked"]["same"] == 60
    assert answer["checked"]["largest_difference"] < 1e-4
    again = subprocess.run([*words, "--overwrite"], cwd=ROOT, capture_output=True, text=True)
    lines = again.stdout.splitlines()
    assert lines[0] == f"wrote {tmp_path / 'head.onnx'}"
    assert lines[1].startswith("checked on 60 test images: same class on all, probabilities differ by at most ")
