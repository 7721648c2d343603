"""A small convolutional network trained from scratch on the images: the control without a pretrained network."""

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
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

STEM = 24  # channels of the first convolution, the only one at full image size
ROWS_TO_CHOOSE_BY = 200
PREDICTED_AT_ONCE = 256


class ConvNet(ProbabilisticClassifier):
    """A convolutional network for flattened images that two CPU cores train in minutes.

    Seven convolutions with batch normalisation (Ioffe and Szegedy, 2015) and ReLU, most of them after a
    pooling layer that makes them cheap. The design follows the networks for fast CIFAR-10 training by
    Page (How to Train Your ResNet, 2019) and Jordan (94% on CIFAR-10 in 3.29 Seconds on a Single GPU,
    2024). Training uses stochastic gradient descent with Nesterov momentum, a warm-up and cosine decay
    (Loshchilov and Hutter, 2017), label smoothing (Szegedy et al., 2016), random crops and mirroring.

    Args:
        shape: height, width and channels of an image; a row of X holds its values in this order.
        widths: channels of the three stages.
        label_smoothing: share of the target that is spread evenly over all classes, 0..1.
        learning_rate: its peak, at the end of the warm-up.
        weight_decay: decoupled, on the kernels only.
        epochs: passes over the training rows.
        min_steps: the least number of steps; a small training set is passed more often.
        batch_size: rows per step.
        validation_fraction: share of each class's rows that is held out to choose the best epoch,
            0..1. If that leaves a class without a held-out row, or fewer than 200 rows in all, nothing
            is held out and the last epoch is used: so few rows choose by chance, mostly an epoch in
            which the learning rate was still high (50 of 500 CIFAR-10 images chose one of 80 epochs
            with 34% accuracy on other images; the last epoch has 45%).
        class_weight: `balanced`, or None.
        n_jobs: threads of TensorFlow; the first caller in a process decides.
        random_state: seed of the initial weights, the order, crops, mirroring and the held-out rows.

    Attributes:
        classes_: the labels, (K,).
        mean_: mean of each channel, float32 (c,).
        scale_: standard deviation of each channel, float32 (c,).
        weights_: the network's weights in Keras' order, float32; those of the best epoch.
        history_: training `loss` and `accuracy` (0..1) of each epoch, and `validation_accuracy` (0..1;
            empty if no rows are held out).
        n_iter_: number of epochs.
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
        min_steps: int = 100,
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X (n, h * w * c) with values 0..255 and y (n,), with weights (n,) of the rows or None.

        Raises:
            ValueError: X is not finite, its rows are not images of this shape, or y has fewer than two classes.
        """
        X, targets = training_data(self, X, y)
        images = X.reshape(-1, *self._image_shape())
        random = check_random_state(self.random_state)
        held_out = _held_out(targets, self.validation_fraction, random)
        fitted = np.setdiff1d(np.arange(len(X)), held_out)
        self.mean_, self.scale_ = _channel_statistics(images)
        steps = math.ceil(len(fitted) / self.batch_size)
        self.n_iter_ = max(self.epochs, math.ceil(self.min_steps / steps))
        model = self._compiled(self._build(random))
        total = steps * self.n_iter_
        rates = iter(learning_rates(self.learning_rate, total, warmup_steps=max(1, total // 7)))
        onehot = one_hot(targets, len(self.classes_))
        weights = row_weights(self.class_weight, targets, sample_weight)
        self.history_: dict[str, list[float]] = {"loss": [], "accuracy": [], "validation_accuracy": []}
        best = 0.0
        for _ in range(self.n_iter_):
            batches = np.array_split(random.permutation(fitted), steps)
            loss, accuracy = train_epoch(model, self._inputs(images, onehot, weights, batches, random), rates)
            self.history_["loss"].append(loss)
            self.history_["accuracy"].append(accuracy)
            if len(held_out) == 0:
                continue
            predicted = self._probabilities(model, images[held_out]).argmax(axis=1)
            validation_accuracy = float((predicted == targets[held_out]).mean())
            self.history_["validation_accuracy"].append(validation_accuracy)
            # Ties go to the later epoch, whose learning rate was lower.
            if validation_accuracy >= best:
                best, self.weights_ = validation_accuracy, model.get_weights()
        if len(held_out) == 0:
            self.weights_ = model.get_weights()
        return self

    def _inputs(
        self,
        images: np.ndarray,
        onehot: np.ndarray,
        weights: np.ndarray,
        batches: list[np.ndarray],
        random: np.random.RandomState,
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, each augmented when its turn comes."""
        for rows in batches:
            yield augmented(self._standardised(images[rows]), random), onehot[rows], weights[rows]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 (n, K): the mean over each image and its mirror image."""
        X = prediction_data(self, X)
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
        """Class probabilities, float32 (n, K): the mean over each image and its mirror image."""
        batches = []
        for start in range(0, len(images), PREDICTED_AT_ONCE):
            inputs = self._standardised(images[start : start + PREDICTED_AT_ONCE])
            as_is = softmax(model.predict_on_batch(inputs), axis=1)
            mirrored = softmax(model.predict_on_batch(inputs[:, :, ::-1]), axis=1)
            batches.append((as_is + mirrored) / np.float32(2))
        return np.concatenate(batches)

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

    def _compiled(self, model: Any) -> Any:
        """The network with its loss and its optimizer."""

        def optimizer() -> Any:
            return import_keras().optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=self.weight_decay)

        made_from = ("cnn", *self._image_shape(), *self.widths, len(self.classes_), self.weight_decay)
        return compiled_classifier(model, optimizer, self.label_smoothing, made_from)


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32 (c,), of images (n, h, w, c)."""
    # One pass each in double precision, without a copy: the images may fill half the memory.
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    squares = np.einsum("nhwc,nhwc->c", images, images, dtype=np.float64) / (images.size / len(mean))
    variance = np.maximum(squares - mean**2, 1e-12)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def augmented(images: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Randomly shifted and mirrored copies of images (n, h, w, c).

    A shift is at most an eighth of the image's size; reflection at the border fills the gap. Half of
    the images are mirrored.
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
    """A random share of each class's rows, or no rows at all if they are too few to choose an epoch."""
    held_out = []
    for target in range(targets.max() + 1):
        rows = random.permutation(np.flatnonzero(targets == target))
        held_out.append(rows[: int(fraction * len(rows))])
    counts = [len(rows) for rows in held_out]
    if min(counts) == 0 or sum(counts) < ROWS_TO_CHOOSE_BY:
        return np.empty(0, np.int64)
    return np.concatenate(held_out)
