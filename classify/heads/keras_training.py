"""How the heads `mlp` and `cnn` are trained with Keras: learning rate, loss and epochs."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.utils import compute_sample_weight

from featurize.core.environment import import_keras

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Inputs (b, ...), one-hot targets (b, K) and weights (b,) of some rows, all float32."""


def learning_rate_schedule(peak: float, steps: int, warmup_steps: int) -> Any:
    """A linear warm-up to `peak`, then cosine decay to 0 (Loshchilov and Hutter, SGDR, 2017).

    Args:
        peak: the largest learning rate.
        steps: training steps in all.
        warmup_steps: those of the warm-up, at least 1.
    """
    return import_keras().optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warmup_steps),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def compile_classifier(model: Any, optimizer: Any, label_smoothing: float) -> None:
    """Prepare a network with logits (n, K) for training: cross-entropy loss, weight decay of the kernels only."""
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = import_keras().losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"])


def targets_and_weights(targets: np.ndarray, classes: int, class_weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """The one-hot targets, float32 (n, K), and the weights, float32 (n,), of targets (n,) in 0..K-1."""
    onehot = np.eye(classes, dtype=np.float32)[targets]
    return onehot, compute_sample_weight(class_weight, targets).astype(np.float32)


def train_epoch(model: Any, batches: Iterable[Batch]) -> tuple[float, float]:
    """Train a compiled network on each batch once.

    Returns:
        The mean loss and the accuracy, 0..1, over all rows, each measured just before its step.
    """
    scores = []
    sizes = []
    for inputs, onehot, weights in batches:
        scores.append(model.train_on_batch(inputs, onehot, weights))  # loss and accuracy of this batch alone
        sizes.append(len(inputs))
    loss, accuracy = np.average(scores, axis=0, weights=sizes)
    return float(loss), float(accuracy)
