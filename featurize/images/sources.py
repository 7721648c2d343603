"""Data sets by the name or path that the command line takes: one line for each kind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from featurize.core.errors import DataError, UsageError, suggestion
from featurize.images.cifar10 import is_cifar10_folder, load_cifar10, load_cifar10_folder, load_sample
from featurize.images.dataset import ImageDataset
from featurize.images.folder import load_image_folder
from featurize.images.npz import load_npz

DATASETS: dict[str, Callable[[], ImageDataset]] = {"cifar10": load_cifar10, "sample": load_sample}


def load_dataset(source: str) -> ImageDataset:
    """Load labelled images.

    Args:
        source: `cifar10`, `sample`, a folder with CIFAR-10's binary files, a folder with one folder of image
            files for each class, or an `.npz` file.

    Raises:
        UsageError: the source is neither a known name nor an existing path.
        DataError: the files are damaged or not of the expected layout.
        DownloadError: CIFAR-10 is missing and could not be downloaded.
    """
    if source in DATASETS:
        return replace(DATASETS[source](), source=source)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"--data {source}: no such file or folder; {suggestion(source, list(DATASETS))}")
    if path.is_dir():
        load = load_cifar10_folder if is_cifar10_folder(path) else load_image_folder
    elif path.suffix == ".npz" and path.is_file():
        load = load_npz
    else:
        raise DataError(f"{path} is neither a folder nor an .npz file; see --data in python -m featurize --help")
    return replace(load(path), source=str(path.resolve()))
