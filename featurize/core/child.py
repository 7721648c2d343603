"""Work on files that may crash a library, in a process of its own with limits."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from featurize.core.errors import BackboneError

ROOT = Path(__file__).parents[2]  # of the packages


def run_child(module: str, folder: Path, what: str, *, seconds: float, memory: int) -> str:
    """Run `python -m MODULE .` in a folder; returns what it prints.

    Args:
        module: of ours; it prints its result on standard output, or one line on standard error.
        folder: its working directory.
        what: the file, for messages.
        seconds: the time limit.
        memory: the limit of its address space, in bytes.

    Raises:
        BackboneError: the process failed, crashed, or reached a limit; the message says which.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-P", "-W", "ignore", "-m", module, "."]  # -P: import nothing from the folder

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, preexec_fn=limit
        )
    except subprocess.TimeoutExpired as error:
        raise BackboneError(f"{what} did not give an answer within {seconds:.0f} s, so it is not used") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BackboneError(f"{what} crashes the library that reads it ({name}), so it is not used")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BackboneError(f"{what} cannot be run: {lines[-1][:300]}")
    return done.stdout
