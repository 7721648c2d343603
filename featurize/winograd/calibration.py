"""The scales of int8, from the activations of some images in float32."""

import hashlib

import numpy as np

from featurize.winograd.stages import Stage

PRODUCTS = 16
"""Products of a tile of 2 x 2 outputs."""


def calibration_digest(images: np.ndarray) -> str:
    """SHA-256 (hexadecimal) over the calibration images."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


class Scales:
    """The largest numbers of a convolution's outputs and transformed inputs, over the images seen so far.

    The largest number becomes the largest that eight bits can hold: numbers that are cut off cost more accuracy than
    coarser steps (measured).
    """

    def __init__(self, stage: Stage) -> None:
        self.largest = 255 if stage.relu else 127  # of the numbers that store the outputs
        self.output = 0.0
        self.transformed = np.zeros(PRODUCTS)

    def see(self, inputs: np.ndarray | None, outputs: np.ndarray) -> None:
        """Take the inputs and outputs (n, h, w, c) of some images into account; None for inputs that are images."""
        self.output = max(self.output, float(np.abs(outputs).max()))
        if inputs is not None:
            self.transformed = np.maximum(self.transformed, _largest_transformed(inputs))

    def array(self, input_scale: float) -> np.ndarray:
        """The scale of the outputs, then a factor for each of the transformed inputs: float32 (1 + K,).

        Args:
            input_scale: that of the stored inputs.
        """
        # Stored inputs are whole numbers. So a factor above 1 gains nothing, and the kernels hold none.
        factors = np.minimum(1, 127 * input_scale / np.maximum(self.transformed, 1e-30))
        return np.concatenate([[max(self.output, 1e-30) / self.largest], factors]).astype(np.float32)


def _largest_transformed(maps: np.ndarray) -> np.ndarray:
    """The largest absolute values of the K numbers in B^T d B, over all tiles of 2 x 2 outputs."""
    _, height, width, _ = maps.shape
    padded = np.pad(maps, ((0, 0), (1, 2), (1, 2), (0, 0)))
    rows = _differences(*(padded[:, i : i + height : 2] for i in range(4)))
    result = []
    for row in rows:
        for numbers in _differences(*(row[:, :, j : j + width : 2] for j in range(4))):
            result.append(np.abs(numbers).max())
    return np.array(result)


def _differences(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
    """B^T of F(2, 3) times four numbers."""
    return [c - a, b + c, c - b, d - b]
