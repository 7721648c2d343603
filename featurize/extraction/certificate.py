"""What a lower precision costs on the user's own images, found before the extraction.

Only training images are looked at. Half of a sample trains logistic regressions, one on vectors in float32 and one on
vectors in the lower precision; the other half is held out and compares them.
"""

import dataclasses
import json
import logging
from contextlib import suppress
from dataclasses import replace

import numpy as np

from featurize.cache import Certificate, ExtractionSpec, TakenRows
from featurize.core.errors import BackboneError
from featurize.core.files import data_root, seal, sealed
from featurize.core.intervals import paired_interval
from featurize.core.records import record
from featurize.engines import CHECKED_IMAGES, relative_errors, tensorflow_engine
from featurize.extraction.extractor import Extractor, recorded_extractor, vector_blocks
from featurize.images import ImageDataset, Split

logger = logging.getLogger("frozenbench")
SAMPLE = 2000  # training images
LEAST_HELD_OUT = 20  # fewer images say nothing
CALIBRATION_IMAGES = 128
ALLOWED_LOSS = 0.005  # of the accuracy
REGULARISATION = 0.01  # C of the logistic regressions, as in the head `logreg`


def calibration_images(dataset: ImageDataset, spec: ExtractionSpec) -> np.ndarray:
    """The images from which int8 takes its scales: up to 128 training images, evenly spaced, uint8 (n, size, size, 3).

    Args:
        dataset: images and labels.
        spec: its size, resize filter and aspect are used.
    """
    split = _training(dataset)
    rows = _evenly_spaced(len(split), CALIBRATION_IMAGES)
    pixels, skipped = split.images[rows].read(spec.image_size, spec.resize, spec.aspect)
    return np.delete(pixels, list(skipped), axis=0)


def certified(
    extractor: Extractor, dataset: ImageDataset, *, accept_loss: bool = False, known: Certificate | None = None
) -> Certificate:
    """The certificate of an extractor of lower precision, remembered in the data folder.

    Args:
        extractor: of the lower precision.
        dataset: the user's images.
        accept_loss: go on where the accuracy is lower.
        known: the certificate of most of these images, in place of a measurement.

    Raises:
        BackboneError: the accuracy is lower by more than 0.5 points, with certainty.
    """
    folder, identity = data_root() / "engines", ["certificate", extractor.spec.fingerprint]
    if known:
        certificate = known
    elif found := sealed(folder, identity, ".json"):
        _, content = found
        certificate = record(Certificate, json.loads(content))
    else:
        logger.info("comparing %s with float32 on training images", extractor.spec.precision)
        certificate = _measured(extractor, dataset)
        with suppress(OSError):  # it is measured again next time
            seal(folder, identity, ".json", json.dumps(dataclasses.asdict(certificate)).encode())
    logger.info("%s: %s", extractor.spec.precision, certificate.in_words)
    if certificate.high is not None and certificate.high < -ALLOWED_LOSS and not accept_loss:
        raise BackboneError(
            f"{extractor.spec.precision} loses accuracy on these images ({certificate.in_words}); use --precision "
            "float32, or go on with --accept-loss"
        )
    return certificate


def kept_certificate(taken: TakenRows) -> Certificate | None:
    """The certificate of the cache from which most vectors come, if that is at least half of them."""
    if taken.main is None or 2 * max(taken.counts) < taken.total:
        return None
    return taken.main.info.certificate


def _measured(extractor: Extractor, dataset: ImageDataset) -> Certificate:
    split = _training(dataset)
    batch, _ = extractor.read(split.images[:CHECKED_IMAGES])
    expected = tensorflow_engine(extractor.backbone)(batch)
    errors = relative_errors(extractor.engine.run(batch), expected)
    relative_error = dict(zip(extractor.spec.layers, errors, strict=True))
    sample = split[_evenly_spaced(len(split), SAMPLE)]
    exact = replace(extractor.spec, precision="float32", calibration="")
    reference = recorded_extractor(extractor.backbone, exact)
    ours, theirs = (_vectors(each, sample) for each in (extractor, reference))
    usable = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)  # without skipped images
    fitted, held_out = _halves(sample.labels, usable)
    if len(held_out) < LEAST_HELD_OUT:
        return Certificate(relative_error)
    labels = sample.labels
    predictions = [_predicted(x[fitted], labels[fitted], x[held_out]) for x in (ours, theirs)]
    correct = [predicted == labels[held_out] for predicted in predictions]
    only_ours, only_theirs = (correct[0] & ~correct[1]).sum(), (correct[1] & ~correct[0]).sum()
    rows = len(held_out)
    low, high = paired_interval(int(only_ours), int(only_theirs), rows)
    changed = float((predictions[0] != predictions[1]).mean())
    return Certificate(relative_error, rows, changed, float(only_ours - only_theirs) / rows, low, high)


def _training(dataset: ImageDataset) -> Split:
    """The training images; in a data set of folds the first ones."""
    return dataset.splits.get("train") or next(iter(dataset.splits.values()))


def _evenly_spaced(rows: int, count: int) -> np.ndarray:
    """At most `count` of the row numbers, ascending."""
    return np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(np.int64))


def _vectors(extractor: Extractor, split: Split) -> np.ndarray:
    blocks = vector_blocks(extractor, "train", split, CALIBRATION_IMAGES)
    return np.concatenate(list(blocks)).astype(np.float32)


def _halves(labels: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows to fit on and those that are held out: every other usable row of each class with two of them."""
    fitted, held_out = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(usable & (labels == label))
        if len(rows) >= 2:
            fitted.append(rows[::2])
            held_out.append(rows[1::2])
    if len(fitted) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(fitted), np.concatenate(held_out)


def _predicted(x: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The classes that a logistic regression predicts for held-out vectors."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
    return np.asarray(head.fit(x, y).predict(held_out))
