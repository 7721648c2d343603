"""Runs VGG-like networks on CPUs by Winograd's algorithm: 3 x 3 convolutions with stride 1, ReLU, 2 x 2 max pooling."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import joblib
import numpy as np

from featurize.engines.keras_graph import Call, calls, image_source, unsupported
from featurize.engines.tensorflow import Engine
from featurize.engines.winograd.kernels import LANES, LINE, ROWS, WIDTH, convolve, matrices
from featurize.networks import Backbone, preprocessed

GROUP_BYTES = 1 << 27
"""Images are processed together up to these many bytes of the first activation. That bounds the memory."""
CACHE_BYTES = 600_000
"""A thread's share of the cache for transformed tiles and products, beside some of the weights (measured)."""
WEIGHT_BYTES_PER_TILE = 250_000
"""Reading the weights from memory pays off if there is a tile for this many bytes of them (measured)."""
PARTS = 4
"""Parts of a pass for each thread."""


@dataclass(frozen=True)
class Stage:
    """One pass over the feature maps: a convolution with its ReLU and pooling, or a pooling alone.

    Attributes:
        name: of the last layer in it.
        kernel: (3, 3, ci, co); None for a pooling alone.
        bias: (co,); None for a pooling alone.
        relu: whether there is a ReLU.
        pool: whether there is a pooling.
    """

    name: str
    kernel: np.ndarray | None
    bias: np.ndarray | None
    relu: bool = False
    pool: bool = False


def winograd_engine(backbone: Backbone) -> Engine:
    """Winograd's algorithm on all physical cores, in float32.

    Raises:
        UsageError: the network has a layer that is not one of a VGG.
    """
    return chain_engine(stages(backbone.model, backbone.layers), backbone)


def chain_engine(chain: list[Stage], backbone: Backbone) -> Engine:
    """The engine that runs a chain of stages. It does not use the backbone's model."""
    return _Network(chain, backbone, joblib.cpu_count(only_physical_cores=True)).run


def stages(model: Any, layers: Sequence[str]) -> list[Stage]:
    """The network as a chain of stages. A layer in `layers` ends its stage, so that its output can be tapped.

    Raises:
        UsageError: a layer that is not one of a VGG; the message names it.
    """
    chain: list[Stage] = []
    before = image_source(model)
    for call in calls(model):
        if [source for source, _ in call.inputs] != [before]:
            raise unsupported(call.layer, "branches are not")
        before = call.output
        name = call.layer.name
        last = chain[-1] if chain else None
        open_ended = last is not None and last.name not in layers and last.kernel is not None and not last.pool
        if call.kind == "Conv2D":
            chain.append(_convolution(call))
        elif _is_relu(call) and last and open_ended:
            chain[-1] = replace(last, name=name, relu=True)
        elif _is_pooling(call) and last and open_ended and len(chain) > 1:
            chain[-1] = replace(last, name=name, pool=True)
        elif _is_pooling(call) and chain:
            chain.append(Stage(name, None, None, pool=True))
        else:
            raise unsupported(call.layer, f"a {call.kind} with these settings here is not")
    return chain


def _convolution(call: Call) -> Stage:
    layer = call.layer
    plain = (
        layer.kernel_size == (3, 3)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.padding == "same"
        and layer.groups == 1
        and layer.data_format == "channels_last"
        and layer.activation.__name__ in ("linear", "relu")
    )
    if not plain:
        raise unsupported(layer, "a convolution that is not 3 x 3, same, with stride 1 and at most a ReLU is not")
    kernel = layer.weights[0].numpy()
    bias = layer.weights[1].numpy() if layer.use_bias else np.zeros(kernel.shape[3], np.float32)
    return Stage(layer.name, kernel, bias, relu=layer.activation.__name__ == "relu")


def _is_relu(call: Call) -> bool:
    layer = call.layer
    if call.kind == "Activation":
        return bool(layer.activation.__name__ == "relu")
    return call.kind == "ReLU" and layer.max_value is None and not layer.negative_slope and not layer.threshold


def _is_pooling(call: Call) -> bool:
    layer = call.layer
    return (
        call.kind == "MaxPooling2D"
        and tuple(layer.pool_size) == tuple(layer.strides) == (2, 2)
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
    )


@dataclass(frozen=True)
class _Pass:
    """A stage, prepared for maps of one size.

    Attributes:
        stage: the layers.
        side: of its input maps, in pixels.
        m: a tile has m x m outputs.
        u: transformed weights (K, co / WIDTH, ci, WIDTH), empty for a pooling alone.
        bias: (co,), empty for a pooling alone.
    """

    stage: Stage
    side: int
    m: int
    u: np.ndarray
    bias: np.ndarray


class _Network:
    """The passes, and buffers that all calls share: one call at a time."""

    def __init__(self, chain: list[Stage], backbone: Backbone, threads: int) -> None:
        self.backbone = backbone
        self.threads = threads
        self.workers = ThreadPoolExecutor(threads)
        self.buffers: dict[object, np.ndarray] = {}
        self.passes: list[_Pass] = []
        side = backbone.image_size
        for stage in chain:
            m = _tile_size(side, first=not self.passes)
            self.passes.append(_Pass(stage, side, m, *_transformed(stage, m)))
            if stage.pool:
                side //= 2

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """uint8 (n, size, size, 3) -> one float32 activation (n, h, w, c) per tapped layer."""
        bytes_per_image = 4 * images[0].size // 3 * len(self.passes[0].bias)
        group = max(self.threads, GROUP_BYTES // bytes_per_image)
        parts = [self._run_group(images[start : start + group]) for start in range(0, len(images), group)]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(activations) for activations in zip(*parts, strict=True)]

    def _run_group(self, images: np.ndarray) -> list[np.ndarray]:
        count = len(images)
        side = images.shape[1]
        x = self._buffer("images", count, side + 2, side + 2, 3)
        self._share(partial(_fill, x, images, self.backbone.preprocess), count)
        tapped = {}
        channels = 0
        for number, each in enumerate(self.passes):
            stage = each.stage
            side = each.side // 2 if stage.pool else each.side
            if stage.kernel is not None:
                channels = stage.kernel.shape[3]
            # Whole tiles of 4 and of 2 outputs must fit, with a border of zeros: the next pass reads them.
            room = max(side + 3, _round_up(side, 4) + 2)
            # Two buffers take turns: a pass reads one and writes the other.
            y = self._buffer(number % 2, count, room, room, _round_up(channels, WIDTH))
            if stage.kernel is None:
                self._share(partial(_pool, x, y, side), count)
            else:
                self._convolve(each, x, y)
            self._share(partial(_clear_border, y, side), count)
            if stage.name in self.backbone.layers:
                tapped[stage.name] = y[:, 1 : side + 1, 1 : side + 1, :channels].copy()
            x = y
        return [tapped[layer] for layer in self.backbone.layers]

    def _convolve(self, each: _Pass, x: np.ndarray, y: np.ndarray) -> None:
        """Write y (n, H', W', co) from x (n, H, W, ci).

        The threads share either the tiles or, where there are fewer tiles than output channels, the channels.
        """
        depth, _, inputs, _ = each.u.shape
        outputs = len(each.bias)
        tiles_in_row = _round_up(each.side, each.m) // each.m
        tiles = len(x) * tiles_in_row**2
        offsets = _input_offsets(each.m, x.strides[1], inputs)
        floor = np.full(LANES, 0 if each.stage.relu else -np.inf, np.float32)
        block = _tiles_at_once(each.u, outputs)

        def convolve_part(thread: int, tile_range: tuple[int, int], channel_range: tuple[int, int]) -> None:
            first, last = tile_range
            left, right = channel_range
            panels = _round_up(min(block, last - first), ROWS) // ROWS
            # A gap of LANES between the K slices: at a power of two they would compete for the same cache lines.
            v = self._buffer(("v", thread), panels, depth, inputs * ROWS + LANES)
            p = self._buffer(("p", thread), panels, depth, (right - left) * ROWS + LANES)
            u = each.u[:, left // WIDTH : right // WIDTH]
            bias = each.bias[left:right]
            target = y[..., left:right]
            convolve(
                x, offsets, u, bias, floor, each.stage.pool, target, each.m, tiles_in_row, first, last, v, p
            )  # fmt: skip

        def convolve_tiles(thread: int, start: int, stop: int) -> None:
            convolve_part(thread, (start, stop), (0, outputs))

        def convolve_channels(thread: int, start: int, stop: int) -> None:
            convolve_part(thread, (0, tiles), (start, stop))

        if tiles < outputs:
            # The weights are the larger operand. So each thread reads its own part of them, once.
            self._share(convolve_channels, outputs, WIDTH, least=outputs)
        else:
            self._share(convolve_tiles, tiles, ROWS, least=block)

    def _share(self, task: Callable[[int, int, int], None], size: int, unit: int = 1, least: int = 1) -> None:
        """Call task(thread, start, stop) for parts of range(size): multiples of `unit`, if possible of `least`.

        A thread takes the next part when it has finished one, because another process, or the decoding of
        the next images, may slow one of them down.
        """
        step = _round_up(max(least, _divide_up(size, PARTS * self.threads)), unit)
        step = min(step, _round_up(_divide_up(size, self.threads), unit))
        parts = iter([(start, min(start + step, size)) for start in range(0, size, step)])

        def work(thread: int) -> None:
            for start, stop in parts:
                task(thread, start, stop)

        list(self.workers.map(work, range(self.threads)))

    def _buffer(self, name: object, *shape: int) -> np.ndarray:
        """A buffer that is reused, and grown if needed. LANES numbers beyond its shape may be read."""
        size = int(np.prod(shape)) + LANES
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = _aligned(size)
        return self.buffers[name][: size - LANES].reshape(shape)


def _tile_size(side: int, *, first: bool) -> int:
    """The outputs of a tile in a row, for maps of `side` pixels."""
    if first:
        return 1  # three channels are too few for a matrix product: all 27 numbers of a pixel are gathered
    return 2 if side <= 2 else 4


def _input_offsets(m: int, row_bytes: int, inputs: int) -> np.ndarray:
    """Where each vector of a tile's first pixel begins, in bytes.

    For m = 1 it is three pixels in each of three rows. Each row reads some numbers too many, whose weights
    are zero.
    """
    if m > 1:
        return np.arange(0, 4 * inputs, LINE)
    in_row = np.arange(0, 4 * inputs // 3, LINE)
    return np.add.outer(np.arange(3) * row_bytes, in_row).ravel()


def _tiles_at_once(u: np.ndarray, outputs: int) -> int:
    """The tiles that a thread processes at once: few enough for the cache, and enough to be worth reading u."""
    depth, _, inputs, _ = u.shape
    bytes_per_tile = 4 * depth * (inputs + outputs)
    return _round_up(int(max(CACHE_BYTES / bytes_per_tile, u.nbytes / WEIGHT_BYTES_PER_TILE)), ROWS)


def _transformed(stage: Stage, m: int) -> tuple[np.ndarray, np.ndarray]:
    """G g G^T as u (K, co / WIDTH, ci, WIDTH), and the bias (co,); zero channels are added to fill vectors."""
    if stage.kernel is None or stage.bias is None:
        return np.zeros(0), np.zeros(0)
    _, _, inputs, outputs = stage.kernel.shape
    if m == 1:
        rows = stage.kernel.reshape(3, 3 * inputs, outputs)
        padded = np.pad(rows, ((0, 0), (0, -3 * inputs % LANES), (0, -outputs % WIDTH)))
        u = padded.reshape(1, -1, padded.shape[2])
    else:
        _, g, _ = matrices(m)
        padded = np.pad(stage.kernel, ((0, 0), (0, 0), (0, -inputs % WIDTH), (0, -outputs % WIDTH)))
        # G g G^T for all channels at once, in float64 so that the weights lose nothing.
        u = (np.kron(g, g) @ padded.reshape(9, -1).astype(float)).reshape(-1, *padded.shape[2:])
    depth, inputs, columns = u.shape
    result = _aligned(depth, columns // WIDTH, inputs, WIDTH)
    result[...] = u.reshape(depth, inputs, -1, WIDTH).swapaxes(1, 2)
    bias = _aligned(columns)
    bias[:outputs] = stage.bias
    return result, bias


def _aligned(*shape: int) -> np.ndarray:
    """Zeros, float32, that begin at a huge page: few address look-ups, and no vector across two cache lines."""
    size, page = 4 * int(np.prod(shape)), 1 << 21
    raw = np.empty(size + 3 * page, np.uint8)  # numpy asks for huge pages from 4 MiB on
    start = -raw.ctypes.data % page
    result = raw[start : start + size].view(np.float32).reshape(shape)
    result.fill(0)
    return result


def _fill(x: np.ndarray, images: np.ndarray, preprocess: str, _: int, start: int, stop: int) -> None:
    """Write preprocessed images into the first maps, inside a border of zeros."""
    x[start:stop, 1:-1, 1:-1] = preprocessed(images[start:stop].astype(np.float32), preprocess)


def _pool(x: np.ndarray, y: np.ndarray, side: int, _: int, start: int, stop: int) -> None:
    """Write the 2 x 2 maxima of x into the inside of y, side x side."""
    inside = x[start:stop, 1 : 2 * side + 1, 1 : 2 * side + 1]
    out = y[start:stop, 1 : side + 1, 1 : side + 1]
    np.maximum(inside[:, ::2, ::2], inside[:, ::2, 1::2], out=out)
    np.maximum(out, inside[:, 1::2, ::2], out=out)
    np.maximum(out, inside[:, 1::2, 1::2], out=out)


def _clear_border(y: np.ndarray, side: int, _: int, start: int, stop: int) -> None:
    """Write zeros around the inside of y, side x side, as far as the next pass reads."""
    end = _round_up(side, 4) + 2
    maps = y[start:stop]
    maps[:, 0] = 0
    maps[:, side + 1 : end] = 0
    maps[:, :, 0] = 0
    maps[:, :, side + 1 : end] = 0


def _divide_up(value: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-value // divisor)


def _round_up(value: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return _divide_up(value, unit) * unit
