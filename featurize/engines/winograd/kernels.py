"""Winograd's 3 x 3 convolution in numba, its inner kernels written as vector code for LLVM.

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
them. Maps have a border of zeros and fit whole tiles, so no kernel checks for an edge. The order of all sums
is fixed: a result depends neither on the batch nor on the number of threads.

A matrix product is fast only if its sums stay in vector registers. Numba's compiled loops do not achieve
that, so the three inner kernels are written as LLVM instructions, on addresses and steps in bytes.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from featurize.engines.winograd.processor import AVX512, LANES

# The matrix product keeps ROWS x COLS vectors of sums. With COLS vectors of weights and one input, they take all
# but one of the 32 (AVX-512) or 16 vector registers.
ROWS, COLS = (14, 2) if AVX512 else (6, 2)
LINE = 4 * LANES  # bytes of a vector
WIDTH = COLS * LANES  # output channels that are computed together

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR, BYTES = ir.VectorType(FLOAT, LANES), ir.IntType(8).as_pointer()
FUSED = ("contract", "nsz")  # LLVM may fuse a product and a sum into one instruction
POINTS = (0, 1, -1, 2, -2)  # of interpolation, as in the paper
_intrinsic: Any = intrinsic
_compiled: Any = functools.partial(njit, nogil=True, cache=True, error_model="numpy")


def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T (m + 2, m + 2), G (m + 2, 3) and A^T (m, m + 2) of F(m, 3), for m = 2 or 4.

    They follow from Cook and Toom's interpolation at `POINTS` and infinity. For m = 1 all three are (1, 1), and
    the same phases compute an ordinary matrix product of gathered inputs.
    """
    if m == 1:
        return np.eye(1), np.eye(1), np.eye(1)
    points = POINTS[: m + 1]
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


def _sums_and_differences(size: int) -> np.ndarray:
    """The matrix (size, size) that replaces each pair of values at p and -p by their sum and difference.

    The points of interpolation are such pairs. So this matrix, factored out of B^T and A^T, leaves matrices
    with half as many non-zeros.
    """
    result = np.eye(size)
    for i in range(1, size - 2, 2):
        result[i : i + 2, i : i + 2] = [[1, 1], [1, -1]]
    return result


def _constant(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(value))] * LANES)


def _at(b: ir.IRBuilder, base: Any, *offsets: tuple[int, Any]) -> Any:
    """The address base + count * step for each pair (count, step)."""
    for count, step in offsets:
        base = b.add(base, b.mul(INT64(count), step))
    return base


def _load(b: ir.IRBuilder, address: Any, kind: Any = VECTOR) -> Any:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=4)


def _store(b: ir.IRBuilder, value: Any, address: Any) -> None:
    b.store(value, b.inttoptr(address, VECTOR.as_pointer()), align=4)


def _prefetch(b: ir.IRBuilder, address: Any, *, write: bool) -> None:
    kind = ir.FunctionType(ir.VoidType(), [BYTES, INT32, INT32, INT32])
    b.call(
        b.module.declare_intrinsic("llvm.prefetch", [BYTES], kind),
        [b.inttoptr(address, BYTES), INT32(int(write)), INT32(3), INT32(1)],
    )


def _larger(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _product(b: ir.IRBuilder, matrix: np.ndarray, vectors: Sequence[Any]) -> list[Any]:
    """`matrix` @ `vectors`, without multiplications by zero and, in the first term, by one."""
    result = []
    for row in matrix:
        terms = [(factor, vector) for factor, vector in zip(row, vectors, strict=True) if factor]
        # A term with the factor 1, if there is one, comes first: it needs no multiplication.
        (factor, vector), *rest = sorted(terms, key=lambda term: term[0] != 1)
        total = vector if factor == 1 else b.fmul(vector, _constant(factor), flags=FUSED)
        for factor, vector in rest:
            total = b.fadd(total, b.fmul(vector, _constant(factor), flags=FUSED), flags=FUSED)
        result.append(total)
    return result


def _both_axes(grid: list[Any], *steps: Callable[[Any], list[Any]]) -> list[Any]:
    """Apply the steps to each row of a grid of vectors, then to each column."""
    for _ in range(2):
        for step in steps:
            grid = [step(line) for line in grid]
        grid = list(zip(*grid, strict=True))  # the columns become rows, and rows again the second time
    return grid


def _forward(m: int) -> Any:
    """The kernel of gather: B^T d B for LANES channels of a tile, from `source` to `target`."""
    bt, _, _ = matrices(m)
    n = len(bt)
    mix = _sums_and_differences(n)
    rest = np.linalg.inv(mix) @ bt  # B^T = mix @ rest

    def code(context: Any, b: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        source, row, column, target, step = arguments
        for i in range(n):
            for j in range(n, n + m):  # the next tile is the one to the right
                _prefetch(b, _at(b, source, (i, row), (j, column)), write=False)
        grid = [[_load(b, _at(b, source, (i, row), (j, column))) for j in range(n)] for i in range(n)]
        grid = _both_axes(grid, lambda line: _product(b, rest, line), lambda line: _product(b, mix, line))
        for k, value in enumerate(itertools.chain(*grid)):
            _store(b, value, _at(b, target, (k, step)))
        return context.get_dummy_value()

    return _intrinsic(lambda context, source, row, column, target, step: (types.void(*[types.intp] * 5), code))


def _inverse(m: int, pool: bool) -> Any:
    """The kernel of scatter: max(floor, bias + A^T p A) for LANES channels of a tile; if `pool`, its 2 x 2 maxima."""
    _, _, at = matrices(m)
    n = at.shape[1]
    size = m // 2 if pool else m
    mix = _sums_and_differences(n)
    rest = at @ np.linalg.inv(mix)  # A^T = rest @ mix

    def code(context: Any, b: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        source, step, bias, floor, target, row, column = arguments
        for i in range(size):
            for j in range(size, 2 * size):
                _prefetch(b, _at(b, target, (i, row), (j, column)), write=True)
        grid = [[_load(b, _at(b, source, (i * n + j, step))) for j in range(n)] for i in range(n)]
        grid = _both_axes(grid, lambda line: _product(b, mix, line), lambda line: _product(b, rest, line))
        if pool:  # before bias and ReLU, which do not change which number is largest: fewer additions
            grid = _both_axes(grid, lambda line: [_larger(b, *line[i : i + 2]) for i in range(0, m, 2)])
        bias, floor = _load(b, bias), _load(b, floor)
        for i, line in enumerate(grid):
            for j, value in enumerate(line):
                _store(b, _larger(b, floor, b.fadd(value, bias)), _at(b, target, (i, row), (j, column)))
        return context.get_dummy_value()

    return _intrinsic(
        lambda context, source, step, bias, floor, target, row, column: (types.void(*[types.intp] * 7), code)
    )


def _sums_in_registers() -> Any:
    """The kernel of gemm: c (COLS, ROWS, LANES) = a (blocks, ROWS, LANES) times w (blocks x LANES, WIDTH).

    All ROWS x COLS sums stay in registers: Goto and van de Geijn, *Anatomy of High-Performance Matrix
    Multiplication* (ACM TOMS 2008).
    """

    def code(context: Any, b: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        a, w, c, blocks = arguments
        entry = b.block
        body = b.append_basic_block("body")
        done = b.append_basic_block("done")
        b.branch(body)
        # The loop over blocks of LANES input channels. Its variables are phi nodes, so the sums stay in registers.
        b.position_at_end(body)
        initial_values = [INT64(0), a, w] + [_constant(0)] * (ROWS * COLS)
        variables = [b.phi(value.type) for value in initial_values]
        k, a, w, *sums = variables
        undefined = ir.Constant(VECTOR, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(INT32, LANES), None)
        # For each channel: broadcast the number of each tile, and add its products with COLS vectors of weights.
        for channel in range(LANES):
            weights = [_load(b, b.add(w, INT64((channel * COLS + j) * LINE))) for j in range(COLS)]
            for i in range(ROWS):
                number = _load(b, b.add(a, INT64(i * LINE + 4 * channel)), FLOAT)
                broadcast = b.shuffle_vector(b.insert_element(undefined, number, INT32(0)), undefined, zeros)
                for j, weight in enumerate(weights, i * COLS):
                    sums[j] = b.fadd(sums[j], b.fmul(broadcast, weight, flags=FUSED), flags=FUSED)
        k = b.add(k, INT64(1))
        next_values = [k, b.add(a, INT64(ROWS * LINE)), b.add(w, INT64(WIDTH * LINE)), *sums]
        for variable, initial, following in zip(variables, initial_values, next_values, strict=True):
            variable.add_incoming(initial, entry)
            variable.add_incoming(following, body)
        b.cbranch(b.icmp_signed("<", k, blocks), body, done)
        b.position_at_end(done)
        for i in range(ROWS):
            for j in range(COLS):
                _store(b, sums[i * COLS + j], b.add(c, INT64((j * ROWS + i) * LINE)))
        return context.get_dummy_value()

    return _intrinsic(lambda context, a, w, c, blocks: (types.void(*[types.intp] * 4), code))


_multiply = _sums_in_registers()
_forward1, _forward2, _forward4 = _forward(1), _forward(2), _forward(4)
_inverse1, _inverse2, _inverse4 = _inverse(1, False), _inverse(2, False), _inverse(4, False)
_inverse2_pool, _inverse4_pool = _inverse(2, True), _inverse(4, True)


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
def _gather(x: np.ndarray, offsets: np.ndarray, m: int, side: int, start: int, stop: int, v: np.ndarray) -> None:
    """Write B^T d B of the tiles from `start` to `stop` into v."""
    tiles = np.empty(ROWS, np.intp)
    _, row, column, _ = x.strides
    step = v.strides[1]
    for panel in range(_panels(stop - start)):
        _tile_addresses(x, m, side, start + panel * ROWS, stop, tiles)
        for i in range(ROWS):
            for j in range(len(offsets)):
                source = tiles[i] + offsets[j]
                target = v.ctypes.data + panel * v.strides[0] + (j * ROWS + i) * LINE
                if m == 4:
                    _forward4(source, row, column, target, step)
                elif m == 2:
                    _forward2(source, row, column, target, step)
                else:
                    _forward1(source, row, column, target, step)


@_compiled()
def _gemm(v: np.ndarray, u: np.ndarray, p: np.ndarray, panels: int) -> None:
    """Write the K products v[:, k] @ u[k] of some panels into p."""
    # The innermost loop is over panels: WIDTH columns of weights stay in the first-level cache for all of them.
    for k in range(u.shape[0]):
        for j in range(u.shape[1]):
            for i in range(panels):
                _multiply(
                    v.ctypes.data + i * v.strides[0] + k * v.strides[1],
                    u.ctypes.data + k * u.strides[0] + j * u.strides[1],
                    p.ctypes.data + i * p.strides[0] + k * p.strides[1] + j * COLS * ROWS * LINE,
                    u.shape[2] // LANES,
                )


@_compiled()
def _scatter(
    p: np.ndarray,
    bias: np.ndarray,
    floor: np.ndarray,
    pool: bool,
    y: np.ndarray,
    m: int,
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
                added = bias.ctypes.data + j * LINE
                target = tiles[i] + row + column + j * LINE  # inside the border of one row and one column
                if m == 4 and pool:
                    _inverse4_pool(source, step, added, lowest, target, row, column)
                elif m == 4:
                    _inverse4(source, step, added, lowest, target, row, column)
                elif m == 2 and pool:
                    _inverse2_pool(source, step, added, lowest, target, row, column)
                elif m == 2:
                    _inverse2(source, step, added, lowest, target, row, column)
                else:
                    _inverse1(source, step, added, lowest, target, row, column)


_MAPS = "f4[:,:,:,:]"


@_compiled(f"void({_MAPS}, i8[:], {_MAPS}, f4[:], f4[:], b1, {_MAPS}, i8, i8, i8, i8, f4[:,:,:], f4[:,:,:])")
def convolve(
    x: np.ndarray,
    offsets: np.ndarray,
    u: np.ndarray,
    bias: np.ndarray,
    floor: np.ndarray,
    pool: bool,
    y: np.ndarray,
    m: int,
    side: int,
    start: int,
    stop: int,
    v: np.ndarray,
    p: np.ndarray,
) -> None:
    """Write some tiles of y, inside its border: the convolution of x with bias and ReLU, pooled or not.

    It checks nothing: with wrong shapes it reads and writes other memory.

    Args:
        x: input maps (n, H, W, ci) with a border of one zero, from the second row and column on.
        offsets: the offset in bytes of each vector of a tile's first pixel.
        u: transformed weights (K, co / WIDTH, ci, WIDTH).
        bias: (co,).
        floor: (LANES,), the lowest output: zeros for a ReLU, minus infinities for none.
        pool: whether to write the 2 x 2 maxima.
        y: output maps (n, H', W', co), written from row and column 1 on.
        m: a tile has m x m outputs: 4, 2, or 1 if `offsets` gather all inputs of an output.
        side: tiles in a row of a map, and in a column.
        start: the index of the first tile, over all maps.
        stop: the index of the last tile + 1.
        v: buffer (panels, K, at least ci x ROWS); its panels are processed together.
        p: buffer (panels, K, at least co x ROWS).
    """
    block = len(v) * ROWS
    for first in range(start, stop, block):
        last = min(first + block, stop)
        _gather(x, offsets, m, side, first, last, v)
        _gemm(v, u, p, _panels(last - first))
        _scatter(p, bias, floor, pool, y, m, side, first, last)
