"""The answer's sentences about the best head."""

from pathlib import Path

from tiny_runs import World

from analysis.findings import correction
from analysis.frame import headline


def test_the_best_of_equal_heads_is_corrected_downwards(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(8):  # each is right on other images
        world.add(0.5, 60 * number, model="svm", features=f"photos-{number}")
    sentence = correction(headline(world.table()))
    assert "the best of 8 heads" in sentence
    corrected = float(sentence.split("it has ")[1].split("%")[0])
    assert 46 < corrected < 50
