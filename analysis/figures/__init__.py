"""How it looks: charts, and pictures of the images themselves.

May import: frame, classify.runs, classify.statistics, featurize.core, featurize.cache, featurize.images.
"""
