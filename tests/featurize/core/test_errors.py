"""Messages name options on the command line, and parameters from Python."""

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import classify
import featurize
from classify.heads.registry import Task
from featurize.core.errors import FrozenbenchError, UsageError, options_in_messages, with_parameters
from featurize.images import ImageDataset

X, Y = np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 1]
DATASET = ImageDataset.from_arrays(X, Y, X, Y)
PIXELS = featurize.load_backbone("pixels", image_size=8)


@pytest.mark.parametrize(
    ("written", "from_python"),
    [
        ("--train-size 5: too many", "train_size 5: too many"),
        ("--data x: no such file", "source x: no such file"),
        ("asked for b; replace it with --overwrite", "asked for b; replace it with overwrite=True"),
        ("make it again with frozenbench featurize ... --overwrite", None),
        ("(a larger --train-size, or frozenbench featurize with a larger --train)", None),
        ("use more (dask worker --memory-limit) or a smaller --batch-size", None),
        ("pip install --force-reinstall frozenbench; or --weights PATH", None),
        ("/data/my--layers and a -- b and a---b are no options", None),
    ],
)
def test_options_become_parameters_outside_of_commands(written: str, from_python: str | None) -> None:
    if from_python is None:
        from_python = (
            written.replace("--train-size", "train_size")
            .replace("--batch-size", "batch_size")
            .replace("--weights", "weights")
        )
    assert with_parameters(written) == from_python
    error = UsageError(written)
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == from_python
    with options_in_messages():
        assert str(error) == written
    assert str(error) == from_python


CALLS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (featurize.load_dataset, {"source": "absent"}, "source"),
    (featurize.load_dataset, {"source": "sample", "test_fraction": 0.2}, "test_fraction"),
    (featurize.load_dataset, {"source": "sample", "test_fraction": 2.0}, "test_fraction"),
    (featurize.load_dataset, {"source": "sample", "folds": 1}, "folds"),
    (featurize.load_dataset, {"source": "sample", "groups": "absent.csv"}, "groups"),
    (featurize.load_dataset, {"source": "sample", "labels": "absent.csv"}, "labels"),
    (featurize.load_dataset, {"source": "sample", "max_pixels": 5}, "max_pixels"),
    (featurize.load_backbone, {"backbone": "vgg17"}, "backbone"),
    (featurize.load_backbone, {"backbone": "absent.keras"}, "backbone"),
    (featurize.load_backbone, {"backbone": "vgg16", "weights": "absent.h5"}, "weights"),
    (featurize.load_backbone, {"preprocess": "absent"}, "preprocess"),
    (featurize.FrozenFeatures("vgg17").transform, {"X": X}, "backbone"),
    (featurize.FrozenFeatures(pool="absent").fit, {"X": X}, "pool"),
    (featurize.FrozenFeatures(engine="absent").fit, {"X": X}, "engine"),
    (featurize.extract_features, {"dataset": DATASET, "backbone": PIXELS, "pool": "absent"}, "pool"),
    (featurize.extract_features, {"dataset": DATASET, "backbone": PIXELS, "resize": "absent"}, "resize"),
    (featurize.extract_features, {"dataset": DATASET, "backbone": PIXELS, "aspect": "absent"}, "aspect"),
    (featurize.extract_features, {"dataset": DATASET, "backbone": PIXELS, "dtype": "absent"}, "dtype"),
    (classify.make_head, {"estimator": "absent", "task": Task(10, 4)}, "estimator"),
    (classify.make_head, {"estimator": KNeighborsClassifier, "task": Task(10, 4)}, "estimator"),
    (ImageDataset.from_arrays, {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "name": "a/b"}, "name"),
]


@pytest.mark.parametrize(("function", "arguments", "parameter"), CALLS)
def test_public_functions_name_the_parameter(
    function: Callable[..., Any], arguments: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(FrozenbenchError) as caught:
        function(**arguments)
    assert str(caught.value).startswith(f"{parameter} ") or str(caught.value).startswith(f"{parameter}: ")
    assert "--" not in str(caught.value)


def test_features_name_their_parameter(cache: Path) -> None:
    train = featurize.load_features(cache, "train")
    with pytest.raises(UsageError, match="^layers absent: not in"):
        featurize.load_features(cache, "train", layers=("absent",))
    with pytest.raises(UsageError, match="^estimator absent: no such head"):
        classify.fit_and_evaluate("absent", train, train)
    info = featurize.read_info(cache)
    with pytest.raises(FrozenbenchError, match="replace it with overwrite=True$"):
        featurize.extract_features(DATASET, PIXELS, out=info.path)


def test_the_parameters_exist() -> None:
    for function, arguments, parameter in CALLS:
        if not inspect.ismethod(function) and function is not featurize.extract_features:  # it passes options on
            assert {parameter, *arguments} <= set(inspect.signature(function).parameters)
