"""Rows in blocks, scored by discriminants that never saw them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_blocks import make_cache, set_block_rows

from classify.heads.lda import FOLDS
from classify.large.blocks import FeatureBlocks
from classify.large.held_out import held_out
from featurize.cache import read_info


def test_the_workers_of_a_cluster_find_the_same(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 50)
    info = read_info(make_cache(tmp_path / "tiny.h5", train=600))
    rows = FeatureBlocks.of(info, "train")
    folds = np.arange(len(rows.y)) % (FOLDS + 1)  # those of the last one are scored, and nothing is fitted on them
    here, there = (held_out(rows, rows, folds, components=8, threads=2, client=each) for each in (None, client))
    np.testing.assert_allclose(there.scores, here.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.abs(there.components), np.abs(here.components), rtol=1e-3, atol=1e-3)
    assert there.shrinkage == here.shrinkage
    assert there.temperature == pytest.approx(here.temperature, rel=1e-4)
    assert (here.scores.argmax(axis=1) == rows.y).mean() > 0.5
