"""Stage 1: run a frozen network over images once and cache its vectors."""

from featurize.backbone import Backbone, load_backbone
from featurize.cache import CacheInfo, Features, load_features, read_info
from featurize.datasets import ImageDataset, Split, load_dataset
from featurize.errors import FrozenbenchError
from featurize.extract import Extraction, extract_features
from featurize.spec import ExtractionSpec

__all__ = [
    "Backbone",
    "CacheInfo",
    "Extraction",
    "ExtractionSpec",
    "Features",
    "FrozenbenchError",
    "ImageDataset",
    "Split",
    "extract_features",
    "load_backbone",
    "load_dataset",
    "load_features",
    "read_info",
]
