"""The whole experiment from nothing: images -> features and controls -> every head, on few and on all images.

What exists is reused, so that the same command goes on after an interruption.
"""

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.core.errors import DataError, UsageError, suggestion
from featurize.core.files import data_root

if TYPE_CHECKING:
    from featurize.cache import CacheInfo
    from featurize.images import ImageDataset

logger = logging.getLogger("frozenbench")
SCRATCH = "cnn"
# Seconds for a run's start and end, and for each 1,000 training images: on two cores, roughly. Only
# their proportions count: they turn the time spent so far into the time that is left.
FIXED_SECONDS = 2.0
SECONDS_PER_1000 = {"logreg": 0.7, "svm": 1.2, "xgboost": 1.5, "mlp": 2.0, SCRATCH: 33.0}


@dataclass(frozen=True)
class Preset:
    """How much of the experiment is done.

    Attributes:
        train: so many of the data set's training images, the first ones; None for all.
        images_per_class: sizes of the small training sets. All images are always one more.
        seeds: how often each small training set is drawn.
        pool: of VGG16's `block3_pool`.
        flip: whether mirrored images take part.
    """

    train: int | None
    images_per_class: tuple[int, ...]
    seeds: int
    pool: str
    flip: bool


PRESETS = {
    "quick": Preset(train=3_000, images_per_class=(10, 100), seeds=3, pool="grid2", flip=False),
    "full": Preset(train=None, images_per_class=(10, 30, 100, 300, 1000), seeds=5, pool="grid4", flip=True),
}


@dataclass(frozen=True)
class Step:
    """One piece of the work: what it is, what it is worth in seconds, whether it is done, and how to do it."""

    title: str
    seconds: float
    done: bool
    carry_out: Callable[[], Any]


def experiment_folder(preset: str) -> Path:
    """Where an experiment's features and runs are kept."""
    return data_root() / "experiments" / preset


def run_experiment(preset: str, data: str = "cifar10", *, folder: Path | None = None, threads: int = 0) -> Path:
    """Extract the features, train every head on them and the network from scratch, on few and on all images.

    Args:
        preset: a key of `PRESETS`.
        data: as for `featurize.images.datasets.load_dataset`.
        folder: where features and runs go; `experiment_folder` by default.
        threads: for the heads; all cores by default.

    Returns:
        The folder of the runs.

    Raises:
        FrozenbenchError: the images, the network or a head cannot be used; what is finished is kept.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: {suggestion(preset, list(PRESETS))}")
    from featurize.images import load_dataset

    folder, chosen = folder or experiment_folder(preset), PRESETS[preset]
    dataset = load_dataset(data).first(train=chosen.train)
    began = time.monotonic()
    infos = [extracted(dataset, weights, chosen, folder / "features") for weights in ("imagenet", "random", "")]
    steps = list(training_steps(infos, chosen, folder / "runs", threads or os.cpu_count() or 1))
    spent, worth = 0.0, 0.0
    for number, step in enumerate(steps, start=1):
        if step.done:
            continue
        left = sum(other.seconds for other in steps[number - 1 :] if not other.done) * (spent / worth if worth else 1)
        logger.info("step %d of %d, about %s left: %s", number, len(steps), _duration(left), step.title)
        started = time.monotonic()
        step.carry_out()
        spent += time.monotonic() - started
        worth += step.seconds
    logger.info("the experiment took %s, of what was not there before", _duration(time.monotonic() - began))
    return folder / "runs"


def extracted(dataset: "ImageDataset", weights: str, preset: Preset, folder: Path) -> "CacheInfo":
    """The features of VGG16 with `imagenet` or `random` weights; without any, the pixels themselves."""
    from featurize.extraction import extract_features
    from featurize.networks import load_backbone

    if weights:
        backbone = load_backbone("vgg16", weights=weights, layers=("block3_pool",), image_size=64)
        name = f"vgg16-{backbone.weights}-64px-block3_pool-{preset.pool}" + ("-flip" if preset.flip else "")
    else:
        backbone, name = load_backbone("pixels", image_size=32), "pixels"
    logger.info("features: %s", name)
    path = folder / f"{dataset.name}-{name}.h5"
    return extract_features(dataset, backbone, pool=preset.pool, flip=preset.flip, out=path).info


def training_steps(infos: list["CacheInfo"], preset: Preset, runs: Path, threads: int) -> Iterator[Step]:
    """Every training of the experiment: on all images first, then draw after draw, so that half of it is an answer."""
    from classify.heads import ALL
    from classify.training import Job, train_heads

    pretrained, _, pixels = infos
    every, classes = pretrained.rows["train"], len(pretrained.class_names)
    small = [each * classes for each in preset.images_per_class if each * classes < every]
    sizes = [(None, 0), *((rows, seed) for seed in range(preset.seeds) for rows in reversed(small))]
    for rows, seed in sizes:
        for info in infos:
            for model in (*ALL, SCRATCH) if info is pixels else ALL:
                job = Job(model, info, rows=rows, seed=seed, threads=threads)
                keep = rows is None and info is pretrained  # the others are there to be compared
                yield Step(
                    title=f"{model} on {info.path.stem}, {rows or every:,} images"
                    + (f", draw {seed + 1}" if rows else ""),
                    seconds=FIXED_SECONDS + SECONDS_PER_1000[model] * (rows or every) / 1000,
                    done=_is_there(runs / info.path.stem / job.name),
                    carry_out=functools.partial(train_heads, [job], runs, keep_heads=keep),
                )


def _is_there(run_dir: Path) -> bool:
    from classify.runs import RunResult

    try:
        RunResult.read(run_dir)
    except DataError:
        return False
    return True


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
