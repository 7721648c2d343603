"""The three commands as a shell sees them: their output, exit codes, and one clear line for every error."""

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
from cache_bytes import change_value
from command_line import ROOT, assert_failed, command
from tiny_data import make_dataset, write_tiny_cache
from tiny_pictures import picture_folder, write_picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    splits = make_dataset(30, 15).splits
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        x_train=splits["train"].images,
        y_train=splits["train"].labels,
        x_test=splits["test"].images,
        y_test=splits["test"].labels,
    )
    return path


@pytest.mark.parametrize("package", ["featurize", "classify", "analysis"])
def test_help_answers_at_once(package: str) -> None:
    began = time.perf_counter()
    done = command(package, "--help")
    assert done.returncode == 0
    assert "Usage: python -m " + package in done.stdout
    assert time.perf_counter() - began < 3  # about 0.3 s alone on a machine; the promise is one second


def test_from_images_to_the_comparison(images: Path, data_folder: Path, tmp_path: Path) -> None:
    first = command("featurize", "--data", str(images), "--backbone", "pixels", "--image-size", "8", "--json")
    assert first.returncode == 0, first.stderr
    facts = json.loads(first.stdout)
    cache = data_folder / "features" / "mine-pixels-8px.h5"
    assert facts["path"] == str(cache)
    assert facts["splits"] == {"test": {"rows": 15}, "train": {"rows": 30}}
    assert facts["layers"] == [{"name": "pixels", "start": 0, "shape": [8, 8, 3]}]
    assert (facts["dim"], facts["image_size"], facts["backbone"], facts["weights"]) == (192, 8, "pixels", "none")
    assert (facts["reused"], facts["resumed_rows"]) == (False, 0)
    assert {"fingerprint", "engine", "seconds", "images_per_second"} <= set(facts)

    again = command("featurize", "--data", str(images), "--backbone", "pixels", "--image-size", "8")
    assert again.stdout.startswith(f"already there: {cache}\n")
    about = command("featurize", "info", str(cache), "--json")
    assert json.loads(about.stdout)["fingerprint"] == facts["fingerprint"]
    assert "mine: 30 train, 15 test" in command("featurize", "info", str(cache)).stdout

    trained = command("classify", "--model", "logreg,dummy", "--json")  # on the newest cache
    assert trained.returncode == 0, trained.stderr
    runs = json.loads(trained.stdout)["runs"]
    assert sorted(run["model"] for run in runs) == ["dummy", "logreg"]
    assert runs[0]["accuracy"] >= runs[1]["accuracy"]
    assert {
        "features", "train_rows", "test_rows", "seed", "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "ece",
        "fit_seconds", "predict_ms_per_image", "converged", "run_dir",
    } <= set(runs[0])  # fmt: skip
    for run in runs:
        assert sorted(os.listdir(run["run_dir"])) == ["README.md", "head.skops", "predictions.parquet", "result.json"]

    reused = command("classify", "--model", "logreg,dummy", "--json")
    assert json.loads(reused.stdout) == {"runs": runs}
    assert reused.stderr.count("already there") == 2
    forced = command("classify", "--model", "dummy", "--json", "--force")
    assert "already there" not in forced.stderr
    seeded = command("classify", "--model", "dummy", "--json", "--seed", "1")
    assert json.loads(seeded.stdout)["runs"][0]["run_dir"] not in {run["run_dir"] for run in runs}
    table = command("classify", "list").stdout
    assert "logreg" in table
    assert "accuracy %" in table

    broken = data_folder / "runs" / "mine-pixels-8px" / "broken-1"
    broken.mkdir()
    out = tmp_path / "out"
    done = command("analysis", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    names = [Path(path).name for path in answer["written"]]
    assert names[:3] == ["comparison.csv", "comparison.md", "comparison.tex"]
    assert names[-1] == "report.html"
    assert sum(name.endswith(".png") for name in names) == sum(name.endswith(".svg") for name in names) > 5
    assert len(next(iter(answer["answers"].values()))) == 5
    assert all(Path(path).stat().st_size > 0 for path in answer["written"])
    assert [item["run_dir"] for item in answer["left_out"]] == [str(broken)]
    shown = command("analysis", "--out", str(out)).stdout
    assert "There is no run on the features of a pretrained network" in shown
    assert f"wrote {out / 'report.html'}" in shown


def test_an_experiment_that_there_is_not() -> None:
    assert_failed(command("analysis", "experiment", "--preset", "fast"), 2, "--preset fast", "known: quick, full")


def test_a_dry_run_writes_nothing(images: Path, data_folder: Path) -> None:
    words = ["featurize", "--data", str(images), "--backbone", "pixels", "--dry-run"]
    facts = json.loads(command(*words, "--json").stdout)
    assert facts["path"] == str(data_folder / "features" / "mine-pixels-32px.h5")
    assert facts["splits"] == {"train": {"rows": 30}, "test": {"rows": 15}}
    assert (facts["dim"], facts["exists"], facts["file_bytes"]) == (3072, False, 45 * (3072 * 4 + 16))
    assert facts["seconds"] > 0
    assert facts["memory_bytes"] > 2**20
    assert "3,072 x float32" in command(*words).stdout
    assert not data_folder.exists()


def test_only_some_images(images: Path) -> None:
    words = ["featurize", "--data", str(images), "--backbone", "pixels", "--train", "9", "--test", "3", "--json"]
    assert json.loads(command(*words).stdout)["splits"] == {"test": {"rows": 3}, "train": {"rows": 9}}


def test_class_folders(tmp_path: Path, data_folder: Path) -> None:
    root = picture_folder(tmp_path / "pets")
    for number in range(40):
        write_picture(root / "train" / "cats" / f"more{number}.png", 1000 + number)
    (root / "train" / "cats" / "Thumbs.db").write_text("")
    words = ["featurize", "--data", str(root), "--backbone", "pixels", "--image-size", "8"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "info: left out: files whose names are not those of images: 1 (train/cats/Thumbs.db)\n" in done.stderr
    assert "info: train: 64 images of 2 classes, cats 52, d\u00f6gs 12\n" in done.stderr
    assert "info: test: 24 images of 2 classes, 12 each\n" in done.stderr
    assert (
        "has 4.3 times as many training images as the smallest: consider python -m classify --class-weight bal"
        in done.stderr
    )
    cache = data_folder / "features" / "pets-pixels-8px.h5"
    shown = command("featurize", "info", str(cache))
    assert shown.stdout == done.stdout
    assert (
        "skipped      1 train images that could not be read:\n             train/cats/004.png: cannot be"
        in shown.stdout
    )
    facts = json.loads(command("featurize", "info", str(cache), "--json").stdout)
    assert [path for path, _ in facts["skipped"]["test"]] == ["test/d\u00f6gs/003.png"]
    assert facts["splits"] == {"train": {"rows": 63}, "test": {"rows": 23}}


def test_class_folders_that_cannot_be_used(tmp_path: Path, data_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_failed(
        command("featurize", "--data", str(tmp_path / "empty")), 1, "neither folders of images", "CIFAR-10 binary"
    )
    write_picture(tmp_path / "one.png")
    assert_failed(
        command("featurize", "--data", str(tmp_path / "one.png")), 1, "one.png is neither a folder nor an .npz file"
    )
    assert_failed(
        command("featurize", "--data", str(tmp_path), "--aspect", "none"), 2, "--aspect none", "crop, stretch, pad"
    )
    assert not data_folder.exists()


def test_pixels_takes_the_command_of_the_network_it_is_the_control_for(images: Path) -> None:
    done = command(
        "featurize", "--data", str(images), "--backbone", "pixels", "--layers", "block3_pool", "--pool", "grid2"
    )
    assert done.returncode == 0
    assert "--layers and --pool do not apply" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--data", "absent"], 2, ["--data absent: no such file or folder", "known: cifar10, sample"]),
        (["--data", "tests"], 1, ["tests holds neither folders of images", "CIFAR-10 binary version"]),
        (["--data", "README.md"], 1, ["neither a folder nor an .npz file"]),
        (["--data", "sample", "--pool", "grid3"], 2, ["--pool grid3", "did you mean grid4 or grid2"]),
        (["--data", "sample", "--resize", "area"], 2, ["--resize area"]),
        (["--data", "sample", "--engine", "turbo"], 2, ["--engine turbo"]),
        (["--data", "sample", "--backbone", "vgg61"], 2, ["--backbone vgg61", "did you mean vgg19 or vgg16"]),
        (["--data", "sample", "--layers", "block3_pol"], 2, ["--layers block3_pol", "did you mean block3_pool"]),
        (
            ["--data", "sample", "--layers", "block1_pool", "--image-size", "16"],
            2,
            ["vgg16 takes no images of 16 x 16"],
        ),
        (["--data", "sample", "--weights", "mine.h5"], 2, ["--weights mine.h5: no such file"]),
        (["--data", "sample", "--backbone", "pixels", "--out", "README.md/x.h5"], 1, ["could not be written"]),
        (["backbones", "vgg61"], 2, ["--backbone vgg61", "did you mean vgg19 or vgg16"]),
        (["info", "absent.h5"], 1, ["absent.h5: no such feature cache"]),
        (["info", "README.md"], 1, ["README.md is not a feature cache of frozenbench"]),
    ],
)
def test_bad_requests_to_featurize(arguments: list[str], code: int, parts: list[str], data_folder: Path) -> None:
    assert_failed(command("featurize", *arguments), code, *parts)
    assert not data_folder.exists() or list(data_folder.rglob("*.*")) == []


def test_a_network_and_its_layers() -> None:
    found = json.loads(command("featurize", "backbones", "vgg16", "--image-size", "64", "--json").stdout)
    assert (found["default_layer"], found["parameters"]) == ("block5_pool", 14_714_688)
    assert found["layers"][2] == {"name": "block1_pool", "kind": "MaxPooling2D", "shape": [32, 32, 64]}


@pytest.mark.parametrize("arguments", [["--image-size", "0"], ["--image-size", "x"], ["--nonsense"], ["unknown"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = command("featurize", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_cache_of_other_choices(images: Path, tmp_path: Path) -> None:
    words = ["featurize", "--data", str(images), "--backbone", "pixels", "--out", str(tmp_path / "x.h5")]
    assert command(*words).returncode == 0
    assert_failed(
        command(*words, "--image-size", "9"), 1, "was made with image_size 32, asked for 9", "--overwrite", "--out"
    )
    assert command(*words, "--image-size", "9", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ([], 2, ["no feature cache in", "python -m featurize"]),
        (["list"], 2, ["no runs in", "python -m classify"]),
        (["--features", "absent.h5"], 1, ["absent.h5: no such feature cache"]),
        (["--features", "README.md"], 1, ["README.md is not a feature cache of frozenbench"]),
        (["--model", "svn"], 2, ["--model svn: no such head", "did you mean svm"]),
        (["--model", ""], 2, ["--model names no head"]),
        (["--class-weight", "equal"], 2, ["--class-weight equal: expected none or balanced"]),
        (["--train-size", "10,0"], 2, ["--train-size 0: expected whole numbers from 1 on"]),
        (["--train-size", "10%"], 2, ["--train-size 10%"]),
        (["--seed", "a"], 2, ["--seed a: expected whole numbers from 0 on"]),
        (["--seed", ","], 2, ["--seed names no seed"]),
        (["predict", "absent", "x.png"], 1, ["absent", "result.json"]),
    ],
)
def test_bad_requests_to_classify(arguments: list[str], code: int, parts: list[str], data_folder: Path) -> None:
    assert_failed(command("classify", *arguments), code, *parts)
    assert not data_folder.exists()


def test_a_learning_curve(cache: Path) -> None:
    done = command("classify", "--model", "logreg", "--train-size", "12,60", "--seed", "0,1", "--json", "--no-save")
    runs = json.loads(done.stdout)["runs"]
    assert sorted((run["train_rows"], run["seed"]) for run in runs) == [(12, 0), (12, 1), (60, 0), (60, 1)]
    assert not list(cache.parent.parent.glob("runs/*/*/head.skops"))
    assert_failed(command("classify", "--train-size", "121"), 2, "--train-size 121", "holds 120 training images")
    table = command("classify", "list").stdout
    assert "logreg (seed 1)" in table
    assert "share a letter do not differ significantly" in table


def test_a_head_that_is_stopped(cache: Path, data_folder: Path) -> None:
    words = ["classify", "--model", "stack", "--time-limit", "0.5"]
    assert_failed(command(*words), 1, "stack on tiny-net was stopped after 0.5 seconds", "--time-limit")
    assert not list(data_folder.glob("runs/*/*"))
    assert_failed(command("classify", "--time-limit", "0"), 2, "--time-limit 0")


def test_on_a_cluster(cache: Path, data_folder: Path) -> None:
    pytest.importorskip("distributed")
    here = command("classify", "--model", "logreg,dummy", "--json", "--runs", str(data_folder / "here"))
    there = command("classify", "--model", "logreg,dummy", "--json", "--cluster", "local:2")
    assert there.returncode == 0, there.stderr
    runs, others = (
        [(Path(run["run_dir"]).name, run["accuracy"]) for run in json.loads(done.stdout)["runs"]]
        for done in (here, there)
    )
    assert runs == others
    lines = there.stderr.splitlines()
    assert lines[0].startswith("info: cluster: workers 2, threads ")
    assert sorted(lines[1:]) == ["info: dummy on tiny-net: 120 x 16", "info: logreg on tiny-net: 120 x 16"]
    done = command("classify", "--model", "stack", "--train-size", "6", "--cluster", "local:2")
    assert_failed(done, 1, "needs 3 training images of each class; ant has 2")
    assert_failed(
        command("classify", "--cluster", "nowhere"), 2, "--cluster nowhere: expected local:N, or a scheduler's"
    )


def test_fewer_rows_of_a_class_than_folds(cache: Path) -> None:
    done = command("classify", "--model", "stack", "--train-size", "6")
    assert_failed(done, 1, "needs 3 training images of each class; ant has 2")


def test_predict(images: Path, data_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    command("featurize", "--data", str(images), "--backbone", "pixels", "--image-size", "8")
    [run] = json.loads(command("classify", "--model", "logreg", "--json").stdout)["runs"]
    pictures = np.load(images)["x_test"]
    table = pd.read_parquet(Path(run["run_dir"]) / "predictions.parquet")
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pictures[number]).save(paths[-1])
    (tmp_path / "no.png").write_text("no image")
    words = ["classify", "predict", run["run_dir"]]
    done = command(*words, *paths, str(tmp_path / "no.png"), "--json")
    assert done.returncode == 1
    assert f"error: 1 of 4 files could not be read; {tmp_path / 'no.png'}: no image" in done.stderr
    answer = json.loads(done.stdout)
    assert [item["file"] for item in answer["predictions"]] == paths
    assert [item["file"] for item in answer["skipped"]] == [str(tmp_path / "no.png")]
    for item, row in zip(answer["predictions"], table.itertuples(), strict=False):
        assert item["probability"] == pytest.approx(getattr(row, f"p_{item['label']}"), abs=1e-5)
    assert_failed(command(*words, str(tmp_path / "no.png")), 1, "no.png")
    assert_failed(command(*words, *paths, "--csv", "--json"), 2, "--csv and --json: expected one of them")

    (tmp_path / "no.png").unlink()
    listed = subprocess.run(
        [sys.executable, "-m", *words, "-", "--csv", "--top", "2"],
        cwd=ROOT, input=str(tmp_path).encode(), capture_output=True,
    )  # fmt: skip
    assert listed.returncode == 1  # because of the images' own file, mine.npz
    rows = pd.read_csv(io.BytesIO(listed.stdout), dtype=str)
    assert list(rows["file"]) == [path for path in paths for _ in range(2)]
    assert list(rows["label"][::2]) == [item["label"] for item in answer["predictions"]]

    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run(
        [sys.executable, "-m", *words, *paths], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert closed.stderr == ""

    (Path(run["run_dir"]) / "head.skops").write_bytes(b"x")
    assert_failed(command(*words, paths[0]), 1, "is not the head that was saved")


def test_bad_features(cache: Path, data_folder: Path) -> None:
    assert_failed(command("classify", "--layers", "lat", "--model", "dummy"), 2, "--layers lat", "did you mean late")
    change_value(cache, "train/features", 0, np.float32(np.nan).tobytes())
    assert_failed(command("classify", "--model", "dummy"), 1, "not finite", "--overwrite")
    assert not (data_folder / "runs").exists()


def test_a_choice_of_layers_is_another_run(cache: Path) -> None:
    dims = {}
    for layers in ("", "early", "late"):
        done = command("classify", "--layers", layers, "--model", "dummy", "--json")
        run_dir = json.loads(done.stdout)["runs"][0]["run_dir"]
        dims[run_dir] = json.loads((Path(run_dir) / "result.json").read_text())["dim"]
    assert sorted(dims.values()) == [6, 10, 16]


def test_a_class_without_training_rows(data_folder: Path) -> None:
    write_tiny_cache(data_folder / "features" / "few.h5", dataset=make_dataset(2, 6))
    assert_failed(command("classify", "--model", "logreg"), 1, "hold no image of cow")


def test_no_runs_to_analyse(tmp_path: Path) -> None:
    assert_failed(command("analysis", "--out", str(tmp_path / "out")), 2, "no runs in", "python -m classify")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_and_going_on(tmp_path: Path, data_folder: Path) -> None:
    words = [
        "featurize",
        "--data",
        "sample",
        "--layers",
        "block1_pool",
        "--image-size",
        "96",
        "--out",
        str(tmp_path / "x.h5"),
    ]
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
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.tmp"))
    done = command(*words, "--json")
    facts = json.loads(done.stdout)
    assert 0 < facts["resumed_rows"] < 3000
    assert f"{facts['resumed_rows']:,} of 3,000 rows were already there" in done.stderr
    assert not shards.exists()


def test_verify(cache: Path) -> None:
    assert json.loads(command("featurize", "verify", str(cache), "--json").stdout) == {"ok": True, "problems": []}
    assert command("featurize", "verify", str(cache)).stdout == f"{cache} is whole\n"
    cache.write_bytes(cache.read_bytes()[:-1])
    assert_failed(command("featurize", "verify", str(cache)), 1, "does not belong to its seal", "--overwrite")
    answer = command("featurize", "verify", str(cache), "--json")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["ok"] is False
