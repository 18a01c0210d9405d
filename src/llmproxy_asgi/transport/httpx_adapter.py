"""An httpx2 transport on aiohttp's connections.

It is for programs that use their own httpx2 client. The gateway's own calls do not use it: the objects of httpx2 cost
about as much as the rest of the exchange.
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
from llmproxy_asgi.transport.channel import Limits, ResponseTimeout
from llmproxy_asgi.transport.failures import FULL
from llmproxy_asgi.transport.pool import Pool
from llmproxy_asgi.transport.request_head import address
from llmproxy_asgi.transport.response import UpstreamResponse

# Seconds; a day. Some event loops cannot handle an infinite timeout.
_NO_TIMEOUT = 86_400.0


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """httpx2 over aiohttp's connections: ``httpx2.AsyncClient(transport=AiohttpTransport())``.

    HTTP/1.1 only. A request's body is read into memory first. The client's read timeout applies, and the greater of its
    connect and pool timeouts for both together; writes have no separate timeout.

    Args:
        limits: The limits of the pool.
        verify: Whether to verify certificates, or the TLS context to use.

    Raises:
        MisuseError: aiohttp is not installed.
    """

    def __init__(self, *, limits: Limits | None = None, verify: bool | ssl.SSLContext = True) -> None:
        self._pool = Pool(limits=limits, fast=True, verify=verify)

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        read_timeout = timeouts.get("read")
        limits_given = [wait for wait in (timeouts.get("connect"), timeouts.get("pool")) if wait is not None]
        connect_timeout = max(limits_given, default=_NO_TIMEOUT)
        body = await request.aread()
        try:
            async with ResponseTimeout(
                connect_timeout, _NO_TIMEOUT if read_timeout is None else read_timeout
            ) as progress:
                response = await self._pool.open(
                    request.method,
                    address(str(request.url)),
                    request.headers.raw,
                    body,
                    connect=connect_timeout,
                    progress=progress,
                )
        except TimeoutError as error:
            raise httpx2.ReadTimeout("No answer in time.", request=request) from error
        except UpstreamTimeout as error:
            kind = httpx2.PoolTimeout if error.message == FULL else httpx2.ConnectTimeout
            raise kind(error.message, request=request) from error
        except UpstreamTLSError as untrusted:
            raise httpx2.ConnectError(untrusted.message, request=request) from untrusted
        except UpstreamProtocolError as error:
            raise httpx2.RemoteProtocolError(error.message, request=request) from error
        except UpstreamError as error:
            raise httpx2.ConnectError(error.message, request=request) from error
        extensions: dict[str, Any] = {"http_version": b"HTTP/1.1"}
        return httpx2.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response, request, read_timeout),
            extensions=extensions,
        )

    @override
    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body as received; the client decompresses it."""

    def __init__(self, response: UpstreamResponse, request: httpx2.Request, read_timeout: float | None) -> None:
        self._response = response
        self._request = request
        self._read_timeout = read_timeout

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                async with asyncio.timeout(self._read_timeout):
                    piece = await self._response.raw()
                if not piece:
                    return
                yield piece
        except TimeoutError as error:
            raise httpx2.ReadTimeout("The answer stopped.", request=self._request) from error
        except UpstreamProtocolError as error:
            raise httpx2.RemoteProtocolError(error.message, request=self._request) from error
        except UpstreamError as error:
            raise httpx2.ReadError(error.message, request=self._request) from error

    @override
    async def aclose(self) -> None:
        await self._response.aclose()
