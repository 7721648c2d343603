"""Stage 1 itself: images go through a network into a cache.

`plan` settles what will happen, `loop` does it here and `distributed` on a cluster, `growth` adds new images to known
ones without Keras, `extractor` turns images into vectors, `certificate` measures what a lower precision costs,
`transformer` is the step of a scikit-learn pipeline, and `saved_networks` starts quickly for predictions.

May import: cache, engines, winograd, networks, images, core.
"""

from featurize.extraction.extractor import Extractor, check_not_imported, recorded_backbone, recorded_extractor
from featurize.extraction.growth import grown_without_keras
from featurize.extraction.loop import Compute, Extraction, carry_out, compute_here, extract_features
from featurize.extraction.plan import (
    Estimate,
    ExtractionOptions,
    Plan,
    default_name,
    estimate,
    finished_before,
    plan_extraction,
    rows_of_other_caches,
)

__all__ = [
    "Compute",
    "Estimate",
    "Extraction",
    "ExtractionOptions",
    "Extractor",
    "Plan",
    "carry_out",
    "check_not_imported",
    "compute_here",
    "default_name",
    "estimate",
    "extract_features",
    "finished_before",
    "grown_without_keras",
    "plan_extraction",
    "recorded_backbone",
    "recorded_extractor",
    "rows_of_other_caches",
]
