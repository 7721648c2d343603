import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from featurize.core.errors import DownloadError
from featurize.images import downloads
from featurize.images.downloads import CIFAR10, Download, fetch

CONTENT = bytes(range(256)) * 40
FLIPPED = CONTENT[:-1] + b"\x00"


class Handler(BaseHTTPRequestHandler):
    """A server that misbehaves in the way the path names."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        if self.path == "/absent":
            self.send_error(404)
            return
        body = {"/flipped": FLIPPED, "/long": CONTENT * 1000, "/short": CONTENT[:-1]}.get(self.path, CONTENT)
        self.send_response(200)
        if self.path != "/long":
            self.send_header("Content-Length", str(len(CONTENT if self.path == "/cut" else body)))
        self.end_headers()
        try:
            self.wfile.write(body[:1000] if self.path in ("/cut", "/stall") else body)
            if self.path == "/stall":
                self.wfile.flush()
                self.server.released.wait(20)  # type: ignore[attr-defined]
        except OSError:
            pass  # the client hung up

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.released = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.released.set()  # type: ignore[attr-defined]
        running.shutdown()
        thread.join()


def wanted(url: str) -> Download:
    return Download(url, "file.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("path", ["/good", "/moved"])
def test_fetch(server: str, tmp_path: Path, path: str) -> None:
    fetched = fetch(wanted(server + path), tmp_path / "new")
    assert fetched.read_bytes() == CONTENT
    assert [found.name for found in fetched.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/absent", "404"),
        ("/flipped", "does not match the known hash"),
        ("/long", "the server sends more than the file's size"),
        ("/short", "the transfer ended after 10,239 bytes"),
        ("/cut", "1000 bytes read"),
        ("/stall", "Read timed out"),
    ],
)
def test_a_bad_transfer_leaves_nothing(
    server: str, tmp_path: Path, path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(DownloadError, match=f"{path} could not be downloaded") as caught:
        fetch(wanted(server + path), tmp_path)
    assert list(tmp_path.iterdir()) == []
    for part in (reason, "10,240 bytes", wanted("").sha256, str(tmp_path / "file.bin"), "source sample"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(wanted("http://127.0.0.1:9/file.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert fetch(wanted("http://127.0.0.1:9/file.bin"), tmp_path) == tmp_path / "file.bin"


@pytest.mark.parametrize("content", [FLIPPED, CONTENT[:-1]])
def test_a_wrong_file_that_is_there_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(DownloadError, match="delete it and run the command again"):
        fetch(wanted("http://127.0.0.1:9/file.bin"), tmp_path)


def test_the_official_archive_is_pinned() -> None:
    assert CIFAR10.url.startswith("https://www.cs.toronto.edu/")
    assert CIFAR10.size == 170_052_171
    assert CIFAR10.sha256 == "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
