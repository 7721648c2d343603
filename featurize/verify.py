"""Check that a finished cache is intact, and that its images still give the same vectors."""

from pathlib import Path

import numpy as np

from featurize.cache import CacheInfo, load_features, read_info
from featurize.core.errors import BackboneError, CacheError
from featurize.extraction.certificate import calibration_images
from featurize.extraction.extractor import Extractor, recorded_backbone, recorded_extractor
from featurize.images import Split, recorded_dataset

TOLERANCE = {"float32": 1e-4, "float16": 2e-3}  # relative: the last bits depend on the batch size
MOST_REPORTED = 10  # wrong labels or ids of a split


def verify(path: Path, recompute: int = 0, seed: int = 0) -> list[str]:
    """The problems of a cache; an empty list for a good one.

    Checks the seal, that every number is finite, the labels and the ids. With `recompute`, also checks that
    the images and labels at the source are still those of the cache, and that random rows give the same
    vectors again.

    Args:
        path: of the cache.
        recompute: number of rows of each split to compute again.
        seed: for the choice of these rows.

    Raises:
        FrozenbenchError: the images or the backbone cannot be loaded from their sources.
    """
    try:
        info = read_info(path)
        splits = {name: load_features(path, name) for name in info.rows}
    except CacheError as error:
        return [str(error)]
    problems = []
    for name, features in splits.items():
        if len(np.unique(features.ids)) < len(features.ids):
            problems.append(f"{path}: /{name}/ids holds an id twice")
    if recompute:
        problems += _recompute(info, recompute, seed)
    return problems


def _recompute(info: CacheInfo, count: int, seed: int) -> list[str]:
    """Compare the cache with its sources."""
    all_rows = {name: rows + len(info.skipped[name]) for name, rows in info.rows.items()}
    dataset = recorded_dataset(info.source).first(**all_rows)
    problems = [
        f"{info.path}: the {name} images, labels or ids at {info.source['data']} are no longer those of the cache"
        for name, digest in info.digests.items()
        if dataset.splits[name].digest != digest
    ]
    try:
        backbone = recorded_backbone(info.spec, info.source)
    except BackboneError as problem:
        return [*problems, f"{info.path}: {problem}"]
    calibration = calibration_images(dataset, info.spec) if info.spec.calibration else None
    extractor = recorded_extractor(backbone, info.spec, calibration=calibration)
    random = np.random.default_rng(seed)
    for name, split in dataset.splits.items():
        problems += _compare_rows(info, name, split, extractor, count, random)
    return problems


def _compare_rows(
    info: CacheInfo, name: str, split: Split, extractor: Extractor, count: int, random: np.random.Generator
) -> list[str]:
    """Compute random rows of a split again, and compare all its labels and ids."""
    features = load_features(info.path, name)
    split = split[np.isin(split.ids, features.ids)]  # without the skipped images
    if len(split) != len(features.ids):
        return [f"{info.path}: {len(features.ids) - len(split):,} of the {name} images are gone"]
    problems = []
    rows = np.sort(random.choice(len(split), min(count, len(split)), replace=False))
    images, _ = extractor.read(split.images[rows])
    again = np.concatenate(extractor.vectors(images), axis=1).astype(np.float32)
    error = np.linalg.norm(again - features.x[rows], axis=1)
    allowed = TOLERANCE[info.spec.dtype] * np.maximum(np.linalg.norm(again, axis=1), 1e-30)
    for row in rows[error > allowed]:
        problems.append(f"{info.path}: the {name} image {split.ids[row]} now gives a different vector")
    differing = np.flatnonzero((features.y != split.labels) | (features.ids != split.ids))
    for row in differing[:MOST_REPORTED]:
        problems.append(f"{info.path}: the label or id of {name} image {split.ids[row]} differs")
    return problems
