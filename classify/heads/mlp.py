"""The MLP head, a scikit-learn estimator: Keras trains it, numpy alone predicts."""

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.utils import check_random_state

from classify.estimators import ProbabilisticClassifier, prediction_data, row_weights, training_data
from classify.heads.keras_training import (
    Batch,
    compiled_classifier,
    learning_rates,
    one_hot,
    train_epoch,
)
from featurize.core.environment import import_keras, limit_threads


class MLPHead(ProbabilisticClassifier):
    """A perceptron with one hidden ReLU layer, for features that are already standardised.

    Training uses AdamW with a short warm-up and cosine decay (Loshchilov and Hutter, 2019), dropout on
    the features and on the hidden layer (Srivastava et al., 2014) and label smoothing (Szegedy et al.,
    2016).

    Args:
        hidden: width of the hidden layer.
        input_dropout: share of the features dropped in training, 0..1.
        dropout: share of the hidden units dropped in training, 0..1.
        label_smoothing: share of the target that is spread evenly over all classes, 0..1.
        learning_rate: its peak, at the end of the warm-up.
        weight_decay: decoupled, on the kernels only.
        epochs: passes over the training rows (and their mirror images, with `mirror`).
        batch_size: rows per step.
        mirror: the permutation of the columns, (d,), that turns an image's features into those of its
            mirror image. Training then uses both, and a prediction is the mean of both. None if there
            is no such permutation.
        class_weight: `balanced`, or None.
        n_jobs: threads of TensorFlow; the first caller in a process decides.
        random_state: seed of the initial weights, the dropout and the order of the rows.

    Attributes:
        classes_: the labels, (K,).
        coefs_: kernels, float32 (d, hidden) and (hidden, K).
        intercepts_: biases, float32 (hidden,) and (K,).
        history_: the mean training `loss` and `accuracy` (0..1) of each epoch, measured with dropout.
        n_iter_: number of epochs.
        n_features_in_: d.
    """

    def __init__(
        self,
        hidden: int = 1536,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
        label_smoothing: float = 0.03,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        epochs: int = 15,
        batch_size: int = 512,
        mirror: Any = None,
        class_weight: Any = None,
        n_jobs: int = 1,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.input_dropout = input_dropout
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.mirror = mirror
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X (n, d) and y (n,), with weights (n,) of the rows or None.

        Raises:
            ValueError: X is not finite, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        random = check_random_state(self.random_state)
        images = len(X) if self.mirror is None else 2 * len(X)
        steps = math.ceil(images / self.batch_size)
        model = self._build(X.shape[1], len(self.classes_), random)
        total = steps * self.epochs
        rates = iter(learning_rates(self.learning_rate, total, warmup_steps=max(1, total // 10)))
        onehot = one_hot(targets, len(self.classes_))
        weights = row_weights(self.class_weight, targets, sample_weight)
        self.history_: dict[str, list[float]] = {"loss": [], "accuracy": []}
        for _ in range(self.epochs):
            batches = np.array_split(random.permutation(images), steps)
            loss, accuracy = train_epoch(model, self._inputs(X, onehot, weights, batches), rates)
            self.history_["loss"].append(loss)
            self.history_["accuracy"].append(accuracy)
        first, last = (layer for layer in model.layers if layer.weights)
        self.coefs_ = [first.kernel.numpy(), last.kernel.numpy()]
        self.intercepts_ = [first.bias.numpy(), last.bias.numpy()]
        self.n_iter_ = self.epochs
        return self

    def _inputs(
        self, X: np.ndarray, onehot: np.ndarray, weights: np.ndarray, batches: list[np.ndarray]
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch; image n + i is the mirror image of row i."""
        for images in batches:
            rows = images % len(X)
            inputs = X[rows]
            if self.mirror is not None:
                mirrored = images >= len(X)
                inputs[mirrored] = inputs[mirrored][:, self.mirror]
            yield inputs, onehot[rows], weights[rows]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K)."""
        X = prediction_data(self, X)
        if self.mirror is None:
            return self._forward(X)
        return (self._forward(X) + self._forward(X[:, self.mirror])) / np.float32(2)

    def _forward(self, X: np.ndarray) -> np.ndarray:
        hidden = np.maximum(X @ self.coefs_[0] + self.intercepts_[0], 0)
        return np.asarray(softmax(hidden @ self.coefs_[1] + self.intercepts_[1], axis=1))

    def _build(self, dim: int, classes: int, random: np.random.RandomState) -> Any:
        """The compiled network, from features (n, d) to logits (n, K)."""
        keras = import_keras()
        limit_threads(self.n_jobs)
        layers, initializers = keras.layers, keras.initializers
        seeds = [int(seed) for seed in random.randint(2**31 - 1, size=4)]
        model = keras.Sequential(
            [
                keras.Input((dim,)),
                layers.Dropout(self.input_dropout, seed=seeds[0]),
                layers.Dense(self.hidden, activation="relu", kernel_initializer=initializers.HeNormal(seeds[1])),
                layers.Dropout(self.dropout, seed=seeds[2]),
                layers.Dense(classes, kernel_initializer=initializers.GlorotUniform(seeds[3])),
            ]
        )
        made_from = ("mlp", dim, self.hidden, classes, self.input_dropout, self.dropout, self.weight_decay)

        def optimizer() -> Any:
            return keras.optimizers.AdamW(weight_decay=self.weight_decay)

        return compiled_classifier(model, optimizer, self.label_smoothing, made_from)
