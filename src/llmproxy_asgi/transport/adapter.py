"""The fast way as a transport for anybody's httpx2 client.

For programs that keep their own client and want our connections under it. Our own calls don't pass through here:
the objects of httpx2 cost about as much as the whole exchange.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from typing_extensions import override

from llmproxy_asgi.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTLSError,
)
from llmproxy_asgi.transport.answer import Answer
from llmproxy_asgi.transport.channel import AnswerTimeout, Limits
from llmproxy_asgi.transport.outgoing import address
from llmproxy_asgi.transport.pool import Pool

# Seconds; a day. An infinite wait is more than some event loops can count.
_NO_CLOCK = 86_400.0


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """httpx2 over aiohttp's connections: ``httpx2.AsyncClient(transport=AiohttpTransport())``.

    HTTP/1.1 only. A request's body is read into memory first. The client's connect and read timeouts hold, the greater
    of connect and pool for both together; a write has no clock of its own.

    Args:
        limits: What may be open at once.
        verify: Whether to check certificates, or the TLS context that does.

    Raises:
        MisuseError: aiohttp is not installed.
    """

    def __init__(self, *, limits: Limits | None = None, verify: bool | ssl.SSLContext = True) -> None:
        self._pool = Pool(limits=limits, fast=True, verify=verify)

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        clocks: dict[str, float | None] = request.extensions.get("timeout", {})
        reading = clocks.get("read")
        waits = [wait for wait in (clocks.get("connect"), clocks.get("pool")) if wait is not None]
        connecting = max(waits, default=_NO_CLOCK)
        body = await request.aread()
        try:
            async with AnswerTimeout(connecting, _NO_CLOCK if reading is None else reading) as progress:
                answer = await self._pool.open(
                    request.method,
                    address(str(request.url)),
                    request.headers.raw,
                    body,
                    connect=connecting,
                    progress=progress,
                )
        except TimeoutError as late:
            raise httpx2.ReadTimeout("No answer in time.", request=request) from late
        except UpstreamTimeout as late:
            raise httpx2.ConnectTimeout(late.message, request=request) from late
        except UpstreamTLSError as untrusted:
            raise httpx2.ConnectError(untrusted.message, request=request) from untrusted
        except UpstreamProtocolError as broken:
            raise httpx2.RemoteProtocolError(broken.message, request=request) from broken
        except UpstreamError as broken:
            raise httpx2.ConnectError(broken.message, request=request) from broken
        extensions: dict[str, Any] = {"http_version": b"HTTP/1.1"}
        return httpx2.Response(
            answer.status,
            headers=list(answer.raw_headers),
            stream=_Body(answer, request, reading),
            extensions=extensions,
        )

    @override
    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body as it came; the client decodes it."""

    def __init__(self, answer: Answer, request: httpx2.Request, reading: float | None) -> None:
        self._answer = answer
        self._request = request
        self._reading = reading

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                async with asyncio.timeout(self._reading):
                    piece = await self._answer.raw()
                if not piece:
                    return
                yield piece
        except TimeoutError as late:
            raise httpx2.ReadTimeout("The answer stopped.", request=self._request) from late
        except UpstreamProtocolError as broken:
            raise httpx2.RemoteProtocolError(broken.message, request=self._request) from broken
        except UpstreamError as broken:
            raise httpx2.ReadError(broken.message, request=self._request) from broken

    @override
    async def aclose(self) -> None:
        await self._answer.aclose()
