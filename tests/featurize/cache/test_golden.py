"""Caches that version 0.1.0 wrote, before the code moved into rooms: still read, and written again byte for byte.

Made with `frozenbench featurize --data sample --train 60 --test 30 --backbone pixels` and `--image-size 4` or
`--image-size 5 --resize lanczos --dtype float16`.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from cache_bytes import header_of

from featurize import extract_features, load_backbone, load_dataset, load_features, read_info
from featurize.cache import CacheContent, SplitRecords, open_writer
from featurize.core.environment import library_versions

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.h5"))
SHA256_OF_X = {  # of both splits as float32
    "pixels": "9a611fcf6d0b9d3bf8bc3f4e48ea632a0d80cb3ee0ac391061a31c82a2fd624d",
    "pixels16": "31a00cc46a65c4aa0bfdc9bfda5434b123874b7dff81b7c398b2bf9252e31b73",
}
FACTS = ("seconds", "images_per_second", "device", "engine_choice", "source")


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_it_is_read(golden: Path) -> None:
    info = read_info(golden)
    digest = hashlib.sha256()
    for split, rows in (("train", 60), ("test", 30)):
        features = load_features(golden, split)
        assert features.x.shape == (rows, info.dim)
        digest.update(features.x.tobytes())
    assert digest.hexdigest() == SHA256_OF_X[golden.stem]


def test_the_same_bytes_are_written(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = header_of(golden)
    if library_versions(["h5py"])["h5py"] != header["versions"]["h5py"]:
        pytest.skip("another libhdf5 may lay out its structure otherwise")
    monkeypatch.setattr("featurize.cache.header.library_versions", lambda packages: header["versions"])
    info = read_info(golden)
    splits = {}
    for name in info.rows:
        features = load_features(golden, name)
        splits[name] = SplitRecords(features.y, features.ids, info.digests[name])
    content = CacheContent(info.dataset, info.class_names, info.weights, info.layers, splits)
    path = tmp_path / "again.h5"
    with open_writer(path, info.spec, content) as writer:
        for name in info.rows:
            with writer.append(name, 0) as rows:
                rows.add(load_features(golden, name).x.astype(info.spec.dtype))
        writer.commit(**{fact: header[fact] for fact in FACTS})
    assert path.read_bytes() == golden.read_bytes()


def test_the_same_command_gives_the_same_cache(golden: Path, tmp_path: Path) -> None:
    info = read_info(golden)
    spec = info.spec
    dataset = load_dataset("sample").first(train=60, test=30)
    backbone = load_backbone("pixels", image_size=spec.image_size)
    options = {"resize": spec.resize, "dtype": spec.dtype}
    again = extract_features(dataset, backbone, out=tmp_path / "again.h5", **options).info
    old, new = header_of(golden), header_of(again.path)
    for facts in (old, new):
        for changing in ("seconds", "images_per_second", "versions", "device", "arrays"):
            del facts[changing]
    assert new == old
    for split in info.rows:
        ours, theirs = load_features(again.path, split), load_features(golden, split)
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.y, theirs.y)
        np.testing.assert_array_equal(ours.ids, theirs.ids)
