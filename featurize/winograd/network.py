"""VGG-like networks on CPUs by Winograd's algorithm: 3 x 3 convolutions with stride 1, ReLU, 2 x 2 max pooling.

The letters m, u, v, p and K are those of `kernels`, which explains the algorithm.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import joblib
import numpy as np

from featurize.core.errors import UsageError
from featurize.networks import Backbone, preprocessed
from featurize.winograd.calibration import Scales
from featurize.winograd.emit import LINE
from featurize.winograd.kernels import BESIDE, Layer, convolver
from featurize.winograd.passes import Pass, aligned, divide_up, prepared, round_up, tiles_at_once
from featurize.winograd.processor import LANES, missing_instruction
from featurize.winograd.product import ROWS, WIDTH
from featurize.winograd.rounding import to_float32
from featurize.winograd.stages import Stage, stages

Engine = Callable[[np.ndarray], list[np.ndarray]]
"""uint8 (n, size, size, 3) RGB -> one float32 activation for each tapped layer, as `engines.Engine`."""
GROUP_BYTES = 1 << 27
"""Images are processed together up to these many bytes of the first activation. That bounds the memory."""
CALIBRATED_TOGETHER = 4
"""Images whose activations are held at once while the scales of int8 are found."""
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
    return _Network(chain, backbone, precision, joblib.cpu_count(only_physical_cores=True)).run


def calibrated(chain: list[Stage], backbone: Backbone, images: np.ndarray) -> list[Stage]:
    """The chain with the scales that int8 needs: each convolution's `scales`, from its maps for some images.

    They depend on the images only, not on their order or the threads.

    Args:
        chain: the stages.
        backbone: its image size and preprocessing are used, not its model.
        images: uint8 (n, size, size, 3).
    """
    names = tuple(stage.name for stage in chain)
    run = chain_engine(chain, replace(backbone, layers=names))
    seen = [Scales(stage) for stage in chain]
    for start in range(0, len(images), CALIBRATED_TOGETHER):
        inputs: np.ndarray | None = None
        for scales, outputs in zip(seen, run(images[start : start + CALIBRATED_TOGETHER]), strict=True):
            scales.see(inputs, outputs)
            inputs = outputs
    result = []
    scale = 1.0  # of the inputs
    for stage, scales in zip(chain, seen, strict=True):
        if stage.kernel is not None:
            numbers = scales.array(scale)
            stage = replace(stage, scales=numbers)
            scale = float(numbers[0])
        result.append(stage)
    return result


class _Network:
    """The passes, and buffers that all calls share: one call at a time."""

    def __init__(self, chain: list[Stage], backbone: Backbone, precision: str, threads: int) -> None:
        self.backbone = backbone
        self.threads = threads
        self.workers = ThreadPoolExecutor(threads)
        self.buffers: dict[object, np.ndarray] = {}
        self.passes = prepared(chain, backbone.image_size, precision)
        for each in self.passes:
            if each.layer is not None:
                convolver(each.inputs.kind, each.products, each.outputs.kind)  # compiles it, or reads the cache

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """uint8 (n, size, size, 3) -> one float32 activation (n, h, w, c) per tapped layer."""
        bytes_per_image = 4 * self.backbone.image_size**2 * self.passes[0].outputs.filled
        group = max(self.threads, GROUP_BYTES // bytes_per_image)
        parts = [self._run_group(images[start : start + group]) for start in range(0, len(images), group)]
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(activations) for activations in zip(*parts, strict=True)]

    def _run_group(self, images: np.ndarray) -> list[np.ndarray]:
        count, size, _, _ = images.shape
        x = self._buffer("images", "float32", count, size + 2, size + 2, 3)
        self._share(partial(_fill, x, images, self.backbone.preprocess), count)
        tapped = {}
        for index, each in enumerate(self.passes):
            # Two buffers take turns: a pass reads one and writes the other.
            y = self._buffer(index % 2, each.outputs.kind, count, *each.buffer_shape)
            side = each.output_side
            if each.layer is None:
                self._share(partial(_pool, x, y, side), count)
            else:
                self._convolve(each, x, y)
            # The buffer may hold another pass's numbers there, and tiles may have written beyond the maps.
            self._share(partial(_clear_border, y, side), count)
            if each.stage.name in self.backbone.layers:
                inside = y[:, 1 : side + 1, 1 : side + 1, : each.outputs.channels]
                tapped[each.stage.name] = to_float32(inside, each.outputs.scale)
            x = y
        return [tapped[layer] for layer in self.backbone.layers]

    def _convolve(self, each: Pass, x: np.ndarray, y: np.ndarray) -> None:
        """Write y (n, H', W', co) from x (n, H, W, ci).

        The threads share either the tiles or, if there are fewer tiles than output channels, the channels.
        """
        assert each.layer is not None
        tiles = len(x) * divide_up(each.side, each.layer.m) ** 2
        outputs = each.outputs.filled

        def convolve_tiles(thread: int, start: int, stop: int) -> None:
            self._convolve_part(each, x, y, thread, (start, stop), (0, outputs))

        def convolve_channels(thread: int, start: int, stop: int) -> None:
            self._convolve_part(each, x, y, thread, (0, tiles), (start, stop))

        if tiles < outputs:
            # The weights are the larger operand. So each thread reads its own part of them, once.
            self._share(convolve_channels, outputs, WIDTH, least=outputs)
        else:
            self._share(convolve_tiles, tiles, ROWS, least=tiles_at_once(each.layer))

    def _convolve_part(
        self,
        each: Pass,
        x: np.ndarray,
        y: np.ndarray,
        thread: int,
        tiles: tuple[int, int],
        channels: tuple[int, int],
    ) -> None:
        """Write a range of tiles and a range of output channels, in buffers of the thread's own."""
        assert each.layer is not None
        first, last = tiles
        left, right = channels
        layer = _part(each.layer, left, right)
        depth, _, groups, width = layer.u.shape
        _, sums = BESIDE[each.products]
        panels = divide_up(min(tiles_at_once(each.layer), last - first), ROWS)
        # A gap of a vector between the K slices: at a power of two they would compete for the same cache lines.
        v = self._buffer(("v", thread), each.products, panels, depth, width // WIDTH * (groups * ROWS + LANES))
        p = self._buffer(("p", thread), sums, panels, depth, (right - left) * ROWS + LANES)
        convolve = convolver(each.inputs.kind, each.products, each.outputs.kind)
        convolve(*layer, x, y[..., left:right], divide_up(each.side, layer.m), first, last, v, p)

    def _share(self, task: Callable[[int, int, int], None], size: int, unit: int = 1, least: int = 1) -> None:
        """Call task(thread, start, stop) for parts of range(size): multiples of `unit`, if possible of `least`.

        A thread takes the next part when it has finished one, because another process, or the decoding of
        the next images, may slow one of them down.
        """
        step = round_up(max(least, divide_up(size, PARTS * self.threads)), unit)
        # `least` must not leave a thread without work.
        step = min(step, round_up(divide_up(size, self.threads), unit))
        # All threads take from one iterator. CPython's lock makes each step of a list's iterator atomic.
        parts = iter([(start, min(start + step, size)) for start in range(0, size, step)])

        def work(thread: int) -> None:
            for start, stop in parts:
                task(thread, start, stop)

        list(self.workers.map(work, range(self.threads)))  # waits, and raises what a thread raises

    def _buffer(self, name: object, kind: str, *shape: int) -> np.ndarray:
        """A buffer that is reused, and grown if needed. The first pass may read a vector beyond its shape."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        if name not in self.buffers or self.buffers[name].size < size + LINE:
            self.buffers[name] = aligned((size + LINE,), "uint8")
        return self.buffers[name][:size].view(kind).reshape(shape)


def _part(layer: Layer, left: int, right: int) -> Layer:
    """The layer with the output channels from `left` to `right` only."""
    columns = slice(left // WIDTH, right // WIDTH)
    return layer._replace(
        u=layer.u[:, columns],
        first=layer.first[columns],
        factors=layer.factors[left:right],
        bias=layer.bias[left:right],
    )


def _fill(x: np.ndarray, images: np.ndarray, preprocess: str, _: int, start: int, stop: int) -> None:
    """Write preprocessed images into the first maps, inside a border of zeros."""
    x[start:stop, 1:-1, 1:-1] = preprocessed(images[start:stop].astype(np.float32), preprocess)


def _pool(x: np.ndarray, y: np.ndarray, side: int, _: int, start: int, stop: int) -> None:
    """Write the 2 x 2 maxima of x into the inside of y, side x side."""
    inside = x[start:stop, 1 : 2 * side + 1, 1 : 2 * side + 1]
    out = y[start:stop, 1 : side + 1, 1 : side + 1]
    if x.dtype == np.uint16:
        # In the order of bfloat16 numbers, where those with a sign bit are negative and the larger bits are lower.
        inside, out = _in_order(inside), out.view(np.int16)
    np.maximum(inside[:, ::2, ::2], inside[:, ::2, 1::2], out=out)
    np.maximum(out, inside[:, 1::2, ::2], out=out)
    np.maximum(out, inside[:, 1::2, 1::2], out=out)
    if x.dtype == np.uint16:
        out[...] = _in_order(out)


def _in_order(bits: np.ndarray) -> np.ndarray:
    """bfloat16 numbers as int16 numbers in the same order. Applied twice, it gives the same bits again."""
    numbers = bits.view(np.int16)
    return numbers ^ (numbers >> 15 & 0x7FFF)


def _clear_border(y: np.ndarray, side: int, _: int, start: int, stop: int) -> None:
    """Write zeros around the inside of y, side x side, as far as the next pass reads."""
    end = round_up(side, 4) + 2
    maps = y[start:stop]
    maps[:, 0] = 0
    maps[:, side + 1 : end] = 0
    maps[:, :, 0] = 0
    maps[:, :, side + 1 : end] = 0
