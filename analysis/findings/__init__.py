"""What the runs say about transfer learning.

May import: frame, classify.runs, classify.statistics, featurize.core.
"""

from analysis.findings.claims import claims

__all__ = ["claims"]
