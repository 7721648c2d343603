"""Image files that are decoded when they are needed, at the size that is needed."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from featurize.core.errors import DataError
from featurize.images.decode import MAX_PIXELS, decoded

if TYPE_CHECKING:
    from hashlib import _Hash

WORKERS = min(8, os.cpu_count() or 1)  # each holds a whole image in memory
PIECE = 1 << 16  # bytes hashed at once


@dataclass(frozen=True)
class ImageFiles:
    """Image files; see `dataset.Images`.

    Attributes:
        root: the folder that they are in.
        paths: bytes (n,), below `root`, as the file system has them.
        digests: uint8 (n, 32), the SHA-256 of each file's content.
        max_pixels: larger pictures are skipped; None for `decode.MAX_PIXELS`.
    """

    root: Path
    paths: np.ndarray
    digests: np.ndarray
    max_pixels: int | None = None
    shape = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> "ImageFiles":
        return ImageFiles(self.root, self.paths[rows], self.digests[rows], self.max_pixels)

    def read(self, size: int, kernel: str, aspect: str) -> tuple[np.ndarray, dict[int, str]]:
        """Decode the files, several at a time; see `Images.read`."""
        pixels = np.zeros((len(self), size, size, 3), np.uint8)
        skipped: dict[int, str] = {}

        def read(row: int) -> None:
            try:
                pixels[row] = self._decode(row, size, kernel, aspect)
            except DataError as problem:
                skipped[row] = str(problem)

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(read, range(len(self))))
        return pixels, skipped

    def update_digest(self, digest: "_Hash") -> None:
        """See `Images.update_digest`."""
        digest.update(b"files" + self.digests.tobytes())
        if self.max_pixels:  # it decides which files are skipped
            digest.update(f"max_pixels {self.max_pixels}".encode())

    def _decode(self, row: int, size: int, kernel: str, aspect: str) -> np.ndarray:
        try:
            with open(join_bytes(self.root, self.paths[row]), "rb") as file:  # noqa: PTH123 - a path in bytes
                if sha256(file) != self.digests[row].tobytes():
                    raise DataError("its content has changed since the folder was listed")
                file.seek(0)
                return decoded(file, size, size, kernel, aspect, self.max_pixels or MAX_PIXELS)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})") from error


def sha256(file: BinaryIO) -> bytes:
    """The SHA-256 of the rest of an open file, 32 bytes."""
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.digest()


def join_bytes(root: Path, path: bytes) -> bytes:
    """The path of a file below `root`. Paths stay bytes: a file name need not be text."""
    return os.path.join(os.fsencode(root), path)  # noqa: PTH118 - a path in bytes
