"""Feature caches with planted errors."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_data import FACTS, LAYERS, content_of, make_dataset, make_spec, make_vectors

from featurize.cache import Columns, SplitRecords, open_writer
from featurize.images import ImageDataset

PLANTED = 30  # wrong labels in each split


def save_cache(
    path: Path,
    dataset: ImageDataset,
    vectors: Mapping[str, np.ndarray],
    layers: tuple[Columns, ...] = LAYERS,
    source: Mapping[str, Any] | None = None,
    paths: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a cache of these vectors, float32 (n, d) by split; returns its path."""
    records = {}
    for name, split in dataset.splits.items():
        own = None if paths is None else paths[name]
        records[name] = SplitRecords(split.labels, split.ids, split.digest, own, split.groups)
    spec = make_spec(dataset, layers=tuple(layer.name for layer in layers))
    with open_writer(path, spec, replace(content_of(dataset, layers), splits=records)) as writer:
        for name, rows in vectors.items():
            for start, stop in writer.missing(name):
                writer.shards.add(name, start, rows[start:stop])
        writer.commit(**{**FACTS, "source": dict(source or {})})
    return path


def planted_cache(path: Path, train: int = 600, wrong: int = PLANTED) -> Path:
    """A cache whose first training and test images carry the label of the next class."""
    dataset = make_dataset(train, 300)
    vectors, splits = {}, {}
    for number, (name, split) in enumerate(dataset.splits.items()):
        vectors[name] = make_vectors(split, noise=0.5, seed=number)
        labels = split.labels.copy()
        labels[:wrong] = (labels[:wrong] + 1) % 3
        splits[name] = replace(split, labels=labels)
    return save_cache(path, replace(dataset, splits=splits), vectors)
