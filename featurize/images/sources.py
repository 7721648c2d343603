"""Data sets by the name or path that the command line takes: one line for each kind."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurize.core.errors import DataError, UsageError, suggestion
from featurize.images.cifar10 import is_cifar10_folder, load_cifar10, load_cifar10_folder, load_sample
from featurize.images.dataset import ImageDataset
from featurize.images.folder import load_image_folder
from featurize.images.npz import load_npz

DATASETS: dict[str, Callable[[], ImageDataset]] = {"cifar10": load_cifar10, "sample": load_sample}


def load_dataset(source: str, test_fraction: float | None = None) -> ImageDataset:
    """Load labelled images.

    Args:
        source: `cifar10`, `sample`, a folder with CIFAR-10's binary files, a folder with one folder of image
            files for each class, or an `.npz` file.
        test_fraction: share of each class that is for testing, above 0 and below 1, if class folders have no
            splits; None for a fifth.

    Raises:
        UsageError: the source is neither a known name nor an existing path, or a test fraction is out of range or
            does not apply to it.
        DataError: the files are damaged or not of the expected layout.
        DownloadError: CIFAR-10 is missing and could not be downloaded.
    """
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UsageError(f"--test-fraction {test_fraction}: expected a number above 0 and below 1, such as 0.2")
    path = Path(source)
    if source not in DATASETS and path.is_dir() and not is_cifar10_folder(path):
        return replace(load_image_folder(path, test_fraction), source=str(path.resolve()))
    if test_fraction is not None:
        raise UsageError(f"--test-fraction: {source} has splits of its own; leave out the option")
    if source in DATASETS:
        return replace(DATASETS[source](), source=source)
    if not path.exists():
        raise UsageError(f"--data {source}: no such file or folder; {suggestion(source, list(DATASETS))}")
    if path.is_dir():
        return replace(load_cifar10_folder(path), source=str(path.resolve()))
    if path.suffix == ".npz" and path.is_file():
        return replace(load_npz(path), source=str(path.resolve()))
    raise DataError(f"{path} is neither a folder nor an .npz file; see --data in python -m featurize --help")


def recorded_dataset(source: Mapping[str, Any]) -> ImageDataset:
    """Load the images of a cache or a run again, with their splits.

    Args:
        source: the record in the cache or the run.

    Raises:
        FrozenbenchError: as `load_dataset`.
    """
    return load_dataset(str(source["data"]), source.get("test_fraction"))
