"""ONNX files as an engine: the numbers, the check against ONNX Runtime, and files that do harm when they run."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import assert_failed, command_here
from keras_to_onnx import to_onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_data import make_dataset, make_spec, save_npz
from tiny_networks import save_tiny_network
from tiny_onnx import WIDTH, expected_tokens, save_tiny, tiny_model
from tiny_pictures import write_picture

from featurize import extract_features, load_backbone, load_dataset, load_features
from featurize.core.errors import BackboneError, UsageError
from featurize.engines import choose_engine
from featurize.extraction import default_name
from featurize.networks import Backbone, pooled
from featurize.runtimes import onnx_files
from featurize.verify import verify

if find_spec("openvino") is None:  # an import here would come before that of daal4py, see `import_openvino`
    pytest.skip("openvino is not installed", allow_module_level=True)
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.engines

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def outputs(backbone: Backbone, images: np.ndarray = IMAGES) -> list[np.ndarray]:
    return choose_engine(backbone, "auto", images).run(images)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_layouts_and_numbers_of_images(tmp_path: Path, channels_first: bool, batch: int | str) -> None:
    file = save_tiny(tmp_path / "tiny.onnx", channels_first=channels_first, batch=batch)
    layers = ("features", "tokens", "relu", "turn")
    backbone = load_backbone(str(file), layers=layers, image_size=8, preprocess="tf")
    features, tokens, maps, turned = outputs(backbone)
    expected = expected_tokens(IMAGES / np.float32(127.5) - 1)
    assert np.allclose(tokens, expected, atol=1e-5)
    assert np.allclose(features, expected.mean(axis=1), atol=1e-5)
    assert maps.shape == (5, 4, 4, WIDTH)  # channels last, whatever the layout in the graph
    assert np.allclose(maps, expected.reshape(5, 4, 4, WIDTH), atol=1e-5)
    assert (turned == maps).all()


def test_the_choice_says_what_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "tiny.onnx")), image_size=8, preprocess="none")
    choice = choose_engine(backbone, "auto", IMAGES)
    assert choice.name == "openvino"
    assert choice.why.startswith("agrees with ONNX Runtime 1.")
    with pytest.raises(UsageError, match="an ONNX file runs on openvino"):
        choose_engine(backbone, "tensorflow", IMAGES)

    def never(*_: object, **__: object) -> str:
        raise AssertionError

    monkeypatch.setattr(onnx_files, "run_child", never)  # the first run is remembered
    assert choose_engine(backbone, "openvino", IMAGES).why == choice.why
    monkeypatch.setattr(onnx_files, "_trial", lambda _: {"shapes": [[2, 5]], "types": ["float32"], "errors": [2e-4]})
    with pytest.raises(BackboneError, match="OpenVINO differs from ONNX Runtime by 2.0e-04 at features"):
        choose_engine(backbone, "auto", IMAGES)
    monkeypatch.setattr(onnx_files, "_trial", lambda _: {"shapes": [[2, 5]], "types": ["float32"], "errors": None})
    assert choose_engine(backbone, "auto", IMAGES).why == "not checked, as ONNX Runtime is not installed"


def test_tokens_are_pooled() -> None:
    tokens = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert (pooled(tokens, "cls") == tokens[:, 0]).all()
    assert (pooled(tokens, "avg") == tokens.mean(axis=1)).all()
    assert (pooled(tokens, "max") == tokens[:, 2]).all()
    assert pooled(tokens, "flatten").shape == (2, 12)
    with pytest.raises(UsageError, match="pool grid2: the layer gives tokens, and no map; use pool cls or avg"):
        pooled(tokens, "grid2")
    with pytest.raises(UsageError, match="pool cls: the layer gives a map"):
        pooled(np.zeros((1, 2, 2, 3), np.float32), "cls")


def test_an_export_of_a_keras_network_gives_its_vectors(tmp_path: Path) -> None:
    keras_file = save_tiny_network(tmp_path / "tinynet.keras")
    layers = ("early", "vector")
    ours = load_backbone(str(keras_file), layers=layers, image_size=8)
    onnx.save(to_onnx(ours.model, layers), tmp_path / "tinynet.onnx")
    theirs = load_backbone(str(tmp_path / "tinynet.onnx"), layers=layers, image_size=8, preprocess="none")
    expected = choose_engine(ours, "tensorflow", IMAGES).run(IMAGES)
    for found, wanted in zip(outputs(theirs), expected, strict=True):
        assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def harmful(name: str) -> onnx.ModelProto:
    """A network that is well-formed, and whose run takes all memory or all time."""
    if name == "size bomb":
        shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "huge")
        nodes = [
            helper.make_node("Constant", [], ["huge"], value=shape),
            helper.make_node("ReduceSum", ["features"], ["one"], keepdims=1),
            helper.make_node("Expand", ["one", "huge"], ["bomb"]),
            helper.make_node("ReduceSum", ["bomb"], ["end"], keepdims=1),
            helper.make_node("Add", ["features", "end"], ["last"]),
        ]
    else:
        scalars = {"times": np.array(2**62, np.int64), "yes": np.array(True)}
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["on"]),
                helper.make_node("Sin", ["now"], ["next"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("now", TensorProto.FLOAT, [None, WIDTH]),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, [None, WIDTH]),
            ],
        )
        nodes = [
            *(
                helper.make_node("Constant", [], [key], value=numpy_helper.from_array(value))
                for key, value in scalars.items()
            ),
            helper.make_node("Loop", ["times", "yes", "features"], ["last"], body=body),
        ]
    return tiny_model(nodes=nodes)


@pytest.mark.parametrize(
    ("name", "message"),
    [("size bomb", "cannot be run|crashes the library"), ("endless loop", "did not give an answer within 10 s")],
)
def test_networks_that_take_all_memory_or_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(onnx_files, "TRIAL_SECONDS", 10.0)
    monkeypatch.setattr(onnx_files, "TRIAL_MEMORY", 6 << 30)
    onnx.save(harmful(name), tmp_path / "bad.onnx")
    backbone = load_backbone(str(tmp_path / "bad.onnx"), layers="last", image_size=8, preprocess="none")
    with pytest.raises(BackboneError, match=message) as caught:
        choose_engine(backbone, "auto", IMAGES)
    assert "\n" not in str(caught.value)


def test_a_library_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crash.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(onnx_files, "TRIAL", "crash")
    backbone = load_backbone(str(save_tiny(tmp_path / "bad.onnx")), image_size=8, preprocess="none")
    with pytest.raises(BackboneError, match=r"bad.onnx crashes the library that reads it \(SIGSEGV\)"):
        choose_engine(backbone, "auto", IMAGES)


def wrong_shapes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((WIDTH, 7, 2, 2), np.float32), "kernel"))


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "org.example"
    model.opset_import.append(helper.make_opsetid("org.example", 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_shapes, r"Data batch channel count \(3\) does not match filter input channel count \(7\)"),
        (custom_operator, "No conversion rule found for operations: org.example.Relu"),
    ],
)
def test_networks_that_cannot_be_run(tmp_path: Path, change: Callable[[onnx.ModelProto], None], reason: str) -> None:
    model = tiny_model()
    change(model)
    onnx.save(model, tmp_path / "bad.onnx")
    backbone = load_backbone(str(tmp_path / "bad.onnx"), image_size=8, preprocess="none")
    with pytest.raises(BackboneError, match=f"bad.onnx cannot be run: OpenVINO: {reason}") as caught:
        choose_engine(backbone, "auto", IMAGES)
    assert "\n" not in str(caught.value)


def test_integers_cannot_be_tapped(tmp_path: Path) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "t.onnx")), layers="shape", image_size=8, preprocess="none")
    with pytest.raises(UsageError, match="layers shape: it gives .* of type int64 for an image"):
        choose_engine(backbone, "auto", IMAGES)


def test_a_cache_from_an_onnx_file(tmp_path: Path) -> None:
    """Reused, verified, and found to be another one if the external data changes."""
    data = save_npz(tmp_path / "mine.npz", make_dataset(30, 15))
    file = save_tiny(tmp_path / "tiny.onnx", size=8)
    words = ["featurize", "--data", str(data), "--backbone", str(file), "--layers", "tokens", "--pool", "cls"]
    words += ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.25,0.5"]
    done = command_here(*words, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert Path(facts["path"]).name == "mine-tiny-own-8px-tokens-cls.h5"
    assert (facts["engine"], facts["image_size"], facts["dim"]) == ("openvino", 8, WIDTH)
    assert facts["spec"]["preprocess"] == "mean 0.5,0.5,0.5 std 0.5,0.25,0.5"
    assert json.loads(command_here(*words, "--json").stdout)["reused"]
    assert verify(Path(facts["path"]), recompute=10) == []
    x = load_features(facts["path"], "train").x
    images = np.asarray(load_dataset(data).splits["train"].images) / np.float32(255)
    expected = expected_tokens((images - 0.5) / np.array([0.5, 0.25, 0.5], np.float32))
    assert np.allclose(x, expected[:, 0], atol=1e-5)
    done = command_here(*words, "--preprocess", "tf")
    assert_failed(done, 2, "--mean and --std: expected both of them, and no --preprocess")
    done = command_here(*words[:-4])
    assert_failed(done, 2, "an ONNX file does not say which values it takes; choose --preprocess torch")


def test_names_inside_a_graph_become_the_name_of_a_file() -> None:
    spec = make_spec(make_dataset(6, 3), layers=("model/layer.0/mul:0", "b" * 200))
    name = default_name("mine", "own", spec)
    assert name.startswith("mine-tinynet-own-8px-model_layer.0_mul_0+bbb")
    assert len(name) < 140


def test_predictions_of_a_run(tmp_path: Path) -> None:
    data = save_npz(tmp_path / "mine.npz", make_dataset(30, 15))
    backbone = load_backbone(str(save_tiny(tmp_path / "tiny.onnx", size=8)), preprocess="tf")
    extract_features(load_dataset(data), backbone)
    [run] = json.loads(command_here("classify", "--model", "logreg", "--json").stdout)["runs"]
    write_picture(tmp_path / "new.png", height=8, width=8)
    done = command_here("classify", "predict", run["run_dir"], str(tmp_path / "new.png"), "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 1
    (tmp_path / "tiny.onnx").write_bytes(tiny_model(size=8, channels_first=False).SerializeToString())
    done = command_here("classify", "predict", run["run_dir"], str(tmp_path / "new.png"))
    assert_failed(done, 1, "are no longer those that made the features")


def test_backbones_lists_what_can_be_tapped(tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "tiny.onnx")
    shown = command_here("featurize", "backbones", str(file), "--image-size", "8").stdout
    assert "default layer    features\n" in shown
    assert "  tokens   16 x 5           Reshape\n" in shown
    assert "  map      5 x 4 x 4        Conv\n" in shown
    assert "counts" not in shown  # integers
    facts = json.loads(command_here("featurize", "backbones", str(file), "--image-size", "8", "--json").stdout)
    assert facts["parameters"] == WIDTH * 3 * 2 * 2
    file = save_tiny(tmp_path / "fixed.onnx", size=8)
    done = command_here("featurize", "backbones", str(file), "--image-size", "9")
    assert_failed(done, 2, "takes images of 8 pixels only")


def test_without_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    backbone = load_backbone(str(save_tiny(tmp_path / "tiny.onnx")), image_size=8, preprocess="none")
    with pytest.raises(
        UsageError, match=r"needs OpenVINO, which is not available: .*; pip install 'frozenbench\[onnx\]'"
    ):
        choose_engine(backbone, "auto", IMAGES)


def test_the_real_mobilenet_v2(shared: Path, tmp_path: Path) -> None:
    """The ONNX export gives the vectors of the .keras file within 1e-5."""
    ours = load_backbone(str(shared / "backbones" / "mobilenetv2_imagenet.keras"), layers="avg_pool", image_size=96)
    onnx.save(to_onnx(ours.model, ("avg_pool",)), tmp_path / "mobilenetv2.onnx")
    theirs = load_backbone(str(tmp_path / "mobilenetv2.onnx"), image_size=96, preprocess="none")
    images, _ = load_dataset("sample").splits["test"].images[:40].read(96, "bicubic", "crop")
    [expected] = choose_engine(ours, "tensorflow", images).run(images)
    [found] = outputs(theirs, images)
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < 1e-5


def test_openvino_leaves_the_fast_svm_usable() -> None:
    """In a process of its own: which TBB is loaded first decides."""
    code = "from featurize.runtimes import import_openvino; import_openvino().Core(); import daal4py"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
