"""The first run of the README: real kernels, real images, no network."""

from pathlib import Path

import pytest
from command_line import json_of


@pytest.mark.slow
def test_transfer_beats_raw_pixels_by_twenty_points(tmp_path: Path) -> None:
    vgg16 = json_of(
        "featurize", "--data", "sample", "--layers", "block3_pool", "--pool", "grid2", "--image-size", "64"
    )  # fmt: skip
    pixels = json_of("featurize", "--data", "sample", "--backbone", "pixels")
    assert vgg16["dim"] == 1024
    runs = json_of(
        "classify", "--model", "logreg,svm", "--features", vgg16["path"], "--features", pixels["path"]
    )["runs"]  # fmt: skip
    accuracy = {(run["model"], "pixels" in run["features"]): run["accuracy"] for run in runs}
    assert len(accuracy) == 4
    assert accuracy["logreg", False] > 0.70  # measured: 73.0
    assert accuracy["svm", False] > 0.66  # measured: 68.3
    for head in ("logreg", "svm"):
        assert accuracy[head, False] > accuracy[head, True] + 0.20
    answer = json_of("analysis", "--out", str(tmp_path / "out"))
    assert {Path(path).name for path in answer["written"]} >= {"comparison.md", "report.html"}
    ((verdict, accuracy_claim, *_),) = answer["answers"].values()
    assert verdict.startswith("The frozen network helps: ")
    assert " gains " in accuracy_claim
