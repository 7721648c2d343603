"""What is told of the networks is what they are when they are built."""

import json
from pathlib import Path

import pytest
from slow_cases import mark_slow
from tiny_networks import save_tiny_network

from featurize.cli import backbones
from featurize.core.errors import BackboneError, UsageError
from featurize.networks import catalogue as catalogue_module
from featurize.networks.applications import PREPROCESSING, application_names, applications
from featurize.networks.backbone import load_backbone
from featurize.networks.catalogue import Layer, catalogue, describe

INSIDE = ("convnext", "efficientnet", "mobilenetv3")


def test_every_application_has_a_smallest_size_and_a_preprocessing() -> None:
    entries = {entry.name: entry for entry in catalogue()}
    assert len(entries) >= 40
    assert {"vgg16", "vgg19", "resnet50", "mobilenetv2", "efficientnetb0"} <= set(entries)
    assert list(entries) == sorted(entries)
    for name, entry in entries.items():
        assert entry.preprocess in PREPROCESSING
        assert (entry.preprocess == "none") == name.startswith(INSIDE)
        assert entry.min_image_size == {"xception": 71, "inceptionv3": 75, "inceptionresnetv2": 75}.get(name, 32)


@pytest.mark.parametrize("name", mark_slow(("vgg16", "xception", "mobilenetv3small"), "xception"))
def test_what_is_told_is_what_is_built(name: str) -> None:
    [entry] = [entry for entry in catalogue() if entry.name == name]
    size = entry.min_image_size
    network = load_backbone(name, weights="random", image_size=size)
    found = describe(name, size)
    assert (found.name, found.min_image_size, found.preprocess) == (name, size, network.preprocess)
    assert network.layers == (found.default_layer,)
    assert found.layers[-1] == Layer(
        found.default_layer, type(network.model.layers[-1]).__name__, network.model.outputs[0].shape[1:]
    )
    assert found.parameters == network.model.count_params()
    with pytest.raises(UsageError, match=f"{name} takes no images of {size - 1} x {size - 1}"):
        load_backbone(name, weights="random", image_size=size - 1)
    with pytest.raises(UsageError, match=f"{name} takes no images of {size - 1} x {size - 1}"):
        describe(name, size - 1)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras.utils.get_file", lambda *_, **__: pytest.fail("a download"))
    catalogue()
    assert describe("VGG16").layers[2] == Layer("block1_pool", "MaxPooling2D", (48, 48, 64))


def test_a_keras_file(tiny_network: Path) -> None:
    free = str(tiny_network)
    found = describe(free, 12)
    assert (found.name, found.image_size, found.default_layer, found.preprocess) == (free, 12, "vector", "none")
    assert found.layers == [
        Layer("scale", "Rescaling", (12, 12, 3)),
        Layer("early", "Conv2D", (12, 12, 4)),
        Layer("half", "MaxPooling2D", (6, 6, 4)),
        Layer("late", "Conv2D", (4, 4, 6)),
        Layer("vector", "GlobalAveragePooling2D", (6,)),
    ]
    assert found.parameters == 3 * 3 * 3 * 4 + 4 + 3 * 3 * 4 * 6 + 6
    assert (describe(free).image_size, found.min_image_size) == (96, 6)
    load_backbone(free, image_size=6)
    with pytest.raises(UsageError, match="takes no images of 5 x 5 pixels"):
        load_backbone(free, image_size=5)


def test_a_keras_file_of_one_size(tmp_path: Path) -> None:
    fixed = str(save_tiny_network(tmp_path / "fixed.keras", size=20))
    found = describe(fixed)
    assert (found.image_size, found.min_image_size) == (20, 20)
    with pytest.raises(UsageError, match="tinynet takes no images of 30 x 30 pixels"):
        describe(fixed, 30)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg61", "backbone vgg61: no such network, and no .keras or .onnx file; did you mean vgg19 or vgg16"),
        ("absent.keras", "absent.keras: no such file"),
        ("pixels", "pixels is not a network"),
    ],
)
def test_networks_that_there_are_not(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        describe(name)


def test_an_application_that_does_not_say_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(**options: object) -> None:
        raise ValueError("too small")

    monkeypatch.setattr(catalogue_module, "applications", lambda: {"odd": odd})
    with pytest.raises(BackboneError, match=r"the smallest image size of odd is unknown: .*too small"):
        catalogue()


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbones()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(catalogue())
    assert "vgg16                        32 px  caffe" in lines
    backbones(as_json=True)
    entries = json.loads(capsys.readouterr().out)["backbones"]
    assert {"name": "vgg16", "min_image_size": 32, "preprocess": "caffe"} in entries
    free = str(save_tiny_network(tmp_path / "free.keras"))
    backbones(free, 12)
    assert (
        capsys.readouterr().out
        == f"""\
backbone         {free}
smallest images  6 px
preprocessing    none
default layer    vector
parameters       334
layers and their output for images of 12 x 12 px:
  scale  12 x 12 x 3      Rescaling
  early  12 x 12 x 4      Conv2D
  half   6 x 6 x 4        MaxPooling2D
  late   4 x 4 x 6        Conv2D
  vector 6                GlobalAveragePooling2D
"""
    )


def test_names_come_from_the_source_of_keras() -> None:
    assert application_names() == sorted(applications())
