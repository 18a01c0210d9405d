"""The fast way: aiohttp's connections and its parser in C, without its session, request and response objects.

Those objects cost twice what all the rest of a call does. Left away with them are redirects, cookies, netrc,
decompression and retries, none of which is wanted here. What is used is `TCPConnector` (places, DNS, happy eyeballs,
TLS) and the protocol it makes; `incompatibility` tells when a release of aiohttp has changed what we rely on.
"""

import asyncio
import functools
import inspect
import socket
import ssl
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
from llmproxy_asgi.transport.answer import Answer
from llmproxy_asgi.transport.channel import (
    BODY_PIECE,
    KEEPALIVE_OPTIONS,
    LARGE_BODY,
    Limits,
    RequestProgress,
    Trust,
)
from llmproxy_asgi.transport.outgoing import Address, HeaderLines, Headers, verb
from llmproxy_asgi.transport.proxies import Proxies, Proxy, where
from llmproxy_asgi.transport.reasons import BROKE, late, not_http, refused_by_proxy, unreachable

# What lies here of a stream whose reader is slow. aiohttp stops reading from the socket at twice the first. Event loops
# read 250 KiB at once, so from then on they get no more room than the second; the third is the most that is handed on.
_READ_BUFFER = 16 * 1024
_SIP = 32 * 1024
_AT_ONCE = 48 * 1024

# The same of an answer that is wanted whole, and so kept anyway.
_GULP = 256 * 1024

# Interim answers (RFC 9110, 15.2) before the real one.
_INTERIM = 20

_PROXY_REFUSES = 407

# Addresses remembered; a provider has a handful, one that builds them per call must not fill the memory.
_ROUTES = 512

_BROKEN = (aiohttp.ClientError, OSError, EofStream)


def incompatibility() -> str:
    """What keeps the installed aiohttp from being used; empty if nothing does."""
    wanted = {"skip_payload", "read_until_eof", "auto_decompress", "read_bufsize", "max_line_size", "max_field_size"}
    offered = set(inspect.signature(ResponseHandler.set_response_params).parameters)
    kept = {"_buffer", "_buffer_offset", "_cursor", "_http_chunk_splits", "_size", "_wait", "total_bytes"}
    held = {"_reading_paused", "_buffer_paused"}
    if (
        wanted <= offered
        and kept <= set(dir(StreamReader))
        and held <= set(dir(ResponseHandler))
        and "_factory" in TCPConnector._create_direct_connection.__code__.co_names  # noqa: SLF001
    ):
        return ""
    return f"release {aiohttp.__version__} does not have the insides we know"


class _Line(ResponseHandler):
    """One connection, which also knows what aiohttp does not ask: has it been used, and what came when."""

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: "AiohttpChannel") -> None:
        super().__init__(loop)
        self.channel = channel
        self.used = False
        """Whether it has carried a request before."""
        self.resting = False
        """Whether it is kept for later."""
        self.heard = 0
        """Bytes of the answer so far, until its headers are complete."""
        self.broke = False
        """Whether it ended by an error rather than by the upstream's closing it."""
        self.body: StreamReader | None = None
        self.unsent: memoryview | None = None
        """What is left of a large request's body; empty while its last piece waits in the socket's buffer."""
        self.progress: RequestProgress | None = None
        self._heading = True
        self._held_back = False
        self._sips = False
        self._whole = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            for option in KEEPALIVE_OPTIONS:
                connection.setsockopt(*option)

    def begin(self) -> None:
        """Forget the last answer."""
        self.heard = 0
        self._heading = True
        self._held_back = self._reading_paused
        self.body = None
        self._whole = False
        self._read_by(self, sips=False)

    def send(self, head: bytes, body: bytes, progress: RequestProgress | None) -> None:
        """Write a request; a large body in pieces, each when the upstream has taken the one before."""
        transport = self.transport
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        if len(body) < LARGE_BODY:
            transport.write(head + body)
            if progress is not None:
                progress.sent()
            return
        transport.set_write_buffer_limits(LARGE_BODY)  # TLS would let half a megabyte pass for written
        transport.write(head)
        self.unsent, self.progress = memoryview(body), progress
        self._send_on()

    def _send_on(self) -> None:
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
            self._send_on()

    def want_whole(self) -> None:
        """Read as much at once as there is."""
        self._whole = True
        self._read_by(self, sips=False)

    def _read_by(self, protocol: asyncio.BaseProtocol, *, sips: bool) -> None:
        if self._sips != sips and self.transport is not None:
            self._sips = sips
            self.transport.set_protocol(protocol)
            if limit := getattr(self.transport, "set_read_buffer_limits", None):  # TLS's, of what is still encrypted
                limit(_SIP if sips else None)

    @override
    def pause_reading(self) -> None:
        self._held_back = True
        super().pause_reading()
        if not (self._sips or self._whole):
            self._read_by(_Sips(self), sips=True)

    @override
    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this for every chunk that is taken out of its buffer, and would wake parser and socket each
        # time. Where nothing of this answer was ever held back there is nothing to wake.
        if self._held_back or self._buffer_paused:
            super().resume_reading(resume_parser)

    @override
    def data_received(self, data: bytes) -> None:
        if not self._heading:
            if self.resting and data:
                # Nobody asked. Kept, these bytes would be read as the answer to the next request.
                self.abort()
                return
            super().data_received(data)
            return
        self.heard += len(data)
        super().data_received(data)
        if len(self) or self.exception() is not None:
            self._heading = False
        elif self.heard > self.channel.limits.max_header_bytes:
            self.set_exception(HttpProcessingError(message="headers too large"))
            self.abort_socket()

    @override
    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        # After a parser's error aiohttp tells whoever waits for headers, but not whoever reads the body.
        super().set_exception(exc, exc if exc_cause is None else exc_cause)
        if self.body is not None and not self.body.is_eof():
            self.body.set_exception(exc, exc if exc_cause is None else exc_cause)

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self.broke = exc is not None
        self.unsent = None
        self.channel.idle.discard(self)
        super().connection_lost(exc)

    def abort_socket(self) -> None:
        """Close the socket and leave the rest to `connection_lost`."""
        if self.transport is not None:
            self.transport.abort()


class _Sips(asyncio.BufferedProtocol):
    """Stands between a socket and a line whose reader has fallen behind, until the answer's end: reads little at once.

    Only a protocol of this kind can say how much is read.
    """

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._room = memoryview(b"")

    @override
    def get_buffer(self, sizehint: int) -> memoryview:  # asyncio slices it for TLS, which must not copy
        self._room = memoryview(bytearray(_SIP))
        return self._room

    @override
    def buffer_updated(self, nbytes: int) -> None:
        room, self._room = self._room, memoryview(b"")
        self._line.data_received(bytes(room[:nbytes]))

    @override
    def eof_received(self) -> None:
        self._line.eof_received()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self._line.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._line.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._line.resume_writing()


class _Resolver(ThreadedResolver):
    """As everything else on the machine resolves, whatever else is installed."""

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if not found:  # aiohttp would stumble over it
            raise OSError("the name has no address")
        return found


class _Route(ClientRequest):
    """What the connector has to know of an address, worked out once; and the request line for it."""

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
        self.where = where(url, proxy)
        # A proxy is asked for plain http by whole addresses; for https it sees no more than CONNECT.
        self.by_proxy = proxy if url.scheme == "http" else None
        path = url.raw_path if self.by_proxy is None else str(url).encode("ascii")
        self.line_end = b" " + path + b" HTTP/1.1\r\n"
        self.lines = HeaderLines(url.netloc)
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
        self.idle: set[_Line] = set()
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._connector = TCPConnector(
            limit=limits.max_connections,
            limit_per_host=0,
            keepalive_timeout=limits.keepalive_expiry,
            resolver=_Resolver(loop=self._loop),
        )
        self._connector._factory = functools.partial(_Line, self._loop, self)  # type: ignore[assignment] # noqa: SLF001
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
    ) -> Answer:
        """As `Pool.open`."""
        route = self._routes.get(id(url)) or await self._route(url)
        if route.by_proxy is not None:
            headers = (*headers, *route.by_proxy.headers)
        head = verb(method) + route.line_end + route.lines.write(headers, method, body)
        within = self._timeouts.get(connect) or self._timeout(connect)
        if self._closed:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        self._calls += 1
        tried_again = False
        while True:
            try:
                connection, line = await self._take(route, within)
            except BaseException:
                self._done()
                raise
            used, line.used = line.used, True
            try:
                message, payload = await self._exchange(line, head, body, progress, bodiless=method == "HEAD")
            except BaseException as broken:
                fault = _fault(broken, line, route.where)
                line.progress = None
                line.abort()
                connection.close()
                if used and not line.heard and not tried_again and isinstance(fault, UpstreamUnreachable):
                    tried_again = True
                    # Whatever else has been lying about may be as dead as this one was.
                    self._close_idle()
                    if progress is not None:
                        progress.connecting()
                    continue
                self._done()
                if fault is None:
                    raise
                raise fault from broken
            if message.code == _PROXY_REFUSES and route.by_proxy is not None:
                self.drop(connection, line)
                raise refused_by_proxy(message.code, route.where)
            return AiohttpAnswer(self, connection, line, message, payload, where=route.where)

    async def _take(self, route: _Route, within: ClientTimeout) -> tuple[Connection, _Line]:
        try:
            connection = await self._connector.connect(route, [], within)
        except TimeoutError as broken:
            raise late(within.connect or 0, route.where) from broken
        except aiohttp.ClientHttpProxyError as broken:
            raise refused_by_proxy(broken.status, route.where) from broken
        except (aiohttp.ClientError, OSError) as broken:
            raise unreachable(broken, route.where) from broken
        line = connection.protocol
        assert isinstance(line, _Line)
        if line.resting:
            line.resting = False
            self.idle.discard(line)
        return connection, line

    async def _exchange(
        self, line: _Line, head: bytes, body: bytes, progress: RequestProgress | None, *, bodiless: bool
    ) -> tuple[Any, StreamReader]:
        if line.transport is None:
            raise aiohttp.ServerDisconnectedError
        line.begin()
        line.set_response_params(
            skip_payload=bodiless,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=self.limits.max_header_bytes,
            max_field_size=self.limits.max_header_bytes,
        )
        line.send(head, body, progress)
        for _ in range(_INTERIM):
            message, payload = await line.read()
            status = message.code
            if status >= 200:
                if line.progress is not None:
                    line.progress = None
                    if line.unsent is not None and progress is not None:
                        progress.sent()  # as far as this answer is concerned, which did not wait for all of it
                line.body = payload
                if (broken := line.exception()) is not None and not payload.is_eof():
                    payload.set_exception(broken)
                return message, payload
            if status == 101:
                break
        raise HttpProcessingError(message="no final answer")

    def keep(self, connection: Connection, line: _Line) -> None:
        """Take a connection back whose answer was read whole."""
        transport = line.transport
        # Something left to send: it answered without reading all of the request, and the rest would precede the next.
        if transport is None or line.unsent is not None or transport.get_write_buffer_size():
            line.abort()
        elif self._closed or len(self.idle) >= self.limits.max_keepalive:
            line.force_close()
        connection.release()
        if line.transport is not None:
            line.resting = True
            self.idle.add(line)
        self._done()

    def drop(self, connection: Connection, line: _Line) -> None:
        """Close a connection whose answer will not be read to its end."""
        # At once: an orderly close would first send what is left of the request.
        line.abort()
        connection.close()
        self._done()

    def _done(self) -> None:
        self._calls -= 1
        if self._closed and not self._calls:
            self._closing = self._loop.create_task(self._connector.close())

    def _close_idle(self) -> None:
        for line in list(self.idle):
            line.abort()
        self.idle.clear()

    async def aclose(self) -> None:
        """As `Pool.aclose`."""
        self._closed = True
        self._close_idle()
        if not self._calls:
            await self._connector.close()

    def _timeout(self, connect: float) -> ClientTimeout:
        if len(self._timeouts) >= _ROUTES:
            self._timeouts.clear()
        # aiohttp would round longer waits up to a whole second.
        within = self._timeouts[connect] = ClientTimeout(total=None, connect=connect, ceil_threshold=float("inf"))
        return within

    async def _route(self, url: Address) -> _Route:
        context = await self._trust.context() if url.scheme == "https" else None
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        # The route keeps the address alive, so the number stays its own.
        proxy = None if self._proxies is None else self._proxies.of(url)
        route = self._routes[id(url)] = _Route(url, context, self._loop, proxy)
        return route


class AiohttpAnswer(Answer):
    """An answer that is read from one of aiohttp's connections."""

    __slots__ = ("_at_once", "_channel", "_connection", "_line", "_message", "_payload", "_where", "_whole")

    def __init__(
        self,
        channel: AiohttpChannel,
        connection: Connection,
        line: _Line,
        message: Any,
        payload: StreamReader,
        *,
        where: str,
    ) -> None:
        codings = message.headers.getall(CONTENT_ENCODING, None)
        super().__init__(message.code, None if codings is None else ",".join(codings))
        self._channel = channel
        self._connection: Connection | None = connection
        self._line = line
        self._message = message
        self._payload = payload
        self._where = where
        self._at_once = _AT_ONCE
        self._whole = False

    @property
    @override
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        raw: Sequence[tuple[bytes, bytes]] = self._message.raw_headers
        return raw

    @property
    @override
    def is_read(self) -> bool:
        return self._whole and self._surplus is None and self._decoder is None

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
            if self._whole:
                return b""
            raise MisuseError("The upstream's response was read after it had been closed.")
        try:
            piece = await _arrived(self._payload, self._line, self._at_once)
        except BaseException as broken:
            fault = _fault(broken, self._line, self._where)
            await self.aclose()
            if fault is None:
                raise
            raise fault from broken
        if self._payload.at_eof():
            if self._line.broke and self._until_close():
                await self.aclose()
                raise UpstreamUnreachable(BROKE, reason=f"the connection broke within the answer: {self._where}")
            self._whole = True
            self._connection = None
            self._channel.keep(connection, self._line)
        return piece

    @override
    async def read(self, limit: int) -> bytes:
        if not self._payload.is_eof():
            self._at_once = 2 * _GULP
            self._payload.set_read_chunk_size(_GULP)
            self._line.want_whole()
        return await super().read(limit)

    def _until_close(self) -> bool:
        """Whether only the connection's end says where the body ends."""
        return not self._message.chunked and "content-length" not in self._message.headers

    @override
    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._payload.at_eof():
            self._whole = True
            self._channel.keep(connection, self._line)
        else:
            self._channel.drop(connection, self._line)


async def _arrived(payload: StreamReader, line: _Line, most: int) -> bytes:
    """What is there, as soon as anything is; empty at the end: `readany`, without its work for each chunk."""
    if payload.at_eof():
        return payload.read_nowait()
    chunks = payload._buffer  # noqa: SLF001
    while not chunks and not payload.is_eof() and payload.exception() is None:
        await payload._wait("readany")  # noqa: SLF001
    if payload._size > most or payload._buffer_offset:  # noqa: SLF001
        return payload.read_nowait(most)
    if not chunks or payload.exception() is not None:
        return payload.read_nowait()
    everything = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    chunks.clear()
    ends = payload._http_chunk_splits  # noqa: SLF001
    if ends is not None:
        ends.clear()
    payload._size = 0  # noqa: SLF001
    payload._cursor = payload.total_bytes  # noqa: SLF001
    line.resume_reading()
    return everything


def _fault(broken: BaseException, line: _Line, where: str) -> UpstreamError | None:
    """Our error for one of theirs; none for what is not about the connection, such as a cancellation."""
    if not isinstance(broken, (*_BROKEN, HttpProcessingError)) and line.transport is not None:
        return None
    if not isinstance(broken, Exception):
        return None
    told = line.exception()
    if isinstance(broken, HttpProcessingError) or isinstance(told, HttpProcessingError):
        said = broken if told is None else told
        return UpstreamProtocolError(
            "What the upstream sent is not HTTP, or its headers are too large.", reason=not_http(said, where)
        )
    return unreachable(broken, where, connected=True)


def _origin(url: Address) -> yarl.URL:
    host = url.raw_host.decode("ascii")
    # As it is written in an address: yarl takes what is said to be encoded as it is.
    return yarl.URL.build(
        scheme=url.scheme, host=f"[{host}]" if ":" in host else host, port=url.port, path="/", encoded=True
    )
