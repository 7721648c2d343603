"""Rows that exceed memory: read in blocks, fitted in blocks, trees boosted on a cluster.

May import: heads, featurize.core, featurize.cache.
"""

from classify.large.blocks import FeatureBlocks, Share, memory_limit, memory_needed, shares, team, worker_memory

__all__ = ["FeatureBlocks", "Share", "memory_limit", "memory_needed", "shares", "team", "worker_memory"]
