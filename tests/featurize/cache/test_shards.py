import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from featurize.cache.shards import Shards, discard
from featurize.core.errors import CacheError
from featurize.core.files import locked

ROWS = np.arange(120, dtype=np.float32).reshape(30, 4)


def make_shards(folder: Path, plan: str = "plan") -> Shards:
    folder.mkdir(parents=True, exist_ok=True)
    shards = Shards(folder, plan, {"train": 30, "test": 10}, 4, "float32")
    shards.resume()
    return shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = make_shards(tmp_path / "x.parts")
    for start, stop in ((0, 10), (10, 15), (15, 30)):
        shards.add("train", start, ROWS[start:stop])
    return tmp_path / "x.parts"


def test_rows_are_there_again(folder: Path) -> None:
    shards = make_shards(folder)
    assert shards.done == {"train": 30, "test": 0}
    np.testing.assert_array_equal(np.concatenate(list(shards.read("train"))), ROWS)
    assert sorted(os.listdir(folder)) == [f"train-{start:012d}.h5" for start in (0, 10, 15)]


def test_a_gap_is_found(folder: Path) -> None:
    (folder / "train-000000000010.h5").unlink()
    shards = make_shards(folder)
    assert shards.done["train"] == 25
    assert shards.missing("train") == [(10, 15)]
    assert shards.missing("test") == [(0, 10)]
    shards.add("train", 10, ROWS[10:15])
    assert shards.missing("train") == []
    np.testing.assert_array_equal(np.concatenate(list(shards.read("train"))), ROWS)


def test_what_overlaps_is_dropped(folder: Path) -> None:
    """Ranges of another size, by a worker that nobody waited for."""
    make_shards(folder).write("train", 5, ROWS[5:12])
    shards = make_shards(folder)
    assert not shards.path("train", 5).exists()
    assert shards.done["train"] == 30
    np.testing.assert_array_equal(np.concatenate(list(shards.read("train"))), ROWS)


@pytest.mark.parametrize("place", ["99999 5", "1584 31", "100 5", "1584", "1584 0", "-1 5", "a b", ""])
def test_places_that_cannot_be(folder: Path, place: str) -> None:
    """Sealed by whoever made them up."""
    shards = make_shards(folder)
    content = shards.path("train", 10).read_bytes()[512:]
    behind = place.encode().ljust(512 - 65, b"\n") + content
    shards.path("train", 10).write_bytes(shards._seal("train", 10, behind).encode() + b"\n" + behind)
    with pytest.raises(CacheError, match="is not a shard of this extraction"):
        shards.read_shard("train", 10)
    assert make_shards(folder).missing("train") == [(10, 15)]


def test_more_rows_than_there_are(folder: Path) -> None:
    shards = make_shards(folder)
    Shards(folder, "plan", {"train": 99, "test": 10}, 4, "float32").write("train", 28, ROWS[:5])
    with pytest.raises(CacheError, match="is not a shard of this extraction"):
        shards.read_shard("train", 28)


@pytest.mark.parametrize("number", range(100))
def test_any_flipped_bit_is_noticed(folder: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "train-000000000010.h5"
    content = bytearray(path.read_bytes())
    bit = int(np.random.default_rng(number).integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert make_shards(folder).missing("train") == [(10, 15)]
    assert "train-000000000010.h5 is damaged" in caplog.text


@pytest.mark.parametrize("size", [0, 10, 64, 65, 66, 511, 512, 1584, 1600, 1663])
def test_any_truncation_is_noticed(folder: Path, size: int) -> None:
    path = folder / "train-000000000010.h5"
    path.write_bytes(path.read_bytes()[:size])
    assert make_shards(folder).missing("train") == [(10, 15)]


def test_a_shard_belongs_to_its_place_and_plan(folder: Path) -> None:
    assert make_shards(folder, "another plan").done["train"] == 0
    shards = make_shards(folder)
    shards.add("train", 0, ROWS[:10])
    shards.add("train", 10, ROWS[10:20])
    (folder / "train-000000000010.h5").rename(folder / "train-000000000020.h5")
    (folder / "train-000000000000.h5").rename(folder / "train-000000000010.h5")
    (folder / "train-000000000020.h5").rename(folder / "train-000000000000.h5")
    assert make_shards(folder).done["train"] == 0


def test_damage_between_writing_and_assembly_is_noticed(folder: Path) -> None:
    shards = make_shards(folder)
    path = folder / "train-000000000010.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CacheError, match="is damaged: its content does not match its seal; run the same command"):
        list(shards.read("train"))
    assert make_shards(folder).missing("train") == [(10, 15)]


def test_a_foreign_file_among_the_shards(folder: Path) -> None:
    (folder / "train-mine.h5").write_bytes(b"what is this")
    assert make_shards(folder).done["train"] == 30
    assert len(os.listdir(folder)) == 3


def test_leftovers_of_a_killed_process_are_removed(folder: Path) -> None:
    (folder / ".train-000000000030.h5.abc.tmp").write_bytes(b"half")
    make_shards(folder)
    assert len(os.listdir(folder)) == 3


def test_one_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with locked(tmp_path / "x.parts" / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1

    caplog.set_level("INFO", "frozenbench")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert "another process is at work" in caplog.text


def test_a_lock_that_was_removed_with_its_folder_counts_no_more(tmp_path: Path) -> None:
    """The one who waited gets a new folder and lock, not the removed ones."""
    folder = tmp_path / "x.parts"
    entered = []

    def second() -> None:
        with locked(folder / "lock"):
            entered.append((folder / "lock").exists())

    with locked(folder / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        discard(folder)
    thread.join(10)
    assert entered == [True]


HOLD = """
import sys, time
from pathlib import Path
from featurize.core.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path / "x.parts" / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    began = time.monotonic()
    with locked(tmp_path / "x.parts" / "lock"):
        assert time.monotonic() - began < 5
