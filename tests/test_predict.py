import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, make_dataset
from PIL import Image
from test_backbone import save_tiny_network
from test_card import RECORD

from classify.heads import Task, make_head
from classify.persist import HEAD, load_head, save_head
from classify.predict import Guess, Prediction, Predictions, Skipped, predict_images, read_image, show
from classify.results import RESULT
from featurize.backbone import load_backbone
from featurize.cache import load_features, read_info
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


def written(folder: Path, *images: np.ndarray, suffix: str = "png") -> list[Path]:
    paths = [folder / f"{number}.{suffix}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


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


# Reading one image.

RANDOM = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_an_image_of_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    (path,) = written(tmp_path, RANDOM)
    np.testing.assert_array_equal(read_image(path, 40, 60), RANDOM)


def test_the_middle_is_taken(tmp_path: Path) -> None:
    (path,) = written(tmp_path, RANDOM)
    np.testing.assert_array_equal(read_image(path, 40, 40), RANDOM[:, 10:50])
    np.testing.assert_array_equal(read_image(path, 10, 60).shape, (10, 60, 3))


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    (path,) = written(tmp_path, flat, suffix=suffix)
    np.testing.assert_allclose(read_image(path, 8, 8), flat, atol=4)


def test_other_formats_start_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    Image.fromarray(RANDOM).save(tmp_path / "image.eps")
    with pytest.raises(DataError, match="no image of a format that is read here"):
        read_image(tmp_path / "image.eps", 8, 8)


def test_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(RANDOM).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png", 60, 40), np.rot90(RANDOM, -1))


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = RANDOM[:, :, 0]
    (path,) = written(tmp_path, grey)
    np.testing.assert_array_equal(read_image(path, 40, 60), np.stack([grey] * 3, axis=2))
    Image.fromarray(grey > 99).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_image(tmp_path / "two.png", 40, 60)[:, :, 1], 255 * (grey > 99))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    grey = RANDOM[:, :, 0].astype(np.uint16)
    Image.fromarray(grey << 8 | 77).save(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"deep.{suffix}", 40, 60)[:, :, 2], grey)


def test_fractions_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(DataError, match="its pixels are fractions of no known scale"):
        read_image(tmp_path / "real.tiff", 4, 4)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    expected = RANDOM.copy()
    expected[:10] = 255
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:10] = 0
    Image.fromarray(np.concatenate([RANDOM, alpha], axis=2)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", 40, 60), expected)
    palette = Image.fromarray((np.arange(40 * 60).reshape(40, 60) // 600).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png", transparency=0)
    found = read_image(tmp_path / "palette.png", 40, 60)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[39, 59].tolist() == [70, 80, 90]
    Image.fromarray(RANDOM[:, :, 0]).save(tmp_path / "grey.png", transparency=int(RANDOM[0, 0, 0]))
    assert read_image(tmp_path / "grey.png", 40, 60)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["gif", "mpo", "png", "tiff"])
def test_the_first_of_several_pictures(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / f"two.{suffix}", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / f"two.{suffix}", 8, 8).max() == 10


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    for pixels, name in ((Image.MAX_IMAGE_PIXELS, "warned of"), (3 * Image.MAX_IMAGE_PIXELS, "refused")):
        header = f"P5 {pixels + 1} 1 255\n".encode()
        (tmp_path / f"{name}.pgm").write_bytes(header + b"0")
        with pytest.raises(DataError, match="exceeds limit of"):
            read_image(tmp_path / f"{name}.pgm", 8, 8)


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
