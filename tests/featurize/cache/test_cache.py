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
from cache_bytes import CHANGES, change_value, reseal
from tiny_data import FACTS, LAYERS, content_of, make_dataset, make_spec, make_vectors, write_tiny_cache

from featurize.cache import discard_leftovers, finished_cache, linked, load_features, open_writer, read_info
from featurize.cache import format as format_module
from featurize.cache.existing import parts_folder
from featurize.cache.format import MAGIC, PatientFile
from featurize.core.environment import library_versions
from featurize.core.errors import CacheError, CacheMismatchError, UsageError


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


def test_the_description_is_a_table(cache: Path) -> None:
    info = dataclasses.replace(read_info(cache), skipped={"train": [("a.png", "empty")], "test": []})
    values = info.to_frame()["value"]
    assert values["images"] == "tiny: 120 train, 60 test"
    assert values["layers"] == "early (columns 0 to 9), late (columns 10 to 15)"
    assert values["skipped, train"] == "1 images that could not be read"
    assert "skipped, test" not in values
    assert f"<td>{info.spec.fingerprint}</td>" in info._repr_html_()  # whole, not cut to 50 characters


def test_other_tools_can_read_it(cache: Path) -> None:
    with h5py.File(cache) as file:
        assert sorted(file) == ["test", "train"]
        assert file["train/features"].shape == (120, 16)
        assert file["train/features"].dtype == np.float32
        np.testing.assert_array_equal(file["train/features"][:], load_features(cache, "train").x)
        np.testing.assert_array_equal(file["test/labels"][:], load_features(cache, "test").y)
        assert file["train/labels"].dtype == np.int64
        assert file["train/ids"][0] == 1000
        assert json.loads(file.attrs["layers"])[1] == {"name": "late", "start": 10, "shape": [1, 2, 3]}
        assert json.loads(file.attrs["class_names"]) == ["ant", "bee", "cow"]
        assert json.loads(file.attrs["spec"])["backbone"] == "tinynet"
        assert {"schema_version", "fingerprint", "dataset", "weights", "versions", "device"} <= set(file.attrs)


def test_a_choice_of_layers(cache: Path) -> None:
    whole, late = load_features(cache, "test"), load_features(cache, "test", ["late"])
    np.testing.assert_array_equal(late.x, whole.x[:, 10:])
    assert [(c.name, c.start, c.stop) for c in late.layers] == [("late", 0, 6)]
    with pytest.raises(UsageError, match="layers lat: .* did you mean late"):
        load_features(cache, "test", ["lat"])
    with pytest.raises(UsageError, match="has no split val; it has train, test"):
        load_features(cache, "val")


def test_the_columns_of_the_mirrored_image(tmp_path: Path) -> None:
    """Cells of 1 x 2 with three channels, behind ten columns without a place, change sides."""
    path = write_tiny_cache(tmp_path / "flip.h5", flip=True)
    assert load_features(path, "train").mirror.tolist() == [*range(10), 13, 14, 15, 10, 11, 12]
    assert load_features(path, "test", ["late"]).mirror.tolist() == [3, 4, 5, 0, 1, 2]
    assert load_features(path, "test", ["early"]).mirror is None
    assert load_features(write_tiny_cache(tmp_path / "plain.h5"), "train").mirror is None


def test_float16_is_stored_small_and_read_as_float32(tmp_path: Path) -> None:
    path = write_tiny_cache(tmp_path / "half.h5", dtype="float16")
    with h5py.File(path) as file:
        assert file["train/features"].dtype == np.float16
    features = load_features(path, "train")
    assert features.x.dtype == np.float32
    np.testing.assert_allclose(features.x, make_vectors(make_dataset().splits["train"]), rtol=1e-3, atol=1e-3)


def test_the_same_choices_are_accepted_wherever_the_file_lies(cache: Path, tmp_path: Path) -> None:
    moved = cache.rename(tmp_path / "moved.h5")
    info = finished_cache(moved, make_spec(make_dataset()))
    assert info is not None
    assert info.path == moved


@pytest.mark.parametrize("field", [field for field in CHANGES if field != "schema_version"])
def test_other_choices_are_refused_by_name(cache: Path, field: str) -> None:
    asked = dataclasses.replace(make_spec(make_dataset()), **{field: CHANGES[field]})
    with pytest.raises(CacheMismatchError, match=f"was made with {field} .* asked for .*overwrite=True") as caught:
        finished_cache(cache, asked)
    assert "\n" not in str(caught.value)


def test_several_differences_are_all_named(cache: Path) -> None:
    asked = make_spec(make_dataset(), pool="max", flip=True, dtype="float16")
    with pytest.raises(CacheMismatchError, match=r"pool avg, asked for max \(and 2 more: flip, dtype\)"):
        finished_cache(cache, asked)


def write_partly(path: Path, rows: int, error: BaseException | None = None) -> None:
    """Extract `rows` training rows, then end badly, or too early."""
    dataset = make_dataset()
    spec = make_spec(dataset)
    with open_writer(path, spec, content_of(dataset)) as writer:
        writer.shards.add("train", 0, make_vectors(dataset.splits["train"])[:rows])
        if error:
            raise error
        writer.commit(**FACTS)


def test_what_an_interruption_leaves_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        write_partly(path, 50, KeyboardInterrupt())
    assert sorted(os.listdir(tmp_path / "x.h5.parts")) == ["lock", "plan.json", "train-000000000000.h5"]
    dataset = make_dataset()
    with open_writer(path, make_spec(dataset), content_of(dataset)) as writer:
        assert writer.missing("train") == [(50, 120)]
        assert writer.missing("test") == [(0, 60)]
        for number, (name, split) in enumerate(dataset.splits.items()):
            ((start, _),) = writer.missing(name)
            with writer.append(name, start) as rows:
                rows.add(make_vectors(split, seed=number)[start:])
        writer.commit(**FACTS)
    assert os.listdir(tmp_path) == ["x.h5"]
    whole = write_tiny_cache(tmp_path / "whole.h5")
    assert path.read_bytes() == whole.read_bytes()


def test_missing_rows_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="rows of train are missing"):
        write_partly(tmp_path / "part.h5", 119)
    assert not (tmp_path / "part.h5").exists()


def test_a_failed_replacement_keeps_the_old_cache(cache: Path) -> None:
    before = cache.read_bytes()
    with pytest.raises(CacheError, match="it failed; finished rows stay in .*tiny-net.h5.parts"):
        write_partly(cache, 50, OSError("it failed"))
    assert cache.read_bytes() == before


def test_what_a_kill_before_tidying_up_left_is_removed(cache: Path) -> None:
    spec, parts = make_spec(make_dataset()), parts_folder(cache)
    parts.mkdir()
    (parts / "plan.json").write_text(spec.to_json())
    (parts / "train-000000000000.h5").write_bytes(b"rows")
    discard_leftovers(cache, make_spec(make_dataset(), pool="max"))
    assert parts.exists()  # the unfinished extraction of another specification
    discard_leftovers(cache, spec)
    assert os.listdir(cache.parent) == [cache.name]
    parts.mkdir()
    (parts / "lock").touch()
    discard_leftovers(cache, spec)
    discard_leftovers(cache, spec)
    assert os.listdir(cache.parent) == [cache.name]


def test_unfinished_work_of_other_choices_is_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        write_partly(path, 50, KeyboardInterrupt())
    dataset = make_dataset()
    other = make_spec(dataset, pool="max")
    with (
        pytest.raises(CacheMismatchError, match="the unfinished extraction in .* with pool avg, asked for max"),
        open_writer(path, other, content_of(dataset)),
    ):
        pass
    with open_writer(path, other, content_of(dataset), overwrite=True) as writer:
        assert writer.finished_rows == 0
        writer.shards.add("train", 0, make_vectors(dataset.splits["train"])[:9])
    with pytest.raises(CacheMismatchError, match="with pool max, asked for avg"):
        write_partly(path, 50)


def test_a_damaged_plan_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        write_partly(path, 50, KeyboardInterrupt())
    (tmp_path / "x.h5.parts" / "plan.json").write_text("{")
    dataset = make_dataset()
    with open_writer(path, make_spec(dataset), content_of(dataset)) as writer:
        assert writer.finished_rows == 0
    assert "plan.json is damaged" in caplog.text


def test_too_little_space_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1_000_000))
    with pytest.raises(CacheError, match=r"needs 1 MB, its disk has 1 MB free; .* dtype float16"):
        write_partly(tmp_path / "part.h5", 50)


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tiny_data import make_dataset, write_tiny_cache
from featurize.core.errors import CacheError
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
    """One line, exit code 1, no cache, no crash of the interpreter; with room, the work goes on."""
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path / "full.h5"), str(Path(__file__).parents[2]), str(room)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "full.h5 could not be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "full.h5").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    again = write_tiny_cache(tmp_path / "full.h5", dataset=make_dataset(2000, 100))
    assert again.read_bytes() == write_tiny_cache(tmp_path / "whole.h5", dataset=make_dataset(2000, 100)).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["full.h5", "whole.h5"]


def test_libhdf5_never_sees_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PatientFile("/dev/full", "r+") as full:
        assert full.write(b"12345") == 5
        assert full.truncate(7) == 7
        with pytest.raises(OSError, match="No space left"):
            full.raise_error()
    monkeypatch.setattr(PatientFile, "error", full.error)
    with pytest.raises(CacheError, match="No space left on device"):
        write_tiny_cache(tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(CacheError, match="could not be written"):
        write_partly(tmp_path / "file" / "cache.h5", 120)


@pytest.mark.parametrize("content", [b"", b"not a cache", bytes(10_000), MAGIC, MAGIC + b" 2\n", MAGIC + b" 2 x\n"])
def test_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.h5"
    path.write_bytes(content)
    with pytest.raises(CacheError, match="not a feature cache of frozenbench.*--overwrite"):
        read_info(path)


def test_no_such_cache(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such feature cache; make one with frozenbench featurize"):
        read_info(tmp_path / "absent.h5")


def test_a_folder_is_no_cache(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder, expected the path of a feature cache; it holds tiny-net.h5$"):
        read_info(cache.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"is a folder, .*; give a file name, such as .*empty/features.h5$"):
        read_info(tmp_path / "empty")


def test_another_layout_version(cache: Path) -> None:
    cache.write_bytes(cache.read_bytes().replace(MAGIC + b" 3 ", MAGIC + b" 2 "))
    with pytest.raises(CacheError, match="layout version 2, expected 3: another version .*--overwrite"):
        read_info(cache)


@pytest.mark.parametrize("number", range(300))
def test_any_flipped_bit_is_noticed(cache: Path, number: int) -> None:
    content = bytearray(cache.read_bytes())
    bit = int(np.random.default_rng(number).integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    cache.write_bytes(content)
    with pytest.raises(CacheError, match=r"tiny-net.h5 (is|has) .*--overwrite"):
        load_features(cache, "test")


@pytest.mark.parametrize("number", range(60))
def test_any_truncation_is_noticed(cache: Path, number: int) -> None:
    content = cache.read_bytes()
    cache.write_bytes(content[: int(np.random.default_rng(number).integers(len(content)))])
    with pytest.raises(CacheError, match=r"tiny-net.h5 is .*--overwrite"):
        load_features(cache, "test")


def bad_spec(**changes: object) -> dict:
    spec = make_spec(make_dataset(), **changes)
    return {"spec": json.loads(spec.to_json()), "fingerprint": spec.fingerprint}


FAR = {"features": 10**12, "labels": 10**12, "ids": 10**12}


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0" * 64},
        {"spec": {}},
        bad_spec(dtype="float64"),
        {"layers": []},
        {"layers": [{"name": "early", "start": 0, "shape": [16]}]},
        {"layers": [{"name": "early", "start": 0, "shape": [10]}, {"name": "late", "start": 11, "shape": [6]}]},
        {"layers": [{"name": "early", "start": 0, "shape": [0]}, {"name": "late", "start": 0, "shape": [16]}]},
        {"layers": [{"name": "early", "start": 0, "shape": [2, 5]}, {"name": "late", "start": 10, "shape": [6]}]},
        {"layers": [{"name": "early", "start": 0, "shape": []}, {"name": "late", "start": 1, "shape": [6]}]},
        {"rows": {"train": 10**15, "test": 60}},
        {
            "rows": {"train": 0, "test": 0},
            "layers": [{"name": "early", "start": 0, "shape": [10**9]}, {"name": "late", "start": 10**9, "shape": [6]}],
        },
        {"rows": {"train": -1, "test": 60}},
        {"arrays": {"train": FAR, "test": FAR}},
        {"arrays": {"train": {"features": -8, "labels": 0, "ids": 0}}},
        {"arrays": None},
        {"digests": {}},
        {"seconds": "soon"},
        {"class_names": 3},
    ],
)
def test_a_sealed_file_that_lies_is_refused(cache: Path, change: dict) -> None:
    reseal(cache, change)
    with pytest.raises(CacheError, match="is sealed, but is not a feature cache of frozenbench"):
        load_features(cache, "train")


def test_resealing_in_this_test_is_right(cache: Path) -> None:
    before = cache.read_bytes()
    reseal(cache)
    assert cache.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(cache: Path, value: float) -> None:
    change_value(cache, "train/features", 7 * 16 + 3, np.float32(value).tobytes())
    with pytest.raises(CacheError, match="the train vector of image 1007 holds a value that is not finite"):
        load_features(cache, "train")
    assert load_features(cache, "test").x.shape == (60, 16)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(cache: Path, label: int) -> None:
    change_value(cache, "test/labels", 0, np.int64(label).tobytes())
    with pytest.raises(CacheError, match="labels run from .* expected 0 to 2"):
        load_features(cache, "test")


def test_a_truncation_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with PatientFile(path, "r") as readable:
        assert readable.truncate(3) == 3
        with pytest.raises(OSError, match="not open for writing"):
            readable.raise_error()
    assert path.read_bytes() == b"content"


def test_versions_of_what_is_installed() -> None:
    versions = library_versions(["numpy", "surely-not-installed"])
    assert set(versions) == {"python", "numpy"}


def test_reading_needs_no_libhdf5(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_module, "h5py", None)
    monkeypatch.setattr(linked, "h5py", None)
    assert load_features(cache, "train").x.shape == (120, 16)
