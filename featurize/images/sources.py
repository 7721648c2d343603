"""Data sets by the name or path that the command line takes: one line for each kind."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from featurize.core.errors import DataError, UsageError, suggestion
from featurize.images.cifar10 import is_cifar10_folder, load_cifar10, load_cifar10_folder, load_sample
from featurize.images.dataset import ImageDataset
from featurize.images.folder import load_image_folder
from featurize.images.splitting import SplitOptions

DATASETS: dict[str, Callable[[], ImageDataset]] = {"cifar10": load_cifar10, "sample": load_sample}


def load_dataset(
    source: Path | str,
    test_fraction: float | None = None,
    *,
    folds: int | None = None,
    groups: Path | str | None = None,
    labels: Path | str | None = None,
    max_pixels: int | None = None,
) -> ImageDataset:
    """Load labelled images. All options but the source are for folders of image files without splits.

    Args:
        source: `cifar10`, `sample`, a folder with CIFAR-10's binary files, a folder with one folder of image
            files for each class, or an `.npz` file.
        test_fraction: share of each class that is for testing, above 0 and below 1; None for a fifth.
        folds: number of folds of a cross-validation, in which every image is tested once; None for one test split.
        groups: a regular expression that finds the name of an image's group in its path, or a CSV file with the
            columns `path` and `group`; a group is never divided.
        labels: a CSV file with the columns `path` and `label`, and optionally `split` and `group`, in place of
            class folders.
        max_pixels: pictures of more pixels are skipped; None for 89 million.

    Raises:
        UsageError: the source is neither a known name nor an existing path, or an option is out of range or
            does not apply to it.
        DataError: the files are damaged or not of the expected layout.
        DownloadError: CIFAR-10 is missing and could not be downloaded.
    """
    options = SplitOptions(
        test_fraction,
        folds,
        None if groups is None else str(groups),
        None if labels is None else str(labels),
        max_pixels,
    )
    source = str(source)
    path = Path(source)
    if source not in DATASETS and path.is_dir() and not is_cifar10_folder(path):
        return replace(load_image_folder(path, options), source=str(path.resolve()))
    for name in options.given():
        raise UsageError(f"--{name.replace('_', '-')}: {source} has splits and labels of its own; leave out the option")
    if source in DATASETS:
        return replace(DATASETS[source](), source=source)
    if not path.exists():
        raise UsageError(f"--data {source}: no such file or folder; {suggestion(source, list(DATASETS))}")
    if path.is_dir():
        return replace(load_cifar10_folder(path), source=str(path.resolve()))
    if path.suffix == ".npz" and path.is_file():
        return replace(ImageDataset.from_npz(path), source=str(path.resolve()))
    raise DataError(f"{path} is neither a folder nor an .npz file")


def recorded_dataset(source: Mapping[str, Any]) -> ImageDataset:
    """Load the images of a cache or a run again, with their splits.

    Args:
        source: the record in the cache or the run.

    Raises:
        DataError: the images were passed from Python, so that only that program has them.
        FrozenbenchError: as `load_dataset`.
    """
    if not source.get("data"):
        if imported := source.get("imported"):
            raise DataError(f"the vectors were imported from {imported}, so their images are not known")
        raise DataError(
            "the images were passed from Python and are not on disk, so they cannot be read again; for that, save "
            "them with np.savez or in class folders, and use load_dataset"
        )
    options = {field.name: source[field.name] for field in fields(SplitOptions) if field.name in source}
    return load_dataset(str(source["data"]), **options)
