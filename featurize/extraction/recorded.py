"""The backbone and the extractor that a cache records, loaded again."""

from typing import Any

import numpy as np

from featurize.cache import IMPORTED, ExtractionSpec
from featurize.core.errors import BackboneError
from featurize.engines import REFERENCE, choose_engine
from featurize.extraction.extractor import Extractor
from featurize.networks import Backbone, load_backbone


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


def recorded_extractor(backbone: Backbone, spec: ExtractionSpec, engine: str = "") -> Extractor:
    """The extractor that a cache was made with, or the same with another engine.

    Args:
        backbone: from `recorded_backbone`.
        spec: the cache's specification.
        engine: one of `choice.ENGINES`; the cache's own if empty.

    Raises:
        UsageError: the engine is not available.
    """
    no_images = np.empty((0, spec.image_size, spec.image_size, 3), np.uint8)  # only `auto` compares on images
    return Extractor(backbone, choose_engine(backbone, engine or spec.engine or REFERENCE, no_images), spec)
