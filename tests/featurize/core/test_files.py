import logging
import os
import threading
from pathlib import Path

import pytest

from featurize.core.files import data_root, locked, written_whole


def test_a_finished_block_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_failing_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), written_whole(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("fsync"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("rename"), replace(self, target))[1])
    with written_whole(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    assert events == ["fsync", "rename", "fsync"]


def test_a_lock_excludes_all_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "new" / "lock"

    def add_a_line() -> None:
        for _ in range(20):
            with locked(path) as file:
                file.seek(0)
                count = len(file.readlines())
                file.write(b"%d\n" % count)

    caplog.set_level(logging.INFO, "frozenbench")
    threads = [threading.Thread(target=add_a_line) for _ in range(4)]
    with locked(path):
        for thread in threads:
            thread.start()
        while caplog.text.count(f"another process is at work on {path}; waiting") < 4:
            pass
        assert path.read_bytes() == b""
    for thread in threads:
        thread.join()
    assert path.read_text().split() == [str(number) for number in range(80)]


def test_a_lock_on_a_file_that_its_holder_deletes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, found = tmp_path / "lock", []

    def wait() -> None:
        with locked(path) as file:
            found.append(os.path.samestat(os.fstat(file.fileno()), path.stat()))

    caplog.set_level(logging.INFO, "frozenbench")
    thread = threading.Thread(target=wait)
    with locked(path):
        thread.start()
        while "waiting" not in caplog.text:
            pass
        path.unlink()
    thread.join()
    assert found == [True]


def test_the_environment_names_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROZENBENCH_DATA", "/somewhere")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("FROZENBENCH_DATA")
    assert data_root() == Path("data")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
