"""The heads, one module each, and the registry that builds them.

May import: estimators, featurize.core, featurize.cache.
"""

from classify.heads.own import code_digest, imported, is_own, types_in
from classify.heads.registry import (
    ALL,
    COMPONENTS_FOR_TREES,
    FOLDED,
    FOLDS,
    HEADS,
    HEADS_IN_BLOCKS,
    Task,
    estimator_name,
    head_names,
    make_head,
    signed_root,
)

__all__ = [
    "ALL",
    "COMPONENTS_FOR_TREES",
    "FOLDED",
    "FOLDS",
    "HEADS",
    "HEADS_IN_BLOCKS",
    "Task",
    "code_digest",
    "estimator_name",
    "head_names",
    "imported",
    "is_own",
    "make_head",
    "signed_root",
    "types_in",
]
