"""The HTML report of a set of runs.

May import: findings, figures, frame, classify.runs, featurize.core, featurize.cache.
"""
