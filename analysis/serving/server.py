"""The server itself: where it listens, how long it waits, and how it ends."""

import asyncio
import ipaddress
import json
import logging
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import h11
import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from analysis.serving.application import Service
from analysis.serving.guard import Limits
from classify.predict import Classifier
from featurize.core.console import say
from featurize.core.errors import UsageError
from featurize.images import resized

logger = logging.getLogger("frozenbench")
HEAD_SECONDS = 10.0
"""So long, a connection may take to send the head of a request, and stay without one."""
DRAIN_SECONDS = 45
"""So long, the requests under way are waited for at the end: longer than one may take to arrive."""
MOST_CONNECTIONS = 512


class Connection(H11Protocol):
    """A connection of uvicorn, which would wait forever for the head of a request that has begun."""

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        self.waiting = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        super().data_received(data)
        if self.waiting and self.conn.their_state is not h11.IDLE:
            self.waiting.cancel()

    def on_response_complete(self) -> None:
        """An answer has been sent."""
        super().on_response_complete()
        if self.waiting:
            self.waiting.cancel()
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self.waiting = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self.waiting:
            self.waiting.cancel()
        super().connection_lost(exc)


def serve(
    run_dir: Path, host: str, port: int, token: str, head: str, max_pixels: int | None, *, as_json: bool = False
) -> None:
    """Answer requests until the process is interrupted (SIGINT) or terminated (SIGTERM).

    Prints the address once the network is ready, and a token if requests need one.

    Args:
        run_dir: the directory of a finished run.
        host: the name or address to listen on. If others can reach it, requests need a token.
        port: to listen on; 0 for a free one.
        token: that requests must carry; if empty, one is made for a host that others can reach.
        head: the `module:Class` that the run was trained with, if it was; the module is imported.
        max_pixels: of a picture; None for the usual limit.
        as_json: print one JSON object.

    Raises:
        UsageError: the address cannot be used, or `head` is not that of the run.
        DataError: the run is damaged.
        BackboneError: the weights cannot be loaded or differ from those of the run.
        KeyboardInterrupt: at the end, when the requests under way have been answered.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listening(host, port) as listener:
        classifier = Classifier(run_dir, head)
        warm_up(classifier)
        limits = Limits() if max_pixels is None else Limits(pixels=max_pixels)
        token = token or ("" if is_loopback(host) else secrets.token_urlsafe(24))
        service = Service(classifier, host, token, limits)
        announce(address_of(host, listener.getsockname()[1]), run_dir.name, token, as_json=as_json)
        try:
            make_server(service).run([listener])
        finally:
            service.close()


def make_server(service: Service) -> uvicorn.Server:
    """The server for the application; what clients do wrong, they are told, and nobody else."""
    for library in ("uvicorn", "python_multipart"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    return uvicorn.Server(
        uvicorn.Config(
            service.app,
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: the address cannot be used.
    """
    try:
        [(family, *_), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"--host {host}: no such address ({error.strerror}); expected one of this machine") from error
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror}); use another port, or --port 0 for "
            "a free one"
        ) from error
    # Connections inherit it. asyncio does not set it for this socket, and the body would wait 40 ms for the head's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(host: str, port: int) -> str:
    """The address of the page; that of the machine if the server listens on all its addresses."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def announce(address: str, run: str, token: str, *, as_json: bool) -> None:
    """Print where the server is. The page takes the token from the part of its address that is never sent."""
    facts = {"address": address, "run": run}
    if token:
        facts |= {"token": token, "page": f"{address}#token={token}"}
    if as_json:
        print(json.dumps(facts))
    else:
        say(address)
        for name in ("token", "page") if token else ():
            say(f"{name}: {facts[name]}")
    sys.stdout.flush()


def warm_up(classifier: Classifier) -> None:
    """Load the network, and run it and the head once for one image and once for a batch."""
    coarse = np.random.default_rng(0).integers(0, 256, (classifier.batch_size, 4, 4, 3), np.uint8)
    smooth: Any = resized(coarse, max(classifier.height, classifier.width), "bicubic")  # like photographs
    images = smooth[:, : classifier.height, : classifier.width]
    for count in (1, len(images)):
        classifier.seen(images[:count])
