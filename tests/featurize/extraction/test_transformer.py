import os
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from tiny_networks import save_tiny_network
from tiny_pictures import save_pictures

from featurize import FrozenFeatures
from featurize.cache import load_features
from featurize.core.errors import DataError, UsageError
from featurize.extraction import extract_features, transformer
from featurize.images import ImageDataset, Split
from featurize.images.decode import read_image
from featurize.networks.backbone import load_backbone

IMAGES = np.random.default_rng(3).integers(0, 256, (12, 10, 10, 3), np.uint8)


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    transformer._load.cache_clear()


@pytest.fixture(scope="module")
def network(tiny_network: Path) -> str:
    return str(tiny_network)


@pytest.fixture
def features(network: str) -> FrozenFeatures:
    return FrozenFeatures(network, layers=["early", "late"], pool="grid2", image_size=12, flip=True, batch_size=5)


def test_the_vectors_are_those_of_an_extraction(features: FrozenFeatures, network: str, tmp_path: Path) -> None:
    dataset = ImageDataset("x", ("a", "b"), {"all": Split(IMAGES, np.arange(12) % 2, np.arange(12))})
    backbone = load_backbone(network, layers=("early", "late"), image_size=12)
    cache = extract_features(dataset, backbone, pool="grid2", flip=True, engine="tensorflow", out=tmp_path / "x.h5")
    found = features.transform(IMAGES)
    assert found.dtype == np.float32
    assert found.shape == (12, 4 * 4 + 4 * 6)
    np.testing.assert_allclose(found, load_features(cache.info.path, "all").x, rtol=1e-5)


@pytest.mark.parametrize("kind", [list, lambda paths: np.array(list(map(str, paths))), lambda paths: np.array(paths)])
def test_paths(features: FrozenFeatures, kind: type, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path, *IMAGES)
    np.testing.assert_array_equal(
        features.transform(kind(paths)), features.transform(np.stack([read_image(path, 12, 12) for path in paths]))
    )


def test_images_that_are_not_square(tmp_path: Path) -> None:
    wide = IMAGES[:, 2:8]
    paths = save_pictures(tmp_path, *wide)
    found = {}
    for aspect in ("crop", "stretch", "pad"):
        features = FrozenFeatures("pixels", image_size=10, aspect=aspect)
        found[aspect] = features.transform(wide)
        np.testing.assert_array_equal(features.transform(paths), found[aspect])
    assert not np.array_equal(found["crop"], found["stretch"])
    np.testing.assert_array_equal(found["pad"].reshape(-1, 10, 10, 3)[:, 2:8], wide)
    with pytest.raises(UsageError, match="aspect wide: known: crop, stretch, pad"):
        FrozenFeatures("pixels", aspect="wide").fit(wide)


def test_pixels_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "keras", None)
    found = FrozenFeatures("pixels", image_size=10).transform(IMAGES)
    np.testing.assert_array_equal(found, IMAGES.reshape(12, -1))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "X holds no images"),
        ("one.png", r"X is <U7 of the shape \(\)"),
        (IMAGES[0], r"X is uint8 of the shape \(10, 10, 3\); expected paths .* or uint8 RGB images"),
        (IMAGES / 255, r"X is float64 of the shape \(12, 10, 10, 3\)"),
        (np.zeros((3, 4)), r"X is float64 of the shape \(3, 4\)"),
        (["absent.png"], "absent.png: no such file"),
    ],
)
def test_what_are_no_images(X: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FrozenFeatures("pixels").transform(X)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pool": "grid3"}, "^pool grid3: did you mean"),
        ({"resize": "area"}, "^resize area"),
        ({"engine": "auto"}, "engine auto: known: tensorflow"),
    ],
)
def test_options_are_checked_by_fit_and_transform(option: dict, message: str) -> None:
    features = FrozenFeatures("pixels", **option)
    with pytest.raises(UsageError, match=message):
        features.fit(IMAGES)
    with pytest.raises(UsageError, match=message):
        features.transform(IMAGES)


def test_fit_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "load_backbone", lambda *_, **__: pytest.fail("a network was loaded"))
    features = FrozenFeatures()
    assert features.fit(["absent.png"]) is features
    assert vars(features) == vars(FrozenFeatures())


def test_copies_share_the_network_and_no_pickle_holds_it(
    features: FrozenFeatures, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, loaded = features.transform(IMAGES), []
    real = transformer.load_backbone
    monkeypatch.setattr(transformer, "load_backbone", lambda *a, **k: loaded.append(k) or real(*a, **k))
    stored = pickle.dumps(features)
    assert len(stored) < 1000
    for copy in (clone(features), pickle.loads(stored)):
        assert copy is not features
        np.testing.assert_array_equal(copy.transform(IMAGES), expected)
    assert loaded == []
    assert features.set_params(layers=["late"]).transform(IMAGES).shape == (12, 24)
    assert features.set_params(layers="late").transform(IMAGES).shape == (12, 24)
    assert len(loaded) == 1


def test_a_network_that_was_saved_again_is_loaded_again(tmp_path: Path) -> None:
    path = save_tiny_network(tmp_path / "network.keras")
    features = FrozenFeatures(str(path), image_size=12)
    first = features.transform(IMAGES)
    path.write_bytes(save_tiny_network(tmp_path / "other.keras", size=12).read_bytes())
    os.utime(path, ns=(1, 1))
    assert transformer._load.cache_info().misses == 1
    features.transform(IMAGES)
    assert transformer._load.cache_info().misses == 2
    assert first.shape == (12, 6)


def test_every_image_has_the_same_vector_in_any_company(features: FrozenFeatures) -> None:
    whole = features.transform(IMAGES)
    np.testing.assert_allclose(features.transform(IMAGES[::-1])[::-1], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features.transform(IMAGES[4:5]), whole[4:5], rtol=1e-5, atol=1e-6)


def test_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    features, inside, most = FrozenFeatures("pixels", image_size=10), [], []
    real = transformer.Extractor.vectors

    def vectors(self: transformer.Extractor, images: np.ndarray) -> list[np.ndarray]:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.05)
        inside.pop()
        return real(self, images)

    monkeypatch.setattr(transformer.Extractor, "vectors", vectors)
    threads = [threading.Thread(target=features.transform, args=(IMAGES,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_names(features: FrozenFeatures) -> None:
    names = features.get_feature_names_out()
    assert names.tolist() == [f"early_{place}" for place in range(16)] + [f"late_{place}" for place in range(24)]
    table = features.set_output(transform="pandas").fit_transform(IMAGES)
    assert list(table.columns) == names.tolist()


def test_a_pipeline_of_image_files(tmp_path: Path) -> None:
    labels = np.arange(24) % 2
    pictures = np.random.default_rng(0).integers(0, 200, (24, 10, 10, 3), np.uint8)
    pictures[labels == 1, :5] += np.uint8(55)
    pipeline = make_pipeline(FrozenFeatures("pixels", image_size=8), StandardScaler(), LogisticRegression())
    scores = cross_val_score(pipeline, save_pictures(tmp_path, *pictures), labels, cv=3, error_score="raise")
    assert scores.mean() > 0.9


INDEPENDENT_OF_THE_INPUT = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
]
"""scikit-learn's other checks give a transformer tables of numbers, and leave one that takes none alone."""


@pytest.mark.parametrize("check", INDEPENDENT_OF_THE_INPUT)
def test_the_estimator_contract(check: str) -> None:
    getattr(estimator_checks, check)("FrozenFeatures", FrozenFeatures())


def test_all_other_checks_are_of_tables() -> None:
    with pytest.warns(estimator_checks.SkipTestWarning, match="requires input"):
        estimator_checks.check_estimator(FrozenFeatures())
