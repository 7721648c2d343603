import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_runs import CNN, PIXELS, VGG, World, make_history, runs_with_controls

from analysis.findings.claims import claims

COMMAND = "frozenbench run tiny"


def test_the_four_claims(world: World) -> None:
    found = runs_with_controls(world).claims()
    assert [(claim.finding, claim.details) for claim in found.values()] == [
        (
            f"mlp on {VGG} gains 15 points (13 to 17) over the best control, cnn from scratch.",
            ("The control reaches 55% accuracy (52 to 58).", "Both were trained on 2,000 images; p is below 0.001."),
        ),
        (
            f"For 55% accuracy, mlp on {VGG} needs about 89 training images, cnn from scratch about 2,000.",
            (
                "The smallest training set has 40 images, 10 per class.",
                f"There, mlp on {VGG} gains 25.0 points (25.0 to 25.0) over mlp on vgg16-random-0.",
            ),
        ),
        (
            f"mlp on {VGG} is 17 times as fast to 55% accuracy as cnn from scratch.",
            (
                f"mlp on {VGG} takes 2.4 s, of which 0.4 s extract the features of 200 images.",
                "cnn from scratch takes 40 s.",
                "If 2 heads share the extraction, each takes 2.2 s in all.",
                "On the same images, the control takes 83 times as long (83 to 83).",
                f"In as much time, mlp on {VGG} gains 25 points (22 to 28) over mlp on vgg16-random-0.",
                "Each has 24 s, extraction included, on any number of images.",
                "A correct answer takes the frozen network 100 times as long as the control (96 to 105), extraction "
                "included.",
            ),
        ),
        (
            f"mlp on {VGG} comes near its own final accuracy after 2 epochs, cnn from scratch near its own after 4.",
            (
                f"Until then, mlp on {VGG} sees 4,000 images in 13 s.",
                "Until then, cnn from scratch sees 8,000 images in 2,000 s.",
                "On the same images, the control takes 2 times as many epochs (2 to 2).",
                f"Logistic regression takes 80 iterations with {VGG} and 200 with pixels.",
            ),
        ),
    ]


def test_the_four_numbers(world: World) -> None:
    found = [claim.measure for claim in runs_with_controls(world).claims().values()]
    assert [(each.written, each.interval) for each in found] == [
        ("+15", "+13 to +17"),
        ("22", "14 or more"),
        ("83", "83 to 83"),
        ("2", "2 to 2"),
    ]
    assert [each.detail for each in found] == [
        "over cnn from scratch",
        "to 55% accuracy",
        "on the same 200 images, 3 seeds",
        "on the same 200 images, 3 seeds",
    ]
    assert not any(each.command for each in found)


def test_what_is_not_measured_names_its_command(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS, iterations=None)
    gain, images, time, epochs = (claim.measure for claim in world.claims().values())
    assert (gain.written, gain.command) == ("+30", "")
    assert (images.written, images.command) == ("-", COMMAND)
    assert (time.command, time.detail) == (f"{COMMAND} --preset full", "smaller training sets were not tried")
    assert (epochs.command, epochs.detail) == (COMMAND, "no training history")


def test_times_and_epochs_on_the_same_images_have_intervals(world: World) -> None:
    for seed, (fit, control) in enumerate(((1.0, 30.0), (2.0, 50.0), (1.5, 36.0))):
        curves = [make_history([0.1] * seed + [0.9]), make_history([0.1] * 5 + [0.9] * (seed + 1))]
        same = {"train_rows": 400, "seed": seed}
        world.add(0.8, **same, model="mlp", fit_seconds=fit, extraction_seconds=0.01, history=curves[0])
        world.add(0.8, **same, **{**CNN, "fit_seconds": control, "extraction_seconds": 0.0, "history": curves[1]})
    found = world.claims()
    for claim, ratios in (("training-time", [30 / 5, 50 / 6, 36 / 5.5]), ("convergence", [6 / 1, 6 / 2, 6 / 3])):
        interval = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.95)
        expected = np.exp([np.log(ratios).mean(), interval.low, interval.high])
        measure = found[claim].measure
        assert [measure.value, measure.low, measure.high] == pytest.approx(expected)
        what = "long" if claim == "training-time" else "many epochs"
        clause = f"On the same images, the control takes {measure.value:.2g} times as {what} ("
        assert any(detail.startswith(clause) for detail in found[claim].details)


def test_the_tables_of_the_claims(world: World) -> None:
    found = runs_with_controls(world).claims()
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
        "ms per correct answer": "0.018",
    }
    assert "mlp on pixels" not in table.index
    assert "3 others reach 55% at no size tried." in found["training-time"].notes
    table = found["convergence"].table.set_index("approach")
    assert table.loc["cnn from scratch"].tolist() == ["2,000", "4", "4", "500", "2,000", "-"]
    assert table.loc["logreg on pixels"].tolist() == ["2,000", "-", "-", "-", "-", "200"]


def test_several_seeds_are_averaged_and_spread(world: World) -> None:
    for seed, epochs in enumerate(([0.5, 0.8], [0.8, 0.8], [0.8, 0.8])):
        world.add(0.7, model="mlp", seed=seed, fit_seconds=6.0, history=make_history(epochs))
        world.add(0.6, **CNN, seed=seed, fit_seconds=18.0, history=make_history([0.8, 0.8]))
    found = world.claims()["convergence"]
    assert found.finding.startswith(f"mlp on {VGG} comes near its own final accuracy after 1.3 epochs, ")
    assert found.details[0].endswith(" in 4 s.")
    assert found.table.set_index("approach").loc[f"mlp on {VGG}", "s to 90%"] == "4 (3 to 6)"


def test_convergence_sets_the_best_against_the_network_from_scratch(world: World) -> None:
    steps = make_history([0.8, 0.8])
    world.add(0.7, model="mlp", history=steps)
    world.add(0.8, model="mlp", history=steps, features="tiny-other", iterations=2)
    world.add(0.6, **PIXELS, model="mlp", history=steps)
    world.add(0.5, **CNN, history=steps)
    world.add(0.9, **CNN, train_rows=50, history=steps)
    finding = world.claims()["convergence"].finding
    assert finding.startswith("mlp on other comes near")
    assert "cnn from scratch near" in finding
    world.runs = {path: run for path, run in world.runs.items() if run.model != "cnn"}
    assert "mlp on pixels near its own after 1." in world.claims()["convergence"].finding


def test_transfer_that_does_not_help(world: World) -> None:
    for size, ours, other in ((40, 0.2, 0.3), (2000, 0.4, 0.6)):
        world.add(ours, model="mlp", train_rows=size, fit_seconds=size / 10, history=make_history([0.1, 0.5, 0.9]))
        world.add(other, **CNN, train_rows=size, fit_seconds=size / 100, history=make_history([0.9, 0.9], [0.0, 0.0]))
    found = {key: (claim.finding, *claim.details) for key, claim in world.claims().items()}
    assert found["accuracy"][0] == (
        f"mlp on {VGG} loses 20 points (17 to 22) against the best control, cnn from scratch."
    )
    assert found["little-data"][2] == f"There, mlp on {VGG} loses 10 points (8 to 12) against cnn from scratch."
    assert found["little-data"][0] == (
        f"For 40% accuracy, mlp on {VGG} needs about 2,000 training images, cnn from scratch about 150."
    )
    assert found["training-time"][0] == (
        "The frozen network saves no time: to 40% accuracy, it takes 8.5 times as long as cnn from scratch."
    )
    assert [claim.measure.written for claim in world.claims().values()] == ["-20", "0.074", "0.12", "0.33"]


@pytest.mark.parametrize("first", ["transfer", "control"])
def test_a_bound_does_not_show_who_is_slower(world: World, first: str) -> None:
    ours, controls = ((2000,), (40, 2000)) if first == "control" else ((40, 2000), (2000,))
    for size in ours:
        world.add(0.0003 * size, train_rows=size, fit_seconds=1.0 if first == "transfer" else 99.0)
    for size in controls:
        world.add(0.0002 * size, train_rows=size, fit_seconds=99.0 if first == "transfer" else 1.0, **PIXELS)
    claim = world.claims()["training-time"]
    assert " ".join(claim.details).count("at most 103 s") == 1
    assert claim.finding.startswith("Which is faster to ")
    assert not claim.measure.is_measured


def test_a_history_is_no_bound(world: World) -> None:
    for size in (40, 2000):
        world.add(0.0003 * size, train_rows=size, fit_seconds=1.0)
    world.add(0.4, **CNN, fit_seconds=99.0, history=make_history([0.1] * 4, [0.2, 0.3, 0.4, 0.4]))
    claim = world.claims()["training-time"]
    assert claim.finding.endswith(" is 16 times as fast to 40% accuracy as cnn from scratch.")
    assert claim.measure.written == "16"
    assert claim.measure.interval == "single runs: no interval"


def test_what_may_be_chance_is_called_so(world: World) -> None:
    for size, value in ((40, 0.4), (2000, 0.5)):
        world.add(value, train_rows=size, fit_seconds=1.0, extraction_seconds=0.0)
        world.add(value, start=1, train_rows=size, fit_seconds=1.1, extraction_seconds=0.0, **PIXELS)
    found = {key: (claim.finding, *claim.details) for key, claim in world.claims().items()}
    differs = "differs by +0.0 points (-0.4 to +0.4) from"
    assert f"{differs} the best control, logreg on pixels; this may be chance." in found["accuracy"][0]
    assert f"{differs} logreg on pixels; this may be chance." in found["little-data"][2]
    assert " takes about as long to " in found["training-time"][0]


def test_few_seeds_do_not_prove_a_difference(world: World) -> None:
    for size in (40, 2000):
        for seed, value in enumerate((0.5, 0.6)):
            world.add(value, train_rows=size, seed=seed)
            world.add(0.45, train_rows=size, seed=seed, **PIXELS)
    expected = stats.ttest_1samp([0.05, 0.15], 0).confidence_interval(0.95)
    bounds = f"{100 * expected.low:+.0f} to {100 * expected.high:+.0f}"
    assert f"differs by +10 points ({bounds}) from" in world.claims()["little-data"].details[1]


def test_a_row_of_claims_without_a_control(world: World) -> None:
    world.add(0.715)
    for claim in world.claims().values():
        assert claim.finding == "There is no run of a control."
        assert claim.measure.command == COMMAND
        assert claim.table.empty


def test_claims_without_transfer(world: World) -> None:
    world.add(0.4, **PIXELS)
    world.add(0.5, model="dummy")
    for claim in world.claims().values():
        assert claim.finding == "There is no run on the features of a pretrained network."


def test_claims_of_one_size_without_history(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS, iterations=None)
    found = world.claims()
    assert " gains 30 points (27 to 33) " in found["accuracy"].finding
    assert found["little-data"].finding == (
        "The heads on a pretrained network were trained on one number of images only."
    )
    assert len(found["little-data"].table) == 2
    assert found["training-time"].finding == (
        "Which is faster to 40% accuracy is open, as smaller training sets were not tried."
    )
    assert found["convergence"].finding == "There is no training history of a pretrained network's head."
    for name in ("random weights", "from scratch"):
        assert name in found["accuracy"].notes[-1]
    assert "raw pixels" not in found["accuracy"].notes[-1]


def test_claims_of_unequal_numbers_of_images(world: World) -> None:
    for size in (100, 2000):
        world.add(0.6, model="mlp", train_rows=size, history=make_history([0.5]))
        world.add(0.4, **CNN, train_rows=size + 1, history=make_history([0.5], [0.5]))
    found = {key: claim.finding for key, claim in world.claims().items()}
    assert found["accuracy"].startswith("No control was trained on as many images as a head on")
    assert found["little-data"].startswith("No number of training images is shared by heads")
    assert "40% accuracy" in found["training-time"]
    assert found["convergence"].startswith("There is no training history of a control with as many images")
    missing = [claim.measure for key, claim in world.claims().items() if key != "training-time"]
    assert all(measure.command == COMMAND for measure in missing)


def test_more_images_than_any_control_are_a_note(world: World) -> None:
    world.add(0.8)
    world.add(0.7, train_rows=100)
    world.add(0.4, train_rows=100, **PIXELS)
    claim = world.claims()["accuracy"]
    assert claim.details[1].startswith("Both were trained on 100 images; ")
    assert any("with 2,000 training images is more accurate" in note for note in claim.notes)


def test_more_accurate_on_fewer_images_is_no_note(world: World) -> None:
    for size, value in ((100, 0.8), (2000, 0.7)):
        world.add(value, train_rows=size)
        world.add(0.4, train_rows=size, **PIXELS)
    assert not any("no control was trained on as many" in note for note in world.claims()["accuracy"].notes)


def test_only_searched_heads_have_no_comparable_time(world: World) -> None:
    world.add(0.7, tuned=9)
    world.add(0.4, **PIXELS)
    finding = world.claims()["training-time"].finding
    assert finding == "There is no run on the features of a pretrained network with default settings."


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
    assert "over the best control, logreg on pixels." in accuracy.finding
    assert converges.details[-1].endswith("and 80 with pixels.")


def test_the_same_runs_give_the_same_claims(world: World) -> None:
    first = runs_with_controls(world).claims()
    world.runs = dict(reversed(world.runs.items()))
    for key, claim in world.claims().items():
        assert claim.finding == first[key].finding
        assert claim.details == first[key].details
        assert claim.notes == first[key].notes
        pd.testing.assert_frame_equal(claim.table, first[key].table)
