"""The Winograd engine gives the numbers of a plain convolution, whatever the sizes, batch and threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

from featurize.core.environment import import_keras
from featurize.core.errors import UsageError
from featurize.engines import tensorflow_engine
from featurize.engines.winograd import network as winograd
from featurize.engines.winograd.kernels import matrices
from featurize.engines.winograd.network import winograd_engine
from featurize.engines.winograd.stages import stages
from featurize.networks.backbone import Backbone, load_backbone

RANDOM = np.random.default_rng(4)
VGG16_LAYERS = tuple(f"block{block}_{layer}" for block in range(1, 6) for layer in ("conv1", "conv2", "pool"))


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / max(np.linalg.norm(reference), 1e-30))


@pytest.mark.parametrize("m", [2, 4])
def test_the_transforms_make_a_convolution(m: int) -> None:
    bt, g, at = matrices(m)
    d, kernel = RANDOM.normal(size=(m + 2, m + 2)), RANDOM.normal(size=(3, 3))
    ours = at @ ((g @ kernel @ g.T) * (bt @ d @ bt.T)) @ at.T
    plain = [[(d[i : i + 3, j : j + 3] * kernel).sum() for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(ours, plain, rtol=1e-12)


@pytest.mark.parametrize("size", [33, 64])
def test_vgg16_layer_by_layer(size: int) -> None:
    network = load_backbone("vgg16", weights="random", layers=VGG16_LAYERS, image_size=size)
    pairs = zip(winograd_engine(network)(images(3, size)), tensorflow_engine(network)(images(3, size)), strict=True)
    assert max(relative_error(ours, reference) for ours, reference in pairs) < 1e-5


@pytest.mark.parametrize("size", [96, 97])
def test_vgg16_with_its_own_kernels(size: int) -> None:
    network = load_backbone("vgg16", layers=("block3_pool", "block1_conv2", "block2_pool"), image_size=size)
    pairs = zip(winograd_engine(network)(images(2, size)), tensorflow_engine(network)(images(2, size)), strict=True)
    assert max(relative_error(ours, reference) for ours, reference in pairs) < 1e-5


def plain_convolution(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = 0.0
    for i in range(3):
        for j in range(3):
            total = total + padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return total + bias


def plain_pooling(x: np.ndarray) -> np.ndarray:
    count, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(count, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


@pytest.mark.parametrize("seed", range(25))
def test_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against an independent forward pass in float64."""
    random = np.random.default_rng(seed)
    layers = import_keras().layers
    size, count, threads = int(random.integers(2, 40)), int(random.integers(1, 9)), int(random.integers(1, 5))
    pictures = images(count, size)
    x, maps = import_keras().Input((size, size, 3)), pictures.astype(float)
    image, outputs, expected = x, [], []
    for number in range(int(random.integers(1, 5))):
        relu, bias = random.random() < 0.7, random.random() < 0.8
        inside = relu and random.random() < 0.5
        channels = int(random.integers(1, 150))
        layer = layers.Conv2D(channels, 3, padding="same", use_bias=bias, activation="relu" if inside else None)
        x = layer(x)
        layer.set_weights([random.normal(size=weight.shape) for weight in layer.get_weights()])
        kernel = layer.get_weights()[0].astype(float)
        maps = plain_convolution(maps, kernel, layer.get_weights()[1].astype(float) if bias else 0.0)
        if relu:
            maps = np.maximum(maps, 0)
            x = x if inside else layers.ReLU()(x)
        if random.random() < 0.5:
            outputs.append(x)
            expected.append(maps)
        if random.random() < 0.6 and maps.shape[1] > 1:
            x, maps = layers.MaxPooling2D()(x), plain_pooling(maps)
        if number == 0 or random.random() < 0.3:
            outputs.append(x)
            expected.append(maps)
    unique = {output.name: (output, values) for output, values in zip(outputs, expected, strict=True)}
    model = import_keras().Model(image, [output for output, _ in unique.values()])
    names = tuple(output._keras_history.operation.name for output, _ in unique.values())
    network = Backbone("random", "random", "", names, size, "none", model)
    monkeypatch.setattr("joblib.cpu_count", lambda **_: threads)
    monkeypatch.setattr(winograd, "GROUP_BYTES", int(random.choice([1, 1 << 27])))
    for ours, (_, values) in zip(winograd_engine(network)(pictures), unique.values(), strict=True):
        assert relative_error(ours, values) < 1e-5


@pytest.fixture(scope="module")
def network() -> Backbone:
    return load_backbone("vgg16", weights="random", layers=("block2_pool", "block5_pool"), image_size=32)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_does_not_matter_at_all(network: Backbone, batch: int) -> None:
    engine, pictures = winograd_engine(network), images(64, 32)
    whole = engine(pictures)
    parts = [engine(pictures[start : start + batch]) for start in range(0, 64, batch)]
    for layer, reference in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[layer] for part in parts]), reference)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter_at_all(
    network: Backbone, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = winograd_engine(network)(images(5, 32))[1]
    monkeypatch.setattr("joblib.cpu_count", lambda **_: threads)
    np.testing.assert_array_equal(winograd_engine(network)(images(5, 32))[1], reference)


def test_results_are_not_overwritten_by_the_next_batch(network: Backbone) -> None:
    engine = winograd_engine(network)
    first = engine(images(4, 32))[0]
    saved = first.copy()
    engine(images(5, 32))
    np.testing.assert_array_equal(first, saved)


def test_an_earlier_batch_does_not_matter(network: Backbone) -> None:
    """The buffers still hold a larger batch; their borders are cleared as far as whole tiles reach."""
    engine, pictures = winograd_engine(network), images(3, 32)
    alone = engine(pictures)[1]
    engine(np.full((9, 32, 32, 3), 255, np.uint8))
    np.testing.assert_array_equal(engine(pictures)[1], alone)


@pytest.mark.parametrize("size", [32, 33])
def test_nothing_is_written_beyond_the_buffers(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    guards = []

    def guarded(*shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        memory = np.full(count + 100_000, 123, np.float32)
        memory[:count] = 0
        guards.append(memory[count:])
        return memory[:count].reshape(shape)

    monkeypatch.setattr(winograd, "_aligned", guarded)
    engine = winograd_engine(load_backbone("vgg16", weights="random", layers=VGG16_LAYERS, image_size=size))
    for count in (1, 5, 3):
        engine(images(count, size))
    assert guards
    assert all((guard == 123).all() for guard in guards)


@pytest.mark.slow
def test_processors_with_shorter_vectors() -> None:
    """AVX2 only: another process, because the kernels are made for one length of vectors."""
    script = """
import numpy as np
from featurize.networks.backbone import load_backbone
from featurize.engines import tensorflow_engine
from featurize.engines.winograd.network import winograd_engine
from featurize.engines.winograd.processor import LANES
network = load_backbone("vgg16", layers=("block1_conv1", "block3_pool"), image_size=33)
images = np.random.default_rng(0).integers(0, 256, (5, 33, 33, 3), np.uint8)
for ours, reference in zip(winograd_engine(network)(images), tensorflow_engine(network)(images), strict=True):
    assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) < 1e-5
print("LANES", LANES)
"""
    limits = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    if os.uname().machine == "x86_64":
        limits = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse,+sse2,+sse4.1,+sse4.2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **limits}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["LANES", "8"]


def test_a_tapped_layer_ends_its_stage() -> None:
    model = load_backbone("vgg16", layers=("block1_conv2", "block2_pool"), image_size=32).model
    assert [stage.name for stage in stages(model, ["block2_pool"])] == [
        "block1_conv1", "block1_pool", "block2_conv1", "block2_pool"
    ]  # fmt: skip
    names = [stage.name for stage in stages(model, ["block1_conv2", "block2_pool"])]
    assert names == ["block1_conv1", "block1_conv2", "block1_pool", "block2_conv1", "block2_pool"]


@pytest.mark.parametrize(
    "make",
    [
        lambda layers: layers.Conv2D(4, 5, padding="same", name="odd"),
        lambda layers: layers.Conv2D(4, 3, padding="valid", name="odd"),
        lambda layers: layers.Conv2D(4, 3, strides=2, padding="same", name="odd"),
        lambda layers: layers.Conv2D(4, 3, dilation_rate=2, padding="same", name="odd"),
        lambda layers: layers.Conv2D(6, 3, groups=2, padding="same", name="odd"),
        lambda layers: layers.Conv2D(4, 3, padding="same", activation="tanh", name="odd"),
        lambda layers: layers.MaxPooling2D(3, strides=2, name="odd"),
        lambda layers: layers.MaxPooling2D(2, strides=1, name="odd"),
        lambda layers: layers.MaxPooling2D(2, padding="same", name="odd"),
        lambda layers: layers.AveragePooling2D(2, name="odd"),
        lambda layers: layers.ReLU(6.0, name="odd"),
        lambda layers: layers.Flatten(name="odd"),
    ],
)
def test_a_layer_that_no_vgg_has_is_named(make: object) -> None:
    keras = import_keras()
    image = keras.Input((12, 12, 3))
    model = keras.Model(image, make(keras.layers)(keras.layers.Conv2D(6, 3, padding="same")(image)))
    with pytest.raises(UsageError, match="^layer odd: .* supported by this engine"):
        stages(model, ["odd"])


def test_branches_are_named() -> None:
    keras = import_keras()
    image = keras.Input((12, 12, 3))
    one = keras.layers.Conv2D(6, 3, padding="same")(image)
    other = keras.layers.Conv2D(6, 3, padding="same", name="other")(image)
    with pytest.raises(UsageError, match="^layer other: branches are not supported"):
        stages(keras.Model(image, [one, other]), [])
