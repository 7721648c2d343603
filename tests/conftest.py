"""Tiny cached features, tiny images, and a data folder of the test's own."""

import os
from pathlib import Path

import numpy as np
import pytest

from featurize.cache import Columns, finish, new_cache
from featurize.datasets import CIFAR10_RECORD, ImageDataset, Split
from featurize.engine import ENGINES, REFERENCE
from featurize.spec import ExtractionSpec

FACTS = {"seconds": 1.0, "images_per_second": 180.0, "device": "CPU", "source": {}}
CLASSES = ("ant", "bee", "cow")
LAYERS = (Columns("early", 0, (10,)), Columns("late", 10, (1, 2, 3)))


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own, empty data folder."""
    folder = tmp_path / "frozenbench-data"
    monkeypatch.setenv("FROZENBENCH_DATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def reference_engine_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not about engines does not depend on which one is the fastest here."""
    if "engines" not in request.keywords:
        for name in set(ENGINES) - {REFERENCE}:
            monkeypatch.delitem(ENGINES, name)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real CIFAR-10 pixels and pretrained networks that are too large to come with the project."""
    folder = os.environ.get("FROZENBENCH_SHARED")
    if not folder:
        pytest.skip("FROZENBENCH_SHARED does not name the folder of real images and networks")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m shared` runs the tests that need the real images and networks, and only them."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


def make_dataset(train: int = 120, test: int = 60, size: int = 8, seed: int = 0, name: str = "tiny") -> ImageDataset:
    """Random images of three classes; ids do not start at zero."""
    random = np.random.default_rng(seed)
    splits = {}
    for split, count, start in (("train", train, 1000), ("test", test, 5000)):
        images = random.integers(0, 256, (count, size, size, 3), np.uint8)
        splits[split] = Split(images, np.arange(count) % len(CLASSES), start + np.arange(count))
    return ImageDataset(name, CLASSES, splits)


def make_spec(dataset: ImageDataset, **changes: object) -> ExtractionSpec:
    values = {
        "dataset_digest": dataset.digest,
        "backbone": "tinynet",
        "weights_digest": "ab" * 32,
        "layers": ("early", "late"),
        "pool": "avg",
        "image_size": 8,
        "resize": "bicubic",
        "aspect": "crop",
        "flip": False,
        "preprocess": "none",
        "dtype": "float32",
        "engine": "tensorflow",
        "engine_version": "0",
    }
    return ExtractionSpec(**{**values, **changes})  # type: ignore[arg-type]


def make_vectors(split: Split, noise: float = 1.3, seed: int = 0) -> np.ndarray:
    """Vectors (n, 16) that tell the three classes apart fairly well."""
    centres = np.random.default_rng(99).normal(size=(len(CLASSES), 16))
    spread = np.random.default_rng(seed).normal(size=(len(split), 16))
    return (centres[split.labels] + noise * spread).astype(np.float32)


def write_tiny_cache(path: Path, noise: float = 1.3, dataset: ImageDataset | None = None, **changes: object) -> Path:
    """A feature cache in the real format, without a network."""
    dataset = dataset or make_dataset()
    spec = make_spec(dataset, **changes)
    with new_cache(path, spec, dataset, LAYERS) as shards:
        for number, (name, split) in enumerate(dataset.splits.items()):
            for start, stop in shards.gaps(name):
                shards.add(name, start, make_vectors(split, noise, seed=number)[start:stop])
        finish(path, shards, spec, dataset, "imagenet", LAYERS, **FACTS)
    return path


@pytest.fixture
def cache(data_folder: Path) -> Path:
    """A finished feature cache of 120 + 60 vectors of 16 numbers, three classes."""
    return write_tiny_cache(data_folder / "features" / "tiny-net.h5")


def write_batch(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """CIFAR-10's binary records: a label byte, then the red, green and blue plane."""
    records = np.empty((len(labels), CIFAR10_RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(records.tobytes())


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    """A folder with two small CIFAR-10 training batches and a test batch."""
    random = np.random.default_rng(7)
    for name, count in (("data_batch_1", 20), ("data_batch_3", 10), ("test_batch", 10)):
        images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        write_batch(tmp_path / "cifar" / "cifar-10-batches-bin" / f"{name}.bin", images, np.arange(count) % 10)
    return tmp_path / "cifar"
