import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CLASSES, make_dataset
from test_backbone import save_tiny_network
from test_card import RECORD
from test_decode import written
from test_extract import picture_folder

from classify.heads import Task, make_head
from classify.persist import HEAD, load_head, save_head
from classify.predict import Guess, Prediction, Predictions, Skipped, predict_images, show
from classify.results import RESULT
from featurize.backbone import load_backbone
from featurize.cache import load_features, read_info
from featurize.datasets import load_dataset
from featurize.decode import read_image
from featurize.engine import ENGINES
from featurize.errors import BackboneError, DataError, UsageError
from featurize.extract import extract_features

DATASET = make_dataset(60, 12, size=10)
IMAGES = DATASET.splits["test"].images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the second layer of a cache, made with a mirror image and a grid."""
    folder = tmp_path_factory.mktemp("made")
    backbone = load_backbone(str(save_tiny_network(folder / "tinynet.keras")), layers=("early", "late"), image_size=12)
    info = extract_features(
        DATASET, backbone, pool="grid2", flip=True, resize="lanczos", engine="tensorflow", out=folder / "tiny.h5"
    ).info
    train = load_features(info.path, "train", ("late",))
    (folder / "run").mkdir()
    digest = save_head(make_head("logreg", Task(*train.x.shape)).fit(train.x, train.y), folder / "run" / HEAD)
    result = replace(
        RECORD,
        spec=asdict(info.spec),
        fingerprint=info.spec.fingerprint,
        source=info.source,
        class_names=list(CLASSES),
        layers=["late"],
        dim=train.x.shape[1],
        head_sha256=digest,
    )
    (folder / "run" / RESULT).write_text(json.dumps(asdict(result)))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The same, for a test to change."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def change(run: Path, **changes: object) -> None:
    values = json.loads((run / RESULT).read_text())
    (run / RESULT).write_text(json.dumps({**values, **changes}))


def expected(made: Path) -> np.ndarray:
    """The probabilities of the test images' cached vectors, (n, K)."""
    digest = json.loads((made / "run" / RESULT).read_text())["head_sha256"]
    features = load_features(made / "tiny.h5", "test", ("late",))
    return load_head(made / "run" / HEAD, digest).predict_proba(features.x)


def check_predictions(found: Predictions, probabilities: np.ndarray, paths: list[Path]) -> None:
    assert [prediction.file for prediction in found.predictions] == list(map(str, paths))
    for prediction, row in zip(found.predictions, probabilities, strict=True):
        order = np.argsort(-row)
        assert [guess.label for guess in prediction.top] == [CLASSES[place] for place in order]
        np.testing.assert_allclose([guess.probability for guess in prediction.top], row[order], atol=1e-3)
        assert prediction.top[0] == Guess(prediction.label, prediction.probability)


def test_the_data_sets_own_images_are_predicted_as_their_cached_vectors(made: Path, tmp_path: Path) -> None:
    paths = written(tmp_path, *IMAGES)
    found = predict_images(made / "run", paths)
    assert found.skipped == []
    check_predictions(found, expected(made), paths)
    assert len({prediction.label for prediction in found.predictions}) > 1


def test_without_the_recorded_size_images_of_that_size_go_the_same_way(made: Path, run: Path, tmp_path: Path) -> None:
    source = json.loads((run / RESULT).read_text())["source"]
    assert source.pop("image_shape") == [10, 10]
    change(run, source=source)
    paths = written(tmp_path, *IMAGES)
    check_predictions(predict_images(run, paths), expected(made), paths)


def test_a_large_photo_is_seen_as_the_training_images_were(made: Path, tmp_path: Path) -> None:
    large = [image.repeat(30, axis=0).repeat(30, axis=1) for image in IMAGES[:3]]
    paths = written(tmp_path, *large)
    found = predict_images(made / "run", paths)
    shrunk = [read_image(path, 10, 10) for path in paths]
    again = predict_images(made / "run", written(tmp_path, *shrunk))
    assert [p.top for p in found.predictions] == [p.top for p in again.predictions]


@pytest.mark.parametrize("aspect", ["crop", "stretch", "pad"])
def test_files_are_seen_as_those_of_a_class_folder_were(made: Path, run: Path, tmp_path: Path, aspect: str) -> None:
    root = picture_folder(tmp_path / "pets")
    backbone = load_backbone(str(made / "tinynet.keras"), layers=("early", "late"), image_size=12)
    cache = extract_features(load_dataset(str(root)), backbone, aspect=aspect, resize="bilinear", pool="grid2").info
    features = load_features(cache.path, "test", ("late",))
    with h5py.File(cache.path) as file:
        paths = [root / path for path in file["test/paths"].asstr()[:]]
    head = make_head("logreg", Task(*features.x.shape)).fit(features.x, features.y)
    digest = save_head(head, run / HEAD)
    change(
        run,
        spec=asdict(cache.spec),
        fingerprint=cache.spec.fingerprint,
        source=cache.source,
        class_names=list(cache.class_names),
        dim=features.x.shape[1],
        head_sha256=digest,
    )
    found = predict_images(run, paths)
    np.testing.assert_allclose(
        [prediction.probability for prediction in found.predictions],
        head.predict_proba(features.x).max(axis=1),
        atol=1e-4,
    )


def test_more_images_than_a_batch(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classify.predict.default_batch_size", lambda size: 5)
    paths = written(tmp_path, *IMAGES)
    check_predictions(predict_images(made / "run", paths), expected(made), paths)


def test_top(made: Path, tmp_path: Path) -> None:
    for top, count in ((1, 1), (2, 2), (99, 3)):
        (prediction,) = predict_images(made / "run", written(tmp_path, IMAGES[0]), top=top).predictions
        assert len(prediction.top) == count
        assert prediction.probability == max(guess.probability for guess in prediction.top)


def test_what_is_no_image_is_skipped(made: Path, tmp_path: Path) -> None:
    (good,) = written(tmp_path, IMAGES[0])
    text, cut, absent = tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "absent.png"
    text.write_text("no image")
    cut.write_bytes(written(tmp_path / "..", np.zeros((99, 99, 3), np.uint8))[0].read_bytes()[:70])
    found = predict_images(made / "run", [text, good, cut, absent, tmp_path])
    assert [prediction.file for prediction in found.predictions] == [str(good)]
    assert [skipped.file for skipped in found.skipped] == [str(text), str(cut), str(absent), str(tmp_path)]
    reasons = [skipped.reason for skipped in found.skipped]
    assert reasons[0].startswith("no image of a format that is read here (BMP, GIF, JPEG")
    assert "truncated" in reasons[1]
    assert reasons[2:] == ["no such file"] * 2


def test_no_image_at_all(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classify.predict.recorded_backbone", lambda *_: pytest.fail("a network was loaded"))
    with pytest.raises(DataError, match=r"none of the 2 files can be classified; .*a.png: no such file"):
        predict_images(made / "run", [tmp_path / "a.png", tmp_path / "b.png"])


def test_other_weights_are_refused(made: Path, run: Path, tmp_path: Path) -> None:
    source = json.loads((run / RESULT).read_text())["source"]
    change(run, source={**source, "weights": "random"})
    with pytest.raises(BackboneError, match=r"weights at random of .*tinynet.keras .*digest [0-9a-f]{64}, expected"):
        predict_images(run, written(tmp_path, IMAGES[0]))


def test_a_backbone_that_is_gone(run: Path, tmp_path: Path) -> None:
    source = json.loads((run / RESULT).read_text())["source"]
    change(run, source={**source, "backbone": str(tmp_path / "gone.keras")})
    with pytest.raises(UsageError, match=r"gone.keras: no such file"):
        predict_images(run, written(tmp_path, IMAGES[0]))


def test_another_head_is_refused_before_anything_is_read(run: Path, tmp_path: Path) -> None:
    (run / HEAD).write_bytes((run / HEAD).read_bytes() + b"x")
    with pytest.raises(DataError, match="is not the head that was saved"):
        predict_images(run, [tmp_path / "absent.png"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 64}, r"result.json cannot be used: the specification has the fingerprint"),
        ({"spec": {}}, r"result.json cannot be used: expected a JSON object"),
        ({"layers": ["middle"]}, r"result.json cannot be used: the specification has no layer middle"),
        ({"layers": ["early"]}, "head.skops does not work on this run's vectors"),
        ({"class_names": ["ant"]}, "head.skops does not work on this run's vectors"),
        ({"source": {"image_shape": "x"}}, r"result.json cannot be used: invalid literal"),
        ({"source": {"image_shape": [0, 10]}}, "result.json cannot be used: there are no images of 0 x 10 pixels"),
        ({"source": []}, r"result.json cannot be used: 'list' object"),
    ],
)
def test_a_record_that_does_not_belong_together(run: Path, tmp_path: Path, changes: dict, message: str) -> None:
    change(run, **changes)
    with pytest.raises(DataError, match=message):
        predict_images(run, written(tmp_path, IMAGES[0]))


def unavailable(backbone: object) -> None:
    raise UsageError("the engine fast is not available: no module; pip install fast")


@pytest.mark.parametrize(
    "engines",
    [
        pytest.param({}, id="unknown"),
        pytest.param({"fast": (unavailable, lambda: "1")}, id="not installed"),
        pytest.param({"fast": (lambda _: lambda images: [images.mean()] * 2, lambda: "1")}, id="other numbers"),
    ],
)
def test_tensorflow_takes_the_place_of_an_engine_that_is_not_here(
    made: Path,
    run: Path,
    tmp_path: Path,
    engines: dict[str, tuple[Callable, Callable]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, engine in engines.items():
        monkeypatch.setitem(ENGINES, name, engine)
    spec = replace(read_info(made / "tiny.h5").spec, engine="fast", engine_version="1")
    change(run, spec=asdict(spec), fingerprint=spec.fingerprint)
    paths = written(tmp_path, *IMAGES)
    check_predictions(predict_images(run, paths), expected(made), paths)
    (record,) = caplog.records
    assert record.getMessage().startswith("the engine fast cannot be used here, tensorflow takes its place (")


# What is printed.

FOUND = Predictions(
    [Prediction("a.png", "ant", 0.75, [Guess("ant", 0.75), Guess("bee", 0.2)])], [Skipped("b.png", "no such file")]
)


def test_the_lines(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    show(FOUND, as_json=False)
    assert capsys.readouterr().out == "a.png: ant 75.0%, bee 20.0%\n"
    assert caplog.messages == ["skipped b.png: no such file"]


def test_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    show(FOUND, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "predictions": [
            {
                "file": "a.png",
                "label": "ant",
                "probability": 0.75,
                "top": [{"label": "ant", "probability": 0.75}, {"label": "bee", "probability": 0.2}],
            }
        ],
        "skipped": [{"file": "b.png", "reason": "no such file"}],
    }


def test_a_name_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(Predictions([Prediction("\udcff.png", "ant", 1.0, [Guess("ant", 1.0)])], []), as_json=False)
    assert capsys.readouterr().out == "?.png: ant 100.0%\n"
