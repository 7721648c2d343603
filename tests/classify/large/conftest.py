"""A cluster of two workers with a thread each, for all tests of this folder."""

import functools
import os
from collections.abc import Iterator
from typing import Any

import pytest

from featurize.core.cluster import connected
from featurize.core.environment import library_versions

VERSIONS = functools.partial(library_versions, ("frozenbench", "numpy", "scikit-learn", "xgboost"))


@pytest.fixture(scope="session")
def shared_client() -> Iterator[Any]:
    pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 2)
        with connected("local:2", VERSIONS) as client:
            yield client


@pytest.fixture
def client(shared_client: Any) -> Any:
    """With both workers, whatever the test before did to them."""
    shared_client.wait_for_workers(2, timeout=60)
    return shared_client
