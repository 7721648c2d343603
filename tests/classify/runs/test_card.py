from dataclasses import replace

import pytest
from tiny_runs import RECORD, SPEC

from classify.runs.card import model_card


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
