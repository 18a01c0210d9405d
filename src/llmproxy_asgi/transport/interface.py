"""Calls through the httpx programming interface: httpx2's transport where nothing faster is there, or the host's own.

httpx2 and the old httpx are the same interface under two names whose classes don't match each other's, so everything
here is told which of the two it speaks to. Requests are built directly, past the client's own: no header, cookie,
credential or redirect of the host's can join one of ours.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any, Self

import httpx2
from typing_extensions import override

from llmproxy_asgi.errors import (
    MisuseError,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamNotConnected,
    UpstreamProtocolError,
    UpstreamUnreachable,
    UpstreamUntrusted,
)
from llmproxy_asgi.transport.answer import Answer
from llmproxy_asgi.transport.channel import KEEPALIVE_OPTIONS, Limits, Trust
from llmproxy_asgi.transport.outgoing import Address, Headers, allowed, block, verb

Send = Callable[[Any], Awaitable[Any]]

# Both packages report a connection that ended too early, and bytes that are not HTTP, with one class.
_CUT_SHORT = ("Server disconnected", "peer closed connection")


class InterfaceChannel:
    """Connections behind a client's or transport's interface; may serve several loops if what it stands on does.

    Args:
        module: The package whose interface `send` has.
        send: Sends one of its requests and returns its response, the body unread.
        close: Closes what it stands on; None if that is the host's.
    """

    def __init__(self, module: ModuleType, send: Send, close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._module = module
        self._send = send
        self._close = close
        self._calls = 0
        self._closing = False

    @classmethod
    def built_in(cls, limits: Limits, trust: Trust) -> Self:
        """Over httpx2's own transport."""
        transport = httpx2.AsyncHTTPTransport(
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
        )
        return cls(httpx2, transport.handle_async_request, transport.aclose)

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

    async def open(self, method: str, url: Address, headers: Headers, body: bytes, connect: float) -> Answer:
        """As `Pool.open`."""
        verb(method)
        complete = allowed(headers, url.netloc, method, body)
        block(complete)
        if self._closing:
            raise UpstreamUnreachable("The connections to this upstream have been closed.")
        self._calls += 1
        try:
            response = await self._ask(method, url, complete, body, connect)
        except BaseException:
            await self.done()
            raise
        return InterfaceAnswer(self, self._module, response)

    async def _ask(self, method: str, url: Address, headers: Headers, body: bytes, connect: float) -> Any:
        module = self._module
        target = module.URL(str(url))
        tried_again = False
        while True:
            progress = _Progress()
            request = module.Request(
                method,
                target,
                headers=headers,
                stream=module.ByteStream(body),
                extensions={
                    "timeout": {"connect": connect, "pool": connect, "read": None, "write": None},
                    "trace": progress.note,
                },
            )
            try:
                # One clock for the place in the pool, DNS, TCP and TLS; a host's transport may not say when it stops.
                async with asyncio.timeout(connect if self._close else None) as progress.clock:
                    return await self._send(request)
            except (module.HTTPError, OSError) as broken:
                fault = _fault(module, broken)
                await progress.hang_up()
                if tried_again or not progress.on_old_connection or not isinstance(fault, UpstreamUnreachable):
                    raise fault from broken
                tried_again = True
            except ValueError as broken:
                await progress.hang_up()
                if progress.sending:
                    raise
                # anyio stumbles over a name that has no address.
                raise UpstreamUnreachable("The upstream could not be reached.") from broken
            except BaseException:
                await progress.hang_up()
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


class _Progress:
    """How far a request has come, as httpcore's tracing tells it; where there is none, nothing is known."""

    def __init__(self) -> None:
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
            self.sending = True
            self._bare = None
            if self.clock is not None:
                self.clock.reschedule(None)


class InterfaceAnswer(Answer):
    """An answer that arrives through a response of httpx2 or httpx."""

    __slots__ = ("_channel", "_module", "_open", "_pieces", "_response", "_whole")

    def __init__(self, channel: InterfaceChannel, module: ModuleType, response: Any) -> None:
        super().__init__(response.status_code, response.headers.get("content-encoding"))
        self._channel = channel
        self._module = module
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
            raise MisuseError("An upstream's answer was read after it had been closed.")
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (self._module.HTTPError, OSError) as broken:
            await self.aclose()
            raise _fault(self._module, broken) from broken
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


def _fault(module: ModuleType, broken: BaseException) -> UpstreamError:
    """Our error for one of theirs."""
    cause: BaseException | None = broken
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UpstreamUntrusted("The upstream's certificate was not accepted.")
        cause = cause.__cause__ or cause.__context__
    if isinstance(broken, module.TimeoutException | TimeoutError):
        return UpstreamConnectTimeout("The upstream could not be reached in time.")
    if isinstance(broken, module.RemoteProtocolError) and not str(broken).startswith(_CUT_SHORT):
        return UpstreamProtocolError("What the upstream sent is not HTTP.")
    if isinstance(broken, module.ConnectError):
        return UpstreamNotConnected("The upstream could not be reached.")
    return UpstreamUnreachable("The connection to the upstream broke.")
