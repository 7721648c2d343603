"""The errors of this project, and their exit codes on the command line.

FrozenbenchError            exit 1: the work failed
├── UsageError              exit 2: the request is wrong (unknown layer, impossible size)
├── DataError               images or labels are missing, damaged or of the wrong shape
├── DownloadError           a download failed, or is not the pinned file
├── BackboneError           a network or its weights could not be loaded, or gave unusable values
├── ClusterError            a cluster cannot be reached, or its workers cannot do the work
├── CacheError              a feature cache is missing, damaged or cannot be written
│   └── CacheMismatchError  a feature cache has another specification than the requested one
└── HeadError               a head cannot be trained on these features
    └── HeadTimeoutError    a head was stopped at its time limit (classify/training/time_limit.py)

Every message says what happened, where, what was expected and what to do next, in one line. It is written with the
options of the command line, such as `--train-size`. From Python, the text of an error names the parameters instead.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

OPTION_OR_COMMAND = re.compile(
    r"(?P<command>\b(frozenbench (featurize|classify|analysis|audit|export|run|serve)|python -m|dask (worker|scheduler)"
    r"|pip install)\b[^;,()]*)"
    r"|(?<![\w/-])--(?P<option>[a-z][a-z-]*)"
)
"""An option, or a whole command, whose options stay what they are."""
PARAMETERS = {
    "data": "source",
    "head": "estimator",
    "model": "estimator",
    "no-reuse": "reuse=None",
    "overwrite": "overwrite=True",
    "shards": "shards_at",
}
"""The parameters whose names are not those of their options."""


class FrozenbenchError(Exception):
    """The base of every error that this project raises on purpose."""

    exit_code = 1
    names_options: ClassVar[bool] = False  # true while the command line runs

    @property
    def with_options(self) -> str:
        """The message as it is written, with the options of the command line."""
        return super().__str__()

    def __str__(self) -> str:
        return self.with_options if self.names_options else with_parameters(self.with_options)


class UsageError(FrozenbenchError):
    """The request is wrong, whatever the files hold."""

    exit_code = 2


class DataError(FrozenbenchError):
    """Images or labels are missing, damaged or of the wrong shape."""


class DownloadError(FrozenbenchError):
    """A download failed, or is not the pinned file."""


class BackboneError(FrozenbenchError):
    """A network or its weights could not be loaded, or gave unusable values."""


class ClusterError(FrozenbenchError):
    """A cluster cannot be reached, or its workers cannot do the work."""


class CacheError(FrozenbenchError):
    """A feature cache is missing, damaged or cannot be written."""


class CacheMismatchError(CacheError):
    """A feature cache has another specification than the requested one."""


class HeadError(FrozenbenchError):
    """A head cannot be trained on these features."""


@contextmanager
def options_in_messages() -> Iterator[None]:
    """Let errors name the options of the command line."""
    FrozenbenchError.names_options = True
    try:
        yield
    finally:
        FrozenbenchError.names_options = False


def with_parameters(message: str) -> str:
    """A message with the parameters of Python in place of the options, except for those in commands."""

    def parameter(found: re.Match[str]) -> str:
        if found["command"]:
            return found[0]
        return PARAMETERS.get(found["option"], found["option"].replace("-", "_"))

    return OPTION_OR_COMMAND.sub(parameter, message)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters; its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def suggestion(word: str, known: list[str]) -> str:
    """The close matches of `word` among `known`, or all of them, as the end of an error message."""
    import difflib

    close = difflib.get_close_matches(word, known, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
    return f"known: {shown}"
