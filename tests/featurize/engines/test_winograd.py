"""The Winograd engine gives the numbers of a plain convolution, whatever the sizes, batch and threads."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featurize.core.environment import import_keras
from featurize.core.errors import UsageError
from featurize.engines import Engine, tensorflow_engine
from featurize.images.resize import resized
from featurize.networks.backbone import Backbone, load_backbone
from featurize.winograd import kernels, passes, processor
from featurize.winograd import network as winograd
from featurize.winograd.network import calibrated, winograd_engine
from featurize.winograd.processor import INSTRUCTIONS, missing_instruction
from featurize.winograd.rounding import rounded_weights, to_bfloat16, to_float32
from featurize.winograd.stages import stages
from featurize.winograd.transforms import matrices

RANDOM = np.random.default_rng(4)
VGG16_LAYERS = tuple(f"block{block}_{layer}" for block in range(1, 6) for layer in ("conv1", "conv2", "pool"))


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / max(np.linalg.norm(reference), 1e-30))


def supported(precision: str) -> object:
    """A parameter that is skipped where the processor lacks an instruction for this precision."""
    missing = missing_instruction(precision)
    return pytest.param(precision, marks=pytest.mark.skipif(bool(missing), reason=f"the processor has no {missing}"))


PRECISIONS = [supported(precision) for precision in INSTRUCTIONS]
LOW_PRECISIONS = PRECISIONS[1:]


def engine_for(network: Backbone, precision: str, pictures: np.ndarray) -> Engine:
    """The engine, with scales from these pictures if it needs scales."""
    return winograd_engine(network, precision, pictures if precision == "int8" else None)


@pytest.mark.parametrize("kind", ["float32", "uint16"])
@pytest.mark.parametrize("m", [2, 4])
def test_the_transforms_make_a_convolution(m: int, kind: str) -> None:
    bt, g, at = matrices(m, kind)
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


def random_network(seed: int) -> tuple[Backbone, np.ndarray, list[np.ndarray]]:
    """A network like a VGG, images, and what an independent forward pass in float64 makes of them."""
    random = np.random.default_rng(seed)
    layers = import_keras().layers
    size, count = int(random.integers(2, 40)), int(random.integers(1, 9))
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
    return Backbone("random", "random", "", names, size, "none", model), pictures, [v for _, v in unique.values()]


@pytest.mark.parametrize("seed", [*range(25), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(25, 200))])
def test_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every precision that the processor has; each may be off by its own share."""
    network, pictures, expected = random_network(seed)
    random = np.random.default_rng(seed)
    monkeypatch.setattr("joblib.cpu_count", lambda **_: int(random.integers(1, 5)))
    monkeypatch.setattr(winograd, "GROUP_BYTES", int(random.choice([1, 1 << 27])))
    for precision, bound in {"float32": 1e-5, "bfloat16": 1e-2, "int8": 5e-2}.items():
        if not missing_instruction(precision):
            for ours, values in zip(engine_for(network, precision, pictures)(pictures), expected, strict=True):
                # The norm of a few numbers that sums have nearly cancelled says nothing about low precision.
                if precision == "float32" or np.count_nonzero(values) >= 100:
                    assert relative_error(ours, values) < bound, precision


@pytest.fixture(scope="module")
def network() -> Backbone:
    return load_backbone("vgg16", weights="random", layers=("block2_pool", "block5_pool"), image_size=32)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_does_not_matter_at_all(network: Backbone, batch: int, precision: str) -> None:
    pictures = images(64, 32)
    engine = engine_for(network, precision, pictures[:8])
    whole = engine(pictures)
    parts = [engine(pictures[start : start + batch]) for start in range(0, 64, batch)]
    for layer, reference in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[layer] for part in parts]), reference)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter_at_all(
    network: Backbone, threads: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = engine_for(network, precision, images(8, 32))(images(5, 32))[1]
    monkeypatch.setattr("joblib.cpu_count", lambda **_: threads)
    np.testing.assert_array_equal(engine_for(network, precision, images(8, 32))(images(5, 32))[1], reference)


def test_results_are_not_overwritten_by_the_next_batch(network: Backbone) -> None:
    engine = winograd_engine(network)
    first = engine(images(4, 32))[0]
    saved = first.copy()
    engine(images(5, 32))
    np.testing.assert_array_equal(first, saved)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_earlier_batch_does_not_matter(network: Backbone, precision: str) -> None:
    """The buffers still hold a larger batch; their borders are cleared as far as whole tiles reach."""
    pictures = images(3, 32)
    engine = engine_for(network, precision, pictures)
    alone = engine(pictures)[1]
    engine(np.full((9, 32, 32, 3), 255, np.uint8))
    np.testing.assert_array_equal(engine(pictures)[1], alone)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [32, 33])
def test_nothing_is_written_beyond_the_buffers(size: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guards = []

    def guarded(shape: tuple[int, ...], kind: str = "float32") -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        memory = np.full(size + 400_000, 123, np.uint8)
        memory[:size] = 0
        guards.append(memory[size:])
        return memory[:size].view(kind).reshape(shape)

    network = load_backbone("vgg16", weights="random", layers=VGG16_LAYERS, image_size=size)
    monkeypatch.setattr(winograd, "aligned", guarded)
    monkeypatch.setattr(passes, "aligned", guarded)
    engine = engine_for(network, precision, images(2, size))
    for count in (1, 5, 3):
        engine(images(count, size))
    assert guards
    assert all((guard == 123).all() for guard in guards)


INACCESSIBLE = """
import ctypes, mmap, sys
import numpy as np
from featurize.winograd import network as winograd, passes
from featurize.networks.backbone import load_backbone

libc = ctypes.CDLL(None, use_errno=True)
places = []

def fenced(shape, kind="float32"):
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    pages = -(-size // 4096)
    place = mmap.mmap(-1, (pages + 2) * 4096)
    places.append(place)
    memory = np.frombuffer(place, np.uint8)
    start = memory.ctypes.data
    for fence in (start, start + (pages + 1) * 4096):
        assert libc.mprotect(ctypes.c_void_p(fence), 4096, 0) == 0
    first = 4096 if sys.argv[1] == "start" else (pages + 1) * 4096 - size
    return memory[first : first + size].view(kind).reshape(shape)

winograd.aligned = passes.aligned = fenced
for size in (32, 41):
    network = load_backbone("vgg16", weights="random", layers=("block1_conv2", "block5_pool"), image_size=size)
    pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    engine = winograd.winograd_engine(network, sys.argv[2], pictures)
    for count in (1, 3):
        engine(pictures[:count])
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mprotect of Linux")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("end", ["start", "end"])
def test_nothing_is_read_outside_of_the_buffers(end: str, precision: str) -> None:
    """Each buffer begins or ends at a page that may not be touched; doing so kills the process."""
    done = subprocess.run([sys.executable, "-c", INACCESSIBLE, end, precision], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["done"]), done.stderr[-500:]


@pytest.mark.parametrize("precision", LOW_PRECISIONS)
@pytest.mark.parametrize("size", [33, 64])
def test_low_precision_on_a_trained_network(size: int, precision: str) -> None:
    layers = ("block1_conv1", "block1_conv2", "block2_pool", "block3_pool")
    network = load_backbone("vgg16", layers=layers, image_size=size)
    pictures = resized(images(6, 8), size, "bicubic")
    exact = winograd_engine(network)(pictures)
    ours = engine_for(network, precision, pictures)(pictures)
    bound = {"bfloat16": 1e-2, "int8": 5e-2}[precision]
    assert max(relative_error(*pair) for pair in zip(ours, exact, strict=True)) < bound


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pooling_alone_of_negative_numbers(precision: str) -> None:
    layers = import_keras().layers
    image = import_keras().Input((12, 12, 3))
    tapped = layers.Conv2D(64, 3, padding="same", name="before")(image)
    model = import_keras().Model(image, [tapped, layers.MaxPooling2D(name="after")(tapped)])
    network = Backbone("tiny", "random", "", ("before", "after"), 12, "none", model)
    before, after = engine_for(network, precision, images(4, 12))(images(4, 12))
    assert (after < 0).any()
    np.testing.assert_array_equal(after, plain_pooling(before))


def test_scales_depend_on_the_images_only(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, pictures = stages(network.model, network.layers), images(7, 32)
    scales = [stage.scales for stage in calibrated(chain, network, pictures)]
    monkeypatch.setattr("joblib.cpu_count", lambda **_: 3)
    for stage, expected in zip(calibrated(chain, network, pictures[::-1]), scales, strict=True):
        np.testing.assert_array_equal(stage.scales, expected)


def test_int8_needs_images(network: Backbone) -> None:
    with pytest.raises(UsageError, match="^precision int8: no images to take the scales from"):
        winograd_engine(network, "int8")


@pytest.mark.parametrize(
    ("features", "precision", "missing"),
    [
        ("+avx512f,-avx512bf16", "bfloat16", "AVX512_BF16"),
        ("+avx512bw,+avx512bf16,-avx512vnni", "int8", "AVX512_VNNI"),
        ("+avx512bw,-avx512bf16,+avx512vnni", "int8", ""),
        ("+avx2", "float32", ""),
    ],
)
def test_a_processor_without_an_instruction(
    features: str, precision: str, missing: str, network: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "FEATURES", features)
    assert missing_instruction(precision) == missing
    if missing:
        with pytest.raises(UsageError, match=f"^precision {precision}: this processor has no {missing}; choose "):
            winograd_engine(network, precision, images(1, 32))


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7, 3e38, 0], np.float32)
    expected = np.array([1, 1, 1 + 2**-6, -1 - 2**-7, 3e38, 0], np.float32)
    np.testing.assert_allclose(to_float32(to_bfloat16(values)), expected, rtol=2**-9)
    np.testing.assert_array_equal(to_float32(to_bfloat16(values))[:4], expected[:4])


def test_rounding_errors_of_weights_compensate_each_other() -> None:
    bt, g, at = matrices(4, "uint16")
    kernel = RANDOM.normal(size=(9, 40, 50))
    u = (np.kron(g, g) @ kernel.reshape(9, -1)).reshape(36, 40, 50)
    tiles = np.maximum(RANDOM.normal(size=(36, 20)), 0)

    def error(rounded: np.ndarray) -> float:
        difference = (rounded - u).reshape(36, 1, -1) * (np.kron(bt, bt) @ tiles)[:, :, None]
        return float(np.linalg.norm(np.tensordot(np.kron(at, at), difference, 1)))

    assert error(rounded_weights(u, 4)) < 0.75 * error(to_float32(to_bfloat16(u)))


def test_numba_sees_every_change_of_the_emitters() -> None:
    """Its cache compares the source of `kernels` only. So a digest there must follow the modules beside it."""
    folder = Path(kernels.__file__).parent
    sources = b"".join((folder / f"{name}.py").read_bytes() for name in ("emit", "product", "transforms"))
    assert hashlib.sha256(sources).hexdigest()[:16] == kernels.EMITTERS


@pytest.mark.slow
def test_processors_with_shorter_vectors() -> None:
    """AVX2 only: another process, because the kernels are made for one length of vectors."""
    script = """
import numpy as np
from featurize.networks.backbone import load_backbone
from featurize.engines import Engine, tensorflow_engine
from featurize.winograd.network import winograd_engine
from featurize.winograd.processor import LANES
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
