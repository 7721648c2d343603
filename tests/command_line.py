"""Run the commands, in processes of their own as a shell does, or in this one."""

import contextlib
import io
import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent


def command(*arguments: str) -> subprocess.CompletedProcess:
    """`python -m ARGUMENTS` in the root of the checkout; returns its exit code and output."""
    words = [sys.executable, "-m", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


def command_here(*arguments: str) -> subprocess.CompletedProcess:
    """The same in this process, where the libraries are loaded only once: for most requests that are refused."""
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("frozenbench")
    handlers, level = list(logger.handlers), logger.level
    code = None
    try:
        with (
            contextlib.chdir(ROOT),
            mock.patch.object(sys, "argv", list(arguments)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            runpy.run_module(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def json_of(*arguments: str) -> dict:
    """The JSON that a command prints with --json; the command must succeed."""
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_failed(done: subprocess.CompletedProcess, code: int, *parts: str) -> None:
    """The command ended with `code` and one error line, which holds the `parts`."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in errors[0]
