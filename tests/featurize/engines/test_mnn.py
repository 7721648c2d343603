"""MNN gives Keras' numbers, and its converter installs, imports and sends nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from slow_cases import mark_slow

from featurize.core.errors import BackboneError, UsageError
from featurize.engines import mnn, tensorflow_engine
from featurize.engines.mnn import mnn_engine
from featurize.networks.backbone import Backbone, load_backbone


def images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth random images, uint8 (count, size, size, 3): noise has more detail than photographs."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    from featurize.images.resize import resized

    return resized(coarse, size, "bicubic")


def errors(network: Backbone, batch: np.ndarray) -> list[float]:
    """Each layer's relative difference between MNN and TensorFlow."""
    pairs = zip(mnn_engine(network)(batch), tensorflow_engine(network)(batch), strict=True)
    return [float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)) for ours, theirs in pairs]


VGG16_LAYERS = tuple(f"block{block}_{layer}" for block in range(1, 6) for layer in ("conv1", "conv2", "pool"))


@pytest.mark.parametrize("size", mark_slow((33, 64), 64))
def test_vgg16_layer_by_layer(size: int) -> None:
    network = load_backbone("vgg16", weights="random", layers=VGG16_LAYERS, image_size=size)
    assert max(errors(network, images(3, size))) < 1e-5


def test_vgg16_with_its_own_kernels() -> None:
    network = load_backbone("vgg16", layers=("block1_pool", "block2_pool", "block3_pool"), image_size=97)
    assert max(errors(network, images(2, 97))) < 1e-5


@pytest.mark.parametrize("size", mark_slow((33, 64), 33, 64))
def test_resnet50_layer_by_layer(size: int) -> None:
    layers = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
    network = load_backbone("resnet50", weights="random", layers=layers, image_size=size)
    assert max(errors(network, images(2, size))) < 1e-5


@pytest.mark.parametrize("size", [96, 97])
def test_mobilenetv2_layer_by_layer(size: int, shared: Path) -> None:
    file = str(shared / "backbones" / "mobilenetv2_imagenet.keras")
    model = load_backbone(file, image_size=size).model
    layers = (*(layer.name for layer in model.layers[2::9]), model.layers[-1].name)
    network = load_backbone(file, layers=layers, image_size=size)
    assert max(errors(network, images(2, size))) < 1e-5


@pytest.fixture
def network() -> Backbone:
    return load_backbone("vgg16", layers=("block1_pool", "block2_pool"), image_size=32)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_does_not_matter(network: Backbone, batch: int) -> None:
    engine = mnn_engine(network)
    pictures = images(64, 32)
    whole = engine(pictures)
    parts = [engine(pictures[start : start + batch]) for start in range(0, 64, batch)]
    for layer, reference in enumerate(whole):
        ours = np.concatenate([part[layer] for part in parts])
        assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) < 1e-6


def test_results_are_not_overwritten_by_the_next_batch(network: Backbone) -> None:
    engine = mnn_engine(network)
    first = engine(images(4, 32))[1]
    saved = first.copy()
    engine(images(4, 32, seed=1))
    np.testing.assert_array_equal(first, saved)


def test_a_network_is_converted_once(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mnn.network_file(network)
    monkeypatch.setattr(mnn, "_convert", lambda backbone: pytest.fail("converted again"))
    assert mnn.network_file(network) == path


@pytest.mark.parametrize("change", ["weights", "layers"])
def test_another_network_is_another_file(network: Backbone, change: str) -> None:
    other = {
        "weights": lambda: load_backbone("vgg16", weights="random", layers=network.layers, image_size=32),
        "layers": lambda: load_backbone("vgg16", layers=network.layers[:1], image_size=32),
    }[change]()
    assert mnn.network_file(other) != mnn.network_file(network)


def test_a_damaged_file_is_converted_again(network: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    path = mnn.network_file(network)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    expected = tensorflow_engine(network)(images(2, 32))[1]
    ours = mnn_engine(network)(images(2, 32))[1]
    assert "is damaged" in caplog.text
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-5


def test_a_layer_that_cannot_be_written(tmp_path: Path) -> None:
    network = load_backbone("efficientnetb0", weights="random", image_size=32)
    with pytest.raises(UsageError, match="layer normalization"):
        mnn_engine(network)


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("print('no such operator'); raise SystemExit(1)", "no such operator"),
        ("import os; os.kill(os.getpid(), 4)", "exit status -4"),
        ("pass", "exit status 0"),
        ("import time; time.sleep(60)", "did not finish within"),
    ],
)
def test_a_converter_that_fails(
    network: Backbone, child: str, message: str, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnn, "CONVERT", child)
    monkeypatch.setattr(mnn, "CONVERT_SECONDS", 1.0)
    with pytest.raises(BackboneError, match=message):
        mnn_engine(network)
    assert not (data_folder / "engines").exists()


WATCH = """
import os, sys
def note(event, arguments):
    if event.split(".")[0] in ("socket", "subprocess", "urllib") or event in ("os.system", "os.exec", "os.posix_spawn"):
        line = f"{event} {arguments}"
    elif event == "import" and arguments[0].split(".")[0] in ("MNN", "aliyun", "pip"):
        line = f"import {arguments[0]}"
    else:
        return
    with open(os.environ["WATCH_LOG"], "a") as file:
        print(line, file=file)
sys.addaudithook(note)
"""


def test_the_converter_reports_to_nobody(network: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child process imports and installs no package, runs no program and opens no connection."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    log, trace = tmp_path / "log", tmp_path / "trace"
    monkeypatch.setenv("WATCH_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    strace = shutil.which("strace")
    run = subprocess.run

    def watched(command: list[str], **options: object) -> subprocess.CompletedProcess:
        prefix = [strace, "-f", "-e", "trace=network,execve", "-o", str(trace)] if strace else []
        return run(prefix + command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    installed = sorted(os.listdir(Path(np.__file__).parents[1]))
    mnn.network_file(network)
    assert not log.exists() or log.read_text() == ""
    assert sorted(os.listdir(Path(np.__file__).parents[1])) == installed
    if strace:
        lines = trace.read_text().splitlines()
        assert sum("execve(" in line and " = 0" in line for line in lines) == 1
        assert not [line for line in lines if re.search(r"AF_INET|connect\(|sendto\(", line)]


def test_a_converter_that_reports_is_seen(network: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that opens a connection, as `MNN.tools` does, fails the test above."""
    with pytest.MonkeyPatch.context() as local:
        local.setattr(
            mnn,
            "CONVERT",
            "import socket, sys; s = socket.socket(); s.settimeout(1); s.connect_ex(('127.0.0.1', 9));" + mnn.CONVERT,
        )
        with pytest.raises(AssertionError):
            test_the_converter_reports_to_nobody(network, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_parent_process_never_loads_the_tools(tmp_path: Path) -> None:
    script = """
import sys
from featurize.networks.backbone import load_backbone
from featurize.engines.mnn import mnn_engine
mnn_engine(load_backbone("vgg16", layers=("block1_pool",), image_size=32))
print("LOADED", *[name for name in sys.modules if name.startswith(("MNN", "_tools", "aliyun"))])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()  # MNN's own announcements are not on standard output
    assert "MNN" in line
    assert not re.search(r"MNN\.tools|_tools|aliyun", line)
