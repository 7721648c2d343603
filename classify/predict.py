"""Classify new images with a finished run: image file -> recorded extraction -> saved head -> class probabilities.

Each batch of images is read, classified and printed before the next, so any number of them fits into memory.

May import: guarantee, heads, runs, featurize.cache, featurize.engines, featurize.extraction, featurize.images,
featurize.core.
"""

import csv
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from threadpoolctl import ThreadpoolController

from classify.guarantee import Guarantee, is_known
from classify.heads import imported, types_in
from classify.runs import AGAIN, GUARANTEE, HEAD, RESULT, RunResult, load_guarantee, load_head
from featurize.cache import ExtractionSpec
from featurize.core.console import say
from featurize.core.errors import BackboneError, DataError, FrozenbenchError, UsageError
from featurize.engines import CHECKED_IMAGES, REFERENCE, default_batch_size
from featurize.extraction import Extractor, check_not_imported, recorded_backbone, recorded_extractor
from featurize.extraction.saved_networks import save_extractor, saved_extractor
from featurize.images import read_image
from featurize.images.decode import decoded

logger = logging.getLogger("frozenbench")
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Guess:
    """A class and its probability, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a head says of an image file.

    Attributes:
        file: its name.
        label: the most probable class.
        probability: of that class, 0..1.
        top: the most probable classes, best first.
        set: the classes that a chosen coverage asks for, best first; None if none was chosen.
        known: whether the image may be of a known class; None if the run cannot tell.
        strangeness: the share of held-out training images that are less strange, 0..1.
        all_classes: whether the set holds every class.
    """

    file: str
    label: str
    probability: float
    top: list[Guess]
    set: list[str] | None = None
    known: bool | None = None
    strangeness: float | None = None
    all_classes: bool = field(default=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The facts that `--json` prints."""
        facts = asdict(self)
        del facts["all_classes"]
        return {key: value for key, value in facts.items() if value is not None}

    def in_words(self) -> str:
        """The line that is printed, without the file."""
        words = ", ".join(f"{guess.label} {100 * guess.probability:.1f}%" for guess in self.top)
        if self.all_classes:
            words += "; set: any class, none can be excluded"
        elif self.set is not None:
            words += f"; set: {' or '.join(self.set)}"
        if self.known is False and self.strangeness is not None:
            share = math.floor(100 * self.strangeness)
            words += f"; perhaps none of these: stranger than {share}% of the training images"
        return words


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read as an image, and the reason."""

    file: str
    reason: str


def named_files(names: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that the command line names.

    Args:
        names: files; folders, which stand for all files below them, sorted, without hidden ones; `-`, which
            stands for a list on standard input, one name a line, read as it arrives.
    """
    for name in names:
        if name == STANDARD_INPUT:
            for line in sys.stdin.buffer:
                if listed := line.rstrip(b"\r\n"):
                    yield from _files(Path(os.fsdecode(listed)))
        else:
            yield from _files(name)


def _files(name: Path) -> list[Path]:
    try:
        if not name.is_dir():
            return [name]
    except OSError:  # reading it will report the reason
        return [name]
    files = []
    for path in name.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(name).parts)
        if not hidden and path.is_file():
            files.append(path)
    return sorted(files)


def predict_images(
    run_dir: Path, paths: Iterable[Path], top: int = 5, head: str = "", coverage: float | None = None
) -> Iterator[Prediction | Skipped]:
    """Classify image files with the head of a run.

    Args:
        run_dir: the directory of a finished run.
        paths: the image files; a batch of them is taken at a time.
        top: number of classes to name for each image, at least 1.
        head: the `module:Class` that the run was trained with, if it was; the module is imported.
        coverage: the share of sets of classes that shall hold the true one, above 0 and below 1; None for no sets.

    Returns:
        An iterator with an item for each file, in the given order. The network is loaded for the first image.

    Raises:
        DataError: the run is damaged.
        BackboneError: from the iterator: the weights cannot be loaded or differ from those of the run.
        UsageError: `head` is not that of the run, or the run cannot give sets of this coverage; from the iterator:
            the run's backbone no longer exists.
    """
    classifier = Classifier(run_dir, head)
    classifier.check_coverage(coverage)
    return classifier.predictions(paths, top, coverage)


class Classifier:
    """The recorded extraction of a run and its saved head."""

    def __init__(self, run_dir: Path, head: str = "") -> None:
        self.run_dir = run_dir
        self.result = RunResult.read(run_dir)
        self.guarantee = _guarantee(run_dir, self.result)
        self.spec, self.height, self.width = _recorded(run_dir, self.result)
        self.head_path = run_dir / HEAD
        _check_own_head(run_dir, self.result, head)
        self.head = load_head(self.head_path, self.result.head_sha256, types_in(imported(head)) if head else ())
        # With more threads, a head was 4 times as slow for a single image (svm), and delayed the network after it.
        self.threads = ThreadpoolController()
        # The training images had a common size: bring new ones to it first, as the data set was made.
        self.kernel = "bicubic" if "image_shape" in self.result.source else self.spec.resize
        self.batch_size = default_batch_size(self.spec.image_size)
        self.extractor: Extractor | None = None
        self.class_names: list[str] = []  # in the order of the head's probabilities, once it has given some

    def check_coverage(self, coverage: float | None) -> None:
        """Raise UsageError if no training image was held out for sets of classes, or too few for this coverage."""
        if coverage is None:
            return
        if not 0 < coverage < 1:
            raise UsageError(f"--coverage {coverage:g}: expected a share above 0 and below 1, such as 0.9")
        name, sets = self.run_dir.name, self.guarantee.sets
        if sets is None:
            raise UsageError(
                f"--coverage: {name} has no sets of classes, because no training image was held out for them; "
                "leave out --coverage, or use a run with them, such as of logreg (frozenbench classify --model logreg)"
            )
        if coverage > sets.highest_coverage:
            raise UsageError(
                f"--coverage {coverage:g}: the {self.result.held_out_rows:,} held-out images of {name} are too few; "
                f"expected at most {sets.highest_coverage:.3f}, or train on more images"
            )

    def predictions(
        self, paths: Iterable[Path], top: int, coverage: float | None = None
    ) -> Iterator[Prediction | Skipped]:
        """Yield a prediction for each file, or why it was skipped, a batch at a time."""
        remaining = iter(paths)
        while batch := list(islice(remaining, self.batch_size)):
            images = [self.read(path) for path in batch]
            readable = [image for image in images if not isinstance(image, Skipped)]
            found = iter(self.seen(np.stack(readable)) if readable else ())
            for path, image in zip(batch, images, strict=True):
                yield image if isinstance(image, Skipped) else self.prediction(str(path), *next(found), top, coverage)

    def read(self, path: Path) -> np.ndarray | Skipped:
        """An image as those of the training were, uint8 (h, w, 3)."""
        try:
            return read_image(path, self.height, self.width, self.kernel, self.spec.aspect)
        except DataError as error:
            return Skipped(str(path), str(error))
        except OSError as error:  # no permission, or a name that is too long
            return Skipped(str(path), str(error.strerror))

    def decode(self, file: BinaryIO, max_pixels: int) -> np.ndarray:
        """An image in an open file as those of the training were, uint8 (h, w, 3).

        Raises:
            DataError: it cannot be decoded, or has more than `max_pixels` pixels.
        """
        return decoded(file, self.height, self.width, self.kernel, self.spec.aspect, max_pixels)

    def seen(self, images: np.ndarray) -> list[tuple[np.ndarray, float | None]]:
        """Class probabilities, (K,), of each of the images, uint8 (n, h, w, 3), and its distance, see `Novelty`."""
        return self.judged(self.vectors(images))

    def judged(self, vectors: np.ndarray) -> list[tuple[np.ndarray, float | None]]:
        """The same of the images with these vectors, (n, d)."""
        novelty = self.guarantee.novelty
        distances: list[float | None] = [None] * len(vectors)
        with self.threads.limit(limits=1, user_api="blas"):
            probabilities = self.probabilities(vectors)
            if novelty is not None:
                distances = novelty.distances(vectors).tolist()
        return list(zip(probabilities, distances, strict=True))

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Class probabilities, (n, K), of vectors (n, d)."""
        try:
            probabilities = self.head.predict_proba(vectors)
            self.class_names = [self.result.class_names[label] for label in self.head.classes_]
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # of another version, or another run
            raise DataError(f"{self.head_path} does not work on this run's vectors ({error}); {AGAIN}") from error
        return np.asarray(probabilities)

    def vectors(self, images: np.ndarray) -> np.ndarray:
        """The columns that the head was trained on, float32 (n, d)."""
        if self.extractor is None:
            self.extractor = _extractor(self.spec, self.result, images[:CHECKED_IMAGES])
        columns = []
        for layer, part in zip(self.spec.layers, self.extractor.vectors(images), strict=True):
            if layer in self.result.layers:
                columns.append(part)
        vectors = np.concatenate(columns, axis=1, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise BackboneError(f"{self.spec.backbone} gave a value that is not finite for one of the images")
        return vectors

    def prediction(
        self, file: str, probabilities: np.ndarray, distance: float | None, top: int, coverage: float | None = None
    ) -> Prediction:
        """The prediction for a file from its class probabilities, (K,), and its distance; with a set for a coverage."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        guesses = [Guess(self.class_names[index], float(probabilities[index])) for index in order]
        chosen = None
        if self.guarantee.sets is not None and coverage is not None:
            [members] = self.guarantee.sets.sets(probabilities[None], coverage)
            ranked = np.argsort(-probabilities, kind="stable")
            chosen = [self.class_names[index] for index in ranked if members[index]]
        strangeness = None
        if self.guarantee.novelty is not None and distance is not None:
            strangeness = float(self.guarantee.novelty.strangeness_of(np.array(distance)))
        return Prediction(
            file,
            guesses[0].label,
            guesses[0].probability,
            guesses,
            chosen,
            known=None if strangeness is None else bool(is_known(strangeness)),
            strangeness=strangeness,
            all_classes=chosen is not None and len(chosen) == len(self.class_names),
        )


def answer(found: Iterable[Prediction | Skipped]) -> dict[str, list[dict[str, Any]]]:
    """The object that `--json` prints."""
    facts: dict[str, list[dict[str, Any]]] = {"predictions": [], "skipped": []}
    for each in found:
        if isinstance(each, Skipped):
            facts["skipped"].append(asdict(each))
        else:
            facts["predictions"].append(each.as_json())
    return facts


def show(found: Iterable[Prediction | Skipped], *, as_csv: bool = False, as_json: bool = False) -> None:
    """Print a line per image or CSV with a row per class, both as they arrive, or one JSON object at the end.

    Skipped files are logged.

    Raises:
        DataError: at the end, if there was no file or some were skipped.
    """
    kept: list[Prediction | Skipped] = []  # for the JSON
    skipped, count = [], 0
    table = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        table.writerow(("file", "rank", "label", "probability"))
    for each in found:
        count += 1
        if as_json:
            kept.append(each)
        if isinstance(each, Skipped):
            logger.warning("skipped %s: %s", each.file, each.reason)
            skipped.append(each)
            continue
        name = each.file.encode(errors="replace").decode()  # a file name can hold bytes that are not text
        if as_csv:
            for rank, guess in enumerate(each.top, start=1):
                table.writerow((name, rank, guess.label, guess.probability))
        elif not as_json:
            say(f"{name}: {each.in_words()}")
        sys.stdout.flush()  # the reader of a pipe sees it at once; a closed pipe ends the command
    if as_json:
        print(json.dumps(answer(kept)))
        sys.stdout.flush()
    if skipped:
        raise DataError(f"{len(skipped)} of {count} files could not be read; {skipped[0].file}: {skipped[0].reason}")
    if not count:
        raise DataError("there is no file to classify: the folders or lists hold none")


def _check_own_head(run_dir: Path, result: RunResult, head: str) -> None:
    """Raise UsageError unless the user names the head of the run: its module is not imported on the run's word."""
    if head == result.own_head:
        return
    if not result.own_head:
        raise UsageError(f"--head {head}: {run_dir.name} was trained with the head {result.model}; leave out --head")
    given = f"--head {head}" if head else "there is no --head"
    raise UsageError(
        f"{given}: {run_dir.name} was trained with --head {result.own_head}; if you trust the code of that module, "
        "give the same option again"
    )


def _guarantee(run_dir: Path, result: RunResult) -> Guarantee:
    """What the run promises; nothing if it is from before there were promises.

    Raises:
        DataError: its file is damaged.
    """
    if not result.guarantee_sha256:
        return Guarantee()
    found: Guarantee = load_guarantee(run_dir / GUARANTEE, result.guarantee_sha256, Guarantee)
    return found


def _recorded(run_dir: Path, result: RunResult) -> tuple[ExtractionSpec, int, int]:
    """The specification of the run's features, and the height and width of its images.

    If the images were files of any size, height and width are those of the network's input.
    """
    try:
        spec = ExtractionSpec.from_json(json.dumps(result.spec))
        if spec.fingerprint != result.fingerprint:
            raise ValueError(f"the specification has the fingerprint {spec.fingerprint}, expected {result.fingerprint}")
        if unknown := set(result.layers) - set(spec.layers):
            raise ValueError(f"the specification has no layer {unknown.pop()}")
        check_not_imported(spec, result.source)
        height, width = map(int, result.source.get("image_shape", (spec.image_size, spec.image_size)))
        if min(height, width) < 1:
            raise ValueError(f"there are no images of {height} x {width} pixels")
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{run_dir / RESULT} cannot be used: {error}; {AGAIN}") from error
    return spec, height, width


def _extractor(spec: ExtractionSpec, result: RunResult, images: np.ndarray) -> Extractor:
    """The recorded extractor, or the same in TensorFlow if its engine does not work on these images."""
    if saved := saved_extractor(spec):
        return saved
    backbone = recorded_backbone(spec, result.source)
    try:
        extractor = recorded_extractor(backbone, spec)
        extractor.vectors(images)
    except FrozenbenchError as error:
        if spec.engine in ("", REFERENCE) or backbone.model is None:
            raise
        logger.warning("the engine %s cannot be used here, using %s instead (%s)", spec.engine, REFERENCE, error)
        return recorded_extractor(backbone, spec, REFERENCE)
    save_extractor(extractor)
    return extractor
