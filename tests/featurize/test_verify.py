import json
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_bytes import change_value, header_of
from tiny_data import make_dataset, save_npz
from tiny_pictures import picture_folder, write_picture

from featurize.core.errors import FrozenbenchError, UsageError
from featurize.engines import ENGINES, tensorflow_engine
from featurize.extraction import extract_features
from featurize.images import load_dataset
from featurize.networks.backbone import load_backbone
from featurize.verify import verify


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "mine.npz", make_dataset(24, 12))


@pytest.fixture
def network(tiny_network: Path, tmp_path: Path) -> Path:
    """The network, for a test to change."""
    return Path(shutil.copy(tiny_network, tmp_path))


@pytest.fixture(params=[{}, {"flip": True, "pool": "grid2"}, {"dtype": "float16"}])
def cache(images: Path, network: Path, request: pytest.FixtureRequest) -> Path:
    backbone = load_backbone(str(network), layers=("early", "late"), image_size=12)
    return extract_features(load_dataset(str(images)), backbone, **request.param).info.path


def test_a_good_cache(cache: Path) -> None:
    assert verify(cache) == []
    assert verify(cache, recompute=5) == []


def test_a_subset_of_the_images_and_random_weights(images: Path) -> None:
    backbone = load_backbone("vgg16", weights="random", layers=("block1_pool",), image_size=32, seed=3)
    path = extract_features(load_dataset(str(images)).first(train=9, test=4), backbone).info.path
    assert verify(path, recompute=100) == []


def test_pixels(images: Path) -> None:
    path = extract_features(load_dataset(str(images)), load_backbone("pixels", image_size=8)).info.path
    assert verify(path, recompute=5) == []


def test_a_cache_of_an_engine_that_is_gone(images: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(str(network), layers=("late",), image_size=12)
    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, "mnn", (tensorflow_engine, lambda: "3.6.1"))
        made = extract_features(load_dataset(str(images)), backbone, engine="mnn").info
    assert verify(made.path) == []
    assert extract_features(load_dataset(str(images)), backbone, engine="tensorflow", overwrite=True).info != made
    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, "mnn", (tensorflow_engine, lambda: "3.6.1"))
        extract_features(load_dataset(str(images)), backbone, engine="mnn", overwrite=True)
    with pytest.raises(UsageError, match="engine mnn: openvino has replaced this engine; its features can still be"):
        verify(made.path, recompute=1)


def test_damage(cache: Path) -> None:
    cache.write_bytes(cache.read_bytes()[:-1])
    (problem,) = verify(cache)
    assert "does not match its seal" in problem


def test_an_id_twice(cache: Path) -> None:
    change_value(cache, "train/ids", 3, np.int64(0).tobytes())
    assert any("/train/ids holds an id twice" in problem for problem in verify(cache))


@pytest.mark.parametrize("number", range(12))
def test_a_permuted_label_file_or_a_changed_image(images: Path, network: Path, number: int) -> None:
    random = np.random.default_rng(number)
    backbone = load_backbone(str(network), image_size=12)
    path = extract_features(load_dataset(str(images)), backbone).info.path
    split = make_dataset(24, 12).splits["train"]
    if number % 2:
        first, second = random.choice(24, 2, replace=False)
        while split.labels[first] == split.labels[second]:
            first, second = random.choice(24, 2, replace=False)
        labels = split.labels.copy()
        labels[[first, second]] = labels[[second, first]]
        save_npz(images, make_dataset(24, 12), y_train=labels)
    else:
        pixels = np.array(split.images)
        pixels.reshape(-1)[random.integers(pixels.size)] ^= 1
        save_npz(images, make_dataset(24, 12), x_train=pixels)
    assert verify(path) == []  # the file itself is whole
    problems = verify(path, recompute=1)
    assert any("are no longer those of the cache" in problem for problem in problems)
    assert any("the label or id of train image" in problem for problem in problems) == bool(number % 2)


def test_a_vector_that_comes_out_otherwise(cache: Path) -> None:
    header = header_of(cache)
    dim, item = sum(math.prod(columns["shape"]) for columns in header["layers"]), np.dtype(header["spec"]["dtype"])
    change_value(cache, "test/features", 4 * dim + 1, np.array([9], item).tobytes())
    problems = verify(cache, recompute=12)
    assert len(problems) == 1
    assert "the test image 4 now gives a different vector" in problems[0]


def test_other_weights(cache: Path, network: Path) -> None:
    import keras

    model = keras.models.load_model(network)
    model.get_layer("early").bias.assign([1.0, 0, 0, 0])
    model.save(network)
    (problem,) = verify(cache, recompute=1)
    assert f"the weights at imagenet of {network} are no longer" in problem
    assert f"expected {header_of(cache)['spec']['weights_digest']}" in problem


def test_images_that_are_gone(cache: Path, images: Path) -> None:
    images.unlink()
    assert verify(cache) == []
    with pytest.raises(FrozenbenchError, match="no such file or folder"):
        verify(cache, recompute=1)


def test_the_source_is_kept_in_the_file_for_other_tools_too(cache: Path, images: Path) -> None:
    with h5py.File(cache) as file:
        assert json.loads(file.attrs["source"])["data"] == str(images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "pets")


@pytest.fixture
def folder_cache(folder: Path, network: Path) -> Path:
    backbone = load_backbone(str(network), layers=("early", "late"), image_size=12)
    return extract_features(load_dataset(str(folder)).first(train=20, test=None), backbone, aspect="pad").info.path


def test_class_folders(folder_cache: Path) -> None:
    assert verify(folder_cache) == []
    assert verify(folder_cache, recompute=100) == []


def test_a_file_renamed_in_its_class_is_the_same(folder_cache: Path, folder: Path) -> None:
    (folder / "train" / "cats" / "000.png").rename(folder / "train" / "cats" / "moved.png")
    assert verify(folder_cache, recompute=100) == []


def test_a_file_that_was_changed_or_removed(folder_cache: Path, folder: Path) -> None:
    file = folder / "test" / "cats" / "001.png"
    content = file.read_bytes()
    write_picture(file, 12345)
    problems = verify(folder_cache, recompute=100)
    assert "the test images, labels or ids at" in problems[0]
    assert not any("train" in problem.removeprefix(str(folder_cache)) for problem in problems)
    file.unlink()
    problems = verify(folder_cache, recompute=100)
    assert any("1 of the test images are gone" in problem for problem in problems)
    file.write_bytes(content)
    assert verify(folder_cache, recompute=100) == []


def test_a_folder_that_is_gone(folder_cache: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    assert verify(folder_cache) == []
    with pytest.raises(FrozenbenchError, match="no such file or folder"):
        verify(folder_cache, recompute=1)
