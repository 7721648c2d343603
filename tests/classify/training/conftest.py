"""A job on the tiny cache."""

from pathlib import Path

import pytest

from classify.training.job import Job
from featurize.cache import read_info


@pytest.fixture
def job(cache: Path) -> Job:
    return Job("logreg", read_info(cache))
