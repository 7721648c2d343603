"""The feature cache: one sealed HDF5 file of vectors, labels and ids, and its unfinished shards.

`spec` is the fingerprint, `format` the bytes, `features` what a cache holds; `reader` and `writer` do what they
say, `shards` are unfinished extractions, `linked` large caches, `header` what stands beside the features, `reuse` finds
vectors in other caches.

May import: core.
"""

from featurize.cache.existing import (
    discard_leftovers,
    find_cache,
    finished_cache,
    matching_cache,
    recorded_names,
    recorded_spec,
)
from featurize.cache.features import CacheInfo, Certificate, Columns, FeatureRows, Features, Source
from featurize.cache.header import CacheContent, SplitRecords
from featurize.cache.reader import features_folder, load_features, read_info, read_labels, read_paths, read_rows
from featurize.cache.reuse import TakenRows, lost_rows, taken_rows
from featurize.cache.shards import PLAN, Shard, Shards
from featurize.cache.spec import IMPORTED, ExtractionSpec, explain_difference
from featurize.cache.writer import CacheWriter, open_writer

__all__ = [
    "IMPORTED",
    "PLAN",
    "CacheContent",
    "CacheInfo",
    "CacheWriter",
    "Certificate",
    "Columns",
    "ExtractionSpec",
    "FeatureRows",
    "Features",
    "Shard",
    "Shards",
    "Source",
    "SplitRecords",
    "TakenRows",
    "discard_leftovers",
    "explain_difference",
    "features_folder",
    "find_cache",
    "finished_cache",
    "load_features",
    "lost_rows",
    "matching_cache",
    "open_writer",
    "read_info",
    "read_labels",
    "read_paths",
    "read_rows",
    "recorded_names",
    "recorded_spec",
    "taken_rows",
]
