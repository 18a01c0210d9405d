"""A channel on the httpx API: httpx2's transport if aiohttp is not installed, or the host's own.

httpx2 and the old httpx have the same API, but different classes, so everything here takes the package as an argument.
Requests are created directly, not by the client: the host's headers, cookies, credentials and redirects do not apply to
the gateway's requests.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any, Self

import httpx2
from typing_extensions import override

from llmproxy_asgi.errors import MisuseError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from llmproxy_asgi.transport.channel import (
    BODY_PIECE,
    KEEPALIVE_OPTIONS,
    LARGE_BODY,
    Limits,
    RequestProgress,
    Trust,
)
from llmproxy_asgi.transport.failures import (
    UNREACHABLE,
    connect_timeout,
    not_http,
    pool_timeout,
    refused_by_proxy,
    unreachable,
)
from llmproxy_asgi.transport.proxies import Proxies, Proxy, peer_name
from llmproxy_asgi.transport.request_head import Address, Headers, complete_headers, encode_headers, encode_method
from llmproxy_asgi.transport.response import UpstreamResponse

Send = Callable[[Any], Awaitable[Any]]

_PROXY_REFUSES = 407

# Both packages use the same exception for a connection that ended too early and for bytes that are not HTTP.
_CUT_SHORT = ("Server disconnected", "peer closed connection")


class HTTPXChannel:
    """The connections of an httpx client or transport; it may serve several event loops if they do.

    Args:
        module: The package that `send` belongs to.
        send: Sends a request and returns its response with an unread body.
        close: Closes the client or transport; None if it is the host's.
        proxied: Sends requests through proxies; None if there is no proxy, or the transport is the host's.
        most: Its maximum of connections; None if the transport is the host's.
    """

    def __init__(
        self,
        module: ModuleType,
        send: Send,
        close: Callable[[], Awaitable[None]] | None = None,
        proxied: "_Proxied | None" = None,
        most: int | None = None,
    ) -> None:
        self._module = module
        self._send = send
        self._close = close
        self._proxied = proxied
        self._most = most
        self._calls = 0
        self._closing = False

    @classmethod
    def built_in(cls, limits: Limits, trust: Trust, proxies: Proxies | None = None) -> Self:
        """Create a channel on httpx2's own transport."""

        def make(proxy: Proxy | None) -> httpx2.AsyncHTTPTransport:
            return httpx2.AsyncHTTPTransport(
                verify=trust.context_now(),
                trust_env=False,
                http1=True,
                http2=False,
                socket_options=KEEPALIVE_OPTIONS,
                limits=httpx2.Limits(
                    max_connections=limits.max_connections,
                    max_keepalive_connections=limits.max_keepalive,
                    keepalive_expiry=limits.keepalive_expiry,
                ),
                proxy=None if proxy is None else httpx2.Proxy(str(proxy.address), headers=proxy.text_headers),
            )

        direct = make(None)
        if proxies is None:
            return cls(httpx2, direct.handle_async_request, direct.aclose, most=limits.max_connections)
        proxied = _Proxied(proxies, make)

        async def close() -> None:
            await direct.aclose()
            await proxied.aclose()

        return cls(httpx2, direct.handle_async_request, close, proxied, limits.max_connections)

    @classmethod
    def of_transport(cls, module: ModuleType, transport: Any) -> Self:
        """Create a channel on the host's transport."""
        return cls(module, transport.handle_async_request)

    @classmethod
    def of_client(cls, module: ModuleType, client: Any) -> Self:
        """Create a channel on the host's client."""

        async def send(request: Any) -> Any:
            return await client.send(request, stream=True, auth=None, follow_redirects=False)

        return cls(module, send)

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
        encode_method(method)
        complete = complete_headers(headers, url.netloc, method, body)
        encode_headers(complete)
        if self._closing:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        self._calls += 1
        proxy = None if self._proxied is None else self._proxied.of(url)
        peer = peer_name(url, proxy)
        try:
            response = await self._send_request(method, url, complete, body, connect, progress=progress, proxy=proxy)
        except BaseException:
            await self.done()
            raise
        wrapped = HTTPXResponse(self, self._module, response, peer)
        if proxy is not None and wrapped.status == _PROXY_REFUSES:
            await wrapped.aclose()
            raise refused_by_proxy(wrapped.status, peer)
        return wrapped

    async def _send_request(
        self,
        method: str,
        url: Address,
        headers: Headers,
        body: bytes,
        connect: float,
        *,
        progress: RequestProgress | None,
        proxy: Proxy | None,
    ) -> Any:
        module, peer = self._module, peer_name(url, proxy)
        send = self._send if proxy is None or self._proxied is None else self._proxied.send(proxy)
        target = module.URL(str(url))
        retried = False
        while True:
            trace = _Trace(progress)
            request = module.Request(
                method,
                target,
                headers=headers,
                stream=module.ByteStream(body) if len(body) < LARGE_BODY else _body_stream(module, body, progress),
                extensions={
                    "timeout": {"connect": connect, "pool": connect, "read": None, "write": None},
                    "trace": trace.handle_event,
                },
            )
            try:
                # One timeout for the wait in the pool, DNS, TCP and TLS; a host's transport may not report its end.
                async with asyncio.timeout(connect if self._close else None) as trace.clock:
                    return await send(request)
            except (module.HTTPError, OSError) as error:
                if isinstance(error, module.PoolTimeout) or (
                    isinstance(error, TimeoutError) and self._close is not None and not trace.began
                ):
                    raise pool_timeout(connect, peer, self._most) from error
                failure = _convert_error(module, error, peer, connect)
                await trace.close_socket()
                if retried or not trace.on_old_connection or not isinstance(failure, UpstreamUnreachable):
                    raise failure from error
                retried = True
                if progress is not None:
                    progress.connecting()
            except ValueError as error:
                await trace.close_socket()
                if trace.sending:
                    raise
                # anyio raises it for a name without an address.
                raise UpstreamUnreachable(UNREACHABLE, reason=f"the name has no address: {peer}") from error
            except BaseException:
                await trace.close_socket()
                raise

    async def done(self) -> None:
        """Count the end of a call; the last call of a closing channel closes the client or transport."""
        self._calls -= 1
        if self._closing and not self._calls and self._close:
            await self._close()

    async def aclose(self) -> None:
        """Close the connections, as `Pool.aclose` does."""
        self._closing = True
        if not self._calls and self._close:
            await self._close()


class _Proxied:
    """One transport for each proxy, created with its first call."""

    def __init__(self, proxies: Proxies, make: Callable[[Proxy | None], httpx2.AsyncHTTPTransport]) -> None:
        self.of = proxies.of
        self._make = make
        self._transports: dict[str, httpx2.AsyncHTTPTransport] = {}

    def send(self, proxy: Proxy) -> Send:
        """Return the function that sends through a proxy."""
        name = str(proxy.address)
        transport = self._transports.get(name)
        if transport is None:
            transport = self._transports[name] = self._make(proxy)
        return transport.handle_async_request

    async def aclose(self) -> None:
        """Close all transports."""
        for transport in self._transports.values():
            await transport.aclose()


def _body_stream(module: ModuleType, body: bytes, progress: RequestProgress | None) -> Any:
    """Return a large body as a stream; each piece is requested after the one before was written."""

    class Pieces(module.ByteStream):  # type: ignore[misc, name-defined] # of this package, which keeps it as it is
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for start in range(0, len(body), BODY_PIECE):
                if progress is not None:
                    progress.sending()
                yield body[start : start + BODY_PIECE]

    return Pieces(body)


class _Trace:
    """The progress of a request according to httpcore's `trace` extension; unknown with other transports."""

    def __init__(self, progress: RequestProgress | None) -> None:
        self._progress = progress
        self.clock: asyncio.Timeout | None = None
        self.began = False
        """Whether the pool has provided a connection, or a place for one."""
        self._connected = False
        self.sending = False
        self._socket_stream: Any = None

    @property
    def on_old_connection(self) -> bool:
        return self.sending and not self._connected

    async def close_socket(self) -> None:
        """Close a connection cancelled between TCP and TLS, which httpcore would leave to the garbage collector."""
        bare, self._socket_stream = self._socket_stream, None
        if bare is not None:
            await bare.aclose()

    async def handle_event(self, name: str, info: dict[str, Any]) -> None:
        """Handle an event of the `trace` extension."""
        self.began = True
        if name.startswith("connection.connect_"):
            self._connected = True
            self._socket_stream = info.get("return_value")
        elif name.endswith(".send_request_headers.started"):
            if info["request"].method == b"CONNECT":
                return  # a CONNECT to a proxy: the connection to the upstream is not established yet
            self.sending = True
            self._socket_stream = None
            if self.clock is not None:
                self.clock.reschedule(None)
        elif self.sending and self._progress is not None and name.endswith(".send_request_body.complete"):
            self._progress.sent()


class HTTPXResponse(UpstreamResponse):
    """A response that wraps one of httpx2 or httpx."""

    __slots__ = ("_channel", "_complete", "_module", "_open", "_peer", "_pieces", "_response")

    def __init__(self, channel: HTTPXChannel, module: ModuleType, response: Any, peer: str) -> None:
        super().__init__(response.status_code, response.headers.get("content-encoding"))
        self._channel = channel
        self._module = module
        self._peer = peer
        self._response = response
        # The raw stream: the response's own methods would decompress without bounds.
        self._pieces: AsyncIterator[bytes] = response.stream.__aiter__()
        self._complete = False
        self._open = True

    @property
    @override
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        raw: Sequence[tuple[bytes, bytes]] = self._response.headers.raw
        return raw

    @override
    async def raw(self) -> bytes:
        if not self._open:
            if self._complete:
                return b""
            raise MisuseError("The upstream's response was read after it had been closed.")
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (self._module.HTTPError, OSError) as error:
            await self.aclose()
            raise _convert_error(self._module, error, self._peer, None) from error
        except BaseException:
            await self.aclose()
            raise
        self._complete = True
        if _surplus(self._response.stream) and (stream := self._response.extensions.get("network_stream")):
            await stream.aclose()
        await self.aclose()
        return b""

    @override
    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            # The body was read partly: close the iterator first, or the garbage collector would finish it.
            if (finish := getattr(self._pieces, "aclose", None)) is not None:
                await finish()
            await self._response.aclose()
        finally:
            await self._channel.done()


def _surplus(stream: object) -> bool:
    """Return whether bytes arrived after the response, which httpcore would parse as the next one.

    There is no public API, so this looks for the parser under the layers of streams; other transports have none.
    """
    while stream is not None:
        parser = getattr(getattr(stream, "_connection", None), "_h11_state", None)
        if parser is not None:
            return bool(parser.trailing_data[0])
        stream = getattr(stream, "_httpcore_stream", None) or getattr(stream, "_stream", None)
    return False


def _convert_error(module: ModuleType, error: BaseException, peer: str, connect: float | None) -> UpstreamError:
    """Convert an exception of httpx to an error of the gateway."""
    if isinstance(error, module.TimeoutException | TimeoutError):
        return connect_timeout(connect or 0, peer)
    if isinstance(error, module.ProxyError) and str(error)[:3].isdecimal():
        return refused_by_proxy(int(str(error)[:3]), peer)
    if isinstance(error, module.RemoteProtocolError) and not str(error).startswith(_CUT_SHORT):
        return UpstreamProtocolError("What the upstream sent is not HTTP.", reason=not_http(error, peer))
    return unreachable(error, peer, connected=not isinstance(error, module.ConnectError | module.ProxyError))
