from dataclasses import replace

import pytest

from classify.card import model_card
from classify.results import RunResult

SPEC = {
    "backbone": "vgg16",
    "weights_digest": "ab" * 32,
    "pool": "grid2",
    "dtype": "float32",
    "image_size": 64,
    "resize": "bicubic",
    "aspect": "pad",
    "preprocess": "caffe",
    "flip": False,
    "engine": "mnn",
    "engine_version": "3.6.1",
}


RECORD = RunResult(
    model="logreg",
    features="tiny-vgg16-imagenet-64px-block3_pool-grid2",
    fingerprint="f" * 64,
    spec=SPEC,
    source={"backbone": "vgg16", "image_shape": [32, 32]},
    dataset="tiny",
    weights="imagenet",
    class_names=["ant", "bee", "cow"],
    layers=["block3_pool"],
    dim=1024,
    train_rows=2000,
    test_rows=1000,
    test_digest="cd" * 32,
    seed=0,
    class_weight=None,
    parameters={"C": 0.01},
    tuned=0,
    accuracy=0.715,
    accuracy_low=0.686,
    accuracy_high=0.742,
    macro_f1=0.714,
    macro_f1_low=0.68,
    macro_f1_high=0.74,
    balanced_accuracy=0.7,
    recall={"ant": [0.9, 0.85, 0.95], "bee": [0.5, 0.4, 0.6], "cow": None},
    support={"ant": 600, "bee": 400, "cow": 0},
    log_loss=0.85,
    brier=0.4,
    ece=0.042,
    reliability=[
        {"rows": 1500, "confidence": 0.4, "accuracy": 0.35},
        {"rows": 500, "confidence": 0.9, "accuracy": 0.8},
    ],
    test_opened=3,
    extraction_seconds=0.002,
    fit_seconds=1.5,
    predict_ms_per_image=0.01,
    iterations=80,
    converged=True,
    history={},
    warnings=[],
    head_sha256="ef" * 32,
    head_bytes=20_000,
    cache="data/features/tiny-vgg16-imagenet-64px-block3_pool-grid2.h5",
    versions={"numpy": "2"},
    machine="2 cores",
    finished="2026-01-01T00:00:00+00:00",
)


def test_the_whole_card() -> None:
    card = model_card(RECORD)
    for line in (
        "# logreg on tiny-vgg16-imagenet-64px-block3_pool-grid2",
        "A classifier of images into 3 classes: the head `logreg`, trained on features of a frozen network (vgg16, "
        "imagenet weights). It is right for 71.5% of 1,000 test images (95% interval 68.6% to 74.2%).",
        "    python -m classify predict RUN IMAGE...",
        "| classes | ant, bee, cow |",
        f"| SHA-256 of the weights | {'ab' * 32} |",
        "| images | resized to 64 x 64 pixels, bicubic |",
        "| engine | mnn 3.6.1 |",
        "| C | 0.01 |",
        "| tuned | no: default settings |",
        "| class weight | none |",
        "| accuracy | 71.5% | 68.6% to 74.2% |",
        "| macro F1 | 71.4% | 68.0% to 74.0% |",
        "| log loss | 0.850 |  |",
        "| Brier score | 0.400 |  |",
        "| expected calibration error | 4.2% |  |",
        "| ant | 600 | 90.0% | 85.0% to 95.0% |",
        "| cow | 0 | - | - |",
        "| 1,500 | 40.0% | 35.0% |",
        "| numpy | 2 |",
    ):
        assert line in card.splitlines()
    assert "this one included: 3." in card
    assert "first brings an image to 32 x 32 pixels, the size of the training images (aspect: pad)" in card
    assert "CIFAR-10" not in card


def test_every_table_is_whole() -> None:
    blocks = [block.splitlines() for block in model_card(RECORD).split("\n\n")]
    tables = [block for block in blocks if block[0].startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
        assert set(table[1]) == set("|- ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"dataset": "cifar10-partial", "train_rows": 40_000},
            "Trained on 40,000 of CIFAR-10's 50,000 training images",
        ),
        ({"tuned": 50}, "| tuned | by 50 trials on the training images |"),
        ({"class_weight": "balanced"}, "| class weight | balanced |"),
        ({"head_sha256": ""}, "The head itself was not kept: train it again."),
        ({"converged": False}, "- The solver stopped before it had converged."),
        ({"warnings": ["Convergence\nWarning"]}, "- Warning of the fit: Convergence Warning"),
        (
            {"spec": {**SPEC, "weights_digest": "", "engine": "", "engine_version": ""}},
            "trained on the pixels themselves",
        ),
    ],
)
def test_what_depends_on_the_run(changes: dict, expected: str) -> None:
    assert expected not in model_card(RECORD)
    assert expected in model_card(replace(RECORD, **changes))


def test_a_cache_that_does_not_say_the_size_of_its_images() -> None:
    assert "first brings" not in model_card(replace(RECORD, source={}))


def test_names_cannot_break_the_tables() -> None:
    names = ["a|b", "<img>", "c\nd"]
    card = model_card(replace(RECORD, class_names=names, recall=dict.fromkeys(names), support=dict.fromkeys(names, 0)))
    assert "| classes | a\\|b, &lt;img>, c d |" in card.splitlines()
    assert "| a\\|b | 0 | - | - |" in card.splitlines()
