"""What the command line prints besides results: progress, and one line for an error, with its exit code."""

import errno
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from featurize.core.errors import FrozenbenchError, options_in_messages

logger = logging.getLogger("frozenbench")
WrongUsage: Any = typer.BadParameter.__base__
"""What typer raises for wrong options and arguments; it has no public name."""
TYPER_OPTIONS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,  # `run_command_line` reports errors
    "rich_markup_mode": None,  # "[default: 96]" in a help text is no markup
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
"""The settings that all our typer applications share."""
PLAIN_PROGRESS_SECONDS = 5.0
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of the letters around them, and halves of characters."""
INTERRUPTED = 130  # exit code
OPTION_FOR_A_PATH = {"featurize": "--data", "classify": "--features", "analysis": "--runs"}


class _StandardError(logging.Handler):
    """Writes to standard error as it is at the moment: a live bar replaces it by a stream that prints above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:  # nobody reads it
            self.handleError(record)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(" ".join(f"{record.levelname.lower()}: {record.getMessage()}".splitlines()))


def printable(text: str) -> str:
    r"""A text as a terminal may get it: what would control the terminal is written as an escape, such as `\x1b`.

    Names come from files, which others may have made. Letters of all languages stay as they are.
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(line: str = "") -> None:
    """Print a line of results on standard output, with `printable`. Results that are JSON escape such things alone."""
    print(printable(line))


def run_command_line(app: Callable[..., object]) -> NoReturn:
    """Run a typer application; every expected failure becomes one line on standard error and an exit code."""
    handler = _StandardError()
    handler.setFormatter(_Line())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # TensorFlow warns about tracing a function for each shape of a batch, which is how the heads use it.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with options_in_messages():
        sys.exit(_exit_code(app))


def _exit_code(app: Callable[..., object]) -> int:
    """Run a typer application and log its failure; returns the exit code."""
    try:
        code = app(standalone_mode=False)
    except FrozenbenchError as error:
        logger.error(error)
        return int(error.exit_code)
    except WrongUsage as error:
        logger.error(_usage_error(error))
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except MemoryError as error:
        logger.error("out of memory: %s; use fewer images (--train N) or a shorter vector (--pool avg)", error)
        return 1
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output has gone: `... | head`
            return 1
        where = f"{error.filename}: {error.strerror}" if error.filename else error
        logger.error("%s; check that the path exists, that you may write to it, and that the disk has space", where)
        return 1
    if code == INTERRUPTED:  # typer turns a Ctrl-C into this exit code
        logger.error("interrupted; finished work is saved, and the same command resumes")
    return code if isinstance(code, int) else 0


def _usage_error(error: Any) -> str:
    """One line for wrong usage, with the option that was probably meant, and the command that helps."""
    message = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else "frozenbench"
    stray = re.match("No such command '(.+)'$", message)
    option = OPTION_FOR_A_PATH.get(path.split()[-1])
    if stray and option and ("." in stray[1] or "/" in stray[1] or Path(stray[1]).exists()):
        return f"{stray[1]}: no such command; did you mean {path} {option} {stray[1]}?"
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"


def be_quiet(asked: bool) -> None:
    """Drop progress and information, if `--quiet` was given; warnings, errors and results remain."""
    if asked:
        logger.setLevel(logging.WARNING)


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", help="Print results, warnings and errors only.", callback=be_quiet, is_eager=True, expose_value=False
    ),
]
"""The option of every command."""


def examples(*lines: str) -> str:
    """The end of a command's help text: examples, one a line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])  # \b: lines stay as they are


def comma_separated(text: str) -> tuple[str, ...]:
    """The parts of an option such as `--layers a,b`, each once; none if the text is empty."""
    parts = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


@contextmanager
def progress_display(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows progress: called with the numbers done and in all.

    It draws a live bar on a terminal, and prints a line every few seconds elsewhere; both on standard error. Nothing
    appears before the first call.

    Args:
        what: the plural noun of what is counted, such as "images".
    """
    if not logger.isEnabledFor(logging.INFO):  # --quiet
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress(what).show
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(what)
    with ExitStack() as stack:

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not bar.live.is_started:
                stack.enter_context(bar)

        yield show


class _PlainProgress:
    """Progress in lines, for logs."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.shown = time.monotonic()
        self.began = 0.0
        self.already = 0  # of an interrupted run, which say nothing about the speed

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.began:
            self.began = now
            self.already = done
        elif now - self.shown >= PLAIN_PROGRESS_SECONDS:
            self.shown = now
            seconds_left = (now - self.began) / (done - self.already) * (total - done)
            print(f"{done:,} of {total:,} {self.what}, about {seconds_left:.0f} s left", file=sys.stderr)
