"""A short form of the attacks in tests/benchmarks/bench_serve.py, on the vectors of a real network."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import json_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "bench_serve.py"


@pytest.mark.slow
def test_a_server_under_attack(tmp_path: Path) -> None:
    cache = str(tmp_path / "vgg16.h5")
    few = ["--train", "200", "--test", "50", "--layers", "block1_pool", "--image-size", "32"]
    json_of("featurize", "--data", "sample", *few, "--pool", "grid2", "--engine", "winograd", "--out", cache)
    [run] = json_of("classify", "--features", cache, "--model", "logreg", "--runs", str(tmp_path / "runs"))["runs"]
    words = [sys.executable, str(SCRIPT), "attack", run["run_dir"], "--requests", "400", "--hostile", "64"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "   336 right answers" in done.stdout
    assert "alive at the end: True; exit code after Ctrl-C: 130" in done.stdout
