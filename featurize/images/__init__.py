"""Labelled images: where they come from, how they are decoded and resized.

`sources` finds a data set by its name: `cifar10`, `folder` or `arrays` read it, and `dataset` says what it is.
`files` are image files that stay on disk; `decode`, `resize` and `downloads` do what they say.

May import: core.
"""

from featurize.images.dataset import ImageDataset, Images, PixelArray, Split, class_counts
from featurize.images.decode import MAX_PIXELS, read_image
from featurize.images.resize import check_aspect, check_kernel, resized
from featurize.images.sources import load_dataset, recorded_dataset
from featurize.images.splitting import assign_folds

__all__ = [
    "MAX_PIXELS",
    "ImageDataset",
    "Images",
    "PixelArray",
    "Split",
    "assign_folds",
    "check_aspect",
    "check_kernel",
    "class_counts",
    "load_dataset",
    "read_image",
    "recorded_dataset",
    "resized",
]
