import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tiny_runs import CNN, PIXELS, RANDOM, SPEC_OF_A_NETWORK, World, check_sentences, make_predictions, write_run

from analysis.findings import class_gains, class_sentences
from analysis.findings.transfer import GAINS, gains, paired_interval
from featurize.core.errors import DataError


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
    other = {
        **RANDOM,
        "features": "tiny-resnet50-random-0",
        "spec": {**SPEC_OF_A_NETWORK, "backbone": "resnet50"},
        "layers": ["last"],
    }
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


def test_gains_of_classes_hold_at_once(world: World) -> None:
    """Image i has the class i % 3; the head is right for 0..700, the control for 600..1000."""
    head, control = world.add(0.7), world.add(0.4, start=600, **PIXELS)
    found = class_gains(head, control)
    assert list(found.index) == [0, 1, 2]
    assert found.loc[0, "gain"] == pytest.approx((200 - 100) / 334)
    bounds = paired_interval(200, 100, 334, 1 - 0.05 / 3)
    assert tuple(found.loc[0, ["low", "high"]]) == pytest.approx(bounds)
    alone = paired_interval(200, 100, 334)
    assert bounds[0] < alone[0] < alone[1] < bounds[1]
    sentences = class_sentences(found, ["ant", "bee", "cow"], "svm on pixels")
    for sentence in sentences:
        check_sentences(sentence)
    assert sentences[0] == "Against svm on pixels, 3 of 3 classes gain beyond chance."
    assert sentences[1].startswith("The largest gain is that of ")
    assert class_sentences(class_gains(control, head), ["ant", "bee", "cow"], "it") == [
        "Against it, 0 of 3 classes gain beyond chance, and 3 lose."
    ]
    same = world.add(0.7, **RANDOM)
    assert class_sentences(class_gains(head, same), ["ant", "bee", "cow"], "it") == []


def test_simultaneous_intervals_cover_all_classes() -> None:
    random = np.random.default_rng(3)
    shares = np.array([[0.2, 0.1], [0.1, 0.1], [0.05, 0.15], [0.3, 0.2], [0.12, 0.1]])  # right in one head only
    true = shares[:, 0] - shares[:, 1]
    held = []
    for _ in range(500):
        draws = [random.multinomial(100, [a, b, 1 - a - b]) for a, b in shares]
        bounds = [paired_interval(int(a), int(b), 100, 1 - 0.05 / 5) for a, b, _ in draws]
        held.append(all(low <= gain <= high for (low, high), gain in zip(bounds, true, strict=True)))
    assert np.mean(held) > 0.93
