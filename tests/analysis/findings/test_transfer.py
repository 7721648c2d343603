import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_runs import CNN, PIXELS, RANDOM, VGG, World, make_history, make_predictions, make_result, write_run

from analysis.findings.transfer import (
    GAINS,
    common_target,
    convergence,
    gains,
    images_needed,
    learning_curves,
    paired_interval,
    paired_ratio,
    seconds_to_reach,
    timed,
)
from featurize.core.errors import DataError

# Statistics


def test_the_paired_interval_is_the_published_one() -> None:
    # The worked example of Bonett's statpsych, ci.prop.ps(.05, 12, 4, 26, 6): of 48 pairs 26 against 4.
    assert paired_interval(26, 4, 48) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)
    # Table V of Fagerland, Lydersen and Laake, 2014 (airway hyper-responsiveness): 1 against 7 of 21.
    assert paired_interval(1, 7, 21) == pytest.approx((-0.508, -0.013), abs=5e-4)


def test_the_paired_interval_covers_what_it_promises() -> None:
    random = np.random.default_rng(0)
    truth = 0.15 - 0.08
    drawn = random.multinomial(200, [0.15, 0.08, 0.77], 2000)
    bounds = np.array([paired_interval(int(a), int(b), 200) for a, b, _ in drawn])
    covered = ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()
    assert covered == pytest.approx(0.95, abs=0.015)
    assert paired_interval(0, 0, 5)[0] < 0 < paired_interval(0, 0, 5)[1]
    assert paired_interval(1, 0, 1)[1] == 1


def test_gains_pair_like_with_like(world: World) -> None:
    head = world.add(0.70)
    pixels = world.add(0.40, start=600, **PIXELS)
    network = world.add(0.50, **RANDOM)
    cnn = world.add(0.60, **CNN)
    found = gains(world.table())
    assert list(found.columns) == GAINS
    assert list(found["control"]) == ["scratch", "random", "pixels"]
    assert list(found["control_run_dir"]) == [cnn, network, pixels]
    assert set(found["run_dir"]) == {head}
    assert list(found["best"]) == [True, False, False]
    assert list(found["gain"]) == pytest.approx([0.1, 0.2, 0.3])
    # On pixels: right for 600..1000, the head for 0..700, so that 100 are right in both and none wrong in both.
    last = found.iloc[2]
    assert (last["both_wrong"], last["error_overlap"]) == (0, 0)
    assert last["p"] == pytest.approx(stats.binomtest(600, 900).pvalue, rel=1e-9, abs=0)
    assert (last["gain_low"], last["gain_high"]) == paired_interval(600, 300, 1000)
    first = found.iloc[0]  # the head is right wherever the CNN is
    assert (first["both_wrong"], first["error_overlap"]) == pytest.approx((0.3, 0.75))
    assert first["p"] == pytest.approx(2 * 0.5**100, rel=1e-9, abs=0)
    # Holm: the largest p value stays, the smallest is tripled.
    order = found["p"].to_numpy().argsort()
    np.testing.assert_allclose(found["adjusted"].to_numpy()[order], found["p"].to_numpy()[order] * [3, 2, 1], 1e-9)


def test_gains_at_as_many_images(world: World) -> None:
    world.add(0.8)  # on 2,000
    few = world.add(0.6, train_rows=200)
    world.add(0.65, train_rows=200, seed=1)
    control = world.add(0.3, train_rows=200, **PIXELS)
    world.add(0.9, train_rows=300, **PIXELS)
    found = gains(world.table())
    assert found[["run_dir", "control_run_dir", "train_rows"]].values.tolist() == [[few, control, 200]]


def test_gains_against_the_same_seed(world: World) -> None:
    world.add(0.7, seed=2)
    world.add(0.3, seed=1, **PIXELS)
    same = world.add(0.2, seed=2, **PIXELS)
    assert list(gains(world.table())["control_run_dir"]) == [same]


def test_gains_leave_other_networks_and_heads_alone(world: World) -> None:
    world.add(0.7)
    other = {**RANDOM, "features": "tiny-resnet50-random-0", "spec": {"backbone": "resnet50"}, "layers": ["last"]}
    world.add(0.4, **other)
    world.add(0.5, **PIXELS, model="svm")
    world.add(0.3, **PIXELS, class_weight="balanced")
    world.add(0.99, **PIXELS, model="dummy")  # looks at no feature
    found = gains(world.table())
    # None of them is the same head; the most accurate stands as the best control of any kind.
    assert found[["control", "control_accuracy", "best"]].values.tolist() == [["pixels", 0.5, True]]


def test_gains_need_a_control(world: World) -> None:
    world.add(0.7)
    world.add(0.5, train_rows=100, **PIXELS)
    found = gains(world.table())
    assert found.empty
    assert list(found.columns) == GAINS
    assert gains(world.table().iloc[:0]).empty


def test_gains_of_equal_heads(world: World) -> None:
    world.add(1.0)
    world.add(1.0, **PIXELS)
    found = gains(world.table()).iloc[0]
    assert (found["gain"], found["p"], found["both_wrong"]) == (0, 1, 0)
    assert math.isnan(found["error_overlap"])


def test_gains_refuse_other_test_images(world: World) -> None:
    world.add(0.7)
    path = Path(world.add(0.5, **PIXELS))
    write_run(path, world.runs[path], make_predictions(np.ones(999, bool)))
    with pytest.raises(DataError, match="different images"):
        gains(world.table())


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
    return pd.DataFrame(rows, columns=["approach", "kind", "model", "features", "train_rows", "accuracy"])


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
    assert list(needed.columns) == ["kind", "model", "features", "images", "at_most", "largest"]
    assert list(needed.index) == ["dips", "before", "between", "exactly", "never"]
    assert needed["images"].to_dict() == pytest.approx(
        {"between": 1000, "exactly": 1000, "before": 100, "never": math.inf, "dips": 10**1.5}
    )
    assert needed.index[needed["at_most"]].tolist() == ["before"]
    assert needed["largest"]["never"] == 1000


def test_seconds_to_reach(world: World) -> None:
    world.add(0.75, fit_seconds=1.5)  # 2,000 images, 0.002 s each
    world.add(0.60, train_rows=500, fit_seconds=2.0)
    world.add(0.40, train_rows=100, fit_seconds=0.1)
    world.add(0.65, model="svm", fit_seconds=0.5)
    world.add(0.65, tuned=9, fit_seconds=0.001)
    world.add(0.2, **PIXELS, fit_seconds=3.0)
    found = seconds_to_reach(world.table(), world.runs, 0.55).set_index("approach")
    assert list(found.columns) == [
        "kind", "model", "features", "train_rows", "at_most", "accuracy", "fit_seconds", "extraction_seconds",
        "seconds", "heads", "shared_seconds", "history_seconds",
    ]  # fmt: skip
    assert list(found.index) == [f"logreg on {VGG}", f"svm on {VGG}", "logreg on pixels"]
    figures = ["train_rows", "accuracy", "fit_seconds", "extraction_seconds", "seconds", "heads", "shared_seconds"]
    assert found.loc[f"logreg on {VGG}", figures].tolist() == pytest.approx([500, 0.6, 2.0, 1.0, 3.0, 2, 2.5])
    assert found.loc[f"svm on {VGG}", figures].tolist() == pytest.approx([2000, 0.65, 0.5, 4.0, 4.5, 2, 2.5])
    assert math.isinf(found.loc["logreg on pixels", "seconds"])
    assert math.isnan(found.loc["logreg on pixels", "train_rows"])
    assert found["history_seconds"].isna().all()
    assert found["at_most"].tolist() == [False, True, False]  # the first was tried on 100 images, too


def test_the_history_favours_the_control(world: World) -> None:
    cnn = {**CNN, "extraction_seconds": 0.001}
    world.add(0.6, **cnn, fit_seconds=100.0, history=make_history([0.1] * 4, [0.2, 0.5, 0.56, 0.6]))
    world.add(0.5, **cnn, train_rows=500, fit_seconds=30.0, history=make_history([0.1] * 3, [0.2, 0.5, 0.56]))
    found = seconds_to_reach(world.table(), world.runs, 0.55).iloc[0]
    assert (found["seconds"], found["history_seconds"]) == pytest.approx((102, 30.5))  # its test accuracy was too low
    found = seconds_to_reach(world.table(), world.runs, 0.9).iloc[0]
    assert math.isinf(found["seconds"])
    assert math.isinf(found["history_seconds"])
    for none in ({}, make_history([0.1], [])):  # too few images to hold some out
        world.runs = {path: make_result(**{**vars(run), "history": none}) for path, run in world.runs.items()}
        assert math.isnan(seconds_to_reach(world.table(), world.runs, 0.55).iloc[0]["history_seconds"])


def test_convergence(world: World) -> None:
    world.add(0.7, model="mlp", fit_seconds=8.0, history=make_history([0.3, 0.71, 0.73, 0.8]), iterations=4)
    world.add(0.6, **CNN, fit_seconds=7.0, history=make_history([0.5]))
    world.add(0.5, iterations=80)
    world.add(0.5, model="svm")
    found = convergence(world.runs).set_index("approach")
    assert list(found.index) == ["cnn from scratch", f"logreg on {VGG}", f"mlp on {VGG}"]
    figures = ["epochs", "epochs_to_90", "seconds_per_epoch", "seconds_to_90"]
    assert found.loc[f"mlp on {VGG}", figures].tolist() == [4, 3, 2, 6]  # 0.9 * 0.8 is above 0.71
    assert found.loc["cnn from scratch", figures].tolist() == [1, 1, 7, 7]
    assert found.loc[f"logreg on {VGG}", figures].isna().all()
    assert found["iterations"][f"logreg on {VGG}"] == 80


def test_a_paired_ratio_is_of_the_largest_size_with_several_seeds(world: World) -> None:
    for size, seed, fit, control in (
        (100, 0, 1, 9), (100, 1, 1, 9), (200, 0, 2, 8), (200, 1, 2, 2), (200, 2, 5, 0), (400, 0, 1, 1),
    ):  # fmt: skip
        world.add(0.5, train_rows=size, seed=seed, fit_seconds=fit, extraction_seconds=0.0)
        if control:
            world.add(0.5, train_rows=size, seed=seed, **{**PIXELS, "fit_seconds": control, "extraction_seconds": 0.0})
    found = timed(world.table())
    ratio = paired_ratio(found, "seconds", f"logreg on {VGG}", "logreg on pixels")
    assert ratio is not None
    assert (ratio.value, ratio.train_rows, ratio.seeds) == (pytest.approx(2), 200, 2)
    assert ratio.low == pytest.approx(4 / ratio.high)
    assert ratio.low < 1
    assert paired_ratio(found[found["seed"] == 0], "seconds", f"logreg on {VGG}", "logreg on pixels") is None


def test_the_target_is_reached_by_both_sides(world: World) -> None:
    world.add(0.57)
    world.add(0.9, **PIXELS)
    target = common_target(learning_curves(world.table()))
    assert target == 0.57
    assert math.isfinite(seconds_to_reach(world.table(), world.runs, target)["seconds"].max())
