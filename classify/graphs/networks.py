"""Frozen networks as nodes of an ONNX graph: preprocessing, network, pooling, mirror averaging.

tf2onnx (https://github.com/onnx/tensorflow-onnx) converts Keras networks; those of ONNX files are taken as they are.
"""

import logging
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from classify.graphs.graph import OPSET, Graph
from featurize.cache import ExtractionSpec
from featurize.core.environment import silenced
from featurize.core.errors import BackboneError, UsageError, first_line
from featurize.engines.tensorflow import frozen_graph
from featurize.networks import Backbone, pooled, preprocessed
from featurize.networks.onnx_file import cut
from featurize.runtimes.onnx_files import has_channels_first, onnx_runtime_outputs

GRIDS = ("avg", "grid2", "grid4", "cls")
"""The poolings that are weighted means."""


class Tap(NamedTuple):
    """An activation: the tensor, float32, and its shape without the images: (h, w, c), (tokens, c) or (c,)."""

    name: str
    shape: tuple[int, ...]


def batch_of(backbone: Backbone) -> int | None:
    """The only number of images that the network takes at once; None for any."""
    return None if backbone.graph is None else backbone.graph.images.batch


def add_network(graph: Graph, backbone: Backbone, spec: ExtractionSpec, layers: list[str], images: str) -> str:
    """Add a network from pixels to vectors.

    Args:
        graph: gets the nodes.
        backbone: of `spec`.
        spec: what the vectors are.
        layers: those of the vectors, among the layers of `spec`.
        images: the tensor with the images, uint8 (n, size, size, 3).

    Returns:
        The tensor with the vectors, float32 (n, d).

    Raises:
        UsageError: the network takes a fixed number of images, so that mirror images cannot be added.
        BackboneError: the network cannot be converted.
    """
    if spec.flip:
        if batch_of(backbone):
            raise UsageError(
                f"{backbone.name} takes {batch_of(backbone)} images at once, and no mirror images with them: export "
                "the network for any number of images, or make the features with --no-flip"
            )
        turned = graph.columns(images, _reversed(spec.image_size), axis=2)
        images = graph.add("Concat", images, turned, axis=0)
    wanted = [layer for layer in spec.layers if layer in layers]
    if backbone.graph is not None:
        taps = _of_onnx_file(graph, backbone, wanted, images)
    elif backbone.model is not None:
        taps = _of_keras(graph, backbone, wanted, images)
    else:
        taps = [Tap(graph.cast(images, "float32"), (spec.image_size, spec.image_size, 3))]
    parts = [_vectors(graph, tap, spec) for tap in taps]
    vectors = graph.add("Concat", *parts, axis=1)
    if spec.dtype != "float32":  # as they are stored
        vectors = graph.cast(graph.cast(vectors, spec.dtype), "float32")
    return vectors


def _of_keras(graph: Graph, backbone: Backbone, layers: list[str], images: str) -> list[Tap]:
    """A Keras network with its preprocessing.

    Raises:
        BackboneError: tf2onnx cannot convert it.
    """
    content, names = frozen_graph(backbone)
    import tf2onnx
    from tensorflow.core.framework.graph_pb2 import GraphDef  # after Keras, which loads TensorFlow quietly

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # below, the error says it in one line
    names = [name for name, layer in zip(names, backbone.layers, strict=True) if layer in layers]
    try:
        with silenced(2):  # TensorFlow's C++ code counts the GPUs there
            network, _ = tf2onnx.convert.from_graph_def(
                GraphDef.FromString(content), input_names=["images:0"], output_names=names, opset=OPSET
            )
    except Exception as error:  # it raises anything
        raise BackboneError(f"tf2onnx cannot convert {backbone.name}: {first_line(error)}") from error
    unknown = sorted({node.op_type for node in network.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if unknown:
        raise BackboneError(
            f"{backbone.name} cannot be converted: tf2onnx does not know the operator {', '.join(unknown)}; use "
            "--head-only"
        )
    shapes = [tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim)[1:] for output in network.graph.output]
    return [Tap(name, shape) for name, shape in zip(graph.embed(network, images), shapes, strict=True)]


def _of_onnx_file(graph: Graph, backbone: Backbone, layers: list[str], images: str) -> list[Tap]:
    """The network of an ONNX file behind its preprocessing."""
    assert backbone.graph is not None
    given = backbone.graph.images
    wanted = tuple(name for name, layer in zip(backbone.graph.outputs, backbone.layers, strict=True) if layer in layers)
    path = Path(f"{backbone.name}.onnx")
    part = cut(path, onnx.ModelProto.FromString(backbone.graph.content), wanted)
    # Any preprocessing is linear: three colours and black say which.
    colours = preprocessed(np.vstack([np.eye(3), np.zeros((1, 3))]), backbone.preprocess)
    values = graph.linear(graph.cast(images, "float32"), colours[:3] - colours[3], colours[3])
    if given.channels_first:
        values = graph.add("Transpose", values, perm=[0, 3, 1, 2])
    if given.dtype != "float32":
        values = graph.cast(values, given.dtype)
    size = backbone.image_size
    shape = (given.batch or 1, 3, size, size) if given.channels_first else (given.batch or 1, size, size, 3)
    outputs = onnx_runtime_outputs(part.content, np.zeros(shape, given.dtype))
    taps = []
    names = graph.embed(onnx.ModelProto.FromString(part.content), values)
    for name, output in zip(names, outputs, strict=True):
        shape = output.shape[1:]
        if output.dtype != np.float32:
            name = graph.cast(name, "float32")
        if has_channels_first(output.shape, channels_first=given.channels_first):
            name, shape = graph.add("Transpose", name, perm=[0, 2, 3, 1]), (*shape[1:], shape[0])
        taps.append(Tap(name, shape))
    return taps


def _vectors(graph: Graph, tap: Tap, spec: ExtractionSpec) -> str:
    """The pooled activation as vectors (n, d), with mirror images in the second half of the images averaged."""
    if not spec.flip:
        return _pooled(graph, tap, spec.pool)
    halves = graph.reshape(tap.name, 2, -1, *tap.shape)
    one, other = (
        Tap(graph.add("Gather", halves, graph.constant(half, np.int64), axis=0), tap.shape) for half in (0, 1)
    )
    if len(tap.shape) == 3:
        other = Tap(graph.columns(other.name, _reversed(tap.shape[1]), axis=2), tap.shape)
    return graph.mean(_pooled(graph, one, spec.pool), _pooled(graph, other, spec.pool))


def _pooled(graph: Graph, tap: Tap, pool: str) -> str:
    """As `featurize.networks.pooled`, as vectors (n, d)."""
    *positions, channels = tap.shape
    if not positions:
        return tap.name
    if pool in GRIDS:
        places = graph.reshape(tap.name, -1, math.prod(positions), channels)
        weights = _weights(positions, pool)
        cells = graph.add("MatMul", graph.constant(weights), places)
        return graph.reshape(cells, -1, len(weights) * channels)
    if pool == "max":
        places = graph.reshape(tap.name, -1, math.prod(positions), channels)
        turned = graph.add("Transpose", places, perm=[0, 2, 1])
        return graph.reshape(graph.add("MaxPool", turned, kernel_shape=[math.prod(positions)]), -1, channels)
    return graph.reshape(tap.name, -1, math.prod(tap.shape))


def _weights(positions: list[int], pool: str) -> np.ndarray:
    """The weight of each position in each cell, (cells, positions).

    A cell is a mean over some rows and some columns, so the weights are products; `pooled` says which.
    """
    weights = np.ones((1, 1))
    for places, length in zip(np.indices(positions), positions, strict=True):
        of_axis = pooled(np.eye(length)[places][None], pool).reshape(-1, length)  # (cells, length)
        weights = (weights[:, :, None] * of_axis[:, None, :]).reshape(len(of_axis), -1)
    return weights


def _reversed(length: int) -> np.ndarray:
    return np.arange(length)[::-1]
