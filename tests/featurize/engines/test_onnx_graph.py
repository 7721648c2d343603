import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from featurize.core.environment import import_keras
from featurize.core.errors import UsageError
from featurize.engines.onnx_graph import to_onnx

RANDOM = np.random.default_rng(3)
IMAGES = RANDOM.normal(0, 2, (3, 11, 10, 3)).astype(np.float32)


def randomised(model: object) -> object:
    """Give every weight a random value, because many start as 0 or 1; variances stay positive."""
    for layer in model.layers:
        layer.set_weights([RANDOM.uniform(0.2, 1, weight.shape) for weight in layer.get_weights()])
    return model


def difference(model: object, names: list[str]) -> float:
    """The largest relative difference between Keras and the graph in ONNX's reference evaluator."""
    graph = to_onnx(model, names)
    onnx.checker.check_model(graph)
    ours = ReferenceEvaluator(graph).run(None, {"images": IMAGES.transpose(0, 3, 1, 2)})
    outputs = model(IMAGES)
    largest = 0.0
    for mine, theirs in zip(ours, outputs if isinstance(outputs, list) else [outputs], strict=True):
        theirs = np.asarray(theirs)
        mine = np.moveaxis(mine, 1, -1)
        assert mine.shape == theirs.shape
        largest = max(largest, float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)))
    return largest


def layers_under_test() -> dict[str, object]:
    layers = import_keras().layers
    return {
        "convolution": layers.Conv2D(5, 3),
        "same padding": layers.Conv2D(5, (2, 5), padding="same"),
        "stride": layers.Conv2D(5, 3, strides=2, padding="same"),
        "stride, valid": layers.Conv2D(5, 3, strides=(3, 2)),
        "dilation": layers.Conv2D(5, 3, dilation_rate=(2, 3), padding="same"),
        "groups": layers.Conv2D(6, 3, groups=3),
        "no bias, relu": layers.Conv2D(5, 3, use_bias=False, activation="relu"),
        "relu6": layers.Conv2D(5, 3, activation="relu6"),
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
        "depthwise, stride": layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu"),
        "depthwise, dilation": layers.DepthwiseConv2D(3, dilation_rate=2, use_bias=False),
        "batch normalisation": layers.BatchNormalization(epsilon=0.02),
        "batch normalisation, bare": layers.BatchNormalization(scale=False, center=False),
        "relu layer": layers.ReLU(),
        "relu6 layer": layers.ReLU(1.5),
        "activation": layers.Activation("relu"),
        "max pooling": layers.MaxPooling2D((2, 3), strides=2),
        "max pooling, same": layers.MaxPooling2D(3, strides=2, padding="same"),
        "average pooling": layers.AveragePooling2D(2),
        "average pooling, same": layers.AveragePooling2D(3, strides=2, padding="same"),
        "global average": layers.GlobalAveragePooling2D(),
        "global maximum, keepdims": layers.GlobalMaxPooling2D(keepdims=True),
        "zero padding": layers.ZeroPadding2D(((0, 2), (1, 3))),
        "rescaling": layers.Rescaling(0.3, -1.0),
        "rescaling by channel": layers.Rescaling([0.3, 2.0, -1.0], [1.0, 0.5, 0.0]),
        "flatten": layers.Flatten(),
        "dropout": layers.Dropout(0.5),
    }


@pytest.mark.parametrize("case", list(layers_under_test()))
def test_a_layer(case: str) -> None:
    keras = import_keras()
    image = keras.Input((11, 10, 3))
    layer = layers_under_test()[case]
    model = randomised(keras.Model(image, layer(image)))
    assert difference(model, [layer.name]) < 1e-6


def test_branches_a_shared_layer_and_several_outputs() -> None:
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((11, 10, 3))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    one = shared(image)
    two = layers.ReLU(name="two")(shared(layers.Rescaling(-1.0)(image)))
    joined = layers.Concatenate(name="joined")([two, one])
    added = layers.Add(name="added")([one, two, one])
    dense = layers.Dense(7, activation="relu", name="dense")(layers.GlobalAveragePooling2D()(joined))
    model = randomised(keras.Model(image, [two, joined, added, dense]))
    assert difference(model, ["two", "joined", "added", "dense"]) < 1e-6


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda layers: layers.LayerNormalization(name="odd"), "layers of the kind LayerNormalization"),
        (lambda layers: layers.Conv2D(4, 3, activation="tanh", name="odd"), "the activation tanh"),
        (lambda layers: layers.ReLU(negative_slope=0.1, name="odd"), "slope"),
        (lambda layers: layers.Dense(4, name="odd"), "dense layer on maps"),
        (lambda layers: layers.BatchNormalization(axis=1, name="odd"), "axis 1"),
    ],
)
def test_an_unsupported_layer_is_named(make: object, reason: str) -> None:
    keras = import_keras()
    image = keras.Input((11, 10, 3))
    model = keras.Model(image, make(keras.layers)(image))
    with pytest.raises(UsageError, match=rf"layer odd: .*{reason}"):
        to_onnx(model, ["odd"])
