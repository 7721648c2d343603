import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_data import make_dataset, save_npz, write_batch, write_tiny_cache
from tiny_pictures import picture_folder
from tiny_runs import make_result

from analysis.figures import pictures
from classify.runs import RunResult
from featurize.cache import load_features, read_info
from featurize.core.errors import DataError
from featurize.extraction import extract_features
from featurize.images import ImageDataset, load_dataset
from featurize.networks.backbone import load_backbone


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    yield
    pictures._dataset.cache_clear()


def write_images(path: Path, seed: int = 0) -> ImageDataset:
    return load_dataset(str(save_npz(path, make_dataset(seed=seed))))


def run_on(dataset: ImageDataset, cache: Path) -> RunResult:
    return make_result(
        source={"data": dataset.source},
        cache=str(cache),
        fingerprint=read_info(cache).spec.fingerprint,
        layers=["early", "late"],
        test_rows=len(dataset.splits["test"]),
        test_digest=dataset.splits["test"].digest,
    )


@pytest.fixture
def images(tmp_path: Path) -> ImageDataset:
    return write_images(tmp_path / "images.npz")


@pytest.fixture
def run(images: ImageDataset, tmp_path: Path) -> RunResult:
    """A run on the first 100 and 40 images of a file with 120 and 60."""
    part = images.first(train=100, test=40)
    return run_on(part, write_tiny_cache(tmp_path / "tiny.h5", dataset=part))


def test_images_come_by_their_ids(run: RunResult, images: ImageDataset) -> None:
    found = pictures.test_images(run, np.array([7, 0, 39]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images.splits["test"].images[[7, 0, 39]])
    np.testing.assert_array_equal(
        pictures.training_images(run, np.array([99, 3, 3])), images.splits["train"].images[[99, 3, 3]]
    )
    assert pictures.test_images(run, np.array([], int)).shape == (0, 8, 8, 3)


def test_ids_need_not_be_row_numbers() -> None:
    sample = load_dataset("sample").splits["test"]
    result = make_result(source={"data": "sample"}, test_rows=1000, test_digest=sample.digest)
    ids = sample.ids[[999, 5]]
    np.testing.assert_array_equal(pictures.test_images(result, ids), np.asarray(sample.images)[[999, 5]])


def test_images_in_recorded_files_are_read_too(cifar_folder: Path) -> None:
    test = load_dataset(str(cifar_folder)).splits["test"]
    result = make_result(source={"data": str(cifar_folder)}, test_rows=len(test), test_digest=test.digest)
    np.testing.assert_array_equal(pictures.test_images(result, np.array([8, 2])), np.asarray(test.images)[[8, 2]])


@pytest.mark.parametrize("unknown", [-1, 40, 10**9])
def test_an_unknown_id_is_named(run: RunResult, unknown: int) -> None:
    with pytest.raises(DataError, match=f"the images at .*images.npz have no id {unknown}$"):
        pictures.test_images(run, np.array([0, unknown]))


def test_other_images_are_refused(run: RunResult, tmp_path: Path) -> None:
    write_images(tmp_path / "images.npz", seed=1)
    with pytest.raises(DataError, match=f"the test images at .*, expected {run.test_digest[:8]}: they are not those"):
        pictures.test_images(run, np.array([0]))
    with pytest.raises(DataError, match=r"the train images at .* not those of the run; .*frozenbench featurize"):
        pictures.training_images(run, np.array([0]))


def test_images_that_are_gone_are_missed(run: RunResult, tmp_path: Path) -> None:
    (tmp_path / "images.npz").unlink()
    with pytest.raises(DataError, match=r"images\.npz: no such file"):
        pictures.test_images(run, np.array([0]))


def test_damaged_images_are_refused(run: RunResult, tmp_path: Path) -> None:
    (tmp_path / "images.npz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"images\.npz cannot be read"):
        pictures.test_images(run, np.array([0]))


def test_files_that_go_after_they_were_found_are_missed(tmp_path: Path, cifar_folder: Path) -> None:
    test = load_dataset(str(cifar_folder)).splits["test"]
    result = make_result(source={"data": str(cifar_folder)}, test_rows=len(test), test_digest=test.digest)
    pictures.test_images(result, np.array([0]))
    (cifar_folder / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(DataError, match="cannot be read: .*No such file"):
        pictures.test_images(result, np.array([0]))


def test_nothing_is_downloaded_for_a_figure(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setattr("featurize.images.cifar10.fetch", lambda *_: pytest.fail("a download was begun"))
    with pytest.raises(DataError, match=f"CIFAR-10 is not in {data_folder}; frozenbench featurize downloads it"):
        pictures.test_images(make_result(source={"data": "cifar10"}), np.array([0]))


def test_cifar10_in_the_data_folder_is_found(data_folder: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("data_batch_1", "test_batch"):
        write_batch(
            data_folder / "cifar-10-batches-bin" / f"{name}.bin",
            random.integers(0, 256, (10, 32, 32, 3), np.uint8),
            np.arange(10),
        )
    test = load_dataset("cifar10").splits["test"]
    result = make_result(source={"data": "cifar10"}, test_rows=10, test_digest=test.digest)
    assert pictures.test_images(result, np.arange(10)).shape == (10, 32, 32, 3)


@pytest.fixture
def folder_run(tmp_path: Path) -> RunResult:
    """A run on class folders, whose damaged files were left out; 20 training images were asked for."""
    dataset = load_dataset(str(picture_folder(tmp_path / "pets"))).first(train=20, test=None)
    info = extract_features(dataset, load_backbone("pixels", image_size=8)).info
    return make_result(
        source=info.source,
        spec=json.loads(info.spec.to_json()),
        cache=str(info.path),
        fingerprint=info.spec.fingerprint,
        layers=list(info.spec.layers),
        test_rows=info.rows["test"],
        test_digest=info.digests["test"],
    )


def test_images_of_class_folders_are_what_the_network_saw(folder_run: RunResult) -> None:
    for split, images_of in (("test", pictures.test_images), ("train", pictures.training_images)):
        found = pictures.features(folder_run, split)
        rows = np.array([len(found.ids) - 1, 0, 5])
        shown = images_of(folder_run, found.ids[rows])
        assert shown.dtype == np.uint8
        np.testing.assert_array_equal(shown.reshape(3, -1), found.x[rows])


def test_class_folders_that_have_changed(folder_run: RunResult, tmp_path: Path) -> None:
    ids = pictures.features(folder_run, "test").ids
    file = tmp_path / "pets" / "test" / "cats" / "001.png"
    pictures.test_images(folder_run, ids)  # the folder is looked through once
    file.write_bytes(b"changed meanwhile")
    with pytest.raises(DataError, match="cats/001.png: its content has changed since"):
        pictures.test_images(folder_run, ids)
    pictures._dataset.cache_clear()
    with pytest.raises(DataError, match="the test images at .* have digest .* they are not those of the run"):
        pictures.test_images(folder_run, ids)
    file.unlink()
    pictures._dataset.cache_clear()
    with pytest.raises(DataError, match="they are not those of the run"):
        pictures.test_images(folder_run, ids)


def test_features_are_those_of_the_run(run: RunResult) -> None:
    for split, rows in (("train", 100), ("test", 40)):
        whole = load_features(Path(run.cache), split)
        assert len(whole.y) == rows
        np.testing.assert_array_equal(pictures.features(run, split).x, whole.x)
        late = pictures.features(replace(run, layers=["late"]), split)
        np.testing.assert_array_equal(late.x, whole.x[:, 10:])


def test_another_cache_is_refused(run: RunResult, images: ImageDataset) -> None:
    Path(run.cache).unlink()
    write_tiny_cache(Path(run.cache), dataset=images.first(train=100, test=40), image_size=16)
    for read in (lambda: pictures.features(run, "test"), lambda: pictures.training_images(run, np.array([0]))):
        with pytest.raises(
            DataError, match=f"expected {run.fingerprint[:8]}: it is not the cache of the run; .*--feat"
        ):
            read()


def test_a_cache_that_is_gone_or_damaged_is_missed(run: RunResult) -> None:
    path = Path(run.cache)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"tiny\.h5 is damaged"):
        pictures.features(run, "test")
    path.unlink()
    with pytest.raises(DataError, match="no such feature cache"):
        pictures.features(run, "test")
    with pytest.raises(DataError, match="no such feature cache"):
        pictures.training_images(run, np.array([0]))
    assert len(pictures.test_images(run, np.array([0]))) == 1  # needs the images only


def test_most_confident_mistakes() -> None:
    predictions = pd.DataFrame(
        {
            "id": [9, 8, 7, 6, 5],
            "label": [0, 1, 0, 1, 0],
            "predicted": [0, 0, 1, 0, 1],
            "p_ant": [0.99, 0.8, 0.1, 0.9, 0.2],
            "p_bee": [0.01, 0.2, 0.9, 0.1, 0.8],
        }
    )
    found = pictures.most_confident_mistakes(predictions, 3)
    assert found.to_dict("list") == {
        "id": [6, 7, 5], "label": [1, 0, 0], "predicted": [0, 1, 1], "confidence": [0.9, 0.9, 0.8],
    }  # fmt: skip
    assert len(pictures.most_confident_mistakes(predictions, 10)) == 4
    assert pictures.most_confident_mistakes(predictions.iloc[:1], 10).empty


def test_the_map_shows_so_many_rows() -> None:
    assert pictures.map_rows(5).tolist() == [0, 1, 2, 3, 4]
    some = pictures.map_rows(10_000, seed=1)
    assert len(set(some.tolist())) == pictures.MAP_ROWS
    assert (np.diff(some) > 0).all()
    assert some[-1] > 9000
    assert not np.array_equal(some, pictures.map_rows(10_000, seed=2))


def test_the_embedding_keeps_near_what_is_near() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    x = (random.normal(0, 3, (3, 80))[labels] + random.normal(size=(120, 80))).astype(np.float32)
    points = pictures.embedding(x, seed=3)
    assert points.shape == (120, 2)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(120, np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(points, pictures.embedding(x, seed=3))


def test_few_short_vectors_have_a_map_too() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    points = pictures.embedding(x)
    assert points.shape == (5, 2)
    assert np.isfinite(points).all()


def test_nearest_goes_by_angle_not_length() -> None:
    train = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], np.float32)
    train = np.concatenate([train, 25 * train])  # standardised: the same directions, farther out
    found = pictures.nearest(train, np.array([[100.0, 100.0], [0.01, -0.01]], np.float32), k=2)
    assert found.tolist() == [[0, 4], [2, 6]]


def test_nearest_sees_what_the_heads_see() -> None:
    # The second column is a million times as large, and no more important.
    train = np.array([[1e-4, 1e4], [1e-2, 1e4], [1e-4, 1e2], [1e-2, 1e2]], np.float32)
    found = pictures.nearest(train, np.array([[1e-2, 8e3], [1e-4, 2e2]], np.float32), k=1)
    assert found.tolist() == [[1], [2]]
    # A long tail: without the roots, the origin would be nearer than the far one.
    train = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [100, 0]], np.float32)
    assert pictures.nearest(train, np.array([[4, 1]], np.float32), k=3).tolist() == [[3, 2, 4]]


def test_a_column_without_variation_says_nothing() -> None:
    train = np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 4.0]], np.float32)
    found = pictures.nearest(train, train[:1], k=9)
    assert found.tolist()[0][0] == 0
    assert found.shape == (1, 3)
    same = np.ones((3, 2), np.float32)
    assert pictures.nearest(same, same[:1], k=2).tolist() == [[0, 1]]
