"""A provider's connections: which way they are made, one set per event loop, none shared with a forked child."""

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
from llmproxy_asgi.transport.answer import Answer
from llmproxy_asgi.transport.channel import Channel, Limits, RequestProgress, Trust
from llmproxy_asgi.transport.outgoing import Address, Headers

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
        transport: The host's own httpx2 client or transport (or one of the old httpx), used instead of ours for
            proxies, client certificates and the like; whoever made it closes it. A client is the slow way: it costs
            more than all the rest of a call. Its own headers, cookies, credentials and timeouts do not apply to our
            calls; it may log the addresses of upstreams.
        limits: What may be open at once.
        fast: Whether to go through aiohttp: None where it is installed, True or else complain, False never.
        verify: Whether to check certificates, or the TLS context that does; it is made to offer HTTP/1.1 alone.
        proxies: Which calls go through an outgoing proxy; None: none does. A host's own transport has its own.

    Raises:
        MisuseError: `transport` is nothing we can use, or `fast` is asked for and aiohttp is not there.
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
        self._make = _theirs(transport) if self._trust is None else _ours(limits, self._trust, proxies, fast=fast)
        # A host's transport is shared as the host shares it; ours are bound to the loop they were opened on.
        self._shared = None if transport is None else self._make()
        self._channels: dict[asyncio.AbstractEventLoop, Channel] = {}
        self._ends: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
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
    ) -> Answer:
        """Send a request and wait for the status line and headers; the caller closes the answer.

        A kept-alive connection that the upstream closed before it answered a byte is replaced once, unnoticed.

        Args:
            method: In capitals.
            url: From `address`; keep it for the next call.
            headers: All but those about framing, which are ours and left out. The host and, unless given,
                `accept-encoding: identity` are added.
            body: The whole of it.
            connect: Seconds for a place in the pool, DNS, TCP, a proxy's CONNECT and TLS together.
            progress: Follows how far the request has come.

        Raises:
            UpstreamTimeout: no connection within `connect` seconds.
            UpstreamTLSError: the certificate does not prove who answers.
            UpstreamUnreachable: no connection, or it broke before the headers were there; or the pool is closed.
            UpstreamProtocolError: what came is not HTTP/1, or its headers are too large.
            MisuseError: a header would break out of its line, or the method is none that we send.
        """
        channel = self._shared or self._channels.get(asyncio.get_running_loop()) or await self._channel()
        return await channel.open(method, url, headers, body, connect, progress=progress)

    def read_trusted(self) -> None:
        """Read the trusted certificates now, for which the first call over TLS would wait; blocks while it does.

        That they cannot be read is a warning here; each call that needs them will fail of it.
        """
        try:
            if self._trust is not None:
                self._trust.context_now()
        except OSError as error:
            _log.warning("the trusted certificates cannot be read: %s", error)

    async def _channel(self) -> Channel:
        if self._closed:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        for loop in list(self._channels):  # at once: other threads have loops, too
            if loop.is_closed():
                # Nothing can be awaited there any more; its sockets go with it.
                self._channels.pop(loop, None)
                self._ends.pop(loop, None)
        here = asyncio.get_running_loop()
        channel = self._channels[here] = self._make()
        end = self._ends[here] = _closed_with_loop(channel, self._channels, here)
        await anext(end)
        return channel

    async def aclose(self) -> None:
        """Close what is idle now, the rest as each open answer ends; refuse new calls; leave what is the host's."""
        self._closed = True
        ends, self._ends, self._channels = self._ends, {}, {}
        here = asyncio.get_running_loop()
        for loop, end in ends.items():
            if loop is here:
                await end.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_close_there, loop, end)

    def _forget_parent(self) -> None:
        # Kept, not dropped: destroying a loop's handles in the child would unregister them in the parent, too.
        _parents.append((self._channels, self._ends))
        self._channels, self._ends = {}, {}


async def _closed_with_loop(
    channel: Channel, channels: dict[asyncio.AbstractEventLoop, Channel], loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[None]:
    """Wait in the middle for the end of the pool or, if nobody closes that, of the loop.

    That its asynchronous generators are closed is the only notice of a loop's end (`asyncio.run` sees to it); so a
    script that never heard of `aclose` leaves no socket to the garbage collector. What is still in use stays.
    """
    try:
        yield
    finally:
        channels.pop(loop, None)
        await channel.aclose()


def _close_there(loop: asyncio.AbstractEventLoop, end: AsyncGenerator[None]) -> None:
    closing = loop.create_task(_finish(end))
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)


async def _finish(end: AsyncGenerator[None]) -> None:
    await end.aclose()


_closing: set[asyncio.Task[None]] = set()


def _forget_parents() -> None:
    for pool in list(_pools):
        pool._forget_parent()  # noqa: SLF001 - this module's own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


def _ours(limits: Limits, trust: Trust, proxies: "Proxies | None", *, fast: bool | None) -> Callable[[], Channel]:
    if fast is not False:
        problem = "it is not installed (the extra `speed` brings it)"
        if importlib.util.find_spec("aiohttp") is not None:
            from llmproxy_asgi.transport.aiohttp import AiohttpChannel, incompatibility

            problem = incompatibility()
            if not problem:
                return functools.partial(AiohttpChannel, limits, trust, proxies)
            _log.warning("aiohttp is not used for calls to upstreams, which makes them slower: %s", problem)
        if fast:
            raise MisuseError(f"`fast=True` needs aiohttp, but {problem}.")
    from llmproxy_asgi.transport.interface import InterfaceChannel

    return functools.partial(InterfaceChannel.built_in, limits, trust, proxies)


def _theirs(transport: Any) -> Callable[[], Channel]:
    import httpx2

    from llmproxy_asgi.transport.interface import InterfaceChannel

    # Whoever hands in an object of the old httpx has imported it; we never do.
    for module in (httpx2, sys.modules.get("httpx")):
        if module is not None:
            if isinstance(transport, module.AsyncClient):
                return functools.partial(InterfaceChannel.of_client, module, transport)
            if isinstance(transport, module.AsyncBaseTransport):
                return functools.partial(InterfaceChannel.of_transport, module, transport)
    raise MisuseError("`transport` must be an asynchronous client or transport of httpx2 (or of the old httpx).")
