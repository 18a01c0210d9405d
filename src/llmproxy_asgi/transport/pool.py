"""The connection pool of a provider: one channel per event loop, none shared with forked child processes."""

import asyncio
import functools
import importlib.util
import logging
import os
import ssl
import sys
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from llmproxy_asgi.errors import MisuseError, UpstreamUnreachable
from llmproxy_asgi.transport.channel import Channel, Limits, RequestProgress, Trust
from llmproxy_asgi.transport.request_head import Address, Headers
from llmproxy_asgi.transport.response import UpstreamResponse

if TYPE_CHECKING:
    import httpx  # noqa: TID251 - only to say in types what is accepted
    import httpx2

    from llmproxy_asgi.transport.proxies import Proxies

    Injected: TypeAlias = httpx2.AsyncBaseTransport | httpx2.AsyncClient | httpx.AsyncBaseTransport | httpx.AsyncClient

_log = logging.getLogger("llmproxy_asgi.transport")

_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()
_parents: list[object] = []


class Pool:
    """The connections of one provider.

    Args:
        transport: The host's own httpx2 client or transport (or one of the old httpx), for proxies, client certificates
            and similar needs; the host closes it. A client is slow: it costs more than the rest of a call. Its headers,
            cookies, credentials and timeouts do not apply to the gateway's calls; it may log addresses of upstreams.
        limits: The limits of the pool.
        fast: Whether to use aiohttp: None: if it is installed, True: always, False: never.
        verify: Whether to verify certificates, or the TLS context to use; it is changed to offer HTTP/1.1 only.
        proxies: The outgoing proxies; None: all calls are direct. A host's own transport has its own.

    Raises:
        MisuseError: `transport` has an unknown type, or `fast` is True and aiohttp cannot be used.
    """

    def __init__(
        self,
        *,
        transport: "Injected | None" = None,
        limits: Limits | None = None,
        fast: bool | None = None,
        verify: bool | ssl.SSLContext = True,
        proxies: "Proxies | None" = None,
    ) -> None:
        limits = limits or Limits()
        if isinstance(verify, ssl.SSLContext):
            verify.set_alpn_protocols(["http/1.1"])
        self._trust = Trust(verify) if transport is None else None
        self._make = (
            _host_channel(transport) if self._trust is None else _own_channel(limits, self._trust, proxies, fast=fast)
        )
        # A host's transport is shared between event loops if the host does so; own channels belong to one loop.
        self._shared = None if transport is None else self._make()
        self._channels: dict[asyncio.AbstractEventLoop, Channel] = {}
        self._closers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
        self._closed = False
        _pools.add(self)

    async def open(
        self,
        method: str,
        url: Address,
        headers: Headers,
        body: bytes,
        *,
        connect: float,
        progress: RequestProgress | None = None,
    ) -> UpstreamResponse:
        """Send a request and wait for the status line and headers; the caller closes the response.

        A kept-alive connection that the upstream closed before the first byte of a response is replaced once.

        Args:
            method: The method in upper case.
            url: From `address`; keep it for the next call.
            headers: The headers; those about framing are left out. The host and, unless given,
                `accept-encoding: identity` are added.
            body: The complete body.
            connect: Seconds for the wait in the pool, DNS, TCP, a proxy's CONNECT and TLS together.
            progress: Observes the progress of the request.

        Raises:
            UpstreamTimeout: There was no connection within `connect` seconds.
            UpstreamTLSError: The certificate is not trusted.
            UpstreamUnreachable: No connection, or it broke before the headers arrived; or the pool is closed.
            UpstreamProtocolError: The response is not HTTP/1, or its headers are too large.
            MisuseError: A header contains characters that are not allowed, or the method is not supported.
        """
        channel = self._shared or self._channels.get(asyncio.get_running_loop()) or await self._channel()
        return await channel.open(method, url, headers, body, connect, progress=progress)

    def read_trusted(self) -> None:
        """Read the trusted certificates now, so that the first call over TLS does not wait for them; blocks.

        If they cannot be read, a warning is logged; each call that needs them fails.
        """
        try:
            if self._trust is not None:
                self._trust.context_now()
        except OSError as error:
            _log.warning("the trusted certificates cannot be read: %s", error)

    async def _channel(self) -> Channel:
        if self._closed:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        for loop in list(self._channels):  # a copy: other threads have loops, too
            if loop.is_closed():
                # Nothing can be awaited on a closed loop; its sockets are closed with it.
                self._channels.pop(loop, None)
                self._closers.pop(loop, None)
        here = asyncio.get_running_loop()
        channel = self._channels[here] = self._make()
        closer = self._closers[here] = _closed_with_loop(channel, self._channels, here)
        await anext(closer)
        return channel

    async def aclose(self) -> None:
        """Close idle connections now, the others when their responses end, and refuse new calls; not the host's."""
        self._closed = True
        closers, self._closers, self._channels = self._closers, {}, {}
        here = asyncio.get_running_loop()
        for loop, closer in closers.items():
            if loop is here:
                await closer.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_close_on_loop, loop, closer)

    def _drop_parent_loops(self) -> None:
        # Keep references: destroying a loop's handles in the child would unregister them in the parent, too.
        _parents.append((self._channels, self._closers))
        self._channels, self._closers = {}, {}


async def _closed_with_loop(
    channel: Channel, channels: dict[asyncio.AbstractEventLoop, Channel], loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[None]:
    """Close a channel when this generator is closed: with the pool, or otherwise with the event loop.

    The only notice of a loop's end is that its asynchronous generators are closed (`asyncio.run` does so); so a script
    that does not call `aclose` leaves no socket to the garbage collector. Connections in use stay open.
    """
    try:
        yield
    finally:
        channels.pop(loop, None)
        await channel.aclose()


def _close_on_loop(loop: asyncio.AbstractEventLoop, closer: AsyncGenerator[None]) -> None:
    closing = loop.create_task(_finish(closer))
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)


async def _finish(closer: AsyncGenerator[None]) -> None:
    await closer.aclose()


_closing: set[asyncio.Task[None]] = set()


def _drop_all_parent_loops() -> None:
    for pool in list(_pools):
        pool._drop_parent_loops()  # noqa: SLF001 - this module's own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all_parent_loops)


def _own_channel(
    limits: Limits, trust: Trust, proxies: "Proxies | None", *, fast: bool | None
) -> Callable[[], Channel]:
    if fast is not False:
        problem = "it is not installed (the extra `speed` brings it)"
        if importlib.util.find_spec("aiohttp") is not None:
            from llmproxy_asgi.transport.aiohttp_channel import AiohttpChannel, incompatibility

            problem = incompatibility()
            if not problem:
                return functools.partial(AiohttpChannel, limits, trust, proxies)
            _log.warning("aiohttp is not used for calls to upstreams, which makes them slower: %s", problem)
        if fast:
            raise MisuseError(f"`fast=True` needs aiohttp, but {problem}.")
    from llmproxy_asgi.transport.httpx_channel import HTTPXChannel

    return functools.partial(HTTPXChannel.built_in, limits, trust, proxies)


def _host_channel(transport: Any) -> Callable[[], Channel]:
    import httpx2

    from llmproxy_asgi.transport.httpx_channel import HTTPXChannel

    # A host that passes an object of the old httpx has imported it; the gateway never does.
    for module in (httpx2, sys.modules.get("httpx")):
        if module is not None:
            if isinstance(transport, module.AsyncClient):
                return functools.partial(HTTPXChannel.of_client, module, transport)
            if isinstance(transport, module.AsyncBaseTransport):
                return functools.partial(HTTPXChannel.of_transport, module, transport)
    raise MisuseError("`transport` must be an asynchronous client or transport of httpx2 (or of the old httpx).")
