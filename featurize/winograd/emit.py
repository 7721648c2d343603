"""Vector instructions for LLVM: addresses, loads, stores and arithmetic in the formats of the three precisions.

A buffer's numpy type says how its numbers are stored:

    float32   as they are
    uint16    the upper half of a float32, rounded to nearest: bfloat16, which numpy does not have
    uint8     transformed inputs of int8 + 128, or activations after a ReLU, divided by a scale
    int8      activations without a ReLU, divided by a scale

Addresses and steps are in bytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from featurize.winograd.processor import LANES

LINE = 4 * LANES
"""Bytes of a vector."""
FLOAT, BYTE = ir.FloatType(), ir.IntType(8)
INT16, INT32, INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
VECTOR, WORDS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)
FUSED = ("contract", "nsz")  # LLVM may fuse a product and a sum into one instruction
POINTER = BYTE.as_pointer()


def constant(kind: ir.VectorType, value: float) -> ir.Constant:
    """A vector of equal numbers."""
    number = float(value) if kind.element == FLOAT else int(value)
    return ir.Constant(kind, [ir.Constant(kind.element, number)] * kind.count)


def at(b: ir.IRBuilder, base: Any, *offsets: tuple[int, Any]) -> Any:
    """The address base + count * step for each pair (count, step)."""
    for count, step in offsets:
        base = b.add(base, b.mul(INT64(count), step))
    return base


def load(b: ir.IRBuilder, address: Any, kind: Any = VECTOR) -> Any:
    """A vector or number of this kind."""
    return b.load(b.inttoptr(address, kind.as_pointer()), align=1 if _bits(kind) < 32 else 4)


def store(b: ir.IRBuilder, value: Any, address: Any) -> None:
    """Write a vector."""
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=1 if _bits(value.type) < 32 else 4)


def prefetch(b: ir.IRBuilder, address: Any, *, write: bool) -> None:
    """Ask for a cache line, to read or to write it."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, INT32, INT32, INT32])
    b.call(
        b.module.declare_intrinsic("llvm.prefetch", [POINTER], kind),
        [b.inttoptr(address, POINTER), INT32(int(write)), INT32(3), INT32(1)],
    )


def broadcast(b: ir.IRBuilder, number: Any, count: int = LANES) -> Any:
    """A vector of equal numbers."""
    undefined = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    first = constant(ir.VectorType(INT32, count), 0)
    return b.shuffle_vector(b.insert_element(undefined, number, INT32(0)), undefined, first)


def larger(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """The larger of each pair of numbers."""
    above = b.fcmp_ordered(">", x, y) if x.type.element == FLOAT else b.icmp_signed(">", x, y)
    return b.select(above, x, y)


def products(b: ir.IRBuilder, matrix: np.ndarray, vectors: Sequence[Any]) -> list[Any]:
    """`matrix` @ `vectors`, without multiplications by zero and, in the first term, by one."""
    kind = vectors[0].type
    result = []
    for row in matrix:
        terms = [(factor, vector) for factor, vector in zip(row, vectors, strict=True) if factor]
        # A term with the factor 1, if there is one, comes first: it needs no multiplication.
        (factor, vector), *rest = sorted(terms, key=lambda term: term[0] != 1)
        total = vector if factor == 1 else _multiply(b, vector, constant(kind, factor))
        for factor, vector in rest:
            term = _multiply(b, vector, constant(kind, factor))
            total = b.fadd(total, term, flags=FUSED) if kind.element == FLOAT else b.add(total, term)
        result.append(total)
    return result


def channels_at_once(products: str) -> int:
    """The channels in a vector of the forward transform, for transformed inputs of this type."""
    return 2 * LANES if products == "uint8" else LANES


def load_inputs(b: ir.IRBuilder, address: Any, kind: str, products: str) -> Any:
    """Activations of a type, as the forward transform computes with them: float32, or int16 for products of int8."""
    if kind == "float32":
        return load(b, address)
    if kind == "uint16":
        halves = load(b, address, ir.VectorType(INT16, LANES))
        return b.bitcast(b.shl(b.zext(halves, WORDS), constant(WORDS, 16)), VECTOR)
    extend = b.zext if kind == "uint8" else b.sext
    numbers = load(b, address, ir.VectorType(BYTE, channels_at_once(products)))
    if products == "uint8":
        return extend(numbers, ir.VectorType(INT16, numbers.type.count))
    return b.sitofp(extend(numbers, WORDS), VECTOR)


def quantised(b: ir.IRBuilder, value: Any, rate: Any) -> Any:
    """Numbers in int16, times the number at `rate` / 2^15, rounded, as int8 + 128."""
    rates = broadcast(b, load(b, rate, INT16), value.type.count)
    value = _call(b, "llvm.x86.avx512.pmul.hr.sw.512", value.type, value, rates)
    signed = b.trunc(_clamped(b, value, -128, 127), ir.VectorType(BYTE, value.type.count))
    return b.xor(signed, constant(signed.type, -128))


def store_floats(b: ir.IRBuilder, value: Any, address: Any, kind: str) -> None:
    """Write float32 numbers as this type, rounded to nearest, ties to even."""
    if kind == "uint16":
        value = _call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(INT16, LANES), value)
    elif kind in ("uint8", "int8"):
        lowest, highest = (0, 255) if kind == "uint8" else (-128, 127)
        everything, current_rounding = INT16(-1), INT32(4)
        value = _call(
            b, "llvm.x86.avx512.mask.cvtps2dq.512", WORDS, value, constant(WORDS, 0), everything, current_rounding
        )
        value = b.trunc(_clamped(b, value, lowest, highest), ir.VectorType(BYTE, LANES))
    store(b, value, address)


def multiply_add(b: ir.IRBuilder, total: Any, numbers: Any, weights: Any, kind: str) -> Any:
    """Total + numbers * weights: in each 32 bits one product, two of bfloat16 or four of int8, for inputs of a type."""
    if kind == "float32":
        return b.fadd(total, b.fmul(numbers, weights, flags=FUSED), flags=FUSED)
    name = "llvm.x86.avx512bf16.dpbf16ps.512" if kind == "uint16" else "llvm.x86.avx512.vpdpbusd.512"
    return _call(b, name, total.type, total, numbers, weights)


def _multiply(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    return b.fmul(x, y, flags=FUSED) if x.type.element == FLOAT else b.mul(x, y)


def _clamped(b: ir.IRBuilder, value: Any, lowest: int, highest: int) -> Any:
    value = larger(b, value, constant(value.type, lowest))
    top = constant(value.type, highest)
    return b.select(b.icmp_signed("<", value, top), value, top)


def _call(b: ir.IRBuilder, name: str, result: Any, *arguments: Any) -> Any:
    """Call an instruction of the processor by LLVM's name. Some LLVM versions name other types of the same size."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    return b.call(function, arguments)


def _bits(kind: Any) -> int:
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    return 32 if element == FLOAT else int(element.width)
