"""A data set that changed: vectors of known images are copied, and the cache is the one that computing all gives."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_bytes import change_value, header_of, reseal
from tiny_data import make_dataset, save_npz, write_batch
from tiny_pictures import write_picture

from featurize.cache import linked, load_features, read_info, read_paths, reuse
from featurize.cache import shards as shards_module
from featurize.cache.existing import parts_folder
from featurize.core.errors import CacheError, CacheMismatchError, UsageError
from featurize.extraction import Extraction, extract_features, grown_without_keras
from featurize.extraction.plan import ExtractionOptions
from featurize.images import ImageDataset, Split, load_dataset
from featurize.networks import load_backbone
from featurize.verify import verify

PIXELS = load_backbone("pixels", image_size=8)
POOL = make_dataset(300, 0).splits["train"].images  # the images of which the data sets below are made


def dataset_of(train: np.ndarray, test: np.ndarray) -> ImageDataset:
    """A data set of these images of the pool, in this order."""
    splits = {
        name: Split(POOL[rows], rows % 3, 7 * np.arange(len(rows))) for name, rows in (("train", train), ("test", test))
    }
    return ImageDataset("pool", ("a", "b", "c"), splits)


OLD = dataset_of(np.arange(150), np.arange(150, 200))
# In another order, some rows gone, some in the other split, 30 + 3 new ones, one of them twice, and a copy.
NEW = dataset_of(
    np.random.default_rng(1).permutation(np.concatenate([np.arange(10, 160), np.arange(200, 230), [215, 20]])),
    np.concatenate([np.arange(160, 200), np.arange(3, 8), [290, 291]]),
)


def arrays(path: Path) -> list[bytes]:
    """Everything in a cache but the header and the origins, as bytes."""
    header, content = header_of(path), path.read_bytes()
    found = []
    for split, offsets in header["arrays"].items():
        rows = header["rows"][split]
        features = load_features(path, split)
        found.append(features.x.tobytes())
        widths = {
            "labels": 8,
            "ids": 8,
            "groups": 8,
            "folds": 8,
            "sha256": 32,
            "paths": header.get("path_bytes", {}).get(split),
        }
        for name in sorted(offsets.keys() & widths.keys()):
            found.append(name.encode() + content[offsets[name] :][: rows * widths[name]])
    return found


def computed(dataset: ImageDataset, folder: Path, **options: object) -> Path:
    """The cache that computing everything gives."""
    return extract_features(dataset, PIXELS, out=folder / "computed" / "x.h5", reuse=None, **options).info.path


def same_as_computed(done: Extraction, dataset: ImageDataset, folder: Path, **options: object) -> bool:
    whole = computed(dataset, folder, **options)
    facts, other = header_of(done.info.path), header_of(whole)
    for field in ("arrays", "seconds", "images_per_second", "taken"):
        facts.pop(field, None)
        other.pop(field, None)
    assert facts == other
    return arrays(done.info.path) == arrays(whole)


def test_only_new_images_are_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extract_features(OLD, PIXELS, out=tmp_path / "old.h5")
    seen: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO, "frozenbench"):
        done = extract_features(NEW, PIXELS, out=tmp_path / "new.h5", progress=lambda *counts: seen.append(counts))
    assert "196 of 229 vectors from old.h5, 33 to compute" in caplog.messages
    assert seen[-1] == (33, 33)
    assert (done.taken_rows, done.computed_rows, done.resumed_rows, done.reused) == (196, 33, 0, False)
    assert same_as_computed(done, NEW, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["new.h5", "old.h5"]


def test_the_origin_of_every_vector_is_recorded(tmp_path: Path) -> None:
    """Also through a cache that took it from another one."""
    old = extract_features(OLD, PIXELS, out=tmp_path / "a.h5").info.path
    seals = [old.read_bytes().split(b"\n")[1].decode()]
    middle = extract_features(NEW, PIXELS, out=tmp_path / "b.h5").info
    seals.append(middle.path.read_bytes().split(b"\n")[1].decode())
    old.unlink()
    info = extract_features(dataset_of(np.arange(210), np.arange(285, 292)), PIXELS, out=tmp_path / "c.h5").info
    assert {entry["sha256"]: entry["file"] for entry in info.taken} == dict(zip(seals, ["a.h5", "b.h5"], strict=True))
    content, header = info.path.read_bytes(), header_of(info.path)
    for split, images in (("train", np.arange(210)), ("test", np.arange(285, 292))):
        origins = np.frombuffer(content, "<i8", len(images), header["arrays"][split]["origins"])
        made_by = ["", *(entry["sha256"] for entry in info.taken)]
        for image, origin in zip(images, origins, strict=True):
            in_old, in_new = image in (*range(3, 8), *range(10, 200)), image in (*range(200, 230), 290, 291)
            assert made_by[origin] == (seals[0] if in_old else seals[1] if in_new else "")
    counts = {name: sum(entry["rows"].get(name, 0) for entry in info.taken) for name in ("train", "test")}
    assert counts == {"train": 205, "test": 2}
    assert info.as_json()["taken"] == list(info.taken)
    assert info.facts()["taken"] == "207 vectors from b.h5, a.h5"


def test_the_cost_is_that_of_computing_all(tmp_path: Path) -> None:
    """Otherwise a report would say that the features come for nothing."""
    old = extract_features(OLD, PIXELS, out=tmp_path / "old.h5").info.path
    reseal(old, {"images_per_second": 0.5})
    info = extract_features(NEW, PIXELS, out=tmp_path / "new.h5").info
    assert info.images_per_second == pytest.approx(229 / (196 / 0.5), rel=0.01)
    assert info.seconds < 60


def test_it_grows_in_place(tmp_path: Path) -> None:
    path = extract_features(OLD, PIXELS, out=tmp_path / "x.h5").info.path
    more = dataset_of(np.arange(180), np.arange(180, 240))
    done = extract_features(more, PIXELS, out=path)
    assert (done.taken_rows, done.computed_rows) == (200, 40)
    assert same_as_computed(done, more, tmp_path)
    assert extract_features(more, PIXELS, out=path).reused


def test_vectors_are_not_lost_without_a_request(tmp_path: Path) -> None:
    path = extract_features(OLD, PIXELS, out=tmp_path / "x.h5").info.path
    before = path.read_bytes()
    fewer = dataset_of(np.arange(100), np.arange(150, 210))
    with pytest.raises(CacheMismatchError, match=r"x\.h5 holds vectors of 50 images that are not among these; keep it"):
        extract_features(fewer, PIXELS, out=path)
    with pytest.raises(CacheMismatchError, match="made with dataset_digest"):
        extract_features(fewer, PIXELS, out=path, reuse=None)
    assert path.read_bytes() == before
    done = extract_features(fewer, PIXELS, out=path, overwrite=True)
    assert (done.taken_rows, done.computed_rows) == (150, 10)
    assert same_as_computed(done, fewer, tmp_path)


def test_the_first_images_do_not_replace_all(tmp_path: Path) -> None:
    """`--train N` has the same default path."""
    data = load_dataset(save_npz(tmp_path / "d.npz", make_dataset()))
    path = extract_features(data, PIXELS).info.path
    with pytest.raises(CacheMismatchError, match="holds vectors of 80 images"):
        extract_features(data.first(train=40), PIXELS)
    data = load_dataset(save_npz(tmp_path / "d.npz", make_dataset(seed=1)))  # other images in the same file
    with pytest.raises(CacheMismatchError, match="holds vectors of 180 images"):
        extract_features(data, PIXELS)
    assert read_info(path).rows == {"train": 120, "test": 60}


def test_named_caches_elsewhere(tmp_path: Path) -> None:
    elsewhere = extract_features(OLD, PIXELS, out=tmp_path / "there" / "old.h5").info.path
    done = extract_features(NEW, PIXELS, out=tmp_path / "x.h5", reuse=[str(elsewhere)])
    assert done.taken_rows == 196
    assert extract_features(NEW, PIXELS, out=tmp_path / "here" / "x.h5").taken_rows == 0
    with pytest.raises(UsageError, match="no such feature cache"):
        extract_features(NEW, PIXELS, out=tmp_path / "y.h5", reuse=[tmp_path / "none.h5"])
    other = extract_features(OLD, load_backbone("pixels", image_size=9), out=tmp_path / "nine.h5").info.path
    with pytest.raises(CacheMismatchError, match=r"nine\.h5 was made with image_size 9, asked for 8; leave it out"):
        extract_features(NEW, PIXELS, out=tmp_path / "y.h5", reuse=[other])


def test_images_are_the_same_in_all_kinds_of_arrays(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (30, 32, 32, 3), np.uint8)
    folder = tmp_path / "cifar"
    write_batch(folder / "data_batch_1.bin", images[:20], np.arange(20) % 10)
    write_batch(folder / "test_batch.bin", images[20:], np.arange(10))
    extract_features(load_dataset(folder), PIXELS, out=tmp_path / "a.h5")
    labels = np.arange(15) % 5
    whole = ImageDataset.from_arrays(images[15:], labels, images[:15], labels)
    assert extract_features(whole, PIXELS, out=tmp_path / "b.h5").computed_rows == 0
    # The same bytes in another shape are another image.
    wide = ImageDataset.from_arrays(images.reshape(30, 16, 64, 3), np.arange(30) % 2, images, np.arange(30) % 2)
    assert extract_features(wide, PIXELS, out=tmp_path / "c.h5").taken_rows == 30


# Sources that must not be used.


def test_a_damaged_neighbour_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = extract_features(OLD, PIXELS, out=tmp_path / "old.h5").info.path
    content = bytearray(old.read_bytes())
    content[header_of(old)["arrays"]["train"]["features"] + 1000] ^= 1
    old.write_bytes(content)
    done = extract_features(NEW, PIXELS, out=tmp_path / "x.h5")
    assert done.taken_rows == 0
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "no vectors are taken from old.h5" in warning
    assert "does not match its seal" in warning
    assert same_as_computed(done, NEW, tmp_path)
    with pytest.raises(CacheError, match="does not match its seal"):
        extract_features(NEW, PIXELS, out=tmp_path / "y.h5", reuse=[old])
    assert not list(tmp_path.glob("y.h5*"))


def test_values_that_are_not_finite_are_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = extract_features(OLD, PIXELS, out=tmp_path / "old.h5").info.path
    change_value(old, "train/features", 100 * 192, np.float32(np.nan).tobytes())
    done = extract_features(NEW, PIXELS, out=tmp_path / "x.h5")
    assert done.taken_rows == 0
    assert "holds a value that is not finite" in caplog.text


def test_a_cache_without_digests_is_not_used(tmp_path: Path) -> None:
    old = extract_features(OLD, PIXELS, out=tmp_path / "old.h5").info.path
    offsets = header_of(old)["arrays"]
    for names in offsets.values():
        del names["sha256"]
    reseal(old, {"arrays": offsets})
    assert extract_features(NEW, PIXELS, out=tmp_path / "x.h5").taken_rows == 0
    with pytest.raises(CacheError, match="does not have the SHA-256 of its images"):
        extract_features(NEW, PIXELS, out=tmp_path / "y.h5", reuse=[old])
    with pytest.raises(CacheMismatchError, match="made with dataset_digest"):
        extract_features(NEW, PIXELS, out=old)


def test_a_larger_limit_of_pixels_is_not_used(tmp_path: Path) -> None:
    """Under a smaller limit, some images have no vectors."""
    root = tmp_path / "photos"
    for number in range(12):
        write_picture(root / "ab"[number % 2] / f"{number}.png", number, 9 + 20 * (number == 5), 9)
    all_of_them = extract_features(load_dataset(root), PIXELS, out=tmp_path / "f" / "all.h5").info
    small = extract_features(load_dataset(root, max_pixels=100), PIXELS, out=tmp_path / "f" / "small.h5")
    assert sum(all_of_them.rows.values()) == 12
    assert sum(small.info.rows.values()) == 11
    assert small.taken_rows == 0
    all_of_them.path.unlink()
    done = extract_features(load_dataset(root), PIXELS, out=tmp_path / "f" / "x.h5")
    assert (done.taken_rows, done.computed_rows) == (11, 1)
    small.info.path.unlink()
    with pytest.raises(CacheMismatchError, match="larger max_pixels"):
        extract_features(load_dataset(root, max_pixels=100), PIXELS, out=tmp_path / "y.h5", reuse=[done.info.path])


def test_a_crafted_digest_is_not_found() -> None:
    """The first eight bytes alone do not make two images the same."""
    known = np.random.default_rng(0).integers(0, 256, (50, 32), np.uint8)
    wanted = known[[3, 40, 3]].copy()
    wanted[1, 31] ^= 1
    assert reuse._find_rows(known, wanted).tolist() == [3, -1, 3]
    assert reuse._find_rows(known[:0], wanted).tolist() == [-1] * 3


# Interruptions.


def interrupted(dataset: ImageDataset, path: Path, at: int, **options: object) -> None:
    def stop(done: int, total: int) -> None:
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(dataset, PIXELS, out=path, batch_size=8, progress=stop, **options)


def test_an_interruption_leaves_the_old_cache_and_the_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "SHARD_SECONDS", 0.0)
    path = extract_features(OLD, PIXELS, out=tmp_path / "x.h5").info.path
    before = path.read_bytes()
    more = dataset_of(np.random.default_rng(2).permutation(240), np.arange(240, 260))
    interrupted(more, path, 24)
    assert path.read_bytes() == before
    done = extract_features(more, PIXELS, out=path, batch_size=8)
    assert (done.taken_rows, done.resumed_rows, done.computed_rows) == (200, 24, 36)
    assert same_as_computed(done, more, tmp_path)
    assert not parts_folder(path).exists()


def test_whatever_leaves_less_to_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that appear or vanish while an extraction is interrupted change what is left to do, never a value."""
    monkeypatch.setattr(shards_module, "SHARD_SECONDS", 0.0)
    path = tmp_path / "f" / "x.h5"
    interrupted(NEW, path, 200)
    old = extract_features(OLD, PIXELS, out=path.with_name("old.h5")).info.path
    few_left = extract_features(NEW, PIXELS, out=path)  # 23 rows, whereas 33 are not in the new cache
    assert (few_left.taken_rows, few_left.resumed_rows) == (0, 206)
    path.unlink()

    old.rename(tmp_path / "old.h5")
    interrupted(NEW, path, 40)
    (tmp_path / "old.h5").rename(old)
    most_taken = extract_features(NEW, PIXELS, out=path)
    assert (most_taken.taken_rows, most_taken.resumed_rows) == (196, 0)
    path.unlink()

    interrupted(NEW, path, 16)
    old.unlink()
    begun_anew = extract_features(NEW, PIXELS, out=path)
    assert (begun_anew.taken_rows, begun_anew.resumed_rows) == (0, 0)
    assert same_as_computed(begun_anew, NEW, tmp_path)


# Large caches.


@pytest.mark.parametrize(("old_is_large", "new_is_large"), [(True, True), (True, False), (False, True), (False, False)])
def test_large_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_is_large: bool, new_is_large: bool) -> None:
    monkeypatch.setattr(shards_module, "SHARD_SECONDS", 0.0)
    path = tmp_path / "x.h5"
    more = dataset_of(np.random.default_rng(2).permutation(240), np.arange(240, 260))
    monkeypatch.setattr(linked, "LINKED_FROM", 0 if old_is_large else 1 << 40)
    extract_features(OLD, PIXELS, out=path, batch_size=8)
    monkeypatch.setattr(linked, "LINKED_FROM", 0 if new_is_large else 1 << 40)
    monkeypatch.setattr("featurize.cache.writer.SHARD_BYTES", 192 * 4 * 20)
    done = extract_features(more, PIXELS, out=path, batch_size=8)
    assert (done.taken_rows, done.computed_rows) == (200, 60)
    assert (done.info.shards is not None) == new_is_large
    assert verify(path) == []
    assert len(list(tmp_path.glob("*"))) == 1 + new_is_large
    for split in ("train", "test"):
        theirs = load_features(computed(more, tmp_path), split)
        assert load_features(path, split).x.tobytes() == theirs.x.tobytes()
        shutil.rmtree(tmp_path / "computed")


def test_a_damaged_shard_of_a_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(linked, "LINKED_FROM", 0)
        old = extract_features(OLD, PIXELS, out=tmp_path / "old.h5").info
    assert old.shards is not None
    shard = old.shards / "train-000000000000.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    done = extract_features(NEW, PIXELS, out=tmp_path / "x.h5")
    assert done.taken_rows == 0
    assert "no vectors are taken from old.h5" in caplog.text
    assert same_as_computed(done, NEW, tmp_path)


def test_mending_a_large_cache_still_computes_its_damaged_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linked, "LINKED_FROM", 0)
    monkeypatch.setattr(shards_module, "SHARD_SECONDS", 0.0)
    made = extract_features(NEW, PIXELS, out=tmp_path / "x.h5", batch_size=8).info
    assert made.shards is not None
    (made.shards / "train-000000000008.h5").unlink()
    done = extract_features(NEW, PIXELS, out=made.path, batch_size=8, overwrite=True)
    assert (done.resumed_rows, done.computed_rows) == (221, 8)


# Folders of photos.


def photos(root: Path) -> Path:
    for number in range(48):
        split, name = ("train", "test")[number % 3 == 0], ("cat", "dog", "fox")[number // 3 % 3]
        write_picture(root / split / name / f"{number:02}.png", number)
    return root


def add(root: Path) -> None:
    for number in range(100, 120):
        write_picture(root / "train" / "cat" / f"{number}.png", number)


def rename_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "wolf")


def rename_files(root: Path) -> None:
    for path in root.glob("train/cat/*.png"):
        path.rename(path.with_name(f"new-{path.name}"))


def move_to_test(root: Path) -> None:
    path = next(root.glob("train/cat/*.png"))
    path.rename(root / "test" / "cat" / path.name)


def delete(root: Path) -> None:
    for path in list(root.glob("train/fox/*.png"))[:3]:
        path.unlink()


def replace_content(root: Path) -> None:
    write_picture(next(root.glob("test/dog/*.png")), 999)


def merge_classes(root: Path) -> None:
    for split in ("train", "test"):
        for path in (root / split / "fox").glob("*.png"):
            path.rename(root / split / "dog" / path.name)
        (root / split / "fox").rmdir()


def copy_some(root: Path) -> None:
    for path in list(root.glob("train/fox/*.png"))[:3]:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))


KNOWN = [rename_class, rename_files, move_to_test, delete, merge_classes, copy_some]


@pytest.mark.parametrize(
    ("change", "to_compute"), [(add, 20), (replace_content, 1), *((change, 0) for change in KNOWN)]
)
def test_a_folder_changes(tmp_path: Path, change: Callable[[Path], None], to_compute: int) -> None:
    root = photos(tmp_path / "photos")
    extract_features(load_dataset(root), PIXELS)
    change(root)
    dataset = load_dataset(root)
    done = extract_features(dataset, PIXELS)
    assert done.computed_rows == to_compute
    assert done.taken_rows == sum(done.info.rows.values()) - to_compute
    assert same_as_computed(done, dataset, tmp_path)
    assert verify(done.info.path, recompute=100) == []


def test_other_labels_groups_and_folds(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    extract_features(load_dataset(root), PIXELS)
    paths = sorted(str(path.relative_to(root)) for path in root.glob("*/*/*.png"))
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "\n".join(f"{path},{'xy'[number % 2]}" for number, path in enumerate(paths)))
    for options in ({}, {"folds": 3}, {"groups": "[0-9]"}, {"groups": "[0-9]", "folds": 3}):
        dataset = load_dataset(root, labels=table, **options)
        done = extract_features(dataset, PIXELS)
        assert (done.taken_rows, done.computed_rows) == (48, 0)
        assert same_as_computed(done, dataset, tmp_path)
        shutil.rmtree(tmp_path / "computed")


def test_unreadable_photos_are_tried_again(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    broken = root / "train" / "cat" / "broken.png"
    broken.write_bytes(next(root.glob("train/cat/*.png")).read_bytes()[:70])
    info = extract_features(load_dataset(root), PIXELS).info
    assert sum(info.rows.values()) == 48
    rename_class(root)
    dataset = load_dataset(root)
    done = extract_features(dataset, PIXELS)
    assert (done.taken_rows, done.computed_rows) == (48, 1)
    assert [path for path, _ in done.info.skipped["train"]] == ["train/cat/broken.png"]
    paths = read_paths(done.info.path, "train")
    assert paths is not None
    assert len(paths) == len(load_features(done.info.path, "train").x)
    assert same_as_computed(done, dataset, tmp_path)


def test_the_network_is_not_loaded_for_known_images(tiny_network: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    arguments = {"backbone": str(tiny_network), "layers": ("early",), "image_size": 8}
    options = ExtractionOptions(pool="grid2")
    made = extract_features(load_dataset(root), load_backbone(**arguments), pool="grid2").info
    rename_class(root)
    dataset = load_dataset(root)
    assert grown_without_keras(dataset, arguments, ExtractionOptions(pool="max")) is None
    assert grown_without_keras(dataset, arguments, options, reuse=None) is None
    done = grown_without_keras(dataset, arguments, options)
    assert done is not None
    assert (done.taken_rows, done.computed_rows) == (48, 0)
    assert done.info.path == made.path
    assert done.info.class_names == ("cat", "fox", "wolf")
    assert verify(made.path, recompute=100) == []
    assert extract_features(dataset, load_backbone(**arguments), pool="grid2").reused


@pytest.mark.engines
def test_new_images_are_computed_by_the_saved_network(tmp_path: Path, data_folder: Path) -> None:
    """Its vectors are those of the network that Keras loads, byte for byte."""
    root = photos(tmp_path / "photos")
    arguments = {"backbone": "vgg16", "layers": ("block1_pool",), "image_size": 32}
    options = ExtractionOptions(engine="winograd")
    backbone = load_backbone(**arguments)
    extract_features(load_dataset(root), backbone, engine="winograd")
    add(root)
    dataset = load_dataset(root)
    for path in (data_folder / "engines").iterdir():
        path.rename(tmp_path / path.name)
    assert grown_without_keras(dataset, arguments, options) is None
    for path in tmp_path.glob("*.npz"):
        path.rename(data_folder / "engines" / path.name)
    unknown = photos_elsewhere(tmp_path / "unknown")
    elsewhere = {"out": tmp_path / "unknown.h5", "reuse": list((data_folder / "features").glob("*.h5"))}
    assert grown_without_keras(unknown, arguments, options, **elsewhere) is None
    seen = []
    done = grown_without_keras(dataset, arguments, options, progress=lambda *counts: seen.append(counts))
    assert done is not None
    assert (done.taken_rows, done.computed_rows) == (48, 20)
    assert seen[-1] == (20, 20)
    whole = extract_features(dataset, backbone, out=tmp_path / "whole" / "x.h5", reuse=None, engine="winograd")
    assert arrays(done.info.path) == arrays(whole.info.path)
    assert verify(done.info.path, recompute=100) == []
    assert extract_features(dataset, backbone, engine="winograd").reused


def photos_elsewhere(folder: Path) -> ImageDataset:
    """A data set of the same name, none of whose images is known."""
    root = photos(folder / "photos")
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        write_picture(path, 9000 + number)
    return load_dataset(root)


@pytest.mark.engines
def test_winograd_gives_the_bytes_of_computing_all(tmp_path: Path) -> None:
    """Its vectors do not depend on the images beside them in a batch."""
    backbone = load_backbone("vgg16", layers=("block2_pool",), image_size=32)
    sample = load_dataset("sample")
    old, new = sample.first(train=90, test=20), sample.first(train=160, test=50)
    order = np.random.default_rng(0).permutation(160)
    new = replace(new, splits={"train": new.splits["train"][order], "test": new.splits["test"]})
    options = {"engine": "winograd", "pool": "grid2"}
    extract_features(old, backbone, out=tmp_path / "old.h5", batch_size=32, **options)
    done = extract_features(new, backbone, out=tmp_path / "new.h5", batch_size=16, **options)
    assert (done.taken_rows, done.computed_rows) == (110, 100)
    whole = extract_features(new, backbone, out=tmp_path / "whole" / "x.h5", batch_size=64, reuse=None, **options)
    assert arrays(done.info.path) == arrays(whole.info.path)
