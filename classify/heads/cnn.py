"""A small convolutional network trained from scratch on the images: the control that no pretrained network helps."""

import math
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import softmax
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.heads.base import ProbabilisticClassifier, training_data
from featurize.core.environment import import_keras, limit_threads

STEM = 24  # channels of the first convolution, the only one at the images' full size
ROWS_TO_CHOOSE_BY = 200
PREDICTED_AT_ONCE = 256


class ConvNet(ProbabilisticClassifier):
    """A convolutional network on flattened images, in a time that two cores can afford.

    Seven convolutions, most of them behind a pooling that makes them cheap, with batch normalisation
    (Ioffe and Szegedy, 2015) and ReLU, after the networks for fast CIFAR-10 training of Page (How to
    Train Your ResNet, 2019) and Jordan (94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024).
    Stochastic gradient descent with Nesterov's momentum, a warm-up and cosine decay (Loshchilov and
    Hutter, 2017), label smoothing (Szegedy et al., 2016); random crops and mirror images.

    Args:
        shape: of an image: height, width, channels; a row of X holds it in this order.
        widths: channels of the three stages.
        label_smoothing: probability mass spread over all classes, 0..1.
        learning_rate: the largest one, reached after the warm-up.
        weight_decay: decoupled, of the kernels.
        epochs: passes over the training rows.
        min_steps: steps to take even where so many passes have fewer: few rows pass more often.
        batch_size: rows per step.
        validation_fraction: share of each class's rows that is held out to choose the epoch whose
            weights are kept, 0..1. Nothing is held out, and the last epoch's weights are kept, where
            that is less than a row of some class, or fewer than 200 rows: by so few, chance chooses,
            mostly an epoch when the learning rate was still high (50 of 500 CIFAR-10 images chose
            one of 80 epochs that is right in 34% of other images; the last is in 45%).
        class_weight: `balanced`, or None.
        n_jobs: threads of TensorFlow, which takes them from whoever in a process uses it first.
        random_state: seed of initialisation, order, crops, mirror images and the rows held out.

    Attributes:
        classes_: the labels, (K,).
        mean_: of each channel, float32 (c,).
        scale_: standard deviation of each channel, float32 (c,).
        weights_: of the network, in Keras' order, float32.
        history_: per epoch: `loss` and `accuracy` (0..1) of the training rows as they pass,
            `validation_accuracy` (0..1; empty where no rows are held out).
        best_epoch_: the epoch whose weights these are, from 1.
        n_iter_: epochs done.
        n_features_in_: h * w * c.
    """

    def __init__(
        self,
        shape: Any = (32, 32, 3),
        widths: Any = (32, 128, 128),
        label_smoothing: float = 0.1,
        learning_rate: float = 0.05,
        weight_decay: float = 5e-3,
        epochs: int = 30,
        min_steps: int = 500,
        batch_size: int = 64,
        validation_fraction: float = 0.1,
        class_weight: Any = None,
        n_jobs: int = 1,
        random_state: Any = None,
    ) -> None:
        self.shape = shape
        self.widths = widths
        self.label_smoothing = label_smoothing
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, h * w * c) with values 0..255 and y (n,).

        Raises:
            ValueError: X is not finite, its rows are not images of this shape, or y holds fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        images = X.reshape(-1, *self._image_shape())
        random = check_random_state(self.random_state)
        held = _held_out(targets, self.validation_fraction, random)
        fitted = np.setdiff1d(np.arange(len(X)), held)
        # One pass each in double precision, and no copy: the images may fill half the memory.
        mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
        squares = np.einsum("nhwc,nhwc->c", images, images, dtype=np.float64) / (images.size / len(mean))
        self.mean_ = mean.astype(np.float32)
        self.scale_ = np.sqrt(np.maximum(squares - mean**2, 1e-12)).astype(np.float32)

        steps = -(-len(fitted) // self.batch_size)
        self.n_iter_ = max(self.epochs, -(-self.min_steps // steps))
        model = self._build(random)
        self._compile(model, steps * self.n_iter_)
        onehot = np.eye(len(self.classes_), dtype=np.float32)[targets]
        weights = compute_sample_weight(self.class_weight, targets).astype(np.float32)
        self.history_: dict[str, list[float]] = {"loss": [], "accuracy": [], "validation_accuracy": []}
        best = 0.0
        for epoch in range(1, self.n_iter_ + 1):
            scores, counts = [], []
            for rows in np.array_split(random.permutation(fitted), steps):
                inputs = augmented(self._standardised(images[rows]), random)
                scores.append(model.train_on_batch(inputs, onehot[rows], weights[rows]))  # of this batch
                counts.append(len(rows))
            for name, score in zip(("loss", "accuracy"), np.average(scores, axis=0, weights=counts), strict=True):
                self.history_[name].append(float(score))
            if len(held):
                right = self._probabilities(model, images[held]).argmax(axis=1) == targets[held]
                self.history_["validation_accuracy"].append(float(right.mean()))
            # Of equally good epochs the later one, whose learning rate was lower.
            score = self.history_["validation_accuracy"][-1] if len(held) else best
            if score >= best:
                best, self.best_epoch_, self.weights_ = score, epoch, model.get_weights()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K): the mean of those of each image and of its mirror image."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        model = self._build(check_random_state(0))
        model.set_weights(self.weights_)
        return self._probabilities(model, X.reshape(-1, *self._image_shape()))

    def _image_shape(self) -> tuple[int, ...]:
        if math.prod(self.shape) != self.n_features_in_:
            expected = f"expected {math.prod(self.shape)} for images of shape {self.shape}"
            raise ValueError(f"X has {self.n_features_in_} columns, {expected}")
        return tuple(self.shape)

    def _standardised(self, images: np.ndarray) -> np.ndarray:
        return (images - self.mean_) / self.scale_

    def _probabilities(self, model: Any, images: np.ndarray) -> np.ndarray:
        parts = []
        for part in np.array_split(images, -(-len(images) // PREDICTED_AT_ONCE)):
            inputs = self._standardised(part)
            sides = [softmax(model.predict_on_batch(side), axis=1) for side in (inputs, inputs[:, :, ::-1])]
            parts.append((sides[0] + sides[1]) / np.float32(2))
        return np.concatenate(parts)

    def _build(self, random: np.random.RandomState) -> Any:
        """The network, from images (n, h, w, c) to logits (n, K)."""
        keras = import_keras()
        limit_threads(self.n_jobs)
        layers = keras.layers

        def seed() -> int:
            return int(random.randint(2**31 - 1))

        def convolved(x: Any, width: int, pooled: bool = False) -> Any:
            kernel = keras.initializers.HeNormal(seed())
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=kernel)(x)
            if pooled:
                x = layers.MaxPooling2D(2, padding="same")(x)
            return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

        x = inputs = keras.Input(self._image_shape())
        x = convolved(x, STEM)
        for width in self.widths:
            x = convolved(convolved(x, width, pooled=True), width)
        x = layers.GlobalMaxPooling2D()(x)
        kernel = keras.initializers.GlorotUniform(seed())
        return keras.Model(inputs, layers.Dense(len(self.classes_), kernel_initializer=kernel)(x))

    def _compile(self, model: Any, steps: int) -> None:
        """Give the network its loss and its optimizer, for so many steps in all."""
        keras = import_keras()
        warmup = max(1, steps // 7)
        optimizer = keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(
                initial_learning_rate=0.0,
                decay_steps=max(1, steps - warmup),
                warmup_target=self.learning_rate,
                warmup_steps=warmup,
            ),
            momentum=0.9,
            nesterov=True,
            weight_decay=self.weight_decay,
        )
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing)
        model.compile(optimizer, loss, metrics=["accuracy"])


def augmented(images: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Images (n, h, w, c), each shifted by up to an eighth of its size, and every other one mirrored, by chance.

    What a shift uncovers shows the image reflected at its border.
    """
    n, h, w, _ = images.shape
    pads = h // 8, w // 8
    padded = np.pad(images, ((0, 0), *((pad, pad) for pad in pads), (0, 0)), "reflect")
    crops = sliding_window_view(padded, (h, w), (1, 2))  # (n, 2 pad + 1, 2 pad + 1, c, h, w), a view
    top, left = (random.randint(2 * pad + 1, size=n) for pad in pads)
    chosen = crops[np.arange(n), top, left].transpose(0, 2, 3, 1)
    mirrored = random.random_sample((n, 1, 1, 1)) < 0.5
    return np.where(mirrored, chosen[:, :, ::-1], chosen)


def _held_out(targets: np.ndarray, fraction: float, random: np.random.RandomState) -> np.ndarray:
    """Rows of each class, a share of them; none at all where they are too few to choose an epoch by."""
    rows = [random.permutation(np.flatnonzero(targets == target)) for target in range(targets.max() + 1)]
    held = [of_class[: int(fraction * len(of_class))] for of_class in rows]
    enough = all(map(len, held)) and sum(map(len, held)) >= ROWS_TO_CHOOSE_BY
    return np.concatenate(held) if enough else np.empty(0, np.int64)
