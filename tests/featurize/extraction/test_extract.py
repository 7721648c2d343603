import json
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny_data import make_dataset
from tiny_pictures import picture_folder, write_picture

from featurize.cache import load_features, read_info
from featurize.cache import shards as shards_module
from featurize.cache.shards import Shard, Shards
from featurize.core.errors import BackboneError, CacheError, CacheMismatchError, DataError, UsageError
from featurize.engines import ENGINES, Choice, tensorflow_engine
from featurize.extraction import extract_features, recorded_backbone, recorded_extractor
from featurize.images import ImageDataset, Split, load_dataset
from featurize.images.decode import read_image
from featurize.images.resize import resized
from featurize.networks.backbone import Backbone, load_backbone
from featurize.networks.pooling import pooled


@pytest.fixture
def network(tiny_network: Path) -> Backbone:
    return load_backbone(str(tiny_network), layers=("early", "late"), image_size=12)


def expected(network: Backbone, images: np.ndarray, pool: str) -> np.ndarray:
    return np.concatenate(
        [pooled(part, pool).reshape(len(images), -1) for part in tensorflow_engine(network)(images)], axis=1
    )


def test_what_is_in_the_cache(network: Backbone, data_folder: Path) -> None:
    dataset = make_dataset(50, 11)
    seen = []
    result = extract_features(
        dataset, network, pool="grid2", batch_size=8, progress=lambda *counts: seen.append(counts)
    )
    assert not result.reused
    assert result.info.path == data_folder / "features" / "tiny-tinynet-own-12px-early+late-grid2.h5"
    assert os.listdir(result.info.path.parent) == [result.info.path.name]
    assert [(c.name, c.start, c.stop) for c in result.info.layers] == [("early", 0, 16), ("late", 16, 40)]
    assert seen[0] == (8, 61)
    assert seen[-1] == (61, 61)
    for name, split in dataset.splits.items():
        features = load_features(result.info.path, name)
        reference = expected(network, resized(np.asarray(split.images), 12, "bicubic"), "grid2")
        np.testing.assert_allclose(features.x, reference, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(features.y, split.labels)
        np.testing.assert_array_equal(features.ids, split.ids)


def test_plain_strings(tiny_network: Path, tmp_path: Path) -> None:
    """Paths may be strings, and a single layer too."""
    network = load_backbone(str(tiny_network), layers="late", image_size=12)
    assert network.layers == ("late",)
    info = extract_features(make_dataset(6, 6), network, out=str(tmp_path / "x.h5")).info
    assert read_info(str(info.path)) == info
    both = load_features(str(info.path), "train")
    np.testing.assert_array_equal(load_features(str(info.path), "train", "late").x, both.x)


def test_flip_averages_the_vector_of_the_mirror_image(network: Backbone) -> None:
    dataset = make_dataset(6, 6)
    split = dataset.splits["train"]
    result = extract_features(dataset, network, pool="avg", flip=True)
    images = resized(np.asarray(split.images), 12, "bicubic")
    reference = (expected(network, images, "avg") + expected(network, images[:, :, ::-1], "avg")) / 2
    np.testing.assert_allclose(load_features(result.info.path, "train").x, reference, rtol=1e-5, atol=1e-6)


def test_flipped_grids_keep_their_place(network: Backbone) -> None:
    """With mirror averaging, an image and its mirror image have mirrored grids."""
    dataset = make_dataset(6, 6)
    mirror_splits = {
        name: type(split)(np.ascontiguousarray(np.asarray(split.images)[:, :, ::-1]), split.labels, split.ids)
        for name, split in dataset.splits.items()
    }
    mirror = ImageDataset("mirror", dataset.class_names, mirror_splits)
    for layers in (["late"], ["early", "late"]):
        ours, theirs = (
            load_features(extract_features(each, network, pool="grid2", flip=True).info.path, "train", layers)
            for each in (dataset, mirror)
        )
        np.testing.assert_allclose(ours.x[:, ours.mirror], theirs.x, rtol=1e-4, atol=1e-6)
        assert not np.allclose(ours.x, theirs.x, rtol=1e-3)
    cells = theirs.x[:, -24:].reshape(6, 2, 2, 6)[:, :, ::-1].reshape(6, 24)
    np.testing.assert_allclose(ours.x[:, -24:], cells, rtol=1e-4, atol=1e-6)


def test_an_extractor_is_rebuilt_from_the_record(network: Backbone) -> None:
    dataset = make_dataset(size=10)
    info = extract_features(dataset, network, flip=True, pool="grid2").info
    assert info.source["image_shape"] == [10, 10]
    extractor = recorded_extractor(recorded_backbone(info.spec, info.source), info.spec)
    again = extractor.vectors(np.asarray(dataset.splits["test"].images[:5]))
    np.testing.assert_allclose(np.concatenate(again, axis=1), load_features(info.path, "test").x[:5], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "does not say where tinynet was loaded from"),
        ({"seed": "x"}, "does not say where tinynet was loaded from"),
        ({"weights": "random"}, "the weights at random of .*tinynet.keras are no longer .* expected [0-9a-f]{64}"),
    ],
)
def test_a_backbone_that_cannot_be_loaded_again(network: Backbone, changes: dict, message: str) -> None:
    info = extract_features(make_dataset(), network).info
    source = {key: value for key, value in {**info.source, **changes}.items() if value is not None}
    with pytest.raises(BackboneError, match=message):
        recorded_backbone(info.spec, source)


def test_the_same_request_reuses_the_cache(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(6, 6)
    first = extract_features(dataset, network)
    before = first.info.path.stat()
    monkeypatch.setattr("featurize.extraction.loop.open_writer", None)  # must not be needed
    for options in ({"batch_size": 3}, {"overwrite": True}):
        again = extract_features(dataset, network, **options)
        assert again.reused
        assert again.info == first.info
    assert again.info.path.stat() == before


@pytest.mark.parametrize("stop_at", [8, 48, 50, 58, 61])
def test_an_interrupted_extraction_is_gone_on_with(
    network: Backbone, tmp_path: Path, stop_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, out = make_dataset(50, 11), tmp_path / "x.h5"

    def stop(done: int, total: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(dataset, network, batch_size=8, out=out, progress=stop)
    assert not out.exists()
    seen = []
    caplog.set_level("INFO", "frozenbench")
    result = extract_features(dataset, network, batch_size=8, out=out, progress=lambda *counts: seen.append(counts))
    assert (result.reused, result.resumed_rows) == (False, stop_at)
    assert f"{stop_at} of 61 rows are finished" in caplog.text
    assert len(seen) == len([done for done in (8, 16, 24, 32, 40, 48, 50, 58, 61) if done > stop_at])
    whole = extract_features(dataset, network, batch_size=8, out=tmp_path / "whole.h5", reuse=None).info.path
    for name in ("train", "test"):
        np.testing.assert_array_equal(load_features(out, name).x, load_features(whole, name).x)
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["whole.h5", "x.h5"]


def test_ctrl_c_waits_for_the_batch_and_foreign_handlers_stay(network: Backbone, tmp_path: Path) -> None:
    handlers, calls = [], []

    def press(done: int, total: int) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))
        signal.raise_signal(signal.SIGINT)
        calls.append(done)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            extract_features(make_dataset(20, 5), network, batch_size=8, out=tmp_path / "x.h5", progress=press)
        assert calls == [8]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        extract_features(make_dataset(20, 5), network, batch_size=8, out=tmp_path / "x.h5", progress=press)
        assert handlers[1:] == [signal.SIG_IGN] * 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_request_is_refused_unless_it_overwrites(network: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.h5"
    extract_features(make_dataset(6, 6), network, out=out)
    before = out.read_bytes()
    with pytest.raises(CacheMismatchError, match="made with pool avg, asked for max"):
        extract_features(make_dataset(6, 6), network, out=out, pool="max")
    with pytest.raises(CacheMismatchError, match="holds vectors of 12 images that are not among these"):
        extract_features(make_dataset(6, 6, seed=1), network, out=out)
    assert out.read_bytes() == before
    assert extract_features(make_dataset(6, 6), network, out=out, pool="max", overwrite=True).info.spec.pool == "max"
    assert read_info(out).spec.pool == "max"


def test_a_file_that_is_no_cache_is_only_replaced_on_request(network: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.h5"
    out.write_text("my notes")
    with pytest.raises(CacheError, match="not a feature cache"):
        extract_features(make_dataset(6, 6), network, out=out)
    assert out.read_text() == "my notes"
    assert not extract_features(make_dataset(6, 6), network, out=out, overwrite=True).reused


def test_values_that_are_not_finite_stop_the_extraction(
    network: Backbone, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(backbone: Backbone, *_: object, **__: object) -> Choice:
        engine = tensorflow_engine(backbone)

        def run(images: np.ndarray) -> list[np.ndarray]:
            early, late = engine(images)
            late = late.copy()
            if len(images) > 1:
                late[2, 0, 0, 0] = np.nan
            return [early, late]

        return Choice(run, "tensorflow", "0", "")

    monkeypatch.setattr("featurize.extraction.plan.choose_engine", broken)
    with pytest.raises(
        BackboneError, match="layer late gave a value that is not finite as float32 for the train image 1002"
    ):
        extract_features(make_dataset(6, 6), network)
    assert os.listdir(data_folder / "features") == []


def test_values_too_large_for_float16(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_large = Choice(lambda images: [images * 300.0], "", "", "")
    monkeypatch.setattr("featurize.extraction.plan.choose_engine", lambda *_, **__: too_large)
    pixels = load_backbone("pixels", image_size=8)
    with pytest.raises(BackboneError, match="not finite as float16 for the train image 1000; .* dtype float32"):
        extract_features(make_dataset(6, 6), pixels, dtype="float16")
    assert os.listdir(data_folder / "features") == []


def test_a_network_that_learns_is_refused(network: Backbone, data_folder: Path) -> None:
    def learn(done: int, total: int) -> None:
        bias = network.model.get_layer("late").bias
        bias.assign(bias + 1e-3)

    with pytest.raises(BackboneError, match="changed while it ran"):
        extract_features(make_dataset(6, 6), network, progress=learn)
    assert os.listdir(data_folder / "features") == []


def test_pixels(data_folder: Path) -> None:
    dataset = make_dataset(6, 6)
    result = extract_features(dataset, load_backbone("pixels", image_size=8), pool="grid2")
    assert result.info.path.name == "tiny-pixels-8px.h5"
    x = load_features(result.info.path, "train").x
    np.testing.assert_array_equal(x, np.asarray(dataset.splits["train"].images).reshape(6, -1))


def test_the_name_tells_the_options(network: Backbone) -> None:
    info = extract_features(make_dataset(6, 6), network, resize="nearest", flip=True, dtype="float16").info
    assert info.path.name == "tiny-tinynet-own-12px-early+late-avg-nearest-flip-float16.h5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "avgg"}, "^pool avgg"),
        ({"resize": "cubic"}, "^resize cubic"),
        ({"dtype": "float64"}, "^dtype float64"),
    ],
)
def test_unknown_options(network: Backbone, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        extract_features(make_dataset(6, 6), network, **options)


def test_a_map_too_small_for_the_grid(tiny_network: Path, data_folder: Path) -> None:
    network = load_backbone(str(tiny_network), layers=("late",), image_size=8)
    with pytest.raises(UsageError, match="the layer's map is 2 x 2, too small for a 4 x 4 grid"):
        extract_features(make_dataset(6, 6), network, pool="grid4")
    assert not (data_folder / "features").exists()


def test_one_failing_write_is_not_forgotten(
    network: Backbone, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written beside the work: an error comes later than it happens, but it comes."""
    write, calls = Shards.write, []

    def fail_once(self: Shards, split: str, start: int, block: np.ndarray) -> Shard:
        calls.append(len(block))
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return write(self, split, start, block)

    monkeypatch.setattr(Shards, "write", fail_once)
    monkeypatch.setattr(shards_module, "SHARD_SECONDS", 0.0)
    with pytest.raises(CacheError, match="could not be written: .*Input/output error"):
        extract_features(make_dataset(40, 6), network, batch_size=8)
    assert len(calls) == 1
    assert not list((data_folder / "features").glob("*.h5"))


@pytest.fixture
def other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine `other` beside TensorFlow, and nothing is measured."""
    monkeypatch.setitem(ENGINES, "other", (tensorflow_engine, lambda: "1.5"))
    monkeypatch.setattr("featurize.engines.choice._fastest", lambda *_: pytest.fail("engines are compared"))


def test_auto_takes_the_engine_that_made_the_cache(network: Backbone, other_engine: None) -> None:
    made = extract_features(make_dataset(6, 6), network, engine="other").info
    assert (made.spec.engine, made.spec.engine_version, made.engine_choice) == ("other", "1.5", "as asked for")
    again = extract_features(make_dataset(6, 6), network)
    assert again.reused
    assert again.info.spec == made.spec


def test_auto_goes_on_with_the_engine_that_began(network: Backbone, other_engine: None) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(make_dataset(20, 6), network, engine="other", batch_size=8, progress=stop)
    result = extract_features(make_dataset(20, 6), network, batch_size=8)
    assert (result.info.spec.engine, result.info.engine_choice) == (
        "other",
        "the engine that it began with",
    )
    assert result.resumed_rows == 8


def test_another_extraction_does_not_decide_the_engine(
    network: Backbone, data_folder: Path, other_engine: None
) -> None:
    out = data_folder / "x.h5"
    extract_features(make_dataset(6, 6), network, engine="other", out=out)
    with pytest.raises(pytest.fail.Exception, match="engines are compared"):
        extract_features(make_dataset(6, 6), network, pool="max", out=out)
    with pytest.raises(CacheMismatchError, match="made with engine other, asked for tensorflow"):
        extract_features(make_dataset(6, 6), network, engine="tensorflow", out=out)


def test_class_folders(network: Backbone, tmp_path: Path) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pets")))
    info = extract_features(dataset, network, pool="grid2", batch_size=8).info
    assert info.path.name.startswith("pets-tinynet-")
    assert info.rows == {"train": 23, "test": 23}
    assert info.source["images"] == {"train": 24, "test": 24}
    assert "image_shape" not in info.source
    ((path, why),) = info.skipped["train"]
    assert path == "train/cats/004.png"
    assert why.startswith("cannot be read (")
    assert [path for path, _ in info.skipped["test"]] == ["test/d\u00f6gs/003.png"]
    with h5py.File(info.path) as file:
        for name, split in dataset.splits.items():
            features = load_features(info.path, name)
            paths = file[f"{name}/paths"].asstr()[:].tolist()
            assert len(paths) == len(set(paths)) == 23
            images = [read_image(tmp_path / "pets" / path, 12, 12) for path in paths]
            np.testing.assert_allclose(features.x, expected(network, np.stack(images), "grid2"), rtol=1e-4, atol=1e-5)
            assert [info.class_names[label] for label in features.y] == [path.split("/")[1] for path in paths]
            places = [os.fsdecode(path) for path in split.images.paths]
            assert [places[row] for row in features.ids] == paths
        assert json.loads(file.attrs["skipped"]) == {
            name: [list(one) for one in ones] for name, ones in info.skipped.items()
        }
    assert extract_features(dataset, network, pool="grid2").reused


def test_the_same_vectors_from_files_as_from_an_array(network: Backbone, tmp_path: Path) -> None:
    for number in range(20):
        write_picture(tmp_path / ("train", "test")[number % 2] / "ab"[number // 2 % 2] / f"{number}.png", number, 9, 9)
    files = load_dataset(str(tmp_path))
    arrays = ImageDataset(
        "arrays",
        files.class_names,
        {name: Split(split.images.read(9, "bicubic", "crop")[0], split.labels, split.ids)
         for name, split in files.splits.items()},
    )  # fmt: skip
    for number, options in enumerate([{}, {"aspect": "pad"}, {"aspect": "stretch", "flip": True}]):
        ours, theirs = (
            extract_features(each, network, out=tmp_path / f"{each.name}{number}.h5", **options).info.path
            for each in (files, arrays)
        )
        np.testing.assert_array_equal(load_features(ours, "train").x, load_features(theirs, "train").x)


def test_the_aspect_counts_for_other_shapes_only(network: Backbone, tmp_path: Path) -> None:
    for dataset, same in ((make_dataset(6, 6), True), (load_dataset(str(picture_folder(tmp_path / "pets"))), False)):
        found = []
        for aspect in ("crop", "stretch", "pad"):
            result = extract_features(dataset, network, aspect=aspect)
            assert (f"-{aspect}" in result.info.path.name) == (aspect != "crop")
            assert result.info.spec.aspect == aspect
            found.append(load_features(result.info.path, "train").x)
        assert (found[0] == found[1]).all() == (found[0] == found[2]).all() == same
    with pytest.raises(UsageError, match="aspect squash: known: crop, stretch, pad"):
        extract_features(dataset, network, aspect="squash")
    with pytest.raises(CacheMismatchError, match="was made with aspect crop, asked for pad"):
        extract_features(dataset, network, aspect="pad", out=extract_features(dataset, network).info.path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_skipped_files_are_still_known_after_an_interruption(
    network: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pets")))
    whole = extract_features(dataset, network, batch_size=4, dtype=dtype, out=tmp_path / "whole.h5").info
    monkeypatch.setattr(shards_module, "SHARD_SECONDS", 0.0)
    for stop_at in (8, 24, 40, 48):

        def stop(done: int, total: int, stop_at: int = stop_at) -> None:
            if done >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract_features(
                dataset, network, batch_size=4, dtype=dtype, out=tmp_path / "cut.h5", progress=stop, reuse=None
            )
    result = extract_features(dataset, network, batch_size=4, dtype=dtype, out=tmp_path / "cut.h5", reuse=None)
    assert result.resumed_rows > 0
    assert result.info.skipped == whole.skipped
    for name in dataset.splits:
        ours, theirs = load_features(result.info.path, name), load_features(whole.path, name)
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_a_file_that_could_not_be_read_at_first(network: Backbone, tmp_path: Path) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pets")))
    damaged = tmp_path / "pets" / "train/cats/008.png"
    content = damaged.read_bytes()
    damaged.unlink()

    def back_again(done: int, total: int) -> None:
        damaged.write_bytes(content)

    info = extract_features(dataset, network, progress=back_again).info
    assert ("train/cats/008.png", "could not be read at first") in info.skipped["train"]


def test_no_file_that_can_be_read(network: Backbone, tmp_path: Path) -> None:
    root = picture_folder(tmp_path / "pets", per_class=3)
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"no image" + path.read_bytes()[:9] + path.name.encode())
    with pytest.raises(DataError, match="none of the 6 test images could be read; the first one: no image of a format"):
        extract_features(load_dataset(str(root)), network, out=tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_a_network_that_gives_nan_is_no_damaged_file(
    network: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(str(picture_folder(tmp_path / "pets")))
    make, engine_version = ENGINES["tensorflow"]
    monkeypatch.setitem(
        ENGINES,
        "tensorflow",
        (lambda backbone: lambda images: [x * np.nan for x in make(backbone)(images)], engine_version),
    )
    with pytest.raises(BackboneError, match="not finite"):
        extract_features(dataset, network, engine="tensorflow")
