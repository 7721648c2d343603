"""What a lower precision costs on the user's own training images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurize.cache import Certificate, read_info
from featurize.core.errors import BackboneError
from featurize.engines import Choice
from featurize.extraction import (
    ExtractionOptions,
    Extractor,
    Plan,
    carry_out,
    finished_before,
    plan_extraction,
    recorded_extractor,
)
from featurize.extraction.certificate import calibration_images, certified
from featurize.images import ImageDataset, load_dataset
from featurize.networks import load_backbone
from featurize.winograd.calibration import calibration_digest

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def images() -> ImageDataset:
    return load_dataset("sample").first(train=400, test=20)


def low_precision(dataset: ImageDataset, out: Path, change: Change) -> Plan:
    """A plan whose engine changes every activation of the float32 engine, as a lower precision does."""
    backbone = load_backbone("vgg16", layers=("block2_pool",), image_size=32)
    plan = plan_extraction(dataset, backbone, out=out)
    exact = recorded_extractor(backbone, plan.spec).engine.run

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        return [change(activation) for activation in exact(pixels)]

    spec = dataclasses.replace(plan.spec, precision="bfloat16")
    return dataclasses.replace(plan, engine=Choice(run, "winograd", "1", "for the test"), spec=spec)


def slightly_off(activation: np.ndarray) -> np.ndarray:
    return activation * np.float32(1.003)


def without_images(activation: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).random(activation.shape, np.float32)


def test_vectors_that_are_slightly_off_cost_nothing(images: ImageDataset, tmp_path: Path) -> None:
    plan = low_precision(images, tmp_path / "x.h5", slightly_off)
    found = carry_out(plan).info
    certificate = found.certificate
    assert certificate is not None
    assert certificate.relative_error == {"block2_pool": pytest.approx(0.003, rel=0.05)}
    assert 190 < certificate.held_out <= 200
    assert certificate.difference is not None
    assert abs(certificate.difference) <= 0.02
    assert certificate.low < certificate.difference < certificate.high
    # The same facts everywhere.
    assert read_info(tmp_path / "x.h5").certificate == certificate
    assert found.as_json()["certificate"] == dataclasses.asdict(certificate)
    assert found.facts()["precision"] == f"bfloat16: {certificate.in_words}"


def test_a_cache_that_grows_keeps_its_certificate(
    images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until most of its images are new: then it is measured again."""
    old = carry_out(low_precision(images, tmp_path / "x.h5", slightly_off)).info
    measured: list[int] = []

    def measure(extractor: Extractor, dataset: ImageDataset) -> Certificate:
        measured.append(len(dataset.splits["train"]))
        return Certificate({"block2_pool": 0.004})

    monkeypatch.setattr("featurize.extraction.certificate._measured", measure)
    more = load_dataset("sample").first(train=500, test=20)
    grown = carry_out(low_precision(more, tmp_path / "x.h5", slightly_off))
    assert (grown.taken_rows, grown.computed_rows) == (420, 100)
    assert grown.info.certificate == old.certificate
    many = load_dataset("sample").first(train=1100, test=20)
    assert carry_out(low_precision(many, tmp_path / "x.h5", slightly_off)).info.certificate != old.certificate
    assert measured == [1100]


def test_vectors_without_the_images_stop_the_extraction(images: ImageDataset, tmp_path: Path) -> None:
    plan = low_precision(images, tmp_path / "x.h5", without_images)
    with pytest.raises(BackboneError, match=r"bfloat16 loses accuracy .* points .*accept_loss") as failure:
        carry_out(plan)
    assert "\n" not in str(failure.value)
    assert not list(tmp_path.glob("x.h5*"))
    accepted = carry_out(plan, accept_loss=True).info.certificate
    assert accepted is not None
    assert accepted.high < -0.005


def test_no_test_image_is_looked_at(images: ImageDataset, tmp_path: Path) -> None:
    train = images.splits["train"]
    changed = dataclasses.replace(images, splits={"train": train, "test": train[:20]})
    found = [certified(low_precision(each, tmp_path / "x.h5", slightly_off), each) for each in (images, changed)]
    assert found[0] == found[1]


def test_too_few_images_to_judge(images: ImageDataset, tmp_path: Path) -> None:
    few = images.first(train=30, test=20)
    found = certified(low_precision(few, tmp_path / "x.h5", without_images), few)
    assert found.difference is None
    assert found.held_out == 0
    assert "too few training images" in found.in_words


def test_a_certificate_is_measured_once(images: ImageDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="frozenbench")
    plan = low_precision(images, tmp_path / "x.h5", slightly_off)
    first = certified(plan, images)
    assert certified(plan, images) == first
    assert caplog.text.count("comparing bfloat16 with float32") == 1


def test_words() -> None:
    certificate = Certificate({"a": 0.001, "b": 0.0054}, 1000, 0.004, -0.001, -0.0051, 0.0031)
    assert certificate.in_words == (
        "relative error 5.4e-03; on 1,000 held-out training images, 0.4% of predictions change, accuracy -0.1 points "
        "(-0.5 to +0.3)"
    )


def test_the_scales_come_from_training_images_only(images: ImageDataset) -> None:
    backbone = load_backbone("vgg16", layers=("block2_pool",), image_size=32)
    spec = plan_extraction(images, backbone).spec
    chosen = calibration_images(images, spec)
    assert chosen.shape == (128, 32, 32, 3)
    again = dataclasses.replace(images, splits={**images.splits, "test": images.splits["train"][:3]})
    assert calibration_digest(calibration_images(again, spec)) == calibration_digest(chosen)
    others = images.first(train=200, test=20)
    assert calibration_digest(calibration_images(others, spec)) != calibration_digest(chosen)


def test_a_lower_precision_is_not_taken_for_float32(images: ImageDataset, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    carry_out(low_precision(images, out, slightly_off))
    arguments = {"backbone": "vgg16", "weights": "imagenet", "layers": ("block2_pool",), "image_size": 32}
    arguments |= {"preprocess": "auto", "seed": 0}

    def found(precision: str) -> bool:
        options = ExtractionOptions(precision=precision)
        return finished_before(images, arguments, options, out=out) is not None

    assert found("bfloat16")
    assert not found("float32")
