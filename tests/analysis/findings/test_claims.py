import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_runs import CNN, PIXELS, VGG, World, make_history, runs_with_controls

from analysis.findings.claims import EXPERIMENT, claims


def test_the_four_claims(world: World) -> None:
    found = runs_with_controls(world).claims()
    assert found["accuracy"].finding == (
        f"mlp on {VGG}: 70% accuracy (67 to 73) on 1,000 test images; the best control, cnn from scratch, 55% (52 to "
        "58). Both were trained on 2,000 images. Transfer learning gains 15 points (13 to 17, p below 0.001)."
    )
    assert found["little-data"].finding == (
        f"With 40 training images (10 per class), mlp on {VGG} reaches 50% accuracy (48 to 52); the best control, "
        "mlp on vgg16-random-0, 25% (23 to 27). Transfer learning gains 25.0 points (25.0 to 25.0). "
        f"To reach 55% accuracy, mlp on {VGG} needs about 89 training images and cnn from scratch about 2,000."
    )
    assert found["training-time"].finding == (
        f"To reach 55% accuracy, mlp on {VGG} takes 2.4 s on 200 training images (2 s to fit, 0.4 s to extract; 2.2 s "
        "in all if 2 heads share the features). The fastest control, cnn from scratch, takes 40 s. Transfer learning "
        "is 17 times as fast. On the same 200 images, the control takes 83 times as long (83 to 83, 3 seeds)."
    )
    assert found["convergence"].finding == (
        f"On 2,000 training images, mlp on {VGG} reaches 90% of its final training accuracy after 2 of 3 epochs "
        "(13 s), cnn from scratch after 4 of 4 epochs (2,000 s). Transfer learning converges in fewer epochs. On the "
        "same 200 images, the control takes 2 times as many epochs (2 to 2, 3 seeds). On 2,000 images, logistic "
        f"regression takes 80 iterations with {VGG} and 200 with pixels."
    )


def test_times_and_epochs_on_the_same_images_have_intervals(world: World) -> None:
    for seed, (fit, control) in enumerate(((1.0, 30.0), (2.0, 50.0), (1.5, 36.0))):
        curves = [make_history([0.1] * seed + [0.9]), make_history([0.1] * 5 + [0.9] * (seed + 1))]
        same = {"train_rows": 400, "seed": seed}
        world.add(0.8, **same, model="mlp", fit_seconds=fit, extraction_seconds=0.01, history=curves[0])
        world.add(0.8, **same, **{**CNN, "fit_seconds": control, "extraction_seconds": 0.0, "history": curves[1]})
    found = world.claims()
    for claim, ratios in (("training-time", [30 / 5, 50 / 6, 36 / 5.5]), ("convergence", [6 / 1, 6 / 2, 6 / 3])):
        interval = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.95)
        value, low, high = np.exp([np.log(ratios).mean(), interval.low, interval.high])
        what = "long" if claim == "training-time" else "many epochs"
        clause = f"On the same 400 images, the control takes {value:.2g} times as {what} ("
        assert clause in found[claim].finding
        bounds = found[claim].finding.partition(clause)[2].partition(",")[0].split(" to ")
        assert [float(bound) for bound in bounds] == pytest.approx([low, high], rel=0.05)


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
    }
    assert "mlp on pixels" not in table.index
    never = "These reach 55% at no size tried: "
    assert [note for note in found["training-time"].notes if note.startswith(never) and "mlp on pixels" in note]
    table = found["convergence"].table.set_index("approach")
    assert table.loc["cnn from scratch"].tolist() == ["2,000", "4", "4", "500", "2,000", "-"]
    assert table.loc["logreg on pixels"].tolist() == ["2,000", "-", "-", "-", "-", "200"]


def test_several_seeds_are_averaged_and_spread(world: World) -> None:
    for seed, epochs in enumerate(([0.5, 0.8], [0.8, 0.8], [0.8, 0.8])):
        world.add(0.7, model="mlp", seed=seed, fit_seconds=6.0, history=make_history(epochs))
        world.add(0.6, **CNN, seed=seed, fit_seconds=18.0, history=make_history([0.8, 0.8]))
    found = world.claims()["convergence"]
    assert f"mlp on {VGG} reaches 90% of its final training accuracy after 1.3 of 2 epochs (4 s)" in found.finding
    assert "Transfer learning does not converge in fewer epochs." in found.finding
    assert found.table.set_index("approach").loc[f"mlp on {VGG}", "s to 90%"] == "4 (3 to 6)"


def test_convergence_sets_the_best_against_the_network_from_scratch(world: World) -> None:
    steps = make_history([0.8, 0.8])
    world.add(0.7, model="mlp", history=steps)
    world.add(0.8, model="mlp", history=steps, features="tiny-other", iterations=2)
    world.add(0.6, **PIXELS, model="mlp", history=steps)
    world.add(0.5, **CNN, history=steps)
    world.add(0.9, **CNN, train_rows=50, history=steps)
    finding = world.claims()["convergence"].finding
    assert finding.startswith("On 2,000 training images, mlp on other reaches")
    assert "cnn from scratch after 1 of 2" in finding
    assert finding.endswith("Transfer learning converges in as many epochs.")
    world.runs = {path: run for path, run in world.runs.items() if run.model != "cnn"}
    assert "mlp on pixels after 1 of 2" in world.claims()["convergence"].finding


def test_transfer_that_does_not_help(world: World) -> None:
    for size, ours, other in ((40, 0.2, 0.3), (2000, 0.4, 0.6)):
        world.add(ours, model="mlp", train_rows=size, fit_seconds=size / 10, history=make_history([0.1, 0.5, 0.9]))
        world.add(other, **CNN, train_rows=size, fit_seconds=size / 100, history=make_history([0.9, 0.9], [0.0, 0.0]))
    found = {key: claim.finding for key, claim in world.claims().items()}
    assert "Transfer learning does not help here: it loses 20 points (17 to 22, p below 0.001)." in found["accuracy"]
    assert "Transfer learning does not help here: it loses 10 points (8 to 12)." in found["little-data"]
    assert (
        f"To reach 40% accuracy, mlp on {VGG} needs about 2,000 training images and cnn from scratch about 150."
        in (found["little-data"])
    )
    assert "Transfer learning saves no time: it takes 8.5 times as long." in found["training-time"]
    assert "Transfer learning does not converge in fewer epochs." in found["convergence"]


@pytest.mark.parametrize("first", ["transfer", "control"])
def test_a_bound_does_not_show_who_is_slower(world: World, first: str) -> None:
    ours, controls = ((2000,), (40, 2000)) if first == "control" else ((40, 2000), (2000,))
    for size in ours:
        world.add(0.0003 * size, train_rows=size, fit_seconds=1.0 if first == "transfer" else 99.0)
    for size in controls:
        world.add(0.0002 * size, train_rows=size, fit_seconds=99.0 if first == "transfer" else 1.0, **PIXELS)
    finding = world.claims()["training-time"].finding
    assert finding.count("at most 103 s") == 1
    assert finding.count("5 s") == 1
    assert "Which is faster is open" in finding


def test_a_history_is_no_bound(world: World) -> None:
    for size in (40, 2000):
        world.add(0.0003 * size, train_rows=size, fit_seconds=1.0)
    world.add(0.4, **CNN, fit_seconds=99.0, history=make_history([0.1] * 4, [0.2, 0.3, 0.4, 0.4]))
    finding = world.claims()["training-time"].finding
    assert finding.endswith("cnn from scratch, takes 78 s. Transfer learning is 16 times as fast.")


def test_what_may_be_chance_is_called_so(world: World) -> None:
    for size, value in ((40, 0.4), (2000, 0.5)):
        world.add(value, train_rows=size, fit_seconds=1.0, extraction_seconds=0.0)
        world.add(value, start=1, train_rows=size, fit_seconds=1.1, extraction_seconds=0.0, **PIXELS)
    found = {key: claim.finding for key, claim in world.claims().items()}
    assert "The difference of +0.0 points (-0.4 to +0.4, p 1.000) may be chance." in found["accuracy"]
    assert "The difference of +0.0 points (-0.4 to +0.4) may be chance." in found["little-data"]
    assert "Transfer learning takes about as long." in found["training-time"]


def test_few_seeds_do_not_prove_a_difference(world: World) -> None:
    for size in (40, 2000):
        for seed, value in enumerate((0.5, 0.6)):
            world.add(value, train_rows=size, seed=seed)
            world.add(0.45, train_rows=size, seed=seed, **PIXELS)
    expected = stats.ttest_1samp([0.05, 0.15], 0).confidence_interval(0.95)
    bounds = f"{100 * expected.low:+.0f} to {100 * expected.high:+.0f}"
    assert f"The difference of +10 points ({bounds}) may be chance." in world.claims()["little-data"].finding


def test_a_row_of_claims_without_a_control(world: World) -> None:
    world.add(0.715)
    for claim in world.claims().values():
        assert claim.finding == (
            f"There is no run of a control. To add one, run {EXPERIMENT}. The best run so far is logreg on {VGG}: 72% "
            "accuracy (69 to 74) on 1,000 test images, trained on 2,000 images in 1.5 s."
        )
        assert claim.table.empty


def test_claims_without_transfer(world: World) -> None:
    world.add(0.4, **PIXELS)
    world.add(0.5, model="dummy")
    for claim in world.claims().values():
        assert claim.finding.startswith("There is no run on the features of a pretrained network. To add one, run fr")


def test_claims_of_one_size_without_history(world: World) -> None:
    world.add(0.7)
    world.add(0.4, **PIXELS, iterations=None)
    found = world.claims()
    assert found["accuracy"].finding.endswith("gains 30 points (27 to 33, p below 0.001).")
    assert found["little-data"].finding.startswith(
        "There is no learning curve of the heads on a pretrained network: they were trained on one number of images "
        f"only. To add one, run {EXPERIMENT}. The best run so far is logreg on {VGG}: 70% accuracy (67 to 73)"
    )
    assert len(found["little-data"].table) == 2
    assert found["training-time"].finding == (
        f"To reach 40% accuracy, logreg on {VGG} takes at most 5.5 s on 2,000 training images (1.5 s to fit, 4 s to "
        "extract). The fastest control, logreg on pixels, takes at most 5.5 s. Which is faster is open, as smaller "
        f"sizes were not tried. To try them, run {EXPERIMENT}."
    )
    assert found["convergence"].finding == (
        f"There is no training history of a pretrained network's head. To add one, run {EXPERIMENT}."
    )
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
    assert found["training-time"].startswith("To reach 40% accuracy")
    assert found["convergence"].startswith("There is no training history of a control with as many images")
    assert all(EXPERIMENT in found[key] for key in ("accuracy", "little-data", "convergence"))


def test_more_images_than_any_control_are_a_note(world: World) -> None:
    world.add(0.8)
    world.add(0.7, train_rows=100)
    world.add(0.4, train_rows=100, **PIXELS)
    claim = world.claims()["accuracy"]
    assert "Both were trained on 100 images." in claim.finding
    assert any("With 2,000 training images" in note and "80% accuracy (77 to 82)" in note for note in claim.notes)


def test_more_accurate_on_fewer_images_is_no_note(world: World) -> None:
    for size, value in ((100, 0.8), (2000, 0.7)):
        world.add(value, train_rows=size)
        world.add(0.4, train_rows=size, **PIXELS)
    assert not any("no control was trained on as many" in note for note in world.claims()["accuracy"].notes)


def test_only_searched_heads_have_no_comparable_time(world: World) -> None:
    world.add(0.7, tuned=9)
    world.add(0.4, **PIXELS)
    finding = world.claims()["training-time"].finding
    assert finding.startswith("There is no run on the features of a pretrained network with default settings. ")


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
    assert "logreg on pixels, 40%" in accuracy.finding
    assert converges.finding.endswith("and 80 with pixels.")


def test_the_same_runs_give_the_same_claims(world: World) -> None:
    first = runs_with_controls(world).claims()
    world.runs = dict(reversed(world.runs.items()))
    for key, claim in world.claims().items():
        assert claim.finding == first[key].finding
        assert claim.notes == first[key].notes
        pd.testing.assert_frame_equal(claim.table, first[key].table)
