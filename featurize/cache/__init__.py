"""The feature cache: one sealed HDF5 file of vectors, labels and ids, and its unfinished shards.

May import: core.
"""

from featurize.cache.cache import (
    CacheInfo,
    Columns,
    FeatureRows,
    Features,
    began_with,
    check_same,
    discard_leftovers,
    features_folder,
    finish,
    load_features,
    new_cache,
    read_info,
    read_labels,
    read_rows,
)
from featurize.cache.shards import PLAN, SHARD_BYTES, SHARD_SECONDS, Shard, Shards
from featurize.cache.spec import ExtractionSpec

__all__ = [
    "PLAN",
    "SHARD_BYTES",
    "SHARD_SECONDS",
    "CacheInfo",
    "Columns",
    "ExtractionSpec",
    "FeatureRows",
    "Features",
    "Shard",
    "Shards",
    "began_with",
    "check_same",
    "discard_leftovers",
    "features_folder",
    "finish",
    "load_features",
    "new_cache",
    "read_info",
    "read_labels",
    "read_rows",
]
