"""Newly labelled pictures against a finished run: is it still as good as on its test images?"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classify.guarantee import FALSE_ALARMS, Coverage, drift_p, is_known, measured_coverage
from classify.predict import Classifier, Skipped, named_files
from classify.runs import SET_COVERAGE, read_predictions
from classify.statistics import ALPHA, Metrics, metrics
from featurize.core.console import say
from featurize.core.errors import DataError, UsageError
from featurize.images import load_dataset
from featurize.images.cifar10 import is_cifar10_folder

logger = logging.getLogger("frozenbench")
FEWEST = 10
WORST = 10


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the file, its label, the predicted class and the probability of that, 0..1."""

    file: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """A run on newly labelled pictures.

    Attributes:
        images: their number.
        metrics: of the predictions.
        before: accuracy on the run's test images, with its interval.
        coverage: of sets of classes for a coverage of 90%; None if the run has none.
        coverage_p: the probability of a coverage as low as this if the pictures are like the training images.
        strange: the share of pictures that count as images of no known class; None if the run cannot tell.
        drift_p: see `classify.guarantee.drift_p`, by the largest probability and the distance of each image; None for a
            run in folds.
        worst: the most confident mistakes.
        skipped: the files that could not be read.
    """

    images: int
    metrics: Metrics
    before: tuple[float, float, float]
    coverage: Coverage | None
    coverage_p: float | None
    strange: float | None
    drift_p: float | None
    worst: list[Mistake]
    skipped: list[Skipped]

    def as_json(self) -> dict[str, Any]:
        """The facts that `--json` prints."""
        keys = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "brier", "ece")
        facts: dict[str, Any] = {"images": self.images, **{key: getattr(self.metrics, key) for key in keys}}
        facts["coverage"] = None
        if self.coverage is not None and self.coverage_p is not None:
            facts |= asdict(self.coverage)
            facts |= {"coverage_p": self.coverage_p, "coverage_held": self.coverage_p > ALPHA}
        facts["drift"] = {"p": self.drift_p, "strange": self.strange}
        facts["worst"] = [asdict(mistake) for mistake in self.worst]
        return {**facts, "skipped": [asdict(file) for file in self.skipped]}

    def in_words(self) -> list[str]:
        """The lines that are printed."""
        found = self.metrics
        lines = [
            f"accuracy: {_percent(found.accuracy, found.accuracy_low, found.accuracy_high)} on {self.images:,} images, "
            f"{_percent(*self.before)} on the run's test images",
            f"calibration: log loss {found.log_loss:.3f}, ECE {100 * found.ece:.1f}%",
        ]
        if self.coverage is not None and self.coverage_p is not None:
            shares = self.coverage.coverage, self.coverage.coverage_low, self.coverage.coverage_high
            verdict = "held" if self.coverage_p > ALPHA else f"not held (p = {self.coverage_p:.2g})"
            lines.append(
                f"sets of classes: {_percent(*shares)} hold the class, with {self.coverage.set_size:.1f} classes on "
                f"average; {100 * SET_COVERAGE:.0f}% coverage is {verdict}"
            )
        if self.strange is not None:
            lines.append(f"strange images: {100 * self.strange:.0f}%, expected {100 * FALSE_ALARMS:.0f}%")
        if self.drift_p is not None:
            verdict = "the images differ from the test images" if self.drift_p <= ALPHA else "none found"
            lines.append(f"drift: {verdict} (p = {self.drift_p:.2g})")
        if self.worst:
            lines.append("most confident mistakes:")
        for each in self.worst:
            name = each.file.encode(errors="replace").decode()
            lines.append(f"  {name}: {each.predicted} {100 * each.probability:.1f}%, labelled {each.label}")
        return lines


def evaluate_run(run_dir: Path, source: Path, head: str = "") -> Evaluation:
    """Evaluate the head of a run on labelled pictures.

    Args:
        run_dir: the directory of a finished run.
        source: a folder with one folder of image files for each class, whose names are those of the run's classes;
            or anything else that `load_dataset` takes, of which the test images are used.
        head: the `module:Class` that the run was trained with, if it was; the module is imported.

    Raises:
        UsageError: the source has classes that the run does not know, or `head` is not that of the run.
        DataError: the run is damaged, or there are too few images that can be read.
        BackboneError: the weights cannot be loaded or differ from those of the run.
    """
    classifier = Classifier(run_dir, head)
    result, guarantee = classifier.result, classifier.guarantee
    pictures = _labelled(source)
    _check_classes(source, sorted(set(pictures.classes)), result.class_names)
    seen = _seen(classifier, pictures)
    if len(seen.rows) < FEWEST:
        raise DataError(f"{source} holds {len(seen.rows)} images that can be read: expected {FEWEST} or more; add some")

    labels = np.array([result.class_names.index(pictures.classes[row]) for row in seen.rows])
    predicted = classifier.head.classes_[seen.probabilities.argmax(axis=1)]
    coverage, coverage_p = None, None
    if guarantee.sets is not None:
        sets = guarantee.sets.sets(seen.probabilities, SET_COVERAGE)
        coverage = measured_coverage(sets, labels, result.class_names)
        coverage_p = guarantee.sets.p_value(sets[np.arange(len(labels)), labels], labels, SET_COVERAGE)
    sureness = seen.probabilities.max(axis=1)
    pairs = [(read_predictions(run_dir).filter(regex="^p_").max(axis=1).to_numpy(), sureness)]
    strange = None
    if guarantee.novelty is not None:
        strange = float((~is_known(guarantee.novelty.strangeness_of(seen.distances))).mean())
        if guarantee.tested is not None:
            pairs.append((guarantee.tested, seen.distances))

    wrong = np.flatnonzero(predicted != labels)
    worst = []
    for row in wrong[np.argsort(-sureness[wrong], kind="stable")][:WORST]:
        label, guess = result.class_names[labels[row]], result.class_names[predicted[row]]
        worst.append(Mistake(pictures.names[seen.rows[row]], label, guess, float(sureness[row])))
    return Evaluation(
        images=len(labels),
        metrics=metrics(labels, predicted, seen.probabilities, result.class_names),
        before=(result.accuracy, result.accuracy_low, result.accuracy_high),
        coverage=coverage,
        coverage_p=coverage_p,
        strange=strange,
        # In a cross-validation, other heads than this one saw the test images.
        drift_p=None if result.folds else drift_p(*pairs),
        worst=worst,
        skipped=seen.skipped,
    )


def show(found: Evaluation, *, as_json: bool = False) -> None:
    """Print an evaluation as lines or as one JSON object."""
    if as_json:
        print(json.dumps(found.as_json()))
        return
    for line in found.in_words():
        say(line)


@dataclass(frozen=True)
class _Pictures:
    """Labelled pictures: their names, the names of their classes, and pixels (n, h, w, 3) if the names are no paths."""

    names: list[str]
    classes: list[str]
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class _Seen:
    """What a run says of the pictures that can be read: their rows, probabilities (n, K), distances (n,) or NaN."""

    rows: list[int]
    probabilities: np.ndarray
    distances: np.ndarray
    skipped: list[Skipped]


def _labelled(source: Path) -> _Pictures:
    """The pictures in a folder of class folders, or the test images of another source.

    Raises:
        DataError: there are no images.
    """
    folders = [path for path in sorted(source.glob("*")) if path.is_dir() and not path.name.startswith(".")]
    if {path.name for path in folders} == {"train", "test"}:
        return _labelled(source / "test")
    names, classes = [], []
    if not folders or is_cifar10_folder(source):
        dataset = load_dataset(source)
        split = dataset.splits["test"]
        names = [f"{source}[{row}]" for row in split.ids]
        classes = [dataset.class_names[label] for label in split.labels]
        return _Pictures(names, classes, np.asarray(split.images))
    for folder in folders:
        for path in named_files([folder]):
            names.append(str(path))
            classes.append(folder.name)
    if not names:
        raise DataError(f"{source} holds no images: expected a folder of them for each class")
    return _Pictures(names, classes)


def _seen(classifier: Classifier, pictures: _Pictures) -> _Seen:
    rows, probabilities, distances, skipped = [], [], [], []
    step = classifier.batch_size
    for start in range(0, len(pictures.names), step):
        images = []
        for row in range(start, min(start + step, len(pictures.names))):
            image = _image(classifier, pictures, row)
            if isinstance(image, Skipped):
                logger.warning("skipped %s: %s", image.file, image.reason)
                skipped.append(image)
            else:
                images.append(image)
                rows.append(row)
        if images:
            for found, distance in classifier.seen(np.stack(images)):
                probabilities.append(found)
                distances.append(distance)
    return _Seen(rows, np.array(probabilities), np.array(distances, float), skipped)


def _image(classifier: Classifier, pictures: _Pictures, row: int) -> np.ndarray | Skipped:
    if pictures.pixels is None:
        return classifier.read(Path(pictures.names[row]))
    image: np.ndarray = pictures.pixels[row]
    if image.shape[:2] != (classifier.height, classifier.width):
        raise UsageError(
            f"{pictures.names[row]} has {image.shape[0]} x {image.shape[1]} pixels, and the training images have "
            f"{classifier.height} x {classifier.width}; save the images as files in class folders"
        )
    return image


def _check_classes(source: Path, names: list[str], known: list[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"{source}: the run has no class {', '.join(unknown[:5])}; its classes are {', '.join(known[:20])}: rename "
            "the folders, or move them away"
        )


def _percent(share: float, low: float, high: float) -> str:
    return f"{100 * share:.0f}% ({100 * low:.0f} to {100 * high:.0f})"
