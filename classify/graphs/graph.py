"""An ONNX graph that grows node by node (https://onnx.ai/onnx/operators/).

All operators that are used here have had the same inputs and attributes since version 9 of the operator set, so they go
together with a network of any later version.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

OPSET = 17  # without a network that has another
IR_VERSION = 8
TREES = ("ai.onnx.ml", 3)
"""The domain of the operator for trees, and its version."""
NETWORK = "network/"  # in front of the names in a network, so that none is ours
TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}

Declaration = tuple[str, str, Sequence[int | str]]
"""Name, type and shape of an input or output; a length may have a name instead of a number."""


class Graph:
    """The nodes and the constants so far. A tensor is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.network: onnx.ModelProto | None = None

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Add a constant; returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, tensor: str, dtype: str) -> str:
        """Change the type of the numbers, to one of `TYPES`."""
        return self.add("Cast", tensor, to=TYPES[dtype])

    def reshape(self, tensor: str, *shape: int) -> str:
        """Change the shape; -1 stands for the rest."""
        return self.add("Reshape", tensor, self.constant(shape, np.int64))

    def columns(self, tensor: str, order: Any, axis: int = 1) -> str:
        """Take the entries with these indices along an axis."""
        return self.add("Gather", tensor, self.constant(order, np.int64), axis=axis)

    def linear(self, tensor: str, weights: np.ndarray, offset: np.ndarray) -> str:
        """Multiply by weights (d, m), and add an offset (m,)."""
        return self.add("Add", self.add("MatMul", tensor, self.constant(weights)), self.constant(offset))

    def mean(self, one: str, other: str) -> str:
        """The mean of two tensors."""
        return self.add("Mul", self.add("Add", one, other), self.constant(0.5))

    def embed(self, network: onnx.ModelProto, images: str) -> list[str]:
        """Add a network with one input, which gets the tensor `images`; returns the names of its outputs."""
        self.network = compose.add_prefix(network, NETWORK)
        weights = {tensor.name for tensor in self.network.graph.initializer}
        [entry] = [value.name for value in self.network.graph.input if value.name not in weights]
        self.nodes.append(helper.make_node("Identity", [images], [entry], name="enter_network"))
        self.nodes += self.network.graph.node
        self.constants += self.network.graph.initializer
        return [output.name for output in self.network.graph.output]

    def model(self, given: Declaration, last: str, result: Declaration) -> onnx.ModelProto:
        """The whole as a model.

        Args:
            given: name, type (one of `TYPES`) and shape of its input.
            last: the tensor that it gives.
            result: name, type and shape under which it gives it.
        """
        leave = helper.make_node("Identity", [last], [result[0]], name="leave")
        body = helper.make_graph(
            [*self.nodes, leave], "frozenbench", [_declared(*given)], [_declared(*result)], self.constants
        )
        network = self.network or onnx.ModelProto(ir_version=IR_VERSION)
        versions = {opset.domain: opset.version for opset in network.opset_import} or {"": OPSET}
        if any(node.domain == TREES[0] for node in self.nodes):
            versions.setdefault(*TREES)
        body.sparse_initializer.extend(network.graph.sparse_initializer)
        return helper.make_model(
            body,
            opset_imports=[helper.make_opsetid(*version) for version in versions.items()],
            ir_version=max(IR_VERSION, network.ir_version),
            functions=network.functions,
        )


def _declared(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[dtype], shape)
