"""The loop of stage 1: images -> resize -> engine -> pooling -> cache."""

import logging
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurize.cache import (
    SHARD_BYTES,
    SHARD_SECONDS,
    CacheInfo,
    Columns,
    ExtractionSpec,
    Shards,
    began_with,
    check_same,
    discard_leftovers,
    features_folder,
    finish,
    new_cache,
    read_info,
)
from featurize.core.errors import BackboneError, CacheError, DataError, UsageError
from featurize.engines import ENGINES, REFERENCE, Choice, choose_engine, default_batch_size, gpu
from featurize.images import ImageDataset, ImageFiles, Split, check_aspect, check_kernel, resized
from featurize.networks import Backbone, check_pool, load_backbone, mirrored, pooled

logger = logging.getLogger("frozenbench")
REREAD_ROWS = 64
Progress = Callable[[int, int], None]
"""Called with the number of images done and in all."""
Note = Callable[[int], None]
"""Called with the number of rows that have come to be done; it may raise KeyboardInterrupt."""


@dataclass(frozen=True)
class Extractor:
    """What turns images into vectors: a backbone, the engine that runs it, and every other choice."""

    backbone: Backbone
    engine: Choice
    spec: ExtractionSpec

    def vectors(self, images: Any) -> list[np.ndarray]:
        """uint8 images (n, h, w, 3) of any size, or files -> vectors (n, d) of the stored type, one array a layer."""
        with np.errstate(over="ignore"):  # what is too large for float16 is found when it is looked for
            return [each.reshape(len(each), -1).astype(self.spec.dtype, copy=False) for each in self.cells(images)]

    def cells(self, images: Any) -> list[np.ndarray]:
        """What the vectors are made of: float32 (n, rows, columns, c), or (n, c) where nothing is left of the place."""
        spec = self.spec
        images, _ = prepared(images, spec)
        parts = [pooled(activation, spec.pool) for activation in self.engine.run(images)]
        if spec.flip:
            mirror = self.engine.run(np.ascontiguousarray(images[:, :, ::-1]))
            parts = [
                (part + pooled(mirrored(other), spec.pool)) / np.float32(2)
                for part, other in zip(parts, mirror, strict=True)
            ]
        return parts


@dataclass(frozen=True)
class Plan(Extractor):
    """An extraction that is settled in every respect and not begun; made by `plan_extraction`."""

    dataset: ImageDataset
    path: Path
    batch_size: int


Compute = Callable[[Plan, Shards, Note], str]
"""Computes the rows that the shards lack, and says by what device."""


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take, by a probe: vector length, bytes and seconds."""

    dim: int
    file_bytes: int
    memory_bytes: int
    seconds: float


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
    aspect: str = "crop",
    flip: bool = False,
    engine: str = "auto",
    dtype: str = "float32",
    batch_size: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    compute: Compute | None = None,
    shards_at: Path | None = None,
) -> Extraction:
    """Run a frozen backbone over every image once and cache the vectors.

    Args:
        dataset: uint8 images and their labels.
        backbone: from `load_backbone`.
        pool: one of `pooling.POOLS`; `pixels` is always flattened.
        resize: one of `resize.KERNELS`.
        aspect: one of `resize.ASPECTS`, for images that are not square.
        flip: average the vectors of each image and its mirror image.
        engine: one of `engine.ENGINES`, or `auto` for the fastest that gives the same numbers here.
        dtype: stored type, `float32` or `float16`.
        batch_size: images per forward pass; chosen by the image size when not given.
        out: the cache's path; by default a telling name in the data folder.
        overwrite: replace a cache that was made by other choices or cannot be read.
        progress: called after each batch.
        compute: where the work is done: `spread.over("tcp://HOST:PORT")` for a cluster; by default here.
        shards_at: the folder for shards, which may be remote; beside the cache if not given.

    Raises:
        UsageError: an unknown option, or a map too small for the pooling.
        CacheMismatchError: `out` holds a cache made by other choices.
        CacheError: the cache cannot be written.
        BackboneError: a vector is not finite.
        DataError: no image of a split can be read.
    """
    plan = plan_extraction(
        dataset,
        backbone,
        pool=pool,
        resize=resize,
        aspect=aspect,
        flip=flip,
        engine=engine,
        dtype=dtype,
        batch_size=batch_size,
        out=out,
    )
    return carry_out(plan, overwrite=overwrite, progress=progress, compute=compute, shards_at=shards_at)


def plan_extraction(
    dataset: ImageDataset,
    backbone: Backbone,
    *,
    pool: str = "avg",
    resize: str = "bicubic",
    aspect: str = "crop",
    flip: bool = False,
    engine: str = "auto",
    dtype: str = "float32",
    batch_size: int | None = None,
    out: Path | None = None,
) -> Plan:
    """Settle an extraction without beginning it; the arguments are those of `extract_features`.

    What is there at its path, finished or not, settles the engine for `auto`: it stays the same.

    Raises:
        UsageError: an unknown option, or an engine that is not installed.
    """
    if backbone.model is None:
        pool = "flatten"
    check_pool(pool)
    check_kernel(resize)
    check_aspect(aspect)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"--dtype {dtype}: expected float32 or float16")
    spec = ExtractionSpec(
        dataset_digest=dataset.digest,
        backbone=backbone.name,
        weights_digest=backbone.weights_digest,
        layers=backbone.layers,
        pool=pool,
        image_size=backbone.image_size,
        resize=resize,
        aspect=aspect,
        flip=flip,
        preprocess=backbone.preprocess,
        dtype=dtype,
        engine="",
        engine_version="",
    )
    path = out or features_folder() / default_name(dataset, backbone, spec)
    batch_size = batch_size or default_batch_size(backbone.image_size)
    why = "as asked for"
    if engine == "auto" and (there := _engine_there(path, spec)):
        engine, why = there, "as it was begun"
    # Half a batch is enough to compare engines, whose memory is taken at the same time.
    images = next(iter(dataset.splits.values())).images[: -(-batch_size // 2)]
    choice = choose_engine(backbone, engine, prepared(images, spec)[0], why)
    spec = replace(spec, engine=choice.name, engine_version=choice.version)
    return Plan(backbone, choice, spec, dataset, path, batch_size)


def recorded_backbone(spec: ExtractionSpec, source: dict[str, Any]) -> Backbone:
    """The backbone that a cache was made with, loaded again.

    Args:
        spec: the cache's specification.
        source: where the cache says that its backbone was loaded from.

    Raises:
        BackboneError: the weights cannot be loaded, or are no longer those of the cache.
        UsageError: the backbone is no longer there.
    """
    try:
        name, weights, seed = str(source["backbone"]), str(source["weights"]), int(source["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"the record does not say where {spec.backbone} was loaded from ({error!r}); make the features again with "
            "python -m featurize"
        ) from error
    backbone = load_backbone(
        name, weights=weights, layers=spec.layers, image_size=spec.image_size, preprocess=spec.preprocess, seed=seed
    )
    if backbone.weights_digest != spec.weights_digest:
        raise BackboneError(
            f"the weights at {weights} of {name} are no longer those that made the features: they have the digest "
            f"{backbone.weights_digest}, expected {spec.weights_digest}; put the old ones back, or make the features "
            "again with python -m featurize"
        )
    return backbone


def recorded_extractor(backbone: Backbone, spec: ExtractionSpec, engine: str = "") -> Extractor:
    """The extractor that a cache was made with, or the same by another engine.

    Args:
        backbone: from `recorded_backbone`.
        spec: the cache's specification.
        engine: one of `engine.ENGINES`; the cache's own when not given.

    Raises:
        UsageError: the engine is not available.
    """
    no_images = np.empty((0, spec.image_size, spec.image_size, 3), np.uint8)  # only `auto` looks at them
    return Extractor(backbone, choose_engine(backbone, engine or spec.engine or REFERENCE, no_images), spec)


def _engine_there(path: Path, spec: ExtractionSpec) -> str:
    """The engine that made, or began to make, this very extraction; empty where none did."""
    there = began_with(path)
    if there is None or there.engine not in ENGINES:
        return ""
    same = replace(there, engine=spec.engine, engine_version=spec.engine_version) == spec
    return there.engine if same else ""


def estimate(plan: Plan) -> Estimate:
    """Time one batch of the data set's own images; nothing is written.

    The memory is the most that the process has taken by then: it does not grow with the images.
    """
    images = next(iter(plan.dataset.splits.values())).images[: plan.batch_size]
    plan.vectors(images)  # traces the graph
    began = time.perf_counter()
    parts = plan.vectors(images)
    seconds = time.perf_counter() - began
    count = sum(len(split) for split in plan.dataset.splits.values())
    return Estimate(
        dim=sum(part.shape[1] for part in parts),
        file_bytes=count * (sum(part[0].nbytes for part in parts) + 16),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        seconds=seconds * count / len(images),
    )


def carry_out(
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    compute: Compute | None = None,
    shards_at: Path | None = None,
) -> Extraction:
    """Make the cache, or take the one that is there, or go on with an unfinished one.

    The arguments are those of `extract_features`.

    Raises:
        CacheMismatchError: the path holds a cache made by other choices.
        CacheError: the cache cannot be written.
        ClusterError: the cluster cannot do the work.
        UsageError: the engine asked for does not know a layer.
        BackboneError: a vector is not finite, or the engine asked for does not give TensorFlow's numbers.
        DataError: no image of a split can be read.
    """
    path, spec, dataset = plan.path, plan.spec, plan.dataset
    if info := _reusable(path, spec, overwrite):
        discard_leftovers(path, spec)
        return Extraction(info, reused=True)
    layers = _columns(plan)
    with (
        new_cache(path, spec, dataset, layers, overwrite=overwrite, shards_at=shards_at) as shards,
        _interrupts_held_back() as stop_if_asked,
    ):
        if info := _reusable(path, spec, overwrite):  # made by the process that we waited for
            shards.clear()
            return Extraction(info, reused=True)
        total = sum(shards.rows.values())
        done = resumed = sum(shards.done.values())
        if resumed:
            logger.info("%s of %s rows were already there", f"{resumed:,}", f"{total:,}")

        def note(rows: int) -> None:
            nonlocal done
            done += rows
            if rows:
                progress(done, total)
            stop_if_asked()

        began = time.perf_counter()
        device = (compute or compute_here)(plan, shards, note)
        try:
            plan.backbone.check_frozen()
        except BackboneError:
            shards.clear()
            raise
        seconds = time.perf_counter() - began
        finish(
            path,
            shards,
            spec,
            dataset,
            plan.backbone.weights,
            layers,
            seconds=seconds,
            images_per_second=(total - resumed) / seconds,
            device=device,
            engine_choice=plan.engine.why,
            source={"data": dataset.source, **_images_of(dataset), **plan.backbone.source},
            skipped={name: _skipped(shards, name, split, spec) for name, split in dataset.splits.items()},
        )
    return Extraction(read_info(path), reused=False, resumed_rows=resumed)


def compute_here(plan: Plan, shards: Shards, note: Note) -> str:
    """Compute the rows that are missing, in this process; the arguments are those of `Compute`."""
    for name, split in plan.dataset.splits.items():
        for start, stop in shards.gaps(name):
            with _kept(shards, name, start) as keep:
                for block in vectors_of(plan, name, split[start:stop], plan.batch_size):
                    keep(block)
                    note(len(block))
    return device_of(plan.spec.engine)


def _reusable(path: Path, spec: ExtractionSpec, overwrite: bool) -> CacheInfo | None:
    """The cache at `path` if the specification made it; None where one is to be made."""
    if not path.exists():
        return None
    try:
        info = check_same(path, spec)
        return None if overwrite and info.shards else info  # whose shards are to be looked at, every one
    except CacheError:
        if overwrite:
            return None
        raise


@contextmanager
def _kept(shards: Shards, split: str, start: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what takes the rows from `start` on, in blocks (m, d), and write them every few seconds, beside the work.

    One write is under way at a time; an error of it is raised by the next one, or at the end.
    """
    waiting: list[np.ndarray] = []
    since = time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        writing: Future[None] = pool.submit(lambda: None)

        def write() -> None:
            nonlocal start, since, writing
            writing.result()
            if waiting:
                block = np.concatenate(waiting)
                writing = pool.submit(shards.add, split, start, block)
                waiting.clear()
                start += len(block)
            since = time.monotonic()

        def keep(block: np.ndarray) -> None:
            waiting.append(block)
            if time.monotonic() - since >= SHARD_SECONDS or sum(each.nbytes for each in waiting) >= SHARD_BYTES:
                write()

        try:
            yield keep
        finally:
            write()
            writing.result()


def default_name(dataset: ImageDataset, backbone: Backbone, spec: ExtractionSpec) -> str:
    """The file name that says what is inside: data, backbone, weights, size, layers and pooling."""
    parts = [dataset.name, backbone.name, backbone.weights, f"{spec.image_size}px"]
    if backbone.model is not None:
        parts += ["+".join(spec.layers), spec.pool]
    else:
        parts.remove(backbone.weights)
    if spec.resize != "bicubic":
        parts.append(spec.resize)
    if spec.aspect != "crop":
        parts.append(spec.aspect)
    if spec.flip:
        parts.append("flip")
    if spec.dtype != "float32":
        parts.append(spec.dtype)
    return "-".join(parts) + ".h5"


def _images_of(dataset: ImageDataset) -> dict[str, Any]:
    """How many images were asked for, and their height and width, where all have the same."""
    facts: dict[str, Any] = {"images": {name: len(split) for name, split in dataset.splits.items()}}
    first = next(iter(dataset.splits.values())).images[:1]
    return facts if isinstance(first, ImageFiles) else {**facts, "image_shape": np.asarray(first).shape[1:3]}


def _skipped(shards: Shards, name: str, split: Split, spec: ExtractionSpec) -> dict[int, str]:
    """The rows of a split that are not numbers, and why their files could not be read: they are read again.

    Raises:
        DataError: no file of the split could be read.
    """
    if not isinstance(split.images, ImageFiles):
        return {}
    rows = shards.not_numbers(name)
    reasons: dict[int, str] = {}
    for start in range(0, len(rows), REREAD_ROWS):
        some = rows[start : start + REREAD_ROWS]
        _, problems = split.images[some].read(spec.image_size, spec.resize, spec.aspect)
        reasons |= {int(row): problems.get(place, "could not be read at first") for place, row in enumerate(some)}
    if len(reasons) == len(split):
        raise DataError(f"none of the {len(split):,} {name} images could be read; the first one: {reasons[0]}")
    return reasons


def _columns(plan: Plan) -> list[Columns]:
    """Each layer's columns, from the vectors of the first image."""
    columns, start = [], 0
    first = next(iter(plan.dataset.splits.values())).images[:1]
    for layer, cells in zip(plan.spec.layers, plan.cells(first), strict=True):
        columns.append(Columns(layer, start, cells.shape[1:]))
        start = columns[-1].stop
    return columns


@contextmanager
def _interrupts_held_back() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the yielded function is called, or to the end, so that no file is left half-way.

    A second Ctrl-C is not held back. Where something else than Python's own handler is in charge (a
    host application, `nohup`), and in other threads than the main one, nothing is changed.
    """
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield stop_if_asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
        stop_if_asked()
    finally:
        signal.signal(signal.SIGINT, before)


def prepared(images: Any, spec: ExtractionSpec) -> tuple[np.ndarray, list[int]]:
    """Images at the size that the network takes, uint8 (n, size, size, 3), and the rows that could not be read."""
    if isinstance(images, ImageFiles):
        pixels, problems = images.read(spec.image_size, spec.resize, spec.aspect)
        return pixels, list(problems)
    return resized(images, spec.image_size, spec.resize, spec.aspect), []


def vectors_of(extractor: Extractor, name: str, split: Split, batch_size: int) -> Iterator[np.ndarray]:
    """The vectors (m, d) of each batch of images; those of files that could not be read are NaN.

    Args:
        extractor: what makes them.
        name: of the split, for messages.
        split: the images, or some of them.
        batch_size: images per forward pass.

    Raises:
        BackboneError: a vector is not finite.
    """
    for ids, parts, unreadable in computed(extractor, split, batch_size):
        for layer, part in zip(extractor.spec.layers, parts, strict=True):
            _check_finite(part, layer, name, ids)
        block = np.concatenate(parts, axis=1)
        block[unreadable] = np.nan  # left out when the cache is made
        yield block


def computed(
    extractor: Extractor, split: Split, batch_size: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray], list[int]]]:
    """The ids and vectors of each batch, and which of its rows could not be read.

    The next batch is decoded and resized meanwhile.
    """
    rows = [slice(start, start + batch_size) for start in range(0, len(split), batch_size)]
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(prepared, split.images[batch], extractor.spec) for batch in rows[:1]]
        for number, batch in enumerate(rows, start=1):
            images, unreadable = ahead.pop().result()
            ahead += [
                pool.submit(prepared, split.images[following], extractor.spec)
                for following in rows[number : number + 1]
            ]
            yield split.ids[batch], extractor.vectors(images), unreadable


def _check_finite(part: np.ndarray, layer: str, split: str, ids: np.ndarray) -> None:
    good = np.isfinite(part).all(axis=1)
    if not good.all():
        raise BackboneError(
            f"layer {layer} gave a value that is not finite as {part.dtype} for the {split} image "
            f"{ids[int(np.argmin(good))]}; check the weights and --preprocess, or store --dtype float32"
        )


def device_of(engine: str) -> str:
    """What an engine runs on in this process."""
    return (gpu() if engine == "tensorflow" else "") or f"CPU {platform.machine()}"
