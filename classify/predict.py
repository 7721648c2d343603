"""New images through a finished run: image file -> the recorded extraction -> saved head -> class and probability."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from classify.persist import AGAIN, HEAD, load_head
from classify.results import RESULT, RunResult
from featurize.decode import read_image
from featurize.engine import REFERENCE, default_batch_size
from featurize.errors import BackboneError, DataError, FrozenbenchError
from featurize.extract import Extractor, recorded_backbone, recorded_extractor
from featurize.spec import ExtractionSpec

logger = logging.getLogger("frozenbench")


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


@dataclass(frozen=True)
class Predictions:
    """What came of each file, in the order in which they were given."""

    predictions: list[Prediction]
    skipped: list[Skipped]


def predict_images(run_dir: Path, paths: Sequence[Path], top: int = 5) -> Predictions:
    """Classify image files with the head of a run.

    Args:
        run_dir: the directory of a finished run.
        paths: of the image files.
        top: classes to name for each image, at least 1.

    Raises:
        DataError: the run is damaged, or none of the files is an image.
        BackboneError: the weights are no longer those of the run, or cannot be loaded.
        UsageError: the run's backbone is no longer there.
    """
    result = RunResult.read(run_dir)
    spec, height, width = _recorded(run_dir, result)
    head = load_head(run_dir / HEAD, result.head_sha256)
    kernel = "bicubic" if "image_shape" in result.source else spec.resize
    read, images, skipped = [], [], []
    for path in paths:
        try:
            images.append(read_image(path, height, width, kernel, spec.aspect))
            read.append(path)
        except DataError as error:
            skipped.append(Skipped(str(path), str(error)))
    if not images:
        raise DataError(f"none of the {len(paths)} files can be classified; {skipped[0].file}: {skipped[0].reason}")
    vectors = _vectors(spec, result, np.stack(images))
    try:
        probabilities = head.predict_proba(vectors)
        names = [result.class_names[label] for label in head.classes_]
    except (AttributeError, IndexError, TypeError, ValueError) as error:  # another version's, or another run's
        raise DataError(f"{run_dir / HEAD} does not work on this run's vectors ({error}); {AGAIN}") from error
    predictions = []
    for path, row in zip(read, probabilities, strict=True):
        best = [Guess(names[place], float(row[place])) for place in np.argsort(-row, kind="stable")[:top]]
        predictions.append(Prediction(str(path), best[0].label, best[0].probability, best))
    return Predictions(predictions, skipped)


def show(found: Predictions, *, as_json: bool) -> None:
    """Print a line per image on standard output, or one JSON object; what was skipped is logged."""
    for skipped in found.skipped:
        logger.warning("skipped %s: %s", skipped.file, skipped.reason)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    for prediction in found.predictions:
        guesses = ", ".join(f"{guess.label} {100 * guess.probability:.1f}%" for guess in prediction.top)
        name = prediction.file.encode(errors="replace").decode()  # a name may hold bytes that are no text
        print(f"{name}: {guesses}")


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


def _vectors(spec: ExtractionSpec, result: RunResult, images: np.ndarray) -> np.ndarray:
    """Images uint8 (n, h, w, 3) -> the columns that the head was trained on, float32 (n, d)."""
    backbone = recorded_backbone(spec, result.source)
    try:
        vectors = _computed(recorded_extractor(backbone, spec), result.layers, images)
    except FrozenbenchError as error:
        if spec.engine in ("", REFERENCE):
            raise
        logger.warning("the engine %s cannot be used here, %s takes its place (%s)", spec.engine, REFERENCE, error)
        vectors = _computed(recorded_extractor(backbone, spec, REFERENCE), result.layers, images)
    if not np.isfinite(vectors).all():
        raise BackboneError(f"{spec.backbone} gave a value that is not finite for one of the images")
    return vectors


def _computed(extractor: Extractor, layers: Sequence[str], images: np.ndarray) -> np.ndarray:
    """The columns of some layers, float32 (n, d), batch by batch."""
    size, blocks = default_batch_size(extractor.spec.image_size), []
    for start in range(0, len(images), size):
        parts = zip(extractor.spec.layers, extractor.vectors(images[start : start + size]), strict=True)
        blocks.append(np.concatenate([part for layer, part in parts if layer in layers], axis=1))
    return np.concatenate(blocks, dtype=np.float32)
