"""Calls through the httpx programming interface: httpx2's transport where nothing faster is there, or the host's own.

httpx2 and the old httpx are the same interface under two names whose classes don't match each other's, so everything
here is told which of the two it speaks to. Requests are built directly, past the client's own: no header, cookie,
credential or redirect of the host's can join one of ours.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any, Self

import httpx2
from typing_extensions import override

from llmproxy_asgi.errors import MisuseError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from llmproxy_asgi.transport.answer import Answer
from llmproxy_asgi.transport.channel import (
    BODY_PIECE,
    KEEPALIVE_OPTIONS,
    LARGE_BODY,
    Limits,
    RequestProgress,
    Trust,
)
from llmproxy_asgi.transport.outgoing import Address, Headers, allowed, block, verb
from llmproxy_asgi.transport.proxies import Proxies, Proxy, where
from llmproxy_asgi.transport.reasons import UNREACHABLE, late, not_http, refused_by_proxy, unreachable

Send = Callable[[Any], Awaitable[Any]]

_PROXY_REFUSES = 407

# Both packages report a connection that ended too early, and bytes that are not HTTP, with one class.
_CUT_SHORT = ("Server disconnected", "peer closed connection")


class InterfaceChannel:
    """Connections behind a client's or transport's interface; may serve several loops if what it stands on does.

    Args:
        module: The package whose interface `send` has.
        send: Sends one of its requests and returns its response, the body unread.
        close: Closes what it stands on; None if that is the host's.
        proxied: Sends through a proxy; None where there is none, or it is the host's.
    """

    def __init__(
        self,
        module: ModuleType,
        send: Send,
        close: Callable[[], Awaitable[None]] | None = None,
        proxied: "_Proxied | None" = None,
    ) -> None:
        self._module = module
        self._send = send
        self._close = close
        self._proxied = proxied
        self._calls = 0
        self._closing = False

    @classmethod
    def built_in(cls, limits: Limits, trust: Trust, proxies: Proxies | None = None) -> Self:
        """Over httpx2's own transport."""

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
            return cls(httpx2, direct.handle_async_request, direct.aclose)
        proxied = _Proxied(proxies, make)

        async def close() -> None:
            await direct.aclose()
            await proxied.aclose()

        return cls(httpx2, direct.handle_async_request, close, proxied)

    @classmethod
    def of_transport(cls, module: ModuleType, transport: Any) -> Self:
        """Over the host's transport."""
        return cls(module, transport.handle_async_request)

    @classmethod
    def of_client(cls, module: ModuleType, client: Any) -> Self:
        """Over the host's client."""

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
    ) -> Answer:
        """As `Pool.open`."""
        verb(method)
        complete = allowed(headers, url.netloc, method, body)
        block(complete)
        if self._closing:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        self._calls += 1
        proxy = None if self._proxied is None else self._proxied.of(url)
        way = where(url, proxy)
        try:
            response = await self._ask(method, url, complete, body, connect, progress=progress, proxy=proxy)
        except BaseException:
            await self.done()
            raise
        answer = InterfaceAnswer(self, self._module, response, way)
        if proxy is not None and answer.status == _PROXY_REFUSES:
            await answer.aclose()
            raise refused_by_proxy(answer.status, way)
        return answer

    async def _ask(
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
        module, way = self._module, where(url, proxy)
        send = self._send if proxy is None or self._proxied is None else self._proxied.send(proxy)
        target = module.URL(str(url))
        tried_again = False
        while True:
            trace = _Trace(progress)
            request = module.Request(
                method,
                target,
                headers=headers,
                stream=module.ByteStream(body) if len(body) < LARGE_BODY else _in_pieces(module, body, progress),
                extensions={
                    "timeout": {"connect": connect, "pool": connect, "read": None, "write": None},
                    "trace": trace.note,
                },
            )
            try:
                # One clock for the place in the pool, DNS, TCP and TLS; a host's transport may not say when it stops.
                async with asyncio.timeout(connect if self._close else None) as trace.clock:
                    return await send(request)
            except (module.HTTPError, OSError) as broken:
                fault = _fault(module, broken, way, connect)
                await trace.hang_up()
                if tried_again or not trace.on_old_connection or not isinstance(fault, UpstreamUnreachable):
                    raise fault from broken
                tried_again = True
                if progress is not None:
                    progress.connecting()
            except ValueError as broken:
                await trace.hang_up()
                if trace.sending:
                    raise
                # anyio stumbles over a name that has no address.
                raise UpstreamUnreachable(UNREACHABLE, reason=f"the name has no address: {way}") from broken
            except BaseException:
                await trace.hang_up()
                raise

    async def done(self) -> None:
        """One call less; the last one on a channel that is closing closes what it stands on."""
        self._calls -= 1
        if self._closing and not self._calls and self._close:
            await self._close()

    async def aclose(self) -> None:
        """As `Pool.aclose`."""
        self._closing = True
        if not self._calls and self._close:
            await self._close()


class _Proxied:
    """One transport for each proxy, made when the first call goes through it."""

    def __init__(self, proxies: Proxies, make: Callable[[Proxy | None], httpx2.AsyncHTTPTransport]) -> None:
        self.of = proxies.of
        self._make = make
        self._transports: dict[str, httpx2.AsyncHTTPTransport] = {}

    def send(self, proxy: Proxy) -> Send:
        """What sends through this proxy."""
        name = str(proxy.address)
        transport = self._transports.get(name)
        if transport is None:
            transport = self._transports[name] = self._make(proxy)
        return transport.handle_async_request

    async def aclose(self) -> None:
        """Close all of them."""
        for transport in self._transports.values():
            await transport.aclose()


def _in_pieces(module: ModuleType, body: bytes, progress: RequestProgress | None) -> Any:
    """The stream of a large body, each piece of which is asked for when the one before was written."""

    class Pieces(module.ByteStream):  # type: ignore[misc, name-defined] # of this package, which keeps it as it is
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for start in range(0, len(body), BODY_PIECE):
                if progress is not None:
                    progress.sending()
                yield body[start : start + BODY_PIECE]

    return Pieces(body)


class _Trace:
    """How far a request has come, as httpcore's tracing tells it; where there is none, nothing is known."""

    def __init__(self, progress: RequestProgress | None) -> None:
        self._progress = progress
        self.clock: asyncio.Timeout | None = None
        self._connected = False
        self.sending = False
        self._bare: Any = None

    @property
    def on_old_connection(self) -> bool:
        return self.sending and not self._connected

    async def hang_up(self) -> None:
        """Close a connection given up between TCP and TLS, which httpcore would leave to the garbage collector."""
        bare, self._bare = self._bare, None
        if bare is not None:
            await bare.aclose()

    async def note(self, name: str, told: dict[str, Any]) -> None:
        """Take note of one event."""
        if name.startswith("connection.connect_"):
            self._connected = True
            self._bare = told.get("return_value")
        elif name.endswith(".send_request_headers.started"):
            if told["request"].method == b"CONNECT":
                return  # to a proxy: the connection to the upstream is still being made
            self.sending = True
            self._bare = None
            if self.clock is not None:
                self.clock.reschedule(None)
        elif self.sending and self._progress is not None and name.endswith(".send_request_body.complete"):
            self._progress.sent()


class InterfaceAnswer(Answer):
    """An answer that arrives through a response of httpx2 or httpx."""

    __slots__ = ("_channel", "_module", "_open", "_pieces", "_response", "_where", "_whole")

    def __init__(self, channel: InterfaceChannel, module: ModuleType, response: Any, way: str) -> None:
        super().__init__(response.status_code, response.headers.get("content-encoding"))
        self._channel = channel
        self._module = module
        self._where = way
        self._response = response
        # Past the response's own reading, which would decode without bounds.
        self._pieces: AsyncIterator[bytes] = response.stream.__aiter__()
        self._whole = False
        self._open = True

    @property
    @override
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        raw: Sequence[tuple[bytes, bytes]] = self._response.headers.raw
        return raw

    @override
    async def raw(self) -> bytes:
        if not self._open:
            if self._whole:
                return b""
            raise MisuseError("The upstream's response was read after it had been closed.")
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (self._module.HTTPError, OSError) as broken:
            await self.aclose()
            raise _fault(self._module, broken, self._where, None) from broken
        except BaseException:
            await self.aclose()
            raise
        self._whole = True
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
            # A piece of a body left half read: the reader first, or it would be finished by the garbage collector.
            if (finish := getattr(self._pieces, "aclose", None)) is not None:
                await finish()
            await self._response.aclose()
        finally:
            await self._channel.done()


def _surplus(stream: object) -> bool:
    """Whether bytes came behind the answer that httpcore would take for the next one.

    Nothing public tells, so this looks for the parser under the layers of streams; other transports have none.
    """
    while stream is not None:
        parser = getattr(getattr(stream, "_connection", None), "_h11_state", None)
        if parser is not None:
            return bool(parser.trailing_data[0])
        stream = getattr(stream, "_httpcore_stream", None) or getattr(stream, "_stream", None)
    return False


def _fault(module: ModuleType, broken: BaseException, way: str, connect: float | None) -> UpstreamError:
    """Our error for one of theirs."""
    if isinstance(broken, module.TimeoutException | TimeoutError):
        return late(connect or 0, way)
    if isinstance(broken, module.ProxyError) and str(broken)[:3].isdecimal():
        return refused_by_proxy(int(str(broken)[:3]), way)
    if isinstance(broken, module.RemoteProtocolError) and not str(broken).startswith(_CUT_SHORT):
        return UpstreamProtocolError("What the upstream sent is not HTTP.", reason=not_http(broken, way))
    return unreachable(broken, way, connected=not isinstance(broken, module.ConnectError | module.ProxyError))
