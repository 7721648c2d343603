"""Stage 1 itself: images through a network into a cache.

May import: cache, engines, networks, images, core.
"""

from featurize.extraction.extract import (
    Compute,
    Extraction,
    Extractor,
    Plan,
    carry_out,
    estimate,
    extract_features,
    plan_extraction,
    recorded_backbone,
    recorded_extractor,
)

__all__ = [
    "Compute",
    "Extraction",
    "Extractor",
    "Plan",
    "carry_out",
    "estimate",
    "extract_features",
    "plan_extraction",
    "recorded_backbone",
    "recorded_extractor",
]
