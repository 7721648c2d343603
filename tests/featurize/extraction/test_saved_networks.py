"""A kept network gives the recorded one's vectors without a framework, or is not used."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featurize.cache.spec import ExtractionSpec
from featurize.core.files import seal
from featurize.engines.choice import ENGINES, choose_engine
from featurize.extraction import Extractor, saved_networks
from featurize.extraction.saved_networks import save_extractor, saved_extractor
from featurize.images.resize import resized
from featurize.networks.backbone import load_backbone

pytestmark = pytest.mark.engines
LAYERS = ("block1_conv2", "block2_pool")
IMAGES = resized(np.random.default_rng(1).integers(0, 256, (3, 5, 5, 3), np.uint8), 32, "bicubic")


def extractor(engine: str) -> Extractor:
    backbone = load_backbone("vgg16", layers=LAYERS, image_size=32)
    spec = ExtractionSpec(
        dataset_digest="",
        backbone="vgg16",
        weights_digest=backbone.weights_digest,
        layers=LAYERS,
        pool="grid2",
        image_size=32,
        resize="bicubic",
        aspect="crop",
        flip=True,
        preprocess="caffe",
        dtype="float32",
        engine=engine,
        engine_version="1",
    )
    return Extractor(backbone, choose_engine(backbone, engine, IMAGES), spec)


@pytest.fixture
def made(data_folder: Path) -> Extractor:
    """An extractor whose network is kept."""
    made = extractor("winograd")
    save_extractor(made)
    return made


@pytest.mark.parametrize("engine", ["winograd", "openvino"])
def test_the_same_vectors_without_a_framework(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = extractor(engine)
    expected = made.vectors(IMAGES)
    save_extractor(made)
    for module in ("networks.backbone", "engines.tensorflow"):
        monkeypatch.setattr(f"featurize.{module}.import_keras", lambda: pytest.fail("Keras was loaded"))
    again = saved_extractor(made.spec)
    assert again is not None
    assert again.spec == made.spec
    for ours, theirs in zip(again.vectors(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_digest": "0" * 64},
        {"backbone": "vgg19"},
        {"layers": LAYERS[:1]},
        {"image_size": 33},
        {"preprocess": "tf"},
        {"engine": "openvino"},
        {"engine_version": "2"},
    ],
)
def test_another_network_is_not_taken_for_it(made: Extractor, change: dict) -> None:
    assert saved_extractor(made.spec) is not None
    assert saved_extractor(replace(made.spec, **change)) is None
    others = {"pool": "avg", "flip": False, "resize": "lanczos", "dtype": "float16", "dataset_digest": "x"}
    assert saved_extractor(replace(made.spec, **others)) is not None


def test_a_damaged_file_is_not_parsed(
    made: Extractor, data_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = (data_folder / "engines").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", lambda *_, **__: pytest.fail("parsed"))
        assert saved_extractor(made.spec) is None
    assert "is damaged: its content does not match its name" in caplog.text
    assert not path.exists()
    save_extractor(made)
    assert path.exists()


def changed(made: Extractor, folder: Path, **arrays: np.ndarray) -> None:
    """Put other arrays into the file, and the right digest into its name."""
    (path,) = folder.iterdir()
    with np.load(path) as there:
        arrays = {**there, **arrays}
    path.unlink()
    content = io.BytesIO()
    np.savez(content, **arrays)
    seal(folder, saved_networks._identity(made.spec), ".npz", content.getvalue())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"bias_1": np.full(64, 9, np.float32)}, "winograd differs from tensorflow by .* at layer block1_conv2"),
        ({"bias_3": np.full(128, 9, np.float32)}, "winograd differs from tensorflow by .* at layer block2_pool"),
        ({"chain": np.array("[]")}, "Error"),
        ({"chain": np.array([print])}, "Object arrays cannot be loaded"),
    ],
)
def test_other_numbers_are_noticed(
    made: Extractor, data_folder: Path, arrays: dict, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    changed(made, data_folder / "engines", **arrays)
    assert saved_extractor(made.spec) is None
    (record,) = [record for record in caplog.records if record.name == "frozenbench"]
    assert re.search(r"\.npz cannot be used here \(.*" + message, record.getMessage())


def test_without_its_own_file_openvino_is_not_used(data_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = extractor("openvino")
    made.vectors(IMAGES)
    save_extractor(made)
    (own,) = (data_folder / "engines").glob("*.openvino.npz")
    own.unlink()
    assert saved_extractor(made.spec) is None
    assert "holds no vgg16 in OpenVINO's format" in caplog.text


def test_tensorflow_is_not_kept(data_folder: Path) -> None:
    made = extractor("tensorflow")
    save_extractor(made)
    assert not (data_folder / "engines").exists()
    assert saved_extractor(made.spec) is None
    assert set(saved_networks.FORMS) == set(ENGINES) - {"tensorflow"}
