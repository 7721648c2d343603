"""The commands in a report are those of its runs: given again, they find everything already there."""

import shlex
from pathlib import Path

import pytest
from command_line import command_here
from tiny_data import make_dataset, save_npz
from tiny_pictures import write_picture
from tiny_runs import make_result

from analysis.report.commands import classify_commands, featurize_command, repeat_commands, reproduction
from classify.runs import load_runs


def photos(folder: Path) -> Path:
    for number in range(24):
        write_picture(folder / ("cats", "dogs and more")[number % 2] / f"{number % 4}-{number}.png", number)
    return folder


def in_this_process(line: str) -> str:
    """The output of a `frozenbench` command; it must succeed."""
    program, *words = shlex.split(line)
    assert program == "frozenbench"
    done = command_here(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--folds", "3", "--aspect", "pad"],
        ["--groups", "/([0-3])-", "--resize", "nearest", "--train", "12"],
        ["--test-fraction", "0.4", "--dtype", "float16"],
    ],
)
def test_the_commands_of_a_folder(tmp_path: Path, data_folder: Path, options: list[str]) -> None:
    cache = tmp_path / "my photos.h5"
    data = ["--data", str(photos(tmp_path / "my photos")), "--backbone", "pixels", "--image-size", "4"]
    assert command_here("featurize", *data, *options, "--out", str(cache)).returncode == 0
    words = ["classify", "--features", str(cache), "--model", "logreg,knn"]
    assert command_here(*words).returncode == 0
    assert command_here(*words, "--train-size", "6,8", "--seed", "0,1", "--class-weight", "balanced").returncode == 0
    runs, _ = (
        load_runs(Path("data/runs")) if Path("data/runs").exists() else load_runs(tmp_path / "frozenbench-data/runs")
    )
    made, *trained, _ = reproduction(runs)
    assert "reused: " in in_this_process(made)
    assert len(trained) == 2
    for line in trained:
        output = in_this_process(line)
        assert output.count(": already there") == (8 if "--train-size" in line else 2)


def test_a_network_is_named_in_full() -> None:
    result = make_result(
        source={"data": "cifar10", "backbone": "vgg16", "weights": "random", "seed": 3,
                "images": {"train": 3000, "test": 10_000}},
        cache="c.h5",
    )  # fmt: skip
    command = featurize_command(result)
    assert "--backbone vgg16 --weights random --seed 3 --layers " in command
    assert "--train 3000 --test 10000" in command
    assert f"--engine {result.spec['engine']}" in command


def test_sizes_and_seeds_are_joined_where_all_were_combined() -> None:
    runs = {}
    for size, seed in [(None, 0), (10, 0), (10, 1), (20, 0), (20, 1)]:
        for model in ("svm", "logreg"):
            runs[Path(f"r/f/{model}-{size}-{seed}")] = make_result(
                model=model, train_size=size, seed=seed, cache="c.h5"
            )
    runs[Path("r/f/mlp")] = make_result(model="mlp", train_size=10, seed=5, cache="c.h5")
    assert classify_commands(runs) == [
        "frozenbench classify --features c.h5 --model logreg,svm --runs r",
        "frozenbench classify --features c.h5 --model logreg,svm --train-size 10,20 --seed 0,1 --runs r",
        "frozenbench classify --features c.h5 --model mlp --train-size 10 --seed 5 --runs r",
    ]


def test_repeats_are_one_command(cache: Path, data_folder: Path) -> None:
    words = ["classify", "--model", "logreg,knn", "--train-size", "30", "--repeats", "3"]
    assert command_here(*words).returncode == 0
    runs, _ = load_runs(data_folder / "runs")
    commands = classify_commands(runs)
    output = "".join(in_this_process(line) for line in commands)
    assert len(load_runs(data_folder / "runs").runs) == len(runs) == 12
    assert len(commands) == 2
    assert commands[1].endswith("--model knn,logreg --train-size 30 --repeats 3")
    assert output.count(": already there") == 6 + 12


def test_the_commands_that_repeat_runs() -> None:
    runs = {
        Path("r/f/a"): make_result(cache="c.h5"),
        Path("r/g/b"): make_result(model="cnn", cache="p.h5", train_size=10, seed=2),
    }
    assert repeat_commands(runs) == [
        "frozenbench classify --features c.h5 --model logreg --repeats 5 --runs r",
        "frozenbench classify --features p.h5 --model cnn --repeats 5 --runs r",
    ]


def test_heads_of_the_users_have_an_option_of_their_own() -> None:
    own = make_result(model="Mine", own_head="mine:Mine", cache="c.h5")
    runs = {Path("r/f/a"): own, Path("r/f/b"): make_result(cache="c.h5")}
    assert classify_commands(runs) == ["frozenbench classify --features c.h5 --model logreg --head mine:Mine --runs r"]
    assert classify_commands({Path("r/f/a"): own}) == ["frozenbench classify --features c.h5 --head mine:Mine --runs r"]


def test_images_that_no_command_can_load() -> None:
    assert featurize_command(make_result(source={}, cache="c.h5")).startswith("# c.h5: it was made from Python")


def test_an_npz_file(tmp_path: Path, data_folder: Path) -> None:
    file = save_npz(tmp_path / "x.npz", make_dataset(12, 6))
    assert command_here("featurize", "--data", str(file), "--backbone", "pixels", "--image-size", "4").returncode == 0
    assert command_here("classify", "--model", "logreg").returncode == 0
    runs, _ = load_runs(data_folder / "runs")
    for line in reproduction(runs):
        if not line.startswith("frozenbench analysis"):
            in_this_process(line)
