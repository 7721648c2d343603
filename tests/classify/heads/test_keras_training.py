"""Training with Keras: a network that is used again is as good as a new one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from classify.heads import keras_training
from classify.heads.cnn import ConvNet
from classify.heads.keras_training import learning_rates
from classify.heads.mlp import MLPHead

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 48)).astype(np.float32)
Y = np.arange(40) % 3
MLP = {"hidden": 8, "epochs": 3, "batch_size": 16}
CNN = {"shape": (4, 4, 3), "widths": (4,), "epochs": 2, "min_steps": 0, "batch_size": 16}


def fitted(kind: type, settings: dict[str, Any], rows: int, seed: int) -> list[np.ndarray]:
    head = kind(**settings, random_state=seed).fit(X[:rows], Y[:rows])
    return head.weights_ if kind is ConvNet else [*head.coefs_, *head.intercepts_]


@pytest.mark.parametrize(("kind", "settings"), [(MLPHead, MLP), (ConvNet, CNN)])
def test_a_network_that_was_trained_before_gives_the_same_bits(kind: type, settings: dict[str, Any]) -> None:
    keras_training._kept.clear()
    first = fitted(kind, settings, 40, seed=1)
    assert len(keras_training._kept) == 1
    other = fitted(kind, settings, 25, seed=2)
    again = fitted(kind, settings, 40, seed=1)
    assert len(keras_training._kept) == 1
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, right)
    assert any((left != right).any() for left, right in zip(first, other, strict=True))


def test_each_thread_has_networks_of_its_own() -> None:
    keras_training._kept.clear()
    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(fitted, MLPHead, MLP, 40, 1) for _ in range(6)]
        results = [each.result() for each in threads]
    for result in results[1:]:
        for left, right in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(left, right)


def test_few_and_small_networks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keras_training._kept.clear()
    for hidden in range(4, 9):
        fitted(MLPHead, {**MLP, "hidden": hidden}, 40, seed=0)
    assert [key[2][2] for key in keras_training._kept] == [5, 6, 7, 8]
    monkeypatch.setattr(keras_training, "KEPT_PARAMETERS", 100)
    keras_training._kept.clear()
    fitted(MLPHead, MLP, 40, seed=0)
    assert not keras_training._kept


def test_learning_rates_rise_to_the_peak_and_fall_to_zero() -> None:
    rates = learning_rates(0.5, 100, 10)
    assert rates[0] == 0
    assert rates.argmax() == 10
    assert rates.max() == 0.5
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] < 1e-3
