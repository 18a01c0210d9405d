"""Official SDK clients for any ASGI application: in process, streaming, without a socket.

```
client.chat.completions.create(stream=True)
  └─ httpx2.AsyncClient ─ ASGITransport ─ task: await app(scope, receive, send)
       response, as soon as the head is sent ◀── send(http.response.start)
       one piece at a time                   ◀── send(http.response.body); waits until the previous piece is read
       response.aclose()                     ──▶ receive() -> http.disconnect, OSError from send; cancelled soon after
```

httpx2's own ASGI transport runs the application to its end before it responds, so it can neither stream nor be
cancelled; this one passes the response on as it is produced. A failure before the head is raised to the caller
unchanged; after the head it ends the stream with `httpx2.RemoteProtocolError`. The read timeout of a request applies to
its head and to each piece; the other timeouts have no effect.

The code that creates a client closes it (`await client.close()`, or `async with`), which ends its open calls. The
application is not closed, and its lifespan is not run.

It opens no socket, reads no proxy settings, follows no redirect and starts no event loop; a call runs on the loop of
its caller. It does not decide who is calling: the scope contains the principal.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
from starlette.types import ASGIApp, Message, Scope
from typing_extensions import override

from llmproxy_asgi.disconnect import ClientDisconnected, report

if TYPE_CHECKING:
    import anthropic
    import openai

_ORIGIN = "http://gateway.invalid"  # never resolves (RFC 6761): no request can leave the process by mistake
_NO_KEY = "in-process"  # the SDKs require a key; this one is removed before the application
_NO_CREDENTIALS = frozenset(
    {(b"authorization", b"Bearer " + _NO_KEY.encode()), (b"x-api-key", _NO_KEY.encode())},
)
# SDK options that set a credential; some of them exclude a key.
_CREDENTIAL_OPTIONS = frozenset({"api_key", "auth_token", "config", "credentials", "profile", "workload_identity"})
_GRACE = 0.1  # seconds between http.disconnect and the cancellation
_ENDING = 1.0  # seconds that a cancelled application has to end

logger = logging.getLogger(__name__)


def openai_client(
    app: ASGIApp,
    *,
    root_path: str = "",
    scope_extra: Mapping[str, object] | None = None,
    **options: Any,
) -> "openai.AsyncOpenAI":
    """Return an official AsyncOpenAI client that calls the application.

    Options are those of the SDK; by default it doesn't retry and sends no key. The caller closes the client, which ends
    its calls, but does not close the application.

    Raises:
        ImportError: the SDK is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise ImportError("an OpenAI client needs the OpenAI SDK: pip install openai") from error
    return openai.AsyncOpenAI(
        http_client=_http_client(app, root_path, scope_extra),
        **_with_defaults(options, base_url=f"{_ORIGIN}/v1"),
    )


def anthropic_client(
    app: ASGIApp,
    *,
    root_path: str = "",
    scope_extra: Mapping[str, object] | None = None,
    **options: Any,
) -> "anthropic.AsyncAnthropic":
    """Return an official AsyncAnthropic client that calls the application; see `openai_client`.

    Raises:
        ImportError: the SDK is not installed.
    """
    try:
        import anthropic
    except ImportError as error:
        raise ImportError("an Anthropic client needs the Anthropic SDK: pip install anthropic") from error
    return anthropic.AsyncAnthropic(
        http_client=_http_client(app, root_path, scope_extra),
        **_with_defaults(options, base_url=_ORIGIN),
    )


def _http_client(app: ASGIApp, root_path: str, scope_extra: Mapping[str, object] | None) -> httpx2.AsyncClient:
    transport = ASGITransport(app, root_path=root_path, scope_extra=scope_extra)
    return httpx2.AsyncClient(transport=transport, trust_env=False)


def _with_defaults(options: Mapping[str, Any], *, base_url: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {"base_url": base_url, "max_retries": 0}
    if not _CREDENTIAL_OPTIONS & options.keys():
        defaults["api_key"] = _NO_KEY
    return {**defaults, **options}


class ASGITransport(httpx2.AsyncBaseTransport):
    """An httpx2 transport that passes each request to an ASGI application and streams its response.

    Args:
        app: An ASGI 3 application. It is not closed by the transport.
        root_path: The mount of the application; a prefix of every path.
        scope_extra: Merged into the scope of every request; an adapter passes its principal here.
    """

    def __init__(self, app: ASGIApp, *, root_path: str = "", scope_extra: Mapping[str, object] | None = None) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        self._scope_extra = dict(scope_extra or {})
        self._exchanges: set[_Exchange] = set()

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response when the application has sent its head; its body is streamed.

        Raises:
            httpx2.RemoteProtocolError: the application ended without a response.
            httpx2.ReadTimeout: the head did not arrive within the request's read timeout.
            Exception: whatever the application raised before its head.
        """
        exchange = _Exchange(request)
        self._exchanges.add(exchange)
        task = exchange.start(self._app, self._scope(request))
        task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        try:
            head = await exchange.wait_for_head()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx2.Response(head.status, headers=head.headers, stream=_ResponseStream(exchange))

    @override
    async def aclose(self) -> None:
        """End all open calls, including those that only clean up after their response."""
        await asyncio.gather(*(exchange.end() for exchange in list(self._exchanges)))

    def _scope(self, request: httpx2.Request) -> Scope:
        url = request.url
        headers = ((name.lower(), value) for name, value in request.headers.raw)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": self._root_path + url.path,
            "raw_path": quote(self._root_path).encode("ascii") + url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "root_path": self._root_path,
            "headers": [header for header in headers if header not in _NO_CREDENTIALS],
            "client": None,
            "server": (url.host, url.port),
            **self._scope_extra,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    status: int
    headers: list[tuple[bytes, bytes]]


class _Exchange:
    """One request: the application's task, and the reader of its response, on one event loop.

    At most one piece is buffered between them: `_chunk`. `_ready` wakes the reader, `_writable` the sender.
    """

    def __init__(self, request: httpx2.Request) -> None:
        self._request = request
        self._timeout: float | None = request.extensions.get("timeout", {}).get("read")
        self._upload: AsyncIterator[bytes] | None = aiter(request.stream)  # type: ignore[arg-type]  # of an AsyncClient
        self._one_piece = isinstance(request.stream, httpx2.ByteStream)
        self._head_only = request.method == "HEAD"
        self._ready = asyncio.Event()
        self._writable = asyncio.Event()
        self._disconnect = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._head: _Head | None = None
        self._bodiless = self._head_only
        self._chunk: bytes | None = None
        self._complete = False  # the application has sent its last message
        self._ended = False  # the application's task is over
        self._error: BaseException | None = None
        self._closed = False  # the response is no longer read

    # Called by the application.

    def start(self, app: ASGIApp, scope: Scope) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(app, scope))
        return self._task

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        error: BaseException | None = None
        try:
            await app(scope, self._receive, self._send)
        except BaseException as raised:  # noqa: BLE001 - it belongs to the caller
            error = raised
        self._ended = True
        self._disconnect.set()
        if self._closed or self._complete:
            if error is not None:
                report(error, logger)
        else:
            self._error = error
        self._ready.set()

    async def _receive(self) -> Message:
        if self._upload is not None and not self._disconnect.is_set():
            try:
                data = await anext(self._upload)
            except StopAsyncIteration:
                data, more = b"", False
            else:
                more = not self._one_piece
            if not more:
                self._upload = None
            return {"type": "http.request", "body": data, "more_body": more}
        await self._disconnect.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                self._start(message)
            case "http.response.body":
                await self._put(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))
            case other:
                raise RuntimeError(f"this transport can't be sent {other!r}")

    def _start(self, message: Message) -> None:
        self._check_open()
        if self._head is not None:
            raise RuntimeError("the response has already started")
        status = int(message["status"])
        self._head = _Head(status=status, headers=[(bytes(k), bytes(v)) for k, v in message.get("headers", ())])
        if status < HTTPStatus.OK or status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            self._bodiless = True
        self._ready.set()

    async def _put(self, chunk: bytes, *, more: bool) -> None:
        if self._head is None:
            raise RuntimeError("the response has not started yet")
        if self._bodiless:
            chunk = b""
            await asyncio.sleep(0)  # nothing else waits here, and an endless sender must not block the loop
        while self._chunk is not None and not self._closed:
            self._writable.clear()
            await self._writable.wait()
        self._check_open()
        if self._complete:
            raise RuntimeError("the response is already complete")
        if chunk:
            self._chunk = chunk
        if not more:
            self._complete = True
            self._disconnect.set()
        self._ready.set()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientDisconnected("the response has been closed")

    # Called by the reader.

    async def wait_for_head(self) -> _Head:
        while self._head is None:
            if self._ended:
                error, self._error = self._error, None
                if error is None or isinstance(error, asyncio.CancelledError):
                    raise self._protocol_error("the application ended without an answer") from error
                raise error
            await self._wait()
        return self._head

    async def next_chunk(self) -> bytes | None:
        """Return the next piece of the body; None after the last."""
        while self._chunk is None:
            if self._complete or self._head_only:
                return None
            if self._ended or self._closed:
                error, self._error = self._error, None
                raise self._protocol_error("the application did not finish its answer") from error
            await self._wait()
        chunk, self._chunk = self._chunk, None
        self._writable.set()
        return chunk

    async def _wait(self) -> None:
        self._ready.clear()
        try:
            async with asyncio.timeout(self._timeout):
                await self._ready.wait()
        except TimeoutError as error:
            message = f"nothing came from the application in {self._timeout} seconds"
            raise httpx2.ReadTimeout(message, request=self._request) from error

    def _protocol_error(self, message: str) -> httpx2.RemoteProtocolError:
        return httpx2.RemoteProtocolError(message, request=self._request)

    async def aclose(self) -> None:
        """Stop reading, and wait for an application that is still responding to end.

        It receives a disconnect immediately and is cancelled 0.1 s later. After its response it may run until the
        transport closes.
        """
        self._disconnect_client()
        if not self._complete:
            await self._end(grace=_GRACE)

    async def end(self) -> None:
        """Stop reading, and wait for the application to end in any case."""
        self._disconnect_client()
        await self._end(grace=_ENDING if self._complete else _GRACE)

    def _disconnect_client(self) -> None:
        self._closed = True
        self._disconnect.set()
        self._writable.set()
        self._ready.set()
        error, self._error = self._error, None
        if error is not None:
            report(error, logger)

    async def _end(self, *, grace: float) -> None:
        if self._task is None or self._task.done():
            return
        try:
            await asyncio.wait({self._task}, timeout=grace)
        finally:
            self._task.cancel()
        _, running = await asyncio.wait({self._task}, timeout=_ENDING)
        if running:
            logger.warning("an application did not end when it was cancelled")


class _ResponseStream(httpx2.AsyncByteStream):
    """The body as a stream of httpx2."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._exchange.next_chunk()) is not None:
            yield chunk

    @override
    async def aclose(self) -> None:
        await self._exchange.aclose()
