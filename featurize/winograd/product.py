"""The matrix product of Winograd's algorithm, written as vector code."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from featurize.winograd.emit import (
    FLOAT,
    INT32,
    INT64,
    LINE,
    VECTOR,
    WORDS,
    broadcast,
    constant,
    load,
    multiply_add,
    store,
)
from featurize.winograd.processor import AVX512, LANES

# The matrix product keeps ROWS x COLS vectors of sums. With COLS vectors of weights and one input, they take all
# but one of the 32 (AVX-512) or 16 vector registers.
ROWS, COLS = (14, 2) if AVX512 else (6, 2)
WIDTH = COLS * LANES
"""Output channels that are computed together."""
_intrinsic: Any = intrinsic


def sums_in_registers() -> Any:
    """The kernel of gemm: c (COLS, ROWS, LANES) = a (blocks, ROWS, LANES) times w (blocks x LANES, WIDTH).

    A number of a or w is one of float32, or a group of two channels in bfloat16 or of four in int8, whose products
    are added to the same sum. The sums of int8 begin with the numbers at `first` (COLS, LANES).

    All ROWS x COLS sums stay in registers: Goto and van de Geijn, *Anatomy of High-Performance Matrix
    Multiplication* (ACM TOMS 2008).
    """

    def code(context: Any, b: ir.IRBuilder, signature: Any, arguments: Sequence[Any]) -> Any:
        inputs = str(signature.args[0].dtype)
        _, a, w, c, blocks, first = arguments
        number, weight_kind = (FLOAT, VECTOR) if inputs == "float32" else (INT32, WORDS)
        if inputs == "uint8":
            initial_sums = [load(b, b.add(first, INT64(j * LINE)), WORDS) for j in range(COLS)] * ROWS
        else:
            initial_sums = [constant(VECTOR, 0)] * (ROWS * COLS)
        entry = b.block
        body = b.append_basic_block("body")
        done = b.append_basic_block("done")
        b.branch(body)
        # The loop over blocks of LANES groups of channels. Its variables are phi nodes, so the sums stay in registers.
        b.position_at_end(body)
        initial_values = [INT64(0), a, w, *initial_sums]
        variables = [b.phi(value.type) for value in initial_values]
        k, a, w, *sums = variables
        # For each group: broadcast the number of each tile, and add its products with COLS vectors of weights.
        for group in range(LANES):
            weights = [load(b, b.add(w, INT64((group * COLS + j) * LINE)), weight_kind) for j in range(COLS)]
            for i in range(ROWS):
                numbers = broadcast(b, load(b, b.add(a, INT64(i * LINE + 4 * group)), number))
                for j, weight in enumerate(weights, i * COLS):
                    sums[j] = multiply_add(b, sums[j], numbers, weight, inputs)
        k = b.add(k, INT64(1))
        next_values = [k, b.add(a, INT64(ROWS * LINE)), b.add(w, INT64(WIDTH * LINE)), *sums]
        for variable, initial, following in zip(variables, initial_values, next_values, strict=True):
            variable.add_incoming(initial, entry)
            variable.add_incoming(following, body)
        b.cbranch(b.icmp_signed("<", k, blocks), body, done)
        b.position_at_end(done)
        for i in range(ROWS):
            for j in range(COLS):
                store(b, sums[i * COLS + j], b.add(c, INT64((j * ROWS + i) * LINE)))
        return context.get_dummy_value()

    return _intrinsic(lambda context, v, a, w, c, blocks, first: (types.void(v, *[types.intp] * 5), code))
