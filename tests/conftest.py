"""Fixtures of all tests: a data folder of the test's own, a tiny cache, tiny CIFAR-10 files."""

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_batch, write_tiny_cache

from featurize.engines import ENGINES, REFERENCE


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
