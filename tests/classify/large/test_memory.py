import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from slow_cases import mark_slow
from tiny_blocks import make_wide_cache, set_block_rows

from classify.large import memory
from classify.large.blocks import Block, FeatureBlocks
from classify.large.memory import memory_limit
from classify.training import checks
from classify.training.evaluate import evaluate_head, fit_head
from featurize.cache import read_info


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    read = Block.read
    monkeypatch.setattr(Block, "read", lambda block: found.append(block.start) or read(block))
    return found


@pytest.mark.parametrize("name", mark_slow(("logreg", "linear-svm"), "linear-svm"))
def test_the_matrix_is_never_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6,000 x 512 numbers in blocks of 100 rows, none of which is remembered."""
    set_block_rows(monkeypatch, 100, dim=512)
    monkeypatch.setattr(memory, "SHARE_FOR_BLOCKS", 0)
    info = read_info(make_wide_cache(tmp_path / "wide.h5", 6000, 512))
    matrix, found, test = 6000 * 512 * 4, FeatureBlocks.of(info, "train"), FeatureBlocks.of(info, "test")
    fit_head(name, FeatureBlocks.of(info, "train", rows=np.arange(100)))  # imports
    for work in (
        lambda: checks.survey(found, "training"),
        lambda: evaluate_head(fit_head(name, found), test),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.25 * matrix


def test_with_room_enough_no_block_is_read_in_every_pass(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 50)
    found = reads_of(monkeypatch)
    fitted = fit_head("linear-svm", FeatureBlocks.of(read_info(cache), "train"))
    assert fitted.iterations > 2
    assert found == [0, 50, 100] * 2  # for the scaling, and to be scaled
    assert memory._blocks == {}


def test_remembered_blocks_are_bounded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 30)
    monkeypatch.setattr(memory, "memory_limit", lambda: 2 * 2 * 30 * 16 * 4 + 100)
    found, most = reads_of(monkeypatch), []
    monkeypatch.setattr(
        "classify.large.passes.remembered_block",
        lambda *args: (memory.remembered_block(*args), most.append(len(memory._blocks)))[0],
    )
    fitted = fit_head("logreg", FeatureBlocks.of(read_info(cache), "train"))
    assert max(most) == 2
    assert found[:8] == [0, 30, 60, 90] * 2
    assert set(found[8:]) == {60, 90}  # the first two are there, in every pass
    assert len(found[8:]) >= 2 * fitted.iterations


def test_blocks_of_another_fit_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block_rows(monkeypatch, 60)
    one, two = FeatureBlocks.of(read_info(cache), "train").blocks
    monkeypatch.setattr(memory, "memory_limit", lambda: 2 * one.read().nbytes)
    for fit, block in (("old", one), ("old", two), ("new", one), ("new", two)):
        np.testing.assert_array_equal(memory.remembered_block(fit, block, Block.read), block.read())
    assert list(memory._blocks) == [("new", "train", 0)]
    memory.forget_blocks("new")
    assert memory._blocks == {}


def test_no_block_is_remembered_after_a_failure(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        assert memory._blocks
        raise MemoryError

    monkeypatch.setattr("classify.large.fits.logistic_loss", fail)
    with pytest.raises(MemoryError):
        fit_head("logreg", FeatureBlocks.of(read_info(cache), "train"))
    assert memory._blocks == {}


def test_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [tmp_path / "new", tmp_path / "old"]
    monkeypatch.setattr(memory, "CONTROL_GROUP_LIMITS", limits)
    everything = memory_limit()
    assert everything == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits[0].write_text("max\n")
    limits[1].write_text("9223372036854771712\n")
    assert memory_limit() == everything
    limits[0].write_text("1000000\n")
    assert memory_limit() == 1_000_000
