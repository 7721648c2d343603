"""Cross-validation: from a folder of few images to a run in which each of them was tested once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify.runs import results
from classify.runs.predictions import read_predictions
from classify.runs.results import RunResult
from classify.training import folds
from classify.training.evaluate import fit_head
from classify.training.folds import all_rows, cross_validate
from classify.training.job import Job
from classify.training.train import train_heads
from featurize.cache import CacheInfo
from featurize.core.errors import HeadError, UsageError
from featurize.extraction import extract_features
from featurize.images import load_dataset
from featurize.networks import load_backbone
from featurize.verify import verify

COLOURS = {"blue": 2, "green": 1, "red": 0}
PICTURES = 7  # a class


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven noisy pictures of each of three colours; one cannot be read."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    random = np.random.default_rng(0)
    for name, channel in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(PICTURES):
            pixels = random.integers(0, 150, (6, 8, 3), np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(folder / name / f"{name}-{number // 2}-{number}.png")
    broken = folder / "red" / "red-0-0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return folder


def cache_of(photos: Path, out: Path, **options: object) -> CacheInfo:
    dataset = load_dataset(photos, **options)  # type: ignore[arg-type]
    return extract_features(dataset, load_backbone("pixels", image_size=4), out=out / "photos-pixels.h5").info


@pytest.fixture
def info(photos: Path, tmp_path: Path) -> CacheInfo:
    return cache_of(photos, tmp_path, folds=4)


def one_run(job: Job, runs: Path) -> tuple[Path, RunResult]:
    [(run_dir, result)] = train_heads([job], runs)[0].items()
    return run_dir, result


def test_every_image_is_tested_once(info: CacheInfo, tmp_path: Path) -> None:
    run_dir, result = one_run(Job("logreg", info), tmp_path)
    table = read_predictions(run_dir)
    assert result.test_rows == len(table) == 3 * PICTURES - 1
    assert (result.folds, result.groups, result.train_rows) == (4, 0, 15)
    assert table["id"].is_unique
    assert table["id"].is_monotonic_increasing
    assert sorted(set(table["fold"])) == [0, 1, 2, 3]
    assert [Path(path).parent.name for path in table["path"]] == [info.class_names[k] for k in table["label"]]
    assert result.accuracy == (table["label"] == table["predicted"]).mean()
    assert result.test_digest == results.tested_digest(info.digests, 4) != info.digests["test"]


def test_no_image_is_tested_by_a_head_that_saw_it(info: CacheInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = Job("logreg", info), []

    def recorded(name: str, train: object, **settings: object) -> object:
        seen.append(set(train.ids))  # type: ignore[attr-defined]
        return fit_head(name, train, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(folds, "fit_and_hold_out", recorded)
    crossed = cross_validate(job)
    everything = set(crossed.rows.ids)
    assert [len(rows) for rows in seen] == [14, 15, 16, 15, 20]
    held_out = [everything - rows for rows in seen]
    assert set.union(*held_out) == everything
    assert sum(map(len, held_out)) == len(everything)
    for fold, ids in enumerate(held_out[:4]):
        assert ids == set(crossed.rows.ids[crossed.rows.folds == fold])
        head = fit_head("logreg", crossed.rows.select(crossed.rows.folds != fold), jobs=1)
        rows = crossed.rows.folds == fold
        np.testing.assert_allclose(
            head.head.predict_proba(crossed.rows.x[rows]), crossed.evaluation.probabilities[rows], rtol=1e-5
        )


def test_the_saved_head_has_seen_everything_and_intervals_are_wider(info: CacheInfo, photos: Path) -> None:
    crossed = cross_validate(Job("logreg", info))
    whole = fit_head("logreg", all_rows(Job("logreg", info)))
    np.testing.assert_array_equal(
        crossed.fitted.head.predict_proba(crossed.rows.x), whole.head.predict_proba(crossed.rows.x)
    )
    from classify.statistics import metrics

    measured = crossed.evaluation.metrics
    plain = metrics(crossed.rows.y, crossed.evaluation.predicted, crossed.evaluation.probabilities, info.class_names)
    assert measured.accuracy == plain.accuracy
    assert measured.accuracy_high - measured.accuracy_low > 1.1 * (plain.accuracy_high - plain.accuracy_low)


def test_fewer_training_images(info: CacheInfo, tmp_path: Path) -> None:
    assert one_run(Job("logreg", info, rows=6), tmp_path)[1].train_rows == 6
    with pytest.raises(UsageError, match="train_size 15: 4 folds of .* leave 14 training images"):
        cross_validate(Job("logreg", info, rows=15))


def test_a_time_limit_holds_for_all_folds_together(info: CacheInfo, tmp_path: Path) -> None:
    results, left_out = train_heads([Job("logreg", info)], tmp_path, time_limit=0.01)
    assert not results
    assert "0.01" in left_out[0]


def test_what_folds_do_not_allow(info: CacheInfo, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tune: .*leave out tune, or make a cache without folds"):
        cross_validate(Job("logreg", info, trials=3))
    with pytest.raises(HeadError, match="a cross-validation needs all rows in memory"):
        cross_validate(Job("logreg", info, memory=10))


def test_groups_in_a_run(photos: Path, tmp_path: Path) -> None:
    plain = one_run(Job("logreg", cache_of(photos, tmp_path / "plain")), tmp_path)[1]
    run_dir, result = one_run(Job("logreg", cache_of(photos, tmp_path / "g", groups="[a-z]+-[0-9]+")), tmp_path)
    table = read_predictions(run_dir)
    assert plain.groups == 0
    assert result.groups == table["group"].nunique() == 3
    of_group = table["path"].str.extract("([a-z]+-[0-9]+)-")[0]
    assert len(set(zip(of_group, table["group"], strict=True))) == 3


def test_a_cache_with_folds_is_verified_like_any_other(info: CacheInfo) -> None:
    assert verify(info.path, recompute=5) == []
