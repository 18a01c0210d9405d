"""What a way to the upstreams has to offer, and what all of them share: limits and trust."""

import asyncio
import functools
import socket
import ssl
import sys
from typing import Protocol

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


class Channel(Protocol):
    """One pool's connections on one event loop."""

    async def open(self, method: str, url: Address, headers: Headers, body: bytes, connect: float) -> Answer:
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
