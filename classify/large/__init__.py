"""Rows that exceed memory: read in blocks, fitted in blocks, trees boosted on a cluster.

Exports the features in blocks, and how much memory there is and a fit takes.

May import: estimators, heads, featurize.core, featurize.cache.
"""

from classify.large.blocks import FeatureBlocks, Share, blocks_of, shares
from classify.large.memory import memory_limit, memory_needed, worker_memory
from classify.large.workers import work_pool

__all__ = [
    "FeatureBlocks",
    "Share",
    "blocks_of",
    "memory_limit",
    "memory_needed",
    "shares",
    "work_pool",
    "worker_memory",
]
