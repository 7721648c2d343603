"""OpenVINO gives TensorFlow's numbers, keeps its networks, starts no program and sends nothing."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from slow_cases import mark_slow

from featurize.core.errors import BackboneError, UsageError
from featurize.engines import openvino, tensorflow_engine
from featurize.engines.openvino import openvino_engine
from featurize.images.resize import resized
from featurize.networks.backbone import Backbone, load_backbone
from featurize.winograd.calibration import calibration_digest

if find_spec("openvino") is None:  # an import here would come before that of daal4py, see `import_openvino`
    pytest.skip("openvino is not installed", allow_module_level=True)

needs_bfloat16 = pytest.mark.skipif(not openvino.has_bfloat16(), reason="the processor has no bfloat16")


def images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth random images, uint8 (count, size, size, 3): noise has more detail than photographs."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return resized(coarse, size, "bicubic")


def errors(network: Backbone, batch: np.ndarray, precision: str = "float32") -> list[float]:
    """Each layer's relative difference between OpenVINO and TensorFlow."""
    pairs = zip(openvino_engine(network, precision)(batch), tensorflow_engine(network)(batch), strict=True)
    return [float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs]


def test_twelve_layers_in_their_order() -> None:
    """More than ten outputs, of which some come from one layer's neighbours, and not in the network's order."""
    layers = tuple(f"block{block}_{layer}" for block in (3, 1, 5, 2) for layer in ("pool", "conv1", "conv2"))
    network = load_backbone("vgg16", weights="random", layers=layers, image_size=33)
    assert max(errors(network, images(3, 33))) < 1e-5


NETWORKS = ("convnexttiny", "densenet121", "efficientnetb0", "inceptionv3", "mobilenetv2", "resnet50")


@pytest.mark.parametrize("name", mark_slow(NETWORKS, *set(NETWORKS) - {"mobilenetv2"}))
def test_a_network_from_its_first_layers_to_the_last(name: str) -> None:
    size = 97  # odd, so that padding is not the same on both sides
    last = load_backbone(name, weights="random", image_size=size)
    inner = [layer.name for layer in last.model.layers[1:] if len(layer.output.shape) == 4]
    layers = (*inner[5 :: len(inner) // 5], *last.layers)
    network = load_backbone(name, weights="random", layers=tuple(dict.fromkeys(layers)), image_size=size)
    assert max(errors(network, images(2, size))) < 1e-5


def test_vgg16_with_its_own_kernels() -> None:
    network = load_backbone("vgg16", layers=("block1_pool", "block2_pool", "block3_pool"), image_size=97)
    assert max(errors(network, images(2, 97))) < 1e-5


def test_the_real_mobilenetv2(shared: Path) -> None:
    file = str(shared / "backbones" / "mobilenetv2_imagenet.keras")
    model = load_backbone(file, image_size=96).model
    layers = (*(layer.name for layer in model.layers[2::9]), model.layers[-1].name)
    network = load_backbone(file, layers=layers, image_size=96)
    assert max(errors(network, images(2, 96))) < 1e-5


@pytest.fixture
def network() -> Backbone:
    return load_backbone("vgg16", layers=("block1_pool", "block2_pool"), image_size=32)


@needs_bfloat16
def test_bfloat16_is_another_precision_and_float32_is_exact(network: Backbone) -> None:
    """OpenVINO computes in bfloat16 by default, where the processor can."""
    batch = images(4, 32)
    assert max(errors(network, batch)) < 1e-5
    assert 1e-4 < max(errors(network, batch, "bfloat16")) < 2e-2


def test_int8_takes_its_scales_from_images(network: Backbone, data_folder: Path, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip("nncf")
    pictures = images(20, 32)
    expected = tensorflow_engine(network)(pictures[:4])[1]
    engine = openvino_engine(network, "int8", pictures)
    [_, found] = engine(pictures[:4])
    assert 1e-3 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 5e-2
    assert capfd.readouterr().out == ""
    # Later, the digest of the images stands for them, and neither NNCF nor the model is needed.
    digest = calibration_digest(pictures)
    without = Backbone("vgg16", "", network.weights_digest, network.layers, 32, network.preprocess)
    [_, again] = openvino_engine(without, "int8", digest=digest)(pictures[:4])
    np.testing.assert_array_equal(again, found)
    with pytest.raises(BackboneError, match="holds no vgg16 in OpenVINO's format"):
        openvino_engine(without, "int8", digest="0" * 64)
    with pytest.raises(UsageError, match="precision int8: no images to take the scales from"):
        openvino_engine(network, "int8")
    # Another process, on another machine, finds the same numbers.
    for path in (data_folder / "engines").iterdir():
        path.unlink()
    np.testing.assert_array_equal(openvino_engine(network, "int8", pictures)(pictures[:4])[1], found)


def test_a_network_that_cannot_be_quantised(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    nncf = pytest.importorskip("nncf")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such operation\n  in line 7")

    monkeypatch.setattr(nncf, "quantize", fail)
    with pytest.raises(BackboneError, match="^NNCF cannot quantise vgg16: no such operation$"):
        openvino_engine(network, "int8", images(4, 32))


def test_a_processor_without_bfloat16(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match="^this processor has no instructions for bfloat16$"):
        openvino_engine(network, "bfloat16")


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_does_not_matter(network: Backbone, batch: int) -> None:
    engine = openvino_engine(network)
    pictures = images(64, 32)
    whole = engine(pictures)
    parts = [engine(pictures[start : start + batch]) for start in range(0, 64, batch)]
    for layer, reference in enumerate(whole):
        ours = np.concatenate([part[layer] for part in parts])
        assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) < 1e-6


def test_the_same_batch_gives_the_same_bits(network: Backbone) -> None:
    """So an interrupted extraction resumes with the same vectors."""
    pictures = images(16, 32)
    first = openvino_engine(network)(pictures)
    other = openvino_engine(network)
    other(images(3, 32, seed=1))
    for ours, theirs in zip(other(pictures), first, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_results_are_not_overwritten_by_the_next_batch(network: Backbone) -> None:
    engine = openvino_engine(network)
    first = engine(images(4, 32))[1]
    saved = first.copy()
    engine(images(4, 32, seed=1))
    np.testing.assert_array_equal(first, saved)


def test_a_network_is_converted_once(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images(4, 32)
    expected = openvino_engine(network)(batch)
    monkeypatch.setattr(openvino, "_converted", lambda backbone: pytest.fail("converted again"))
    for ours, theirs in zip(openvino_engine(network)(batch), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_that_cannot_be_written(network: Backbone, data_folder: Path) -> None:
    data_folder.write_text("a file, not a folder")
    assert max(errors(network, images(2, 32))) < 1e-5


@pytest.mark.parametrize(
    "change",
    [{"weights": "random"}, {"layers": ("block1_pool",)}, {"image_size": 48}, {"preprocess": "tf"}],
)
def test_another_network_is_not_taken_for_it(network: Backbone, data_folder: Path, change: dict) -> None:
    openvino_engine(network)
    options = {"layers": ("block1_pool", "block2_pool"), "image_size": 32, **change}
    other = load_backbone("vgg16", **options)
    openvino_engine(other)
    assert len({path.name[:32] for path in (data_folder / "engines").iterdir()}) == 2


def test_a_damaged_file_is_converted_again(
    network: Backbone, data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    openvino_engine(network)
    (path,) = (data_folder / "engines").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert max(errors(network, images(2, 32))) < 1e-5
    assert f"{path} is damaged" in caplog.text
    assert len(list((data_folder / "engines").iterdir())) == 1


def test_neither_a_file_nor_a_model(network: Backbone) -> None:
    without = Backbone("vgg16", "", network.weights_digest, network.layers, 32, network.preprocess)
    with pytest.raises(BackboneError, match="holds no vgg16 in OpenVINO's format, and the network is not loaded"):
        openvino_engine(without)


def test_a_graph_that_openvino_cannot_read(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "frozen_graph", lambda backbone: (b"no graph", []))
    with pytest.raises(BackboneError, match="^OpenVINO cannot read vgg16: .") as failed:
        openvino_engine(network)
    assert "\n" not in str(failed.value)


WATCHED = """
import os, sys
from pathlib import Path
import numpy as np
seen = []
def note(event, arguments):
    if event.split(".")[0] in ("socket", "subprocess", "urllib", "http") or event in (
        "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"
    ):
        seen.append(f"{event} {arguments}")
import joblib
from featurize.networks.backbone import load_backbone
joblib.cpu_count(only_physical_cores=True)  # starts lscpu once
network = load_backbone("vgg16", layers=("block1_pool",), image_size=32)
home = set(Path.home().rglob("*"))
sys.addaudithook(note)
from featurize.engines.openvino import openvino_engine
images = np.zeros((2, 32, 32, 3), np.uint8)
openvino_engine(network)(images)
openvino_engine(network)(images)
if "int8" in sys.argv:
    openvino_engine(network, "int8", images)
seen.extend(f"wrote {path}" for path in set(Path.home().rglob("*")) - home)
seen.extend(f"loaded {name}" for name in sys.modules if name.startswith("openvino_telemetry."))
print("SEEN", seen)
"""


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_nothing_is_sent_and_no_program_started(tmp_path: Path, precision: str) -> None:
    """Not by loading OpenVINO or NNCF, nor by converting a network; files are written to the data folder only."""
    if precision == "int8" and find_spec("nncf") is None:
        pytest.skip("nncf is not installed")
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, precision],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(home), "FROZENBENCH_DATA": str(tmp_path / "data"), "PATH": ""},
    )
    assert done.stdout.splitlines()[-1] == "SEEN []"
