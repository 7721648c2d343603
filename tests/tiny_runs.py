"""Invented runs: results, predictions, and whole folders of runs for the analysis."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.findings import Claim, claims
from analysis.frame import comparison
from classify.runs import RunResult, new_run, write_result

CLAIMS = ["accuracy", "little-data", "training-time", "convergence"]
TEST_ROWS = 1000
PREDICTIONS = pd.DataFrame({"id": [5, 6, 7], "label": [0, 1, 2], "predicted": [0, 1, 1]})
# The changes to `make_result` that turn a run on VGG16's features into one of the three controls.
SPEC_OF_A_NETWORK = {
    "dataset_digest": "12" * 32,
    "backbone": "vgg16",
    "weights_digest": "ab" * 32,
    "image_size": 64,
    "layers": ["block3_pool"],
    "pool": "grid2",
    "resize": "bicubic",
    "aspect": "crop",
    "dtype": "float32",
    "flip": False,
    "preprocess": "caffe",
    "engine": "tensorflow",
    "engine_version": "2",
    "schema_version": 3,
}
PIXELS = {
    "features": "tiny-pixels-32px",
    "spec": {**SPEC_OF_A_NETWORK, "backbone": "pixels", "image_size": 32, "layers": ["pixels"], "engine": ""},
    "weights": "none",
    "layers": ["pixels"],
    "dim": 3072,
}
RANDOM = {"features": "tiny-vgg16-random-0-64px-block3_pool-grid2", "weights": "random-0"}
CNN = {**PIXELS, "model": "cnn"}
VGG = "vgg16-imagenet"  # how the tables name the features of `make_result`


def make_result(**changes: object) -> RunResult:
    """A run of logreg on VGG16's features, with some fields changed."""
    names: Any = changes.get("class_names", ["ant", "bee", "cow"])
    rows: Any = changes.get("test_rows", 1000)
    recall = dict.fromkeys(names) | {names[0]: [0.7, 0.65, 0.75], names[1]: [0.72, 0.67, 0.77]}
    support = dict.fromkeys(names, 0) | {names[0]: rows - rows // 2, names[1]: rows // 2}
    values = {
        "model": "logreg",
        "features": "tiny-vgg16-imagenet-64px-block3_pool-grid2",
        "fingerprint": "f" * 64,
        "spec": SPEC_OF_A_NETWORK,
        "source": {"data": "tiny", "backbone": "vgg16", "weights": "imagenet", "seed": 0},
        "dataset": "tiny",
        "weights": "imagenet",
        "class_names": names,
        "layers": ["block3_pool"],
        "dim": 1024,
        "train_rows": 2000,
        "test_rows": rows,
        "test_digest": "ab" * 32,
        "folds": 0,
        "train_size": None,
        "groups": 0,
        "seed": 0,
        "class_weight": None,
        "parameters": {"C": 0.01},
        "tuned": 0,
        "accuracy": 0.715,
        "accuracy_low": 0.686,
        "accuracy_high": 0.742,
        "macro_f1": 0.714,
        "macro_f1_low": 0.685,
        "macro_f1_high": 0.741,
        "balanced_accuracy": changes.get("accuracy", 0.715),
        "recall": recall,
        "support": support,
        "log_loss": 0.85,
        "brier": 0.4,
        "ece": 0.042,
        "reliability": [
            {"rows": 500, "confidence": 0.657, "accuracy": 0.615},
            {"rows": 500, "confidence": 0.857, "accuracy": 0.815},
        ],
        "test_opened": 1,
        "extraction_seconds": 0.002,
        "fit_seconds": 1.5,
        "predict_ms_per_image": 0.01,
        "iterations": 80,
        "converged": True,
        "history": {},
        "warnings": [],
        "head_sha256": "",
        "head_bytes": 0,
        "cache": "data/features/tiny-vgg16-imagenet-64px-block3_pool-grid2.h5",
        "versions": {"numpy": "2"},
        "machine": "2 cores",
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return RunResult(**{**values, **changes})  # type: ignore[arg-type]


def write_run(run_dir: Path, result: RunResult, predictions: pd.DataFrame) -> None:
    """Save a run's result and predictions, without a head."""
    with new_run(run_dir) as folder:
        write_result(folder, result, predictions)


# Three runs on the same 1,000 test images, and the images that each of them gets right.
RUNS = {
    Path("runs/b/svm-1"): make_result(
        model="svm", accuracy=0.69, accuracy_low=0.661, accuracy_high=0.718, converged=None
    ),
    Path("runs/b/logreg-1"): make_result(head_bytes=2_340_000),
    Path("runs/a/logreg-2"): make_result(
        **PIXELS, accuracy=0.357, accuracy_low=0.328, accuracy_high=0.387, converged=False, extraction_seconds=0.0
    ),
}
CORRECT = {"svm-1": slice(310, 1000), "logreg-1": slice(0, 715), "logreg-2": slice(0, 357)}


def write_runs(folder: Path, runs: dict[Path, RunResult]) -> dict[Path, RunResult]:
    """Write runs below `folder`; each is correct on the first rows, as many as its accuracy says, or on `CORRECT`."""
    written = {}
    for path, result in runs.items():
        correct = np.zeros(result.test_rows, bool)
        correct[CORRECT.get(path.name, slice(0, round(result.accuracy * result.test_rows)))] = True
        write_run(folder / path, result, make_predictions(correct))
        written[folder / path] = result
    return written


SPEC = {
    "dataset_digest": "12" * 32,
    "backbone": "vgg16",
    "weights_digest": "ab" * 32,
    "layers": ["block3_pool"],
    "pool": "grid2",
    "dtype": "float32",
    "image_size": 64,
    "resize": "bicubic",
    "aspect": "pad",
    "preprocess": "caffe",
    "flip": False,
    "engine": "openvino",
    "engine_version": "2026.4.1",
    "schema_version": 3,
}


# A run with every field that a model card shows.
RECORD = make_result(
    spec=SPEC,
    source={"backbone": "vgg16", "image_shape": [32, 32]},
    test_digest="cd" * 32,
    folds=0,
    train_size=None,
    groups=0,
    macro_f1_low=0.68,
    macro_f1_high=0.74,
    balanced_accuracy=0.7,
    recall={"ant": [0.9, 0.85, 0.95], "bee": [0.5, 0.4, 0.6], "cow": None},
    support={"ant": 600, "bee": 400, "cow": 0},
    reliability=[
        {"rows": 1500, "confidence": 0.4, "accuracy": 0.35},
        {"rows": 500, "confidence": 0.9, "accuracy": 0.8},
    ],
    test_opened=3,
    head_sha256="ef" * 32,
    head_bytes=20_000,
)


def make_predictions(correct: np.ndarray) -> pd.DataFrame:
    """Predictions for a test split of three classes, correct where `correct` (n,) is true."""
    label = np.arange(len(correct)) % 3
    return pd.DataFrame({"id": np.arange(len(correct)), "label": label, "predicted": np.where(correct, label, -1)})


def check_sentences(text: str) -> None:
    """Each sentence has at most 25 words and three numbers; digits in names and years do not count."""
    assert text.endswith(".")
    for sentence in re.split(r"(?<=[.;])\s", text):
        assert len(sentence.split()) <= 25, sentence
        numbers = re.findall(r"(?<![\w-])[+-]?\d[\d,.]*(?![\w-])", re.sub(r"\b(19|20)\d\d\b", "", sentence))
        assert len(numbers) <= 3, sentence


def make_history(accuracy: list[float], validation: list[float] | None = None) -> dict[str, list[float]]:
    """A network's training curve, one value an epoch."""
    history = {"loss": [1 - value for value in accuracy], "accuracy": accuracy}
    return history if validation is None else {**history, "validation_accuracy": validation}


class World:
    """A folder of runs. Each run is correct on one contiguous span of the 1,000 test images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, dict[Path, RunResult]()

    def add(self, accuracy: float, start: int = 0, **changes: Any) -> str:
        """Write a run that is correct on the images from `start` on; returns its path."""
        correct = np.zeros(TEST_ROWS, bool)
        correct[start : start + round(accuracy * TEST_ROWS)] = True
        bounds = stats.binomtest(int(correct.sum()), TEST_ROWS).proportion_ci(method="wilson")
        metrics = {"accuracy": float(correct.mean()), "accuracy_low": bounds.low, "accuracy_high": bounds.high}
        result = make_result(test_rows=TEST_ROWS, **{**metrics, **changes})
        path = self.folder / "runs" / f"{result.model}-{len(self.runs)}"
        write_run(path, result, make_predictions(correct))
        self.runs[path] = result
        return path.as_posix()

    def table(self) -> pd.DataFrame:
        """The comparison of all runs."""
        return comparison(self.runs)

    def claims(self) -> dict[str, Claim]:
        """The claims about all runs by their key, each checked for its form."""
        found = claims(self.table(), self.runs)
        assert [claim.key for claim in found] == CLAIMS
        for claim in found:
            for sentence in (claim.finding, *claim.details, *claim.notes):
                check_sentences(sentence)
            assert claim.title
            assert all(isinstance(cell, str) for cell in claim.table.to_numpy().ravel())
        return {claim.key: claim for claim in found}


def runs_with_controls(world: World) -> World:
    """Add transfer and its controls on 40, 200 and 2,000 images of four classes; the smaller sizes with three seeds."""
    accuracies = {
        "vgg": (0.50, 0.60, 0.70),
        "pixels": (0.20, 0.25, 0.40),
        "random": (0.25, 0.35, 0.45),
        "cnn": (0.15, 0.30, 0.55),
    }
    kinds: dict[str, dict[str, Any]] = {"vgg": {}, "pixels": PIXELS, "random": RANDOM, "cnn": CNN}
    for kind, values in accuracies.items():
        for accuracy, size in zip(values, (40, 200, 2000), strict=True):
            for seed in range(1 if size == 2000 else 3):
                changes = {
                    "model": "mlp",
                    "class_names": list("abcd"),
                    "train_rows": size,
                    "seed": seed,
                    "extraction_seconds": 0.0 if kind in ("pixels", "cnn") else 0.002,
                    "fit_seconds": size / 100,
                    "iterations": None,
                    **kinds[kind],
                }
                if kind == "cnn":
                    changes |= {
                        "fit_seconds": float(size),
                        "history": make_history([0.1, 0.3, 0.5, 0.6], [0.1, 0.2, 0.5, 0.56]),
                    }
                elif kind == "vgg":
                    changes |= {"history": make_history([0.6, 0.75, 0.8])}
                world.add(accuracy + 0.01 * (seed - 1) * (size < 2000), **changes)
    for kind, iterations in (("vgg", 80), ("pixels", 200)):
        world.add(
            accuracies[kind][2] - 0.1, class_names=list("abcd"), **kinds[kind], iterations=iterations, fit_seconds=1.0
        )
    return world
