import math

import pytest
from tiny_runs import CNN, PIXELS, VGG, World, make_history, make_result

from analysis.findings.speed import (
    at_equal_time,
    best_by_seconds,
    convergence,
    paired_ratio,
    seconds_to_reach,
    timed,
)


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
        "seconds", "heads", "shared_seconds", "ms_per_answer", "history_seconds",
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
    found = convergence(world.table(), world.runs).set_index("approach")
    assert list(found.index) == ["cnn from scratch", f"logreg on {VGG}", f"mlp on {VGG}"]
    figures = ["epochs", "epochs_to_90", "seconds_per_epoch", "seconds_to_90", "images_to_90"]
    assert found.loc[f"mlp on {VGG}", figures].tolist() == [4, 3, 2, 6, 6000]  # 0.9 * 0.8 is above 0.71
    assert found.loc["cnn from scratch", figures].tolist() == [1, 1, 7, 7, 2000]
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


def test_images_that_were_held_out_are_not_seen(world: World) -> None:
    parameters = {"validation_fraction": 0.1}
    world.add(0.6, **CNN, parameters=parameters, history=make_history([0.5, 0.6, 0.6], [0.4, 0.5, 0.5]))
    assert convergence(world.table(), world.runs)["images_to_90"].tolist() == [2 * 1800]
    world = World(world.folder / "few")  # too few images to hold some out
    world.add(0.6, **CNN, parameters=parameters, history=make_history([0.5, 0.6, 0.6], []))
    assert convergence(world.table(), world.runs)["images_to_90"].tolist() == [2 * 2000]


def test_a_correct_answer_takes_the_extraction_too(world: World) -> None:
    world.add(0.5, extraction_seconds=0.002, predict_ms_per_image=0.5)
    assert timed(world.table())["ms_per_answer"].tolist() == [5.0]


def test_the_best_within_a_time(world: World) -> None:
    free = {"extraction_seconds": 0.0}
    for accuracy, seconds in ((0.4, 1.0), (0.6, 3.0), (0.5, 4.0), (0.7, 5.0)):
        world.add(accuracy, fit_seconds=seconds, model=f"own-{seconds}", **free)
    world.add(0.9, tuned=5, fit_seconds=0.1, **free)
    world.add(0.3, start=700, **{**PIXELS, "fit_seconds": 0.5, **free})
    world.add(0.65, start=100, **{**CNN, "fit_seconds": 3.5, **free})
    ours = best_by_seconds(world.table(), transfer=True)
    assert ours[["seconds", "accuracy"]].to_numpy().tolist() == [[1, 0.4], [3, 0.6], [5, 0.7]]
    controls = best_by_seconds(world.table(), transfer=False)
    assert controls[["seconds", "accuracy"]].to_numpy().tolist() == [[0.5, 0.3], [3.5, 0.65]]
    found = at_equal_time(world.table())
    assert found is not None
    # The most accurate control takes less time than the most accurate head on the network.
    assert (found.seconds, found.approach, found.control) == (3.5, f"own-3.0 on {VGG}", "cnn from scratch")
    assert found.gain == pytest.approx(-0.05)
    assert found.low < found.gain < found.high < 0


def test_no_time_in_which_both_sides_have_a_run(world: World) -> None:
    world.add(0.7, fit_seconds=5.0)
    assert at_equal_time(world.table()) is None
    world.add(0.3, **{**PIXELS, "fit_seconds": 0.5, "extraction_seconds": 0.0})
    assert at_equal_time(world.table()) is None
