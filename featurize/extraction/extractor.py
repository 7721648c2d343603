"""Images -> vectors: a frozen backbone, the engine that runs it, and the pooling of its activations.

An extractor that a cache records can be loaded again.
"""

import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurize.cache import IMPORTED, ExtractionSpec
from featurize.core.errors import BackboneError
from featurize.engines import REFERENCE, Choice, choose_engine, gpu
from featurize.images import Images, Split, resized
from featurize.networks import Backbone, load_backbone, mirrored, pooled


@dataclass(frozen=True)
class Extractor:
    """Turns images into vectors.

    Attributes:
        backbone: the frozen network.
        engine: runs it.
        spec: every other choice: size, resize filter, pooling, mirror averaging, stored type.
    """

    backbone: Backbone
    engine: Choice
    spec: ExtractionSpec

    def read(self, images: Images) -> tuple[np.ndarray, dict[int, str]]:
        """Images at the network's input size, uint8 (n, size, size, 3), and the skipped rows with their reasons."""
        return images.read(self.spec.image_size, self.spec.resize, self.spec.aspect)

    def vectors(self, images: np.ndarray) -> list[np.ndarray]:
        """The vectors of uint8 images (n, h, w, 3) of any size: (n, d) in the stored type, one array a layer."""
        with np.errstate(over="ignore"):  # too large for float16: reported with the image's id by the caller
            return [
                part.reshape(len(part), -1).astype(self.spec.dtype, copy=False) for part in self.activations(images)
            ]

    def activations(self, images: np.ndarray) -> list[np.ndarray]:
        """The pooled activations of each layer, float32: (n, rows, columns, c), or (n, c) without a grid."""
        spec = self.spec
        pixels = resized(images, spec.image_size, spec.resize, spec.aspect)
        parts = [pooled(activation, spec.pool) for activation in self.engine.run(pixels)]
        if not spec.flip:
            return parts
        flipped = np.ascontiguousarray(pixels[:, :, ::-1])
        averaged = []
        for part, activation in zip(parts, self.engine.run(flipped), strict=True):
            averaged.append((part + pooled(mirrored(activation), spec.pool)) / np.float32(2))
        return averaged


def vector_blocks(extractor: Extractor, name: str, split: Split, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the vectors (m, d) of each batch of images; the vector of a skipped image is NaN.

    A thread reads and resizes the next batch while the engine works on this one.

    Args:
        extractor: makes the vectors.
        name: of the split, for messages.
        split: the images, or some of them.
        batch_size: images per forward pass.

    Raises:
        BackboneError: a vector is not finite.
    """
    batches = [slice(start, start + batch_size) for start in range(0, len(split), batch_size)]
    with ThreadPoolExecutor(1) as pool:
        reading = [pool.submit(extractor.read, split.images[rows]) for rows in batches[:1]]
        for number, rows in enumerate(batches, start=1):
            images, skipped = reading.pop().result()
            if number < len(batches):
                reading.append(pool.submit(extractor.read, split.images[batches[number]]))
            parts = extractor.vectors(images)
            for layer, part in zip(extractor.spec.layers, parts, strict=True):
                _check_finite(part, layer, name, split.ids[rows])
            block = np.concatenate(parts, axis=1)
            block[list(skipped)] = np.nan
            yield block


def device_of(engine: str) -> str:
    """What an engine runs on in this process."""
    return (gpu() if engine == "tensorflow" else "") or f"CPU {platform.machine()}"


def recorded_backbone(spec: ExtractionSpec, source: dict[str, Any]) -> Backbone:
    """Load the backbone that a cache was made with.

    Args:
        spec: the cache's specification.
        source: the cache's record of where the backbone was loaded from.

    Raises:
        BackboneError: the weights cannot be loaded, or are no longer those of the cache.
        UsageError: the backbone no longer exists.
    """
    check_not_imported(spec, source)
    try:
        name = str(source["backbone"])
        weights = str(source["weights"])
        seed = int(source["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"the record does not say where {spec.backbone} was loaded from ({error!r}); make the features again with "
            "frozenbench featurize"
        ) from error
    backbone = load_backbone(
        name, weights=weights, layers=spec.layers, image_size=spec.image_size, preprocess=spec.preprocess, seed=seed
    )
    if backbone.weights_digest != spec.weights_digest:
        raise BackboneError(
            f"the weights at {weights} of {name} are no longer those that made the features: they have the digest "
            f"{backbone.weights_digest}, expected {spec.weights_digest}; put the old ones back, or make the features "
            "again with frozenbench featurize"
        )
    return backbone


def check_not_imported(spec: ExtractionSpec, source: dict[str, Any]) -> None:
    """Raise BackboneError if the vectors of a cache were imported, so that there is no network to run.

    Args:
        spec: the cache's specification.
        source: the cache's record of where its vectors come from.
    """
    if spec.engine == IMPORTED:
        raise BackboneError(
            f"the vectors of {spec.backbone} were imported from {source.get(IMPORTED)}: frozenbench cannot make such "
            "vectors of new images; make the features with frozenbench featurize --backbone to classify images"
        )


def recorded_extractor(
    backbone: Backbone, spec: ExtractionSpec, engine: str = "", calibration: np.ndarray | None = None
) -> Extractor:
    """The extractor that a cache was made with, or the same with another engine.

    Args:
        backbone: from `recorded_backbone`.
        spec: the cache's specification.
        engine: one of `choice.ENGINES`, in float32; the cache's own if empty.
        calibration: the images from which int8 takes its scales.

    Raises:
        UsageError: the engine is not available.
    """
    no_images = np.empty((0, spec.image_size, spec.image_size, 3), np.uint8)  # only `auto` compares on images
    choice = choose_engine(
        backbone,
        engine or spec.engine or REFERENCE,
        no_images,
        precision="float32" if engine else spec.precision,
        calibration=calibration,
    )
    return Extractor(backbone, choice, spec)


def _check_finite(part: np.ndarray, layer: str, split: str, ids: np.ndarray) -> None:
    finite = np.isfinite(part).all(axis=1)
    if not finite.all():
        raise BackboneError(
            f"layer {layer} gave a value that is not finite as {part.dtype} for the {split} image "
            f"{ids[int(np.argmin(finite))]}; check the weights and --preprocess, or store --dtype float32"
        )
