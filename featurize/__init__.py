"""Stage 1: run a frozen network over images once and cache its vectors."""

from typing import TYPE_CHECKING, Any

from featurize.cache import CacheInfo, ExtractionSpec, Features, load_features, read_info
from featurize.core.environment import package_attribute
from featurize.core.errors import FrozenbenchError
from featurize.extraction import Extraction, extract_features
from featurize.formats import export_features, import_features
from featurize.images import ImageDataset, Split, load_dataset
from featurize.networks import Backbone, load_backbone

if TYPE_CHECKING:
    from featurize.extraction.transformer import FrozenFeatures

__all__ = [
    "Backbone",
    "CacheInfo",
    "Extraction",
    "ExtractionSpec",
    "Features",
    "FrozenFeatures",
    "FrozenbenchError",
    "ImageDataset",
    "Split",
    "export_features",
    "extract_features",
    "import_features",
    "load_backbone",
    "load_dataset",
    "load_features",
    "read_info",
]


def __getattr__(name: str) -> Any:
    if name == "FrozenFeatures":  # when it is asked for: it loads scikit-learn
        from featurize.extraction.transformer import FrozenFeatures

        return FrozenFeatures
    return package_attribute(__name__, name)
