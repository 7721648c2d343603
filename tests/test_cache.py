import dataclasses
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import LAYERS, make_dataset, make_spec, make_vectors, write_tiny_cache
from test_spec import CHANGES

from featurize.cache import _PatientFile, check_same, load_features, new_cache, read_info
from featurize.errors import CacheError, CacheMismatchError, UsageError


def test_round_trip(cache: Path) -> None:
    dataset = make_dataset()
    info = read_info(cache)
    assert info.rows == {"train": 120, "test": 60}
    assert info.dim == 16
    assert info.layers == LAYERS
    assert info.digests == {name: split.digest for name, split in dataset.splits.items()}
    assert info.class_names == dataset.class_names
    for number, (name, split) in enumerate(dataset.splits.items()):
        features = load_features(cache, name)
        np.testing.assert_array_equal(features.x, make_vectors(split, seed=number))
        np.testing.assert_array_equal(features.y, split.labels)
        np.testing.assert_array_equal(features.ids, split.ids)
        assert features.x.dtype == np.float32
        assert features.fingerprint == info.spec.fingerprint


def test_other_tools_can_read_it(cache: Path) -> None:
    with h5py.File(cache) as file:
        assert sorted(file) == ["test", "train"]
        assert file["train/features"].shape == (120, 16)
        assert file["train/features"].dtype == np.float32
        assert file["train/features"].chunks is not None
        assert file["train/labels"].dtype == np.int64
        assert file["train/ids"][0] == 1000
        assert json.loads(file.attrs["layers"])[1] == {"name": "late", "start": 10, "stop": 16}
        assert json.loads(file.attrs["class_names"]) == ["ant", "bee", "cow"]
        assert json.loads(file.attrs["spec"])["backbone"] == "tinynet"
        assert {"schema_version", "fingerprint", "dataset", "weights", "versions", "device"} <= set(file.attrs)


def test_a_choice_of_layers(cache: Path) -> None:
    whole, late = load_features(cache, "test"), load_features(cache, "test", ["late"])
    np.testing.assert_array_equal(late.x, whole.x[:, 10:])
    assert [(c.name, c.start, c.stop) for c in late.layers] == [("late", 0, 6)]
    with pytest.raises(UsageError, match="--layers lat: .* did you mean late"):
        load_features(cache, "test", ["lat"])
    with pytest.raises(UsageError, match="has no split val; it has test, train"):
        load_features(cache, "val")


def test_float16_is_stored_small_and_read_as_float32(tmp_path: Path) -> None:
    path = write_tiny_cache(tmp_path / "half.h5", dtype="float16")
    with h5py.File(path) as file:
        assert file["train/features"].dtype == np.float16
    features = load_features(path, "train")
    assert features.x.dtype == np.float32
    np.testing.assert_allclose(features.x, make_vectors(make_dataset().splits["train"]), rtol=1e-3, atol=1e-3)


def test_the_same_choices_are_accepted_wherever_the_file_lies(cache: Path, tmp_path: Path) -> None:
    moved = cache.rename(tmp_path / "moved.h5")
    assert check_same(moved, make_spec(make_dataset())).path == moved


@pytest.mark.parametrize("field", [field for field in CHANGES if field != "schema_version"])
def test_other_choices_are_refused_by_name(cache: Path, field: str) -> None:
    asked = dataclasses.replace(make_spec(make_dataset()), **{field: CHANGES[field]})
    with pytest.raises(CacheMismatchError, match=f"was made with {field} .* asked for .*--overwrite") as caught:
        check_same(cache, asked)
    assert "\n" not in str(caught.value)


def test_several_differences_are_all_named(cache: Path) -> None:
    asked = make_spec(make_dataset(), pool="max", flip=True, dtype="float16")
    with pytest.raises(CacheMismatchError, match=r"pool avg, asked for max \(and 2 more: flip, dtype\)"):
        check_same(cache, asked)


def write_partly(path: Path, rows: int, error: Exception | None = None) -> None:
    dataset = make_dataset()
    with new_cache(path, make_spec(dataset), dataset, "imagenet", LAYERS) as (append, closing):
        append("train", make_vectors(dataset.splits["train"])[:rows])
        closing.update(seconds=1.0, images_per_second=1.0, device="CPU")
        if error:
            raise error


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_partly(tmp_path / "part.h5", 50, KeyboardInterrupt())  # type: ignore[arg-type]
    assert list(tmp_path.glob("**/*.h5*")) == []
    assert os.listdir(tmp_path) == []


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="rows are missing"):
        write_partly(tmp_path / "part.h5", 119)
    assert os.listdir(tmp_path) == []


def test_a_failed_replacement_keeps_the_old_cache(cache: Path) -> None:
    before = cache.read_bytes()
    with pytest.raises(CacheError, match="could not be written: it failed"):
        write_partly(cache, 50, OSError("it failed"))
    assert cache.read_bytes() == before
    assert os.listdir(cache.parent) == [cache.name]


def test_too_little_space_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1_000_000))
    with pytest.raises(CacheError, match=r"needs 1 MB, its disk has 1 MB free; .* --dtype float16"):
        write_partly(tmp_path / "part.h5", 50)
    assert os.listdir(tmp_path) == []


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import make_dataset, write_tiny_cache
from featurize.errors import CacheError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
dataset = make_dataset(2000, 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    write_tiny_cache(Path(sys.argv[1]), dataset=dataset)
except CacheError as error:
    print(error)
    sys.exit(1)
"""


@pytest.mark.parametrize("room", [0, 1_000, 20_000, 60_000, 150_000])
def test_a_disk_that_fills_up_while_writing(tmp_path: Path, room: int) -> None:
    """One line, exit code 1, no file, and no crash of the interpreter at its end."""
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path / "full.h5"), str(Path(__file__).parent), str(room)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "full.h5 could not be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_failed_write_stops_the_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = _PatientFile("/dev/full", "r+")
    assert full.write(b"12345") == 5
    dataset = make_dataset()
    with (
        full,
        pytest.raises(CacheError, match="No space left on device"),
        new_cache(tmp_path / "x.h5", make_spec(dataset), dataset, "imagenet", LAYERS) as (append, _),
    ):
        monkeypatch.setattr(_PatientFile, "error", full.error)
        append("train", make_vectors(dataset.splits["train"])[:10])
        pytest.fail("the first block was taken")
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_at_the_very_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset()
    with (
        pytest.raises(CacheError, match="the last bytes"),
        new_cache(tmp_path / "x.h5", make_spec(dataset), dataset, "imagenet", LAYERS) as (append, closing),
    ):
        for name, split in dataset.splits.items():
            append(name, make_vectors(split))
        closing.update(seconds=1.0, images_per_second=1.0, device="CPU")
        monkeypatch.setattr(_PatientFile, "error", OSError("the last bytes"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(CacheError, match="could not be written"):
        write_partly(tmp_path / "file" / "cache.h5", 120)


@pytest.mark.parametrize("content", [b"", b"not HDF5", bytes(10_000)])
def test_not_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.h5"
    path.write_bytes(content)
    with pytest.raises(CacheError, match="not a readable HDF5 file"):
        read_info(path)


def test_no_such_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such feature cache; make one with python -m featurize"):
        read_info(tmp_path / "absent.h5")


def damage(path: Path, change: str) -> None:
    with h5py.File(path, "r+") as file:
        train = file["train"]
        match change:
            case "version":
                file.attrs["schema_version"] = 9
            case "fingerprint":
                file.attrs["fingerprint"] = "0" * 64
            case "spec":
                file.attrs["spec"] = "{}"
            case "no spec":
                del file.attrs["spec"]
            case "no ids":
                del train["ids"]
            case "short labels":
                del train["labels"]
                train["labels"] = np.zeros(119, np.int64)
            case "layers":
                file.attrs["layers"] = '[{"name": "late", "start": 0, "stop": 17}]'
            case "foreign":
                for name in list(file):
                    del file[name]
                file["weights"] = np.zeros(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("version", "layout version 9, expected 1"),
        ("fingerprint", "does not belong to its specification"),
        ("spec", "not a feature cache"),
        ("no spec", "not a feature cache"),
        ("no ids", "not a feature cache"),
        ("short labels", "do not belong together"),
        ("layers", "do not belong together"),
        ("foreign", "not a feature cache"),
    ],
)
def test_a_damaged_cache_is_refused(cache: Path, change: str, message: str) -> None:
    damage(cache, change)
    with pytest.raises(CacheError, match=message):
        load_features(cache, "train")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(cache: Path, value: float) -> None:
    with h5py.File(cache, "r+") as file:
        file["train/features"][7, 3] = value
    with pytest.raises(CacheError, match="the train vector of image 1007 holds a value that is not finite"):
        load_features(cache, "train")
    assert load_features(cache, "test").x.shape == (60, 16)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(cache: Path, label: int) -> None:
    with h5py.File(cache, "r+") as file:
        file["test/labels"][0] = label
    with pytest.raises(CacheError, match="labels run from .* expected 0 to 2"):
        load_features(cache, "test")
