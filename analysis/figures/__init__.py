"""How it looks: charts, and pictures of the images themselves.

`style` holds palette, axes and saving; `charts`, `confusion` and `gallery` draw on the Axes that they are given;
`pictures` reads the images and vectors behind a run.
May import: frame, classify.runs, classify.statistics, featurize.core, featurize.cache, featurize.images.
"""
