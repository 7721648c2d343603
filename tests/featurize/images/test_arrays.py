"""Images that come from Python: arrays, and data sets of other libraries."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import make_dataset, save_npz

from featurize import ImageDataset, extract_features, load_backbone, load_dataset
from featurize.core.errors import DataError, UsageError
from featurize.verify import verify

SPLITS = make_dataset(6, 3).splits
X_TRAIN, Y_TRAIN = np.asarray(SPLITS["train"].images), SPLITS["train"].labels
X_TEST, Y_TEST = np.asarray(SPLITS["test"].images), SPLITS["test"].labels
NAMES = ["ant", "bee", "cow"]


class Pictures:
    """Pairs of a Pillow image and a label, as torchvision's data sets; an iteration over it does not end by itself."""

    def __init__(self, images: Any, labels: Any, classes: Any = None) -> None:
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        image = self.images[row % len(self)]
        return Image.fromarray(image) if isinstance(image, np.ndarray) else image, self.labels[row % len(self)]


class Table:
    """Rows with columns, as those of the library `datasets`."""

    def __init__(self, pictures: Pictures, names: Any = None) -> None:
        self.pictures = pictures
        self.column_names = ["img", "label"]
        self.features = {"label": SimpleNamespace(names=names)} if names else {}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return dict(zip(self.column_names, self.pictures[row], strict=True))


TRAIN, TEST = Pictures(X_TRAIN, Y_TRAIN, NAMES), Pictures(X_TEST, Y_TEST, NAMES)


def test_arrays(tmp_path: Path) -> None:
    dataset = ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST, Y_TEST, NAMES, "mine")
    assert (dataset.name, dataset.class_names, dataset.source) == ("mine", ("ant", "bee", "cow"), "")
    saved = save_npz(tmp_path / "mine.npz", dataset, class_names=np.array(NAMES))
    assert load_dataset(saved).digest == dataset.digest  # the same fingerprint as from a file
    assert np.shares_memory(np.asarray(dataset.splits["train"].images), X_TRAIN)


def test_arrays_like_those_of_other_libraries() -> None:
    words = np.array(["cow", "ant", "bee"], object)  # a column of pandas
    dataset = ImageDataset.from_arrays(X_TRAIN[..., 0], words[Y_TRAIN], X_TEST, words[Y_TEST].tolist())
    assert (dataset.name, dataset.class_names) == ("images", ("ant", "bee", "cow"))
    assert dataset.splits["test"].labels.tolist() == [2, 0, 1]
    assert dataset.splits["train"].images.shape == (8, 8)


def test_arrays_have_the_checks_of_a_file() -> None:
    with pytest.raises(DataError, match=r"^x_test is float64 \(3, 8, 8, 3\), expected uint8"):
        ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST / 255, Y_TEST)
    with pytest.raises(DataError, match="^y_test has 2 labels for 3 images of x_test"):
        ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST, Y_TEST[:2])
    with pytest.raises(DataError, match=r"^class_names is <U3 \(2,\), expected strings \(3,\)"):
        ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST, Y_TEST, NAMES[:2])
    for name in ("", "a/b"):
        with pytest.raises(UsageError, match="^name '.*': expected a name without slashes"):
            ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST, Y_TEST, name=name)


def test_features_of_arrays_cannot_be_computed_again(data_folder: Path) -> None:
    dataset = ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST, Y_TEST, NAMES, "mine")
    info = extract_features(dataset, load_backbone("pixels", image_size=8)).info
    assert info.path == data_folder / "features" / "mine-pixels-8px.h5"
    assert info.source["data"] == ""
    assert verify(info.path) == []
    with pytest.raises(DataError, match="the images were passed from Python and are not on disk"):
        verify(info.path, recompute=1)


def test_torchvision() -> None:
    dataset = ImageDataset.from_torchvision(TRAIN, TEST)
    assert dataset.digest == ImageDataset.from_arrays(X_TRAIN, Y_TRAIN, X_TEST, Y_TEST, NAMES).digest
    unnamed = ImageDataset.from_torchvision(Pictures(X_TRAIN[..., 0], Y_TRAIN), TEST, name="grey")
    assert (unnamed.name, unnamed.class_names) == ("grey", ("0", "1", "2"))
    np.testing.assert_array_equal(np.asarray(unnamed.splits["train"].images)[..., 2], X_TRAIN[..., 0])
    arrays = [list(zip(images, labels, strict=True)) for images, labels in ((X_TRAIN, Y_TRAIN), (X_TEST, Y_TEST))]
    assert ImageDataset.from_torchvision(*arrays).splits["train"].digest == dataset.splits["train"].digest


def test_rows_that_are_not_usable() -> None:
    images = [Image.fromarray(image) for image in X_TRAIN]
    several = Pictures([*images[:4], images[4].resize((5, 7)), images[5]], Y_TRAIN)
    with pytest.raises(DataError, match=r"^train image 4 is 7 x 5 pixels, expected 8 x 8 like the first"):
        ImageDataset.from_torchvision(several, TEST)
    tensors = Pictures([SimpleNamespace(dtype="torch.float32", shape=(3, 8, 8))] * 3, Y_TEST)
    with pytest.raises(DataError, match=r"^test image 0 is torch.float32 \(3, 8, 8\), expected a Pillow image"):
        ImageDataset.from_torchvision(TRAIN, tensors)
    with pytest.raises(DataError, match="^train image 0 is dict, expected a Pillow image"):
        ImageDataset.from_torchvision(Pictures([{"bytes": b""}], [0]), TEST)
    with pytest.raises(DataError, match="the train images have no length: they are a stream"):
        ImageDataset.from_torchvision(iter(()), TEST)
    with pytest.raises(DataError, match="y_test holds the label -1"):  # as in test sets whose labels are secret
        ImageDataset.from_torchvision(TRAIN, Pictures(X_TEST, [-1, 0, 1]))


def test_datasets() -> None:
    rows = {"train": Table(TRAIN, NAMES), "validation": Table(TEST)}
    dataset = ImageDataset.from_datasets(rows, test="validation", name="hub")
    assert dataset.name == "hub"
    assert dataset.digest == ImageDataset.from_torchvision(TRAIN, TEST).digest
    with pytest.raises(UsageError, match="^test test: no such split; .*validation"):
        ImageDataset.from_datasets(rows)
    with pytest.raises(UsageError, match=r"^image image: no such column; did you mean img\?"):
        ImageDataset.from_datasets(rows, "image", test="validation")
    with pytest.raises(UsageError, match=r"^label labels: no such column; did you mean label\?"):
        ImageDataset.from_datasets(rows, label="labels", test="validation")


def test_the_library_datasets() -> None:
    library = pytest.importorskip("datasets")
    features = library.Features({"img": library.Image(), "label": library.ClassLabel(names=NAMES)})
    made = {}
    for name, pictures in (("train", TRAIN), ("test", TEST)):
        columns = {"img": [Image.fromarray(image) for image in pictures.images], "label": pictures.labels.tolist()}
        made[name] = library.Dataset.from_dict(columns, features=features)
    dataset = ImageDataset.from_datasets(library.DatasetDict(made))
    assert dataset.digest == ImageDataset.from_torchvision(TRAIN, TEST).digest
    streams = {name: split.to_iterable_dataset() for name, split in made.items()}
    with pytest.raises(DataError, match="are a stream"):
        ImageDataset.from_datasets(streams)


def test_the_library_torchvision(tmp_path: Path) -> None:
    library = pytest.importorskip("torchvision.datasets")
    for split, pictures in (("train", TRAIN), ("test", TEST)):
        for number, (image, label) in enumerate(pictures[row] for row in range(len(pictures))):
            folder = tmp_path / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    folders = [library.ImageFolder(tmp_path / split) for split in ("train", "test")]
    dataset = ImageDataset.from_torchvision(*folders)
    assert dataset.class_names == ("ant", "bee", "cow")
    assert dataset.splits["train"].labels.tolist() == sorted(Y_TRAIN.tolist())
