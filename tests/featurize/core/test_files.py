import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from featurize.core.files import data_root, locked, temporary_folder, written_whole


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


def test_a_folder_is_gone_after_the_block(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "runs" / "run") as temporary:
        (temporary / "part").write_text("half")
        assert temporary.parent == tmp_path / "runs"
    assert os.listdir(tmp_path / "runs") == []


HANG = """
import sys, time
from pathlib import Path
from featurize.core.files import temporary_folder, written_whole
path = Path(sys.argv[1])
with written_whole(path / "file[1].txt") as file, temporary_folder(path / "run") as folder:
    (folder / "part").write_text("half")
    file.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    processes = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", HANG, tmp_path], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
    others = [".file[1].txt.tmp", ".file1.txt.abc.tmp", ".file[2].txt.abc.tmp", "file[1].txt.abc.tmp", ".run"]
    for name in others:
        (tmp_path / name).write_text("")
    alive, dead = processes
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert len(os.listdir(tmp_path)) == len(others) + 4
    with written_whole(tmp_path / "file[1].txt") as temporary:
        temporary.write_text("whole")
    with temporary_folder(tmp_path / "run"):
        pass
    left = set(os.listdir(tmp_path)) - {*others, "file[1].txt"}
    assert len(left) == 2  # of the living process
    assert (tmp_path / "file[1].txt").read_text() == "whole"
    alive.kill()
    alive.wait()
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    with written_whole(tmp_path / "file[1].txt"), temporary_folder(tmp_path / "run"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "file[1].txt"])


def test_what_is_removed_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two, another process may take it for a leftover."""
    lock = fcntl.flock
    removed = []

    def remove_first(handle: int, operation: int) -> None:
        if len(removed) < 3:
            for path in tmp_path.iterdir():
                path.rmdir() if path.is_dir() else path.unlink()
                removed.append(path)
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with temporary_folder(tmp_path / "run") as folder:
        assert folder.is_dir()
    with written_whole(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    assert len(removed) == 3
    assert (tmp_path / "file.txt").read_text() == "whole"


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
