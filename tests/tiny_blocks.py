"""Caches that are read in several blocks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_data import CLASSES, FACTS, content_of, make_dataset, make_spec, write_tiny_cache

from classify.large import blocks
from featurize.cache import Columns, Features, open_writer
from featurize.images import ImageDataset, Split


def set_block_rows(monkeypatch: pytest.MonkeyPatch, rows: int, dim: int = 16) -> None:
    """Make blocks so small that each holds `rows` rows."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * dim * rows)


def make_cache(path: Path, classes: int = 3, train: int = 120, lopsided: bool = False) -> Path:
    """A tiny cache of one to three classes; if lopsided, the first class has at least three quarters of the rows."""
    plain = make_dataset(train)
    splits = {}
    for name, split in plain.splits.items():
        labels = np.arange(len(split)) % classes
        if lopsided:
            labels = np.where(np.arange(len(split)) % 4, 0, np.arange(len(split)) // 4 % classes)
        splits[name] = Split(split.images, labels, split.ids)
    return write_tiny_cache(path, dataset=ImageDataset("tiny", CLASSES[:classes], splits))


def make_wide_cache(path: Path, rows: int, dim: int) -> Path:
    """A cache of longer vectors: noise but for the first number, which tells the classes apart; one class is larger."""
    plain = make_dataset(rows, rows)
    labels = np.where(np.arange(rows) % 2, 0, np.arange(rows) // 2 % len(CLASSES))
    splits = {name: dataclasses.replace(split, labels=labels) for name, split in plain.splits.items()}
    dataset = dataclasses.replace(plain, splits=splits)
    spec, layers = make_spec(dataset, layers=("wide",)), (Columns("wide", 0, (dim,)),)
    with open_writer(path, spec, content_of(dataset, layers)) as writer:
        for name, split in dataset.splits.items():
            x = np.random.default_rng(len(name)).normal(size=(rows, dim)).astype(np.float32)
            x[:, 0] += split.labels
            writer.shards.add(name, 0, x)
        writer.commit(**FACTS)
    return path


def check_same_features(ours: Features, expected: Features) -> None:
    for field in dataclasses.fields(Features):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(expected, field.name), err_msg=field.name)


FEW_TREES = {"stackingclassifier__final_estimator__temperaturecalibrated__estimator__n_estimators": 40}
