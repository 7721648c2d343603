from pathlib import Path

from tiny_runs import CNN, PIXELS, RANDOM, World

from analysis.findings import answer, notices
from analysis.frame import headline, with_groups


def found(world: World, **options: int) -> dict[str, str]:
    table = world.table()
    return dict(notices(with_groups(headline(table)), world.runs, answer(table), **options))


def test_a_clear_result_has_none(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS)
    assert found(world) == {}


def test_what_the_comparison_leaves_open(world: World) -> None:
    world.add(0.7)
    world.add(0.701, start=1, **RANDOM)
    codes = found(world)
    assert list(codes) == ["FB006", "FB008", "FB009"]
    assert codes["FB008"] == "logreg on vgg16-imagenet against logreg on vgg16-random-0: p 1.000."
    assert codes["FB009"].endswith(": logreg.")


def test_without_a_control(world: World) -> None:
    world.add(0.7)
    assert found(world) == {"FB007": "There is no control."}


def test_the_best_heads_own_numbers(world: World) -> None:
    world.add(0.7, ece=0.25, support={"ant": 5, "bee": 990, "cow": 5})
    world.add(0.4, **CNN, ece=0.9)
    assert found(world) == {
        "FB010": "The calibration error of logreg is 25%.",
        "FB011": "2 of 3 classes: ant, cow.",
    }


def test_what_was_left_out_and_several_machines(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS, machine="64 cores")
    assert found(world, skipped_runs=2, skipped_images=1) == {
        "FB012": "1 image file was skipped.",
        "FB013": "2 runs were left out.",
        "FB014": "The runs come from 2 machines.",
    }


def test_a_warning_of_several_runs_is_one_finding(world: World) -> None:
    for accuracy, changes in ((0.7, {}), (0.4, PIXELS)):
        world.add(accuracy, warnings=["FB002: 3 of 16 features are constant", "without a code"], **changes)
    assert found(world) == {"FB002": "3 of 16 features are constant (2 of 2 runs)"}
    assert Path(next(iter(world.runs))).exists()
