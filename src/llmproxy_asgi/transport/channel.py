"""What a way to the upstreams has to offer, and what all of them share: limits and trust."""

import asyncio
import functools
import socket
import ssl
import sys
from types import TracebackType
from typing import Protocol, Self

import msgspec

from llmproxy_asgi.transport.answer import Answer
from llmproxy_asgi.transport.outgoing import Address, Headers


def _keepalive_options() -> tuple[tuple[int, int, int], ...]:
    """The options that exist on this platform; macOS has no name for its idle time in older Pythons."""
    idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
    wanted = ((idle, 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))
    known = [(getattr(socket, name), value) for name, value in wanted if hasattr(socket, name)]
    return (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, option, value) for option, value in known),
    )


KEEPALIVE_OPTIONS = _keepalive_options()
"""Probe an idle connection once a minute, as the vendors' SDKs do.

NAT gateways and load balancers forget connections that carry nothing for some minutes; a whole answer may take ten.
"""


LARGE_BODY = 64 * 1024
"""Bytes from which on a request's body is written in pieces, as the upstream takes them."""

BODY_PIECE = 256 * 1024
"""Bytes of one such piece."""


class Limits(msgspec.Struct, frozen=True):
    """How much one pool may hold, per event loop.

    Args:
        max_connections: Connections in use at once; the next call waits, its connect clock running.
        max_keepalive: Connections kept open for later calls.
        keepalive_expiry: Seconds a connection is kept without use.
        max_header_bytes: Bytes of an answer's status line and headers, and of any one of them.
    """

    max_connections: int = 1000
    max_keepalive: int = 100
    keepalive_expiry: float = 90.0
    max_header_bytes: int = 64 * 1024


class RequestProgress(Protocol):
    """What follows how far a request has come; called on the event loop, and never after `open` has ended.

    A host's own transport that reports no events to httpx's `trace` extension calls none of these.
    """

    def connecting(self) -> None:
        """Another connection is being made, because the one that was taken turned out to be closed."""

    def sending(self) -> None:
        """A piece of a large request is being written."""

    def sent(self) -> None:
        """The whole request was written to a connection."""


class AnswerTimeout:
    """An `asyncio.timeout` for one request whose answer has its seconds from when it was sent; raises `TimeoutError`.

    Args:
        connect: Seconds that the transport may take for a connection.
        answer: Seconds that the answer may take.
    """

    def __init__(self, connect: float, answer: float) -> None:
        self._answer = answer
        self._unsent = connect + answer
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
        self._restart(self._answer)

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
    ) -> Answer:
        """As `Pool.open`."""

    async def aclose(self) -> None:
        """As `Pool.aclose`."""


class Trust:
    """Whose certificates are believed; one TLS context for all connections of a pool, made when first needed."""

    def __init__(self, verify: bool | ssl.SSLContext) -> None:
        self._verify = verify

    async def context(self) -> ssl.SSLContext:
        """Read the trusted certificates, which takes a file or many, away from the event loop."""
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        return await asyncio.to_thread(_context, self._verify)

    def context_now(self) -> ssl.SSLContext:
        """The same, for who cannot wait; blocks for some milliseconds the first time."""
        return self._verify if isinstance(self._verify, ssl.SSLContext) else _context(self._verify)


@functools.cache
def _context(verify: bool) -> ssl.SSLContext:
    import httpx2  # only where TLS is spoken: it takes as long to import as half of the core

    context = httpx2.create_ssl_context(verify=verify)
    # The parsers here read HTTP/1.1; left open, a server may begin to speak something else.
    context.set_alpn_protocols(["http/1.1"])
    return context
