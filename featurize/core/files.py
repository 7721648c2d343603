"""The data folder, atomic writes, locks, and content-addressed files."""

import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Any

logger = logging.getLogger("frozenbench")
TEMPORARY = ".tmp"
"""The suffix of what is being written."""


def data_root() -> Path:
    """The folder of downloads, feature caches and runs: $FROZENBENCH_DATA, else `data`."""
    return Path(os.environ.get("FROZENBENCH_DATA") or "data")


@contextmanager
def written_whole(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path, and move it to `path` if the block succeeds.

    The content is flushed to the disk before it gets its final name, and the name before the block returns. So
    after a crash `path` is absent, the old file, or the new one. If the block raises, the temporary file is
    removed and `path` stays as it was. What dead processes left for the same path is removed first.

    Args:
        path: the final path.
        folder: of the temporary file, on the same disk; beside `path` if None.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = folder or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path, folder)
    temporary, handle = _temporary_file(path, folder)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which is removed after the block.

    What dead processes left for the same path is removed first.

    Raises:
        OSError: the folder above cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path, path.parent)
    temporary, handle = _temporary_directory(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _remove_leftovers(path: Path, folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in `folder` for `path`.

    A process holds a lock on what it is writing, and the lock ends with the process. What is locked stays.
    """
    for leftover in folder.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        with suppress(OSError):  # locked, another user's, or gone by now
            is_folder = leftover.is_dir()
            handle = os.open(leftover, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_folder:
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
            finally:
                os.close(handle)


def _temporary_file(path: Path, folder: Path) -> tuple[Path, int]:
    """A new locked file for the content of `path`, and the handle that holds the lock."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=folder)
        if _is_locked(handle, name):
            return Path(name), handle


def _temporary_directory(path: Path) -> tuple[Path, int]:
    """A new locked folder beside `path`, and the handle that holds the lock."""
    while True:
        name = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        handle = os.open(name, os.O_RDONLY)
        if _is_locked(handle, name):
            return Path(name), handle


def _is_locked(handle: int, name: str) -> bool:
    """Lock what has just been made; false, and the handle closed, if `_remove_leftovers` took it for a leftover."""
    with suppress(OSError):  # a file system without locks, where `_remove_leftovers` removes nothing either
        fcntl.flock(handle, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), Path(name).stat()):
            return True
    os.close(handle)
    return False


def write_whole(path: Path, *content: bytes | memoryview) -> None:
    """Write a file like `written_whole`, or a remote one with universal_pathlib.

    Object stores show a file once it is complete. Other stores may leave half a file, which a seal must reveal.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    if isinstance(path, PurePath):
        with written_whole(path) as temporary, temporary.open("wb") as file:
            file.writelines(content)
    else:
        path.write_bytes(b"".join(content))


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Hold an exclusive lock on a file for this process, and wait while another process holds it.

    The lock is flock's, so it ends with the process that holds it, however that process ends.

    Args:
        path: the file, which is created if it does not exist, with its folder.

    Yields:
        The file, open for reading and appending, at its end.

    Raises:
        OSError: the file cannot be opened.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process is at work on %s; waiting for it to end", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            # The process that held the lock may have deleted the file: then this lock excludes nobody.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def sealed(folder: Path, identity: list[Any], suffix: str) -> tuple[Path, bytes] | None:
    """The path and the content of the file that `seal` wrote; None if it does not exist or is damaged.

    The file's name ends in the SHA-256 of its content, which is checked before anything parses it.
    """
    key = _key(identity)
    for path in folder.glob(f"{key}-*{suffix}"):
        content = path.read_bytes()
        if path.name == _sealed_name(key, content, suffix):
            return path, content
        logger.warning("%s is damaged: its content does not match its name; it is made again", path)
        with suppress(OSError):  # it stays in a read-only folder, and is ignored every time
            path.unlink()
    return None


def seal(folder: Path, identity: list[Any], suffix: str, content: bytes) -> Path:
    """Write a file whose name is made of its identity and the SHA-256 of its content.

    Args:
        folder: of the file.
        identity: everything that determines the content, as JSON values.
        suffix: of the name, with its dot.
        content: of the file.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = folder / _sealed_name(_key(identity), content, suffix)
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path


def _key(identity: list[Any]) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _sealed_name(key: str, content: bytes, suffix: str) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()}{suffix}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
