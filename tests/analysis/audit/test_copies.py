import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_runs import make_result, write_run

from analysis.audit.copies import find_copies, nearest, unit
from analysis.audit.leaks import leak_effects
from analysis.audit.pictures import Pictures, outlines_of
from analysis.audit.suspects import Rows

ORIGINALS = 300
SOURCES = np.arange(0, 40)


def scene(random: np.random.Generator) -> np.ndarray:
    """A smooth random picture with a few edges, uint8 (32, 32, 3)."""
    coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)).copy()
    for _ in range(4):
        top, left = random.integers(0, 24, 2)
        picture[top : top + random.integers(3, 9), left : left + random.integers(3, 9)] = random.integers(0, 256, 3)
    return picture


def saved_again(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


def shifted(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((0, 0), (1, 0), (0, 0)), mode="edge")[:, :32]


CHANGES = {
    "exact": lambda picture: picture,
    "near": saved_again,
    "shifted": shifted,
    "mirrored": lambda picture: picture[:, ::-1],
    "brighter": lambda picture: (picture * 1.05).clip(0, 255).astype(np.uint8),
}


def pictures_of(pixels: np.ndarray) -> Pictures:
    digests = np.array([hashlib.sha256(each.tobytes()).digest() for each in pixels], "S32")
    return Pictures(digests, outlines_of(pixels), np.full(len(pixels), 32))


def components_of(pixels: np.ndarray) -> np.ndarray:
    """Vectors that know the colours but not the side, as an average-pooled network's do."""
    small = pixels.reshape(len(pixels), 8, 4, 8, 4, 3).mean(axis=(2, 4))
    both = small + small[:, :, ::-1]
    return both.reshape(len(pixels), -1).astype(np.float32)


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found(change: str) -> None:
    random = np.random.default_rng(0)
    originals = np.stack([scene(random) for _ in range(ORIGINALS)])
    planted = np.stack([CHANGES[change](originals[source]) for source in SOURCES])
    pixels = np.concatenate([originals, planted])
    found = find_copies(components_of(pixels), pictures_of(pixels))
    expected = {(int(source), ORIGINALS + number) for number, source in enumerate(SOURCES)}
    pairs = {tuple(pair) for pair in found.pairs.tolist()}
    assert len(pairs & expected) >= 0.95 * len(expected)
    assert len(pairs & expected) >= 0.95 * len(pairs)
    kind = {"shifted": "near", "brighter": "near"}.get(change, change)
    assert (found.kinds == kind).mean() > 0.9


def test_without_pictures_only_equal_vectors_are_copies() -> None:
    random = np.random.default_rng(0)
    components = random.normal(size=(50, 16)).astype(np.float32)
    components[49] = components[7]
    components[48] = components[8] + 0.1 * random.normal(size=16)
    found = find_copies(components, None)
    assert found.pairs.tolist() == [[7, 49]]
    assert found.kinds.tolist() == ["vector"]


def test_neighbours_are_those_of_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.audit.copies.BLOCK", 7)
    monkeypatch.setattr("analysis.audit.copies.WIDE", 11)
    vectors = unit(np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    numbers, cosines = nearest(vectors, vectors, 3)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    np.testing.assert_array_equal(numbers, np.argsort(-similar, axis=1)[:, :3])
    np.testing.assert_allclose(cosines, -np.sort(-similar, axis=1)[:, :3], rtol=1e-5)


def test_leaks_and_conflicts() -> None:
    pixels = np.stack([scene(np.random.default_rng(seed)) for seed in range(30)])
    pixels[29], pixels[28] = pixels[0], pixels[1]
    found = find_copies(components_of(pixels), pictures_of(pixels))
    labels = np.zeros(30, np.int64)
    labels[28] = 1
    splits = np.array(["train"] * 29 + ["test"])
    rows = Rows(splits, np.arange(30), labels, None, np.zeros(30, np.int64))
    assert found.pairs.tolist() == [[0, 29], [1, 28]]
    assert found.across(rows).tolist() == [True, False]
    assert found.conflicting(rows).tolist() == [False, True]


def test_what_leaks_are_worth(tmp_path: Path) -> None:

    label = np.zeros(100, int)
    predicted = np.array([0] * 10 + [0] * 45 + [1] * 45)  # the ten leaked ones are right, half of the others
    write_run(
        tmp_path / "a" / "logreg-1",
        make_result(),
        pd.DataFrame({"id": np.arange(100), "label": label, "predicted": predicted}),
    )
    runs = {tmp_path / "a" / "logreg-1": make_result(), tmp_path / "gone": make_result()}
    [effect] = leak_effects(runs, "f" * 64, np.arange(10))
    assert (effect.accuracy, effect.without) == (0.55, 0.5)
    assert effect.points == pytest.approx(5)
    assert 0 < effect.low < 5 < effect.high
    assert leak_effects(runs, "another", np.arange(10)) == []
