"""What the command line prints: one line for whatever went wrong, and the exit code that goes with it."""

import errno
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from featurize.core.errors import FrozenbenchError

logger = logging.getLogger("frozenbench")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{record.levelname.lower()}: {record.getMessage()}".splitlines())


def run_command_line(app: Callable[[], object]) -> NoReturn:
    """Run a typer application; turn what we understand into one line on stderr and an exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        app()
    except FrozenbenchError as error:
        logger.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError as error:
        logger.error("out of memory: %s; use fewer images (--train N) or a shorter vector (--pool avg)", error)
        sys.exit(1)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output went away: `... | head`
            sys.exit(1)
        where = f"{error.filename}: {error.strerror}" if error.filename else error
        logger.error("%s; check that the place exists, may be written to and has room", where)
        sys.exit(1)
    sys.exit(0)
