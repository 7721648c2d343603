"""Downloads, pinned by size and SHA-256."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.core.errors import DownloadError, first_line

logger = logging.getLogger("frozenbench")
TIMEOUT_SECONDS = 30.0  # without a single byte; a slow but steady transfer may take longer


@dataclass(frozen=True)
class Download:
    """A file on the network, its local name, its size in bytes, and its SHA-256 (hexadecimal)."""

    url: str
    file_name: str
    size: int
    sha256: str


# https://www.cs.toronto.edu/~kriz/cifar.html ("CIFAR-10 binary version")
CIFAR10 = Download(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    file_name="cifar-10-binary.tar.gz",
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def fetch(download: Download, folder: Path) -> Path:
    """The path of the file in `folder`; downloaded first if it is missing.

    The transfer goes to a temporary file, which gets the final name only if its SHA-256 is the pinned one. A
    transfer beyond the pinned size is cut off.

    Raises:
        DownloadError: no network, or a wrong size or content, in which case nothing is left in `folder`; or a file
            of that name exists with other content.
    """
    import pooch
    import requests

    path = folder / download.file_name
    if path.exists():
        check(path, download)
        return path
    logger.info("downloading %s (%.0f MB) to %s", download.url, download.size / 1e6, folder)
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            download.url,
            known_hash=f"sha256:{download.sha256}",
            fname=download.file_name,
            path=folder,
            downloader=_Transfer(download.size),
        )
    except (requests.RequestException, ValueError) as error:
        raise DownloadError(
            f"{download.url} could not be downloaded: {first_line(error)}; expected {download.size:,} bytes "
            f"with SHA-256 {download.sha256}; download the file by other means and move it to {path}, "
            "or work offline with --data sample"
        ) from error
    return path


def check(path: Path, download: Download) -> None:
    """Check that the file at `path` is the pinned one.

    Raises:
        DownloadError: its size or SHA-256 differs.
    """
    size = path.stat().st_size
    if size != download.size:
        raise DownloadError(
            f"{path} has {size:,} bytes, expected {download.size:,}; delete it and run the command again"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != download.sha256:
        raise DownloadError(
            f"{path} has SHA-256 {digest}, expected {download.sha256}; delete it and run the command again"
        )


class _Transfer:
    """A pooch downloader that stops if the file exceeds its size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        import requests

        received = 0
        with (
            requests.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response,
            Path(output_file).open("wb") as file,
        ):
            response.raise_for_status()
            for block in response.iter_content(1 << 20):
                received += len(block)
                if received > self.size:
                    raise ValueError("the server sends more than the file's size")
                file.write(block)
        if received != self.size:
            raise ValueError(f"the transfer ended after {received:,} bytes")
