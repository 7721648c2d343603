"""Is a finished cache still what it says, and would the images give the same vectors again?"""

from pathlib import Path

import numpy as np

from featurize.cache import CacheInfo, load_features, read_info
from featurize.core.errors import BackboneError, CacheError
from featurize.extraction.extract import recorded_backbone, recorded_extractor
from featurize.images import load_dataset

TOLERANCE = {"float32": 1e-4, "float16": 2e-3}  # relative; engines leave the last bits to the batch size


def verify(path: Path, recompute: int = 0, seed: int = 0) -> list[str]:
    """What is wrong with a cache; nothing for a good one.

    Checks the seal, that every number is finite, labels and ids; with `recompute`, also that its
    images and labels are still the ones at their source, and that so many random rows of each split
    come out the same when they are computed again.

    Args:
        path: of the cache.
        recompute: rows of each split to compute again; 0 for none.
        seed: of their choice.

    Raises:
        FrozenbenchError: images or backbone can no longer be loaded from where they were.
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
    return problems + (_recomputed(info, recompute, seed) if recompute else [])


def _recomputed(info: CacheInfo, count: int, seed: int) -> list[str]:
    asked_for = {name: rows + len(info.skipped[name]) for name, rows in info.rows.items()}
    dataset = load_dataset(str(info.source["data"])).first(**asked_for)
    problems = [
        f"{info.path}: the {name} images, labels or ids at {info.source['data']} are no longer those of the cache"
        for name, digest in info.digests.items()
        if dataset.splits[name].digest != digest
    ]
    try:
        backbone = recorded_backbone(info.spec, info.source)
    except BackboneError as problem:
        return [*problems, f"{info.path}: {problem}"]
    extractor = recorded_extractor(backbone, info.spec)
    random = np.random.default_rng(seed)
    for name, split in dataset.splits.items():
        features = load_features(info.path, name)
        split = split[np.isin(split.ids, features.ids)]  # without what was skipped
        if len(split) != len(features.ids):
            problems.append(f"{info.path}: {len(features.ids) - len(split):,} of the {name} images are gone")
            continue
        rows = np.sort(random.choice(len(split), min(count, len(split)), replace=False))
        again = np.concatenate(extractor.vectors(split.images[rows]), axis=1).astype(np.float32)
        error = np.linalg.norm(again - features.x[rows], axis=1)
        wrong = error > TOLERANCE[info.spec.dtype] * np.maximum(np.linalg.norm(again, axis=1), 1e-30)
        problems += [
            f"{info.path}: the {name} vector of image {split.ids[row]} comes out otherwise" for row in rows[wrong]
        ]
        differing = np.flatnonzero((features.y != split.labels) | (features.ids != split.ids))
        problems += [f"{info.path}: label or id of {name} image {split.ids[row]} differs" for row in differing[:10]]
    return problems
