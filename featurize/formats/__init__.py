"""Vectors in the files of other programs: out of a feature cache, and into one.

`rows` reads a cache block by block; `tables`, `arrays` and `projector` write what it reads, and `export` picks one of
them. `sources` reads the same formats, and `imported` makes a cache of what it reads.

May import: cache, images, core.
"""

from featurize.formats.export import export_features
from featurize.formats.imported import import_features

__all__ = ["export_features", "import_features"]
