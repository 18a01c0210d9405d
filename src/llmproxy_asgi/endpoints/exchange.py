"""One HTTP request and its answer, on bare ASGI.

It bounds what is read, watches whether the caller is still there, and writes; it knows no protocol and no call.
"""

import asyncio
import contextlib
import logging
import os
import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable
from itertools import chain
from types import TracebackType
from typing import Any, Self

from starlette.types import Message, Receive, Scope, Send

from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.errors import BadRequest, BodyTimeout, BodyTooLarge, WrongMediaType
from llmproxy_asgi.execution.bodies import HeldBody
from llmproxy_asgi.facts import NO_OBSERVERS, CallContext, Observers
from llmproxy_asgi.wire.compression import CompressionError, Inflater, encodings, inflater

HeaderPairs = Iterable[tuple[bytes, bytes]]

_log = logging.getLogger("llmproxy_asgi.calls")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_JSON = "application/json"
_AT_ONCE = 64 * 1024
"""Bytes that any server takes off our hands without the caller's doing."""
_LONGEST_LENGTH = 18
"""Digits of a content-length; with more it is larger than any limit."""
_VARY = (b"vary", b"Authorization, Cookie")
_PRIVATE = ((b"cache-control", b"no-store"), _VARY)
# Compressing intermediaries hold a stream back unless it forbids them to change it (RFC 9111, 5.2.2.6).
_PRIVATE_STREAM = ((b"cache-control", b"no-store, no-transform"), _VARY)
_CLIENT_CLOSED_REQUEST = 499
"""The status, made up by nginx, of an answer that has no reader any more."""
_INFLATE_STEP = 1024 * 1024
"""Bytes that are decompressed at a time."""
_STEADY = 16 * 1024
"""Bytes that must arrive within each `limits.body_timeout`: a slow upload passes, one that drips does not."""
UNWATCHED = "llmproxy.unwatched"
"""As `wsgi.UNWATCHED`, which is not needed for more: a scope's extension where only writes tell that a caller left."""
_ECHOES = 2
_ECHO_AFTER = 0.25
"""Seconds after which a keep-alive is repeated where writes alone tell that a caller has left: the first to somebody
who left succeeds, and with some servers so does the second."""
_WATCH_AFTER = 0.02
"""Seconds a call may take before it is worth a task to notice that its caller has left."""


class Exchange:
    """A request, read once, and its answer, begun once.

    Args:
        scope: An ASGI `http` scope.
        receive: Of the same request.
        send: Of the same request.
        observers: Who is told of a refusal.
        write_timeout: Seconds that the caller may take none of a large answer.

    Attributes:
        gone: Whether the caller has left, or is treated as if.
        host_error: What the host's own `receive` or `send` raised; the host's to answer.
        received: Bytes of the body that have arrived.
        headers: Of the request, names in lower case; repeated ones joined by a comma.
        context: How the call that it makes goes, once there is one.
        explains: Whether the caller is told of it step by step.
        shows_reasons: Whether these steps say why an upstream failed, which is for administrators.
    """

    __slots__ = (
        "context",
        "explains",
        "gone",
        "headers",
        "host_error",
        "observers",
        "receive",
        "received",
        "request_id",
        "scope",
        "send",
        "shows_reasons",
        "started",
        "write_timeout",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        observers: Observers = NO_OBSERVERS,
        write_timeout: float = 60.0,
    ) -> None:
        self.observers = observers
        self.write_timeout = write_timeout
        self.gone = False
        self.host_error: Exception | None = None
        self.received = 0
        self.context: CallContext | None = None
        self.explains = False
        self.shows_reasons = False
        self.scope = scope
        self.receive = receive
        self.send = send
        self.started = False
        self.headers = _read_headers(scope["headers"])
        sent = self.headers.get("x-request-id")
        self.request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else "req_" + os.urandom(12).hex()

    def header(self, name: str) -> str | None:
        """One header's value."""
        return self.headers.get(name)

    async def json_body(self, *, limit: int, held: HeldBody) -> bytes:
        """The body, whole.

        Args:
            limit: Bytes it may have; it is never read beyond.
            held: Counts what has arrived.

        Raises:
            Unavailable: There is no room for it among the bodies that are held.
            BodyTooLarge: It is longer, or says that it is.
            WrongMediaType: It is not JSON, or is compressed in a way that cannot be read.
            BadRequest: It is not compressed as it says.
            ClientDisconnected: The client has disconnected.
        """
        self._check_type()
        coding = self.headers.get("content-encoding")
        decompressor = None if coding is None else _decompressor(coding)
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > _LONGEST_LENGTH or int(declared) > limit):
            raise _too_large(limit)
        body = await self._read(limit, held)
        if decompressor is not None:
            body = await _inflated(decompressor, body, limit, held)
        return body.removeprefix(BOM_UTF8)

    async def answer(self, status: int, headers: HeaderPairs, body: bytes) -> None:
        """A whole answer.

        Raises:
            ClientDisconnected: The client has disconnected.
        """
        self.started = True
        sent = [
            *headers,
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self.request_id.encode()),
            *_PRIVATE,
        ]
        await self._put({"type": "http.response.start", "status": status, "headers": sent, "trailers": False})
        # An answer to HEAD says how long the body would be, and has none.
        shown = b"" if self.scope["method"] == "HEAD" else body
        message = {"type": "http.response.body", "body": shown, "more_body": False}
        if len(shown) <= _AT_ONCE:
            await self._put(message)
            return
        try:
            async with asyncio.timeout(self.write_timeout):
                await self._put(message)
        except TimeoutError:
            raise ClientDisconnected from None

    async def begin_stream(self, headers: HeaderPairs, *, media_type: bytes) -> None:
        """The head of a streamed answer."""
        self.started = True
        sent = [
            *headers,
            (b"content-type", media_type),
            (b"x-accel-buffering", b"no"),
            (b"x-request-id", self.request_id.encode()),
            *_PRIVATE_STREAM,
        ]
        await self._put({"type": "http.response.start", "status": 200, "headers": sent, "trailers": False})

    async def write(self, data: bytes) -> None:
        """More of a streamed answer. Returns when the server takes more: a slow caller slows us."""
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a streamed answer."""
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def finish_disconnected(self) -> None:
        """Complete the exchange of a disconnected client that was sent nothing.

        Middlewares (Starlette's `BaseHTTPMiddleware`) take an application that returns without an answer for broken.
        """
        if not self.started:
            with contextlib.suppress(ClientDisconnected):
                await self.answer(_CLIENT_CLOSED_REQUEST, (), b"")

    def abandon(self, task: "asyncio.Task[Any]") -> None:
        """Nobody waits for the answer any more: end the task that makes it. Whoever notices it later changes nothing.

        A second cancellation would break into what the first one lets go of.
        """
        if not self.gone:
            self.gone = True
            task.cancel()

    async def _put(self, message: Message) -> None:
        try:
            await self.send(message)
        except OSError as left:
            self.gone = True
            raise ClientDisconnected from left
        except Exception as error:
            self.host_error = error
            raise

    async def _read(self, limit: int, held: HeldBody) -> bytes:
        pieces: list[bytes] = []
        while True:
            try:
                message = await self.receive()
            except Exception as error:
                self.host_error = error
                raise
            if message["type"] != "http.request":
                self.gone = True
                raise ClientDisconnected
            piece = message.get("body", b"")
            self.received += len(piece)
            if self.received > limit:
                raise _too_large(limit)
            held.add(len(piece))
            pieces.append(piece)
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_type(self) -> None:
        content_type = self.headers.get("content-type", _JSON)
        if content_type == _JSON:
            return
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type != _JSON and not media_type.endswith("+json"):
            raise WrongMediaType("The media type is not supported (content-type): send JSON as application/json.")


class CallerWatch:
    """Cancels the work inside `async with` when the caller leaves, and ends quietly then.

    It also keeps the clock of the body that is read through it. One timer does both, because nearly every body is there
    at once; and a task is made only for calls that take longer than a moment, as most short ones never need it.

    Raises:
        BodyTimeout: The body did not arrive in time.
    """

    __slots__ = ("_body_timeout", "_cancelling", "_exchange", "_handle", "_late", "_loop", "_mark", "_task", "_watcher")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._mark = 0
        self._body_timeout: float | None = None
        self._late = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._task = task
        self._cancelling = task.cancelling()  # a server's task may have outlived a cancellation before
        self._watcher: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(_WATCH_AFTER, self._look)
        return self

    async def json_body(self, *, limit: int, seconds: float, held: HeldBody) -> bytes:
        """The body, whole; for the rest see `Exchange.json_body`.

        Args:
            limit: Bytes it may have.
            held: Counts what has arrived.
            seconds: How long it may pause: within each such time it must end, or 16 KiB of it arrive.
        """
        self._body_timeout = seconds
        first = self._handle
        body = await self._exchange.json_body(limit=limit, held=held)
        self._body_timeout = None
        if self._handle is not first:
            self._handle.cancel()
            self._look()
        return body

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._handle.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not (self._exchange.gone or self._late):
            return False
        ours = self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)
        if ours and self._late:
            raise BodyTimeout(
                "The request body did not arrive in time (limits.body_timeout): send it faster, or send less."
            ) from None
        return ours

    def _look(self) -> None:
        """The call takes longer than a moment: for its body, or for its answer."""
        if self._body_timeout is None:
            self._watcher = self._loop.create_task(self._listen())
        else:
            self._handle = self._loop.call_later(max(0, self._body_timeout - _WATCH_AFTER), self._give_up)

    def _give_up(self) -> None:
        received = self._exchange.received
        if self._body_timeout is not None and received - self._mark >= _STEADY:
            self._mark = received
            self._handle = self._loop.call_later(self._body_timeout, self._give_up)
            return
        self._late = True
        self._task.cancel()

    async def _listen(self) -> None:
        try:
            while (await self._exchange.receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001  the host's own; writes will show whether the client is still there
            _log.warning("the host's receive() failed while the gateway watched for a disconnect", exc_info=True)
        else:
            self._exchange.abandon(self._task)


class KeepAlive:
    """Writes a protocol's keep-alive into a stream that has been silent for a while, the head first if need be.

    It also keeps the write clock: a caller who takes nothing for too long is treated as one who has left.

    Args:
        exchange: Where the stream goes.
        data: What is written; harmless at any frame border.
        every: Seconds of silence.
        headers: Of the stream, if a keep-alive comes before anything else.
        media_type: Likewise.
    """

    __slots__ = (
        "_busy", "_data", "_echo", "_every", "_exchange", "_handle", "_headers", "_last", "_loop", "_media_type",
        "_sending", "_task", "_unwatched",
    )  # fmt: skip

    def __init__(
        self, exchange: Exchange, data: bytes, *, every: float, headers: HeaderPairs = (), media_type: bytes
    ) -> None:
        self._headers = headers
        self._media_type = media_type
        self._exchange = exchange
        self._data = data
        self._every = every
        self._busy = False
        self._sending: asyncio.Task[None] | None = None
        self._unwatched = UNWATCHED in exchange.scope.get("extensions", ())
        self._echo: asyncio.TimerHandle | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._handle = self._loop.call_at(self._last + every, self._tick)

    async def write(self, data: bytes) -> None:
        """Write what is really there; never into the middle of a keep-alive.

        Raises:
            ClientDisconnected: The client has disconnected.
        """
        if self._sending is not None:
            await self.settle()
        self._busy = True
        try:
            await self._exchange.send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError as left:
            self._exchange.gone = True
            raise ClientDisconnected from left
        except Exception as error:
            self._exchange.host_error = error
            raise
        self._busy = False
        self._last = self._loop.time()

    async def end(self) -> None:
        """End the stream. There are no more keep-alives, but the write clock runs on until this is taken, too.

        Raises:
            ClientDisconnected: The client has disconnected.
        """
        self._busy = True
        await self.settle()
        await self._exchange.end()

    def cancel(self) -> None:
        """No more keep-alives; one that is under way is given up."""
        self._handle.cancel()
        if self._echo is not None:
            self._echo.cancel()
        if self._sending is not None:
            self._sending.cancel()

    async def settle(self) -> None:
        """Wait for a keep-alive that is under way."""
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    def _tick(self) -> None:
        now = self._loop.time()
        due = self._last + self._every
        if now >= due:
            if not self._busy and self._sending is None:
                self._sending = self._loop.create_task(self._send())
                if self._unwatched:
                    self._echo = self._loop.call_later(_ECHO_AFTER, self._repeat, _ECHOES)
            elif self._give_up(now):
                return
            due = now + min(self._every, self._exchange.write_timeout)
        self._handle = self._loop.call_at(due, self._tick)

    def _repeat(self, times: int) -> None:
        if self._busy or self._sending is not None:
            return
        self._sending = self._loop.create_task(self._send())
        self._echo = self._loop.call_later(_ECHO_AFTER, self._repeat, times - 1) if times > 1 else None

    def _give_up(self, now: float) -> bool:
        """Whether the caller takes nothing any more; its call ends then.

        A write begins at the latest `every` after the one before it, so nothing need be noted for each write.
        """
        if now - self._last < self._exchange.write_timeout + self._every or self._task is None:
            return False
        self._exchange.abandon(self._task)
        return True

    async def _send(self) -> None:
        try:
            if not self._exchange.started:
                await self._exchange.begin_stream(self._headers, media_type=self._media_type)
            await self._exchange.write(self._data)
        except ClientDisconnected:
            if self._task is not None:
                self._exchange.abandon(self._task)
            return
        self._last = self._loop.time()
        self._sending = None


async def _inflated(decompressor: Inflater, body: bytes, limit: int, held: HeldBody) -> bytes:
    """Return the decompressed body; other tasks run between two steps.

    Raises:
        BodyTooLarge: It becomes larger than `limit`.
        BadRequest: It is not compressed as it says.
        Unavailable: There is no room for it among the bodies that are held.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        decompressor.feed(body)
        while piece := decompressor.take(_INFLATE_STEP):
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            held.add(len(piece))
            pieces.append(piece)
            await asyncio.sleep(0)
        decompressor.finish()
    except CompressionError as broken:
        raise BadRequest(f"The compressed body cannot be read: {broken}.", code="invalid_body") from broken
    return b"".join(pieces)


def _read_headers(pairs: Collection[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return a request's headers as text, repeated ones joined by a comma."""
    # All of them are decoded at once: a line break stands in none that a server has read.
    texts = b"\n".join(chain.from_iterable(pairs)).decode("latin-1").split("\n")
    headers = dict(zip(texts[::2], texts[1::2], strict=False))
    if len(texts) != 2 * len(pairs) or len(headers) != len(pairs):
        headers.clear()
        for name, value in pairs:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _decompressor(coding: str) -> Inflater | None:
    """Return what undoes a content coding; None: nothing need be undone.

    Raises:
        WrongMediaType: It is not supported.
    """
    try:
        return inflater(coding)
    except LookupError:
        known = ", ".join(encodings())
        raise WrongMediaType(
            f"The encoding of the body is not supported (content-encoding): send {known}, or no compression.",
            accept_encoding=known,
        ) from None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is too large (limits.body): send at most {limit} bytes.")
