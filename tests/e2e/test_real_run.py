"""A whole network on real CIFAR-10 images; needs FROZENBENCH_SHARED."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import json_of


@pytest.mark.slow
def test_mobilenetv2_on_2500_images(shared: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(shared / "make_cifar10.py"), str(tmp_path), "--train", "2000", "--test", "500"]
    subprocess.run(words, check=True)
    network = shared / "backbones" / "mobilenetv2_imagenet.keras"
    facts = json_of("featurize", "--data", str(tmp_path), "--backbone", str(network), "--image-size", "224")
    assert facts["splits"] == {"train": {"rows": 2000}, "test": {"rows": 500}}
    assert facts["dim"] == 1280
    runs = json_of("classify", "--model", "all", "--features", facts["path"])["runs"]
    assert [run["accuracy"] for run in runs] == sorted((run["accuracy"] for run in runs), reverse=True)
    assert runs[0]["accuracy"] > 0.80  # measured: 85
