import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_blocks import set_block_rows

from classify.large import workers
from classify.large.blocks import FeatureBlocks, Share, shares
from classify.large.memory import memory_limit
from classify.large.workers import work_pool
from classify.training import checks
from featurize.cache import read_info
from featurize.core.errors import ClusterError


def _where(share: Share) -> int:
    return os.getpid()


def _where_or_die(share: Share, dying: int) -> int:
    """A worker that is lost; 0 for all of them."""
    if dying in (0, os.getpid()):
        os._exit(1)
    return os.getpid()


def test_a_share_is_always_the_same_workers(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    parts = shares(FeatureBlocks.of(read_info(cache), "train"))
    with work_pool(1, client) as pool:
        passes = [list(pool.map(_where, parts)) for _ in range(3)]
    assert passes[0] == passes[1] == passes[2]
    assert len(set(passes[0])) == 2
    assert os.getpid() not in passes[0]


def test_the_checks(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    rows = FeatureBlocks.of(read_info(cache), "train")
    found = checks.survey(rows, "training", client=client)
    np.testing.assert_array_equal(found.digests, checks.survey(rows.load(), "training").digests)


def test_a_worker_knows_its_own_limit(client: Any) -> None:
    limits = {worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()}
    assert client.submit(memory_limit).result() in limits
    assert client.submit(memory_limit, pure=False).result() <= memory_limit()


def test_another_worker_takes_over(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 7)
    parts = shares(FeatureBlocks.of(read_info(cache), "train"))
    with work_pool(1, client) as pool:
        before = list(pool.map(_where, parts))
        after = list(pool.map(_where_or_die, parts, before[0]))
    assert set(before) - {before[0]} <= set(after)
    assert before[0] not in after
    assert len(after) == len(parts)


def test_all_workers_are_lost(client: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    parts = shares(FeatureBlocks.of(read_info(cache), "train"))
    with pytest.raises(ClusterError, match="lost|gave up"), work_pool(1, client) as pool:
        list(pool.map(_where_or_die, parts, 0))
