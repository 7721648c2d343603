"""The MLP head: trained with Keras, used with numpy, in scikit-learn's estimator contract."""

from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.heads.base import ProbabilisticClassifier, training_data
from featurize.core.environment import import_keras, limit_threads


class MLPHead(ProbabilisticClassifier):
    """A perceptron with one hidden ReLU layer, on features that are already standardised.

    AdamW with a short warm-up and cosine decay (Loshchilov and Hutter, 2019), dropout on the
    features and on the hidden layer (Srivastava et al., 2014), label smoothing (Szegedy et al., 2016).

    Args:
        hidden: width of the hidden layer.
        input_dropout: share of the features dropped in training, 0..1.
        dropout: share of the hidden units dropped in training, 0..1.
        label_smoothing: probability mass spread over all classes, 0..1.
        learning_rate: the largest one, reached after the warm-up.
        weight_decay: decoupled, of the kernels.
        epochs: passes over the training rows, and, with `mirror`, over their mirrored images too.
        batch_size: rows per step.
        mirror: the order of columns, (d,), in which a row is that of the mirrored image. Training
            then sees both, and a prediction is the mean of both. None for no such order.
        class_weight: `balanced`, or None.
        n_jobs: threads of TensorFlow, which takes them from whoever in a process uses it first.
        random_state: seed of initialisation, dropout and order.

    Attributes:
        classes_: the labels, (K,).
        coefs_: kernels, float32 (d, hidden) and (hidden, K).
        intercepts_: biases, float32 (hidden,) and (K,).
        history_: of each epoch the mean `loss` and the `accuracy`, 0..1, of the training rows as they
            pass, dropout on.
        n_iter_: epochs done.
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

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, d) and y (n,).

        Raises:
            ValueError: X is not finite, or y holds fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        random = check_random_state(self.random_state)
        images = len(X) * (1 if self.mirror is None else 2)
        steps = -(-images // self.batch_size)
        model = self._build(X.shape[1], len(self.classes_), steps, random)
        onehot = np.eye(len(self.classes_), dtype=np.float32)[targets]
        weights = compute_sample_weight(self.class_weight, targets).astype(np.float32)
        self.history_: dict[str, list[float]] = {"loss": [], "accuracy": []}
        for _ in range(self.epochs):
            measured, counts = [], []
            for batch in np.array_split(random.permutation(images), steps):
                rows = batch % len(X)
                inputs = X[rows]
                if self.mirror is not None:
                    turned = batch >= len(X)
                    inputs[turned] = inputs[turned][:, self.mirror]
                measured.append(model.train_on_batch(inputs, onehot[rows], weights[rows]))  # of this batch alone
                counts.append(len(rows))
            for name, value in zip(self.history_, np.average(measured, axis=0, weights=counts), strict=True):
                self.history_[name].append(float(value))
        first, last = (layer for layer in model.layers if layer.weights)
        self.coefs_ = [first.kernel.numpy(), last.kernel.numpy()]
        self.intercepts_ = [first.bias.numpy(), last.bias.numpy()]
        self.n_iter_ = self.epochs
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        if self.mirror is None:
            return self._forward(X)
        return (self._forward(X) + self._forward(X[:, self.mirror])) / np.float32(2)

    def _forward(self, X: np.ndarray) -> np.ndarray:
        hidden = np.maximum(X @ self.coefs_[0] + self.intercepts_[0], 0)
        return np.asarray(softmax(hidden @ self.coefs_[1] + self.intercepts_[1], axis=1))

    def _build(self, dim: int, classes: int, steps: int, random: np.random.RandomState) -> Any:
        keras = import_keras()
        limit_threads(self.n_jobs)
        seeds = [int(seed) for seed in random.randint(2**31 - 1, size=4)]
        initialiser = keras.initializers.GlorotUniform
        model = keras.Sequential(
            [
                keras.Input((dim,)),
                keras.layers.Dropout(self.input_dropout, seed=seeds[0]),
                keras.layers.Dense(
                    self.hidden, activation="relu", kernel_initializer=keras.initializers.HeNormal(seeds[1])
                ),
                keras.layers.Dropout(self.dropout, seed=seeds[2]),
                keras.layers.Dense(classes, kernel_initializer=initialiser(seeds[3])),
            ]
        )
        total = steps * self.epochs
        warmup = max(1, total // 10)
        optimizer = keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                initial_learning_rate=0.0,
                decay_steps=max(1, total - warmup),
                warmup_target=self.learning_rate,
                warmup_steps=warmup,
            ),
            weight_decay=self.weight_decay,
        )
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return model
