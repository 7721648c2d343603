import math
import pickle
import random as python_random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from estimator_checks import exceptions
from sklearn.utils.estimator_checks import parametrize_with_checks
from slow_cases import mark_slow

from classify.heads import cnn
from classify.heads.cnn import ConvNet, _held_out, augmented
from classify.heads.keras_training import train_epoch

SHAPE = (8, 8, 3)
SMALL: dict[str, Any] = {"shape": SHAPE, "widths": (8, 8), "min_steps": 0, "batch_size": 16, "random_state": 0}


def bars(rows: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar that lies (0), stands (1), or is not there, its pixels strewn about (2).

    All three have the same colours and a bar is anywhere: only what is beside what tells them apart.
    """
    random = np.random.default_rng(seed)
    h, w, _ = shape
    images = random.uniform(0, 120, (rows, *shape))
    labels = np.arange(rows) % 3
    for image, label in zip(images, labels, strict=True):
        mask = np.zeros((h, w), bool)
        if label == 0:
            mask[random.integers(h)] = True
        else:
            mask[:, random.integers(w)] = True
        if label == 2:
            mask = random.permutation(mask.ravel()).reshape(h, w)
        image[mask] += 120
    return images.reshape(rows, -1).astype(np.float32), labels


X, Y = bars(240)
X_TEST, Y_TEST = bars(150, seed=1)
TINY_SHAPE = (4, 4, 3)  # an eighth of it is no pixel, so that nothing is cropped
X_TINY = np.random.default_rng(2).uniform(0, 255, (240, math.prod(TINY_SHAPE))).astype(np.float32)
Y_TINY = np.arange(240) % 3
TINY: dict[str, Any] = {"shape": TINY_SHAPE, "widths": (4,), "min_steps": 0, "batch_size": 16, "random_state": 0}


class OnePixel(ConvNet):
    """Takes the columns for the channels of a single pixel, so that any X will do."""

    def _image_shape(self) -> tuple[int, ...]:
        return 1, 1, self.n_features_in_


@pytest.mark.slow  # the MLP, which shares the code that fits, passes them in `make test`
@parametrize_with_checks(
    [OnePixel(shape=(1, 1, 2), widths=(), epochs=20, min_steps=0, batch_size=16)], expected_failed_checks=exceptions
)
def test_the_estimator_contract_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize("shape", mark_slow((SHAPE, (7, 13, 3)), SHAPE))
def test_it_learns_what_needs_place(shape: tuple[int, int, int]) -> None:
    (x, y), (x_test, y_test) = bars(240, shape=shape), bars(150, seed=1, shape=shape)
    head = ConvNet(**{**SMALL, "shape": shape}, epochs=20).fit(x, y)
    assert (head.predict(x_test) == y_test).mean() > 0.9


@pytest.fixture
def few_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch is chosen by as few as 100 rows."""
    monkeypatch.setattr("classify.heads.cnn.ROWS_TO_CHOOSE_BY", 100)


@pytest.mark.usefixtures("few_choose")
def test_the_history() -> None:
    head = ConvNet(**SMALL, epochs=6, validation_fraction=0.5).fit(X, Y)
    assert list(head.history_) == ["loss", "accuracy", "validation_accuracy"]
    assert {len(values) for values in head.history_.values()} == {head.n_iter_} == {6}
    assert all(type(value) is float for values in head.history_.values() for value in values)
    assert head.history_["loss"][-1] < 0.8 * head.history_["loss"][0]
    assert head.history_["accuracy"][-1] > head.history_["accuracy"][0]


def test_an_epochs_loss_and_accuracy_are_those_of_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' `train_on_batch` gives those of its batch."""
    per_batch = []
    build = ConvNet._build

    def recorded(self: ConvNet, random: Any) -> Any:
        model = build(self, random)
        step = model.train_on_batch
        model.train_on_batch = lambda x, *args: per_batch.append([len(x), *step(x, *args)]) or per_batch[-1][1:]
        return model

    monkeypatch.setattr(ConvNet, "_build", recorded)
    head = ConvNet(**TINY, epochs=1, validation_fraction=0).fit(X_TINY[:50], Y_TINY[:50])
    rows, losses, accuracies = np.array(per_batch).T
    assert set(rows) == {12, 13}
    assert head.history_["loss"] == pytest.approx([(rows * losses).sum() / 50])
    assert 50 * head.history_["accuracy"][0] == pytest.approx(np.round(rows * accuracies).sum())


def trained_on(monkeypatch: pytest.MonkeyPatch, x: np.ndarray, y: np.ndarray, **settings: Any) -> np.ndarray:
    """The images that the network was given in training, as they were before they were standardised."""
    seen = []

    def recorded(model: Any, batches: Any, rates: Any) -> tuple[float, float]:
        kept = list(batches)
        seen.extend(inputs for inputs, _, _ in kept)
        return train_epoch(model, kept, rates)

    with monkeypatch.context() as patch:
        patch.setattr(cnn, "train_epoch", recorded)
        head = ConvNet(**{**TINY, **settings}).fit(x, y)
    return np.concatenate(seen) * head.scale_ + head.mean_


def rows_of(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Of each image, its place among others; -1 where it is not there."""
    distance = np.abs(images.reshape(len(images), 1, -1) - among.reshape(1, len(among), -1)).max(axis=2)
    return np.where(distance.min(axis=1) < 1e-2, distance.argmin(axis=1), -1)


def test_an_epoch_has_each_row_once_and_half_of_them_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    images = X_TINY.reshape(-1, *TINY_SHAPE)
    seen = trained_on(monkeypatch, X_TINY, Y_TINY, epochs=4, validation_fraction=0)
    as_is, mirrored = rows_of(seen, images), rows_of(seen, images[:, :, ::-1])
    assert ((as_is < 0) != (mirrored < 0)).all()
    assert 0.35 < (mirrored >= 0).mean() < 0.65
    orders = np.maximum(as_is, mirrored).reshape(4, -1)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(240))
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != np.arange(240)).any()


def test_crops_are_anywhere_within_an_eighth() -> None:
    image = np.arange(16 * 8 * 3, dtype=np.float32).reshape(16, 8, 3)
    padded = np.pad(image, ((2, 2), (1, 1), (0, 0)), "reflect")
    crops = [padded[top : top + 16, left : left + 8] for top in range(5) for left in range(3)]
    expected = np.array(crops + [crop[:, ::-1] for crop in crops])
    drawn = augmented(np.repeat(image[None], 600, axis=0), np.random.RandomState(0))
    assert drawn.shape == (600, 16, 8, 3)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(np.unique(rows_of(drawn, expected)), np.arange(30))


@pytest.mark.slow
@pytest.mark.usefixtures("few_choose")
def test_rows_that_choose_the_epoch_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    images = X_TINY.reshape(-1, *TINY_SHAPE)
    for fraction, rows in ((0.5, 120), (0.43, 102), (0.42, 0), (0, 0)):  # 99 are too few
        seen = trained_on(monkeypatch, X_TINY, Y_TINY, epochs=2, validation_fraction=fraction)
        used = np.unique(np.maximum(rows_of(seen, images), rows_of(seen, images[:, :, ::-1])))
        held = np.setdiff1d(np.arange(240), used)
        np.testing.assert_array_equal(np.bincount(Y_TINY[held], minlength=3), [rows // 3] * 3)


@pytest.mark.parametrize(
    ("rows", "held"), [((1000, 1000, 10), 201), ((1000, 1000, 9), 0), ((999, 1000, 10), 200), ((990, 999, 10), 0)]
)
def test_what_is_held_out_is_enough_to_choose_by(rows: tuple[int, ...], held: int) -> None:
    targets = np.repeat([0, 1, 2], rows)
    chosen = _held_out(targets, 0.1, np.random.RandomState(0))
    assert len(np.unique(chosen)) == len(chosen) == held
    assert not held or list(np.bincount(targets[chosen])) == [count // 10 for count in rows]


def test_ten_images_of_each_class() -> None:
    head = ConvNet(**{**TINY, "min_steps": 7}, epochs=2).fit(X_TINY[:30], Y_TINY[:30])
    assert head.history_["validation_accuracy"] == []
    assert len(head.history_["loss"]) == head.n_iter_ == 4  # of two steps


@pytest.mark.usefixtures("few_choose")
def test_the_best_epochs_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels without any meaning, so that the accuracy goes up and down."""
    looked_at = []
    probabilities = ConvNet._probabilities

    def recorded(self: ConvNet, model: Any, images: np.ndarray) -> np.ndarray:
        result = probabilities(self, model, images)
        looked_at.append((model.get_weights(), images, result))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(ConvNet, "_probabilities", recorded)
        head = ConvNet(**TINY, epochs=8, validation_fraction=0.5).fit(X_TINY, Y_TINY)
    accuracies = np.array(head.history_["validation_accuracy"])
    best = int(np.flatnonzero(accuracies == accuracies.max())[-1])
    assert best < 7  # else nothing is shown
    weights, images, expected = looked_at[best]
    for kept, then in zip(head.weights_, weights, strict=True):
        np.testing.assert_array_equal(kept, then)
    np.testing.assert_allclose(head.predict_proba(images.reshape(len(images), -1)), expected, rtol=1e-5)
    assert [len(looked_at), len(images)] == [8, 120]
    truth = Y_TINY[rows_of(images, X_TINY)]
    assert accuracies[best] == pytest.approx((expected.argmax(axis=1) == truth).mean())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network() -> None:
    heads = [ConvNet(**{**TINY, "random_state": seed}, epochs=2).fit(X_TINY, Y_TINY) for seed in (0, 0, 1)]
    probabilities = [head.predict_proba(X_TINY) for head in heads]
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    assert heads[0].history_["loss"] == heads[1].history_["loss"]
    assert not np.allclose(probabilities[0], probabilities[2], rtol=1e-2)


def test_training_leaves_the_global_generators_alone() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy(), python_random.getstate()  # noqa: NPY002
    ConvNet(**TINY, epochs=1).fit(X_TINY, Y_TINY).predict(X_TINY)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert python_random.getstate() == before[1]


def test_an_image_and_its_mirror_image_are_the_same_to_it() -> None:
    head = ConvNet(**TINY, epochs=2).fit(X_TINY, Y_TINY)
    turned = X_TINY.reshape(-1, *TINY_SHAPE)[:, :, ::-1].reshape(240, -1)
    probabilities = head.predict_proba(X_TINY)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, head.predict_proba(turned), rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_channels_scale_does_not_matter() -> None:
    scaled = X_TINY * np.tile([1, 0.1, 10], 16).astype(np.float32) + np.float32(3)
    heads = [ConvNet(**TINY, epochs=2).fit(x, Y_TINY) for x in (X_TINY, scaled)]
    np.testing.assert_allclose(heads[0].predict_proba(X_TINY), heads[1].predict_proba(scaled), atol=1e-3)
    np.testing.assert_allclose(heads[0].mean_, X_TINY.reshape(-1, 3).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(heads[0].scale_, X_TINY.reshape(-1, 3).std(axis=0), rtol=1e-5)


def test_it_is_saved_without_keras(tmp_path: Path) -> None:
    head = ConvNet(**TINY, epochs=1).fit(X_TINY, Y_TINY)
    expected = head.predict_proba(X_TINY)
    skops.io.dump(head, tmp_path / "head.skops")
    assert skops.io.get_untrusted_types(file=tmp_path / "head.skops") == ["classify.heads.cnn.ConvNet"]
    loaded = skops.io.load(tmp_path / "head.skops", trusted=["classify.heads.cnn.ConvNet"])
    np.testing.assert_array_equal(loaded.predict_proba(X_TINY), expected)
    assert loaded.history_ == head.history_


@pytest.mark.slow
def test_it_is_the_same_in_another_process() -> None:
    head = ConvNet(**TINY, epochs=1).fit(X_TINY, Y_TINY)
    code = (
        "import pickle, sys; head, x, p = pickle.load(sys.stdin.buffer); assert 'tensorflow' not in sys.modules;"
        "import numpy as np; np.testing.assert_allclose(head.predict_proba(x), p, rtol=1e-5)"
    )
    payload = pickle.dumps((head, X_TINY, head.predict_proba(X_TINY)))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], input=payload, check=True)


@pytest.mark.slow  # as in test_mlp.py
def test_the_threads_reach_tensorflow() -> None:
    code = (
        "import numpy as np, tensorflow as tf; from classify.heads.cnn import ConvNet;"
        "ConvNet((1, 1, 4), (), epochs=1, min_steps=0, n_jobs=3).fit(np.eye(4, dtype='f'), [0, 1, 0, 1]);"
        "assert tf.config.threading.get_intra_op_parallelism_threads() == 3"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_balanced_weights_reach_the_loss() -> None:
    rows = np.concatenate([np.flatnonzero(Y_TINY == 0), np.flatnonzero(Y_TINY > 0)[:40]])
    heads = [
        ConvNet(**TINY, epochs=8, class_weight=weight).fit(X_TINY[rows], Y_TINY[rows]) for weight in (None, "balanced")
    ]
    shares = [head.predict_proba(X_TINY)[:, 0].mean() for head in heads]
    assert shares[1] < 0.9 * shares[0]


def test_one_class_only() -> None:
    with pytest.raises(ValueError, match="one class only: 2"):
        ConvNet(**TINY).fit(X_TINY, np.full(240, 2))


def test_rows_that_are_no_such_images() -> None:
    with pytest.raises(ValueError, match=r"X has 48 columns, expected 192 for images of shape \(8, 8, 3\)"):
        ConvNet(shape=SHAPE).fit(X_TINY, Y_TINY)
