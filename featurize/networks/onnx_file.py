"""Networks in ONNX files: read without trust, checked, and cut off behind the tapped tensors.

Nothing outside of the file's folder is read. The libraries that run the graph get it as bytes, with its weights inside.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurize.core.errors import BackboneError, UsageError, first_line, suggestion

if TYPE_CHECKING:
    import onnx

LARGEST = (1 << 31) - 1  # bytes of a message in protobuf
NAMES = ("name", "input", "output", "op_type", "domain")
"""The fields of messages that hold names."""
IMAGE_TYPES = {1: "float32", 10: "float16"}  # of TensorProto.DataType


@dataclass(frozen=True)
class ImageInput:
    """The input of a network: its name, layout, type, and what the file fixes; None for any.

    Attributes:
        name: in the graph.
        channels_first: whether images are (n, 3, h, w), else (n, h, w, 3).
        dtype: `float32` or `float16`.
        batch: the only number of images that the network takes at once.
        size: the only height and width, in pixels.
    """

    name: str
    channels_first: bool
    dtype: str
    batch: int | None
    size: int | None


@dataclass(frozen=True)
class OnnxGraph:
    """A network from its images to the tapped tensors: the serialised model, its input, and the tensors' names."""

    content: bytes
    images: ImageInput
    outputs: tuple[str, ...]


def files_of(path: Path) -> list[Path]:
    """The files that hold a network: the `.onnx` file, and those of its external data.

    Raises:
        BackboneError: the file is no ONNX file, or names a file outside of its folder.
    """
    return [path, *_external_files(path, _parsed(path))]


def files_digest(paths: list[Path]) -> str:
    """SHA-256 over the names and the contents of a network's files."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{'' if path is paths[0] else path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def image_input(path: Path) -> ImageInput:
    """The input of the network in a file.

    Raises:
        BackboneError: the file is no ONNX file, or takes something else than one batch of RGB images.
    """
    return _image_input(path, _parsed(path))


def read_onnx_file(path: Path) -> "onnx.ModelProto":
    """The network in a file, with its external data inside, and its weights checked.

    Raises:
        BackboneError: the file is damaged, its external data lies elsewhere, an operator is unknown, or a weight is
            not a number.
    """
    model = _parsed(path)
    _external_files(path, model)
    try:
        for tensor in tensors(model):
            if tensor.external_data:
                _read_external(path, tensor)
        for tensor in tensors(model):
            _check_numbers(path, tensor)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, MemoryError) as error:
        raise BackboneError(f"{path} holds a damaged tensor: {first_line(error)}") from error
    _check_operators(path, model)
    return model


def tappable(model: "onnx.ModelProto") -> dict[str, str]:
    """Every name that can be tapped -> the tensor: outputs of the graph first, then of its nodes, then the nodes."""
    names = {output.name: output.name for output in model.graph.output}
    for node in model.graph.node:
        for output in filter(None, node.output):
            names.setdefault(output, output)
    for node in model.graph.node:
        if node.name and node.output and node.output[0]:
            names.setdefault(node.name, node.output[0])
    return names


def cut(path: Path, model: "onnx.ModelProto", layers: tuple[str, ...]) -> OnnxGraph:
    """The part of a network up to the tapped tensors; its first output if none is named.

    Raises:
        UsageError: there is no such tensor.
        BackboneError: the graph has a cycle, or a part of it is missing.
    """
    names = tappable(model)
    for layer in layers:
        if layer not in names:
            raise UsageError(f"--layers {layer}: {path.stem} has no such output or node; {suggestion(layer, [*names])}")
    if not model.graph.output:
        raise BackboneError(f"{path} has no output")
    outputs = tuple(names[layer] for layer in layers) or (model.graph.output[0].name,)
    if len(set(outputs)) < len(outputs):
        raise UsageError(f"--layers {','.join(layers)}: two of them are the same tensor")
    images = _image_input(path, model)
    needed = _needed_nodes(path, model, outputs, images.name)
    graph = model.graph
    kept = [node for number, node in enumerate(graph.node) if number in needed]
    used = set(outputs).union(*(_inputs(node) for node in kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    declared = {value.name: value for value in [*graph.value_info, *graph.output]}

    import onnx

    values = [declared.get(name, onnx.ValueInfoProto(name=name)) for name in outputs]
    body = onnx.helper.make_graph(kept, graph.name or "network", _declared_images(model, images), values, initializers)
    body.sparse_initializer.extend(graph.sparse_initializer)
    whole = onnx.ModelProto(ir_version=model.ir_version, graph=body)
    whole.opset_import.extend(model.opset_import)
    whole.functions.extend(model.functions)
    return OnnxGraph(serialized(path, whole), images, outputs)


def serialized(path: Path, model: "onnx.ModelProto") -> bytes:
    """A network as bytes, with its weights.

    Raises:
        BackboneError: it has more than 2 GB.
    """
    try:
        return model.SerializeToString()
    except Exception as error:  # protobuf has an error of its own
        raise BackboneError(f"{path} cannot be used: networks of more than 2 GB are not supported") from error


def tensors(message: Any) -> Iterator["onnx.TensorProto"]:
    """Every constant in a model, wherever it hides: in attributes, sparse tensors, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for part in _parts(value):
                yield from tensors(part)


def _parsed(path: Path) -> "onnx.ModelProto":
    """The content of a file, without its external data."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError(
            f"--backbone {path}: ONNX files need the package onnx; pip install 'frozenbench[onnx]'"
        ) from error
    if not path.is_file():
        raise UsageError(f"--backbone {path}: no such file")
    size = path.stat().st_size
    if size > LARGEST:
        raise BackboneError(f"{path} has {size / 1e9:.1f} GB; networks of more than 2 GB are not supported")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which has no public name; or RecursionError
        raise BackboneError(f"{path} is damaged, or is not an ONNX file: {first_line(error)}") from error
    if not _has_good_names(model):
        raise BackboneError(f"{path} is damaged, or is not an ONNX file: a name in it is not printable text")
    if not model.graph.node:
        raise BackboneError(f"{path} is not an ONNX file, or holds no network")
    return model


def _parts(value: Any) -> Iterable[Any]:
    """The messages or texts of a field, which may be repeated."""
    return [value] if hasattr(value, "DESCRIPTOR") or isinstance(value, (str, bytes)) else value


def _has_good_names(message: Any) -> bool:
    """Whether every text is UTF-8 (protobuf gives others as bytes), and every name can be printed in a line."""
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_STRING:
            for part in _parts(value):
                if not isinstance(part, str) or (descriptor.name in NAMES and not part.isprintable()):
                    return False
        if descriptor.type == descriptor.TYPE_MESSAGE and not all(_has_good_names(part) for part in _parts(value)):
            return False
    return True


def _external_files(path: Path, model: "onnx.ModelProto") -> list[Path]:
    """The files of external data, each once.

    Raises:
        BackboneError: one is not a plain file in the folder of the network, or below it.
    """
    found = {}
    folder = path.parent.resolve()
    for tensor in tensors(model):
        if not tensor.external_data:
            continue
        name = dict(_external(tensor)).get("location", "")
        target = folder / name
        is_plain = name and not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
        if not is_plain or target.resolve() != target:
            raise BackboneError(
                f"{path}: the data of {tensor.name} lies in {name!r}; expected a plain file in the network's folder"
            )
        if not target.is_file():
            raise BackboneError(f"{path}: the file {name} with the data of {tensor.name} is missing from its folder")
        found[name] = target
    return [found[name] for name in sorted(found)]


def _external(tensor: "onnx.TensorProto") -> list[tuple[str, str]]:
    return [(entry.key, entry.value) for entry in tensor.external_data]


def _read_external(path: Path, tensor: "onnx.TensorProto") -> None:
    """Move the external data of a tensor into it.

    Raises:
        ValueError: it reaches beyond the end of its file.
    """
    facts = dict(_external(tensor))
    target = path.parent / facts["location"]
    size = target.stat().st_size
    offset = int(facts.get("offset", 0))
    length = int(facts.get("length", size - offset))
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"the data of {tensor.name} reaches beyond the end of {facts['location']}")
    with target.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    del tensor.external_data[:]
    tensor.ClearField("data_location")


def _check_numbers(path: Path, tensor: "onnx.TensorProto") -> None:
    """Raise BackboneError if a tensor holds NaN, ValueError if it does not hold what its shape claims."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.STRING:
        return
    if any(length < 0 for length in tensor.dims):
        raise ValueError(f"{tensor.name} has the shape {list(tensor.dims)}")
    values = numpy_helper.to_array(tensor)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise BackboneError(
            f"the weights {tensor.name or '(unnamed)'} of {path} are not all numbers: the file is damaged or incomplete"
        )


def _check_operators(path: Path, model: "onnx.ModelProto") -> None:
    """Raise BackboneError for an operator of the standard that does not exist."""
    from onnx import defs

    own = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain == "" and (domain, node.op_type) not in own and not defs.has(node.op_type, domain):
            raise BackboneError(
                f"{path} has the unknown operator {node.op_type} in its node {node.name or '(unnamed)'}"
            )


def _image_input(path: Path, model: "onnx.ModelProto") -> ImageInput:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:5]) or "none"
        raise BackboneError(f"{path} has the inputs {names}; expected one, a batch of images")
    [value] = inputs
    kind = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shown = " x ".join("?" if dim is None else str(dim) for dim in shape) or "unknown"
    channels_first = len(shape) == 4 and shape[1] == 3
    if len(shape) != 4 or not (channels_first or shape[3] == 3):
        raise BackboneError(
            f"{path} takes {value.name} of the shape {shown}; expected images (n, 3, h, w) or (n, h, w, 3)"
        )
    if kind.elem_type not in IMAGE_TYPES:
        raise BackboneError(f"{path} takes {value.name} of another type than float32 or float16")
    batch, (height, width) = shape[0], (shape[2:4] if channels_first else shape[1:3])
    if height != width:
        raise BackboneError(f"{path} takes images of {shown}; expected square images, which frozenbench makes")
    if any(dim is not None and dim < 1 for dim in (batch, height)):
        raise BackboneError(f"{path} takes images of {shown}; expected positive numbers")
    return ImageInput(value.name, channels_first, IMAGE_TYPES[kind.elem_type], batch, height)


def _declared_images(model: "onnx.ModelProto", images: ImageInput) -> list[Any]:
    return [value for value in model.graph.input if value.name == images.name]


def _needed_nodes(path: Path, model: "onnx.ModelProto", outputs: tuple[str, ...], images: str) -> set[int]:
    """The numbers of the nodes that the outputs depend on.

    Raises:
        BackboneError: a node needs a tensor that no earlier node gives.
    """
    given = {images, "", *(tensor.name for tensor in model.graph.initializer)}
    given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    producer: dict[str, int] = {}
    for number, node in enumerate(model.graph.node):
        missing = _inputs(node) - given - producer.keys()
        if missing:
            raise BackboneError(
                f"{path}: the node {node.name or number} needs {min(missing)}, which no node before it gives: the "
                "graph has a loop, or a part is missing"
            )
        for output in node.output:
            producer[output] = number
    for name in outputs:
        if name not in given and name not in producer:
            raise BackboneError(f"{path} has the output {name}, which no node gives")
    needed: set[int] = set()
    waiting = [producer[name] for name in outputs if name in producer]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += [producer[name] for name in _inputs(model.graph.node[number]) if name in producer]
    return needed


def _inputs(node: "onnx.NodeProto") -> set[str]:
    """The tensors that a node needs from its graph, those that its subgraphs take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            for inner in graph.node:
                names |= _inputs(inner) - inside
                inside |= set(inner.output)
            names |= {value.name for value in graph.output} - inside
    return names
