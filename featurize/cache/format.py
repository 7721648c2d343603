"""The bytes of a cache: a sealed block of text in front of HDF5 content.

The block (HDF5's user block) holds one line that names the format, its version and the block's size, the
SHA-256 of everything behind that line and itself, and a JSON object with all that a reader needs. The JSON
object includes the offset of every array, so a reader takes the numbers from there. libhdf5 writes the
structure around the arrays for other tools and never parses a file here: damaged files crash it, hang it, or
read as zeros (measured). docs/file-format.md describes the format and its promises.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from featurize.cache.spec import SCHEMA_VERSION
from featurize.core.errors import CacheError

MAGIC = b"frozenbench feature cache"
SEAL_BYTES = 65  # 64 hexadecimal digits and a line feed
SMALLEST_BLOCK, LARGEST_BLOCK = 1 << 9, 1 << 26  # bytes; HDF5 wants a power of two
HASHED_BYTES = 1 << 20  # per read
REMAKE = "make it again with frozenbench featurize ... --overwrite"
LIBVER = ("earliest", "v110")
"""The oldest HDF5 structures that can hold a cache, for the sake of other tools."""


def block_size(header: Mapping[str, Any]) -> int:
    """Bytes of the user block for a header whose `arrays` are still missing."""
    size = SMALLEST_BLOCK
    while size < len(json.dumps(header)) + 4096:  # leaves room for the offsets of the arrays
        size *= 2
    return size


def write_seal(file: BinaryIO, block: int, header: Mapping[str, Any]) -> None:
    """Write the user block of `block` bytes in front of finished content.

    Args:
        file: open for reading and writing; everything from `block` on is final.
        block: bytes of the user block.
        header: what JSON can hold.
    """
    first = _first_line(block)
    text = json.dumps(header).encode() + b"\n"
    padded = text.ljust(block - len(first) - SEAL_BYTES, b"\n")
    digest = hashlib.sha256(padded)
    file.seek(block)
    _hash_rest(file, digest)
    file.seek(0)
    file.write(first + digest.hexdigest().encode() + b"\n" + padded)


def read_seal(path: Path, file: BinaryIO) -> Any:
    """The header of a cache, after its seal has been checked.

    Args:
        path: for messages.
        file: the cache, open at its beginning.

    Raises:
        CacheError: it is no cache, of another version, or damaged.
        ValueError: the seal is right, but the header is not JSON.
    """
    first = file.readline(SMALLEST_BLOCK)
    words = first.removeprefix(MAGIC).split()
    if not first.startswith(MAGIC) or len(words) != 2 or not all(word.isdigit() for word in words):
        raise CacheError(f"{path} is not a feature cache of frozenbench, or its first line is damaged; {REMAKE}")
    version, block = int(words[0]), int(words[1])
    if version != SCHEMA_VERSION:
        raise CacheError(
            f"{path} has the layout version {version}, expected {SCHEMA_VERSION}: another version of frozenbench "
            f"made it; {REMAKE}"
        )
    seal = file.read(SEAL_BYTES)
    digest = hashlib.sha256()
    _hash_rest(file, digest)
    sealed = seal == digest.hexdigest().encode() + b"\n"
    # A flipped bit in the first line changes `block` without breaking the seal: the line is not part of it.
    if not sealed or not len(first) + SEAL_BYTES < block <= min(LARGEST_BLOCK, path.stat().st_size):
        raise CacheError(f"{path} is damaged: its content does not match its seal; {REMAKE}")
    file.seek(len(first) + SEAL_BYTES)
    return json.loads(file.read(block - file.tell()))


def glance(path: Path) -> Any:
    """The header of a cache without a check of its seal, to find out whether to read it; None if there is none."""
    try:
        with path.open("rb") as file:
            first = file.readline(SMALLEST_BLOCK)
            block = int(first.split()[-1])
            file.seek(SEAL_BYTES, io.SEEK_CUR)
            return json.loads(file.read(min(block, LARGEST_BLOCK) - file.tell()))
    except (OSError, ValueError, IndexError, RecursionError):
        return None


def create_contiguous(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Create a dataset whose bytes lie in one run, and leave them unwritten.

    Returns:
        The offset of the run in the file, so that it can be written and read without libhdf5.
    """
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)  # the same rows give the same file
    kind = h5py.h5t.py_create(dtype, logical=True)  # strings as UTF-8
    created = h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple(shape), settings)
    return int(created.get_offset())


def read_array(file: BinaryIO, offset: int, start: int, stop: int, width: int, dtype: np.dtype) -> np.ndarray:
    """The rows `start` to `stop` (exclusive), `width` numbers each, of the array that begins at `offset`; flat."""
    file.seek(offset + start * width * dtype.itemsize)
    return np.frombuffer(file.read(max(0, stop - start) * width * dtype.itemsize), dtype)


class PatientFile(io.FileIO):
    """A file that remembers the first failed write and reports success to its caller.

    libhdf5 crashes the interpreter when a write fails under it (measured: a full disk, h5py 3.14). So it is
    allowed to finish, `raise_error` raises the failure afterwards, and the file is thrown away.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`; returns its size in bytes, also after a failure."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.error is None:
                written = super().write(rest)
                rest = rest[written:]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, unless a write has failed."""
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def raise_error(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self.error is not None:
            raise self.error


def _first_line(block: int) -> bytes:
    return MAGIC + f" {SCHEMA_VERSION} {block}\n".encode()


def _hash_rest(file: BinaryIO, digest: Any) -> None:
    while piece := file.read(HASHED_BYTES):
        digest.update(piece)
