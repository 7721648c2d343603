"""`frozenbench serve` as a shell sees it."""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from command_line import ROOT
from slow_cases import mark_slow

from analysis.frozenbench import app
from featurize.core.errors import UsageError

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from analysis.serving import server

COMMAND = [sys.executable, "-c", "from analysis.frozenbench import main; main()", "serve"]


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", mark_slow((signal.SIGINT, signal.SIGTERM), signal.SIGINT), ids=lambda how: how.name)
def test_the_end_waits_for_requests_under_way(run: Path, pictures: list[Path], how: signal.Signals) -> None:
    with started(str(run), "--host", "0.0.0.0", "--port", "0") as process:
        address, token, page = (process.stdout.readline().strip() for _ in range(3))
        assert address.startswith(f"http://{socket.gethostname()}:")
        token = token.removeprefix("token: ")
        assert len(token) >= 32
        assert page == f"page: {address}#token={token}"
        port = int(address.rstrip("/").rpartition(":")[2])

        url = f"http://127.0.0.1:{port}/predict"
        assert requests.post(url).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        prepared = requests.Request(
            "POST", url, files={"file": ("a.png", pictures[0].read_bytes())}, headers=headers
        ).prepare()
        lines = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers.items())
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(head + prepared.body[:50])
            requests.get(f"http://127.0.0.1:{port}/healthz")  # answered after it, so that it is under way
            process.send_signal(how)
            closed = threading.Event()
            while not closed.wait(0.05):  # until nobody is let in any more
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=30).close()
                except OSError:
                    closed.set()
            connection.sendall(prepared.body[50:])
            answer = b"".join(iter(lambda: connection.recv(100_000), b""))  # until it is closed
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"label": ' in answer
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err == "error: interrupted; finished work is saved, and the same command resumes\n"


def test_a_port_in_use(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: cannot be listened on .*in use.*; use another port"):
            server.listening("127.0.0.1", port)


def test_a_host_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="^host no.such.host.invalid: no such address"):
        server.listening("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.5", False), ("example.org", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert server.is_loopback(host) == loopback


def test_addresses() -> None:
    assert server.address_of("127.0.0.1", 80) == "http://127.0.0.1:80/"
    assert server.address_of("::1", 80) == "http://[::1]:80/"


def test_the_announcement_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    server.announce("http://a:1/", "svm-1", "t", as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "address": "http://a:1/", "run": "svm-1", "token": "t", "page": "http://a:1/#token=t",
    }  # fmt: skip


def test_without_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def no_uvicorn(name: str, *more: Any) -> Any:
        return None if name == "uvicorn" else find_spec(name, *more)

    monkeypatch.setattr("importlib.util.find_spec", no_uvicorn)
    with pytest.raises(UsageError, match=r"^serve needs uvicorn, .*; pip install 'frozenbench\[serve\]'$"):
        app(["serve", str(run)], standalone_mode=False)


def test_a_token_that_no_header_can_carry(run: Path) -> None:
    for token in ("a b", "\u00e9", "a\n"):
        with pytest.raises(UsageError, match="^token: expected letters"):
            app(["serve", str(run), "--token", token], standalone_mode=False)
