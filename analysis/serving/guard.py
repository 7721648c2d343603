"""What reaches the application, and the headers of what leaves it.

Pages of other sites must not use the server through the user's browser: their requests name another host (DNS
rebinding) or another origin. Bodies have limits of size and time, and requests one of number.
"""

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""Of every answer."""
LINGER_SECONDS = 2.0
"""So long, the rest of a refused body is read: a connection that ends earlier would take the answer with it."""


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
        size: of a request, in bytes.
        total_size: of all requests under way.
        files: in a request.
        requests: under way at the same time.
        seconds: until a request must have arrived.
        pixels: of a picture.
    """

    size: int = 32 << 20
    total_size: int = 128 << 20
    files: int = 64
    requests: int = 64
    seconds: float = 30.0
    pixels: int = 50_000_000


class Guard:
    """The application behind all checks.

    Args:
        app: what answers.
        limits: of requests.
        host: the name or address that the server listens on.
        token: that requests must carry; empty for none.
        public: the paths that need no token.
    """

    def __init__(self, app: ASGIApp, limits: Limits, host: str, token: str, public: Iterable[str]) -> None:
        self.app = app
        self.limits = limits
        self.hosts = {"localhost", host.lower(), socket.gethostname().lower()}
        self.token = token
        self.public = frozenset(public)
        self.requests = 0  # under way
        self.size = 0  # of these, in bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see the ASGI specification."""
        headers = Headers(scope=scope)
        declared = headers.get("content-length")
        size = self.limits.size if "transfer-encoding" in headers else int(declared or 0)
        exchange = _Exchange(receive, send, self.limits, has_body=size > 0)
        try:
            self._check(scope, headers, size)
        except HTTPException as error:
            await error_response(error)(scope, exchange.receive, exchange.send)
            return
        self.requests += size > 0
        self.size += size
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            self.requests -= size > 0
            self.size -= size

    def _check(self, scope: Scope, headers: Headers, size: int) -> None:
        """Raise HTTPException if a request is refused without reading its body."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise HTTPException(421, f"host {host!r} is not this server; use its address, or localhost")
        if not self.token and "origin" in headers and headers["origin"] != f"{scope['scheme']}://{host}":
            raise HTTPException(403, f"pages of {headers['origin']} may not use this server")
        if self.token and scope["path"] not in self.public:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise HTTPException(
                    401, "expected the header Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"}
                )
        if size > self.limits.size:
            raise HTTPException(413, too_large(self.limits))
        if size and (self.requests >= self.limits.requests or self.size + size > self.limits.total_size):
            raise HTTPException(429, "too many requests at the same time; try again", {"retry-after": "1"})

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server. An address is nobody's name, so that rebinding cannot forge it."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self.hosts
        return True


class _Exchange:
    """A request's `receive` and `send`, within the limits."""

    def __init__(self, receive: Receive, send: Send, limits: Limits, *, has_body: bool) -> None:
        self._receive, self._send = receive, send
        self.limits = limits
        self.whole = not has_body  # nothing of the body is missing
        self.size = 0
        self.deadline = asyncio.get_running_loop().time() + limits.seconds

    async def receive(self) -> Message:
        """The next part of the body; raises HTTPException at a limit."""
        if self.whole:
            return await self._receive()
        message = await self._within(self.deadline)
        if message is None:
            raise HTTPException(408, f"the request did not arrive within {self.limits.seconds:g} s")
        self.size += len(message.get("body", b""))
        if self.size > self.limits.size:
            raise HTTPException(413, too_large(self.limits))
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer. One that comes before the whole request ends the connection."""
        if message["type"] == "http.response.start":
            more = HEADERS if self.whole else {**HEADERS, "connection": "close"}
            named = [(name.encode(), value.encode()) for name, value in more.items()]
            message = {**message, "headers": [*message["headers"], *named]}
        elif not self.whole and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            until = asyncio.get_running_loop().time() + LINGER_SECONDS
            while not self.whole and await self._within(until):
                pass
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _within(self, until: float) -> Message | None:
        """The next part of the body if it comes in time."""
        try:
            async with asyncio.timeout_at(until):
                message = await self._receive()
        except TimeoutError:
            return None
        self.whole = not message.get("more_body", False)  # or the client has gone
        return message


def too_large(limits: Limits) -> str:
    """What is said about a request of too many bytes."""
    return f"the request exceeds {limits.size >> 20} MiB; send fewer or smaller pictures"


def error_response(error: HTTPException) -> JSONResponse:
    """An error as the server tells it."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
