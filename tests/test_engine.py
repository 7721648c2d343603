import numpy as np
import pytest

from featurize.backbone import Backbone, load_backbone
from featurize.engine import default_batch_size, tensorflow_engine

IMAGES = np.random.default_rng(2).integers(0, 256, (64, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def network() -> Backbone:
    return load_backbone("vgg16", layers=("block1_pool", "block2_pool"), image_size=32)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_size_does_not_matter(network: Backbone, batch: int) -> None:
    engine = tensorflow_engine(network)
    whole = engine(IMAGES)
    parts = [engine(IMAGES[start : start + batch]) for start in range(0, len(IMAGES), batch)]
    for layer, reference in enumerate(whole):
        ours = np.concatenate([part[layer] for part in parts])
        assert np.linalg.norm(ours - reference) / np.linalg.norm(reference) < 1e-6


def test_one_trace_serves_every_batch_size(network: Backbone) -> None:
    class Counting:
        calls = 0

        def __call__(self, *arguments: object, **options: object) -> object:
            self.calls += 1
            return network.model(*arguments, **options)

    counting = Counting()
    engine = tensorflow_engine(Backbone("x", "x", "", network.layers, 32, "caffe", counting))
    for count in (1, 5, 64, 3):
        engine(IMAGES[:count])
    assert counting.calls == 1


@pytest.mark.parametrize(("size", "batch"), [(16, 256), (32, 256), (64, 64), (96, 16), (224, 8), (1000, 8)])
def test_default_batch_size(size: int, batch: int) -> None:
    assert default_batch_size(size) == batch
