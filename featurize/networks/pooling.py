"""Pooling of a layer's activation over height and width."""

import itertools

import numpy as np

from featurize.core.errors import UsageError, suggestion

POOLS = ("avg", "max", "grid2", "grid4", "flatten", "cls")


def check_pool(pool: str) -> None:
    """Raise UsageError if there is no such pooling."""
    if pool not in POOLS:
        raise UsageError(f"--pool {pool}: {suggestion(pool, list(POOLS))}")


def pooled(activation: np.ndarray, pool: str) -> np.ndarray:
    """Pool an activation over height and width.

    Args:
        activation: float32 (n, h, w, c); (n, tokens, c) of a transformer; or (n, c), which is returned as it is.
        pool: `avg` or `max` over the whole map -> (n, c); `grid2` or `grid4`, averages over a grid of
            g x g cells -> (n, g, g, c); `flatten`, the whole map. If g does not divide the map, cells overlap by
            a row or column (adaptive average pooling: cell i spans floor(i h / g) to ceil((i + 1) h / g)). Of
            tokens: `avg` and `max` over all of them, `flatten`, and `cls`, the first one.

    Returns:
        float32 (n, c) or (n, rows, columns, c).

    Raises:
        UsageError: the map is smaller than the grid, or the pooling does not apply to maps or to tokens.
    """
    if activation.ndim == 2:
        return activation
    if activation.ndim == 3:
        return _pooled_tokens(activation, pool)
    if pool == "cls":
        raise UsageError("--pool cls: the layer gives a map, and no tokens; use --pool avg")
    _, height, width, _ = activation.shape
    if pool == "avg":
        return activation.mean(axis=(1, 2))
    if pool == "max":
        return activation.max(axis=(1, 2))
    if pool == "flatten":
        return activation
    cells = int(pool.removeprefix("grid"))
    if min(height, width) < cells:
        raise UsageError(
            f"--pool {pool}: the layer's map is {height} x {width}, too small for a {cells} x {cells} grid; "
            "use a larger --image-size, an earlier layer or --pool avg"
        )
    parts = []
    for (top, bottom), (left, right) in itertools.product(_cells(height, cells), _cells(width, cells)):
        parts.append(activation[:, top:bottom, left:right].mean(axis=(1, 2)))
    return np.stack(parts, axis=1).reshape(len(activation), cells, cells, -1)


def _pooled_tokens(tokens: np.ndarray, pool: str) -> np.ndarray:
    """Pool tokens (n, tokens, c) -> (n, c), or (n, tokens * c) for `flatten`."""
    if pool == "cls":
        return tokens[:, 0]
    if pool == "avg":
        return tokens.mean(axis=1)
    if pool == "max":
        return tokens.max(axis=1)
    if pool == "flatten":
        return tokens.reshape(len(tokens), -1)
    raise UsageError(f"--pool {pool}: the layer gives tokens, and no map; use --pool cls or avg")


def mirrored(activation: np.ndarray) -> np.ndarray:
    """The activation (n, h, w, c) of mirrored images, mirrored back; tokens and vectors stay as they are."""
    return activation[:, :, ::-1] if activation.ndim == 4 else activation


def _cells(length: int, cells: int) -> list[tuple[int, int]]:
    """The start and the stop (exclusive) of each cell."""
    return [(i * length // cells, -(-(i + 1) * length // cells)) for i in range(cells)]
