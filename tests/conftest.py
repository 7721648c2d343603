"""Fixtures for all tests: an empty data folder, a tiny cache, tiny CIFAR-10 files, a tiny network."""

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_batch, write_tiny_cache
from tiny_networks import save_tiny_network

from featurize.engines import ENGINES, REFERENCE


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own, empty data folder."""
    folder = tmp_path / "frozenbench-data"
    monkeypatch.setenv("FROZENBENCH_DATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def reference_engine_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that are not about engines run on TensorFlow only, whichever engine is fastest here."""
    if request.node.get_closest_marker("engines") is None:
        for name in set(ENGINES) - {REFERENCE}:
            monkeypatch.delitem(ENGINES, name)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real CIFAR-10 images and pretrained networks, which are too large to ship with the project."""
    folder = os.environ.get("FROZENBENCH_SHARED")
    if not folder:
        pytest.skip("FROZENBENCH_SHARED does not name the folder of real images and networks")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m shared` runs exactly the tests that need the real images and networks."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny network; tests only read it."""
    return save_tiny_network(tmp_path_factory.mktemp("network") / "tinynet.keras")


@pytest.fixture
def one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads fit their temperature on one fold, as on many rows. Five folds take the stack a minute."""
    monkeypatch.setattr("classify.heads.calibration.ROWS_FOR_ONE_FOLD", 0)


@pytest.fixture
def cache(data_folder: Path) -> Path:
    """A finished feature cache of 120 + 60 vectors of 16 numbers, three classes."""
    return write_tiny_cache(data_folder / "features" / "tiny-net.h5")


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    """A folder with two small CIFAR-10 training batches and a test batch."""
    random = np.random.default_rng(7)
    for name, count in (("data_batch_1", 20), ("data_batch_3", 10), ("test_batch", 10)):
        images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        write_batch(tmp_path / "cifar" / "cifar-10-batches-bin" / f"{name}.bin", images, np.arange(count) % 10)
    return tmp_path / "cifar"
