"""`frozenbench featurize`: what it prints and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, assert_failed, command_here
from tiny_data import make_dataset, save_npz
from tiny_pictures import picture_folder, write_picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "mine.npz", make_dataset(30, 15))


def test_a_dry_run_writes_nothing(images: Path, data_folder: Path) -> None:
    words = ["featurize", "--data", str(images), "--backbone", "pixels", "--dry-run"]
    facts = json.loads(command_here(*words, "--json").stdout)
    assert facts["path"] == str(data_folder / "features" / "mine-pixels-32px.h5")
    assert facts["splits"] == {"train": {"rows": 30}, "test": {"rows": 15}}
    assert (facts["dim"], facts["exists"], facts["file_bytes"]) == (3072, False, 45 * (3072 * 4 + 16))
    assert facts["seconds"] > 0
    assert facts["memory_bytes"] > 2**20
    assert "3,072 x float32" in command_here(*words).stdout
    assert not data_folder.exists()


def test_only_some_images(images: Path) -> None:
    words = ["featurize", "--data", str(images), "--backbone", "pixels", "--train", "9", "--test", "3", "--json"]
    assert json.loads(command_here(*words).stdout)["splits"] == {"test": {"rows": 3}, "train": {"rows": 9}}


def test_class_folders(tmp_path: Path, data_folder: Path) -> None:
    root = picture_folder(tmp_path / "pets")
    for number in range(40):
        write_picture(root / "train" / "cats" / f"more{number}.png", 1000 + number)
    (root / "train" / "cats" / "Thumbs.db").write_text("")
    words = ["featurize", "--data", str(root), "--backbone", "pixels", "--image-size", "8"]
    done = command_here(*words)
    assert done.returncode == 0, done.stderr
    assert "info: ignored: files without an image's suffix: 1 (train/cats/Thumbs.db)\n" in done.stderr
    assert "info: train: 64 images of 2 classes, cats 52, d\u00f6gs 12\n" in done.stderr
    assert "info: test: 24 images of 2 classes, 12 each\n" in done.stderr
    assert (
        "has 4.3 times as many training images as the smallest: consider frozenbench classify --class-weight bal"
        in done.stderr
    )
    cache = data_folder / "features" / "pets-pixels-8px.h5"
    shown = command_here("featurize", "info", str(cache))
    assert shown.stdout == done.stdout
    assert (
        "skipped      1 train images that could not be read:\n             train/cats/004.png: cannot be"
        in shown.stdout
    )
    facts = json.loads(command_here("featurize", "info", str(cache), "--json").stdout)
    assert [path for path, _ in facts["skipped"]["test"]] == ["test/d\u00f6gs/003.png"]
    assert facts["splits"] == {"train": {"rows": 63}, "test": {"rows": 23}}


def test_class_folders_that_cannot_be_used(tmp_path: Path, data_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command_here("featurize", "--data", str(tmp_path / "empty"))
    assert_failed(done, 1, "neither folders of images", "CIFAR-10 binary")
    write_picture(tmp_path / "one.png")
    done = command_here("featurize", "--data", str(tmp_path / "one.png"))
    assert_failed(done, 1, "one.png is neither a folder nor an .npz file")
    done = command_here("featurize", "--data", str(tmp_path), "--aspect", "none")
    assert_failed(done, 2, "--aspect none", "crop, stretch, pad")
    assert not data_folder.exists()


def test_pixels_takes_the_command_of_the_network_it_is_the_control_for(images: Path) -> None:
    done = command_here(
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
        (["info", "absent.h5"], 2, ["absent.h5: no such feature cache"]),
        (["info", "README.md"], 1, ["README.md is not a feature cache of frozenbench"]),
    ],
)
def test_bad_requests_to_featurize(arguments: list[str], code: int, parts: list[str], data_folder: Path) -> None:
    assert_failed(command_here("featurize", *arguments), code, *parts)
    assert not data_folder.exists() or list(data_folder.rglob("*.*")) == []


def test_a_network_and_its_layers() -> None:
    found = json.loads(command_here("featurize", "backbones", "vgg16", "--image-size", "64", "--json").stdout)
    assert (found["default_layer"], found["parameters"]) == ("block5_pool", 14_714_688)
    assert found["layers"][2] == {"name": "block1_pool", "kind": "MaxPooling2D", "shape": [32, 32, 64]}


@pytest.mark.parametrize("arguments", [["--image-size", "0"], ["--image-size", "x"], ["--nonsense"], ["unknown"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = command_here("featurize", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_cache_of_other_choices(images: Path, tmp_path: Path) -> None:
    words = ["featurize", "--data", str(images), "--backbone", "pixels", "--out", str(tmp_path / "x.h5")]
    assert command_here(*words).returncode == 0
    assert_failed(
        command_here(*words, "--image-size", "9"), 1, "was made with image_size 32, asked for 9", "--overwrite", "--out"
    )
    assert command_here(*words, "--image-size", "9", "--overwrite").returncode == 0


def test_verify(cache: Path) -> None:
    assert json.loads(command_here("featurize", "verify", str(cache), "--json").stdout) == {"ok": True, "problems": []}
    assert command_here("featurize", "verify", str(cache)).stdout == f"{cache} is intact\n"
    cache.write_bytes(cache.read_bytes()[:-1])
    assert_failed(command_here("featurize", "verify", str(cache)), 1, "does not match its seal", "--overwrite")
    answer = command_here("featurize", "verify", str(cache), "--json")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["ok"] is False


def without_tensorflow(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A command of featurize in a process of its own, in which TensorFlow cannot be imported."""
    program = "import sys; sys.modules['tensorflow'] = None; from featurize.cli import app; "
    program += "from featurize.core.console import run_command_line; run_command_line(app)"
    words = [sys.executable, "-c", program, *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)


def test_a_finished_cache_is_found_without_tensorflow(images: Path, tmp_path: Path) -> None:
    same = ["--data", str(images), "--layers", "block1_pool", "--image-size", "32", "--pool", "max"]
    made = command_here("featurize", *same)
    assert made.returncode == 0, made.stderr
    found = without_tensorflow(ROOT, *same)
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"reused: {made.stdout.split()[1]}\n{made.stdout}"
    others = (
        ["--pool", "avg"],
        ["--weights", "random"],
        ["--layers", "block1_conv2"],
        ["--out", str(tmp_path / "o.h5")],
    )
    for other in others:
        done = without_tensorflow(ROOT, *same, *other)
        assert done.returncode != 0, other
        assert "tensorflow" in done.stderr


@pytest.mark.engines
def test_a_cache_grows_without_tensorflow(tmp_path: Path) -> None:
    dataset = make_dataset(20, 10)
    file = save_npz(tmp_path / "photos.npz", dataset.first(train=10))
    same = ["--data", str(file), "--layers", "block1_pool", "--image-size", "32", "--engine", "winograd"]
    assert command_here("featurize", *same).returncode == 0
    save_npz(file, dataset)
    done = without_tensorflow(ROOT, *same)
    assert done.returncode == 0, done.stderr
    assert "20 of 30 vectors from photos-vgg16-imagenet-32px-block1_pool-avg.h5, 10 to compute" in done.stderr


@pytest.mark.parametrize(
    "wrong", [["--backbone", "vgg61"], ["--backbone", "no.keras"], ["--weights", "no.h5"], ["--preprocess", "x"]]
)
def test_typos_are_found_without_tensorflow(images: Path, wrong: list[str]) -> None:
    done = without_tensorflow(ROOT, "--data", str(images), *wrong)
    assert done.returncode == 2, done.stderr
    assert f"{wrong[0]} {wrong[1]}" in done.stderr


def test_a_dry_run_downloads_nothing_and_remembers_no_engine(
    images: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_download(*_: object, **__: object) -> None:
        raise AssertionError("a dry run must not download")

    monkeypatch.setattr("keras.utils.get_file", no_download)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", no_download)
    network = ["--backbone", "mobilenetv2", "--image-size", "32"]
    done = command_here("featurize", "--data", str(images), *network, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "mobilenetv2-imagenet-32px" in done.stdout
    assert not list(data_folder.rglob("*"))


def test_a_cache_by_the_beginning_of_its_name(images: Path, data_folder: Path) -> None:
    made = ["featurize", "--data", str(images), "--backbone", "pixels", "--image-size"]
    for size in ("4", "5"):
        assert command_here(*made, size).returncode == 0
    path = str(data_folder / "features" / "mine-pixels-4px.h5")
    assert json.loads(command_here("featurize", "info", "mine-pixels-4", "--json").stdout)["path"] == path
    assert command_here("featurize", "verify", "mine-pixels-4").stdout == f"{path} is intact\n"
    done = command_here("featurize", "info", "mine")
    assert_failed(done, 2, "2 caches have names that begin like this (mine-pixels-4px, mine-pixels-5px)")
    assert_failed(command_here("featurize", "info", "yours"), 2, "yours: no such feature cache")
