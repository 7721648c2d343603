from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_audits import PLANTED, planted_cache, save_cache
from tiny_data import make_dataset, make_vectors

from analysis.audit import noise
from analysis.audit.suspects import find_suspects, rows_of, scored
from classify.heads.lda import FOLDS
from featurize.cache import Columns, read_info
from featurize.core.errors import DataError


def test_planted_errors_are_found_in_both_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = read_info(planted_cache(tmp_path / "planted.h5"))
    rows = rows_of(info)
    found = find_suspects(scored(info, rows, 2).scores, rows.labels)
    number = np.concatenate([np.arange(600), np.arange(300)])
    planted = number < PLANTED
    listed = np.zeros(len(rows), bool)
    listed[found.rows] = True
    assert (listed & planted).sum() >= 0.9 * planted.sum()
    assert (listed & planted).sum() >= 0.9 * listed.sum()
    assert found.estimated_precision is None  # for 900 images
    monkeypatch.setattr(noise, "IMAGES_TO_ESTIMATE", 900)
    assert found.estimated_precision == pytest.approx(planted[listed].mean(), abs=0.1)
    assert (found.suggested == number % 3)[planted].mean() > 0.9
    assert (found.margin[planted] > 0).mean() > 0.9
    assert {(pair.label, pair.true) for pair in found.pairs[:3]} == {(0, 2), (1, 0), (2, 1)}
    assert all(pair.low < 0.067 < pair.high for pair in found.pairs[:3])


def test_the_heads_of_the_test_split_never_see_it(tmp_path: Path) -> None:
    """Other vectors and labels of the test split leave the scores of the training split as they are."""
    dataset = make_dataset(120, 60)
    vectors = {name: make_vectors(split) for name, split in dataset.splits.items()}
    changed = {**vectors, "test": -7 * vectors["test"]}
    scores = []
    for name, content in (("one", vectors), ("other", changed)):
        info = read_info(save_cache(tmp_path / f"{name}.h5", dataset, content))
        scores.append(scored(info, rows_of(info), 2).scores)
    np.testing.assert_array_equal(scores[0][:120], scores[1][:120])
    assert (scores[0][120:] != scores[1][120:]).all()


def test_no_head_sees_the_label_that_it_judges(tmp_path: Path) -> None:
    """Of labels without meaning, heads that had seen them would find most again."""
    dataset = make_dataset(120, 60)
    random = np.random.default_rng(0)
    layers = (Columns("wide", 0, (100,)),)
    vectors = {name: random.normal(size=(len(split), 100)).astype(np.float32) for name, split in dataset.splits.items()}
    info = read_info(save_cache(tmp_path / "noise.h5", dataset, vectors, layers))
    rows = rows_of(info)
    assert (rows.folds[rows.splits == "test"] == FOLDS).all()
    assert set(rows.folds[rows.splits == "train"]) == set(range(FOLDS))
    assert (scored(info, rows, 1).scores.argmax(axis=1) == rows.labels).mean() < 0.5


def test_fewer_rows_than_columns(tmp_path: Path) -> None:
    dataset = make_dataset(24, 300)
    layers = (Columns("wide", 0, (40,)),)
    vectors = {}
    for number, (name, split) in enumerate(dataset.splits.items()):
        noise = np.random.default_rng(number).normal(size=(len(split), 40))
        vectors[name] = (noise + 8 * np.eye(3, 40)[split.labels]).astype(np.float32)
    info = read_info(save_cache(tmp_path / "wide.h5", dataset, vectors, layers))
    rows = rows_of(info)
    assert (scored(info, rows, 1).scores.argmax(axis=1) == rows.labels).mean() > 0.7


def test_too_few_images(tmp_path: Path) -> None:
    info = read_info(planted_cache(tmp_path / "few.h5", train=15, wrong=1))
    with pytest.raises(DataError, match="holds 15 training images of 3 classes; an audit needs 20"):
        rows_of(info)


def test_groups_stay_in_one_fold(tmp_path: Path) -> None:
    dataset = make_dataset(60, 30)
    splits = {name: replace(split, groups=np.arange(len(split)) // 6) for name, split in dataset.splits.items()}
    vectors = {name: make_vectors(split) for name, split in splits.items()}
    rows = rows_of(read_info(save_cache(tmp_path / "grouped.h5", replace(dataset, splits=splits), vectors)))
    folds = rows.folds[rows.splits == "train"].reshape(10, 6)
    assert (folds == folds[:, :1]).all()
    assert len(np.unique(folds)) == FOLDS
