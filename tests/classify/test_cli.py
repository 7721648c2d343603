"""`frozenbench classify`: what it prints and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from cache_bytes import change_value
from command_line import assert_failed, command_here
from tiny_data import make_dataset, write_tiny_cache

from classify.runs import RunResult


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ([], 2, ["no feature cache in", "frozenbench featurize"]),
        (["list"], 2, ["no runs in", "frozenbench classify"]),
        (["--features", "absent.h5"], 2, ["absent.h5: no such feature cache"]),
        (["--features", "README.md"], 1, ["README.md is not a feature cache of frozenbench"]),
        (["--model", "svn"], 2, ["--model svn: no such head", "did you mean svm"]),
        (["--model", ""], 2, ["--model names no head"]),
        (["--class-weight", "equal"], 2, ["--class-weight equal: expected none or balanced"]),
        (["--train-size", "10,0"], 2, ["--train-size 0: expected whole numbers from 1 on"]),
        (["--train-size", "10%"], 2, ["--train-size 10%"]),
        (["--seed", "a"], 2, ["--seed a: expected whole numbers from 0 on"]),
        (["--seed", ","], 2, ["--seed names no seed"]),
        (["--repeats", "2"], 2, ["--repeats"]),
        (["predict", "absent", "x.png"], 2, ["absent: no such run; there are no runs in"]),
    ],
)
def test_bad_requests_to_classify(arguments: list[str], code: int, parts: list[str], data_folder: Path) -> None:
    assert_failed(command_here("classify", *arguments), code, *parts)
    assert not data_folder.exists()


def test_a_learning_curve(cache: Path) -> None:
    done = command_here(
        "classify", "--model", "logreg", "--train-size", "12,60", "--seed", "0,1", "--json", "--no-save"
    )
    runs = json.loads(done.stdout)["runs"]
    assert sorted((run["train_rows"], run["seed"]) for run in runs) == [(12, 0), (12, 1), (60, 0), (60, 1)]
    assert not list(cache.parent.parent.glob("runs/*/*/head.skops"))
    assert_failed(command_here("classify", "--train-size", "121"), 2, "--train-size 121", "holds 120 training images")
    table = command_here("classify", "list").stdout
    assert "logreg (seed 1)" in table
    name = runs[0]["name"]
    chosen = json.loads(command_here("classify", "list", name[:-1], "--json").stdout)["runs"]
    assert [run["name"] for run in chosen] == [name]
    assert len(json.loads(command_here("classify", "list", "tiny", "--json").stdout)["runs"]) == 4
    assert_failed(command_here("classify", "list", "svm"), 2, "svm: no such run in", "known: logreg-")
    assert "share a letter do not differ significantly" in table


def test_repeats(cache: Path) -> None:
    words = ["classify", "--model", "logreg,knn", "--repeats", "3"]
    done = command_here(*words, "--json")
    assert done.returncode == 0, done.stderr
    runs = [RunResult.read(Path(run["run_dir"])) for run in json.loads(done.stdout)["runs"]]
    whole = [run for run in runs if run.train_size is None]
    assert [run.model for run in whole] in (["logreg", "knn"], ["knn", "logreg"])
    repeated = [run for run in runs if run.train_size is not None]
    for model in ("logreg", "knn"):
        own = sorted((run.seed, run.draw, run.train_rows, run.drawn_from) for run in repeated if run.model == model)
        expected = [(0, None), (1, None), (2, None), (1000, 0), (1001, 1), (1002, 2)]
        assert own == [(seed, draw, 60, 120) for seed, draw in expected]
    assert not any(run.head_sha256 for run in repeated)
    again = command_here(*words)
    assert again.stderr.count("already there") == 14
    assert "12 repeats: frozenbench analysis shows" in again.stderr
    assert again.stdout.count("logreg") == 2  # its name, and its run: the table shows no repeats
    assert_failed(command_here("classify", "--train-size", "120", "--repeats", "3"), 2, "draws of 120 of 120")


def test_a_head_that_is_stopped(cache: Path, data_folder: Path) -> None:
    words = ["classify", "--model", "stack", "--time-limit", "0.5"]
    assert_failed(command_here(*words), 1, "stack on tiny-net was stopped after 0.5 seconds", "--time-limit")
    assert not list(data_folder.glob("runs/*/*"))
    assert_failed(command_here("classify", "--time-limit", "0"), 2, "--time-limit 0")


def test_fewer_rows_of_a_class_than_folds(cache: Path) -> None:
    done = command_here("classify", "--model", "stack", "--train-size", "6")
    assert_failed(done, 1, "needs 3 training images of each class; ant has 2")


def test_bad_features(cache: Path, data_folder: Path) -> None:
    assert_failed(
        command_here("classify", "--layers", "lat", "--model", "dummy"), 2, "--layers lat", "did you mean late"
    )
    change_value(cache, "train/features", 0, np.float32(np.nan).tobytes())
    assert_failed(command_here("classify", "--model", "dummy"), 1, "not finite", "--overwrite")
    assert not (data_folder / "runs").exists()


def test_a_choice_of_layers_is_another_run(cache: Path) -> None:
    dims = {}
    for layers in ("", "early", "late"):
        done = command_here("classify", "--layers", layers, "--model", "dummy", "--json")
        run_dir = json.loads(done.stdout)["runs"][0]["run_dir"]
        dims[run_dir] = json.loads((Path(run_dir) / "result.json").read_text())["dim"]
    assert sorted(dims.values()) == [6, 10, 16]


def test_a_class_without_training_rows(data_folder: Path) -> None:
    write_tiny_cache(data_folder / "features" / "few.h5", dataset=make_dataset(2, 6))
    assert_failed(command_here("classify", "--model", "logreg"), 1, "hold no image of cow")
