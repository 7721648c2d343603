"""Labelled images: where they come from, how they are decoded and resized.

May import: core.
"""

from featurize.images.datasets import ImageDataset, Split, class_counts, load_dataset
from featurize.images.decode import read_image
from featurize.images.folder import ImageFiles
from featurize.images.resize import check_aspect, check_kernel, resized

__all__ = [
    "ImageDataset",
    "ImageFiles",
    "Split",
    "check_aspect",
    "check_kernel",
    "class_counts",
    "load_dataset",
    "read_image",
    "resized",
]
