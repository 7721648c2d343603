"""Run a function with a time limit."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any

from featurize.core.errors import HeadError, UsageError

logger = logging.getLogger("frozenbench")
SECONDS_TO_LEAVE = 2.0  # for a child that has sent its result
SECONDS_BETWEEN_CHECKS = 1.0  # that a silent child is still alive


class HeadTimeoutError(HeadError):
    """A head was stopped at its time limit."""


def run_with_limit(seconds: float | None, function: Callable[..., Any], *args: Any, what: str = "the fit") -> Any:
    """Call `function(*args)` and stop it after a number of seconds.

    With a limit, the function runs in a child process, which is killed when the time is over together with
    all processes that it started. Nothing that it does, such as a signal handler or a C library that never
    returns, can prevent that. The clock runs from the start of the child, so the second or two of its
    imports count. The child is a new interpreter, because a fork would inherit the locks of TensorFlow's
    and OpenMP's threads but not the threads. A script that calls this needs `if __name__ == "__main__":`.

    Args:
        seconds: the limit; None to call the function in this process.
        function: at the top level of a module.
        args: its arguments, which are pickled: pass the path of a feature cache rather than its arrays.
        what: names the work in error messages.

    Returns:
        The function's result, pickled in the child and unpickled here. The lines that it logs to the
        logger "frozenbench" are logged here.

    Raises:
        HeadTimeoutError: the time was over.
        HeadError: the child ended without a result, for example because memory ran out.
        UsageError: the limit is not a positive number.
        Exception: an exception of the function, unchanged, with the child's traceback as its cause.
    """
    if seconds is None:
        return function(*args)
    if not seconds > 0:
        raise UsageError(f"--time-limit {seconds}: expected more than 0 seconds")
    context = multiprocessing.get_context("spawn")
    connection, childs_end = context.Pipe()
    child = context.Process(target=_work, args=(childs_end, logger.getEffectiveLevel()), name=what)
    began = time.monotonic()
    child.start()
    childs_end.close()
    try:
        connection.send((function, args))
        succeeded, value = _receive(connection, child, began + seconds)
        wait([child.sentinel], SECONDS_TO_LEAVE)
    except TimeoutError:
        raise HeadTimeoutError(
            f"{what} was stopped after {seconds:g} seconds, before it was done; "
            "give it more time (a larger --time-limit) or less to do (a smaller --train-size)"
        ) from None
    except (EOFError, OSError):  # no message, or half of one
        child.join(SECONDS_TO_LEAVE)
        raise HeadError(_how_it_ended(what, child.exitcode, time.monotonic() - began)) from None
    finally:
        _end(child)
        connection.close()
    if not succeeded:
        raise value
    return value


def _receive(connection: Connection, child: Any, deadline: float) -> tuple[bool, Any]:
    """Whether the function returned, and its result or its exception; its log records are logged meanwhile.

    Raises:
        TimeoutError: the deadline passed.
        EOFError: the child ended without a result.
    """
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if connection.poll(min(remaining, SECONDS_BETWEEN_CHECKS)):
            kind, value = connection.recv()
            if kind != "log":
                return kind == "result", value
            logger.handle(value)
        # If the child forked, the connection stays open after the child's end.
        elif child.exitcode is not None and not connection.poll():
            raise EOFError


def _end(child: Any) -> None:
    """Kill a process and all of its group, and remove it from the process table."""
    with suppress(ProcessLookupError, PermissionError):  # it has ended, or has no group of its own yet
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()
    child.close()


def _how_it_ended(what: str, exitcode: int | None, seconds: float) -> str:
    after = f"after {seconds:.0f} seconds, without a result"
    if exitcode == -signal.SIGKILL:
        return (
            f"{what} was killed {after}: most likely memory ran out; "
            "use fewer rows (a smaller --train-size) or shorter vectors (--layers), or close other programs"
        )
    if exitcode is not None and exitcode < 0:
        return f"{what} crashed {after}: {signal.Signals(-exitcode).name}; try it with --jobs 1"
    return f"{what} ended {after}, with exit code {exitcode}; the lines above may say why"


def _work(connection: Any, level: int) -> None:
    """The child: receive a function with its arguments, call it, send its result or its exception."""
    os.setsid()  # a process group, which can be killed as a whole, and which Ctrl-C does not reach
    threading.Thread(target=_die_with_parent, daemon=True).start()
    handler = _Sender(connection)
    logger.addHandler(handler)
    logger.setLevel(level)
    outcome: tuple[str, Any]
    try:
        function, args = connection.recv()
        outcome = "result", function(*args)
    except Exception as error:
        outcome = "error", ExceptionWithTraceback(error, error.__traceback__)
    handler.acquire()  # the function may have left a thread that logs
    connection.send(outcome)
    handler.release()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


class _Sender(QueueHandler):
    """Sends log records to the parent."""

    queue: Any

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(("log", record))
