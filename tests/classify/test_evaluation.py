import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import save_npz

from classify.evaluation import Evaluation, Mistake, evaluate_run, show
from classify.runs import RESULT, read_predictions
from classify.training import Job, train_heads
from featurize.core.errors import DataError, UsageError
from featurize.extraction import extract_features
from featurize.images import ImageDataset, Split
from featurize.networks.backbone import load_backbone

COLOURS = ("blue", "green", "red")


def coloured(count: int, seed: int, shift: int = 45) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a little more of one colour."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.integers(0, 200, (count, 10, 10, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., 2 - label] += np.uint8(random.integers(0, shift))
    return images, labels


def dataset_of(train: int, test: int) -> ImageDataset:
    splits = {}
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        images, labels = coloured(count, seed)
        splits[name] = Split(images, labels, np.arange(count))
    return ImageDataset("colours", COLOURS, splits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of logreg on the pixels' means of 300 images, tested on 90."""
    folder = tmp_path_factory.mktemp("run")
    from tiny_networks import save_tiny_network

    network = load_backbone(str(save_tiny_network(folder / "tinynet.keras")), layers=("early",), image_size=12)
    cache = extract_features(dataset_of(300, 90), network, pool="avg", engine="tensorflow", out=folder / "c.h5").info
    [run_dir] = train_heads([Job("logreg", cache)], folder / "runs")[0]
    return run_dir


def save(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / COLOURS[label] / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_the_test_images_give_what_the_run_says(run: Path, tmp_path: Path) -> None:
    result = json.loads((run / RESULT).read_text())
    folder = save(tmp_path / "photos", *coloured(90, 1))
    found = evaluate_run(run, folder).as_json()
    for key in ("accuracy", "accuracy_low", "accuracy_high", "coverage", "coverage_low", "coverage_high", "set_size"):
        assert found[key] == pytest.approx(result[key])
    assert found["log_loss"] == pytest.approx(result["log_loss"], abs=1e-3)
    assert found["drift"] == {"p": pytest.approx(1), "strange": pytest.approx(result["unknown"], abs=0.02)}
    assert found["coverage_held"]
    assert found["images"] == 90
    wrong = read_predictions(run).query("label != predicted")
    assert 0 < len(found["worst"]) == min(10, len(wrong))
    first = found["worst"][0]
    assert first["probability"] == pytest.approx(wrong.filter(regex="^p_").to_numpy().max(), abs=1e-3)
    assert Path(first["file"]).parent == folder / first["label"]
    assert first["predicted"] != first["label"]
    again = evaluate_run(run, save_npz(tmp_path / "same.npz", dataset_of(300, 90), class_names=np.array(COLOURS)))
    assert again.metrics.accuracy == found["accuracy"]


def test_other_images_are_noticed(run: Path, tmp_path: Path) -> None:
    images, labels = coloured(150, 2)
    found = evaluate_run(run, save(tmp_path / "dark", images // 4, labels))
    assert found.drift_p is not None
    assert found.drift_p < 0.001
    wrong = evaluate_run(run, save(tmp_path / "wrong", images, (labels + 1) % 3))
    assert wrong.coverage_p is not None
    assert wrong.coverage_p < 0.001
    assert "90% coverage is not held (p = " in "\n".join(wrong.in_words())


def test_what_cannot_be_read_is_skipped(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(tmp_path / "new", *coloured(12, 3))
    (folder / "red" / "notes.txt").write_text("no image")
    found = evaluate_run(run, folder)
    assert (found.images, [Path(each.file).name for each in found.skipped]) == (12, ["notes.txt"])
    assert f"skipped {folder}/red/notes.txt: no image" in caplog.text


def test_a_folder_with_a_test_split(run: Path, tmp_path: Path) -> None:
    save(tmp_path / "new" / "train", *coloured(12, 3))
    save(tmp_path / "new" / "test", *coloured(15, 4))
    assert evaluate_run(run, tmp_path / "new").images == 15


def test_what_cannot_be_evaluated(run: Path, tmp_path: Path) -> None:
    few = save(tmp_path / "few", *coloured(9, 3))
    with pytest.raises(DataError, match=r"few holds 9 images that can be read: expected 10 or more; add some$"):
        evaluate_run(run, few)
    (few / "red").rename(few / "lynx")
    with pytest.raises(UsageError, match=r"few: the run has no class lynx; its classes are blue, green, red: rename"):
        evaluate_run(run, few)
    (tmp_path / "empty" / "red").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty holds no images: expected a folder of them for each class"):
        evaluate_run(run, tmp_path / "empty")
    with pytest.raises(UsageError, match=r"absent: no such file or folder"):
        evaluate_run(run, tmp_path / "absent")
    other = replace(dataset_of(30, 30), splits={"train": dataset_of(30, 30).splits["train"]})
    large = np.zeros((12, 20, 20, 3), np.uint8)
    splits = {**other.splits, "test": Split(large, np.arange(12) % 3, np.arange(12))}
    path = save_npz(tmp_path / "large.npz", replace(other, splits=splits), class_names=np.array(COLOURS))
    with pytest.raises(UsageError, match=r"large.npz\[0\] has 20 x 20 pixels, and the training images have 10 x 10"):
        evaluate_run(run, path)
    with pytest.raises(UsageError, match="was trained with the head logreg; leave out"):
        evaluate_run(run, few, head="sklearn.naive_bayes:GaussianNB")


def test_a_run_from_before_there_were_promises(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "logreg-old")
    values = json.loads((old / RESULT).read_text())
    (old / RESULT).write_text(json.dumps({**values, "guarantee_sha256": ""}))
    found = evaluate_run(old, save(tmp_path / "new", *coloured(30, 3)))
    assert found.as_json()["coverage"] is None
    assert found.strange is None
    assert found.drift_p is not None  # by the probabilities alone


def test_the_lines(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate_run(run, save(tmp_path / "new", *coloured(30, 3)))
    shown: Evaluation = replace(found, worst=[Mistake("\udcff.png", "red", "blue", 0.987)], drift_p=0.004, strange=0.1)
    show(shown)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"accuracy: {100 * found.metrics.accuracy:.0f}% (")
    assert lines[0].endswith("on the run's test images")
    assert "90% coverage is held" in lines[2]
    assert lines[3:] == [
        "strange images: 10%, expected 5%",
        "drift: the images differ from the test images (p = 0.004)",
        "most confident mistakes:",
        "  ?.png: blue 98.7%, labelled red",
    ]
    show(shown, as_json=True)
    assert json.loads(capsys.readouterr().out)["drift"] == {"p": 0.004, "strange": 0.1}
