import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from featurize.core.errors import BackboneError, UsageError
from featurize.engines import ENGINES, Engine, agreement, choose_engine, default_batch_size, tensorflow_engine
from featurize.engines import choice as engine_module
from featurize.networks.backbone import Backbone, load_backbone
from featurize.winograd import processor

IMAGES = np.random.default_rng(2).integers(0, 256, (64, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def network() -> Backbone:
    return load_backbone("vgg16", layers=("block1_pool", "block2_pool"), image_size=32)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_does_not_matter(network: Backbone, batch: int) -> None:
    engine = tensorflow_engine(network)
    whole = engine(IMAGES)
    parts = [engine(IMAGES[start : start + batch]) for start in range(0, len(IMAGES), batch)]
    for layer, reference in enumerate(whole):
        ours = np.concatenate([part[layer] for part in parts])
        assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) < 1e-6


def test_one_trace_serves_every_batch_size(network: Backbone) -> None:
    class Counting:
        calls = 0

        def __call__(self, *arguments: object, **options: object) -> object:
            self.calls += 1
            return network.model(*arguments, **options)

    counting = Counting()
    engine = tensorflow_engine(Backbone("x", "x", "", network.layers, 32, "caffe", counting))
    for count in (1, 5, 64, 3):
        engine(IMAGES[:count])
    assert counting.calls == 1


@pytest.mark.parametrize(("size", "batch"), [(16, 256), (32, 256), (64, 128), (96, 32), (224, 8), (1000, 8)])
def test_default_batch_size(size: int, batch: int) -> None:
    assert default_batch_size(size) == batch


def identical(backbone: Backbone) -> Engine:
    return tensorflow_engine(backbone)


def slow(backbone: Backbone) -> Engine:
    engine = tensorflow_engine(backbone)

    def run(images: np.ndarray) -> list[np.ndarray]:
        time.sleep(0.3)
        return engine(images)

    return run


def off_at_layer_2(backbone: Backbone) -> Engine:
    engine = tensorflow_engine(backbone)

    def run(images: np.ndarray) -> list[np.ndarray]:
        first, second = engine(images)
        return [first, second * np.float32(1.001)]

    return run


def missing(backbone: Backbone) -> Engine:
    raise UsageError("the engine other is not available: no module")


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Backbone], Engine]], None]:
    """Put an engine named `other` beside TensorFlow."""
    return lambda make: monkeypatch.setitem(ENGINES, "other", (make, lambda: "1.5"))


@pytest.mark.slow
def test_auto_takes_a_faster_engine(network: Backbone, other: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    other(identical)
    monkeypatch.setattr(engine_module, "tensorflow_engine", slow)
    choice = choose_engine(network, "auto", IMAGES[:2])
    assert (choice.name, choice.version) == ("other", "1.5")
    assert re.fullmatch(r"other is \d+\.\d\d times as fast as tensorflow here, relative error 0e\+00", choice.why)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (slow, r"other is 0\.\d\d times as fast as tensorflow here, relative error 0e\+00"),
        (
            off_at_layer_2,
            r"not other: other differs from tensorflow by 1\.0e-03 at layer block2_pool, expected less than 1e-04",
        ),
        (missing, "not other: the engine other is not available: no module"),
    ],
)
def test_auto_stays_with_tensorflow(make: Callable, why: str, network: Backbone, other: Callable) -> None:
    other(make)
    choice = choose_engine(network, "auto", IMAGES[:8])
    assert choice.name == "tensorflow"
    assert re.fullmatch(why, choice.why)
    np.testing.assert_array_equal(choice.run(IMAGES[:3])[1], tensorflow_engine(network)(IMAGES[:3])[1])


def test_the_choice_is_remembered(
    network: Backbone, other: Callable, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy moment must not change the engine, and with it the fingerprint."""
    other(identical)
    ratios = iter([1.5, 0.5])
    monkeypatch.setattr(engine_module, "_speed_ratio", lambda *_: next(ratios))
    first = choose_engine(network, "auto", IMAGES[:2])
    assert first.name == "other"
    again = choose_engine(network, "auto", IMAGES[:2])
    assert (again.name, again.version, again.why) == (first.name, first.version, first.why)
    for ours, theirs in zip(again.run(IMAGES[:2]), first.run(IMAGES[:2]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(engine_module, "processor_name", lambda: "another processor")
    assert choose_engine(network, "auto", IMAGES[:2]).name == "tensorflow"  # measured: 0.5 times as fast


def test_the_choice_is_measured_again_with_other_packages(
    network: Backbone, other: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Winograd has a version of its own, but cannot run without numba."""
    other(identical)
    monkeypatch.setattr(engine_module, "_speed_ratio", lambda *_: 2.0)
    assert choose_engine(network, "auto", IMAGES[:2]).name == "other"
    monkeypatch.setattr(engine_module, "library_versions", lambda packages: {})
    other(missing)
    assert choose_engine(network, "auto", IMAGES[:2]).name == "tensorflow"


def test_a_choice_that_cannot_be_remembered(
    network: Backbone, other: Callable, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(identical)
    monkeypatch.setattr(engine_module, "_speed_ratio", lambda *_: 2.0)
    data_folder.write_text("a file, not a folder")
    assert choose_engine(network, "auto", IMAGES[:2]).name == "other"


def test_auto_takes_tensorflow_on_a_gpu(network: Backbone, other: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    other(lambda backbone: pytest.fail("engines are compared"))
    monkeypatch.setattr(engine_module, "gpu", lambda: "Tesla Turbo")
    choice = choose_engine(network, "auto", IMAGES[:2])
    assert (choice.name, choice.why) == ("tensorflow", "on the GPU Tesla Turbo")


def test_a_named_engine_is_checked_on_its_first_images(network: Backbone, other: Callable) -> None:
    other(off_at_layer_2)
    engine = choose_engine(network, "other", IMAGES).run
    for _ in range(2):
        with pytest.raises(BackboneError, match=r"other differs .* by 1\.0e-03 at layer block2_pool"):
            engine(IMAGES[:20])
    other(identical)
    choice = choose_engine(network, "other", IMAGES)
    assert choice.why == "as asked for"
    assert len(choice.run(IMAGES[:20])[0]) == 20


def test_a_named_engine_is_made_on_demand(network: Backbone, other: Callable) -> None:
    made = []
    other(lambda backbone: made.append(backbone) or tensorflow_engine(backbone))
    engine = choose_engine(network, "other", IMAGES).run
    assert made == []
    engine(IMAGES[:3])
    engine(IMAGES[:3])
    assert len(made) == 1


def test_a_package_that_is_not_installed(network: Backbone, other: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "other", (identical, lambda: version("no-such-package")))
    with pytest.raises(UsageError, match="the engine other is not available: .*no-such-package; use engine"):
        choose_engine(network, "other", IMAGES)


def test_nan_never_agrees(network: Backbone, other: Callable) -> None:
    other(lambda backbone: lambda images: [part * np.nan for part in tensorflow_engine(backbone)(images)])
    with pytest.raises(BackboneError, match="other differs from tensorflow by nan at layer block1_pool"):
        choose_engine(network, "other", IMAGES).run(IMAGES[:2])


def test_a_named_engine_must_be_available(network: Backbone, other: Callable) -> None:
    other(missing)
    with pytest.raises(UsageError, match="not available: no module; use engine tensorflow"):
        choose_engine(network, "other", IMAGES).run(IMAGES)
    with pytest.raises(UsageError, match="engine othr: did you mean other"):
        choose_engine(network, "othr", IMAGES)


@pytest.mark.engines
@pytest.mark.parametrize(("name", "package"), [("winograd", "numba"), ("openvino", "openvino")])
def test_without_its_packages(name: str, package: str, network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = (f"{package}.", "featurize.winograd.")
    for module in [module for module in sys.modules if f"{module}.".startswith(loaded)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    for other in set(ENGINES) - {name, "tensorflow"}:
        monkeypatch.delitem(ENGINES, other)
    with pytest.raises(UsageError, match=f"{name} is not available: .*{package}.*; pip install .*{package}.*; use"):
        choose_engine(network, name, IMAGES).run(IMAGES)
    choice = choose_engine(network, "auto", IMAGES[:2])
    assert choice.name == "tensorflow"
    assert choice.why.startswith(f"not {name}: the engine {name} is not available")


@pytest.mark.engines
def test_an_unknown_layer_is_named() -> None:
    network = load_backbone("efficientnetb0", weights="random", image_size=32)
    with pytest.raises(UsageError, match="^layer (rescaling|normalization).*: .* supported by this engine; use engine"):
        choose_engine(network, "winograd", IMAGES).run(IMAGES[:2])


def test_an_engine_that_is_gone(network: Backbone) -> None:
    with pytest.raises(UsageError, match="^engine mnn: openvino has replaced this engine; .* --overwrite$"):
        choose_engine(network, "mnn", IMAGES)


def test_lower_precision_is_for_networks_of_the_vgg_kind(network: Backbone) -> None:
    pixels = load_backbone("pixels", image_size=8)
    with pytest.raises(UsageError, match="precision bfloat16: pixels is computed in float32 only"):
        choose_engine(pixels, "auto", IMAGES, precision="bfloat16")
    with pytest.raises(UsageError, match="the engine tensorflow has float32 only; leave out engine"):
        choose_engine(network, "tensorflow", IMAGES, precision="int8")
    with pytest.raises(UsageError, match=r"precision float8: did you mean float32"):
        choose_engine(network, "auto", IMAGES, precision="float8")


def test_a_processor_without_the_instruction(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "FEATURES", "+avx2")
    with pytest.raises(UsageError, match=r"precision bfloat16: this processor has no AVX512_BF16; leave out"):
        choose_engine(network, "auto", IMAGES, precision="bfloat16")


def test_a_lower_precision_may_differ_more() -> None:
    exact = [np.ones((2, 4), np.float32)]
    off = [exact[0] * np.float32(1.005)]
    assert agreement(off, exact, "winograd", ("a",), "bfloat16") == pytest.approx(0.005, rel=1e-3)
    with pytest.raises(BackboneError, match="winograd differs from tensorflow by 5.0e-03 at layer a"):
        agreement(off, exact, "winograd", ("a",))
