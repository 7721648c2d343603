"""Runs VGG-like networks on CPUs by Winograd's algorithm: 3 x 3 convolutions with stride 1, ReLU, 2 x 2 max pooling."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import joblib
import numpy as np

from featurize.engines.keras_graph import Call, calls, image_source, unsupported
from featurize.engines.winograd.kernels import LANES, LINE, ROWS, WIDTH, convolve, matrices
from featurize.networks import Backbone, preprocessed

GROUP_BYTES = 1 << 27
"""Images are taken in groups whose first maps take this much, which bounds the memory."""
CACHE_BYTES = 600_000
"""A thread takes as many tiles at a time as fit into its share of the cache beside some of u (measured)."""
U_BYTES_PER_TILE = 250_000
"""But at least so many that each makes up for reading that much of u (measured)."""
PARTS = 4
"""So many parts of a pass for each thread."""


@dataclass(frozen=True)
class Stage:
    """A pass over the maps: a convolution with the ReLU and the pooling behind it, or a pooling alone.

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


def winograd_engine(backbone: Backbone) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Winograd's algorithm on all physical cores, in float32: an `engine.Engine`.

    Raises:
        UsageError: the network has a layer that is not one of a VGG.
    """
    return chain_engine(stages(backbone.model, backbone.layers), backbone)


def chain_engine(chain: list[Stage], backbone: Backbone) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The same for a chain that is at hand; the backbone's model is not looked at."""
    return _Network(chain, backbone, joblib.cpu_count(only_physical_cores=True)).run


def stages(model: Any, layers: Sequence[str]) -> list[Stage]:
    """The network as a chain of passes; a layer in `layers` ends one, so that its output can be seen.

    Raises:
        UsageError: a layer that is not one of a VGG; the message names it.
    """
    chain: list[Stage] = []
    before = image_source(model)
    for call in calls(model):
        if [source for source, _ in call.inputs] != [before]:
            raise unsupported(call.layer, "branches are not")
        before, name = call.output, call.layer.name
        last = chain[-1] if chain and chain[-1].name not in layers else None
        if call.kind == "Conv2D":
            chain.append(_convolution(call))
        elif _is_relu(call) and last and last.kernel is not None and not last.pool:
            chain[-1] = replace(last, name=name, relu=True)
        elif _is_pooling(call) and last and last.kernel is not None and not last.pool and len(chain) > 1:
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
    """A stage made ready.

    Attributes:
        stage: what it does.
        side: of its input maps, in pixels.
        m: outputs of a tile.
        u: transformed weights (K, co / WIDTH, ci, WIDTH), empty for a pooling alone.
        bias: (co,), empty for a pooling alone.
    """

    stage: Stage
    side: int
    m: int
    u: np.ndarray
    bias: np.ndarray


class _Network:
    """The passes, and work space that all calls share: one call at a time."""

    def __init__(self, chain: list[Stage], backbone: Backbone, threads: int) -> None:
        self.backbone, self.threads = backbone, threads
        self.workers = ThreadPoolExecutor(threads)
        self.spaces: dict[object, np.ndarray] = {}
        self.passes: list[_Pass] = []
        side = backbone.image_size
        for stage in chain:
            # The three channels of images make too little of a product each: they are gathered into one.
            m = 1 if not self.passes else 2 if side <= 2 else 4
            self.passes.append(_Pass(stage, side, m, *_transformed(stage, m)))
            side = side // 2 if stage.pool else side

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """uint8 (n, size, size, 3) -> one float32 activation (n, h, w, c) per tapped layer."""
        group = max(self.threads, GROUP_BYTES // (4 * images[0].size // 3 * len(self.passes[0].bias)))
        parts = [self._run_group(images[start : start + group]) for start in range(0, len(images), group)]
        return [np.concatenate(tap) if len(tap) > 1 else tap[0] for tap in zip(*parts, strict=True)]

    def _run_group(self, images: np.ndarray) -> list[np.ndarray]:
        count, side = len(images), images.shape[1]
        x = self._space("images", count, side + 2, side + 2, 3)
        self._share(partial(_fill, x, images, self.backbone.preprocess), count)
        found, channels = {}, 0
        for number, each in enumerate(self.passes):
            stage = each.stage
            side = each.side // 2 if stage.pool else each.side
            channels = channels if stage.kernel is None else stage.kernel.shape[3]
            room = max(side + 3, _up(side, 4) + 2)  # for whole tiles of 4 and of 2
            y = self._space(number % 2, count, room, room, _up(channels, WIDTH))
            if stage.kernel is None:
                self._share(partial(_pool, x, y, side), count)
            else:
                self._convolve(each, x, y)
            self._share(partial(_clear_border, y, side), count)
            if stage.name in self.backbone.layers:
                found[stage.name] = y[:, 1 : side + 1, 1 : side + 1, :channels].copy()
            x = y
        return [found[layer] for layer in self.backbone.layers]

    def _convolve(self, each: _Pass, x: np.ndarray, y: np.ndarray) -> None:
        """Write y (n, H', W', co) from x (n, H, W, ci)."""
        u, m = each.u, each.m
        (k, _, ci, _), co = u.shape, len(each.bias)
        in_row = _up(each.side, m) // m
        tiles = len(x) * in_row**2
        offsets = np.arange(0, 4 * ci, LINE)
        if m == 1:  # three pixels of three rows, each row with some numbers too many, whose weights are zero
            offsets = np.add.outer(np.arange(3) * x.strides[1], np.arange(0, 4 * ci // 3, LINE)).ravel()
        floor = np.full(LANES, 0 if each.stage.relu else -np.inf, np.float32)
        block = _up(int(max(CACHE_BYTES / (4 * k * (ci + co)), u.nbytes / U_BYTES_PER_TILE)), ROWS)
        few = tiles < co  # then u is the larger operand: a thread takes some of its channels, for all tiles

        def task(thread: int, start: int, stop: int) -> None:
            (first, last), (left, right) = ((0, tiles), (start, stop)) if few else ((start, stop), (0, co))
            panels = _up(min(block, last - first), ROWS) // ROWS
            # LANES more, so that not all of the k lie in the same lines of the cache.
            v = self._space(("v", thread), panels, k, ci * ROWS + LANES)
            p = self._space(("p", thread), panels, k, (right - left) * ROWS + LANES)
            part, bias = u[:, left // WIDTH : right // WIDTH], each.bias[left:right]
            out = y[..., left:right]
            convolve(x, offsets, part, bias, floor, each.stage.pool, out, m, in_row, first, last, v, p)

        if few:
            self._share(task, co, WIDTH, least=co)
        else:
            self._share(task, tiles, ROWS, least=block)

    def _share(self, task: Callable[[int, int, int], None], size: int, unit: int = 1, least: int = 1) -> None:
        """Run task(thread, start, stop) for parts of range(size): multiples of `unit`, of `least` if there is enough.

        A thread takes the next part when it has done one: another process, or our own decoding of the
        next images, may hold one of them up.
        """
        step = _up(max(least, -(-size // (PARTS * self.threads))), unit)
        step = min(step, _up(-(-size // self.threads), unit))
        parts = iter([(start, min(start + step, size)) for start in range(0, size, step)])

        def work(thread: int) -> None:
            for start, stop in parts:
                task(thread, start, stop)

        list(self.workers.map(work, range(self.threads)))

    def _space(self, name: object, *shape: int) -> np.ndarray:
        """Work space of that name, kept and grown; LANES numbers more than its shape may be read."""
        size = int(np.prod(shape)) + LANES
        if name not in self.spaces or self.spaces[name].size < size:
            self.spaces[name] = _aligned(size)
        return self.spaces[name][: size - LANES].reshape(shape)


def _transformed(stage: Stage, m: int) -> tuple[np.ndarray, np.ndarray]:
    """G g G^T as u (K, co / WIDTH, ci, WIDTH) and bias (co,), with channels that are zero to make whole vectors."""
    if stage.kernel is None or stage.bias is None:
        return np.zeros(0), np.zeros(0)
    _, _, ci, co = stage.kernel.shape
    if m == 1:
        rows = stage.kernel.reshape(3, 3 * ci, co)
        u = np.pad(rows, ((0, 0), (0, -3 * ci % LANES), (0, -co % WIDTH))).reshape(1, -1, _up(co, WIDTH))
    else:
        _, g, _ = matrices(m)
        kernel = np.pad(stage.kernel, ((0, 0), (0, 0), (0, -ci % WIDTH), (0, -co % WIDTH)))
        u = (np.kron(g, g) @ kernel.reshape(9, -1).astype(float)).reshape(-1, *kernel.shape[2:])
    result, bias = _aligned(len(u), u.shape[2] // WIDTH, u.shape[1], WIDTH), _aligned(u.shape[2])
    result[...] = u.reshape(*u.shape[:2], -1, WIDTH).swapaxes(1, 2)
    bias[:co] = stage.bias
    return result, bias


def _aligned(*shape: int) -> np.ndarray:
    """Zeros, float32, from the start of a huge page on: few address look-ups, and no vector in two cache lines."""
    size, page = 4 * int(np.prod(shape)), 1 << 21
    raw = np.empty(size + 3 * page, np.uint8)  # numpy asks for huge pages from 4 MiB on
    start = -raw.ctypes.data % page
    result = raw[start : start + size].view(np.float32).reshape(shape)
    result.fill(0)
    return result


def _fill(x: np.ndarray, images: np.ndarray, preprocess: str, _: int, start: int, stop: int) -> None:
    """Images as the first maps, inside a border that stays zero."""
    x[start:stop, 1:-1, 1:-1] = preprocessed(images[start:stop].astype(np.float32), preprocess)


def _pool(x: np.ndarray, y: np.ndarray, side: int, _: int, start: int, stop: int) -> None:
    """The 2 x 2 maxima of x as the side x side inside of y."""
    inside, out = x[start:stop, 1 : 2 * side + 1, 1 : 2 * side + 1], y[start:stop, 1 : side + 1, 1 : side + 1]
    np.maximum(inside[:, ::2, ::2], inside[:, ::2, 1::2], out=out)
    np.maximum(out, inside[:, 1::2, ::2], out=out)
    np.maximum(out, inside[:, 1::2, 1::2], out=out)


def _clear_border(y: np.ndarray, side: int, _: int, start: int, stop: int) -> None:
    """Zeros around the side x side inside of y, as far as the next pass reads."""
    end, maps = _up(side, 4) + 2, y[start:stop]
    maps[:, 0], maps[:, side + 1 : end], maps[:, :, 0], maps[:, :, side + 1 : end] = 0, 0, 0, 0


def _up(value: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-value // unit) * unit
