import atexit
import contextlib
import functools
import gc
import itertools
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from slow_cases import mark_slow

from classify.training.time_limit import HeadTimeoutError, run_with_limit
from featurize.core.errors import HeadError, UsageError

LONG = 300.0  # more than any of this takes on a busy machine


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process is gone; one that nobody has taken off the process table yet is gone too."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError):  # no /proc here
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return False


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def end_all(path: Path) -> None:
    """Leave nothing running after a test that failed."""
    for pid in pids_in(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def append(path: Path, number: int) -> None:
    with path.open("a") as file:
        file.write(f"{number}\n")


def refuse_to_end(path: Path) -> None:
    """Ignores every signal that can be ignored, and has children that do the same, one of them forked."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads beside fork
        forked = os.fork()
    if forked == 0:
        while True:
            time.sleep(1000)
    append(path, forked)
    append(path, subprocess.Popen(["sleep", "1000"]).pid)
    append(path, os.getpid())
    while True:
        with contextlib.suppress(BaseException):
            while True:
                pass


def sleep_long(path: Path) -> None:
    append(path, os.getpid())
    time.sleep(1000)


def multiply_long(path: Path) -> None:
    append(path, os.getpid())
    np.convolve(np.ones(3_000_000), np.ones(3_000_000))


def hold_the_interpreter(path: Path) -> None:
    append(path, os.getpid())
    sum(itertools.repeat(0, 10**13))  # one C call that lets no other thread of Python run


@pytest.mark.parametrize(
    "endless", mark_slow((refuse_to_end, sleep_long, multiply_long, hold_the_interpreter), sleep_long, multiply_long)
)
def test_an_endless_fit_is_really_ended(
    endless: Callable[[Path], None], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    limit, processes = 1.5, 3 if endless is refuse_to_end else 1
    pids: list[int] = []
    while len(pids) < processes:  # until the child had the time to begin, on a busy machine
        limit *= 2
        path = tmp_path / str(limit)
        request.addfinalizer(functools.partial(end_all, path))
        began = time.monotonic()
        with pytest.raises(
            HeadTimeoutError, match=r"^svm was stopped after \d+ seconds.*a larger time_limit"
        ) as caught:
            run_with_limit(limit, endless, path, what="svm")
        assert limit <= time.monotonic() - began < limit + 3
        assert "\n" not in str(caught.value)
        pids = pids_in(path)
        for pid in pids[processes - 1 :]:
            with pytest.raises(ProcessLookupError):  # the child itself is not even a zombie
                os.kill(pid, 0)
        assert all(ended(pid) for pid in pids)
        path.unlink(missing_ok=True)


def test_a_limit_shorter_than_the_start_of_the_child() -> None:
    began = time.monotonic()
    with pytest.raises(HeadTimeoutError, match=r"stopped after 0.01 seconds"):
        run_with_limit(0.01, time.sleep, 0)
    assert time.monotonic() - began < 2


def leave_a_child(path: Path) -> str:
    append(path, subprocess.Popen(["sleep", "1000"]).pid)
    threading.Thread(target=time.sleep, args=(1000,)).start()  # the interpreter would wait for it
    return "done"


def test_what_the_function_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    assert run_with_limit(LONG, leave_a_child, tmp_path / "pids") == "done"
    assert all(ended(pid) for pid in pids_in(tmp_path / "pids"))


def promise(path: Path) -> None:
    atexit.register(path.touch)
    atexit.register(time.sleep, 0.3)  # which comes first


def test_a_child_that_is_done_may_tidy_up(tmp_path: Path) -> None:
    run_with_limit(LONG, promise, tmp_path / "kept")
    assert (tmp_path / "kept").exists()


def where() -> tuple[int, int]:
    return os.getpid(), os.getpgrp()


def test_without_a_limit_the_function_runs_here() -> None:
    assert run_with_limit(None, where) == where()
    pid, group = run_with_limit(LONG, where)
    assert pid == group != os.getpid()


def twice(x: np.ndarray) -> np.ndarray:
    return 2 * x


def test_large_arguments_and_results_pass() -> None:
    x = np.arange(12_000_000, dtype=np.float64)  # 96 MB
    np.testing.assert_array_equal(run_with_limit(LONG, twice, x), 2 * x)


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [UsageError("no such head"), HeadError("one class only"), MemoryError("8 GiB"), KeyError("x")]
)
def test_errors_come_back_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run_with_limit(LONG, fail, error)
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args
    assert "in fail" in str(caught.value.__cause__)  # where it happened


def log() -> None:
    logger = logging.getLogger("frozenbench")
    logger.debug("too much")
    logger.info("epoch %d of %d", 1, 20)
    logger.warning("an object: %s", threading.Lock())  # which cannot be pickled


def test_what_the_child_logs_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "frozenbench"):
        caplog.handler.setLevel(logging.NOTSET)  # the child is to know what is wanted
        run_with_limit(LONG, log)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.records[0].getMessage() == "epoch 1 of 20"
    assert "an object: <unlocked _thread.lock" in caplog.records[1].getMessage()


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def end_beside_a_fork(number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.fork() == 0:
            time.sleep(1000)  # holds the connection open
    end_by(number)


def end_within_the_result(number: int) -> None:
    (connection,) = (thing for thing in gc.get_objects() if isinstance(thing, Connection))
    os.write(connection.fileno(), struct.pack("!i", 1000) + b"the first of 1000 bytes")
    end_by(number)


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (end_by, signal.SIGKILL, r"svm was killed after \d+ seconds, without a result: most likely memory ran out"),
        (end_beside_a_fork, signal.SIGKILL, r"svm was killed after \d+ seconds"),
        (end_within_the_result, signal.SIGKILL, r"svm was killed after \d+ seconds"),
        (end_by, signal.SIGSEGV, r"svm crashed after \d+ seconds, without a result: SIGSEGV"),
        (sys.exit, 3, r"svm ended after \d+ seconds, without a result, with exit code 3"),
        (eval, "lambda: 0", r"svm ended .* exit code 1; the lines above"),  # a result that cannot be pickled
    ],
)
def test_a_child_that_ends_without_a_result(function: Callable, argument: object, message: str) -> None:
    with pytest.raises(HeadError, match=message) as caught:
        run_with_limit(LONG, function, argument, what="svm")
    assert not isinstance(caught.value, HeadTimeoutError)
    assert "\n" not in str(caught.value)


def die_at_once(connection: object, level: int) -> None:
    os._exit(1)


def test_a_child_that_dies_before_it_takes_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classify.training.time_limit._work", die_at_once)
    with pytest.raises(HeadError, match="the fit ended .* exit code 1"):
        run_with_limit(LONG, print, b"x" * 10_000_000)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_that_is_no_time(seconds: float) -> None:
    with pytest.raises(UsageError, match="expected more than 0 seconds"):
        run_with_limit(seconds, where)


TESTS = Path(__file__).parents[2]
SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from classify.training.time_limit import run_with_limit
from test_time_limit import refuse_to_end
if __name__ == "__main__":
    run_with_limit(500, refuse_to_end, Path({pids!r}))
else:  # the child, before it does anything
    Path({pids!r}).touch()
    time.sleep({start})
"""


def start(tmp_path: Path, seconds_to_start: float) -> tuple[subprocess.Popen, Path]:
    """A script that waits for an endless child, and the file with the processes below it."""
    script, pids = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(
        SCRIPT.format(
            path=[str(TESTS.parent), str(TESTS), str(Path(__file__).parent)], pids=str(pids), start=seconds_to_start
        )
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in the background with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return process, pids


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A script that waits for an endless child, and the file with the processes below it."""
    process, pids = start(tmp_path, 0)
    until = time.monotonic() + LONG
    while len(pids_in(pids)) < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    yield process, pids
    process.kill()
    end_all(pids)  # first, as they hold the standard error that is read to its end here
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_does_not_outlive_its_parent(running: tuple[subprocess.Popen, Path], number: int) -> None:
    process, pids = running
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1
    assert all(ended(pid) for pid in pids_in(pids))
    pids.unlink()
