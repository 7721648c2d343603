import dataclasses
from pathlib import Path

import pytest
from tiny_data import write_tiny_cache

from classify.training.job import Job, repeats
from featurize.cache import CacheInfo, read_info
from featurize.cache.spec import ExtractionSpec
from featurize.core.errors import UsageError


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"draw": 1},
        {"class_weight": "balanced"},
        {"rows": 60},
        {"trials": 2},
        {"layers": ("late",)},
        {"model": "knn"},
    ],
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


def test_repeats_are_draws_with_two_seeds_each(job: Job) -> None:
    """The first run of a draw is the one of a learning curve."""
    found = repeats(job, 3)
    assert [each.rows for each in found] == [60] * 6
    assert [each.seed_of_rows for each in found] == [0, 0, 1, 1, 2, 2]
    assert len({each.seed for each in found}) == len({each.name for each in found}) == 6
    assert found[2] == dataclasses.replace(job, rows=60, seed=1)
    small = dataclasses.replace(job, rows=30, seed=4)
    assert [each.seed_of_rows for each in repeats(small, 3)] == [4, 4, 5, 5, 6, 6]
    assert {each.rows for each in repeats(small, 3)} == {30}
    assert {each.name for each in repeats(job, 3)} < {each.name for each in repeats(job, 5)}


def test_all_images_cannot_be_drawn_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match=r"draws of 120 of 120 training images are all alike; use a smaller train_size"
    ):
        repeats(dataclasses.replace(job, rows=120), 3)
    monkeypatch.setattr(CacheInfo, "folds", 5)
    with pytest.raises(UsageError, match="is for cross-validation"):
        repeats(job, 3)
