"""Stage 3: from run directories to tables, figures and a report."""

from analysis.frame import comparison
from analysis.report import write_comparison

__all__ = ["comparison", "write_comparison"]
