"""What the server refuses. `tests/benchmarks/bench_serve.py` sends more, at the same time."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from classify.predict import Classifier

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from analysis.serving.guard import Limits


@pytest.fixture
def files(pictures: list[Path]) -> dict[str, tuple[str, bytes]]:
    return {"file": ("a.png", pictures[0].read_bytes())}


# Who may ask.


def test_hosts(serving: Any) -> None:
    address = serving() + "run"
    tunnel = "localhost:1234"
    for host in ("localhost", tunnel, "127.0.0.1", "[::1]:8000", "192.168.1.5:8000", socket.gethostname()):
        assert requests.get(address, headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", ""):
        answer = requests.get(address, headers={"Host": host})
        assert (answer.status_code, answer.json()["error"][:5]) == (421, "host ")


def test_pages_of_other_sites(serving: Any, files: dict) -> None:
    address = serving() + "predict"
    own = address.removesuffix("/predict")
    assert requests.post(address, files=files, headers={"Origin": own}).status_code == 200
    for origin in ("http://evil.example", "null", own.replace("http:", "https:"), "http://127.0.0.1:1"):
        answer = requests.post(address, files=files, headers={"Origin": origin})
        assert (answer.status_code, answer.json()) == (403, {"error": f"pages of {origin} may not use this server"})
    asked = requests.options(address, headers={"Origin": own, "Access-Control-Request-Method": "POST"})
    assert not any(name.lower().startswith("access-control") for name in asked.headers)


def test_a_token(serving: Any, files: dict) -> None:
    address = serving(token="secret")
    for path in ("", "docs", "openapi.json", "page.css", "page.js", "healthz"):
        assert requests.get(address + path).status_code == 200
    for path in ("predict", "nearest", "run", "nothing", "docs/"):
        for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret \u00e9"}):
            answer = requests.post(address + path, files=files, headers={k: v.encode() for k, v in headers.items()})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"Authorization": "Bearer secret", "Origin": "https://proxy.example"}
    assert requests.post(address + "predict", files=files, headers=headers).status_code == 200
    assert requests.get(address + "run", headers=headers).status_code == 200


# How much.


def test_too_large(serving: Any, files: dict) -> None:
    address = serving(limits=Limits(size=2 << 20)) + "predict"
    large = {"file": ("a.png", bytes(3 << 20))}
    message = {"error": "the request exceeds 2 MiB; send fewer or smaller pictures"}
    declared = requests.post(address, files=large)
    assert (declared.status_code, declared.json()) == (413, message)
    assert declared.headers["connection"] == "close"

    prepared = requests.Request("POST", address, files=large).prepare()

    def parts() -> Iterator[bytes]:
        for start in range(0, len(prepared.body), 1 << 16):
            yield prepared.body[start : start + (1 << 16)]

    kind = {"Content-Type": prepared.headers["Content-Type"]}
    in_chunks = requests.post(address, data=parts(), headers=kind)
    assert (in_chunks.status_code, in_chunks.json()) == (413, message)
    assert requests.post(address, files=files).status_code == 200


def test_too_many_files(serving: Any, files: dict) -> None:
    address = serving(limits=Limits(files=2)) + "predict"
    assert requests.post(address, files=[("file", files["file"])] * 2).status_code == 200
    for count in (3, 9):
        answer = requests.post(address, files=[("file", files["file"])] * count)
        assert (answer.status_code, answer.json()) == (413, {"error": "expected at most 2 files in a request"})


def test_too_many_pixels(serving: Any, files: dict) -> None:
    answer = requests.post(serving(limits=Limits(pixels=50)) + "predict", files=files).json()
    assert answer["predictions"] == []
    assert "6 x 9 pixels exceed the limit of 50" in answer["skipped"][0]["reason"]


def test_other_contents(serving: Any) -> None:
    address = serving() + "predict"
    other = "expected files as multipart/form-data"
    with_boundary = {"Content-Type": "multipart/form-data; boundary=y"}
    contents: list[tuple[dict, int, str]] = [
        ({"data": b"x", "headers": {"Content-Type": "image/png"}}, 415, other),
        ({"json": {}}, 415, other),
        ({}, 415, other),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "Missing boundary"),
        ({"data": b"x", "headers": with_boundary}, 400, "Invalid multipart data"),
        ({"data": b"--y--\r\n", "headers": with_boundary}, 400, "the request holds no file"),
        ({"files": {"file": (None, "a text")}}, 400, "Too many fields"),
    ]
    for sent, status, message in contents:
        answer = requests.post(address, **sent)
        assert answer.status_code == status
        assert message in answer.json()["error"]


def test_too_many_requests(serving: Any, files: dict) -> None:
    started, may_go = threading.Event(), threading.Event()

    def blocked(classifier: Classifier) -> None:
        vectors = classifier.vectors

        def wait(images: np.ndarray) -> np.ndarray:
            started.set()
            assert may_go.wait(10)
            return vectors(images)

        classifier.vectors = wait

    address = serving(blocked, limits=Limits(requests=1))
    statuses = []
    first = threading.Thread(
        target=lambda: statuses.append(requests.post(address + "predict", files=files).status_code)
    )
    first.start()
    assert started.wait(10)
    answer = requests.post(address + "predict", files=files)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert requests.get(address + "healthz").status_code == 200
    may_go.set()
    first.join()
    assert statuses == [200]
    assert requests.post(address + "predict", files=files).status_code == 200  # it has made room


def test_too_many_bytes_at_the_same_time(serving: Any, files: dict) -> None:
    address = serving(limits=Limits(total_size=300)) + "predict"
    assert requests.post(address, files={"file": ("a.png", b"x")}).status_code == 200
    assert requests.post(address, files=files).status_code == 429


# How long.


def connection_to(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def all_from(connection: socket.socket) -> bytes:
    """What arrives until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(10_000), b""))


HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=y\r\n"
    b"Content-Length: 1000\r\n\r\n"
)


def test_a_body_that_does_not_arrive(serving: Any, files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.serving.guard.LINGER_SECONDS", 0.1)
    address = serving(limits=Limits(seconds=0.3, requests=1))
    with connection_to(address) as slow:
        slow.sendall(HEAD + b"--y")
        answer = all_from(slow)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the request did not arrive within 0.3 s" in answer
    assert requests.post(address + "predict", files=files).status_code == 200


def test_a_head_that_does_not_arrive(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.serving.server.HEAD_SECONDS", 0.3)
    address = serving()
    with connection_to(address) as silent, connection_to(address) as slow, connection_to(address) as again:
        began = time.monotonic()
        again.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        slow.sendall(b"GET /hea")
        assert all_from(again).endswith(b'{"status":"ok"}')
        assert all_from(silent) == all_from(slow) == b""
        assert time.monotonic() - began < 5
    assert requests.get(address + "healthz").status_code == 200


def test_a_client_that_goes_away(serving: Any, files: dict, caplog: pytest.LogCaptureFixture) -> None:
    address = serving(limits=Limits(requests=1))
    for sent in (HEAD[:30], HEAD, HEAD + b"--y\r\n"):
        with connection_to(address) as gone:
            gone.sendall(sent)
    for _ in range(100):
        status = requests.post(address + "predict", files=files).status_code
        if status != 429:
            break
        time.sleep(0.05)
    assert status == 200
    assert caplog.messages == []
