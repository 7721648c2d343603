"""The passes of a VGG-like network: its stages, prepared for maps of one size and for a precision.

The letters m, u, v, p and K are those of `kernels`, which explains the algorithm.
"""

from dataclasses import dataclass

import numpy as np

from featurize.winograd.emit import LINE, channels_at_once
from featurize.winograd.kernels import BESIDE, Layer
from featurize.winograd.processor import LANES
from featurize.winograd.product import ROWS, WIDTH
from featurize.winograd.rounding import rounded_weights, to_bfloat16
from featurize.winograd.stages import Stage
from featurize.winograd.transforms import matrices

CACHE_BYTES = 600_000
"""A thread's share of the processor's cache for v and p, beside some of the weights (measured)."""
WEIGHT_BYTES_PER_TILE = 250_000
"""A block of tiles reads all weights from memory. That pays off with a tile per this many bytes of them (measured)."""
PRODUCTS = {"float32": "float32", "bfloat16": "uint16", "int8": "uint8"}
"""Precision -> type of the transformed inputs, as `emit` lists them."""
OFFSET = 128
"""Added to the transformed inputs of int8, because the instruction multiplies unsigned by signed numbers."""


@dataclass(frozen=True)
class Maps:
    """What the numbers of a pass's input or output maps are.

    Attributes:
        channels: of the network.
        filled: channels with those that fill vectors, which are zero.
        kind: their type, as `emit` lists them.
        scale: the numbers are to be multiplied by it.
    """

    channels: int
    filled: int
    kind: str = "float32"
    scale: float = 1.0


@dataclass(frozen=True)
class Pass:
    """A stage, prepared for maps of one size.

    Attributes:
        stage: the layers.
        side: height and width of its input maps.
        inputs: its input maps.
        outputs: its output maps.
        layer: the convolution; None for a pooling alone.
        products: type of the transformed inputs.
    """

    stage: Stage
    side: int
    inputs: Maps
    outputs: Maps
    layer: Layer | None = None
    products: str = "float32"

    @property
    def output_side(self) -> int:
        """Height and width of the output maps."""
        return self.side // 2 if self.stage.pool else self.side

    @property
    def buffer_shape(self) -> tuple[int, int, int]:
        """The shape of an output map in its buffer.

        The next pass reads whole tiles of 2 or 4 outputs, with a border of zeros around them. So they must fit.
        """
        side = max(self.output_side + 3, round_up(self.output_side, 4) + 2)
        return side, side, self.outputs.filled


def prepared(chain: list[Stage], side: int, precision: str) -> list[Pass]:
    """The passes of a chain, for images of `side` x `side` pixels. For int8 its convolutions have scales."""
    passes: list[Pass] = []
    maps = Maps(3, 3)
    for stage in chain:
        if stage.kernel is None:
            passes.append(Pass(stage, side, maps, maps))
        else:
            # With few channels there is little to gain, and their errors do not average out.
            few = min(stage.kernel.shape[2:]) < WIDTH
            products = "float32" if few else PRODUCTS[precision]
            outputs = _outputs(stage, precision)
            layer = _layer(stage, maps, outputs, _tile_size(side, products, first=not passes), products, side)
            passes.append(Pass(stage, side, maps, outputs, layer, products))
            maps = outputs
        side = passes[-1].output_side
    return passes


def tiles_at_once(layer: Layer) -> int:
    """The tiles that a thread processes at once: few enough for the cache, enough to be worth reading u."""
    depth, _, groups, _ = layer.u.shape
    bytes_per_tile = 4 * depth * (groups + len(layer.bias))
    cached = CACHE_BYTES / bytes_per_tile
    worthwhile = layer.u.nbytes / WEIGHT_BYTES_PER_TILE
    return round_up(int(max(cached, worthwhile)), ROWS)


def _outputs(stage: Stage, precision: str) -> Maps:
    assert stage.kernel is not None
    channels = stage.kernel.shape[3]
    kind, scale = PRODUCTS[precision], 1.0
    filled = round_up(channels, max(WIDTH, LINE // np.dtype(kind).itemsize))
    if precision == "int8":
        assert stage.scales is not None
        kind, scale = "uint8" if stage.relu else "int8", float(stage.scales[0])
    return Maps(channels, filled, kind, scale)


def _tile_size(side: int, products: str, *, first: bool) -> int:
    """The outputs of a tile in a row, for maps of `side` pixels."""
    if first:
        return 1  # three channels are too few for a transform: all 27 numbers of a pixel are gathered
    # The rounding errors are larger for tiles of 4 x 4 outputs. For int8 they would be too large.
    return 2 if side <= 2 or products == "uint8" else 4


def _layer(stage: Stage, inputs: Maps, outputs: Maps, m: int, products: str, side: int) -> Layer:
    """The convolution of a stage, for maps of `side` pixels, with tiles of m x m outputs and a type of products."""
    assert stage.kernel is not None
    assert stage.bias is not None
    u = _transformed(stage.kernel, inputs.filled, outputs.filled, m, products)
    depth, _, channels = u.shape
    bias = aligned((channels,))
    bias[: len(stage.bias)] = stage.bias / outputs.scale
    factors = aligned((channels,))
    rates = np.zeros(depth, np.int16)
    first = np.zeros((channels // WIDTH, depth, WIDTH), np.int32)
    if products == "uint8":
        assert stage.scales is not None
        rates[:] = np.minimum(np.rint(stage.scales[1:] * 2.0**15), 2**15 - 1)
        u = u * (inputs.scale * 2.0**15 / rates)[:, None, None]
        # One scale for all K products, so that their transform is exact.
        largest = np.abs(u).max(axis=(0, 1)) / 127
        largest[largest == 0] = 1
        u = np.rint(u / largest)
        factors[:] = largest / outputs.scale
        first[:] = (-OFFSET * u.sum(axis=1)).reshape(depth, -1, WIDTH).swapaxes(0, 1)
    elif products == "uint16":
        u = rounded_weights(u, m)
    else:
        u = u * inputs.scale / outputs.scale
    floor = np.full(LANES, 0 if stage.relu else -np.inf, np.float32)
    offsets = _input_offsets(m, side, inputs, products)
    return Layer(m, offsets, _grouped(u, products), first, rates, factors, bias, floor, stage.pool)


def _input_offsets(m: int, side: int, inputs: Maps, products: str) -> np.ndarray:
    """The offset in bytes of each vector of a tile's first pixel.

    For m = 1 the vectors cover three pixels in each of three rows. They also read a few numbers beyond, whose
    weights are zero.
    """
    size = np.dtype(inputs.kind).itemsize
    if m > 1:
        return size * np.arange(0, inputs.filled, channels_at_once(products))
    row = size * inputs.channels * (side + 2)
    in_row = np.arange(0, 3 * size * inputs.channels, LINE)
    return np.add.outer(np.arange(3) * row, in_row).ravel()


def _transformed(kernel: np.ndarray, inputs: int, outputs: int, m: int, products: str) -> np.ndarray:
    """G g G^T as (K, inputs, outputs); zero channels are added to fill vectors."""
    columns = ((0, 0), (0, outputs - kernel.shape[3]))
    if m == 1:
        # One product of a pixel's neighbourhood: three rows of three pixels, each filled up to whole vectors.
        rows = kernel.reshape(3, 3 * inputs, -1)
        filled = np.pad(rows, ((0, 0), (0, -3 * inputs % LANES), columns[1]))
        return filled.reshape(1, -1, outputs)
    _, g, _ = matrices(m, products)
    filled = np.pad(kernel, ((0, 0), (0, 0), (0, inputs - kernel.shape[2]), columns[1]))
    # For all channels at once, in float64 so that the weights lose nothing.
    return (np.kron(g, g) @ filled.reshape(9, -1).astype(float)).reshape(-1, inputs, outputs)


def _grouped(u: np.ndarray, products: str) -> np.ndarray:
    """The weights (K, ci, co) as u (K, co / WIDTH, groups, WIDTH x group), for a type of transformed inputs.

    The matrix product reads WIDTH columns of all inputs, one group of inputs after the other.
    """
    depth, inputs, outputs = u.shape
    kind, _ = BESIDE[products]
    group = 4 // np.dtype(kind).itemsize
    parts = u.reshape(depth, inputs // group, group, outputs // WIDTH, WIDTH).transpose(0, 3, 1, 4, 2)
    result = aligned((depth, outputs // WIDTH, inputs // group, WIDTH * group), kind)
    values = parts.reshape(result.shape)
    result[...] = to_bfloat16(values) if kind == "uint16" else values
    return result


def aligned(shape: tuple[int, ...], kind: str = "float32") -> np.ndarray:
    """Zeros that start at a huge page: few TLB misses, and no vector across two cache lines."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    page = 1 << 21
    raw = np.empty(size + 3 * page, np.uint8)  # numpy asks for huge pages from 4 MiB on
    start = -raw.ctypes.data % page
    result = raw[start : start + size].view(kind).reshape(shape)
    result.fill(0)
    return result


def divide_up(value: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-value // divisor)


def round_up(value: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return divide_up(value, unit) * unit
