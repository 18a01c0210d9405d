"""The interface of channels to upstreams, and their shared parts: limits, progress, trusted certificates."""

import asyncio
import functools
import socket
import ssl
import sys
from types import TracebackType
from typing import Protocol, Self

import msgspec

from llmproxy_asgi.transport.request_head import Address, Headers
from llmproxy_asgi.transport.response import UpstreamResponse


def _keepalive_options() -> tuple[tuple[int, int, int], ...]:
    """Return the options that this platform has; older Pythons have no name for macOS's idle time."""
    idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
    wanted = ((idle, 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))
    known = [(getattr(socket, name), value) for name, value in wanted if hasattr(socket, name)]
    return (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, option, value) for option, value in known),
    )


KEEPALIVE_OPTIONS = _keepalive_options()
"""Probe an idle connection once a minute, as the vendors' SDKs do.

NAT gateways and load balancers drop connections without traffic after some minutes; a complete response may take ten.
"""


LARGE_BODY = 64 * 1024
"""Bytes of the smallest request body that is written in pieces, as the upstream accepts them."""

BODY_PIECE = 256 * 1024
"""Bytes of one piece."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of one pool, per event loop.

    Args:
        max_connections: Connections in use at once; further calls wait within their connect timeout.
        max_keepalive: Idle connections kept open.
        keepalive_expiry: Seconds an idle connection is kept open.
        max_header_bytes: Bytes of a response's status line and headers, and of each of them.
    """

    max_connections: int = 1000
    max_keepalive: int = 100
    keepalive_expiry: float = 90.0
    max_header_bytes: int = 64 * 1024


class RequestProgress(Protocol):
    """The interface for observing a request; called on the event loop, and never after `open` has ended.

    With a host's own transport that reports no events to httpx's `trace` extension nothing is called.
    """

    def connecting(self) -> None:
        """Handle the start of another connection, because the pooled one turned out to be closed."""

    def sending(self) -> None:
        """Handle the start of writing a piece of a large request."""

    def sent(self) -> None:
        """Handle the end of writing the request."""


class ResponseTimeout:
    """An `asyncio.timeout` for one request that restarts when the request was sent; raises `TimeoutError`.

    Args:
        connect: Seconds that the transport may take for a connection.
        response: Seconds from the sent request to the response.
    """

    def __init__(self, connect: float, response: float) -> None:
        self._response = response
        self._unsent = connect + response
        self._timeout = asyncio.timeout(self._unsent)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, traceback)

    def connecting(self) -> None:
        """As `RequestProgress`."""
        self._restart(self._unsent)

    def sending(self) -> None:
        """As `RequestProgress`."""
        self._restart(self._unsent)

    def sent(self) -> None:
        """As `RequestProgress`."""
        self._restart(self._response)

    def _restart(self, seconds: float) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)


class Channel(Protocol):
    """One pool's connections on one event loop."""

    async def open(
        self,
        method: str,
        url: Address,
        headers: Headers,
        body: bytes,
        connect: float,
        *,
        progress: RequestProgress | None = None,
    ) -> UpstreamResponse:
        """Send a request, as `Pool.open` does."""

    async def aclose(self) -> None:
        """Close the connections, as `Pool.aclose` does."""


class Trust:
    """The trusted certificates; one TLS context for all connections of a pool, created when it is first needed."""

    def __init__(self, verify: bool | ssl.SSLContext) -> None:
        self._verify = verify

    async def context(self) -> ssl.SSLContext:
        """Return the TLS context; the certificate files are read in a thread."""
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        return await asyncio.to_thread(_context, self._verify)

    def context_now(self) -> ssl.SSLContext:
        """Return the TLS context for synchronous code; blocks for some milliseconds the first time."""
        return self._verify if isinstance(self._verify, ssl.SSLContext) else _context(self._verify)


@functools.cache
def _context(verify: bool) -> ssl.SSLContext:
    import httpx2  # only where TLS is spoken: it takes as long to import as half of the core

    context = httpx2.create_ssl_context(verify=verify)
    # The parsers support HTTP/1.1 only; otherwise a server may choose another version.
    context.set_alpn_protocols(["http/1.1"])
    return context
