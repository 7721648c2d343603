"""The answer's sentences about the best head."""

from pathlib import Path

from tiny_runs import CNN, World, check_sentences

from analysis.findings import correction
from analysis.frame import headline


def test_the_best_of_equal_heads_is_corrected_downwards(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(8):  # each is right on other images
        world.add(0.5, 60 * number, model="svm", features=f"photos-{number}")
    found = correction(headline(world.table()))
    assert "is the best of 8 heads" in found.sentence
    check_sentences(found.sentence)
    corrected = float(found.sentence.split("it has ")[1].split("%")[0])
    assert 46 < corrected < 50
    flattered = float(found.sentence.split("by about ")[1].split(" points")[0])
    assert 1 < flattered < 4


def test_a_network_from_scratch_is_named_as_such(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(0.5)
    world.add(0.9, **CNN)
    assert correction(headline(world.table())).name == "cnn from scratch on pixels"
