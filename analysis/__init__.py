"""Stage 3: from run directories to tables and plots."""

from analysis.frame import comparison, write_comparison

__all__ = ["comparison", "write_comparison"]
