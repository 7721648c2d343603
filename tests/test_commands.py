"""The three commands as a shell sees them: in processes of their own."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import ROOT, assert_failed, command, command_here, json_of
from tiny_data import make_dataset, save_npz
from tiny_pictures import save_pictures


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "mine.npz", make_dataset(30, 15))


@pytest.mark.parametrize("package", ["featurize", "classify", "analysis"])
def test_help_answers_at_once(package: str) -> None:
    began = time.perf_counter()
    done = command(package, "--help")
    assert done.returncode == 0
    assert "Usage: python -m " + package in done.stdout
    assert time.perf_counter() - began < 3  # about 0.3 s alone on a machine; the promise is one second


def test_from_images_to_the_comparison(images: Path, data_folder: Path, tmp_path: Path) -> None:
    facts = json_of("featurize", "--data", str(images), "--backbone", "pixels", "--image-size", "8")
    cache = data_folder / "features" / "mine-pixels-8px.h5"
    assert facts["path"] == str(cache)
    assert facts["splits"] == {"test": {"rows": 15}, "train": {"rows": 30}}
    assert facts["layers"] == [{"name": "pixels", "start": 0, "shape": [8, 8, 3]}]
    assert (facts["dim"], facts["image_size"], facts["backbone"], facts["weights"]) == (192, 8, "pixels", "none")
    assert (facts["reused"], facts["resumed_rows"]) == (False, 0)
    assert {"fingerprint", "engine", "seconds", "images_per_second"} <= set(facts)

    again = command_here("featurize", "--data", str(images), "--backbone", "pixels", "--image-size", "8")
    assert again.stdout.startswith(f"reused: {cache}\n")
    about = command_here("featurize", "info", str(cache), "--json")
    assert json.loads(about.stdout)["fingerprint"] == facts["fingerprint"]
    assert "mine: 30 train, 15 test" in command_here("featurize", "info", str(cache)).stdout

    runs = json_of("classify", "--model", "logreg,dummy")["runs"]  # on the newest cache
    assert sorted(run["model"] for run in runs) == ["dummy", "logreg"]
    assert runs[0]["accuracy"] >= runs[1]["accuracy"]
    assert {
        "features", "train_rows", "test_rows", "seed", "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "ece",
        "fit_seconds", "predict_ms_per_image", "converged", "run_dir",
    } <= set(runs[0])  # fmt: skip
    for run in runs:
        assert sorted(os.listdir(run["run_dir"])) == [
        "README.md", "guarantee.skops", "head.skops", "predictions.parquet", "result.json",
    ]  # fmt: skip

    reused = command_here("classify", "--model", "logreg,dummy", "--json")
    assert json.loads(reused.stdout) == {"runs": runs}
    assert reused.stderr.count("already there") == 2
    forced = command_here("classify", "--model", "dummy", "--json", "--force")
    assert "already there" not in forced.stderr
    seeded = command_here("classify", "--model", "dummy", "--json", "--seed", "1")
    assert json.loads(seeded.stdout)["runs"][0]["run_dir"] not in {run["run_dir"] for run in runs}
    table = command_here("classify", "list").stdout
    assert "logreg" in table
    assert "accuracy %" in table

    broken = data_folder / "runs" / "mine-pixels-8px" / "broken-1"
    broken.mkdir()
    out = tmp_path / "out"
    answer = json_of("analysis", "--out", str(out))
    names = [Path(path).name for path in answer["written"]]
    assert names[:3] == ["comparison.csv", "comparison.md", "comparison.tex"]
    assert names[-1] == "report.html"
    assert sum(name.endswith(".png") for name in names) == sum(name.endswith(".svg") for name in names) > 5
    assert len(next(iter(answer["answers"].values()))) == 5
    assert all(Path(path).stat().st_size > 0 for path in answer["written"])
    assert [item["run_dir"] for item in answer["left_out"]] == [str(broken)]
    shown = command_here("analysis", "--out", str(out)).stdout
    assert "There is no run on the features of a pretrained network" in shown
    assert f"wrote {out / 'report.html'}" in shown


@pytest.mark.slow
def test_on_a_cluster(cache: Path, data_folder: Path) -> None:
    pytest.importorskip("distributed")
    words = ["classify", "--model", "logreg,dummy", "--json"]
    here = command_here(*words, "--runs", str(data_folder / "here"))
    there = command(*words, "--cluster", "local:2")
    assert there.returncode == 0, there.stderr
    runs = [
        [(Path(run["run_dir"]).name, run["accuracy"]) for run in json.loads(done.stdout)["runs"]]
        for done in (here, there)
    ]
    assert runs[0] == runs[1]
    lines = there.stderr.splitlines()
    assert lines[0].startswith("info: cluster: workers 2, threads ")
    assert sorted(lines[1:]) == ["info: dummy on tiny-net: 120 x 16", "info: logreg on tiny-net: 120 x 16"]
    done = command_here("classify", "--cluster", "nowhere")
    assert_failed(done, 2, "--cluster nowhere: expected local:N, or a scheduler's")


@pytest.mark.slow
def test_a_head_that_fails_on_a_cluster(cache: Path) -> None:
    pytest.importorskip("distributed")
    done = command("classify", "--model", "stack", "--train-size", "6", "--cluster", "local:2")
    assert_failed(done, 1, "needs 3 training images of each class; ant has 2")


@pytest.fixture
def run(images: Path) -> Path:
    """A run of logreg on the pixels of `images`."""
    command_here("featurize", "--data", str(images), "--backbone", "pixels", "--image-size", "8")
    [run] = json.loads(command_here("classify", "--model", "logreg", "--json").stdout)["runs"]
    return Path(run["run_dir"])


def test_predict(images: Path, run: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in save_pictures(tmp_path, *np.load(images)["x_test"][:3])]
    words = ["classify", "predict", str(run)]
    text = tmp_path / "no.png"
    text.write_text("no image")
    done = command(*words, *paths, str(text), "--json")
    assert done.returncode == 1
    assert f"error: 1 of 4 files could not be read; {text}: no image" in done.stderr
    answer = json.loads(done.stdout)
    assert [item["file"] for item in answer["predictions"]] == paths
    assert [item["file"] for item in answer["skipped"]] == [str(text)]
    table = pd.read_parquet(run / "predictions.parquet")
    for item, row in zip(answer["predictions"], table.itertuples(), strict=False):
        assert item["probability"] == pytest.approx(getattr(row, f"p_{item['label']}"), abs=1e-5)
    assert_failed(command_here(*words, str(text)), 1, "no.png")
    assert_failed(command_here(*words, *paths, "--csv", "--json"), 2, "--csv and --json: expected one of them")

    text.unlink()
    listed = subprocess.run(
        [sys.executable, "-m", *words, "-", "--csv", "--top", "2"],
        cwd=ROOT, input=str(tmp_path).encode(), capture_output=True,
    )  # fmt: skip
    assert listed.returncode == 1  # because of the images' own file, mine.npz
    rows = pd.read_csv(io.BytesIO(listed.stdout), dtype=str)
    assert list(rows["file"]) == [path for path in paths for _ in range(2)]
    assert list(rows["label"][::2]) == [item["label"] for item in answer["predictions"]]

    (run / "head.skops").write_bytes(b"x")
    assert_failed(command_here(*words, paths[0]), 1, "is not the file that was saved")


def test_a_reader_that_goes_away(images: Path, run: Path, tmp_path: Path) -> None:
    """As in `python -m classify predict RUN IMAGE | head -0`."""
    [path] = save_pictures(tmp_path, np.load(images)["x_test"][0])
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "classify", "predict", run, path],
        cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.slow
def test_ctrl_c_and_resuming(tmp_path: Path) -> None:
    words = [
        "featurize",
        "--data",
        "sample",
        "--train",
        "1500",
        "--test",
        "100",
        "--layers",
        "block1_pool",
        "--image-size",
        "96",
        "--engine",
        "tensorflow",
        "--out",
    ]
    words.append(str(tmp_path / "x.h5"))
    shards = tmp_path / "x.h5.parts"
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        deadline = time.monotonic() + 120
        while not list(shards.glob("*.h5")):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted; finished work is saved, and the same command resumes"
    assert not list(tmp_path.rglob("*.tmp"))
    done = command_here(*words, "--json")
    facts = json.loads(done.stdout)
    assert 0 < facts["resumed_rows"] < 1600
    assert f"{facts['resumed_rows']:,} of 1,600 rows are finished" in done.stderr
    assert not shards.exists()
