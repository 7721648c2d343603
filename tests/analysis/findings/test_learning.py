import math

import pandas as pd
import pytest
from scipy import stats
from tiny_runs import CNN, PIXELS, VGG, World

from analysis.findings.learning import common_target, images_needed, learning_curves
from analysis.findings.speed import seconds_to_reach


def test_learning_curves(world: World) -> None:
    values = [0.50, 0.56, 0.53]
    for seed, value in enumerate(values):
        world.add(value, train_rows=100, seed=seed)
    world.add(0.7)
    world.add(0.75, **CNN)
    world.add(0.1, model="dummy")
    curves = learning_curves(world.table())
    assert list(curves.columns) == [
        "approach", "kind", "model", "features", "train_rows", "accuracy", "low", "high", "seeds",
    ]  # fmt: skip
    assert curves[["approach", "train_rows", "seeds"]].values.tolist() == [
        ["cnn from scratch", 2000, 1],
        [f"logreg on {VGG}", 100, 3],
        [f"logreg on {VGG}", 2000, 1],
    ]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert tuple(curves.loc[1, ["accuracy", "low", "high"]]) == pytest.approx((0.53, expected.low, expected.high))
    wilson = stats.binomtest(700, 1000).proportion_ci(method="wilson")
    assert tuple(curves.loc[2, ["accuracy", "low", "high"]]) == pytest.approx((0.7, wilson.low, wilson.high))


def test_bands_stay_within_0_and_1(world: World) -> None:
    for seed, value in enumerate((0.8, 0.95)):
        world.add(value, seed=seed)
    assert learning_curves(world.table()).loc[0, "high"] == 1


def test_searched_heads_stand_apart(world: World) -> None:
    world.add(0.7)
    world.add(0.71, tuned=5)
    world.add(0.72, tuned=20)
    curves = learning_curves(world.table())
    assert curves[["approach", "accuracy", "seeds"]].values.tolist() == [
        [f"logreg (tuned) on {VGG}", 0.72, 1],
        [f"logreg on {VGG}", 0.7, 1],
    ]


def test_two_networks_from_scratch_have_two_names(world: World) -> None:
    world.add(0.7, **CNN)
    world.add(0.6, **{**CNN, "features": "tiny-pixels-16px"})
    assert list(learning_curves(world.table())["approach"]) == [
        "cnn from scratch on pixels-32px",
        "cnn from scratch on pixels-16px",
    ]


def curve(approach: str, points: dict[int, float]) -> pd.DataFrame:
    rows = [(approach, "pretrained", "svm", "x", size, value) for size, value in points.items()]
    table = pd.DataFrame(rows, columns=["approach", "kind", "model", "features", "train_rows", "accuracy"])
    return table.assign(low=table["accuracy"] - 0.1, high=table["accuracy"] + 0.1)


def test_images_needed() -> None:
    curves = pd.concat(
        [
            curve("between", {100: 0.4, 10_000: 0.6}),
            curve("exactly", {100: 0.2, 1000: 0.5}),
            curve("before", {100: 0.7, 1000: 0.4}),
            curve("never", {100: 0.1, 1000: 0.49}),
            curve("dips", {10: 0.4, 100: 0.6, 1000: 0.3, 10_000: 0.9}),
        ]
    )
    needed = images_needed(curves, 0.5).set_index("approach")
    assert list(needed.columns) == ["kind", "model", "features", "images", "at_most", "largest", "low", "high"]
    assert list(needed.index) == ["dips", "before", "between", "exactly", "never"]
    assert needed["images"].to_dict() == pytest.approx(
        {"between": 1000, "exactly": 1000, "before": 100, "never": math.inf, "dips": 10**1.5}
    )
    assert needed.index[needed["at_most"]].tolist() == ["before"]
    assert needed["largest"]["never"] == 1000
    bounds = {name: (row["low"], row["high"]) for name, row in needed.iterrows()}
    assert bounds["between"] == (0, 10_000)  # the upper bound reaches it at the smallest size
    assert bounds["exactly"] == pytest.approx((100 * 10 ** (2 / 3), math.inf))
    assert bounds["before"] == (0, 100)
    assert bounds["dips"] == pytest.approx((0, 100))


def test_the_target_is_reached_by_both_sides(world: World) -> None:
    world.add(0.57)
    world.add(0.9, **PIXELS)
    target = common_target(learning_curves(world.table()))
    assert target == 0.57
    assert math.isfinite(seconds_to_reach(world.table(), world.runs, target)["seconds"].max())
