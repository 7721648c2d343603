import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_data import CLASSES, make_dataset
from tiny_pictures import picture_folder, save_pictures
from tiny_runs import RECORD

from classify.guarantee import ConformalSets, Guarantee, fit_novelty
from classify.heads.calibration import HeldOut
from classify.heads.registry import Task, make_head
from classify.predict import Guess, Prediction, Skipped, named_files, predict_images, show
from classify.runs.persist import GUARANTEE, HEAD, load_head, save_head
from classify.runs.results import RESULT
from featurize.cache import CacheInfo, load_features, read_info
from featurize.core.errors import BackboneError, DataError, UsageError
from featurize.engines.choice import ENGINES
from featurize.extraction import extract_features
from featurize.images import load_dataset
from featurize.images.decode import read_image
from featurize.networks.backbone import load_backbone

DATASET = make_dataset(60, 12, size=10)
IMAGES = np.asarray(DATASET.splits["test"].images)


@pytest.fixture(scope="module")
def made(tiny_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the second layer of a cache, made with a mirror image and a grid."""
    folder = tmp_path_factory.mktemp("made")
    backbone = load_backbone(shutil.copy(tiny_network, folder), layers=("early", "late"), image_size=12)
    info = extract_features(
        DATASET, backbone, pool="grid2", flip=True, resize="lanczos", engine="tensorflow", out=folder / "tiny.h5"
    ).info
    write_run(info, ("late",), folder / "run")
    return folder


def write_run(info: CacheInfo, layers: tuple[str, ...], folder: Path) -> Path:
    """What `frozenbench classify` would leave, as far as `predict` reads it."""
    train = load_features(info.path, "train", layers)
    folder.mkdir()
    digest = save_head(make_head("logreg", Task(*train.x.shape)).fit(train.x, train.y), folder / HEAD)
    result = replace(
        RECORD,
        spec=asdict(info.spec),
        fingerprint=info.spec.fingerprint,
        source=info.source,
        class_names=list(CLASSES),
        layers=list(layers),
        dim=train.x.shape[1],
        head_sha256=digest,
    )
    (folder / RESULT).write_text(json.dumps(asdict(result)))
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


def predicted(run_dir: Path, paths: list[Path], top: int = 5) -> list[Prediction | Skipped]:
    return list(predict_images(run_dir, paths, top))


def check_predictions(found: list[Prediction | Skipped], probabilities: np.ndarray, paths: list[Path]) -> None:
    assert [prediction.file for prediction in found] == list(map(str, paths))
    for prediction, row in zip(found, probabilities, strict=True):
        assert isinstance(prediction, Prediction)
        order = np.argsort(-row)
        assert [guess.label for guess in prediction.top] == [CLASSES[place] for place in order]
        np.testing.assert_allclose([guess.probability for guess in prediction.top], row[order], atol=1e-3)
        assert prediction.top[0] == Guess(prediction.label, prediction.probability)


def test_the_data_sets_own_images_are_predicted_as_their_cached_vectors(made: Path, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path, *IMAGES)
    found = predicted(made / "run", paths)
    check_predictions(found, expected(made), paths)
    assert len({prediction.label for prediction in found}) > 1


def test_without_the_recorded_size_images_of_that_size_go_the_same_way(made: Path, run: Path, tmp_path: Path) -> None:
    source = json.loads((run / RESULT).read_text())["source"]
    assert source.pop("image_shape") == [10, 10]
    change(run, source=source)
    paths = save_pictures(tmp_path, *IMAGES)
    check_predictions(predicted(run, paths), expected(made), paths)


def test_a_large_photo_is_seen_as_the_training_images_were(made: Path, tmp_path: Path) -> None:
    large = [image.repeat(30, axis=0).repeat(30, axis=1) for image in IMAGES[:3]]
    paths = save_pictures(tmp_path, *large)
    found = predicted(made / "run", paths)
    shrunk = [read_image(path, 10, 10) for path in paths]
    again = predicted(made / "run", save_pictures(tmp_path, *shrunk))
    assert [each.top for each in found] == [each.top for each in again]


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
        recall=dict.fromkeys(cache.class_names),
        support=dict.fromkeys(cache.class_names, 0) | {cache.class_names[0]: len(features.y)},
        test_rows=len(features.y),
        class_coverage={},
        dim=features.x.shape[1],
        head_sha256=digest,
    )
    found = predicted(run, paths)
    np.testing.assert_allclose(
        [prediction.probability for prediction in found],
        head.predict_proba(features.x).max(axis=1),
        atol=1e-4,
    )


def test_a_batch_is_read_and_classified_before_the_next(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classify.predict.default_batch_size", lambda size: 5)
    paths, taken = save_pictures(tmp_path, *IMAGES), []
    found = predict_images(made / "run", (taken.append(path) or path for path in paths))
    assert taken == []
    first = [next(found) for _ in range(5)]
    assert len(taken) == 5
    check_predictions([*first, *found], expected(made), paths)


def test_top(made: Path, tmp_path: Path) -> None:
    for top, count in ((1, 1), (2, 2), (99, 3)):
        (prediction,) = predicted(made / "run", save_pictures(tmp_path, IMAGES[0]), top)
        assert len(prediction.top) == count
        assert prediction.probability == max(guess.probability for guess in prediction.top)


def test_what_is_no_image_is_skipped(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classify.predict.default_batch_size", lambda size: 2)
    (good,) = save_pictures(tmp_path, IMAGES[0])
    text, cut, absent, long = tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "absent.png", Path("x" * 300)
    text.write_text("no image")
    cut.write_bytes(save_pictures(tmp_path / "..", np.zeros((99, 99, 3), np.uint8))[0].read_bytes()[:70])
    found = predicted(made / "run", [text, good, cut, absent, long])
    assert [each.file for each in found] == [str(text), str(good), str(cut), str(absent), str(long)]
    assert isinstance(found.pop(1), Prediction)
    reasons = [each.reason for each in found]
    assert reasons[0].startswith("no image of a format that is read here (BMP, GIF, JPEG")
    assert "truncated" in reasons[1]
    assert reasons[2:] == ["no such file", "File name too long"]


def test_without_an_image_no_network_is_loaded(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classify.predict.recorded_backbone", lambda *_: pytest.fail("a network was loaded"))
    (found,) = predicted(made / "run", [tmp_path / "a.png"])
    assert found == Skipped(str(tmp_path / "a.png"), "no such file")


def test_other_weights_are_refused(made: Path, run: Path, tmp_path: Path) -> None:
    source = json.loads((run / RESULT).read_text())["source"]
    change(run, source={**source, "weights": "random"})
    with pytest.raises(BackboneError, match=r"weights at random of .*tinynet.keras .*digest [0-9a-f]{64}, expected"):
        predicted(run, save_pictures(tmp_path, IMAGES[0]))


def test_a_backbone_that_is_gone(run: Path, tmp_path: Path) -> None:
    source = json.loads((run / RESULT).read_text())["source"]
    change(run, source={**source, "backbone": str(tmp_path / "gone.keras")})
    with pytest.raises(UsageError, match=r"gone.keras: no such file"):
        predicted(run, save_pictures(tmp_path, IMAGES[0]))


def test_another_head_is_refused_before_anything_is_read(run: Path, tmp_path: Path) -> None:
    (run / HEAD).write_bytes((run / HEAD).read_bytes() + b"x")
    with pytest.raises(DataError, match="is not the file that was saved"):
        predict_images(run, [tmp_path / "absent.png"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 64}, r"result.json cannot be used: the specification has the fingerprint"),
        ({"spec": {}}, r"result.json cannot be used: it has no field dataset_digest"),
        ({"layers": ["middle"]}, r"result.json cannot be used: its field layers is not of its features"),
        ({"layers": ["early"]}, "head.skops does not work on this run's vectors"),
        ({"class_names": ["ant"]}, "result.json cannot be used: its fields recall and support are not of its classes"),
        ({"source": {"image_shape": "x"}}, r"result.json cannot be used: its field image_shape is \"x\""),
        ({"source": {"image_shape": [0, 10]}}, "result.json cannot be used: its field image_shape.0 is 0"),
        ({"source": []}, r"result.json cannot be used: its field source is \[\]"),
    ],
)
def test_a_record_that_does_not_belong_together(run: Path, tmp_path: Path, changes: dict, message: str) -> None:
    change(run, **changes)
    with pytest.raises(DataError, match=message):
        predicted(run, save_pictures(tmp_path, IMAGES[0]))


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
    paths = save_pictures(tmp_path, *IMAGES)
    check_predictions(predicted(run, paths), expected(made), paths)
    (record,) = [record for record in caplog.records if record.name == "frozenbench"]
    assert record.getMessage().startswith("the engine fast cannot be used here, using tensorflow instead (")


AGAIN_IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
from classify.predict import predict_images
for found in predict_images(Path(sys.argv[1]), map(Path, sys.argv[2:])):
    print(found.label, found.probability)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras"}))
"""


@pytest.mark.engines
def test_the_next_time_no_framework_is_loaded(tmp_path: Path, data_folder: Path) -> None:
    backbone = load_backbone("vgg16", layers=("block1_pool",), image_size=32)
    info = extract_features(DATASET, backbone, engine="winograd", out=tmp_path / "vgg16.h5").info
    run = write_run(info, ("block1_pool",), tmp_path / "vgg16")
    paths = save_pictures(tmp_path, *IMAGES[:3])
    first = predicted(run, paths)
    assert len(list((data_folder / "engines").iterdir())) == 1
    words = [sys.executable, "-c", AGAIN_IN_A_NEW_PROCESS, str(run), *map(str, paths)]
    *lines, loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert loaded == ""
    assert lines == [f"{each.label} {each.probability}" for each in first]


@pytest.mark.engines
def test_where_a_network_cannot_be_kept(tmp_path: Path, data_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = load_backbone("vgg16", layers=("block1_pool",), image_size=32)
    info = extract_features(DATASET, backbone, engine="winograd", out=tmp_path / "vgg16.h5").info
    run = write_run(info, ("block1_pool",), tmp_path / "vgg16")
    shutil.rmtree(data_folder)  # where the extraction has kept it
    data_folder.write_text("no folder")
    assert len(predicted(run, save_pictures(tmp_path, *IMAGES[:3]))) == 3
    assert "the network could not be saved for next time: " in caplog.text


# Sets of classes.


@pytest.fixture
def run_with_sets(made: Path, run: Path) -> Path:
    """The run, with 60 held-out images whose labels are drawn from the probabilities."""
    digest = json.loads((run / RESULT).read_text())["head_sha256"]
    probabilities = load_head(run / HEAD, digest).predict_proba(load_features(made / "tiny.h5", "train", ("late",)).x)
    draws = np.random.default_rng(0).random((len(probabilities), 1))
    labels = np.minimum((probabilities.cumsum(axis=1) < draws).sum(axis=1), len(CLASSES) - 1)
    guarantee = Guarantee(ConformalSets.of(HeldOut(probabilities, labels)))
    change(run, guarantee_sha256=save_head(guarantee, run / GUARANTEE), held_out_rows=len(labels))
    return run


def test_sets_of_classes(run_with_sets: Path, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path, *IMAGES)
    found = {coverage: list(predict_images(run_with_sets, paths, coverage=coverage)) for coverage in (0.5, 0.9)}
    for small, large in zip(found[0.5], found[0.9], strict=True):
        order = [guess.label for guess in large.top]
        assert large.set == order[: len(large.set)]
        assert small.set == order[: len(small.set)]
        assert 1 <= len(small.set) <= len(large.set)
        assert large.all_classes == (len(large.set) == 3)
    assert len({len(each.set) for each in found[0.9]}) > 1
    assert sum(len(each.set) for each in found[0.5]) < sum(len(each.set) for each in found[0.9])
    (alone,) = predict_images(run_with_sets, paths[:1], top=1, coverage=0.9)
    assert alone.set == found[0.9][0].set


@pytest.mark.parametrize(
    ("coverage", "message"),
    [
        (1.0, "^coverage 1: expected a share above 0 and below 1, such as 0.9$"),
        (0.99, "^coverage 0.99: the 60 held-out images of run are too few; expected at most 0.984, or train on more"),
    ],
)
def test_coverages_that_cannot_be_had(run_with_sets: Path, coverage: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predict_images(run_with_sets, [], coverage=coverage)


def test_a_run_without_sets(run: Path) -> None:
    with pytest.raises(UsageError, match="^coverage: run has no sets of classes, because no training image was held"):
        predict_images(run, [], coverage=0.9)


def test_another_guarantee_is_refused(run_with_sets: Path) -> None:
    shutil.copy(run_with_sets / HEAD, run_with_sets / GUARANTEE)
    with pytest.raises(DataError, match=r"guarantee.skops is not the file that was saved"):
        predict_images(run_with_sets, [], coverage=0.9)
    change(run_with_sets, guarantee_sha256=json.loads((run_with_sets / RESULT).read_text())["head_sha256"])
    with pytest.raises(DataError, match="it holds a Pipeline, expected a Guarantee"):
        predict_images(run_with_sets, [], coverage=0.9)


# Images of no known class.


def test_strange_images(made: Path, run: Path, tmp_path: Path) -> None:
    train, test = (load_features(made / "tiny.h5", split, ("late",)) for split in ("train", "test"))
    novelty = fit_novelty(train.x, train.y)
    assert novelty is not None
    assert len(novelty.held_out) == 12  # too few to call an image unknown at 5%
    novelty = replace(novelty, held_out=novelty.held_out.repeat(10))
    change(run, guarantee_sha256=save_head(Guarantee(novelty=novelty), run / GUARANTEE))
    black = np.zeros_like(IMAGES[0])
    *found, strange = predicted(run, save_pictures(tmp_path, *IMAGES, black))
    expected = novelty.strangeness(test.x)
    np.testing.assert_allclose([each.strangeness for each in found], expected, atol=0.05)
    assert [each.known for each in found] == [each.strangeness < 0.95 for each in found]
    assert sum(each.known for each in found) >= 6
    assert strange.strangeness > 0.95
    assert strange.known is False
    with pytest.raises(UsageError, match="run has no sets of classes"):
        predict_images(run, [], coverage=0.9)


# Which files are meant.


def test_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".mine"
    for name in ("b.png", "a/z.png", "a/c.png", ".hidden.png", ".git/x.png", "a/.x/y.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    below = [folder / "a" / "c.png", folder / "a" / "z.png", folder / "b.png"]
    assert list(named_files([folder])) == below
    listed = io.TextIOWrapper(io.BytesIO(b"one.png\r\n\n" + os.fsencode(folder) + b"\n\xff.png"))
    monkeypatch.setattr("sys.stdin", listed)
    first, last = tmp_path / "first.png", folder / ".hidden.png"  # what is named is not left out
    expected = [first, Path("one.png"), *below, Path(os.fsdecode(b"\xff.png")), last, Path("x" * 300)]
    assert list(named_files([first, Path("-"), last, Path("x" * 300)])) == expected


def test_a_list_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with open(read) as listed, open(write, "wb", buffering=0) as sender:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", listed)
        sender.write(b"one.png\ntwo.png\n")
        assert next(named_files([Path("-")])) == Path("one.png")


# What is printed.

FOUND = [Prediction("a,.png", "ant", 0.75, [Guess("ant", 0.75), Guess("bee", 0.2)]), Skipped("b.png", "no such file")]
ONE_OF_TWO = r"^1 of 2 files could not be read; b.png: no such file$"


def test_the_lines(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=ONE_OF_TWO):
        show(FOUND)
    assert capsys.readouterr().out == "a,.png: ant 75.0%, bee 20.0%\n"
    assert caplog.messages == ["skipped b.png: no such file"]


def test_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=ONE_OF_TWO):
        show(FOUND, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "predictions": [
            {
                "file": "a,.png",
                "label": "ant",
                "probability": 0.75,
                "top": [{"label": "ant", "probability": 0.75}, {"label": "bee", "probability": 0.2}],
            }
        ],
        "skipped": [{"file": "b.png", "reason": "no such file"}],
    }


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["ant"], "a.png: ant 75.0%; set: ant"),
        (["ant", "bee"], "a.png: ant 75.0%; set: ant or bee"),
        (["ant", "bee", "cow"], "a.png: ant 75.0%; set: any class, none can be excluded"),
    ],
)
def test_sets_in_words(members: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = Prediction("a.png", "ant", 0.75, [Guess("ant", 0.75)], members, all_classes=len(members) == 3)
    show([found])
    assert capsys.readouterr().out == f"{words}\n"
    show([found], as_json=True)
    [printed] = json.loads(capsys.readouterr().out)["predictions"]
    assert printed["set"] == members
    assert "all_classes" not in printed


def test_strange_images_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    found = Prediction("a.png", "ant", 0.75, [Guess("ant", 0.75)], ["ant"], known=False, strangeness=0.9876)
    show([found, replace(found, known=True, strangeness=0.5)])
    line = "a.png: ant 75.0%; set: ant"
    assert capsys.readouterr().out == (
        f"{line}; perhaps none of these: stranger than 98% of the training images\n{line}\n"
    )
    show([found], as_json=True)
    [printed] = json.loads(capsys.readouterr().out)["predictions"]
    assert (printed["known"], printed["strangeness"]) == (False, 0.9876)


def test_the_csv(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=ONE_OF_TWO):
        show(FOUND, as_csv=True)
    assert capsys.readouterr().out == 'file,rank,label,probability\n"a,.png",1,ant,0.75\n"a,.png",2,bee,0.2\n'


def test_lines_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    def found() -> Iterator[Prediction]:
        yield FOUND[0]
        assert capsys.readouterr().out.startswith("a,.png: ant")
        yield FOUND[0]

    show(found())


def test_no_file_at_all() -> None:
    with pytest.raises(DataError, match="there is no file to classify"):
        show([])


@pytest.mark.parametrize("as_csv", [False, True])
def test_a_name_that_is_no_text(capsys: pytest.CaptureFixture[str], as_csv: bool) -> None:
    show([Prediction("\udcff.png", "ant", 1.0, [Guess("ant", 1.0)])], as_csv=as_csv)
    assert capsys.readouterr().out.splitlines()[-1] in ("?.png: ant 100.0%", "?.png,1,ant,1.0")
