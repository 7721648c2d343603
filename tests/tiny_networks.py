"""A tiny Keras network, saved as a file."""

from pathlib import Path

from featurize.core.environment import import_keras


def save_tiny_network(path: Path, size: int | None = None, channels: int = 3) -> Path:
    """Save a network of two convolutions (layers early, half, late, vector) with fixed weights; returns its path."""
    keras = import_keras()
    keras.utils.set_random_seed(5)
    inputs = keras.Input((size, size, channels))
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="early")(x)
    x = keras.layers.MaxPooling2D(name="half")(x)
    x = keras.layers.Conv2D(6, 3, activation="relu", name="late")(x)
    x = keras.layers.GlobalAveragePooling2D(name="vector")(x)
    keras.Model(inputs, x, name="tinynet").save(path)
    return path
