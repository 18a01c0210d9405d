"""One HTTP request and its response on plain ASGI.

It bounds the request body, watches for a disconnect, and writes the response. It knows no protocol and no call.
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

from llmproxy_asgi.disconnect import UNWATCHED, ClientDisconnected
from llmproxy_asgi.errors import BadRequest, BodyTimeout, BodyTooLarge, WrongMediaType
from llmproxy_asgi.execution.bodies import HeldBody
from llmproxy_asgi.wire.compression import CompressionError, Inflater, encodings, inflater

HeaderPairs = Iterable[tuple[bytes, bytes]]

_log = logging.getLogger("llmproxy_asgi.calls")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_JSON = "application/json"
_BUFFERED = 64 * 1024
"""Bytes that every server buffers without waiting for the client."""
_MAX_LENGTH_DIGITS = 18
"""Digits of a content-length; a longer one is above every limit."""
_VARY = (b"vary", b"Authorization, Cookie")
_PRIVATE = ((b"cache-control", b"no-store"), _VARY)
# Compressing intermediaries buffer a stream unless it forbids transformation (RFC 9111, 5.2.2.6).
_PRIVATE_STREAM = ((b"cache-control", b"no-store, no-transform"), _VARY)
_CLIENT_CLOSED_REQUEST = 499
"""The status that nginx logs for a client that disconnected before the response."""
_INFLATE_STEP = 1024 * 1024
"""Bytes that are decompressed at a time."""
_MIN_PROGRESS = 16 * 1024
"""Bytes that must arrive within each `limits.body_timeout`: slow uploads pass, nearly stalled ones do not."""
_PROBES = 2
_PROBE_DELAY = 0.25
"""Seconds until a keep-alive is repeated where only a failed write shows a disconnect: the first write after a
disconnect succeeds, and with some servers the second, too."""
_WATCH_DELAY = 0.02
"""Seconds until a call is worth a task that watches for a disconnect."""


class HTTPConnection:
    """The ASGI connection of one request: its body is read once, and its response is started once.

    Args:
        scope: An ASGI `http` scope.
        receive: The request's `receive`.
        send: The request's `send`.
        write_timeout: Seconds that the client may accept nothing of a large response.

    Attributes:
        disconnected: Whether the client has disconnected, or is treated so.
        host_error: The exception of the host's own `receive` or `send`; the host handles it.
        received: Bytes of the body received so far.
        headers: The request's headers: names in lower case, repeated ones joined by a comma.
        started: Whether the response has started.
    """

    __slots__ = (
        "disconnected",
        "headers",
        "host_error",
        "receive",
        "received",
        "request_id",
        "scope",
        "send",
        "started",
        "write_timeout",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        write_timeout: float = 60.0,
    ) -> None:
        self.write_timeout = write_timeout
        self.disconnected = False
        self.host_error: Exception | None = None
        self.received = 0
        self.scope = scope
        self.receive = receive
        self.send = send
        self.started = False
        self.headers = _read_headers(scope["headers"])
        sent = self.headers.get("x-request-id")
        self.request_id = sent if sent and _REQUEST_ID.fullmatch(sent) else "req_" + os.urandom(12).hex()

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        return self.headers.get(name)

    async def json_body(self, *, limit: int, held: HeldBody) -> bytes:
        """Return the complete body.

        Args:
            limit: Bytes of the body at most; nothing is read beyond.
            held: Counts the bytes that have arrived.

        Raises:
            Unavailable: The limit on the bytes of all bodies is reached.
            BodyTooLarge: It is longer, or declared to be.
            WrongMediaType: It is not JSON, or its compression is not supported.
            BadRequest: It is not compressed as declared.
            ClientDisconnected: The client has disconnected.
        """
        self._check_type()
        coding = self.headers.get("content-encoding")
        decompressor = None if coding is None else _decompressor(coding)
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > _MAX_LENGTH_DIGITS or int(declared) > limit):
            raise _too_large(limit)
        body = await self._receive_body(limit, held)
        if decompressor is not None:
            body = await _inflated(decompressor, body, limit, held)
        return body.removeprefix(BOM_UTF8)

    async def answer(self, status: int, headers: HeaderPairs, body: bytes) -> None:
        """Send a complete response.

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
        await self._send({"type": "http.response.start", "status": status, "headers": sent, "trailers": False})
        # A response to HEAD declares the length of the body, but has none.
        content = b"" if self.scope["method"] == "HEAD" else body
        message = {"type": "http.response.body", "body": content, "more_body": False}
        if len(content) <= _BUFFERED:
            await self._send(message)
            return
        try:
            async with asyncio.timeout(self.write_timeout):
                await self._send(message)
        except TimeoutError:
            raise ClientDisconnected from None

    async def begin_stream(self, headers: HeaderPairs, *, media_type: bytes) -> None:
        """Send the head of a streamed response."""
        self.started = True
        sent = [
            *headers,
            (b"content-type", media_type),
            (b"x-accel-buffering", b"no"),
            (b"x-request-id", self.request_id.encode()),
            *_PRIVATE_STREAM,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": sent, "trailers": False})

    async def write(self, data: bytes) -> None:
        """Send a piece of a streamed response; return when the server accepts more."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End a streamed response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def finish_disconnected(self) -> None:
        """Complete the request of a disconnected client that was sent nothing.

        Middlewares (Starlette's `BaseHTTPMiddleware`) treat an application that returns without a response as broken.
        """
        if not self.started:
            with contextlib.suppress(ClientDisconnected):
                await self.answer(_CLIENT_CLOSED_REQUEST, (), b"")

    def cancel(self, task: "asyncio.Task[Any]") -> None:
        """Mark the client as disconnected, and cancel the task that serves it; later calls do nothing.

        A second cancellation would interrupt the cleanup of the first one.
        """
        if not self.disconnected:
            self.disconnected = True
            task.cancel()

    async def _send(self, message: Message) -> None:
        try:
            await self.send(message)
        except OSError as error:
            self.disconnected = True
            raise ClientDisconnected from error
        except Exception as error:
            self.host_error = error
            raise

    async def _receive_body(self, limit: int, held: HeldBody) -> bytes:
        pieces: list[bytes] = []
        while True:
            try:
                message = await self.receive()
            except Exception as error:
                self.host_error = error
                raise
            if message["type"] != "http.request":
                self.disconnected = True
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


class DisconnectWatch:
    """Cancels the work inside `async with` when the client disconnects, and suppresses that cancellation.

    It also enforces the timeout of the body that is read through it. One timer does both, because nearly every body
    arrives at once; and only calls that take longer than a moment get a task, as short ones rarely need it.

    Raises:
        BodyTimeout: The body did not arrive in time.
    """

    __slots__ = (
        "_body_timeout",
        "_cancelling",
        "_connection",
        "_handle",
        "_late",
        "_loop",
        "_mark",
        "_task",
        "_watcher",
    )

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._mark = 0
        self._body_timeout: float | None = None
        self._late = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._task = task
        self._cancelling = task.cancelling()  # the task may have survived a cancellation before
        self._watcher: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(_WATCH_DELAY, self._start)
        return self

    async def json_body(self, *, limit: int, seconds: float, held: HeldBody) -> bytes:
        """Return the complete body; see `HTTPConnection.json_body`.

        Args:
            limit: Bytes of the body at most.
            held: Counts the bytes that have arrived.
            seconds: The timeout: within each such period the body must end, or 16 KiB of it must arrive.
        """
        self._body_timeout = seconds
        first = self._handle
        body = await self._connection.json_body(limit=limit, held=held)
        self._body_timeout = None
        if self._handle is not first:
            self._handle.cancel()
            self._start()
        return body

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._handle.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not (self._connection.disconnected or self._late):
            return False
        ours = self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)
        if ours and self._late:
            raise BodyTimeout(
                "The request body did not arrive in time (limits.body_timeout): send it faster, or send less."
            ) from None
        return ours

    def _start(self) -> None:
        """Start the body's timeout or, once the body is there, the task that watches for a disconnect."""
        if self._body_timeout is None:
            self._watcher = self._loop.create_task(self._wait_for_disconnect())
        else:
            self._handle = self._loop.call_later(max(0, self._body_timeout - _WATCH_DELAY), self._check_progress)

    def _check_progress(self) -> None:
        received = self._connection.received
        if self._body_timeout is not None and received - self._mark >= _MIN_PROGRESS:
            self._mark = received
            self._handle = self._loop.call_later(self._body_timeout, self._check_progress)
            return
        self._late = True
        self._task.cancel()

    async def _wait_for_disconnect(self) -> None:
        try:
            while (await self._connection.receive())["type"] != "http.disconnect":
                pass
        except Exception:  # noqa: BLE001  the host's own error; writes will show a disconnect
            _log.warning("the host's receive() failed while the gateway watched for a disconnect", exc_info=True)
        else:
            self._connection.cancel(self._task)


class KeepAlive:
    """Writes a protocol's keep-alive into a stream after a period of silence, starting the response if necessary.

    It also enforces the write timeout: a client that accepts nothing for too long is treated as disconnected.

    Args:
        connection: The connection of the stream.
        data: The keep-alive; it may be written between any two frames.
        every: Seconds of silence before a keep-alive.
        headers: Headers of the stream, if a keep-alive starts it.
        media_type: Media type of the stream, if a keep-alive starts it.
    """

    __slots__ = (
        "_busy",
        "_connection",
        "_data",
        "_every",
        "_handle",
        "_headers",
        "_last",
        "_loop",
        "_media_type",
        "_probe",
        "_sending",
        "_task",
        "_unwatched",
    )  # fmt: skip

    def __init__(
        self, connection: HTTPConnection, data: bytes, *, every: float, headers: HeaderPairs = (), media_type: bytes
    ) -> None:
        self._headers = headers
        self._media_type = media_type
        self._connection = connection
        self._data = data
        self._every = every
        self._busy = False
        self._sending: asyncio.Task[None] | None = None
        self._unwatched = UNWATCHED in connection.scope.get("extensions", ())
        self._probe: asyncio.TimerHandle | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._handle = self._loop.call_at(self._last + every, self._tick)

    async def write(self, data: bytes) -> None:
        """Write a piece of the stream, after a keep-alive in progress.

        Raises:
            ClientDisconnected: The client has disconnected.
        """
        if self._sending is not None:
            await self.flush()
        self._busy = True
        try:
            await self._connection.send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError as error:
            self._connection.disconnected = True
            raise ClientDisconnected from error
        except Exception as error:
            self._connection.host_error = error
            raise
        self._busy = False
        self._last = self._loop.time()

    async def end(self) -> None:
        """End the stream. There are no more keep-alives, but the write timeout applies to the end, too.

        Raises:
            ClientDisconnected: The client has disconnected.
        """
        self._busy = True
        await self.flush()
        await self._connection.end()

    def cancel(self) -> None:
        """Stop keep-alives, and cancel one in progress."""
        self._handle.cancel()
        if self._probe is not None:
            self._probe.cancel()
        if self._sending is not None:
            self._sending.cancel()

    async def flush(self) -> None:
        """Wait for a keep-alive in progress."""
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
                    self._probe = self._loop.call_later(_PROBE_DELAY, self._send_probe, _PROBES)
            elif self._is_timed_out(now):
                return
            due = now + min(self._every, self._connection.write_timeout)
        self._handle = self._loop.call_at(due, self._tick)

    def _send_probe(self, times: int) -> None:
        if self._busy or self._sending is not None:
            return
        self._sending = self._loop.create_task(self._send())
        self._probe = self._loop.call_later(_PROBE_DELAY, self._send_probe, times - 1) if times > 1 else None

    def _is_timed_out(self, now: float) -> bool:
        """Return whether the write timeout has expired, and cancel the request then.

        Writes are at most `every` apart, so the start of each write need not be recorded.
        """
        if now - self._last < self._connection.write_timeout + self._every or self._task is None:
            return False
        self._connection.cancel(self._task)
        return True

    async def _send(self) -> None:
        try:
            if not self._connection.started:
                await self._connection.begin_stream(self._headers, media_type=self._media_type)
            await self._connection.write(self._data)
        except ClientDisconnected:
            if self._task is not None:
                self._connection.cancel(self._task)
            return
        self._last = self._loop.time()
        self._sending = None


async def _inflated(decompressor: Inflater, body: bytes, limit: int, held: HeldBody) -> bytes:
    """Return the decompressed body; yield to other tasks between steps.

    Raises:
        BodyTooLarge: It becomes larger than `limit`.
        BadRequest: It is not compressed as declared.
        Unavailable: The limit on the bytes of all bodies is reached.
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
    # They are decoded together: no header that a server accepted contains a line break.
    texts = b"\n".join(chain.from_iterable(pairs)).decode("latin-1").split("\n")
    headers = dict(zip(texts[::2], texts[1::2], strict=False))
    if len(texts) != 2 * len(pairs) or len(headers) != len(pairs):
        headers.clear()
        for name, value in pairs:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _decompressor(coding: str) -> Inflater | None:
    """Return the decompressor of a content coding; None: the body is not compressed.

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
