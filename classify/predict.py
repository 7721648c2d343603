"""New images through a finished run: image file -> the recorded extraction -> saved head -> class and probability.

A batch of images is read, classified and printed before the next one: any number of them fits into memory.
"""

import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from classify.runs import AGAIN, HEAD, RESULT, RunResult, load_head
from featurize.cache import ExtractionSpec
from featurize.core.errors import BackboneError, DataError, FrozenbenchError
from featurize.engines import CHECKED_IMAGES, REFERENCE, default_batch_size
from featurize.extraction import Extractor, recorded_backbone, recorded_extractor
from featurize.extraction.saved_networks import keep_extractor, kept_extractor
from featurize.images import read_image

logger = logging.getLogger("frozenbench")
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Guess:
    """A class and its probability, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable class of an image file, and the `top` most probable ones, best first."""

    file: str
    label: str
    probability: float
    top: list[Guess]


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read as an image, and why."""

    file: str
    reason: str


def named_files(names: Iterable[Path]) -> Iterator[Path]:
    """The files that arguments of the command line stand for.

    Args:
        names: files; folders, which stand for the files in them and in the folders below, sorted, hidden ones left
            out; `-`, which stands for what standard input names, one a line, read as it comes.
    """
    for name in names:
        if name == STANDARD_INPUT:
            for line in sys.stdin.buffer:
                if named := line.rstrip(b"\r\n"):
                    yield from _files(Path(os.fsdecode(named)))
        else:
            yield from _files(name)


def _files(name: Path) -> list[Path]:
    try:
        if not name.is_dir():
            return [name]
    except OSError:  # whoever reads it says what is wrong
        return [name]
    files = (path for path in name.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(name).parts))


def predict_images(run_dir: Path, paths: Iterable[Path], top: int = 5) -> Iterator[Prediction | Skipped]:
    """Classify image files with the head of a run.

    Args:
        run_dir: the directory of a finished run.
        paths: of the image files; a batch of them is taken at a time.
        top: classes to name for each image, at least 1.

    Returns:
        What came of each file, in the order in which they were given. The network is loaded for the first image.

    Raises:
        DataError: the run is damaged.
        BackboneError: from the iterator: the weights are no longer those of the run, or cannot be loaded.
        UsageError: from the iterator: the run's backbone is no longer there.
    """
    result = RunResult.read(run_dir)
    spec, height, width = _recorded(run_dir, result)
    head = load_head(run_dir / HEAD, result.head_sha256)
    kernel = "bicubic" if "image_shape" in result.source else spec.resize
    vectors = _extraction(spec, result)

    def guesses(images: np.ndarray) -> Iterator[list[Guess]]:
        x = vectors(images)
        try:
            probabilities = head.predict_proba(x)
            names = [result.class_names[label] for label in head.classes_]
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # another version's, or another run's
            raise DataError(f"{run_dir / HEAD} does not work on this run's vectors ({error}); {AGAIN}") from error
        for row in probabilities:
            yield [Guess(names[place], float(row[place])) for place in np.argsort(-row, kind="stable")[:top]]

    def predictions() -> Iterator[Prediction | Skipped]:
        waiting = iter(paths)
        while batch := list(islice(waiting, default_batch_size(spec.image_size))):
            read = [_read(path, height, width, kernel, spec.aspect) for path in batch]
            images = [image for image in read if not isinstance(image, Skipped)]
            found = guesses(np.stack(images)) if images else iter(())
            for path, image in zip(batch, read, strict=True):
                if isinstance(image, Skipped):
                    yield image
                else:
                    best = next(found)
                    yield Prediction(str(path), best[0].label, best[0].probability, best)

    return predictions()


def _read(path: Path, height: int, width: int, kernel: str, aspect: str) -> np.ndarray | Skipped:
    try:
        return read_image(path, height, width, kernel, aspect)
    except DataError as error:
        return Skipped(str(path), str(error))
    except OSError as error:  # one that cannot be looked at: no permission, a name that is too long
        return Skipped(str(path), str(error.strerror))


def show(found: Iterable[Prediction | Skipped], *, as_csv: bool = False, as_json: bool = False) -> None:
    """Print a line per image as it comes, or CSV, a row per class named; or one JSON object at the end.

    What was skipped is logged.

    Raises:
        DataError: at the end: there was no file, or some could not be read.
    """
    predictions, skipped, count = [], [], 0
    table = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        table.writerow(("file", "rank", "label", "probability"))
    for each in found:
        count += 1
        if isinstance(each, Skipped):
            logger.warning("skipped %s: %s", each.file, each.reason)
            skipped.append(each)
            continue
        name = each.file.encode(errors="replace").decode()  # a name may hold bytes that are no text
        if as_json:
            predictions.append(each)
        elif as_csv:
            table.writerows((name, rank, guess.label, guess.probability) for rank, guess in enumerate(each.top, 1))
        else:
            print(f"{name}: " + ", ".join(f"{guess.label} {100 * guess.probability:.1f}%" for guess in each.top))
        sys.stdout.flush()  # whoever reads a pipe sees it now, and whoever has closed it ends this
    if as_json:
        print(json.dumps({"predictions": list(map(asdict, predictions)), "skipped": list(map(asdict, skipped))}))
        sys.stdout.flush()
    if skipped:
        raise DataError(f"{len(skipped)} of {count} files could not be read; {skipped[0].file}: {skipped[0].reason}")
    if not count:
        raise DataError("there is no file to classify: the folders, or the lists, hold none")


def _recorded(run_dir: Path, result: RunResult) -> tuple[ExtractionSpec, int, int]:
    """The specification of the run's features, and the height and width of the images that they were made of.

    Where these are not recorded, as the images were files of any size, they are what the network takes.
    """
    try:
        spec = ExtractionSpec.from_json(json.dumps(result.spec))
        if spec.fingerprint != result.fingerprint:
            raise ValueError(f"the specification has the fingerprint {spec.fingerprint}, expected {result.fingerprint}")
        if unknown := set(result.layers) - set(spec.layers):
            raise ValueError(f"the specification has no layer {unknown.pop()}")
        height, width = map(int, result.source.get("image_shape", (spec.image_size, spec.image_size)))
        if min(height, width) < 1:
            raise ValueError(f"there are no images of {height} x {width} pixels")
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{run_dir / RESULT} cannot be used: {error}; {AGAIN}") from error
    return spec, height, width


def _extraction(spec: ExtractionSpec, result: RunResult) -> Callable[[np.ndarray], np.ndarray]:
    """What turns images uint8 (n, h, w, 3) into the columns that the head was trained on, float32 (n, d).

    The network is loaded for the first ones.
    """
    made: list[Extractor] = []

    def vectors(images: np.ndarray) -> np.ndarray:
        if not made:
            made.append(_extractor(spec, result, images[:CHECKED_IMAGES]))
        parts = zip(spec.layers, made[0].vectors(images), strict=True)
        columns = [part for layer, part in parts if layer in result.layers]
        found = np.concatenate(columns, axis=1, dtype=np.float32)
        if not np.isfinite(found).all():
            raise BackboneError(f"{spec.backbone} gave a value that is not finite for one of the images")
        return found

    return vectors


def _extractor(spec: ExtractionSpec, result: RunResult, images: np.ndarray) -> Extractor:
    """The recorded extractor, or the same in TensorFlow where its engine does not work on these images."""
    if kept := kept_extractor(spec):
        return kept
    backbone = recorded_backbone(spec, result.source)
    try:
        extractor = recorded_extractor(backbone, spec)
        extractor.vectors(images)
    except FrozenbenchError as error:
        if spec.engine in ("", REFERENCE):
            raise
        logger.warning("the engine %s cannot be used here, %s takes its place (%s)", spec.engine, REFERENCE, error)
        return recorded_extractor(backbone, spec, REFERENCE)
    try:
        keep_extractor(extractor)
    except OSError as error:
        logger.warning("the network could not be kept for the next time: %s", error)
    return extractor
