import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_networks import save_tiny_network

from featurize.core.environment import import_keras
from featurize.core.errors import BackboneError, UsageError
from featurize.engines import choose_engine, tensorflow_engine
from featurize.networks import backbone as backbone_module
from featurize.networks.applications import preprocessed
from featurize.networks.backbone import BUNDLED_VGG16, load_backbone

TAPS = ("block1_pool", "block2_pool", "block3_pool")
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), np.uint8)


def independent_vgg16(images: np.ndarray) -> list[np.ndarray]:
    """VGG16's first three blocks in float64 numpy: Simonyan and Zisserman's description, no framework.

    Their input is BGR minus the mean colour of ImageNet; every convolution is 3 x 3, zero-padded.
    """
    x = images[..., [2, 1, 0]].astype(np.float64) - [103.939, 116.779, 123.68]
    outputs = []
    with h5py.File(BUNDLED_VGG16) as file:
        for block, convolutions in ((1, 2), (2, 2), (3, 3)):
            for number in range(1, convolutions + 1):
                layer = f"block{block}_conv{number}"
                kernel, bias = (file[layer][f"{layer}_{part}_1:0"][:].astype(np.float64) for part in "Wb")
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                height, width = x.shape[1:3]
                x = bias + sum(
                    padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
                )
                x = np.maximum(x, 0)
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
            outputs.append(x)
    return outputs


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("weights", ["imagenet", "a user's file"])
def test_vgg16_equals_an_independent_forward_pass(weights: str, tmp_path: Path) -> None:
    if weights != "imagenet":
        weights = str(shutil.copy(BUNDLED_VGG16, tmp_path / "mine_notop.h5"))
    network = load_backbone("vgg16", weights=weights, layers=TAPS, image_size=40)
    engine = tensorflow_engine(network)
    for ours, reference in zip(engine(IMAGES), independent_vgg16(IMAGES), strict=True):
        assert ours.shape == reference.shape
        assert relative_error(ours, reference) < 1e-5


def test_the_shared_weights_are_the_bundled_ones(shared: Path) -> None:
    path = shared / "backbones" / "vgg16_blocks1to3_notop.h5"
    ours = load_backbone("vgg16", layers=TAPS, image_size=40)
    assert load_backbone("vgg16", weights=str(path), layers=TAPS, image_size=40).weights_digest == ours.weights_digest


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, mode: x - np.array([103.939, 116.779, 123.68], np.float32),  # RGB for BGR
        lambda x, mode: x[..., ::-1] - np.array([123.68, 116.779, 103.939], np.float32),  # the mean reversed
        lambda x, mode: x[..., ::-1],  # no mean
        lambda x, mode: (x[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)) / 255,  # scaled
    ],
)
def test_the_comparison_notices_wrong_preprocessing(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurize.engines.tensorflow.preprocessed", wrong)
    engine = tensorflow_engine(load_backbone("vgg16", layers=TAPS[:1], image_size=40))
    assert relative_error(engine(IMAGES)[0], independent_vgg16(IMAGES)[0]) > 1e-2


def test_the_digest_covers_the_kernels_that_take_part_and_no_more(tmp_path: Path) -> None:
    shallow = load_backbone("vgg16", layers=("block1_pool",), image_size=40)
    deep = load_backbone("vgg16", layers=("block2_pool",), image_size=40)
    assert shallow.weights_digest != deep.weights_digest
    changed = Path(shutil.copy(BUNDLED_VGG16, tmp_path / "changed.h5"))
    with h5py.File(changed, "r+") as file:
        file["block2_conv1/block2_conv1_b_1:0"][0] += 1e-3

    def digest(layer: str) -> str:
        return load_backbone("vgg16", weights=str(changed), layers=(layer,), image_size=40).weights_digest

    assert digest("block1_pool") == shallow.weights_digest
    assert digest("block2_pool") != deep.weights_digest


def test_a_changed_bundle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Path(shutil.copy(BUNDLED_VGG16, tmp_path / "changed.h5"))
    with h5py.File(changed, "r+") as file:
        file["block2_conv1/block2_conv1_b_1:0"][0] += 1e-3
    monkeypatch.setattr(backbone_module, "BUNDLED_VGG16", changed)
    with pytest.raises(BackboneError, match="expected 50a06a3b.*reinstall"):
        load_backbone("vgg16", layers=TAPS, image_size=40)


def test_a_tap_beyond_a_partial_file_fails() -> None:
    with pytest.raises(BackboneError, match="block4_conv1 .* not all finite"):
        load_backbone("vgg16", weights=str(BUNDLED_VGG16), layers=("block4_pool",), image_size=40)


def test_random_weights_are_seeded() -> None:
    digests = [load_backbone("vgg16", weights="random", image_size=32, seed=seed).weights_digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    network = load_backbone("vgg16", weights="random", image_size=32, seed=1)
    assert network.weights == "random-1"
    assert network.layers == ("block5_pool",)


def test_any_change_of_a_weight_is_noticed() -> None:
    network = load_backbone("vgg16", layers=TAPS, image_size=40)
    network.check_frozen()
    assert network.model.trainable_weights == []
    bias = network.model.get_layer("block3_conv3").bias
    bias.assign(bias + 1e-6)
    with pytest.raises(BackboneError, match="changed while it ran"):
        network.check_frozen()


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
def test_preprocessing_is_that_of_keras(mode: str) -> None:
    images = IMAGES.astype(np.float32)
    theirs = import_keras().applications.imagenet_utils.preprocess_input(images.copy(), mode=mode)
    np.testing.assert_allclose(preprocessed(images, mode), theirs, rtol=1e-5, atol=1e-5)
    assert preprocessed(images, "none") is images


def test_preprocessing_of_its_own_kind() -> None:
    module = types.ModuleType("odd")
    module.preprocess_input = lambda x: x / 3  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "odd", module)
        constructor = types.SimpleNamespace(__module__="odd")
        with pytest.raises(BackboneError, match="odd has an unknown preprocessing; choose one with preprocess"):
            backbone_module.own_preprocessing(constructor)


def test_unnamed_layers_are_named_the_same_whatever_was_built_before() -> None:
    keras = import_keras()
    networks = []
    for _ in range(2):
        keras.layers.Activation("relu")  # takes a number
        networks.append(load_backbone("mobilenetv3small", weights="random", image_size=32))
    assert [network.layers for network in networks] == [("activation_17",)] * 2


def test_the_layer_that_was_checked_is_the_one_that_is_tapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `imagenet`, a network is built twice: before its weights are downloaded, and with them."""
    real = backbone_module.application("mobilenetv3small")

    def constructor(weights: str | None, **options: object) -> object:
        return real(weights=None, **options)

    constructor.__module__ = real.__module__
    monkeypatch.setattr(backbone_module, "application", lambda name: constructor)
    assert load_backbone("mobilenetv3small", image_size=32).layers == ("activation_17",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone": "vgg17"},
            "^backbone vgg17: no such network, and no .keras or .onnx file; did you mean vgg19 or vgg16",
        ),
        ({"backbone": "absent.keras"}, "^backbone absent.keras: no such file"),
        ({"layers": ("block3_poool",)}, "vgg16 has no such layer; did you mean block3_pool"),
        ({"layers": ("blok3_pool",), "weights": "imagenet"}, "vgg16 has no such layer; did you mean block3_pool"),
        ({"layers": ("block3_pool", "block3_pool")}, "the same layer is named twice"),
        ({"image_size": 31}, "vgg16 takes no images of 31 x 31 pixels: .*at least 32x32"),
        ({"preprocess": "cafe"}, "^preprocess cafe: did you mean caffe"),
        ({"weights": "absent.h5"}, "^weights absent.h5: no such file; expected imagenet, random or an .h5 file"),
    ],
)
def test_requests_that_cannot_be_met(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(**{"backbone": "vgg16", "weights": "random", "image_size": 32, **options})


@pytest.mark.parametrize("content", ["", "not HDF5", None])
def test_weights_of_something_else(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "other.h5"
    if content is None:
        with h5py.File(path, "w") as file:
            file["x"] = 1
    else:
        path.write_text(content)
    with pytest.raises(BackboneError, match=r"other.h5 does not hold the weights of vgg16 .*notop.h5") as caught:
        load_backbone("vgg16", weights=str(path), image_size=32)
    assert "\n" not in str(caught.value)


NO_NETWORK = """
from featurize.networks.backbone import load_backbone
from featurize.core.errors import BackboneError
try:
    load_backbone("vgg16", image_size=32)
except BackboneError as error:
    print(error)
"""


@pytest.mark.slow
def test_no_network_for_the_weights(tmp_path: Path) -> None:
    closed = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    environment = {**os.environ, **closed, "KERAS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NO_NETWORK], env=environment, capture_output=True, text=True)
    (message,) = done.stdout.splitlines()
    for part in (
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        str(tmp_path / "models"),
        "weights PATH",
        "backbone vgg16 with layers block3_pool",
    ):
        assert part in message
    assert "Traceback" not in done.stderr


def test_a_keras_file(tiny_network: Path) -> None:
    network = load_backbone(str(tiny_network), image_size=12)
    assert (network.name, network.weights, network.layers, network.preprocess) == (
        "tinynet",
        "own",
        ("vector",),
        "none",
    )
    taps = load_backbone(str(tiny_network), image_size=12, layers=("late", "early"))
    late, early = tensorflow_engine(taps)(IMAGES[:, :12, :12])
    assert late.shape == (2, 4, 4, 6)
    assert early.shape == (2, 12, 12, 4)
    vector = tensorflow_engine(network)(IMAGES[:, :12, :12])[0]
    np.testing.assert_allclose(vector, late.mean(axis=(1, 2)), rtol=1e-5)


def test_random_weights_for_a_keras_file(tiny_network: Path) -> None:
    networks = [load_backbone(str(tiny_network), image_size=12, weights="random", seed=seed) for seed in (0, 0, 1)]
    digests = [network.weights_digest for network in networks]
    assert digests[0] == digests[1] != digests[2]
    assert load_backbone(str(tiny_network), image_size=12).weights_digest not in digests


def test_the_architecture_of_a_keras_file_is_part_of_its_digest(tmp_path: Path, tiny_network: Path) -> None:
    keras = import_keras()
    model = keras.models.load_model(tiny_network)
    config = model.get_config()
    for layer in config["layers"]:
        if layer["config"]["name"] == "early":
            layer["config"]["activation"] = "tanh"
    other = keras.Model.from_config(config)
    other.set_weights(model.get_weights())
    other.save(tmp_path / "tinynet.keras")
    digests = [
        load_backbone(str(path), image_size=12).weights_digest for path in (tiny_network, tmp_path / "tinynet.keras")
    ]
    assert digests[0] != digests[1]


def test_keras_files_that_do_not_fit(tmp_path: Path, tiny_network: Path) -> None:
    fixed = save_tiny_network(tmp_path / "fixed.keras", size=20)
    assert load_backbone(str(fixed), image_size=20).layers == ("vector",)
    with pytest.raises(UsageError, match="fixed takes no images of 12 x 12 pixels"):
        load_backbone(str(fixed), image_size=12)
    with pytest.raises(UsageError, match="tinynet takes no images of 4 x 4 pixels"):
        load_backbone(str(tiny_network), image_size=4)
    with pytest.raises(BackboneError, match="does not take one batch of images"):
        load_backbone(str(save_tiny_network(tmp_path / "grey.keras", channels=1)), image_size=12)
    (tmp_path / "text.keras").write_text("no zip")
    with pytest.raises(BackboneError, match=r"text.keras is not a .keras file, which is a zip archive"):
        load_backbone(str(tmp_path / "text.keras"), image_size=12)
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("notes.txt", "no network")
    with pytest.raises(BackboneError, match=r"empty.keras cannot be loaded as a Keras model"):
        load_backbone(str(tmp_path / "empty.keras"), image_size=12)


def test_code_in_a_keras_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = import_keras()
    marker, hostile = tmp_path / "executed", tmp_path / "hostile.keras"

    monkeypatch.setenv("MARKER", str(marker))
    # Only a lambda without defaults or closure is stored as code inside the file.
    leave_a_mark = lambda x: (open(__import__("os").environ["MARKER"], "w").close(), x)[1]  # noqa: E731, PTH123
    inputs = keras.Input((12, 12, 3))
    outputs = keras.layers.Lambda(leave_a_mark, output_shape=(12, 12, 3))(inputs)
    keras.Model(inputs, outputs).save(hostile)
    keras.models.load_model(hostile, safe_mode=False)(np.zeros((1, 12, 12, 3)))
    assert marker.exists()  # the file does what it is feared for
    marker.unlink()
    with pytest.raises(BackboneError, match="hostile.keras cannot be loaded"):
        tensorflow_engine(load_backbone(str(hostile), image_size=12))(IMAGES[:, :12, :12])
    assert not marker.exists()


def test_pixels() -> None:
    network = load_backbone("pixels", layers=("anything",), image_size=12)
    assert (network.layers, network.weights_digest, network.model) == (("pixels",), "", None)
    engine = choose_engine(network, "auto", IMAGES)
    assert (engine.name, engine.version) == ("", "")
    np.testing.assert_array_equal(engine.run(IMAGES)[0], IMAGES.astype(np.float32))
    network.check_frozen()
