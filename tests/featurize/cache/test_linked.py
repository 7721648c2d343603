"""A large cache links to its shards, and keeps every promise of the others."""

import itertools
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_bytes import header_of, reseal
from tiny_data import FACTS, content_of, make_dataset, make_spec, make_vectors
from tiny_pictures import picture_folder

from featurize.cache import linked, load_features, open_writer, read_info, read_rows
from featurize.cache.shards import Shards
from featurize.core.errors import CacheError, UsageError
from featurize.extraction import extract_features
from featurize.images import load_dataset
from featurize.networks.backbone import load_backbone
from featurize.verify import verify

ROWS = np.concatenate([[0], np.cumsum([7, 40, 1, 72])])


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked, "LINKED_FROM", 0)


def write(path: Path, seed: int = 0, **changes: object) -> Path:
    """A cache of several shards."""
    dataset = make_dataset()
    spec = make_spec(dataset, **changes)
    with open_writer(path, spec, content_of(dataset), overwrite=True) as writer:
        for number, (name, split) in enumerate(dataset.splits.items()):
            vectors = make_vectors(split, seed=seed + number)
            for start, stop in itertools.pairwise(ROWS):
                if start < len(split):
                    writer.shards.add(name, int(start), vectors[start:stop])
        writer.commit(**FACTS)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write(tmp_path / "caches" / "x.h5")


def folder_of(path: Path) -> Path:
    return linked.linked_folder(path, read_info(path).spec.fingerprint)


def test_it_is_read_as_any_other(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(os.listdir(large.parent)) == ["x.h5", folder_of(large).name]
    assert len(os.listdir(folder_of(large))) == 4 + 4
    with monkeypatch.context() as patch:
        patch.setattr(linked, "LINKED_FROM", 1 << 40)
        plain = write(large.with_name("plain.h5"))
    for split in ("train", "test"):
        one, other = load_features(large, split), load_features(plain, split)
        assert one.x.tobytes() == other.x.tobytes()
        np.testing.assert_array_equal(one.y, other.y)
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(load_features(large, split, ["late"]).x, one.x[:, 10:])
    assert verify(large) == []
    assert load_features(large, "train").x.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_tools_see_the_numbers_too(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.h5", dtype=dtype)
    monkeypatch.chdir("/")
    with h5py.File(path) as file:
        assert file["train/features"].is_virtual
        assert file["train/features"].dtype == dtype
        np.testing.assert_array_equal(file["train/features"][:], load_features(path, "train").x)
        np.testing.assert_array_equal(file["test/labels"][:], load_features(path, "test").y)
    (folder_of(path) / "train-000000000007.h5").unlink()
    with h5py.File(path) as file:  # no zeros, which would be numbers
        assert np.isnan(file["train/features"][7:47]).all()
        assert np.isfinite(file["train/features"][:7]).all()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 120), (0, 7), (6, 8), (7, 47), (46, 49), (47, 48), (50, 50), (100, 500)]
)
def test_some_rows(large: Path, start: int, stop: int) -> None:
    whole, some = load_features(large, "train"), read_rows(large, "train", start, stop)
    np.testing.assert_array_equal(some.x, whole.x[start:stop])
    np.testing.assert_array_equal(some.y, whole.y[start:stop])


def test_the_file_and_its_shards_are_moved_together(large: Path, tmp_path: Path) -> None:
    before = load_features(large, "train").x
    shutil.move(large.parent, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "x.h5"
    np.testing.assert_array_equal(load_features(moved, "train").x, before)
    alone = shutil.copy(moved, tmp_path / "x.h5")
    with pytest.raises(
        CacheError, match="is missing: it belongs to a cache; keep the two together, or frozenbench feat"
    ):
        load_features(alone, "train")


@pytest.mark.parametrize("number", range(40))
def test_any_flipped_bit_is_noticed(large: Path, number: int) -> None:
    random = np.random.default_rng(number)
    path = random.choice(sorted(folder_of(large).glob("*.h5")))
    content = bytearray(path.read_bytes())
    bit = int(random.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(CacheError, match="is damaged"):
        load_features(large, path.name.partition("-")[0])
    assert any("is damaged" in problem for problem in verify(large))


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_what_is_damaged_is_mended(tmp_path: Path, how: str) -> None:
    dataset, pixels = make_dataset(), load_backbone("pixels", image_size=8)
    path, seen = tmp_path / "x.h5", []

    def extract(**options: bool) -> int:
        seen.clear()
        extraction = extract_features(
            dataset, pixels, out=path, batch_size=8, progress=lambda done, _: seen.append(done), **options
        )
        return extraction.resumed_rows

    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr("featurize.cache.shards.SHARD_SECONDS", 0.0)
        extract()
    before, shard = load_features(path, "train").x, folder_of(path) / "train-000000000008.h5"
    if how == "damaged":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    extract()
    assert seen == []  # the file itself is whole
    with pytest.raises(CacheError, match="frozenbench featurize ... --overwrite computes the missing rows again"):
        load_features(path, "train")
    assert extract(overwrite=True) == 180 - 8
    assert len(seen) == 1
    np.testing.assert_array_equal(load_features(path, "train").x, before)
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("size", [0, 64, 65, 600, 1600])
def test_any_truncation_is_noticed(large: Path, size: int) -> None:
    path = folder_of(large) / "train-000000000007.h5"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CacheError, match="is damaged"):
        load_features(large, "train")
    with pytest.raises(CacheError, match="is damaged"):
        read_rows(large, "train", 20, 21)


def test_only_its_own_shards(large: Path, tmp_path: Path) -> None:
    """Shards that are whole, of the same plan and place, but not those that the cache was made with."""
    other = write(tmp_path / "x.h5", seed=5)
    name = "train-000000000007.h5"
    shutil.copy(folder_of(other) / name, folder_of(large) / name)
    with pytest.raises(CacheError, match=f"{name} is damaged: its content does not match its seal"):
        load_features(large, "train")
    load_features(large, "test")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("folder", "../caches2/x.h5.shards-{digits}"),
        ("folder", "/etc"),
        ("folder", "x.h5.shards-000000000000"),
        ("folder", ".."),
        ("rows", {"train": 121, "test": 60}),
        ("rows", {"train": 10**12, "test": 60}),
        ("left_out", {"train": [5], "test": []}),
        ("left_out", {"train": [-1], "test": []}),
        ("shards", {"train": [[0, 120, "0" * 64]], "test": [[0, 10**12, "0" * 64]]}),
        ("shards", {"train": [[0, 7, "0" * 64]], "test": []}),
        ("shards", 7),
    ],
)
def test_hostile_headers(large: Path, key: str, value: object) -> None:
    """Sealed by whoever made them up: nothing outside the folder is read."""
    info = read_info(large)
    digits = info.spec.fingerprint[:12]
    if isinstance(value, str):
        value = value.format(digits=digits)

    reseal(large, {"linked": {**header_of(large)["linked"], key: value}})
    with pytest.raises(CacheError, match="not a feature cache of frozenbench"):
        read_info(large)


def test_a_row_that_is_left_out_twice(large: Path) -> None:
    """It would be counted twice, and a row be read that nobody wrote."""
    header = header_of(large)
    header["linked"]["left_out"]["train"] = [5, 5]
    header["rows"]["train"] = 118
    reseal(large, header)
    with pytest.raises(CacheError, match="the shards of train are not its 120 rows"):
        read_info(large)


def test_more_rows_than_a_shard_can_hold(large: Path) -> None:
    """No memory is taken for what is not there."""
    header = header_of(large)
    header["linked"]["rows"]["train"] = header["rows"]["train"] = 10_000
    header["linked"]["shards"]["train"][-1][1] = 10_000 - 48
    block = int(large.read_bytes().split(b"\n", 1)[0].split()[-1])
    header["arrays"]["train"] = header["arrays"]["test"] = {"labels": block, "ids": block}
    reseal(large, header, bytes(80_000))
    with pytest.raises(CacheError, match="is damaged: it is too short"):
        load_features(large, "train")


def test_unreadable_images_have_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pictures")))
    pixels = load_backbone("pixels", image_size=8)
    large = extract_features(dataset, pixels, out=tmp_path / "large.h5", batch_size=4).info
    monkeypatch.setattr(linked, "LINKED_FROM", 1 << 40)
    plain = extract_features(dataset, pixels, out=tmp_path / "plain.h5", reuse=None).info
    assert large.skipped == plain.skipped
    assert sum(map(len, large.skipped.values()))
    for split in ("train", "test"):
        one, other = load_features(large.path, split), load_features(plain.path, split)
        assert one.x.tobytes() == other.x.tobytes()
        np.testing.assert_array_equal(one.ids, other.ids)
        with h5py.File(large.path) as file:
            np.testing.assert_array_equal(file[split]["features"][:], other.x)


def test_another_cache_in_its_place_leaves_no_shards(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(large, pool="max")
    assert len(os.listdir(large.parent)) == 2
    assert load_features(large, "train").x.shape == (120, 16)
    monkeypatch.setattr(linked, "LINKED_FROM", 1 << 40)
    write(large, pool="grid2")
    assert os.listdir(large.parent) == ["x.h5"]


def test_the_old_cache_lasts_until_the_new_one_is_there(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_features(large, "train").x
    monkeypatch.setattr("featurize.cache.writer.write_seal", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(CacheError, match="disk full"):
        write(large, pool="max")
    np.testing.assert_array_equal(load_features(large, "train").x, before)


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_kill_while_it_is_linked(tmp_path: Path, hard_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done twice then comes out the same."""
    if not hard_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    path, dataset = tmp_path / "x.h5", make_dataset()
    vectors = {name: make_vectors(split) for name, split in dataset.splits.items()}
    for attempt in range(2):
        with open_writer(path, make_spec(dataset), content_of(dataset)) as writer:
            shards = writer.shards
            for name in dataset.splits:
                for start, stop in writer.missing(name):
                    shards.add(name, start, vectors[name][start:stop])
            if attempt:
                writer.commit(**FACTS)
            else:
                linked.link(shards, linked.linked_folder(path, make_spec(dataset).fingerprint))
                if hard_links:  # as often as one likes
                    linked.link(shards, linked.linked_folder(path, make_spec(dataset).fingerprint))
                    assert shards.path("train", 0).exists()
    np.testing.assert_array_equal(load_features(path, "train").x, vectors["train"])
    assert len(os.listdir(tmp_path)) == 2


def test_shards_elsewhere_are_copied(tmp_path: Path) -> None:
    """A link to another disk would be lost with it."""
    pixels, dataset = load_backbone("pixels", image_size=8), make_dataset()
    extract_features(dataset, pixels, out=tmp_path / "here" / "x.h5", shards_at=tmp_path / "there")
    assert os.listdir(tmp_path / "here") == ["x.h5"]
    assert load_features(tmp_path / "here" / "x.h5", "train").x.shape == (120, 192)


def test_space_for_no_copy_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, (1 << 20) + 180 * (16 * 4 + 16)))
    write(tmp_path / "x.h5")
    monkeypatch.setattr(linked, "LINKED_FROM", 1 << 40)
    with pytest.raises(CacheError, match="its disk has 1 MB free"):
        write(tmp_path / "y.h5")


def test_no_such_split(large: Path) -> None:
    with pytest.raises(UsageError, match="has no split val"):
        read_rows(large, "val", 0, 5)


def test_the_header_names_every_shard(large: Path) -> None:
    header = json.loads(large.read_bytes().split(b"\n", 2)[2].split(b"\n")[0])
    assert [shard[:2] for shard in header["linked"]["shards"]["train"]] == [[0, 7], [7, 40], [47, 1], [48, 72]]
    shards = Shards(folder_of(large), header["fingerprint"], {"train": 120, "test": 60}, 16, "float32")
    for start, _, seal in header["linked"]["shards"]["train"]:
        assert shards.read_shard("train", start)[1] == seal


def test_linking_over_another_shard_takes_nothing_away(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "plan", {"train": 9}, 4, "float32")
    shards.resume()
    shards.add("train", 0, np.zeros((9, 4), np.float32))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "train-000000000000.h5").write_text("another one")
    linked.link(shards, tmp_path / "there")
    assert shards.path("train", 0).samefile(tmp_path / "there" / "train-000000000000.h5")
