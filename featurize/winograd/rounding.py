"""bfloat16 in numpy, as uint16, and transformed weights in it."""

import numpy as np

from featurize.winograd.transforms import matrices

CORRELATION = 0.3
"""Of two pixels of a map: that of independent numbers after a ReLU. The rounding errors depend on it little."""


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers as uint16, rounded to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def to_float32(values: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The numbers of maps of any type as float32, in a new array."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    if values.dtype == np.float32:
        return values.copy()
    return values * np.float32(scale)


def rounded_weights(u: np.ndarray, m: int) -> np.ndarray:
    """Transformed weights (K, ci, co) in bfloat16, as float32, whose rounding errors compensate each other.

    The K numbers of a weight kernel are linear functions of nine. So an error in one of them can be partly undone
    by the next ones: each number is rounded after it has taken over its share of the errors before it, as in
    Frantar et al., *GPTQ* (ICLR 2023, https://arxiv.org/abs/2210.17323). For m = 4 that takes a third off the
    weights' part of the error (measured).
    """
    bt, _, at = matrices(m, "uint16")
    inputs, outputs = np.kron(bt, bt), np.kron(at, at)
    depth, pixels = inputs.shape
    covariance = np.full((pixels, pixels), CORRELATION) + (1 - CORRELATION) * np.eye(pixels)
    # The mean squared error of the outputs is a quadratic form of the errors in u.
    form = (outputs.T @ outputs) * (inputs @ covariance @ inputs.T)
    shares = np.linalg.cholesky(np.linalg.inv(form)).T
    shares /= np.diag(shares)[:, None]
    result = np.empty(u.shape, np.float32)
    rest = u.astype(np.float32)
    for k in range(depth):
        result[k] = to_float32(to_bfloat16(rest[k]))
        error = rest[k] - result[k]
        for later in range(k + 1, depth):
            rest[later] -= np.float32(shares[k, later]) * error
    return result
