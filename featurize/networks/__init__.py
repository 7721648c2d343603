"""Frozen networks: loaded, cut off behind the tapped layers, their activations pooled.

`applications` and `onnx_file` know where networks come from, `backbone` loads one, `catalogue` describes them.

May import: core.
"""

from featurize.networks.applications import PIXELS, preprocessed
from featurize.networks.backbone import Backbone, load_backbone, request, usual_image_size
from featurize.networks.pooling import check_pool, mirrored, pooled

__all__ = [
    "PIXELS",
    "Backbone",
    "check_pool",
    "load_backbone",
    "mirrored",
    "pooled",
    "preprocessed",
    "request",
    "usual_image_size",
]
