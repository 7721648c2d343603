"""bfloat16 and int8 from the plan to the prediction, on processors that have the instructions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from featurize.cache import CacheInfo, load_features
from featurize.core.errors import UsageError
from featurize.extraction import extract_features
from featurize.extraction.extractor import recorded_extractor
from featurize.extraction.saved_networks import save_extractor, saved_extractor
from featurize.images import ImageDataset, load_dataset
from featurize.networks import Backbone, load_backbone
from featurize.verify import verify
from featurize.winograd.processor import missing_instruction

pytestmark = pytest.mark.engines


@pytest.fixture(params=["bfloat16", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    if missing := missing_instruction(request.param):
        pytest.skip(f"this processor has no {missing}")
    return str(request.param)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("vgg16", layers=("block2_pool",), image_size=32)


@pytest.fixture(scope="module")
def images() -> ImageDataset:
    return load_dataset("sample").first(train=200, test=40)


def check_vectors_without_keras(info: CacheInfo, images: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saved network gives the vectors of the cache, and Keras is not loaded."""
    for module in ("networks.backbone", "engines.tensorflow"):
        monkeypatch.setattr(f"featurize.{module}.import_keras", lambda: pytest.fail("Keras was loaded"))
    saved = saved_extractor(info.spec)
    assert saved is not None
    pixels, _ = saved.read(images.splits["test"].images)
    again = np.concatenate(saved.vectors(pixels), axis=1)
    np.testing.assert_array_equal(again, load_features(info.path, "test").x)


def test_the_vectors_do_not_depend_on_the_batch(
    precision: str, backbone: Backbone, images: ImageDataset, tmp_path: Path
) -> None:
    found = []
    for batch_size in (7, 64):
        out = tmp_path / f"{batch_size}.h5"
        info = extract_features(images, backbone, out=out, precision=precision, batch_size=batch_size, reuse=None).info
        assert info.spec.precision == precision
        assert info.certificate is not None
        assert 1e-4 < info.certificate.relative_error["block2_pool"] < 0.1
        found.append(load_features(out, "test").x)
    np.testing.assert_array_equal(*found)


def test_precisions_are_not_taken_for_one_another(
    precision: str, backbone: Backbone, images: ImageDataset, data_folder: Path
) -> None:
    exact = extract_features(images, backbone, engine="winograd").info
    low = extract_features(images, backbone, precision=precision).info
    assert exact.path != low.path
    assert precision in low.path.name
    assert exact.spec.fingerprint != low.spec.fingerprint
    assert extract_features(images, backbone, precision=precision).reused


def test_the_same_images_give_the_same_vectors_again(precision: str, backbone: Backbone, data_folder: Path) -> None:
    info = extract_features(load_dataset("sample").first(train=200, test=40), backbone, precision=precision).info
    assert verify(info.path, recompute=10) == []


def test_int8_predicts_without_the_training_images(
    backbone: Backbone, images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := missing_instruction("int8"):
        pytest.skip(f"this processor has no {missing}")
    info = extract_features(images, backbone, precision="int8").info
    check_vectors_without_keras(info, images, monkeypatch)
    # Other scales are another network.
    assert saved_extractor(dataclasses.replace(info.spec, calibration="0" * 64)) is None


def test_a_network_unlike_vgg(
    precision: str, tiny_network: Path, images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO computes it, from the plan to the prediction without TensorFlow."""
    pytest.importorskip("nncf" if precision == "int8" else "numba")
    backbone = load_backbone(str(tiny_network), layers=("early", "late"), image_size=32)
    info = extract_features(images, backbone, precision=precision).info
    assert info.spec.engine == "openvino"
    assert ("nncf" in info.spec.engine_version) == (precision == "int8")
    assert info.certificate is not None
    assert info.certificate.held_out > 90
    assert all(1e-4 < error < 0.1 for error in info.certificate.relative_error.values())
    assert verify(info.path, recompute=10) == []
    if precision == "bfloat16":
        save_extractor(recorded_extractor(backbone, info.spec))
    check_vectors_without_keras(info, images, monkeypatch)


def test_int8_of_a_network_unlike_vgg_needs_a_package(
    tiny_network: Path, images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(str(tiny_network), layers=("late",), image_size=32)
    monkeypatch.setattr("featurize.engines.choice.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^precision int8: this network needs the package nncf for it; pip install"):
        extract_features(images, backbone, precision="int8")
    monkeypatch.setattr("featurize.engines.choice.has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match=r"^precision bfloat16: this processor has no AVX512_BF16 or AMX; leave out"):
        extract_features(images, backbone, precision="bfloat16")
