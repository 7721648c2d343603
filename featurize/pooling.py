"""From a layer's activation to a vector per image."""

import itertools

import numpy as np

from featurize.errors import UsageError, suggestion

POOLS = ("avg", "max", "grid2", "grid4", "flatten")


def check_pool(pool: str) -> None:
    """Raise UsageError when there is no such pooling."""
    if pool not in POOLS:
        raise UsageError(f"--pool {pool}: {suggestion(pool, list(POOLS))}")


def pooled(activation: np.ndarray, pool: str) -> np.ndarray:
    """Pool over height and width.

    Args:
        activation: float32 (n, h, w, c), or (n, c), which is returned as it is.
        pool: `avg` or `max` over the whole map -> (n, c); `grid2` or `grid4`, averages over a 2 x 2
            or 4 x 4 grid of cells, row-major -> (n, 4 c) or (n, 16 c); `flatten` -> (n, h w c).
            Where the cells do not divide the map they overlap by a row or column (adaptive average
            pooling: cell i spans floor(i h / g) to ceil((i + 1) h / g)).

    Returns:
        float32 (n, d).

    Raises:
        UsageError: the map is smaller than the grid.
    """
    if activation.ndim == 2:
        return activation
    count, height, width, _ = activation.shape
    if pool == "avg":
        return activation.mean(axis=(1, 2))
    if pool == "max":
        return activation.max(axis=(1, 2))
    if pool == "flatten":
        return activation.reshape(count, -1)
    cells = int(pool.removeprefix("grid"))
    if min(height, width) < cells:
        raise UsageError(
            f"--pool {pool}: the layer's map is {height} x {width}, too small for a {cells} x {cells} grid; "
            "use a larger --image-size, an earlier layer or --pool avg"
        )
    parts = [
        activation[:, top:bottom, left:right].mean(axis=(1, 2))
        for (top, bottom), (left, right) in itertools.product(_cells(height, cells), _cells(width, cells))
    ]
    return np.concatenate(parts, axis=1)


def mirrored(activation: np.ndarray) -> np.ndarray:
    """The activation (n, h, w, c) of mirrored images, mirrored back; (n, c) stays as it is."""
    return activation[:, :, ::-1] if activation.ndim == 4 else activation


def _cells(length: int, cells: int) -> list[tuple[int, int]]:
    return [(i * length // cells, -(-(i + 1) * length // cells)) for i in range(cells)]
