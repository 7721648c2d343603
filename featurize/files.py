"""Where files live, and how one is written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def data_root() -> Path:
    """The folder of downloads, feature caches and runs: $FROZENBENCH_DATA, else `data`."""
    return Path(os.environ.get("FROZENBENCH_DATA") or "data")


@contextmanager
def written_whole(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; move it to `path` when the block ends well.

    The content is flushed to the disk before it takes its final name, and the name before the
    block returns, so that after a crash `path` is either absent, or the old file, or the new one.
    When the block raises, the temporary file is removed and `path` is left as it was.

    Args:
        path: the final path.
        folder: where the temporary file is kept, on the same disk; beside `path` if not given.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = folder or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; ours are ordinary ones
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
