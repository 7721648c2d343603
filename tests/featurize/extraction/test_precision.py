"""bfloat16 and int8 from the plan to the prediction, on processors that have the instructions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from featurize.cache import load_features
from featurize.extraction import extract_features
from featurize.extraction.saved_networks import saved_extractor
from featurize.extraction.verify import verify
from featurize.images import ImageDataset, load_dataset
from featurize.networks import Backbone, load_backbone
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


def test_the_vectors_do_not_depend_on_the_batch(
    precision: str, backbone: Backbone, images: ImageDataset, tmp_path: Path
) -> None:
    found = []
    for batch_size in (7, 64):
        out = tmp_path / f"{batch_size}.h5"
        info = extract_features(images, backbone, out=out, precision=precision, batch_size=batch_size).info
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
    for module in ("networks.backbone", "engines.tensorflow"):
        monkeypatch.setattr(f"featurize.{module}.import_keras", lambda: pytest.fail("Keras was loaded"))
    saved = saved_extractor(info.spec)
    assert saved is not None
    pixels, _ = saved.read(images.splits["test"].images)
    again = np.concatenate(saved.vectors(pixels), axis=1)
    np.testing.assert_array_equal(again, load_features(info.path, "test").x)
    # Other scales are another network.
    assert saved_extractor(dataclasses.replace(info.spec, calibration="0" * 64)) is None
