"""Networks as ONNX graphs give the vectors of an extraction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_onnx import save_tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from classify.graphs import Graph, add_network  # noqa: E402
from featurize.core.errors import BackboneError, UsageError  # noqa: E402
from featurize.engines import choose_engine  # noqa: E402
from featurize.extraction import ExtractionOptions, Extractor  # noqa: E402
from featurize.networks import Backbone, load_backbone  # noqa: E402

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 14, 14, 3), np.uint8)
LARGER = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def check(backbone: Backbone, images: np.ndarray, layers: list[str] | None = None, **options: Any) -> None:
    """The graph gives the same vectors as the engine, for the images and for one of them."""
    spec = ExtractionOptions(**options).spec(backbone)
    extractor = Extractor(backbone, choose_engine(backbone, "auto", images), spec)
    layers = layers or list(spec.layers)
    parts = [
        part.astype(np.float32)
        for part, layer in zip(extractor.vectors(images), spec.layers, strict=True)
        if layer in layers
    ]
    expected = np.concatenate(parts, axis=1)
    graph = Graph()
    last = add_network(graph, backbone, spec, layers, "images")
    size = backbone.image_size
    model = graph.model(("images", "uint8", ["n", size, size, 3]), last, ("vectors", "float32", ["n", "d"]))
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scale = np.abs(expected).max()
    for some in (slice(None), slice(1)):
        [found] = session.run(None, {"images": images[some]})
        assert found.dtype == np.float32
        assert np.abs(found - expected[some]).max() < (1e-5 if spec.dtype == "float32" else 1e-3) * scale


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pool", ["avg", "max", "grid2", "flatten"])
def test_a_keras_network(tiny_network: Path, pool: str, flip: bool) -> None:
    pytest.importorskip("tf2onnx")
    layers = ("early", "late", "vector")  # maps of 14 and 5 pixels, which 2 does not divide, and a vector
    backbone = load_backbone(str(tiny_network), layers=layers, image_size=14, preprocess="torch")
    check(backbone, IMAGES, pool=pool, flip=flip)


def test_some_of_the_layers_in_float16(tiny_network: Path) -> None:
    pytest.importorskip("tf2onnx")
    backbone = load_backbone(str(tiny_network), layers=("early", "half", "late"), image_size=14)
    check(backbone, IMAGES, ["early", "late"], pool="grid4", dtype="float16")
    check(backbone, IMAGES, ["half"], pool="grid4", flip=True)


@pytest.mark.parametrize("flip", [False, True])
def test_vgg16(flip: bool) -> None:
    pytest.importorskip("tf2onnx")
    backbone = load_backbone("vgg16", layers=("block1_pool", "block3_pool"), image_size=32)
    check(backbone, LARGER, pool="grid2", flip=flip)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "resnet50", "efficientnetb0", "densenet121", "xception"])
def test_other_networks_of_keras(name: str) -> None:
    pytest.importorskip("tf2onnx")
    size = 75 if name == "xception" else 32
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    check(load_backbone(name, weights="random", image_size=size), images, flip=True)


def test_real_mobilenetv2(shared: Path) -> None:
    pytest.importorskip("tf2onnx")
    file = shared / "backbones" / "mobilenetv2_imagenet.keras"
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    check(load_backbone(str(file), image_size=96), images, flip=True)


@pytest.mark.parametrize("flip", [False, True])
def test_pixels(flip: bool) -> None:
    check(load_backbone("pixels", image_size=14), IMAGES, pool="flatten", flip=flip)


@pytest.mark.engines
@pytest.mark.parametrize(
    ("channels_first", "preprocess"), [(True, "caffe"), (False, "mean 0.5,0.4,0.3 std 0.2,0.3,0.4")]
)
def test_an_onnx_file(tmp_path: Path, channels_first: bool, preprocess: str) -> None:
    file = save_tiny(tmp_path / "tiny.onnx", channels_first=channels_first)
    layers = ("features", "tokens", "relu", "turn")
    backbone = load_backbone(str(file), layers=layers, image_size=14, preprocess=preprocess)
    check(backbone, IMAGES, pool="avg", flip=True)
    check(backbone, IMAGES, ["tokens", "turn"], pool="max")


@pytest.mark.engines
@pytest.mark.parametrize(("layer", "pool"), [("tokens", "cls"), ("relu", "grid4")])
def test_tokens_and_maps_of_an_onnx_file(tmp_path: Path, layer: str, pool: str) -> None:
    file = save_tiny(tmp_path / "tiny.onnx")
    check(load_backbone(str(file), layers=(layer,), image_size=14, preprocess="torch"), IMAGES, pool=pool, flip=True)


@pytest.mark.slow
def test_an_operator_that_tf2onnx_does_not_know() -> None:
    pytest.importorskip("tf2onnx")
    images = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(BackboneError, match="convnexttiny cannot be converted: tf2onnx does not know the operator"):
        check(load_backbone("convnexttiny", weights="random", image_size=32), images)


@pytest.mark.engines
def test_an_onnx_file_with_weights_in_float16_and_a_later_operator_set(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    kernel = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16), "kernel")
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["map"]),
        helper.make_node("ReduceMean", ["map", "axes"], ["probabilities"], keepdims=0),  # a name of ours
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT16, ["n", 3, 14, 14])
    gives = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT16, ["n", 4])
    body = helper.make_graph(nodes, "half", [given], [gives], [kernel, axes])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "half.onnx")
    backbone = load_backbone(str(tmp_path / "half.onnx"), image_size=14, preprocess="torch")
    spec = ExtractionOptions().spec(backbone)
    graph = Graph()
    last = add_network(graph, backbone, spec, ["probabilities"], "images")
    whole = graph.model(("images", "uint8", ["n", 14, 14, 3]), last, ("vectors", "float32", ["n", 4]))
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"images": IMAGES})
    expected = choose_engine(backbone, "auto", IMAGES).run(IMAGES)[0]
    assert np.allclose(found, expected, atol=1e-2)


@pytest.mark.engines
def test_a_network_for_one_image_takes_no_mirror_image(tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "tiny.onnx", batch=1)
    backbone = load_backbone(str(file), image_size=14, preprocess="tf")
    with pytest.raises(UsageError, match="tiny takes 1 images at once, and no mirror images"):
        check(backbone, IMAGES, flip=True)
