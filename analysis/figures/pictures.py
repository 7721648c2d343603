"""The images and vectors behind the figures: mistakes, a map of the vectors, nearest neighbours.

Runs contain neither images nor vectors. Both are read from where they were when the run was made, if they
still exist and have not changed.
"""

import functools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from classify.runs import RunResult, tested_digest
from featurize.cache import Features, load_features, read_info
from featurize.core.errors import DataError, FrozenbenchError
from featurize.core.files import data_root
from featurize.images import ImageDataset, Split, recorded_dataset

MAP_ROWS = 1500
COMPONENTS = 50
PERPLEXITY = 30
SHOWN_SIZE = 96
SIZED = 200  # image files whose size is read


def test_images(result: RunResult, ids: np.ndarray) -> np.ndarray:
    """Test images of a run by their ids (n,), as uint8 RGB (n, height, width, 3).

    Image files are shown as the network saw them, at most `SHOWN_SIZE` pixels wide.

    Raises:
        DataError: the images are gone, or are not those that the run was tested on.
    """
    splits = {"test": _split(result, "test", result.test_rows)}
    if result.folds:  # every image was tested
        splits["train"] = _split(result, "train", result.test_rows)
    with _readable(result):
        digest = tested_digest({name: split.digest for name, split in splits.items()}, result.folds)
        _check_digest(result, "test", digest, result.test_digest)
    return chosen_images(result, list(splits.values()), ids)


def training_images(result: RunResult, ids: np.ndarray) -> np.ndarray:
    """Images in the training split of a run's feature cache, as `test_images`.

    Raises:
        DataError: the images or the cache are gone, or are not those of the run.
    """
    return chosen_images(result, [training_split(result)], ids)


def training_split(result: RunResult) -> Split:
    """The training split of a run's feature cache.

    Raises:
        DataError: the images or the cache are gone, or are not those of the run.
    """
    try:
        info = read_info(Path(result.cache))
    except (FrozenbenchError, OSError) as error:
        raise DataError(str(error)) from error
    _check_cache(result, info.spec.fingerprint)
    images = _split(result, "train", info.rows["train"])
    with _readable(result):
        _check_digest(result, "train", images.digest, info.digests["train"])
    return images


def chosen_images(result: RunResult, splits: Sequence[Split], ids: np.ndarray) -> np.ndarray:
    """Images of one or several splits by their ids (n,), as uint8 RGB (n, height, width, 3).

    Raises:
        DataError: they are gone, or have changed.
    """
    all_ids = np.concatenate([split.ids for split in splits])
    order = np.argsort(all_ids, kind="stable")
    rows = order[np.searchsorted(all_ids, ids, sorter=order).clip(max=len(all_ids) - 1)]
    unknown = np.flatnonzero(all_ids[rows] != ids)
    if len(unknown):
        raise DataError(f"the images at {result.source['data']} have no id {ids[unknown[0]]}")
    pixels = []
    places = []
    first = 0
    for split in splits:
        own = np.flatnonzero((rows >= first) & (rows < first + len(split)))
        with _readable(result):
            pixels.append(_pixels(result, split[rows[own] - first]))
        places.append(own)
        first += len(split)
    return np.concatenate(pixels)[np.argsort(np.concatenate(places))]


def features(result: RunResult, split: str) -> Features:
    """The vectors of the split `train` (all of them, even if the run used fewer) or `test`, of the run's layers.

    Raises:
        DataError: the cache is gone, is damaged, or has another fingerprint.
    """
    try:
        found = load_features(Path(result.cache), split, result.layers)
    except (FrozenbenchError, OSError) as error:
        raise DataError(str(error)) from error
    _check_cache(result, found.fingerprint)
    return found


def image_sizes(result: RunResult) -> str:
    """Width and height of the test images in pixels; of files, from the smallest to the largest of the first ones.

    Raises:
        DataError: the images are gone, or are not those that the run was tested on.
    """
    from PIL import Image

    split = _split(result, "test", result.test_rows)
    if split.images.shape is not None:
        height, width = split.images.shape
        return f"{width:,} x {height:,} pixels"
    sizes = []
    with _readable(result):
        for path in [] if split.images.paths is None else split.images.paths[:SIZED]:
            try:
                with Image.open(f"{split.images.root}/{os.fsdecode(path)}") as image:
                    sizes.append(image.size)
            except (OSError, ValueError):  # skipped by the extraction too
                continue
    if not sizes:
        raise DataError(f"no image at {result.source['data']} can be read")
    (low_width, high_width), (low_height, high_height) = ((min(each), max(each)) for each in zip(*sizes, strict=True))
    return f"{low_width:,} to {high_width:,} wide, {low_height:,} to {high_height:,} high ({len(sizes):,} test images)"


def most_confident_mistakes(predictions: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n wrong predictions with the highest probability, the most confident first.

    Returns:
        `id`, `label`, `predicted`, `path` (of image files) and `confidence`: the largest of the row's
        probabilities, 0..1.
    """
    confidence = predictions.filter(regex="^p_").max(axis=1)
    columns = [name for name in ("id", "label", "predicted", "path") if name in predictions]
    table = predictions[columns].assign(confidence=confidence)
    wrong = table[table["label"] != table["predicted"]]
    return wrong.sort_values(["confidence", "id"], ascending=[False, True], ignore_index=True).head(n)


def map_rows(count: int, seed: int = 0) -> np.ndarray:
    """At most `MAP_ROWS` of `count` rows, drawn at random and sorted; `embedding` takes half a minute for them."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:MAP_ROWS])


def embedding(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Vectors (n, d) in two dimensions, float (n, 2), so that neighbours stay neighbours.

    Signed square roots, standardised, then 50 principal components, then t-SNE (van der Maaten and Hinton,
    Visualizing Data using t-SNE, JMLR 9, 2008). On one thread: several would add in another order each time.
    At least four vectors, see `map_rows`; the seed is for both steps.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        components = PCA(min(COMPONENTS, *x.shape), random_state=seed).fit_transform(
            StandardScaler(copy=False).fit_transform(_rooted(x))
        )
        perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)


def nearest(train_x: np.ndarray, test_x: np.ndarray, k: int) -> np.ndarray:
    """The k nearest training rows (q, k), nearest first, by the angle between standardised signed square roots.

    Args:
        train_x: float32 (n, d).
        test_x: float32 (q, d).
        k: the number of neighbours; at most n are found.
    """
    return NearestRows(train_x).find(test_x, k)


class NearestRows:
    """Training rows, prepared once for `nearest`."""

    def __init__(self, train_x: np.ndarray) -> None:
        from sklearn.preprocessing import StandardScaler

        rooted = _rooted(train_x)
        self.scaler = StandardScaler(copy=False).fit(rooted)
        self.train = _unit(self.scaler.transform(rooted))

    def find(self, test_x: np.ndarray, k: int) -> np.ndarray:
        """See `nearest`."""
        test = _unit(self.scaler.transform(_rooted(test_x)))
        found = [np.argsort(-(part @ self.train.T), axis=1, kind="stable")[:, :k] for part in _blocks(test)]
        return np.concatenate(found)


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of x, a hundred at a time: their similarities with all training rows are large."""
    for start in range(0, max(len(x), 1), 100):
        yield x[start : start + 100]


def _rooted(x: np.ndarray) -> np.ndarray:
    """Signed roots of vectors (n, d).

    Here and in the heads they are then standardised, so that the figures show the distances that the heads work with.
    """
    return np.copysign(np.sqrt(np.abs(x)), x)


def _unit(x: np.ndarray) -> np.ndarray:
    """Vectors (n, d) scaled to length one; zero vectors stay as they are."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _split(result: RunResult, name: str, rows: int) -> Split:
    """The images of a split that were extracted, among them those that were skipped.

    Args:
        result: of a run.
        name: of the split.
        rows: their number, if the run does not say it.
    """
    rows = result.source.get("images", {}).get(name, rows)
    return _dataset(json.dumps(result.source, sort_keys=True)).splits[name].first(rows)


@contextmanager
def _readable(result: RunResult) -> Iterator[None]:
    """Files that have gone since they were listed become a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"the images at {result.source['data']} cannot be read: {error}") from error


def _check_digest(result: RunResult, split: str, found: str, expected: str) -> None:
    if found != expected:
        raise DataError(
            f"the {split} images at {result.source['data']} have digest {found[:8]}, expected {expected[:8]}: they are "
            "not those of the run; restore those, or repeat the run: frozenbench featurize, then frozenbench classify"
        )


def _pixels(result: RunResult, split: Split) -> np.ndarray:
    """Images of one shape as they are, and image files as the network saw them."""
    if split.images.shape is not None:
        return np.asarray(split.images)
    size = min(SHOWN_SIZE, int(result.spec["image_size"]))
    pixels, problems = split.images.read(size, str(result.spec["resize"]), str(result.spec["aspect"]))
    for row, problem in problems.items():
        path = "" if split.images.paths is None else os.fsdecode(split.images.paths[row])
        raise DataError(f"{split.images.root}/{path}: {problem}")
    return pixels


@functools.lru_cache(1)
def _dataset(recorded: str) -> ImageDataset:
    """The images of a source, JSON as a run records it, read once for all figures; nothing is downloaded."""
    source = json.loads(recorded)
    if source.get("data") == "cifar10" and not any(data_root().glob("cifar-10-*")):
        raise DataError(f"CIFAR-10 is not in {data_root()}; frozenbench featurize downloads it")
    try:
        return recorded_dataset(source)
    except (FrozenbenchError, OSError) as error:
        raise DataError(str(error)) from error


def _check_cache(result: RunResult, fingerprint: str) -> None:
    if fingerprint != result.fingerprint:
        raise DataError(
            f"{result.cache} has fingerprint {fingerprint[:8]}, expected {result.fingerprint[:8]}: it is not the cache "
            f"of the run; repeat the run: frozenbench classify --features {result.cache}"
        )
