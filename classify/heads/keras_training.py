"""How the heads `mlp` and `cnn` are trained with Keras: learning rate, loss and epochs."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np

from featurize.core.environment import import_keras

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Inputs (b, ...), one-hot targets (b, K) and weights (b,) of some rows, all float32."""


KEPT_NETWORKS = 4  # in an experiment, heads on two lengths of vectors and a network from scratch take turns
KEPT_PARAMETERS = 8_000_000  # a kept network takes 12 bytes for each
_kept: dict[Hashable, Any] = {}


def learning_rates(peak: float, steps: int, warmup_steps: int) -> np.ndarray:
    """A linear warm-up to `peak`, then cosine decay to 0 (Loshchilov and Hutter, SGDR, 2017).

    Args:
        peak: the largest learning rate.
        steps: training steps in all.
        warmup_steps: those of the warm-up, at least 1.

    Returns:
        The learning rate of each step, float64 (steps,).
    """
    step = np.arange(steps)
    progress = np.clip((step - warmup_steps) / max(1, steps - warmup_steps), 0, 1)
    return peak * np.where(step < warmup_steps, step / warmup_steps, (1 + np.cos(np.pi * progress)) / 2)


def compiled_classifier(model: Any, optimizer: Callable[[], Any], label_smoothing: float, key: Hashable) -> Any:
    """A network with logits (n, K), ready for training: cross-entropy loss, weight decay of the kernels only.

    TensorFlow traces a network in its first step, which takes longer than the training on a few hundred rows. So
    a network that was trained before is used again with the variables of the new one.

    Args:
        model: a new network.
        optimizer: makes its optimizer.
        label_smoothing: share of the target that is spread evenly over all classes, 0..1.
        key: everything that the network, its optimizer and the loss are made from, except for the seeds.

    Returns:
        A compiled network whose variables are those of `model`, with an optimizer that has made no step.
    """
    key = (threading.get_ident(), label_smoothing, key)  # two threads must not train one network
    kept = _kept.pop(key, None)
    if kept is None:
        used = optimizer()
        used.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        loss = import_keras().losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        model.compile(used, loss, metrics=["accuracy"])
        kept = model
    else:
        for variable, new in zip(kept.variables, model.variables, strict=True):
            variable.assign(new)
        for variable in kept.optimizer.variables:  # all of them are zero before the first step
            variable.assign(np.zeros(variable.shape, variable.dtype))
    if kept.count_params() <= KEPT_PARAMETERS:
        _kept[key] = kept
    while len(_kept) > KEPT_NETWORKS:
        del _kept[next(iter(_kept))]  # the one that was used longest ago
    return kept


def one_hot(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets (n,) in 0..K-1 as float32 (n, K)."""
    return np.eye(classes, dtype=np.float32)[targets]


def train_epoch(model: Any, batches: Iterable[Batch], rates: Iterator[float]) -> tuple[float, float]:
    """Train a compiled network on each batch once.

    Args:
        model: from `compiled_classifier`.
        batches: of the training rows.
        rates: yields the learning rate of each step, over all epochs.

    Returns:
        The mean loss and the accuracy, 0..1, over all rows, each measured just before its step.
    """
    scores = []
    sizes = []
    for inputs, onehot, weights in batches:
        model.optimizer.learning_rate = next(rates)
        scores.append(model.train_on_batch(inputs, onehot, weights))  # loss and accuracy of this batch alone
        sizes.append(len(inputs))
    loss, accuracy = np.average(scores, axis=0, weights=sizes)
    return float(loss), float(accuracy)
