"""Run a function for so long and no longer."""

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
# How long a child that has given its result may take to leave, and how often a silent one is looked at.
SECONDS_TO_LEAVE = 2.0
SECONDS_BETWEEN_LOOKS = 1.0


class HeadTimeoutError(HeadError):
    """A head was stopped because it took longer than it was given."""


def within(seconds: float | None, function: Callable[..., Any], *args: Any, what: str = "the fit") -> Any:
    """Call `function(*args)`, for at most so many seconds.

    With a limit it runs in a child process, which is ended by force when the time is over, together
    with all processes that it started: nothing that it does, a signal handler or a C library that
    never returns, holds it up. The clock runs from the start of the child, so the second or two
    that it takes to import what it needs count. The child begins as a new interpreter (a fork would
    inherit the locks of TensorFlow's and OpenMP's threads, but not the threads), so a script that
    calls this needs the usual `if __name__ == "__main__":`.

    Args:
        seconds: the limit; None to call the function here.
        function: at the top level of a module.
        args: what it takes; they are pickled, so the path of a feature cache is better than its arrays.
        what: the work, as the error message calls it.

    Returns:
        What the function returned, pickled in the child and unpickled here. What it logs to the
        logger "frozenbench" is logged here.

    Raises:
        HeadTimeoutError: the time was over.
        HeadError: the child ended without a result, such as when memory ran out.
        UsageError: the limit is no time.
        Exception: what the function raised, as it is, with the child's traceback as its cause.
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
        succeeded, value = _outcome(connection, child, began + seconds)
        wait([child.sentinel], SECONDS_TO_LEAVE)
    except TimeoutError:
        raise HeadTimeoutError(
            f"{what} was stopped after {seconds:g} seconds, before it was done; "
            "give it more time (a larger --time-limit) or less to do (a smaller --train-size)"
        ) from None
    except (EOFError, OSError):  # nothing more to read, or a message cut short
        child.join(SECONDS_TO_LEAVE)
        raise HeadError(_how_it_ended(what, child.exitcode, time.monotonic() - began)) from None
    finally:
        _end(child)
        connection.close()
    if not succeeded:
        raise value
    return value


def _outcome(connection: Connection, child: Any, deadline: float) -> tuple[bool, Any]:
    """Whether the function returned, and what it returned or raised; log what it logs meanwhile.

    Raises:
        TimeoutError: the deadline passed first.
        EOFError: the child ended without either.
    """
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if connection.poll(min(remaining, SECONDS_BETWEEN_LOOKS)):
            kind, value = connection.recv()
            if kind != "log":
                return kind == "result", value
            logger.handle(value)
        # A process that the child forked may hold the connection open after it.
        elif child.exitcode is not None and not connection.poll():
            raise EOFError


def _end(child: Any) -> None:
    """Kill a process and all of its group, and take it off the process table."""
    with suppress(ProcessLookupError, PermissionError):  # it has left, or has not made its group yet
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
    """What the child does: receive a function with its arguments, call it, send what came of it."""
    os.setsid()  # a group of its own, which can be killed whole; Ctrl-C is the parent's affair
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
    handler.acquire()  # a thread that the function left behind may be logging
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
