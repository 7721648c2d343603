import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_results import make_result, write_run
from test_tables import PIXELS, predictions

from analysis.tables import comparison
from analysis.transfer import (
    EXPERIMENT,
    GAINS,
    Claim,
    claims,
    common_target,
    convergence,
    gains,
    images_needed,
    learning_curves,
    paired_interval,
    seconds_to_reach,
)
from classify.results import RunResult
from featurize.errors import DataError

TEST_ROWS = 1000
VGG = "vgg16-imagenet-64px-block3_pool-grid2"
RANDOM = {"features": "tiny-vgg16-random-0-64px-block3_pool-grid2", "weights": "random (seed 0)"}
CNN = {**PIXELS, "model": "cnn"}
KEYS = ["accuracy", "little-data", "training-time", "convergence"]


class World:
    """Runs in a folder: each is right for the test images of a span of 1,000, given in per mille."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, dict[Path, RunResult]()

    def add(self, accuracy: float, start: int = 0, **changes: Any) -> str:
        right = np.zeros(TEST_ROWS, bool)
        right[start : start + round(accuracy * TEST_ROWS)] = True
        bounds = stats.binomtest(int(right.sum()), TEST_ROWS).proportion_ci(method="wilson")
        figures = {"accuracy": float(right.mean()), "accuracy_low": bounds.low, "accuracy_high": bounds.high}
        result = make_result(test_rows=TEST_ROWS, **{**figures, **changes})
        path = self.folder / "runs" / f"{result.model}-{len(self.runs)}"
        write_run(path, result, predictions(right))
        self.runs[path] = result
        return path.as_posix()

    def table(self) -> pd.DataFrame:
        return comparison(self.runs)

    def claims(self) -> dict[str, Claim]:
        found = claims(self.table(), self.runs)
        assert [claim.key for claim in found] == KEYS
        assert all(claim.answer.endswith(".") and claim.title and claim.question for claim in found)
        assert all(isinstance(cell, str) for claim in found for cell in claim.table.to_numpy().ravel())
        return {claim.key: claim for claim in found}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def history(accuracy: list[float], validation: list[float] | None = None) -> dict[str, list[float]]:
    found = {"loss": [1 - value for value in accuracy], "accuracy": accuracy}
    return found if validation is None else {**found, "validation_accuracy": validation}


def full(world: World) -> World:
    """Transfer and all three controls on 40, 200 and 2,000 images of four classes, three seeds for the small ones."""
    accuracies = {
        "vgg": (0.50, 0.60, 0.70),
        "pixels": (0.20, 0.25, 0.40),
        "random": (0.25, 0.35, 0.45),
        "cnn": (0.15, 0.30, 0.55),
    }
    kinds: dict[str, dict[str, Any]] = {"vgg": {}, "pixels": PIXELS, "random": RANDOM, "cnn": CNN}
    for kind, values in accuracies.items():
        for accuracy, size in zip(values, (40, 200, 2000), strict=True):
            for seed in range(1 if size == 2000 else 3):
                changes = {
                    "model": "mlp",
                    "class_names": list("abcd"),
                    "train_rows": size,
                    "seed": seed,
                    "extraction_seconds": 0.0 if kind in ("pixels", "cnn") else 0.002,
                    "fit_seconds": size / 100,
                    "iterations": None,
                    **kinds[kind],
                }
                if kind == "cnn":
                    changes |= {
                        "fit_seconds": float(size),
                        "history": history([0.1, 0.3, 0.5, 0.6], [0.1, 0.2, 0.5, 0.56]),
                    }
                elif kind == "vgg":
                    changes |= {"history": history([0.6, 0.75, 0.8])}
                world.add(accuracy + 0.01 * (seed - 1) * (size < 2000), **changes)
    for kind, iterations in (("vgg", 80), ("pixels", 200)):
        world.add(
            accuracies[kind][2] - 0.1, class_names=list("abcd"), **kinds[kind], iterations=iterations, fit_seconds=1.0
        )
    return world


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
    write_run(path, world.runs[path], predictions(np.ones(999, bool)))
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
    assert list(found.index) == [f"logreg on {VGG}", f"svm on {VGG}", "logreg on pixels-32px"]
    figures = ["train_rows", "accuracy", "fit_seconds", "extraction_seconds", "seconds", "heads", "shared_seconds"]
    assert found.loc[f"logreg on {VGG}", figures].tolist() == pytest.approx([500, 0.6, 2.0, 1.0, 3.0, 2, 2.5])
    assert found.loc[f"svm on {VGG}", figures].tolist() == pytest.approx([2000, 0.65, 0.5, 4.0, 4.5, 2, 2.5])
    assert math.isinf(found.loc["logreg on pixels-32px", "seconds"])
    assert math.isnan(found.loc["logreg on pixels-32px", "train_rows"])
    assert found["history_seconds"].isna().all()
    assert found["at_most"].tolist() == [False, True, False]  # the first was tried on 100 images, too


def test_the_history_favours_the_control(world: World) -> None:
    cnn = {**CNN, "extraction_seconds": 0.001}
    world.add(0.6, **cnn, fit_seconds=100.0, history=history([0.1] * 4, [0.2, 0.5, 0.56, 0.6]))
    world.add(0.5, **cnn, train_rows=500, fit_seconds=30.0, history=history([0.1] * 3, [0.2, 0.5, 0.56]))
    found = seconds_to_reach(world.table(), world.runs, 0.55).iloc[0]
    assert (found["seconds"], found["history_seconds"]) == pytest.approx((102, 30.5))  # its test accuracy was too low
    found = seconds_to_reach(world.table(), world.runs, 0.9).iloc[0]
    assert math.isinf(found["seconds"])
    assert math.isinf(found["history_seconds"])
    for none in ({}, history([0.1], [])):  # too few images to hold some out
        world.runs = {path: make_result(**{**vars(run), "history": none}) for path, run in world.runs.items()}
        assert math.isnan(seconds_to_reach(world.table(), world.runs, 0.55).iloc[0]["history_seconds"])


def test_convergence(world: World) -> None:
    world.add(0.7, model="mlp", fit_seconds=8.0, history=history([0.3, 0.71, 0.73, 0.8]), iterations=4)
    world.add(0.6, **CNN, fit_seconds=7.0, history=history([0.5]))
    world.add(0.5, iterations=80)
    world.add(0.5, model="svm")
    found = convergence(world.runs).set_index("approach")
    assert list(found.index) == ["cnn from scratch", f"logreg on {VGG}", f"mlp on {VGG}"]
    figures = ["epochs", "epochs_to_90", "seconds_per_epoch", "seconds_to_90"]
    assert found.loc[f"mlp on {VGG}", figures].tolist() == [4, 3, 2, 6]  # 0.9 * 0.8 is above 0.71
    assert found.loc["cnn from scratch", figures].tolist() == [1, 1, 7, 7]
    assert found.loc[f"logreg on {VGG}", figures].isna().all()
    assert found["iterations"][f"logreg on {VGG}"] == 80


def test_the_target_is_reached_by_both_sides(world: World) -> None:
    world.add(0.57)
    world.add(0.9, **PIXELS)
    target = common_target(learning_curves(world.table()))
    assert target == 0.57
    assert math.isfinite(seconds_to_reach(world.table(), world.runs, target)["seconds"].max())


# Claims


def test_the_four_claims(world: World) -> None:
    found = full(world).claims()
    assert found["accuracy"].answer == (
        f"mlp on {VGG} is right for 70% (67 to 73) of 1,000 test images and the best control, cnn from scratch, for "
        "55% (52 to 58), both trained on 2,000 images: transfer learning is worth 15 points (95% interval 13 to 17, "
        "p below 0.001)."
    )
    assert found["little-data"].answer == (
        f"With 40 training images (10 a class), mlp on {VGG} is right for 50% (48 to 52) of the test images and the "
        "best control, mlp on vgg16-random-0-64px-block3_pool-grid2, for 25% (23 to 27): transfer learning is worth "
        f"25.0 points (95% interval 25.0 to 25.0); to be right for 55%, mlp on {VGG} needs about 89 images and "
        "cnn from scratch about 2,000."
    )
    assert found["training-time"].answer == (
        f"To be right for 55% of the test images, mlp on {VGG} takes 2.4 s on 200 training images (2 s for the fit and "
        "0.4 s for the features, or 2.2 s in all if 2 heads share them), the fastest control, cnn from scratch, 40 s: "
        "transfer learning is 17 times as fast."
    )
    assert found["convergence"].answer == (
        f"Trained on 2,000 images, mlp on {VGG} has 90% of its final training accuracy after 2 of 3 epochs (13 s), "
        "cnn from scratch after 4 of 4 epochs (2,000 s): transfer learning converges in fewer epochs; on 2,000 images, "
        f"logistic regression takes 80 iterations with {VGG} and 200 with pixels-32px."
    )


def test_the_tables_of_the_claims(world: World) -> None:
    found = full(world).claims()
    row = found["accuracy"].table.iloc[0].to_dict()
    assert row == {
        "head": f"mlp on {VGG}",
        "control": "cnn from scratch",
        "train images": "2,000",
        "accuracy (95% interval)": "70% (67 to 73)",
        "control's accuracy (95% interval)": "55% (52 to 58)",
        "gain, points (95% interval)": "+15 (+13 to +17)",
        "p (Holm)": "below 0.001",
        "both wrong %": "30.0",
        "error overlap %": "67",
    }
    row = found["little-data"].table.set_index("approach").loc["cnn from scratch"].to_dict()
    assert row == {
        "% with 40 images": "15 (13 to 17)",
        "% with 200 images": "30 (28 to 32)",
        "% with 2,000 images": "55 (52 to 58)",
        "seeds": "1 to 3",
        "images for 55%": "about 2,000",
    }
    table = found["training-time"].table.set_index("approach")
    assert table.loc["cnn from scratch"].to_dict() == {
        "train images": "2,000",
        "accuracy %": "55.0",
        "fit s": "2,000",
        "extraction s": "below 0.01",
        "both s": "2,000",
        "heads": "3",
        "s, extraction shared": "2,000",
        "s by validation": "40",
    }
    assert table.loc["mlp on pixels-32px", "both s"] == "-"
    table = found["convergence"].table.set_index("approach")
    assert table.loc["cnn from scratch"].tolist() == ["2,000", "4", "4", "500", "2,000", "-"]
    assert table.loc["logreg on pixels-32px"].tolist() == ["2,000", "-", "-", "-", "-", "200"]


def test_several_seeds_are_averaged_and_spread(world: World) -> None:
    for seed, epochs in enumerate(([0.5, 0.8], [0.8, 0.8], [0.8, 0.8])):
        world.add(0.7, model="mlp", seed=seed, fit_seconds=6.0, history=history(epochs))
        world.add(0.6, **CNN, seed=seed, fit_seconds=18.0, history=history([0.8, 0.8]))
    found = world.claims()["convergence"]
    assert f"mlp on {VGG} has 90% of its final training accuracy after 1.3 of 2 epochs (4 s)" in found.answer
    assert "transfer learning does not converge in fewer epochs" in found.answer
    assert found.table.set_index("approach").loc[f"mlp on {VGG}", "s to 90%"] == "4 (3 to 6)"


def test_convergence_sets_the_best_against_the_network_from_scratch(world: World) -> None:
    steps = history([0.8, 0.8])
    world.add(0.7, model="mlp", history=steps)
    world.add(0.8, model="mlp", history=steps, features="tiny-other", iterations=2)
    world.add(0.6, **PIXELS, model="mlp", history=steps)
    world.add(0.5, **CNN, history=steps)
    world.add(0.9, **CNN, train_rows=50, history=steps)
    answer = world.claims()["convergence"].answer
    assert answer.startswith("Trained on 2,000 images, mlp on other has")
    assert "cnn from scratch after 1 of 2" in answer
    assert answer.endswith("transfer learning converges in as many epochs.")
    world.runs = {path: run for path, run in world.runs.items() if run.model != "cnn"}
    assert "mlp on pixels-32px after 1 of 2" in world.claims()["convergence"].answer


def test_transfer_that_does_not_help(world: World) -> None:
    for size, ours, other in ((40, 0.2, 0.3), (2000, 0.4, 0.6)):
        world.add(ours, model="mlp", train_rows=size, fit_seconds=size / 10, history=history([0.1, 0.5, 0.9]))
        world.add(other, **CNN, train_rows=size, fit_seconds=size / 100, history=history([0.9, 0.9], [0.0, 0.0]))
    found = {key: claim.answer for key, claim in world.claims().items()}
    assert (
        "transfer learning does not help here, it costs 20 points (95% interval 17 to 22, p below 0.001)."
        in found["accuracy"]
    )
    assert "transfer learning does not help here, it costs 10 points (95% interval 8 to 12);" in found["little-data"]
    assert (
        f"to be right for 40%, mlp on {VGG} needs about 2,000 images and cnn from scratch about 150."
        in (found["little-data"])
    )
    assert "transfer learning saves no time, it takes 8.5 times as long." in found["training-time"]
    assert "transfer learning does not converge in fewer epochs." in found["convergence"]


@pytest.mark.parametrize("first", ["transfer", "control"])
def test_a_bound_does_not_show_who_is_slower(world: World, first: str) -> None:
    ours, controls = ((2000,), (40, 2000)) if first == "control" else ((40, 2000), (2000,))
    for size in ours:
        world.add(0.0003 * size, train_rows=size, fit_seconds=1.0 if first == "transfer" else 99.0)
    for size in controls:
        world.add(0.0002 * size, train_rows=size, fit_seconds=99.0 if first == "transfer" else 1.0, **PIXELS)
    answer = world.claims()["training-time"].answer
    assert answer.count("at most 103 s") == 1
    assert answer.count("5 s") == 1
    assert "which is faster is open" in answer


def test_a_history_is_no_bound(world: World) -> None:
    for size in (40, 2000):
        world.add(0.0003 * size, train_rows=size, fit_seconds=1.0)
    world.add(0.4, **CNN, fit_seconds=99.0, history=history([0.1] * 4, [0.2, 0.3, 0.4, 0.4]))
    answer = world.claims()["training-time"].answer
    assert answer.endswith("cnn from scratch, 78 s: transfer learning is 16 times as fast.")


def test_what_may_be_chance_is_called_so(world: World) -> None:
    for size, value in ((40, 0.4), (2000, 0.5)):
        world.add(value, train_rows=size, fit_seconds=1.0, extraction_seconds=0.0)
        world.add(value, start=1, train_rows=size, fit_seconds=1.1, extraction_seconds=0.0, **PIXELS)
    found = {key: claim.answer for key, claim in world.claims().items()}
    assert "the difference of +0.0 points (95% interval -0.4 to +0.4, p 1.000) may be chance." in found["accuracy"]
    assert "the difference of +0.0 points (95% interval -0.4 to +0.4) may be chance;" in found["little-data"]
    assert "transfer learning takes about as long." in found["training-time"]


def test_few_seeds_do_not_prove_a_difference(world: World) -> None:
    for size in (40, 2000):
        for seed, value in enumerate((0.5, 0.6)):
            world.add(value, train_rows=size, seed=seed)
            world.add(0.45, train_rows=size, seed=seed, **PIXELS)
    expected = stats.ttest_1samp([0.05, 0.15], 0).confidence_interval(0.95)
    bounds = f"{100 * expected.low:+.0f} to {100 * expected.high:+.0f}"
    assert (
        f"the difference of +10 points (95% interval {bounds}) may be chance;" in world.claims()["little-data"].answer
    )


def test_a_row_of_claims_without_a_control(world: World) -> None:
    world.add(0.715)
    for claim in world.claims().values():
        assert claim.answer == (
            f"There is no run of a control; {EXPERIMENT} makes it; the best run there is, logreg on {VGG}, is right "
            "for 72% (69 to 74) of 1,000 test images, trained on 2,000 in 1.5 s."
        )
        assert claim.table.empty


def test_claims_without_transfer(world: World) -> None:
    world.add(0.4, **PIXELS)
    world.add(0.5, model="dummy")
    for claim in world.claims().values():
        assert claim.answer.startswith(f"There is no run on the features of a pretrained network; {EXPERIMENT} makes")


def test_claims_of_one_size_without_history(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS, iterations=None)
    found = world.claims()
    assert found["accuracy"].answer.endswith("is worth 30 points (95% interval 27 to 33, p below 0.001).")
    assert found["little-data"].answer.startswith(
        "There is no learning curve of the heads on a pretrained network, which were trained on one number of images "
        f"only; {EXPERIMENT} makes it; the best run there is, logreg on {VGG}, is right for 70% (67 to 73)"
    )
    assert len(found["little-data"].table) == 2
    assert found["training-time"].answer == (
        f"To be right for 40% of the test images, logreg on {VGG} takes at most 5.5 s on 2,000 training images (1.5 s "
        "for the fit and 4 s for the features), the fastest control, logreg on pixels-32px, at most 5.5 s: which is "
        f"faster is open, as fewer images were not tried; {EXPERIMENT} tries them."
    )
    assert found["convergence"].answer == (
        f"There is no history of the training of a pretrained network's head; {EXPERIMENT} makes it."
    )
    for name in ("random weights", "from scratch"):
        assert name in found["accuracy"].notes[-1]
    assert "raw pixels" not in found["accuracy"].notes[-1]


def test_claims_of_unequal_numbers_of_images(world: World) -> None:
    for size in (100, 2000):
        world.add(0.6, model="mlp", train_rows=size, history=history([0.5]))
        world.add(0.4, **CNN, train_rows=size + 1, history=history([0.5], [0.5]))
    found = {key: claim.answer for key, claim in world.claims().items()}
    assert found["accuracy"].startswith("There is no control that was trained on as many images as a head on")
    assert found["little-data"].startswith("There is no number of images on which both")
    assert found["training-time"].startswith("To be right for 40%")
    assert found["convergence"].startswith("There is no history of the training of a control with as many images")
    assert all(EXPERIMENT in found[key] for key in ("accuracy", "little-data", "convergence"))


def test_more_images_than_any_control_are_a_note(world: World) -> None:
    world.add(0.8)
    world.add(0.7, train_rows=100)
    world.add(0.4, train_rows=100, **PIXELS)
    claim = world.claims()["accuracy"]
    assert "both trained on 100 images" in claim.answer
    assert any("With 2,000 training images" in note and "80% (77 to 82)" in note for note in claim.notes)


def test_only_searched_heads_have_no_comparable_time(world: World) -> None:
    world.add(0.7, tuned=9)
    world.add(0.4, **PIXELS)
    answer = world.claims()["training-time"].answer
    assert answer.startswith("There is no run on the features of a pretrained network with default settings; ")


def test_several_machines_are_a_note(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS)
    assert not any("several machines" in note for note in world.claims()["training-time"].notes)
    world.add(0.3, **PIXELS, model="svm", machine="64 cores")
    assert any("several machines" in note for note in world.claims()["training-time"].notes)


def test_claims_of_one_of_two_test_sets(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS)
    world.add(0.99, **PIXELS, test_digest="cd" * 32, iterations=999, seed=1)
    table = world.table()
    of_one = table[table["test_set"] == "tiny-abababab"]
    accuracy, *_, converges = claims(of_one, world.runs)
    assert "logreg on pixels-32px, for 40%" in accuracy.answer
    assert converges.answer.endswith("and 80 with pixels-32px.")


def test_the_same_runs_give_the_same_claims(world: World) -> None:
    first = full(world).claims()
    world.runs = dict(reversed(world.runs.items()))
    for key, claim in world.claims().items():
        assert claim.answer == first[key].answer
        assert claim.notes == first[key].notes
        pd.testing.assert_frame_equal(claim.table, first[key].table)
