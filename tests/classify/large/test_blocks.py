from pathlib import Path

import numpy as np
import pytest
from tiny_blocks import check_same_features, set_block_rows
from tiny_data import make_dataset, write_tiny_cache

from classify.large import blocks
from classify.large.blocks import FeatureBlocks, shares
from featurize.cache import load_features, read_info
from featurize.core.errors import CacheError


@pytest.mark.parametrize("rows", [1, 7, 120, 500])
def test_all_of_them(rows: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, rows)
    whole = load_features(cache, "train", ("late",))
    found = FeatureBlocks.of(read_info(cache), "train", ("late",))
    assert [len(block) for block in found.blocks[:-1]] == [rows] * (len(found.blocks) - 1)
    assert sum(len(block) for block in found.blocks) == 120
    assert found.dim == 6
    check_same_features(found.load(), whole)


def test_some_of_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 10)
    whole, chosen = load_features(cache, "train"), np.array([0, 9, 10, 45, 119])
    found = FeatureBlocks.of(read_info(cache), "train", rows=chosen)
    assert [len(block) for block in found.blocks] == [2, 1, 1, 1]  # nothing else is read
    np.testing.assert_array_equal(found.load().x, whole.x[chosen])
    np.testing.assert_array_equal(found.y, whole.y[chosen])
    np.testing.assert_array_equal(found.ids, whole.ids[chosen])


def test_some_of_some(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 10)
    whole, chosen = load_features(cache, "train"), np.array([0, 9, 10, 45, 119])
    blocks = FeatureBlocks.of(read_info(cache), "train", rows=chosen)
    check_same_features(blocks.select(np.array([1, 4])).load(), whole.select(chosen[[1, 4]]))
    every = FeatureBlocks.of(read_info(cache), "train")
    check_same_features(every.select(chosen).load(), whole.select(chosen))


def test_workers_may_have_another_working_directory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache.parent)
    found = FeatureBlocks.of(read_info(Path(cache.name)), "train")
    monkeypatch.chdir("/")
    assert found.load().x.shape == (120, 16)


def test_another_cache_in_its_place(cache: Path) -> None:
    found = FeatureBlocks.of(read_info(cache), "train")
    cache.unlink()
    write_tiny_cache(cache, dataset=make_dataset(seed=5))
    with pytest.raises(CacheError, match="has been replaced while it was read: it has the fingerprint .* expected"):
        found.load()


@pytest.mark.parametrize("most", [1, 4, 64])
def test_shares(most: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 13)
    monkeypatch.setattr(blocks, "SHARES", most)
    whole, found = load_features(cache, "train"), FeatureBlocks.of(read_info(cache), "train")
    parts = shares(found, found.y, np.arange(120))
    assert len(parts) == min(most, 10)
    read = [(block.read(), labels, numbers) for share in parts for block, labels, numbers in share]
    for place, expected in enumerate((whole.x, whole.y, np.arange(120))):
        np.testing.assert_array_equal(np.concatenate([each[place] for each in read]), expected)
