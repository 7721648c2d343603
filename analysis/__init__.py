"""Stage 3: from run directories to tables and plots."""

from analysis.tables import comparison, write_comparison

__all__ = ["comparison", "write_comparison"]
