"""The whole experiment from scratch: images -> features and controls -> every head, on few and on all images.

Finished features and runs are reused, so the same command resumes an interrupted experiment.
"""

import functools
import logging
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
# Rough seconds on two cores: for every run, and for each 1,000 training images. Only their ratios
# matter: they turn the time spent so far into the time left.
FIXED_SECONDS = 2.0
SECONDS_PER_1000 = {"logreg": 0.7, "svm": 1.2, "xgboost": 1.5, "mlp": 2.0, SCRATCH: 33.0}


@dataclass(frozen=True)
class Preset:
    """The extent of the experiment.

    Attributes:
        train: number of training images, the first of the data set; None for all.
        images_per_class: sizes of the small training sets; all images are always one more.
        seeds: number of draws of each small training set.
        pool: of VGG16's `block3_pool`.
        flip: whether features are averaged over the image and its mirror image.
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
    """The training of one head: a title, rough seconds, whether the run is finished, and how to make it."""

    title: str
    seconds: float
    done: bool
    carry_out: Callable[[], Any]


def experiment_folder(preset: str) -> Path:
    """The default folder of an experiment's features and runs."""
    return data_root() / "experiments" / preset


def run_experiment(preset: str, data: str = "cifar10", *, folder: Path | None = None, threads: int = 0) -> Path:
    """Extract the features, then train every head and the network from scratch, on few and on all images.

    Args:
        preset: a key of `PRESETS`.
        data: as for `featurize.load_dataset`.
        folder: for features and runs; `experiment_folder` by default.
        threads: number of threads of the heads; one per usable physical core by default.

    Returns:
        The folder of the runs.

    Raises:
        FrozenbenchError: the images, the network or a head cannot be used; finished runs remain.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: {suggestion(preset, list(PRESETS))}")
    import joblib

    from featurize.images import load_dataset

    began = time.monotonic()
    folder = folder or experiment_folder(preset)
    chosen = PRESETS[preset]
    threads = threads or joblib.cpu_count(only_physical_cores=True)
    dataset = load_dataset(data).first(train=chosen.train)
    infos = [extracted(dataset, weights, chosen, folder / "features") for weights in ("imagenet", "random", "")]
    steps = list(training_steps(infos, chosen, folder / "runs", threads))
    carry_out(steps)
    logger.info("the experiment took %s, without what was finished before", _duration(time.monotonic() - began))
    return folder / "runs"


def carry_out(steps: list[Step]) -> None:
    """Carry out the steps that are not done, and log the time left, estimated from the time spent."""
    left = sum(step.seconds for step in steps if not step.done)  # by the rough seconds of each step
    finished, spent = 0.0, 0.0
    for number, step in enumerate(steps, start=1):
        if step.done:
            continue
        pace = spent / finished if finished else 1.0
        logger.info("step %d of %d, about %s left: %s", number, len(steps), _duration(left * pace), step.title)
        started = time.monotonic()
        step.carry_out()
        spent += time.monotonic() - started
        finished += step.seconds
        left -= step.seconds


def extracted(dataset: "ImageDataset", weights: str, preset: Preset, folder: Path) -> "CacheInfo":
    """The features of VGG16 with `imagenet` or `random` weights; the pixels themselves without weights."""
    from featurize.extraction import extract_features
    from featurize.networks import load_backbone

    if weights:
        backbone = load_backbone("vgg16", weights=weights, layers=("block3_pool",), image_size=64)
        name = f"vgg16-{backbone.weights}-64px-block3_pool-{preset.pool}"
        if preset.flip:
            name += "-flip"
    else:
        backbone = load_backbone("pixels", image_size=32)
        name = "pixels"
    logger.info("features: %s", name)
    path = folder / f"{dataset.name}-{name}.h5"
    return extract_features(dataset, backbone, pool=preset.pool, flip=preset.flip, out=path).info


def training_steps(infos: list["CacheInfo"], preset: Preset, runs: Path, threads: int) -> Iterator[Step]:
    """The trainings on pretrained, random and pixel features, in this order in `infos`.

    All images come first, then draw by draw, so that an unfinished experiment already has results.
    """
    from classify.heads import ALL
    from classify.training import Job, train_heads

    pretrained, _, pixels = infos
    all_rows = pretrained.rows["train"]
    sizes = [per_class * len(pretrained.class_names) for per_class in preset.images_per_class]
    small = [rows for rows in reversed(sizes) if rows < all_rows]
    draws = [(rows, seed) for seed in range(preset.seeds) for rows in small]
    for rows, seed in [(None, 0), *draws]:
        images = f"{rows:,} images, draw {seed + 1}" if rows else f"{all_rows:,} images"
        for info in infos:
            for model in (*ALL, SCRATCH) if info is pixels else ALL:
                job = Job(model, info, rows=rows, seed=seed, threads=threads)
                keep = rows is None and info is pretrained  # only these heads are worth using later
                yield Step(
                    title=f"{model} on {info.path.stem}, {images}",
                    seconds=FIXED_SECONDS + SECONDS_PER_1000[model] * (rows or all_rows) / 1000,
                    done=_is_finished(runs / info.path.stem / job.name),
                    carry_out=functools.partial(train_heads, [job], runs, keep_heads=keep),
                )


def _is_finished(run_dir: Path) -> bool:
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
