"""Fixtures for the tests of the analysis."""

from pathlib import Path

import pytest
from tiny_runs import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty folder of runs."""
    return World(tmp_path)
