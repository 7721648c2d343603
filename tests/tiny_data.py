"""Tiny data sets, vectors and feature caches."""

from pathlib import Path

import numpy as np

from featurize.cache import CacheContent, Columns, SplitRecords, open_writer
from featurize.cache.spec import ExtractionSpec
from featurize.images import ImageDataset, Split
from featurize.images.cifar10 import RECORD

FACTS = {"seconds": 1.0, "images_per_second": 180.0, "device": "CPU", "source": {}}
CLASSES = ("ant", "bee", "cow")
LAYERS = (Columns("early", 0, (10,)), Columns("late", 10, (1, 2, 3)))


def make_dataset(train: int = 120, test: int = 60, size: int = 8, seed: int = 0, name: str = "tiny") -> ImageDataset:
    """Random images of three classes; ids do not start at zero."""
    random = np.random.default_rng(seed)
    splits = {}
    for split, count, start in (("train", train, 1000), ("test", test, 5000)):
        images = random.integers(0, 256, (count, size, size, 3), np.uint8)
        splits[split] = Split(images, np.arange(count) % len(CLASSES), start + np.arange(count))
    return ImageDataset(name, CLASSES, splits)


def make_spec(dataset: ImageDataset, **changes: object) -> ExtractionSpec:
    """The specification of a tiny cache, with some fields changed."""
    values = {
        "dataset_digest": dataset.digest,
        "backbone": "tinynet",
        "weights_digest": "ab" * 32,
        "layers": ("early", "late"),
        "pool": "avg",
        "image_size": 8,
        "resize": "bicubic",
        "aspect": "crop",
        "flip": False,
        "preprocess": "none",
        "dtype": "float32",
        "engine": "tensorflow",
        "engine_version": "0",
    }
    return ExtractionSpec(**{**values, **changes})  # type: ignore[arg-type]


def content_of(dataset: ImageDataset, layers: tuple[Columns, ...] = LAYERS) -> CacheContent:
    """Everything in a cache of this data set but the features."""
    splits = {name: SplitRecords(split.labels, split.ids, split.digest) for name, split in dataset.splits.items()}
    return CacheContent(dataset.name, dataset.class_names, "imagenet", layers, splits)


def make_vectors(split: Split, noise: float = 1.3, seed: int = 0) -> np.ndarray:
    """Vectors (n, 16), float32, that separate the three classes fairly well."""
    centres = np.random.default_rng(99).normal(size=(len(CLASSES), 16))
    scatter = np.random.default_rng(seed).normal(size=(len(split), 16))
    return (centres[split.labels] + noise * scatter).astype(np.float32)


def write_tiny_cache(path: Path, noise: float = 1.3, dataset: ImageDataset | None = None, **changes: object) -> Path:
    """Write a feature cache in the real format, without a network; returns its path."""
    dataset = dataset or make_dataset()
    spec = make_spec(dataset, **changes)
    with open_writer(path, spec, content_of(dataset)) as writer:
        for number, (name, split) in enumerate(dataset.splits.items()):
            for start, stop in writer.missing(name):
                writer.shards.add(name, start, make_vectors(split, noise, seed=number)[start:stop])
        writer.commit(**FACTS)
    return path


def save_npz(path: Path, dataset: ImageDataset, **changes: np.ndarray) -> Path:
    """Save a data set as x_train, y_train, x_test and y_test, with some arrays changed; returns the path."""
    arrays = {}
    for name, split in dataset.splits.items():
        arrays[f"x_{name}"] = np.asarray(split.images)
        arrays[f"y_{name}"] = split.labels
    np.savez(path, **{**arrays, **changes})
    return path


def write_batch(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """CIFAR-10's binary records: a label byte, then the red, green and blue plane."""
    records = np.empty((len(labels), RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(records.tobytes())
