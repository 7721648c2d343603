"""What is wrong with the data: suspected labels, copies and strangers, found in the vectors of a cache.

`noise` estimates which labels are wrong, and `suspects` ranks them; `pictures` are read for `copies`, whose effect on
the runs `leaks` measures, and for `strangers`; `tables` and `page` write everything, and `build` does it all.
Exports `audit_folder`, `read_summary`, `PAGE` and `SUSPECTS`; `analysis.audit.build` is imported where it is used, as
it loads scikit-learn.
May import: page, classify.large, classify.heads, classify.runs, featurize.cache, featurize.images, featurize.core.
"""

from analysis.audit.tables import PAGE, SUSPECTS, audit_folder, read_summary

__all__ = ["PAGE", "SUSPECTS", "audit_folder", "read_summary"]
