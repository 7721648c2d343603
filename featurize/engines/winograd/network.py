"""VGG-like networks on CPUs by Winograd's algorithm: 3 x 3 convolutions with stride 1, ReLU, 2 x 2 max pooling.

The letters m, u, v, p and K are those of `kernels`, which explains the algorithm.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import joblib
import numpy as np

from featurize.core.errors import UsageError
from featurize.engines.tensorflow import Engine
from featurize.engines.winograd.kernels import LINE, ROWS, WIDTH, convolve, matrices
from featurize.engines.winograd.processor import LANES, missing_instruction
from featurize.engines.winograd.stages import Stage, stages
from featurize.networks import Backbone, preprocessed

GROUP_BYTES = 1 << 27
"""Images are processed together up to these many bytes of the first activation. That bounds the memory."""
CACHE_BYTES = 600_000
"""A thread's share of the processor's cache for v and p, beside some of the weights (measured)."""
WEIGHT_BYTES_PER_TILE = 250_000
"""A block of tiles reads all weights from memory. That pays off with a tile per this many bytes of them (measured)."""
PARTS = 4
"""Parts of a pass for each thread."""


def winograd_engine(backbone: Backbone, precision: str = "float32", images: np.ndarray | None = None) -> Engine:
    """Winograd's algorithm on all physical cores.

    Args:
        backbone: a network of the VGG kind.
        precision: of the products: float32, bfloat16 or int8. Sums are float32 or int32.
        images: uint8 (n, size, size, 3), some of the user's images, from which int8 takes its scales.

    Raises:
        UsageError: the network has a layer that is not one of a VGG, the processor lacks an instruction, or int8
            has no images.
    """
    chain = stages(backbone.model, backbone.layers)
    if precision == "int8":
        if images is None:
            raise UsageError("precision int8: no images to take the scales from; pass images")
        chain = calibrated(chain, backbone, images)
    return chain_engine(chain, backbone, precision)


def chain_engine(chain: list[Stage], backbone: Backbone, precision: str = "float32") -> Engine:
    """The engine that runs a chain of stages, for int8 one from `calibrated`. It does not use the backbone's model.

    Raises:
        UsageError: the processor lacks an instruction that the precision needs.
    """
    missing = missing_instruction(precision)
    if missing:
        raise UsageError(f"precision {precision}: this processor has no {missing}; choose --precision float32")
    if precision != "float32":
        raise UsageError(f"precision {precision}: not supported by this engine yet; choose --precision float32")
    return _Network(chain, backbone, joblib.cpu_count(only_physical_cores=True)).run


def calibrated(chain: list[Stage], backbone: Backbone, images: np.ndarray) -> list[Stage]:
    """The chain with the scales that int8 needs: each stage's `scales`, from its inputs for some images.

    They depend on the images and their order only, not on the threads.

    Args:
        chain: the stages.
        backbone: its image size and preprocessing are used, not its model.
        images: uint8 (n, size, size, 3).
    """
    raise UsageError("precision int8: not supported by this engine yet; choose --precision float32")


@dataclass(frozen=True)
class _Pass:
    """A stage, prepared for maps of one size.

    Attributes:
        stage: the layers.
        side: height and width of its input maps.
        channels: of its output maps.
        m: a tile has m x m outputs.
        u: transformed weights (K, co / WIDTH, ci, WIDTH), empty for a pooling alone.
        bias: (co,), empty for a pooling alone.
        floor: (LANES,), the lowest output.
    """

    stage: Stage
    side: int
    channels: int
    m: int
    u: np.ndarray
    bias: np.ndarray
    floor: np.ndarray

    @property
    def output_side(self) -> int:
        """Height and width of the output maps."""
        return self.side // 2 if self.stage.pool else self.side

    @property
    def buffer_shape(self) -> tuple[int, int, int]:
        """The shape of an output map in its buffer.

        The next pass reads whole tiles of 2 or 4 outputs, with a border of zeros around them. So they must fit.
        """
        side = max(self.output_side + 3, _round_up(self.output_side, 4) + 2)
        return side, side, _round_up(self.channels, WIDTH)

    @property
    def tiles_in_row(self) -> int:
        """The tiles in a row of a map, and in a column."""
        return _divide_up(self.side, self.m)

    @property
    def tiles_at_once(self) -> int:
        """The tiles that a thread processes at once: few enough for the cache, enough to be worth reading u."""
        depth, _, inputs, _ = self.u.shape
        bytes_per_tile = 4 * depth * (inputs + len(self.bias))
        cached = CACHE_BYTES / bytes_per_tile
        worthwhile = self.u.nbytes / WEIGHT_BYTES_PER_TILE
        return _round_up(int(max(cached, worthwhile)), ROWS)


class _Network:
    """The passes, and buffers that all calls share: one call at a time."""

    def __init__(self, chain: list[Stage], backbone: Backbone, threads: int) -> None:
        self.backbone = backbone
        self.threads = threads
        self.workers = ThreadPoolExecutor(threads)
        self.buffers: dict[object, np.ndarray] = {}
        self.passes = _prepared(chain, backbone.image_size)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """uint8 (n, size, size, 3) -> one float32 activation (n, h, w, c) per tapped layer."""
        bytes_per_image = 4 * self.backbone.image_size**2 * len(self.passes[0].bias)
        group = max(self.threads, GROUP_BYTES // bytes_per_image)
        parts = [self._run_group(images[start : start + group]) for start in range(0, len(images), group)]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(activations) for activations in zip(*parts, strict=True)]

    def _run_group(self, images: np.ndarray) -> list[np.ndarray]:
        count, size, _, _ = images.shape
        x = self._buffer("images", count, size + 2, size + 2, 3)
        self._share(partial(_fill, x, images, self.backbone.preprocess), count)
        tapped = {}
        for index, each in enumerate(self.passes):
            # Two buffers take turns: a pass reads one and writes the other.
            y = self._buffer(index % 2, count, *each.buffer_shape)
            side = each.output_side
            if each.stage.kernel is None:
                self._share(partial(_pool, x, y, side), count)
            else:
                self._convolve(each, x, y)
            # The buffer may hold another pass's numbers there, and tiles may have written beyond the maps.
            self._share(partial(_clear_border, y, side), count)
            if each.stage.name in self.backbone.layers:
                tapped[each.stage.name] = y[:, 1 : side + 1, 1 : side + 1, : each.channels].copy()
            x = y
        return [tapped[layer] for layer in self.backbone.layers]

    def _convolve(self, each: _Pass, x: np.ndarray, y: np.ndarray) -> None:
        """Write y (n, H', W', co) from x (n, H, W, ci).

        The threads share either the tiles or, if there are fewer tiles than output channels, the channels.
        """
        tiles = len(x) * each.tiles_in_row**2
        outputs = len(each.bias)

        def convolve_tiles(thread: int, start: int, stop: int) -> None:
            self._convolve_part(each, x, y, thread, (start, stop), (0, outputs))

        def convolve_channels(thread: int, start: int, stop: int) -> None:
            self._convolve_part(each, x, y, thread, (0, tiles), (start, stop))

        if tiles < outputs:
            # The weights are the larger operand. So each thread reads its own part of them, once.
            self._share(convolve_channels, outputs, WIDTH, least=outputs)
        else:
            self._share(convolve_tiles, tiles, ROWS, least=each.tiles_at_once)

    def _convolve_part(
        self,
        each: _Pass,
        x: np.ndarray,
        y: np.ndarray,
        thread: int,
        tiles: tuple[int, int],
        channels: tuple[int, int],
    ) -> None:
        """Write a range of tiles and a range of output channels, in buffers of the thread's own."""
        first, last = tiles
        left, right = channels
        depth, _, inputs, _ = each.u.shape
        panels = _divide_up(min(each.tiles_at_once, last - first), ROWS)
        # A gap of LANES between the K slices: at a power of two they would compete for the same cache lines.
        v = self._buffer(("v", thread), panels, depth, inputs * ROWS + LANES)
        p = self._buffer(("p", thread), panels, depth, (right - left) * ROWS + LANES)
        offsets = _input_offsets(each.m, x.strides[1], inputs)
        u = each.u[:, left // WIDTH : right // WIDTH]
        bias = each.bias[left:right]
        target = y[..., left:right]
        convolve(
            x, offsets, u, bias, each.floor, each.stage.pool, target, each.m, each.tiles_in_row, first, last, v, p
        )  # fmt: skip

    def _share(self, task: Callable[[int, int, int], None], size: int, unit: int = 1, least: int = 1) -> None:
        """Call task(thread, start, stop) for parts of range(size): multiples of `unit`, if possible of `least`.

        A thread takes the next part when it has finished one, because another process, or the decoding of
        the next images, may slow one of them down.
        """
        step = _round_up(max(least, _divide_up(size, PARTS * self.threads)), unit)
        # `least` must not leave a thread without work.
        step = min(step, _round_up(_divide_up(size, self.threads), unit))
        # All threads take from one iterator. CPython's lock makes each step of a list's iterator atomic.
        parts = iter([(start, min(start + step, size)) for start in range(0, size, step)])

        def work(thread: int) -> None:
            for start, stop in parts:
                task(thread, start, stop)

        list(self.workers.map(work, range(self.threads)))  # waits, and raises what a thread raises

    def _buffer(self, name: object, *shape: int) -> np.ndarray:
        """A buffer that is reused, and grown if needed. The first pass may read LANES numbers beyond its shape."""
        size = int(np.prod(shape)) + LANES
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = _aligned(size)
        return self.buffers[name][: size - LANES].reshape(shape)


def _prepared(chain: list[Stage], side: int) -> list[_Pass]:
    """The passes of a chain, for images of `side` x `side` pixels."""
    passes: list[_Pass] = []
    channels = 3
    for stage in chain:
        if stage.kernel is not None:
            channels = stage.kernel.shape[3]
        m = _tile_size(side, first=not passes)
        floor = np.full(LANES, 0 if stage.relu else -np.inf, np.float32)
        passes.append(_Pass(stage, side, channels, m, _transformed(stage, m), _padded_bias(stage), floor))
        side = passes[-1].output_side
    return passes


def _tile_size(side: int, *, first: bool) -> int:
    """The outputs of a tile in a row, for maps of `side` pixels."""
    if first:
        return 1  # three channels are too few for a matrix product: all 27 numbers of a pixel are gathered
    return 2 if side <= 2 else 4


def _input_offsets(m: int, row_bytes: int, inputs: int) -> np.ndarray:
    """The offset in bytes of each vector of a tile's first pixel.

    For m = 1 the vectors cover three pixels in each of three rows. They also read a few numbers beyond, whose
    weights are zero.
    """
    if m > 1:
        return np.arange(0, 4 * inputs, LINE)
    in_row = np.arange(0, 4 * inputs // 3, LINE)
    return np.add.outer(np.arange(3) * row_bytes, in_row).ravel()


def _transformed(stage: Stage, m: int) -> np.ndarray:
    """G g G^T as u (K, co / WIDTH, ci, WIDTH); zero channels are added to fill vectors."""
    if stage.kernel is None:
        return np.zeros(0)
    _, _, inputs, outputs = stage.kernel.shape
    if m == 1:
        # One product of a pixel's neighbourhood: three rows of three pixels, each filled up to whole vectors.
        rows = stage.kernel.reshape(3, 3 * inputs, outputs)
        padded = np.pad(rows, ((0, 0), (0, -3 * inputs % LANES), (0, -outputs % WIDTH)))
        u = padded.reshape(1, -1, padded.shape[2])
    else:
        _, g, _ = matrices(m)
        padded = np.pad(stage.kernel, ((0, 0), (0, 0), (0, -inputs % WIDTH), (0, -outputs % WIDTH)))
        # G g G^T for all channels at once, in float64 so that the weights lose nothing.
        u = (np.kron(g, g) @ padded.reshape(9, -1).astype(float)).reshape(-1, *padded.shape[2:])
    depth, inputs, columns = u.shape
    # The matrix product reads WIDTH columns of all inputs, one input after the other.
    result = _aligned(depth, columns // WIDTH, inputs, WIDTH)
    result[...] = u.reshape(depth, inputs, -1, WIDTH).swapaxes(1, 2)
    return result


def _padded_bias(stage: Stage) -> np.ndarray:
    """The bias (co,), with zeros for the channels that fill vectors."""
    if stage.bias is None:
        return np.zeros(0)
    outputs = len(stage.bias)
    bias = _aligned(_round_up(outputs, WIDTH))
    bias[:outputs] = stage.bias
    return bias


def _aligned(*shape: int) -> np.ndarray:
    """Zeros, float32, that start at a huge page: few TLB misses, and no vector across two cache lines."""
    size = 4 * int(np.prod(shape))
    page = 1 << 21
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
