"""ONNX files as backbones: what is read from them, and what is refused before anything runs them."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import save_tiny, tiny_model

from featurize import load_backbone
from featurize.core.errors import BackboneError, FrozenbenchError, UsageError
from featurize.networks import preprocessed, request, usual_image_size
from featurize.networks.applications import check_preprocess, mean_and_std
from featurize.networks.onnx_file import files_digest, files_of, image_input, read_onnx_file, tensors


def test_layout_and_size_are_read_from_the_file(tmp_path: Path) -> None:
    for channels_first in (True, False):
        found = image_input(save_tiny(tmp_path / "any.onnx", channels_first=channels_first))
        assert (found.channels_first, found.batch, found.size, found.dtype) == (channels_first, None, None, "float32")
    fixed = save_tiny(tmp_path / "fixed.onnx", batch=1, size=8)
    assert (image_input(fixed).batch, image_input(fixed).size) == (1, 8)
    assert usual_image_size(str(fixed)) == 8
    assert usual_image_size(str(tmp_path / "any.onnx")) == 96
    assert load_backbone(str(fixed), preprocess="none").image_size == 8
    with pytest.raises(UsageError, match="takes images of 8 pixels only; use image_size 8"):
        load_backbone(str(fixed), preprocess="none", image_size=16)


def test_the_graph_ends_behind_the_tapped_tensors(tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "tiny.onnx")
    default = load_backbone(str(file), preprocess="none")
    assert default.layers == ("features",)
    assert default.model is None
    assert default.graph is not None
    for name, nodes in (("relu", 3), ("positive", 3), ("tokens", 5)):
        graph = load_backbone(str(file), layers=name, preprocess="none").graph
        assert graph is not None
        model = onnx.ModelProto.FromString(graph.content)
        assert len(model.graph.node) == nodes
        assert [output.name for output in model.graph.output] == ["positive" if name == "relu" else name]
    two = load_backbone(str(file), layers=("tokens", "conv"), preprocess="none")
    assert (two.layers, two.graph and two.graph.outputs) == (("tokens", "conv"), ("tokens", "map"))
    with pytest.raises(UsageError, match="layers tokns: tiny has no such output or node; did you mean tokens"):
        load_backbone(str(file), layers="tokns", preprocess="none")
    with pytest.raises(UsageError, match="the same tensor"):
        load_backbone(str(file), layers=("relu", "positive"), preprocess="none")


def test_preprocessing_must_be_chosen(tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "tiny.onnx")
    with pytest.raises(UsageError, match="does not say which values it takes; choose preprocess torch"):
        load_backbone(str(file))
    with pytest.raises(UsageError, match="has its own weights"):
        load_backbone(str(file), weights="random", preprocess="none")
    given = load_backbone(str(file), preprocess="mean 0.1,0.2,0.3 std 0.5,0.25,1")
    pixels = np.full((1, 1, 1, 3), 255, np.float32)
    values = preprocessed(pixels, given.preprocess).ravel()
    assert np.allclose(values, [1.8, 3.2, 0.7])
    assert given.source["asked"]["preprocess"] == given.preprocess


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("1,2", "1,1,1", "mean 1,2: expected three numbers"),
        ("1,2,3", "1,0,1", "std 1,0,1: expected three numbers"),
        ("a,b,c", "1,1,1", "mean a,b,c: expected three numbers"),
        ("nan,0,0", "1,1,1", "mean nan,0,0: expected"),
        ("1,2,3", "", "expected both of them"),
    ],
)
def test_wrong_means(mean: str, std: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_preprocess(mean_and_std("auto", mean, std))
    with pytest.raises(UsageError, match="and no preprocess"):
        mean_and_std("torch", "0,0,0", "1,1,1")


def with_external_data(path: Path, location: str = "tiny.data", **facts: int) -> Path:
    """A file whose kernel lies in another file, as torch writes large networks."""
    model = tiny_model()
    kernel = model.graph.initializer[0]
    content = kernel.raw_data
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 3, "length": len(content), **facts}.items():
        kernel.external_data.add(key=key, value=str(value))
    (path.parent / "tiny.data").write_bytes(b"abc" + content)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_read_and_is_part_of_the_digest(tmp_path: Path) -> None:
    file = with_external_data(tmp_path / "tiny.onnx")
    inside = read_onnx_file(file)
    assert not any(tensor.external_data for tensor in tensors(inside))
    assert inside.graph.initializer[0].raw_data == tiny_model().graph.initializer[0].raw_data
    assert files_of(file) == [file, tmp_path / "tiny.data"]
    before = files_digest(files_of(file))
    assert set(request(str(file))["files"]) == {str(file), str(tmp_path / "tiny.data")}
    assert load_backbone(str(file), preprocess="none").weights_digest == before
    (tmp_path / "tiny.data").write_bytes((tmp_path / "tiny.data").read_bytes().replace(b"abc", b"abd"))
    assert files_digest(files_of(file)) != before
    (tmp_path / "moved").mkdir()
    moved = with_external_data(tmp_path / "moved" / "tiny.onnx")
    assert files_digest(files_of(moved)) == before


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "folder/link", "", "missing", ".", "a\0b"])
def test_nothing_outside_of_the_folder_is_read(tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "networks"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"abc" + tiny_model().graph.initializer[0].raw_data)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder" / "link").symlink_to(tmp_path / "secret")
    file = with_external_data(folder / "tiny.onnx", location)
    opened = []
    real = Path.open

    def noted(self: Path, *arguments: object, **options: object) -> object:
        opened.append(self.resolve())
        return real(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", noted)
    with pytest.raises(BackboneError, match="a plain file in the network's folder|is missing from its"):
        load_backbone(str(file), preprocess="none")
    assert all(path.is_relative_to(folder) for path in opened)


def test_external_data_of_another_size(tmp_path: Path) -> None:
    for facts in ({"offset": 10_000}, {"length": 2**60}, {"offset": -5}):
        file = with_external_data(tmp_path / "tiny.onnx", **facts)
        with pytest.raises(BackboneError, match="reaches beyond the end"):
            load_backbone(str(file), preprocess="none")
    with pytest.raises(BackboneError, match="damaged tensor"):
        load_backbone(str(with_external_data(tmp_path / "tiny.onnx", length=4)), preprocess="none")


def hidden_external() -> onnx.ModelProto:
    """External data in the body of an If, where the usual loaders do not look first."""
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    constant = helper.make_node("Constant", [], ["hidden"], value=tensor)
    out = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1])
    body = helper.make_graph([constant], "body", [], [out])
    condition = numpy_helper.from_array(np.array(True), "yes")
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=condition),
        helper.make_node("If", ["yes"], ["read"], then_branch=body, else_branch=body),
    ]
    return tiny_model(nodes=nodes)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = tiny_model()
    change(model)
    return model


def shape_of(model: onnx.ModelProto) -> onnx.TensorShapeProto:
    return model.graph.input[0].type.tensor_type.shape


def poisoned(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[2, 1, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "kernel"))


def looped(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "positive"


HOSTILE = {
    "external data in a body": (hidden_external(), "expected a plain file in the network's folder"),
    "weights that are not numbers": (changed(poisoned), "the weights kernel of .* are not all numbers"),
    "a loop": (changed(looped), "the node conv needs positive, which no node before it gives: the graph has a loop"),
    "unknown operator": (tiny_model(nodes=[helper.make_node("Explode", ["map"], ["x"], name="boom")]),
                         "the unknown operator Explode in its node boom"),
    "a tensor that claims too much": (changed(lambda model: model.graph.initializer[0].dims.append(2**40)),
                                      "holds a damaged tensor"),
    "a negative shape": (changed(lambda model: model.graph.initializer[0].dims.append(-4)), "holds a damaged tensor"),
    "two inputs": (changed(lambda model: model.graph.input.append(
        helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))), "has the inputs images, more; expected one"),
    "three dimensions": (changed(lambda model: shape_of(model).dim.pop()), "of the shape .* x 3 x "),
    "grey images": (changed(lambda model: setattr(shape_of(model).dim[1], "dim_value", 1)), "expected images"),
    "long images": (changed(lambda model: [setattr(shape_of(model).dim[axis], "dim_value", axis) for axis in (2, 3)]),
                    "expected square images"),
    "integers": (changed(lambda model: model.graph.input[0].type.tensor_type.__setattr__("elem_type", 7)),
                 "another type than float32 or float16"),
    "an output from nowhere": (changed(lambda model: setattr(model.graph.output[0], "name", "ghost")),
                               "has the output ghost, which no node gives"),
    "a name of two lines": (tiny_model(nodes=[helper.make_node("Relu", ["map"], ["a\nb"])]), "not printable text"),
    "no output": (changed(lambda model: model.graph.ClearField("output")), "has no output"),
    "no nodes": (onnx.ModelProto(), "holds no network"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    model, message = HOSTILE[name]
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(str(tmp_path / "bad.onnx"), preprocess="none")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 100, b"PK\3\4", b"\x3a\xff\xff\xff\xff\x07"])
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(BackboneError, match="not an ONNX file"):
        load_backbone(str(tmp_path / "bad.onnx"), preprocess="none")
    with pytest.raises(UsageError, match="no such file"):
        load_backbone(str(tmp_path / "none.onnx"), preprocess="none")


def test_damaged_files_raise_only_our_errors(tmp_path: Path) -> None:
    """A short form of tests/attacks/fuzz.py."""
    content = tiny_model().SerializeToString()
    random = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 5)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        (tmp_path / "bad.onnx").write_bytes(bytes(damaged[: random.integers(1, 2 * len(damaged))]))
        with contextlib.suppress(FrozenbenchError):
            load_backbone(str(tmp_path / "bad.onnx"), preprocess="none", image_size=8)


def test_weights_of_every_kind_are_found() -> None:
    names = {tensor.name for tensor in tensors(hidden_external())}
    assert names == {"kernel", "token_shape", "yes", "hidden"}
