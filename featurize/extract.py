"""The loop of stage 1: images -> resize -> engine -> pooling -> cache."""

import logging
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurize.backbone import Backbone
from featurize.cache import (
    CacheInfo,
    Columns,
    check_same,
    discard_leftovers,
    features_folder,
    finish,
    new_cache,
    read_info,
)
from featurize.datasets import ImageDataset, Split
from featurize.engine import Engine, default_batch_size, load_engine
from featurize.errors import BackboneError, CacheError, UsageError
from featurize.pooling import check_pool, mirrored, pooled
from featurize.resize import check_kernel, resized
from featurize.shards import SHARD_BYTES, SHARD_SECONDS, Shards
from featurize.spec import ExtractionSpec

logger = logging.getLogger("frozenbench")
Progress = Callable[[int, int], None]
"""Called with the number of images done and in all."""


@dataclass(frozen=True)
class Extraction:
    """A finished cache, whether it was there, and how many of its rows were."""

    info: CacheInfo
    reused: bool
    resumed_rows: int = 0


def extract_features(
    dataset: ImageDataset,
    backbone: Backbone,
    *,
    pool: str = "avg",
    resize: str = "bicubic",
    flip: bool = False,
    dtype: str = "float32",
    batch_size: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Extraction:
    """Run a frozen backbone over every image once and cache the vectors.

    Args:
        dataset: uint8 images and their labels.
        backbone: from `load_backbone`.
        pool: one of `pooling.POOLS`; `pixels` is always flattened.
        resize: one of `resize.KERNELS`.
        flip: average the vectors of each image and its mirror image.
        dtype: stored type, `float32` or `float16`.
        batch_size: images per forward pass; chosen by the image size when not given.
        out: the cache's path; by default a telling name in the data folder.
        overwrite: replace a cache that was made by other choices or cannot be read.
        progress: called after each batch.

    Raises:
        UsageError: an unknown option, or a map too small for the pooling.
        CacheMismatchError: `out` holds a cache made by other choices.
        CacheError: the cache cannot be written.
        BackboneError: a vector is not finite.
    """
    if backbone.model is None:
        pool = "flatten"
    check_pool(pool)
    check_kernel(resize)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"--dtype {dtype}: expected float32 or float16")
    engine, engine_name, engine_version = load_engine(backbone)
    spec = ExtractionSpec(
        dataset_digest=dataset.digest,
        backbone=backbone.name,
        weights_digest=backbone.weights_digest,
        layers=backbone.layers,
        pool=pool,
        image_size=backbone.image_size,
        resize=resize,
        flip=flip,
        preprocess=backbone.preprocess,
        dtype=dtype,
        engine=engine_name,
        engine_version=engine_version,
    )
    path = out or features_folder() / default_name(dataset, backbone, spec)
    if info := _reusable(path, spec, overwrite):
        discard_leftovers(path, spec)
        return Extraction(info, reused=True)

    def vectors(images: np.ndarray) -> list[np.ndarray]:
        return vectors_of(images, engine, pool, flip)

    batch = batch_size or default_batch_size(backbone.image_size)
    layers = _columns(backbone, vectors)
    with new_cache(path, spec, dataset, layers, overwrite=overwrite) as shards:
        if info := _reusable(path, spec, overwrite):  # made by the process that we waited for
            shards.clear()
            return Extraction(info, reused=True)
        total = sum(shards.rows.values())
        done = resumed = sum(shards.done.values())
        if resumed:
            logger.info("%s of %s rows were already there", f"{resumed:,}", f"{total:,}")
        began = time.perf_counter()
        for name, split in dataset.splits.items():
            with _stopped_between_batches() as stop_if_asked, _kept(shards, name) as keep:
                for start, images in _resized_ahead(split, shards.done[name], batch, backbone.image_size, resize):
                    with np.errstate(over="ignore"):  # too large for float16: found in the next line
                        parts = [part.astype(dtype, copy=False) for part in vectors(images)]
                    for layer, part in zip(backbone.layers, parts, strict=True):
                        _check_finite(part, layer, name, split.ids[start : start + len(part)])
                    keep(np.concatenate(parts, axis=1))
                    done += len(images)
                    progress(done, total)
                    stop_if_asked()
        try:
            backbone.check_frozen()
        except BackboneError:
            shards.clear()
            raise
        seconds = time.perf_counter() - began
        finish(
            path,
            shards,
            spec,
            dataset,
            backbone.weights,
            layers,
            seconds=seconds,
            images_per_second=(total - resumed) / seconds,
            device=_device(engine_name),
            source={"data": dataset.source, **backbone.source},
        )
    return Extraction(read_info(path), reused=False, resumed_rows=resumed)


def _reusable(path: Path, spec: ExtractionSpec, overwrite: bool) -> CacheInfo | None:
    """The cache at `path` if the specification made it; None where one is to be made."""
    if not path.exists():
        return None
    try:
        return check_same(path, spec)
    except CacheError:
        if overwrite:
            return None
        raise


@contextmanager
def _kept(shards: Shards, split: str) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what takes blocks of rows (m, d) and writes them every few seconds, and however it ends."""
    waiting: list[np.ndarray] = []
    since = time.monotonic()

    def write() -> None:
        nonlocal since
        if waiting:
            shards.write(split, np.concatenate(waiting))
            waiting.clear()
        since = time.monotonic()

    def keep(block: np.ndarray) -> None:
        waiting.append(block)
        if time.monotonic() - since >= SHARD_SECONDS or sum(each.nbytes for each in waiting) >= SHARD_BYTES:
            write()

    try:
        yield keep
    finally:
        write()


def vectors_of(images: np.ndarray, engine: Engine, pool: str, flip: bool) -> list[np.ndarray]:
    """uint8 images (n, size, size, 3) -> float32 vectors (n, d), one array per tapped layer.

    With `flip`, averaged over each image and its mirror image.
    """
    parts = [pooled(activation, pool) for activation in engine(images)]
    if flip:
        mirror = engine(np.ascontiguousarray(images[:, :, ::-1]))
        parts = [
            (part + pooled(mirrored(other), pool)) / np.float32(2) for part, other in zip(parts, mirror, strict=True)
        ]
    return parts


def default_name(dataset: ImageDataset, backbone: Backbone, spec: ExtractionSpec) -> str:
    """The file name that says what is inside: data, backbone, weights, size, layers and pooling."""
    parts = [dataset.name, backbone.name, backbone.weights, f"{spec.image_size}px"]
    if backbone.model is not None:
        parts += ["+".join(spec.layers), spec.pool]
    else:
        parts.remove(backbone.weights)
    if spec.resize != "bicubic":
        parts.append(spec.resize)
    if spec.flip:
        parts.append("flip")
    if spec.dtype != "float32":
        parts.append(spec.dtype)
    return "-".join(parts) + ".h5"


def _columns(backbone: Backbone, vectors: Callable[[np.ndarray], list[np.ndarray]]) -> list[Columns]:
    """Each layer's columns, from the vectors of one black image."""
    size = backbone.image_size
    columns, start = [], 0
    for layer, part in zip(backbone.layers, vectors(np.zeros((1, size, size, 3), np.uint8)), strict=True):
        columns.append(Columns(layer, start, start + part.shape[1]))
        start += part.shape[1]
    return columns


@contextmanager
def _stopped_between_batches() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the yielded function is called, so that no file is left half-way.

    A second Ctrl-C is not held back. In other threads than the main one nothing is changed.
    """
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop_if_asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)


def _resized_ahead(split: Split, first: int, batch: int, size: int, kernel: str) -> Iterator[tuple[int, np.ndarray]]:
    """Batches of resized images from row `first` on, each prepared while the one before it is in the network."""
    starts = range(first, len(split), batch)
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for start in starts:
            following = pool.submit(resized, split.images[start : start + batch], size, kernel)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = (start, following)
        if pending is not None:
            yield pending[0], pending[1].result()


def _check_finite(part: np.ndarray, layer: str, split: str, ids: np.ndarray) -> None:
    good = np.isfinite(part).all(axis=1)
    if not good.all():
        raise BackboneError(
            f"layer {layer} gave a value that is not finite as {part.dtype} for the {split} image "
            f"{ids[int(np.argmin(good))]}; check the weights and --preprocess, or store --dtype float32"
        )


def _device(engine: str) -> str:
    if engine == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name))
    return f"CPU {platform.machine()}"
