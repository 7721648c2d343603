"""The transforms of Winograd's algorithm, written as vector code: B^T d B of the inputs and A^T p A of the products."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from featurize.winograd.emit import (
    FUSED,
    INT64,
    VECTOR,
    WORDS,
    at,
    larger,
    load,
    load_inputs,
    prefetch,
    products,
    quantised,
    store,
    store_floats,
)

POINTS = (0, 1, -1, 2, -2)
"""Of interpolation, as in the paper."""
BFLOAT16_POINTS = (0, 0.625, -0.625, 1.5, -1.5)
"""With these, for m = 4, the rounding errors of bfloat16 are less than half as large (measured)."""
_intrinsic: Any = intrinsic


def matrices(m: int, kind: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T (m + 2, m + 2), G (m + 2, 3) and A^T (m, m + 2) of F(m, 3), for m = 2 or 4 and a type of transformed inputs.

    They follow from Cook and Toom's interpolation at m + 1 points and infinity. For m = 1 all three are (1, 1), and
    the same phases compute an ordinary matrix product of gathered inputs.
    """
    if m == 1:
        return np.eye(1), np.eye(1), np.eye(1)
    points = BFLOAT16_POINTS if kind == "uint16" and m == 4 else POINTS[: m + 1]
    bt = np.zeros((m + 2, m + 2))
    g = np.zeros((m + 2, 3))
    at = np.zeros((m, m + 2))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        bt[i, :-1] = np.poly(others)[::-1]
        g[i] = np.power(float(point), range(3)) / np.prod([point - other for other in others])
        at[:, i] = np.power(float(point), range(m))
    # The last row and column belong to the point at infinity.
    bt[-1] = np.poly(points)[::-1]
    g[-1, -1] = at[-1, -1] = 1
    return bt, g, at


def forward(m: int) -> Any:
    """The kernel of gather: B^T d B for some channels of a tile, from `source` in x to `target` in v.

    It computes in float32, or for int8 in int16, which is exact. `rates` is the address of the K factors of int8.
    """

    def code(context: Any, b: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        read, written = (str(array.dtype) for array in signature.args[:2])
        _, _, source, row, column, target, step, rates = arguments
        bt, _, _ = matrices(m, written)
        n = len(bt)
        mix = _sums_and_differences(n)
        rest = _exact(np.linalg.inv(mix) @ bt)  # B^T = mix @ rest
        for i in range(n):
            for j in range(n, n + m):  # the next tile is the one to the right
                prefetch(b, at(b, source, (i, row), (j, column)), write=False)
        grid = [
            [load_inputs(b, at(b, source, (i, row), (j, column)), read, written) for j in range(n)] for i in range(n)
        ]
        grid = _both_axes(grid, lambda line: products(b, rest, line), lambda line: products(b, mix, line))
        for k, value in enumerate(itertools.chain(*grid)):
            if written == "uint8":
                value = quantised(b, value, b.add(rates, INT64(2 * k)))
                store(b, value, at(b, target, (k, step)))
            else:
                store_floats(b, value, at(b, target, (k, step)), written)
        return context.get_dummy_value()

    return _intrinsic(
        lambda context, x, v, source, row, column, target, step, rates: (types.void(x, v, *[types.intp] * 6), code)
    )


def inverse(m: int, pool: bool) -> Any:
    """The kernel of scatter: max(floor, bias + A^T p A) for LANES channels of a tile; if `pool`, its 2 x 2 maxima.

    The products of int8 are transformed exactly, as integers, and then multiplied by the numbers at `factors`.
    """

    def code(context: Any, b: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        inputs, sums, outputs = (str(array.dtype) for array in signature.args[:3])
        _, _, _, source, step, factors, bias, floor, target, row, column = arguments
        _, _, a = matrices(m, inputs)
        n = a.shape[1]
        size = m // 2 if pool else m
        mix = _sums_and_differences(n)
        rest = _exact(a @ np.linalg.inv(mix))  # A^T = rest @ mix
        kind = WORDS if sums == "int32" else VECTOR
        for i in range(size):
            for j in range(size, 2 * size):
                prefetch(b, at(b, target, (i, row), (j, column)), write=True)
        grid = [[load(b, at(b, source, (i * n + j, step)), kind) for j in range(n)] for i in range(n)]
        grid = _both_axes(grid, lambda line: products(b, mix, line), lambda line: products(b, rest, line))
        if pool:  # before bias and ReLU, which do not change which number is largest: fewer additions
            grid = _both_axes(grid, lambda line: [larger(b, *line[i : i + 2]) for i in range(0, m, 2)])
        bias, floor = load(b, bias), load(b, floor)
        for i, line in enumerate(grid):
            for j, value in enumerate(line):
                if kind == WORDS:
                    value = b.fmul(b.sitofp(value, VECTOR), load(b, factors), flags=FUSED)
                    value = b.fadd(value, bias, flags=FUSED)
                else:
                    value = b.fadd(value, bias)
                store_floats(b, larger(b, floor, value), at(b, target, (i, row), (j, column)), outputs)
        return context.get_dummy_value()

    return _intrinsic(
        lambda context, v, p, y, source, step, factors, bias, floor, target, row, column: (
            types.void(v, p, y, *[types.intp] * 8),
            code,
        )
    )


def _sums_and_differences(size: int) -> np.ndarray:
    """The matrix (size, size) that replaces each pair of values at p and -p by their sum and difference.

    The points of interpolation are such pairs. So this matrix, factored out of B^T and A^T, leaves matrices
    with half as many non-zeros.
    """
    result = np.eye(size)
    for i in range(1, size - 2, 2):
        result[i : i + 2, i : i + 2] = [[1, 1], [1, -1]]
    return result


def _exact(matrix: np.ndarray) -> np.ndarray:
    """The matrix with zeros and ones where rounding errors of float64 have changed them."""
    return np.asarray(np.round(matrix, 12))


def _both_axes(grid: list[Any], *steps: Callable[[Any], list[Any]]) -> list[Any]:
    """Apply the steps to each row of a grid of vectors, then to each column."""
    for _ in range(2):
        for step in steps:
            grid = [step(line) for line in grid]
        grid = list(zip(*grid, strict=True))  # the columns become rows, and rows again the second time
    return grid
