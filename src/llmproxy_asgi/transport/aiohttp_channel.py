"""A channel on aiohttp's connections and its parser in C, without its session, request and response objects.

Those objects cost twice as much as the rest of a call. Without them there are no redirects, cookies, netrc files,
decompression and retries, none of which is needed here. The channel uses `TCPConnector` (connection limits, DNS, happy
eyeballs, TLS) and its protocol class; `incompatibility` detects releases of aiohttp that changed these internals.
"""

import asyncio
import functools
import inspect
import socket
import ssl
import traceback
from collections.abc import Sequence
from typing import Any

import aiohttp
import yarl
from aiohttp import ClientRequest, ClientTimeout, TCPConnector, ThreadedResolver
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.http import HttpProcessingError
from aiohttp.streams import EofStream, StreamReader
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
    BROKE,
    connect_timeout,
    not_http,
    pool_timeout,
    refused_by_proxy,
    unreachable,
)
from llmproxy_asgi.transport.proxies import Proxies, Proxy, peer_name
from llmproxy_asgi.transport.request_head import Address, HeaderLines, Headers, encode_method
from llmproxy_asgi.transport.response import UpstreamResponse

# The buffers of a stream whose reader is slow. aiohttp stops reading from the socket at twice the first. Event loops
# read 250 KiB at once, so from then on they read at most the second at once; the third is the longest piece returned.
_READ_BUFFER = 16 * 1024
_SLOW_READ = 32 * 1024
_MAX_PIECE = 48 * 1024

# The read buffer of a response that is read completely, and so is held in memory anyway.
_LARGE_READ = 256 * 1024

# The most interim responses (RFC 9110, 15.2) before the final one.
_MAX_INTERIM = 20

_PROXY_REFUSES = 407

# The most cached addresses; a provider has a handful, but one that creates them for each call must not fill the memory.
_MAX_ROUTES = 512

_CONNECTION_ERRORS = (aiohttp.ClientError, OSError, EofStream)


def incompatibility() -> str:
    """Return why the installed aiohttp cannot be used; empty if it can."""
    wanted = {"skip_payload", "read_until_eof", "auto_decompress", "read_bufsize", "max_line_size", "max_field_size"}
    offered = set(inspect.signature(ResponseHandler.set_response_params).parameters)
    kept = {"_buffer", "_buffer_offset", "_cursor", "_http_chunk_splits", "_size", "_wait", "total_bytes"}
    held = {"_reading_paused", "_buffer_paused"}
    if (
        wanted <= offered
        and kept <= set(dir(StreamReader))
        and held <= set(dir(ResponseHandler))
        and hasattr(TCPConnector, "_wait_for_available_connection")
        and "_factory" in TCPConnector._create_direct_connection.__code__.co_names  # noqa: SLF001
    ):
        return ""
    return f"release {aiohttp.__version__} does not have the insides we know"


class _ConnectionHandler(ResponseHandler):
    """The protocol of one connection; in addition to aiohttp's it records whether it was used and how much arrived."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: "AiohttpChannel") -> None:
        super().__init__(loop)
        self.channel = channel
        self.used = False
        """Whether a request was sent on it before."""
        self.is_idle = False
        """Whether it is idle in the pool."""
        self.received = 0
        """Bytes of the response received so far, until its headers are complete."""
        self.failed = False
        """Whether it ended with an error rather than by the upstream closing it."""
        self.body: StreamReader | None = None
        self.unsent: memoryview | None = None
        """The unsent part of a large request's body; empty while its last piece is in the socket's buffer."""
        self.progress: RequestProgress | None = None
        self._reading_head = True
        self._was_paused = False
        self._reads_slowly = False
        self._reads_all = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            for option in KEEPALIVE_OPTIONS:
                connection.setsockopt(*option)

    def begin(self) -> None:
        """Reset the state of the last response."""
        self.received = 0
        self._reading_head = True
        self._was_paused = self._reading_paused
        self.body = None
        self._reads_all = False
        self._switch_protocol(self, slowly=False)

    def send(self, head: bytes, body: bytes, progress: RequestProgress | None) -> None:
        """Write a request; a large body in pieces, each after the upstream has accepted the one before."""
        transport = self.transport
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        if len(body) < LARGE_BODY:
            transport.write(head + body)
            if progress is not None:
                progress.sent()
            return
        transport.set_write_buffer_limits(LARGE_BODY)  # TLS would report half a megabyte as written
        transport.write(head)
        self.unsent, self.progress = memoryview(body), progress
        self._continue_sending()

    def _continue_sending(self) -> None:
        while self.unsent and not self.writing_paused and self.transport is not None:
            piece, self.unsent = self.unsent[:BODY_PIECE], self.unsent[BODY_PIECE:]
            if self.progress is not None:
                self.progress.sending()
            self.transport.write(piece)
        if not self.unsent and not self.writing_paused:
            self.unsent = None
            if self.progress is not None:
                self.progress.sent()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unsent is not None:
            self._continue_sending()

    def read_all(self) -> None:
        """Read as much as possible at once."""
        self._reads_all = True
        self._switch_protocol(self, slowly=False)

    def _switch_protocol(self, protocol: asyncio.BaseProtocol, *, slowly: bool) -> None:
        if self._reads_slowly != slowly and self.transport is not None:
            self._reads_slowly = slowly
            self.transport.set_protocol(protocol)
            if limit := getattr(self.transport, "set_read_buffer_limits", None):  # of TLS: the limit for encrypted data
                limit(_SLOW_READ if slowly else None)

    @override
    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()
        if not (self._reads_slowly or self._reads_all):
            self._switch_protocol(_SlowReadProtocol(self), slowly=True)

    @override
    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this for every chunk taken out of its buffer, and would resume parser and socket each time. If
        # reading was never paused for this response, there is nothing to resume.
        if self._was_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    @override
    def data_received(self, data: bytes) -> None:
        if not self._reading_head:
            if self.is_idle and data:
                # There is no request. These bytes would be parsed as the response to the next one.
                self.abort()
                return
            super().data_received(data)
            return
        self.received += len(data)
        super().data_received(data)
        if len(self) or self.exception() is not None:
            self._reading_head = False
        elif self.received > self.channel.limits.max_header_bytes:
            self.set_exception(HttpProcessingError(message="headers too large"))
            self.abort_socket()

    @override
    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        # After a parser's error aiohttp informs the reader of the headers, but not the reader of the body.
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if self.body is not None and not self.body.is_eof():
            self.body.set_exception(exc, exc if exc_cause is None else exc_cause)

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self.failed = exc is not None
        self.unsent = None
        self.channel.idle.discard(self)
        super().connection_lost(exc)

    def abort_socket(self) -> None:
        """Close the socket; `connection_lost` does the rest."""
        if self.transport is not None:
            self.transport.abort()


class _SlowReadProtocol(asyncio.BufferedProtocol):
    """Reads small amounts from a socket for a connection whose reader is slow, until the end of the response.

    Only a buffered protocol can control how much is read.
    """

    def __init__(self, handler: _ConnectionHandler) -> None:
        self._handler = handler
        self._memory = memoryview(b"")

    @override
    def get_buffer(self, sizehint: int) -> memoryview:  # asyncio slices it for TLS, which must not copy
        self._memory = memoryview(bytearray(_SLOW_READ))
        return self._memory

    @override
    def buffer_updated(self, nbytes: int) -> None:
        memory, self._memory = self._memory, memoryview(b"")
        self._handler.data_received(bytes(memory[:nbytes]))

    @override
    def eof_received(self) -> None:
        self._handler.eof_received()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self._handler.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._handler.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._handler.resume_writing()


class _Resolver(ThreadedResolver):
    """Resolves names with the system's resolver, even if aiodns is installed."""

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if not found:  # aiohttp would fail with another exception
            raise OSError("the name has no address")
        return found


class _Route(ClientRequest):
    """The connector's data about an address, computed once, and the end of its request line."""

    def __init__(
        self, url: Address, context: ssl.SSLContext | None, loop: asyncio.AbstractEventLoop, proxy: Proxy | None
    ) -> None:
        super().__init__(
            "GET",
            _origin(url),
            loop=loop,
            ssl=True if context is None else context,
            proxy=None if proxy is None else _origin(proxy.address),
            proxy_headers=None if proxy is None else proxy.text_headers,
        )
        self.address = url
        self.peer = peer_name(url, proxy)
        # For plain http the request line to a proxy contains the full address; for https there is a CONNECT only.
        self.plain_proxy = proxy if url.scheme == "http" else None
        path = url.raw_path if self.plain_proxy is None else str(url).encode("ascii")
        self.line_end = b" " + path + b" HTTP/1.1\r\n"
        self.header_lines = HeaderLines(url.netloc)
        self._key = super().connection_key

    @property
    @override
    def connection_key(self) -> ConnectionKey:
        return self._key


class AiohttpChannel:
    """One pool's connections on the running event loop."""

    def __init__(self, limits: Limits, trust: Trust, proxies: Proxies | None = None) -> None:
        self.limits = limits
        self._proxies = proxies
        self.idle: set[_ConnectionHandler] = set()
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._connector = TCPConnector(
            limit=limits.max_connections,
            limit_per_host=0,
            keepalive_timeout=limits.keepalive_expiry,
            resolver=_Resolver(loop=self._loop),
        )
        self._connector._factory = functools.partial(_ConnectionHandler, self._loop, self)  # type: ignore[assignment] # noqa: SLF001
        self._routes: dict[int, _Route] = {}
        self._timeouts: dict[float, ClientTimeout] = {}
        self._calls = 0
        self._closing: asyncio.Task[None] | None = None
        self._closed = False

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
        route = self._routes.get(id(url)) or await self._route(url)
        if route.plain_proxy is not None:
            headers = (*headers, *route.plain_proxy.headers)
        head = encode_method(method) + route.line_end + route.header_lines.write(headers, method, body)
        connect_limit = self._timeouts.get(connect) or self._timeout(connect)
        if self._closed:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        self._calls += 1
        retried = False
        while True:
            try:
                connection, handler = await self._acquire(route, connect_limit)
            except BaseException:
                self._done()
                raise
            used, handler.used = handler.used, True
            try:
                message, payload = await self._exchange(handler, head, body, progress, bodiless=method == "HEAD")
            except BaseException as error:
                failure = _convert_error(error, handler, route.peer)
                handler.progress = None
                handler.abort()
                connection.close()
                if used and not handler.received and not retried and isinstance(failure, UpstreamUnreachable):
                    retried = True
                    # The other idle connections may be closed as well.
                    self._close_idle()
                    if progress is not None:
                        progress.connecting()
                    continue
                self._done()
                if failure is None:
                    raise
                raise failure from error
            if message.code == _PROXY_REFUSES and route.plain_proxy is not None:
                self.drop(connection, handler)
                raise refused_by_proxy(message.code, route.peer)
            return AiohttpResponse(self, connection, handler, message, payload, peer=route.peer)

    async def _acquire(self, route: _Route, connect_limit: ClientTimeout) -> tuple[Connection, _ConnectionHandler]:
        try:
            connection = await self._connector.connect(route, [], connect_limit)
        except TimeoutError as error:
            seconds = connect_limit.connect or 0
            if _waited_in_pool(error):
                raise pool_timeout(seconds, route.peer, self.limits.max_connections) from error
            raise connect_timeout(seconds, route.peer) from error
        except aiohttp.ClientHttpProxyError as error:
            raise refused_by_proxy(error.status, route.peer) from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error, route.peer) from error
        handler = connection.protocol
        assert isinstance(handler, _ConnectionHandler)
        if handler.is_idle:
            handler.is_idle = False
            self.idle.discard(handler)
        return connection, handler

    async def _exchange(
        self, handler: _ConnectionHandler, head: bytes, body: bytes, progress: RequestProgress | None, *, bodiless: bool
    ) -> tuple[Any, StreamReader]:
        if handler.transport is None:
            raise aiohttp.ServerDisconnectedError
        handler.begin()
        handler.set_response_params(
            skip_payload=bodiless,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=self.limits.max_header_bytes,
            max_field_size=self.limits.max_header_bytes,
        )
        handler.send(head, body, progress)
        for _ in range(_MAX_INTERIM):
            message, payload = await handler.read()
            status = message.code
            if status >= 200:
                if handler.progress is not None:
                    handler.progress = None
                    if handler.unsent is not None and progress is not None:
                        progress.sent()  # the response did not wait for the rest of the request
                handler.body = payload
                if (error := handler.exception()) is not None and not payload.is_eof():
                    payload.set_exception(error)
                return message, payload
            if status == 101:
                break
        raise HttpProcessingError(message="no final answer")

    def keep(self, connection: Connection, handler: _ConnectionHandler) -> None:
        """Return a connection to the pool after its response was read completely."""
        transport = handler.transport
        # The upstream responded before it read the whole request, and the rest would precede the next request.
        if transport is None or handler.unsent is not None or transport.get_write_buffer_size():
            handler.abort()
        elif self._closed or len(self.idle) >= self.limits.max_keepalive:
            handler.force_close()
        connection.release()
        if handler.transport is not None:
            handler.is_idle = True
            self.idle.add(handler)
        self._done()

    def drop(self, connection: Connection, handler: _ConnectionHandler) -> None:
        """Close a connection whose response is not read to its end."""
        # Abort: an orderly close would first send the rest of the request.
        handler.abort()
        connection.close()
        self._done()

    def _done(self) -> None:
        self._calls -= 1
        if self._closed and not self._calls:
            self._closing = self._loop.create_task(self._connector.close())

    def _close_idle(self) -> None:
        for handler in list(self.idle):
            handler.abort()
        self.idle.clear()

    async def aclose(self) -> None:
        """Close the connections, as `Pool.aclose` does."""
        self._closed = True
        self._close_idle()
        if not self._calls:
            await self._connector.close()

    def _timeout(self, connect: float) -> ClientTimeout:
        if len(self._timeouts) >= _MAX_ROUTES:
            self._timeouts.clear()
        # aiohttp would round longer timeouts up to a full second.
        connect_limit = self._timeouts[connect] = ClientTimeout(
            total=None, connect=connect, ceil_threshold=float("inf")
        )
        return connect_limit

    async def _route(self, url: Address) -> _Route:
        context = await self._trust.context() if url.scheme == "https" else None
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        # The route keeps the address alive, so its id stays unique.
        proxy = None if self._proxies is None else self._proxies.of(url)
        route = self._routes[id(url)] = _Route(url, context, self._loop, proxy)
        return route


class AiohttpResponse(UpstreamResponse):
    """A response that is read from one of aiohttp's connections."""

    __slots__ = ("_channel", "_complete", "_connection", "_handler", "_max_piece", "_message", "_payload", "_peer")

    def __init__(
        self,
        channel: AiohttpChannel,
        connection: Connection,
        handler: _ConnectionHandler,
        message: Any,
        payload: StreamReader,
        *,
        peer: str,
    ) -> None:
        codings = message.headers.getall(CONTENT_ENCODING, None)
        super().__init__(message.code, None if codings is None else ",".join(codings))
        self._channel = channel
        self._connection: Connection | None = connection
        self._handler = handler
        self._message = message
        self._payload = payload
        self._peer = peer
        self._max_piece = _MAX_PIECE
        self._complete = False

    @property
    @override
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        raw: Sequence[tuple[bytes, bytes]] = self._message.raw_headers
        return raw

    @property
    @override
    def is_read(self) -> bool:
        return self._complete and self._surplus is None and self._decoder is None

    @override
    def header(self, name: str) -> str | None:
        values = self._message.headers.getall(name, None)
        if values is None:
            return None
        if len(values) == 1 and values[0].isascii() and values[0].isprintable():
            only: str = values[0]
            return only
        return super().header(name)

    @override
    async def raw(self) -> bytes:
        connection = self._connection
        if connection is None:
            if self._complete:
                return b""
            raise MisuseError("The upstream's response was read after it had been closed.")
        try:
            piece = await _read_available(self._payload, self._handler, self._max_piece)
        except BaseException as error:
            failure = _convert_error(error, self._handler, self._peer)
            await self.aclose()
            if failure is None:
                raise
            raise failure from error
        if self._payload.at_eof():
            if self._handler.failed and self._until_close():
                await self.aclose()
                raise UpstreamUnreachable(BROKE, reason=f"the connection broke within the answer: {self._peer}")
            self._complete = True
            self._connection = None
            self._channel.keep(connection, self._handler)
        return piece

    @override
    async def read(self, limit: int) -> bytes:
        if not self._payload.is_eof():
            self._max_piece = 2 * _LARGE_READ
            self._payload.set_read_chunk_size(_LARGE_READ)
            self._handler.read_all()
        return await super().read(limit)

    def _until_close(self) -> bool:
        """Return whether the body ends with the connection."""
        return not self._message.chunked and "content-length" not in self._message.headers

    @override
    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._payload.at_eof():
            self._complete = True
            self._channel.keep(connection, self._handler)
        else:
            self._channel.drop(connection, self._handler)


async def _read_available(payload: StreamReader, handler: _ConnectionHandler, limit: int) -> bytes:
    """Wait for data and return what is buffered; empty at the end. Like `readany`, without its work for each chunk."""
    if payload.at_eof():
        return payload.read_nowait()
    chunks = payload._buffer  # noqa: SLF001
    while not chunks and not payload.is_eof() and payload.exception() is None:
        await payload._wait("readany")  # noqa: SLF001
    if payload._size > limit or payload._buffer_offset:  # noqa: SLF001
        return payload.read_nowait(limit)
    if not chunks or payload.exception() is not None:
        return payload.read_nowait()
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    chunks.clear()
    ends = payload._http_chunk_splits  # noqa: SLF001
    if ends is not None:
        ends.clear()
    payload._size = 0  # noqa: SLF001
    payload._cursor = payload.total_bytes  # noqa: SLF001
    handler.resume_reading()
    return data


def _waited_in_pool(error: TimeoutError) -> bool:
    """Return whether the connector gave up while all of its connections were in use."""
    waiting = TCPConnector._wait_for_available_connection.__code__  # noqa: SLF001
    cancelled = error.__cause__ or error.__context__
    return cancelled is not None and any(
        frame.f_code is waiting for frame, _ in traceback.walk_tb(cancelled.__traceback__)
    )


def _convert_error(error: BaseException, handler: _ConnectionHandler, peer: str) -> UpstreamError | None:
    """Convert an error of a connection; return None for other exceptions, such as a cancellation."""
    if not isinstance(error, (*_CONNECTION_ERRORS, HttpProcessingError)) and handler.transport is not None:
        return None
    if not isinstance(error, Exception):
        return None
    parser_error = handler.exception()
    if isinstance(error, HttpProcessingError) or isinstance(parser_error, HttpProcessingError):
        cause = error if parser_error is None else parser_error
        return UpstreamProtocolError(
            "What the upstream sent is not HTTP, or its headers are too large.", reason=not_http(cause, peer)
        )
    return unreachable(error, peer, connected=True)


def _origin(url: Address) -> yarl.URL:
    host = url.raw_host.decode("ascii")
    # An IPv6 address needs its brackets: with `encoded` yarl does not add them.
    return yarl.URL.build(
        scheme=url.scheme, host=f"[{host}]" if ":" in host else host, port=url.port, path="/", encoded=True
    )
