import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_blocks import make_cache, set_block_rows

from classify.large.blocks import FeatureBlocks
from classify.training import checks
from classify.training.checks import survey
from featurize.cache import Features, load_features, read_info
from featurize.core.errors import HeadError


@pytest.fixture
def train(cache: Path) -> Features:
    return load_features(cache, "train")


@pytest.fixture
def test(cache: Path) -> Features:
    return load_features(cache, "test")


def check_train(train: Features, class_weight: str | None = None) -> list[str]:
    return checks.check_train(survey(train, "training"), class_weight)


def check_overlap(train: Features, test: Features) -> list[str]:
    return checks.check_overlap(survey(train, "training"), survey(test, "test"))


def changed(features: Features, **changes: object) -> Features:
    """With other values; x and y are copied first, so that they may be written to."""
    return dataclasses.replace(features, **{"x": features.x.copy(), "y": features.y.copy(), **changes})


def kept(features: Features, rows: np.ndarray) -> Features:
    return changed(features, x=features.x[rows], y=features.y[rows], ids=features.ids[rows])


def test_nothing_to_say(train: Features, test: Features) -> None:
    assert check_train(train) == []
    assert check_overlap(train, test) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(train: Features, test: Features, value: float) -> None:
    for features, split, check in (
        (train, "training", check_train),
        (test, "test", lambda bad: check_overlap(train, bad)),
    ):
        bad = changed(features)
        bad.x[[7, 9], 3] = value
        message = (
            f"^2 of {len(bad.y)} {split} vectors hold NaN or infinity, the one with id {bad.ids[7]} first: expected"
        )
        with pytest.raises(HeadError, match=message):
            check(bad)


def test_large_values_are_numbers(train: Features) -> None:
    large = changed(train)
    large.x[:, 0] = np.where(np.arange(len(large.y)) % 2, np.finfo(np.float32).max, np.finfo(np.float32).min)
    assert check_train(large) == []


def test_a_class_without_training_rows(train: Features) -> None:
    with pytest.raises(HeadError, match="hold no image of bee: every class needs some; use more images"):
        check_train(kept(train, train.y != 1))


def test_one_class_only(train: Features) -> None:
    with pytest.raises(HeadError, match=r"hold one class only \(bee\): expected two or more"):
        check_train(kept(train, train.y == 1))
    single = kept(train, train.y == 0)
    with pytest.raises(HeadError, match=r"hold one class only \(ant\): expected two or more"):
        check_train(changed(single, class_names=("ant",)))


@pytest.mark.parametrize(("label", "found"), [(-1, "-1 to 2"), (3, "0 to 3")])
def test_labels_without_a_class(train: Features, test: Features, label: int, found: str) -> None:
    bad, bad_test = changed(train), changed(test)
    bad.y[5] = bad_test.y[5] = label
    with pytest.raises(HeadError, match=f"^the training labels are {found}: expected 0 to 2, one for each class name"):
        check_train(bad)
    with pytest.raises(HeadError, match=f"^the test labels are {found}: expected 0 to 2, one for each class name"):
        check_overlap(train, bad_test)


def test_no_rows(train: Features, test: Features) -> None:
    with pytest.raises(HeadError, match="there are no training rows"):
        check_train(kept(train, train.y > 9))
    with pytest.raises(HeadError, match="there are no test rows"):
        check_overlap(train, kept(test, test.y > 9))


def test_unequal_classes(train: Features) -> None:
    of_bee = np.flatnonzero(train.y == 1)
    thrice = kept(train, np.setdiff1d(np.arange(120), of_bee[13:]))  # 40 to 13
    assert check_train(kept(train, np.setdiff1d(np.arange(120), of_bee[14:]))) == []  # 40 to 14
    assert check_train(thrice) == [
        "FB001: classes are unequal: 40 training images of ant, 13 of bee; macro F1 says more than accuracy here, and "
        "--class-weight balanced gives each class the same weight"
    ]
    (balanced,) = check_train(thrice, "balanced")
    assert balanced.endswith("macro F1 says more than accuracy here")


def test_constant_features(train: Features) -> None:
    constant = changed(train)
    constant.x[:, 2] = 0
    constant.x[:, 5] = 7
    constant.x[:, 6] = 7 + np.arange(len(train.y)) % 2 * np.float32(5e-7)  # one unit in the last place
    constant.x[:, 8] = 7 + np.arange(len(train.y)) % 2 * np.float32(1e-4)
    assert len(np.unique(constant.x[:, 6])) == len(np.unique(constant.x[:, 8])) == 2
    assert check_train(constant) == ["FB002: 3 of 16 features are constant over the training rows"]


def test_equal_training_vectors_of_different_classes(train: Features) -> None:
    twins = changed(train)
    twins.x[3] = twins.x[0]  # of one class: nothing to say
    twins.x[4] = twins.x[1]
    assert check_train(twins) == []
    twins.x[6] = twins.x[1] + 0
    twins.y[6] = 2
    assert check_train(twins) == ["FB003: 3 of 120 training vectors equal one of another class"]


def test_training_vectors_among_the_test_vectors(train: Features, test: Features) -> None:
    leaked = changed(test)
    leaked.x[:5] = train.x[:5]  # both splits' labels are 0, 1, 2, 0, 1
    leaked.y[4] = 0
    assert check_overlap(train, leaked) == [
        "FB004: 5 of 60 test vectors are training vectors too, 1 of them under another label: accuracy on them says "
        "nothing about new images"
    ]


def test_a_vector_that_is_nearly_a_training_vector(train: Features, test: Features) -> None:
    near = changed(test)
    near.x[0] = np.nextafter(train.x[0], np.float32(9))
    assert check_overlap(train, near) == []


def test_columns_of_some_layers_only(train: Features, test: Features) -> None:
    """Vectors are compared over the columns in use, whatever lies between them in memory."""
    leaked = changed(test)
    leaked.x[:5, 4:] = train.x[:5, 4:]
    assert check_overlap(train, leaked) == []
    some = [changed(features, x=features.x[:, 4:]) for features in (train, leaked)]
    assert "5 of 60 test vectors" in check_overlap(*some)[0]
    assert "5 of 60 test vectors" in check_overlap(changed(train, x=np.asfortranarray(some[0].x)), some[1])[0]


def test_the_checks_see_the_same_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    path = make_cache(tmp_path / "tiny.h5", lopsided=True)
    whole = checks.survey(load_features(path, "train"), "training")
    parts = checks.survey(FeatureBlocks.of(read_info(path), "train"), "training", threads=2)
    for field in dataclasses.fields(checks.Survey):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name), err_msg=field.name)
    assert [warning[:27] for warning in checks.check_train(parts)] == ["FB001: classes are unequal:"]
    assert "120 of 120 test vectors are training vectors too, 0" in checks.check_overlap(parts, whole)[0]
    with pytest.raises(HeadError, match="there are no training rows"):
        checks.survey(FeatureBlocks.of(read_info(path), "train", rows=np.arange(0)), "training")
