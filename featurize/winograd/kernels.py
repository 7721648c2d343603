"""Winograd's 3 x 3 convolution in numba, around the vector code of `transforms` and `product`.

The algorithm is F(m x m, 3 x 3) of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*
(CVPR 2016, https://arxiv.org/abs/1509.09308). A tile of m x m outputs depends on K = (m + 2)^2 inputs d.
They are transformed to B^T d B. Each of the K transformed numbers has its own matrix product over the
channels, and A^T p A of the products p are the outputs. That takes K multiplications instead of 9 m^2: with
m = 4, a quarter.

A thread takes a few tiles at a time through three phases, so that they stay in its cache:

    gather    d -> B^T d B                                v (panels, K, ci x ROWS)
    gemm      K products v[:, k] @ u[k]                   p (panels, K, co x ROWS)
    scatter   A^T p A, bias, ReLU, 2 x 2 maxima           y (n, height, width, co)

A panel holds ROWS tiles as (channels / LANES, ROWS, LANES), in the order in which the matrix product reads
them. In bfloat16 and int8, groups of two and four neighbouring channels take the place of one channel in v: one
instruction multiplies a whole group and adds the products to one sum, in float32 or int32. Maps have a border of
zeros and fit whole tiles, so no kernel checks for an edge. The order of all sums
is fixed: a result depends neither on the batch nor on the number of threads.

A matrix product is fast only if its sums stay in vector registers. Numba's compiled loops do not achieve
that, so the inner kernels are written as LLVM instructions, on addresses and steps in bytes. The types of the
buffers select the precision: `emit` lists them.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, njit, types

from featurize.winograd.emit import LINE
from featurize.winograd.processor import LANES
from featurize.winograd.product import COLS, ROWS, sums_in_registers
from featurize.winograd.transforms import forward, inverse

EMITTERS = "5f41997c408cbd64"
"""Digest of `emit`, `product` and `transforms`. Numba's cache of compiled code notices a change of this file only."""

_compiled: Any = functools.partial(njit, nogil=True, cache=True, error_model="numpy")
_multiply = sums_in_registers()
_forward1, _forward2, _forward4 = forward(1), forward(2), forward(4)
_inverse1, _inverse2, _inverse4 = inverse(1, False), inverse(2, False), inverse(4, False)
_inverse2_pool, _inverse4_pool = inverse(2, True), inverse(4, True)


BESIDE = {"float32": ("float32", "float32"), "uint16": ("uint16", "float32"), "uint8": ("int8", "int32")}
"""Type of the transformed inputs v -> types of the weights u and of the products p."""


class Layer(NamedTuple):
    """A convolution's numbers, as the kernels read them. A group is 1, 2 or 4 channels: 32 bits of weights.

    Attributes:
        m: a tile has m x m outputs: 4, 2, or 1 if the offsets gather all inputs of an output.
        offsets: the offset in bytes of each vector of a tile's first pixel, int64.
        u: transformed weights (K, co / WIDTH, groups, WIDTH x group).
        first: (co / WIDTH, K, WIDTH) int32, where the sums of int8 begin.
        rates: (K,) int16, the factors of the transformed inputs of int8, x 2^15.
        factors: (co,), which the products of int8 are multiplied by.
        bias: (co,).
        floor: (LANES,), the lowest output: zeros for a ReLU, minus infinities for none.
        pool: whether to write the 2 x 2 maxima.
    """

    m: int
    offsets: np.ndarray
    u: np.ndarray
    first: np.ndarray
    rates: np.ndarray
    factors: np.ndarray
    bias: np.ndarray
    floor: np.ndarray
    pool: bool


@_compiled()
def _panels(tiles: int) -> int:
    """The panels that hold some tiles. The last one may not be full."""
    return (tiles + ROWS - 1) // ROWS


@_compiled()
def _tile_addresses(x: np.ndarray, m: int, side: int, start: int, stop: int, out: np.ndarray) -> None:
    """Write the addresses of ROWS tiles of x from `start` on; a map has side x side tiles of m x m pixels.

    From `stop` on, the last tile is repeated: it fills the panel, and its outputs are written again.
    """
    for i in range(ROWS):
        tile = min(start + i, stop - 1)
        image = tile // (side * side)
        row = tile // side % side
        column = tile % side
        out[i] = x.ctypes.data + image * x.strides[0] + row * m * x.strides[1] + column * m * x.strides[2]


@_compiled()
def _gather(
    m: int,
    offsets: np.ndarray,
    rates: np.ndarray,
    x: np.ndarray,
    side: int,
    start: int,
    stop: int,
    v: np.ndarray,
) -> None:
    """Write B^T d B of the tiles from `start` to `stop` into v."""
    tiles = np.empty(ROWS, np.intp)
    _, row, column, _ = x.strides
    step = v.strides[1]
    rate = rates.ctypes.data
    # The bytes that a vector of channels takes in v: a line, or half of one.
    width = LINE // 2 if v.itemsize < 4 else LINE
    for panel in range(_panels(stop - start)):
        _tile_addresses(x, m, side, start + panel * ROWS, stop, tiles)
        for i in range(ROWS):
            for j in range(len(offsets)):
                source = tiles[i] + offsets[j]
                block = j * width // LINE
                target = v.ctypes.data + panel * v.strides[0] + (block * ROWS + i) * LINE + j * width % LINE
                if m == 4:
                    _forward4(x, v, source, row, column, target, step, rate)
                elif m == 2:
                    _forward2(x, v, source, row, column, target, step, rate)
                else:
                    _forward1(x, v, source, row, column, target, step, rate)


@_compiled()
def _gemm(u: np.ndarray, first: np.ndarray, v: np.ndarray, p: np.ndarray, panels: int) -> None:
    """Write the K products v[:, k] @ u[k] of some panels into p."""
    # The innermost loop is over panels: WIDTH columns of weights stay in the first-level cache for all of them.
    for k in range(u.shape[0]):
        for j in range(u.shape[1]):
            for i in range(panels):
                _multiply(
                    v,
                    v.ctypes.data + i * v.strides[0] + k * v.strides[1],
                    u.ctypes.data + k * u.strides[0] + j * u.strides[1],
                    p.ctypes.data + i * p.strides[0] + k * p.strides[1] + j * COLS * ROWS * LINE,
                    u.shape[2] // LANES,
                    first.ctypes.data + j * first.strides[0] + k * first.strides[1],
                )


@_compiled()
def _scatter(
    m: int,
    factors: np.ndarray,
    bias: np.ndarray,
    floor: np.ndarray,
    pool: bool,
    v: np.ndarray,
    p: np.ndarray,
    y: np.ndarray,
    side: int,
    start: int,
    stop: int,
) -> None:
    """Write the outputs of the tiles from `start` to `stop`, from their products p, into y."""
    tiles = np.empty(ROWS, np.intp)
    _, row, column, _ = y.strides
    step = p.strides[1]
    lowest = floor.ctypes.data
    for panel in range(_panels(stop - start)):
        _tile_addresses(y, m // 2 if pool else m, side, start + panel * ROWS, stop, tiles)
        for i in range(ROWS):
            for j in range(y.shape[3] // LANES):
                source = p.ctypes.data + panel * p.strides[0] + (j * ROWS + i) * LINE
                factor = factors.ctypes.data + j * LINE
                added = bias.ctypes.data + j * LINE
                # Inside the border of one row and one column.
                target = tiles[i] + row + column + j * LANES * y.itemsize
                if m == 4 and pool:
                    _inverse4_pool(v, p, y, source, step, factor, added, lowest, target, row, column)
                elif m == 4:
                    _inverse4(v, p, y, source, step, factor, added, lowest, target, row, column)
                elif m == 2 and pool:
                    _inverse2_pool(v, p, y, source, step, factor, added, lowest, target, row, column)
                elif m == 2:
                    _inverse2(v, p, y, source, step, factor, added, lowest, target, row, column)
                else:
                    _inverse1(v, p, y, source, step, factor, added, lowest, target, row, column)


def _convolve(
    m: int,
    offsets: np.ndarray,
    u: np.ndarray,
    first: np.ndarray,
    rates: np.ndarray,
    factors: np.ndarray,
    bias: np.ndarray,
    floor: np.ndarray,
    pool: bool,
    x: np.ndarray,
    y: np.ndarray,
    side: int,
    start: int,
    stop: int,
    v: np.ndarray,
    p: np.ndarray,
) -> None:
    """Write some tiles of y, inside its border: the convolution of x with bias and ReLU, pooled or not.

    It checks nothing: with wrong shapes it reads and writes other memory.

    Args:
        m: as in `Layer`.
        offsets: as in `Layer`.
        u: as in `Layer`.
        first: as in `Layer`.
        rates: as in `Layer`.
        factors: as in `Layer`.
        bias: as in `Layer`.
        floor: as in `Layer`.
        pool: as in `Layer`.
        x: input maps (n, H, W, ci) with a border of one zero, from the second row and column on.
        y: output maps (n, H', W', co), written from row and column 1 on.
        side: tiles in a row of a map, and in a column.
        start: the index of the first tile, over all maps.
        stop: the index of the last tile + 1.
        v: buffer (panels, K, at least ci x ROWS); its panels are processed together.
        p: buffer (panels, K, at least co x ROWS).
    """
    block = len(v) * ROWS
    for begin in range(start, stop, block):
        end = min(begin + block, stop)
        _gather(m, offsets, rates, x, side, begin, end, v)
        _gemm(u, first, v, p, _panels(end - begin))
        _scatter(m, factors, bias, floor, pool, v, p, y, side, begin, end)


@functools.cache
def convolver(read: str, products: str, written: str) -> Any:
    """The function `_convolve`, compiled for these types of input maps, transformed inputs and output maps."""
    weights, sums = BESIDE[products]
    x, y, v, p, u = (from_dtype(np.dtype(kind)) for kind in (read, written, products, sums, weights))
    floats = types.float32[:]
    layer = (types.intp, types.intp[:], u[:, :, :, :], types.int32[:, :, :], types.int16[:], *[floats] * 3, types.b1)
    rest = (x[:, :, :, :], y[:, :, :, :], *[types.intp] * 3, v[:, :, :], p[:, :, :])
    return _compiled(types.void(*layer, *rest))(_convolve)
