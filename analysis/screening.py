"""Several networks on few images first, and the better half on more: which of them is worth a whole experiment.

Successive halving (Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
AISTATS 2016). Only training images take part, so the test images stay unseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.experiment import PIXELS, Source, Study, extracted
from analysis.steps import Progress, Step, Steps
from featurize.core.errors import UsageError
from featurize.core.intervals import paired_interval

if TYPE_CHECKING:
    from featurize.cache import Features
    from featurize.images import ImageDataset

FOLDS = 5
HEAD = "logreg"
SCREENING = "screening"
ROUGH_SECONDS = 3.0  # for 1,000 images; only its ratio to other steps matters


@dataclass(frozen=True)
class LeftOut:
    """A network that screening left out, and what it may be worth.

    Attributes:
        backbone: the network.
        best: the best network of the round.
        images: of the round.
        behind: the difference in accuracy to the best one, 0..1.
        low: bound of its 95% interval; below 0 if the network may be better.
        high: the other bound.
    """

    backbone: str
    best: str
    images: int
    behind: float
    low: float
    high: float

    def line(self) -> str:
        """What the report says."""
        said = (
            f"Screening left out {Path(self.backbone).stem} after {self.images:,} training images: "
            f"{100 * self.behind:.1f} points behind {Path(self.best).stem} (95% interval {100 * self.low:.1f} to "
            f"{100 * self.high:.1f})"
        )
        if self.low < 0:
            return f"{said}. It may be up to {-100 * self.low:.1f} points better."
        return f"{said}. It is unlikely to be better."


def screened(
    study: Study, dataset: "ImageDataset", steps: Steps, *, first: int | None, folder: Path, later: Sequence[Step] = ()
) -> tuple[Study, list[tuple[Path, str]]]:
    """A study without the networks that `screen` leaves out, and a line for each of these.

    Args:
        study: what to compare; it stays as it is without `first`, or with one network.
        dataset: the images.
        steps: carries out the steps and shows them.
        first: number of images of the first round.
        folder: of the experiment.
        later: the steps that follow.

    Raises:
        FrozenbenchError: as `screen`.
    """
    import joblib

    if first is None:
        return study, []
    threads = joblib.cpu_count(only_physical_cores=True)
    dataset = dataset.first(train=study.extent.train)
    study, left_out = screen(study, dataset, steps, first=first, folder=folder, threads=threads, later=later)
    return study, [(folder / SCREENING / Path(each.backbone).stem, each.line()) for each in left_out]


def screen(
    study: Study,
    dataset: "ImageDataset",
    steps: Steps,
    *,
    first: int,
    folder: Path,
    threads: int,
    later: Sequence[Step],
) -> tuple[Study, list[LeftOut]]:
    """Leave out networks, half of them in each round, until one is left or a round would need all training images.

    A round takes twice as many images as the one before. Each network is judged by the accuracy of logistic regression
    on its vectors, in a cross-validation in five folds.

    Args:
        study: with two networks or more.
        dataset: the images; their training split is used.
        steps: carries out the steps and shows them.
        first: number of images of the first round.
        folder: for the vectors.
        threads: of the heads.
        later: the steps that follow, for the time left.

    Returns:
        The study with the networks that are left, and the others.

    Raises:
        UsageError: fewer images in the first round than five of each class.
        FrozenbenchError: the images or a network cannot be used.
    """
    from classify.training.rows import stratified_order

    train = dataset.splits["train"]
    fewest = FOLDS * len(dataset.class_names)
    if first < fewest:
        raise UsageError(f"--screen {first}: expected at least {fewest}, {FOLDS} images of each class")
    order = stratified_order(train.labels, 0)
    names = [name for name in dict.fromkeys(study.backbones) if name != PIXELS]
    parts: dict[str, list[Features]] = {name: [] for name in names}
    left_out: list[LeftOut] = []
    start, stop = 0, first
    while len(names) > 1 and stop < len(train):
        new = replace(dataset, name=f"{dataset.name}-{start}-{stop}", splits={"train": train[order[start:stop]]})
        judged = [_step(name, new, study, folder / SCREENING, parts[name], threads) for name in names]
        correct = dict(zip(names, steps.carry_out(judged, later), strict=True))
        names, out = _halved(correct, _groups(parts[names[0]]))
        left_out += out
        start, stop = stop, 2 * stop
    preprocess = study.preprocess
    if len({study.preprocess_of(name) for name in study.backbones}) > 1:
        preprocess = ",".join(study.preprocess_of(name) for name in names)
    return replace(study, backbones=tuple(names), preprocess=preprocess), left_out


def _step(name: str, new: "ImageDataset", study: Study, folder: Path, parts: "list[Features]", threads: int) -> Step:
    """The step that adds the vectors of new images to those of a network, and judges it by `_correct`."""
    images = sum(len(part.y) for part in parts) + len(new.splits["train"])

    def judge(progress: Progress) -> np.ndarray:
        from featurize.cache import load_features

        parts.append(load_features(extracted(new, Source(name), study, folder, progress).path, "train"))
        return _correct(parts, threads)

    title = f"screening: {Path(name).stem}, {images:,} images"
    return Step(title, SCREENING, ROUGH_SECONDS * images / 1000, judge)


def _correct(parts: "list[Features]", threads: int) -> np.ndarray:
    """Which images the head gets right that was trained on the other folds, bool (n,)."""
    from classify.heads import Task, make_head
    from featurize.images.splitting import assign_folds

    x = np.concatenate([part.x for part in parts])
    labels = np.concatenate([part.y for part in parts])
    groups = _groups(parts)
    folds = assign_folds(np.arange(len(labels)) if groups is None else groups, labels, FOLDS)
    predicted = np.empty(len(labels), np.int64)
    for fold in range(FOLDS):
        rest = folds != fold
        head = make_head(HEAD, Task(int(rest.sum()), x.shape[1], jobs=threads))
        predicted[~rest] = head.fit(x[rest], labels[rest]).predict(x[~rest])
    return predicted == labels


def _groups(parts: "list[Features]") -> np.ndarray | None:
    """The group of each image, int64 (n,), or None."""
    groups = [part.groups for part in parts if part.groups is not None]
    return np.concatenate(groups) if groups else None


def _halved(correct: dict[str, np.ndarray], groups: np.ndarray | None) -> tuple[list[str], list[LeftOut]]:
    """The better half of the networks, at least one, in their order; and the others, each against the best one."""
    from classify.statistics.design import design_effect

    ranked = sorted(correct, key=lambda name: -correct[name].mean())
    kept = ranked[: -(-len(ranked) // 2)]
    best = correct[ranked[0]]
    left_out = []
    for name in ranked[len(kept) :]:
        other = correct[name]
        design = design_effect(best.astype(float) - other, groups, in_folds=True)
        counts = [(best & ~other).sum() / design, (other & ~best).sum() / design, len(best) / design]
        low, high = paired_interval(*counts)
        left_out.append(LeftOut(name, ranked[0], len(best), float(best.mean() - other.mean()), low, high))
    return [name for name in correct if name in kept], left_out
