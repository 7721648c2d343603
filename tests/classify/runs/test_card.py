import dataclasses
import itertools
import re
from dataclasses import replace

import pytest
from tiny_runs import RECORD, SPEC

from classify.runs.card import model_card


def lines(card: str) -> list[str]:
    """The card's lines, without the padding of its tables."""
    return [re.sub(" +", " ", line) if line.startswith("|") else line for line in card.splitlines()]


def test_the_whole_card() -> None:
    card = model_card(RECORD)
    for line in (
        "# logreg on tiny-vgg16-imagenet-64px-block3_pool-grid2",
        "A classifier of images into 3 classes: the head `logreg`, trained on features of a frozen network (vgg16, "
        "imagenet weights). It has 71.5% accuracy (95% interval 68.6% to 74.2%) on 1,000 test images.",
        "    frozenbench classify predict RUN IMAGE...",
        "| classes | ant, bee, cow |",
        f"| SHA-256 of the weights | {'ab' * 32} |",
        "| images | resized to 64 x 64 pixels, bicubic |",
        "| engine | openvino 2026.4.1 |",
        "| C | 0.01 |",
        "| tuned | no: default settings |",
        "| class weight | none |",
        "| accuracy | 71.5% | 68.6% to 74.2% |",
        "| macro F1 | 71.4% | 68.0% to 74.0% |",
        "| log loss | 0.850 | |",
        "| Brier score | 0.400 | |",
        "| expected calibration error | 4.2% | |",
        "| ant | 600 | 90.0% | 85.0% to 95.0% |",
        "| cow | 0 | - | - |",
        "| 1,500 | 40.0% | 35.0% |",
        "| numpy | 2 |",
    ):
        assert line in lines(card)
    assert "including this one: 3." in card
    assert "first resizes an image to 32 x 32 pixels, the size of the training images (aspect: pad)" in card
    assert "CIFAR-10" not in card


def test_every_table_is_whole() -> None:
    blocks = [block.splitlines() for block in model_card(RECORD).split("\n\n")]
    tables = [block for block in blocks if block[0].startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
        assert set(table[1]) == set("|:-")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"dataset": "cifar10-partial", "train_rows": 40_000},
            "Trained on 40,000 of CIFAR-10's 50,000 training images",
        ),
        ({"tuned": 50}, "| tuned | 50 search trials on the training images |"),
        ({"class_weight": "balanced"}, "| class weight | balanced |"),
        ({"head_sha256": ""}, "The head itself was not saved: train it again."),
        ({"converged": False}, "- The solver stopped before it converged."),
        ({"warnings": ["Convergence\nWarning"]}, "- Warning during the fit: Convergence Warning"),
        (
            {"spec": {**SPEC, "weights_digest": "", "engine": "", "engine_version": ""}},
            "trained on the pixels themselves",
        ),
    ],
)
def test_what_depends_on_the_run(changes: dict, expected: str) -> None:
    assert expected not in "\n".join(lines(model_card(RECORD)))
    assert expected in "\n".join(lines(model_card(replace(RECORD, **changes))))


def test_a_cache_that_does_not_say_the_size_of_its_images() -> None:
    assert "first resizes" not in model_card(replace(RECORD, source={}))


def test_names_cannot_break_the_tables() -> None:
    names = ["a|b", "<img>", "c\nd"]
    card = model_card(replace(RECORD, class_names=names, recall=dict.fromkeys(names), support=dict.fromkeys(names, 0)))
    assert "| classes | a\\|b, &lt;img>, c d |" in lines(card)
    assert "| a\\|b | 0 | - | - |" in lines(card)


def test_the_layout_is_that_of_markdown() -> None:
    card = model_card(RECORD)
    assert card.endswith("Finished 2026-01-01T00:00:00+00:00.\n")
    for line, following in itertools.pairwise(card.splitlines()):
        assert (line.startswith("|"), line.startswith("- ")) == (
            following.startswith("|"),
            following.startswith("- "),
        ) or "" in (line, following)
        assert not line.startswith("#") or following == ""


def test_what_a_lower_precision_costs() -> None:
    certificate = {"relative_error": {"block3_pool": 0.005}, "held_out": 1000, "changed": 0.004}
    certificate |= {"difference": -0.001, "low": -0.005, "high": 0.003}
    run = dataclasses.replace(RECORD, spec={**SPEC, "precision": "bfloat16"}, certificate=certificate)
    assert "| precision" in model_card(RECORD)
    assert "bfloat16: relative error 5.0e-03; on 1,000 held-out training images, 0.4%" in model_card(run)
