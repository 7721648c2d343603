import dataclasses
from pathlib import Path

import pytest
from tiny_data import write_tiny_cache

from classify.training.job import Job
from featurize.cache import read_info
from featurize.cache.spec import ExtractionSpec


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"class_weight": "balanced"}, {"rows": 60}, {"trials": 2}, {"layers": ("late",)}, {"model": "knn"}],
)
def test_whatever_changes_a_run_changes_its_name(job: Job, change: dict) -> None:
    assert dataclasses.replace(job, **change).name != job.name


def test_the_name_is_made_of_the_head_that_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLP is another one where the vectors of mirrored images are known."""
    infos = [read_info(write_tiny_cache(tmp_path / f"{flip}.h5", flip=flip)) for flip in (False, True)]
    monkeypatch.setattr(ExtractionSpec, "fingerprint", "f" * 64)
    assert len({Job("mlp", info).name for info in infos}) == 2
    assert len({Job("logreg", info).name for info in infos}) == 1


def test_threads_and_all_layers_by_name_are_the_same_run(job: Job) -> None:
    assert dataclasses.replace(job, threads=7, layers=("early", "late")).name == job.name
