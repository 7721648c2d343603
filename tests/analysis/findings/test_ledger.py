"""The ledger of variance from runs: which runs it takes, what it says."""

from typing import Any

import pytest
from tiny_runs import CNN, PIXELS, VGG, World, check_sentences

from analysis.findings import Ledger, ledger, text
from analysis.findings.learning import learning_curves
from analysis.findings.ledger import points
from classify.statistics import Estimate

SIZE = 1000
POOL = 2000


def add_repeats(world: World, accuracy: float, seeds: int = 2, draws: int = 4, **changes: Any) -> None:
    """A head on some draws: the accuracy rises by a point a draw, and by 0.2 points with the second seed."""
    for draw in range(draws):
        for number in range(seeds):
            world.add(
                accuracy + 0.01 * draw + 0.002 * number,
                **{"train_rows": SIZE, "drawn_from": POOL, "seed": draw + 1000 * number, **changes},
                draw=draw if number else None,
            )


def ledger_of(world: World) -> Ledger:
    found = ledger(world.table(), world.runs)
    assert found is not None
    check_sentences(found.finding)
    if found.comparison:
        check_sentences(found.comparison)
    return found


def test_what_moves_an_accuracy(world: World) -> None:
    add_repeats(world, 0.7)
    add_repeats(world, 0.4, **PIXELS)
    add_repeats(world, 0.6, **PIXELS, model="svm")
    found = ledger_of(world)
    assert (found.train_rows, found.drawn_from) == (SIZE, POOL)
    assert [entry.approach for entry in found.entries] == [f"logreg on {VGG}", "svm on pixels", "logreg on pixels"]
    best, control, _ = found.entries
    assert (best.accuracy.draws, best.accuracy.seeds) == (4, 2)
    assert best.accuracy.mean.value == pytest.approx(0.716)
    assert best.accuracy.test.value == pytest.approx((0.716 * 0.284 / 1000) ** 0.5, rel=0.01)
    assert best.behind is None
    assert control.behind is not None
    assert control.behind.mean.value == pytest.approx(0.1)
    assert control.behind.draw.value == 0  # the same draws move both
    assert found.finding.startswith(f"logreg on {VGG} varies by 1.4 points with test images, ")
    assert found.finding.endswith(" with the seed.")
    assert found.comparison.startswith("It exceeds svm on pixels by 10 points (8 to 12)")


def test_a_spread_that_may_be_zero() -> None:
    zero, open_to_zero = Estimate(0.0, 0.0, 0.0), Estimate(0.001, 0.0, 0.0123)
    assert [points(each) for each in (zero, open_to_zero, Estimate(0.014, 0.01, 0.02))] == ["0.0", "up to 1.2", "1.4"]
    assert text.deviation(*zero) == "0 (no effect)"
    assert text.deviation(*open_to_zero) == "0.1 (0.0 to 1.2)"


def test_a_difference_that_may_be_chance(world: World) -> None:
    add_repeats(world, 0.7)
    add_repeats(world, 0.699, **CNN, start=200)
    assert "; this may be chance." in ledger_of(world).comparison


def test_one_seed_a_draw(world: World) -> None:
    """As in a learning curve."""
    add_repeats(world, 0.7, seeds=1, draws=3)
    found = ledger_of(world)
    assert found.entries[0].accuracy.seed is None
    assert found.finding.endswith(" with training images and seed.")
    assert found.comparison == ""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"draws": 2}, id="two draws"),
        pytest.param({"drawn_from": SIZE}, id="all images"),
        pytest.param({"drawn_from": 0}, id="runs of earlier versions"),
        pytest.param({"tuned": 9}, id="tuned"),
        pytest.param({"folds": 5}, id="a cross-validation"),
        pytest.param({"model": "dummy"}, id="the baseline"),
    ],
)
def test_what_does_not_make_a_ledger(world: World, changes: dict[str, Any]) -> None:
    add_repeats(world, 0.7, **changes)
    assert ledger(world.table(), world.runs) is None


def test_the_largest_size_of_the_frozen_network_counts(world: World) -> None:
    add_repeats(world, 0.7)
    add_repeats(world, 0.6, train_rows=100)
    add_repeats(world, 0.5, **PIXELS, draws=2)
    add_repeats(world, 0.5, **PIXELS, train_rows=1500)
    assert [(entry.approach, entry.behind) for entry in ledger_of(world).entries] == [(f"logreg on {VGG}", None)]


def test_further_seeds_on_a_draw_are_in_no_learning_curve(world: World) -> None:
    add_repeats(world, 0.7)
    (curve,) = learning_curves(world.table()).itertuples()
    assert curve.seeds == 4
    assert curve.accuracy == pytest.approx(0.715)
