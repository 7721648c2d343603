"""The report on a set of runs: tables, figures and an HTML page.

Exports `write_comparison`; `analysis.report.build` writes everything and is imported where it is used, as it loads
matplotlib.
May import: audit, findings, figures, frame, page, classify.runs, featurize.core, featurize.cache.
"""

from analysis.report.tables import write_comparison

__all__ = ["write_comparison"]
