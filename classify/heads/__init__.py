"""The heads, one module each, and the registry that builds them.

May import: featurize.core, featurize.cache.
"""

from classify.heads.registry import (
    ALL,
    COLUMNS_FOR_TREES,
    FOLDED,
    FOLDS,
    HEADS,
    HEADS_IN_BLOCKS,
    Task,
    head_names,
    make_head,
    signed_root,
)

__all__ = [
    "ALL",
    "COLUMNS_FOR_TREES",
    "FOLDED",
    "FOLDS",
    "HEADS",
    "HEADS_IN_BLOCKS",
    "Task",
    "head_names",
    "make_head",
    "signed_root",
]
