"""Serve an ASGI application from a WSGI server: with streaming and cancellation, on one event loop per process.

```
worker thread (WSGI)                             event-loop thread (one per process)
────────────────────                             ───────────────────────────────────
bridge(environ, start_response)
  environ -> scope                    ──begin──▶  task: await app(scope, receive, send)
  wait for the head                   ◀─wanted──  receive()
  read a piece of wsgi.input          ──piece──▶  continue
                                      ◀──head───  send(http.response.start)
  start_response(status, headers)
  next(response)                      ◀──deque──  send(http.response.body); waits while too much is unread
                                      ──room───▶  continue
  response.close(): disconnected      ──close──▶  receive() -> http.disconnect; cancelled soon after
```

Properties:

- **One loop.** The first request starts a daemon thread with an event loop. All bridges of the process share it, so
  an application's pools see one loop. It is the only state of this module: threads can't be shared in anything
  smaller than a process. It is keyed by pid and dropped after a fork, so preloading servers and forks after the first
  use work; a child starts its own thread with its first request. The thread ends when the last bridge closes, or
  when the process exits.
- **Back-pressure.** At most `ahead` pieces or 64 KiB of a response are unread; then `send` waits.
- **Disconnects.** A WSGI server notices a disconnect by a failing write, and closes the iterator. The application
  receives `http.disconnect` and an `OSError` from `send` immediately, and is cancelled 0.1 s later. Closing never
  waits. If the server exposes its socket (gunicorn and werkzeug do) and the system reports a connection's state
  (Linux), the socket is checked twice a second, so no write is needed to notice a disconnect. Otherwise the scope
  has the extension `llmproxy.unwatched`: an application that may be silent for long must send heartbeats, more than
  one, because the first write after a disconnect succeeds.
- **Failures.** Before the head, the application's exception is raised in the worker, and the server responds with
  500. After the head, the iterator raises, so the server aborts the connection: no response is truncated silently. A
  failure after a disconnect or after the complete response is logged.
- **Request bodies** are read in the worker, because only the worker may read `wsgi.input`, piece by piece when the
  application asks for them: a request that is refused by its headers occupies no thread for its body. If the
  application responds while the worker waits for a slow client (after a timeout of its own, for instance), the
  receiving side of the connection is shut down, if the server exposes its socket, so that the worker can send the
  response. The unread rest of a body is read for half a second at most: otherwise clients that are still sending would
  lose the response, and servers would wait for the rest without a limit before the next request.
  Of a body over `max_body`, the application gets what it needs for its own refusal: nothing if the length was declared
  (by `content-length`), else `max_body` + 1 bytes; then `http.disconnect`, as after an interrupted upload. If it ends
  without a response, the bridge responds with 413. A body that is shorter than declared, or that the server can't read
  to its end, is interrupted in the same way (400).
- **Context.** The application runs in a copy of the worker's context variables, so traces keep their parent.

The bridge runs no lifespan, does not decide who is calling, buffers no response, sets no loop policy and no signal
handler, and never uses an event loop of the host.

Under gevent's monkey patching `threading.Thread` is a greenlet, and the loop is one greenlet of the worker among
others. That works, because request greenlets only wait on a `threading.Condition`, which gevent makes cooperative, and
never ask asyncio for a running loop. (Tested with gevent 26.9 and its pywsgi server: a hundred concurrent streams, and
disconnecting clients.) One limitation remains: `asyncio.run` in a request greenlet of the host fails, because a loop is
running already.
"""

import asyncio
import atexit
import errno
import logging
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent import futures
from http import HTTPStatus
from typing import Any, Self
from wsgiref.types import StartResponse, WSGIEnvironment

from starlette.types import ASGIApp, Message, Scope

from llmproxy_asgi.disconnect import UNWATCHED, ClientDisconnected, report
from llmproxy_asgi.wsgi_environ import (
    Head,
    RequestBody,
    client_socket,
    decode_scope,
    encode_head,
    is_disconnected,
    status_line,
    stop_reading,
)

_MIB = 1024 * 1024
_UNREAD_BYTES = 64 * 1024  # of one response, between the application and the server
_CHECK_INTERVAL = 0.5  # seconds between checks of the client's socket
_GRACE = 0.1  # seconds between http.disconnect and the cancellation
_ENDING = 1.0  # seconds that a closing bridge gives to each step of ending its calls
_LINGER = 0.5  # seconds in which the unread rest of a body is read
_CLOSING = 5.0  # seconds that a closing bridge waits for the loop in total

_CLIENT_CLOSED_REQUEST = 499  # not an HTTP status: servers log it

_CLOSED = "the WSGI bridge is closed"
_UNFINISHED = "the application did not finish its answer"

logger = logging.getLogger(__name__)


class WSGIBridge:
    """A WSGI application that passes every request to an ASGI application.

    Args:
        app: An ASGI 3 application. It is not closed by the bridge.
        max_body: Bytes of a request's body at most; see the module's docstring. A function is called for each
            request, for limits that may change.
        ahead: Pieces of a response that the server may leave unread before `send` waits.
        on_close: Awaited on the event loop when the bridge closes, after its calls have ended, to close resources of
            that loop. Not called if there was no request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body: int | Callable[[], int] = 32 * _MIB,
        ahead: int = 16,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        if ahead < 1:
            raise ValueError("ahead must be at least 1")
        self._app = app
        self._max_body = max_body
        self._ahead = ahead
        self._on_close = on_close
        self._closed = False

    def __call__(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        *,
        scope_extra: Mapping[str, object] | None = None,
    ) -> Iterable[bytes]:
        """Call the application, and return when its head has been passed to `start_response`.

        The returned iterator yields the pieces of the body as they arrive and has a `close()`, so it can be the body
        of a Flask response. `scope_extra` is merged into the ASGI scope.

        Raises:
            RuntimeError: the bridge is closed, or the application ended without a response.
            Exception: the application's own exception before its head.
        """
        limit = self._max_body
        try:
            body = RequestBody(environ, limit if isinstance(limit, int) else limit())
        except ValueError:
            return _refuse(start_response, HTTPStatus.BAD_REQUEST)
        scope = decode_scope(environ)
        scope.update(scope_extra or {})
        connection = client_socket(environ)
        if connection is None:
            scope["extensions"] = {UNWATCHED: {}}
        call = _Call(_process.attach(self), self, scope, body, connection)
        response = _Response(call)
        try:
            call.submit()
            head = call.wait_for_head()
            if isinstance(head, HTTPStatus):
                call.discard_body()
                return _refuse(start_response, head)
            start_response(*encode_head(head))
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """End the calls of this bridge; the last bridge of the process ends the event loop.

        It waits a few seconds at most, and must not be called on the bridge's own event loop. Later requests raise
        RuntimeError.

        Raises:
            Exception: the exception of `on_close`; the bridge is closed nevertheless.
        """
        loop_thread = _process.detach(self)
        if loop_thread is None:
            return
        try:
            if not loop_thread.run(self._finish(loop_thread), timeout=_CLOSING):
                logger.warning("calls of a WSGI bridge did not end in %s seconds", _CLOSING)
        finally:
            _process.release(self, loop_thread)

    async def _finish(self, loop_thread: "_LoopThread") -> None:
        await loop_thread.end([call for call in loop_thread.calls if call.bridge is self])
        if self._on_close is not None:
            await self._on_close()


class _Process:
    """The event-loop thread of this process; a fork drops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop_thread: _LoopThread | None = None
        self._hooked = False
        # A child must keep a reference to its parent's loop: closing it would remove file descriptors from
        # the epoll set that both processes share.
        self._inherited: list[_LoopThread] = []

    def attach(self, bridge: WSGIBridge) -> "_LoopThread":
        """Return the loop thread for a bridge; start it if necessary."""
        with self._lock:
            if bridge._closed:  # noqa: SLF001 - a bridge's only state, guarded by this lock
                raise RuntimeError(_CLOSED)
            loop_thread = self._of_this_process()
            if loop_thread is None:
                self._register_hooks()
                loop_thread = self._loop_thread = _LoopThread()
            loop_thread.bridges.add(bridge)
            return loop_thread

    def detach(self, bridge: WSGIBridge) -> "_LoopThread | None":
        """Mark the bridge as closed; return its loop thread, if it has one."""
        with self._lock:
            bridge._closed = True  # noqa: SLF001 - as above
            loop_thread = self._of_this_process()
            return loop_thread if loop_thread is not None and bridge in loop_thread.bridges else None

    def release(self, bridge: WSGIBridge, loop_thread: "_LoopThread") -> None:
        with self._lock:
            loop_thread.bridges.discard(bridge)
            if loop_thread.bridges or loop_thread is not self._loop_thread:
                return
            self._loop_thread = None
        loop_thread.stop()

    def _of_this_process(self) -> "_LoopThread | None":
        if self._loop_thread is not None and self._loop_thread.pid != os.getpid():
            self._drop()
        return self._loop_thread

    def _register_hooks(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(after_in_child=self._after_fork)
            atexit.register(self._at_exit)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the parent's may have been held by a thread that the child does not have
        self._drop()

    def _drop(self) -> None:
        if self._loop_thread is not None:
            self._inherited.append(self._loop_thread)
            self._loop_thread = None

    def _at_exit(self) -> None:
        loop_thread = self._of_this_process()
        if loop_thread is None:
            return
        for bridge in list(loop_thread.bridges):
            try:
                bridge.close()
            except Exception:
                logger.exception("a WSGI bridge failed to close")  # continue with the others
        loop_thread.stop()


class _LoopThread:
    """An event loop in a daemon thread, and the calls that run on it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.bridges: weakref.WeakSet[WSGIBridge] = weakref.WeakSet()
        self.calls: set[_Call] = set()  # touched on the loop only
        # Reentrant: the garbage collector may run while it is held, and close an unclosed response.
        self._lock = threading.RLock()
        self._stopping = False
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="llmproxy-wsgi", daemon=True)
        self._thread.start()

    def submit(self, callback: Callable[[], object]) -> bool:
        """Schedule a callback on the loop; return False if the loop ends and will not run it."""
        with self._lock:  # a callback scheduled before the stop also runs before it
            if self._stopping:
                return False
            self._loop.call_soon_threadsafe(callback)
            return True

    def run(self, work: Coroutine[Any, Any, None], *, timeout: float) -> bool:
        """Run a coroutine on the loop; return False if it does not end within `timeout` seconds."""
        with self._lock:
            if self._stopping:
                work.close()
                return True
            running = asyncio.run_coroutine_threadsafe(work, self._loop)
        if not futures.wait([running], timeout).done:
            running.cancel()
            return False
        running.result()
        return True

    def stop(self) -> None:
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(_CLOSING)
        if self._thread.is_alive():
            logger.warning("the event loop of the WSGI bridges did not end in %s seconds", _CLOSING)

    def _stop(self) -> None:
        self._stopped = True
        self._loop.stop()

    def _serve(self) -> None:
        while not self._stopped:
            try:
                self._loop.run_forever()
            except BaseException:
                # A SystemExit in a task must not make all later requests wait for ever.
                logger.exception("an application tried to end the event loop of the WSGI bridges")
        try:
            self._loop.run_until_complete(self._finish())
        finally:
            self._loop.close()

    async def _finish(self) -> None:
        await self.end(list(self.calls))
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=_ENDING)
        await self._loop.shutdown_asyncgens()

    async def end(self, calls: "list[_Call]") -> None:
        """End the calls: send http.disconnect, and cancel those that still run after a second."""
        for call in calls:
            call.disconnect()
        tasks = {call.task for call in calls if call.task is not None}
        if not tasks:
            return
        _, running = await asyncio.wait(tasks, timeout=_ENDING)
        for task in running:
            task.cancel()
        if running:
            _, running = await asyncio.wait(running, timeout=_ENDING)
        if running:
            logger.warning("%d calls of a WSGI bridge did not end when they were cancelled", len(running))


class _Call:
    """One request: the application's task on the loop, and a worker thread that reads its response.

    `_changed` guards the state that both use; the loop owns everything else.
    """

    def __init__(
        self,
        loop_thread: _LoopThread,
        bridge: WSGIBridge,
        scope: Scope,
        body: RequestBody,
        connection: socket.socket | None = None,
    ) -> None:
        self.loop_thread = loop_thread
        self._connection = connection
        self.bridge = bridge
        self.task: asyncio.Task[None] | None = None
        self._app = bridge._app  # noqa: SLF001 - a call is a part of its bridge
        self._ahead = bridge._ahead  # noqa: SLF001 - as above
        self._scope = scope
        self._head_only = scope["method"] == "HEAD"
        self._body = body
        self._first = True  # nothing of the body has been passed on yet
        self._piece_read = asyncio.Event()
        self._body_interrupted = False  # the application has received the early end of the body
        self._disconnect = asyncio.Event()
        self._writable = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None  # checks the client, and later cancels the task
        self._cancelling = False  # the application is about to be cancelled

        self._changed = threading.Condition(threading.RLock())  # reentrant, like the loop thread's
        self._body_wanted = False  # the application waits for a piece of the body
        self._reading = False  # the worker is reading one
        self._discarding = False  # the worker discards the rest of the body
        self._piece: bytes | None = None
        self._head: Head | None = None
        self._bodiless = self._head_only
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._stalled = False  # a send waits until something is read
        self._complete = False  # the application has sent its last message
        self._ended = False  # the application's task is over
        self._error: BaseException | None = None
        self._closed = False  # the response is no longer read
        self._disconnected = False  # the client has disconnected, which the server has not noticed yet

    # Called on the loop.

    def begin(self) -> None:
        self.loop_thread.calls.add(self)
        self.task = asyncio.get_running_loop().create_task(self._run())
        if self._connection is not None:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check_client, self._connection)

    def _check_client(self, connection: socket.socket) -> None:
        """Check whether the client is still connected, and schedule the next check."""
        self._timer = None
        if self._closed or self._complete:
            return
        if is_disconnected(connection):
            self._disconnected = True
            self.disconnect()
        else:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check_client, connection)

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as raised:  # noqa: BLE001 - it belongs to the worker thread
            error = raised
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self.loop_thread.calls.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._disconnect.set()
        with self._changed:
            self._ended = True
            self._stop_reading()
            is_unread = self._closed or self._complete
            self._error = None if is_unread else error
            self._changed.notify_all()
        if is_unread and error is not None:
            report(error, logger)

    async def _receive(self) -> Message:
        body = self._body
        if not body.ended or self._piece is not None:
            data = await self._fetch()
            if data is not None and (data or body.refusal is None):
                self._first = False
                return {"type": "http.request", "body": data, "more_body": not body.ended or body.refusal is not None}
        elif self._first:
            self._first = False
            return {"type": "http.request", "body": b"", "more_body": body.refusal is not None}
        if body.refusal is not None:
            self._body_interrupted = True
        else:
            await self._disconnect.wait()
        return {"type": "http.disconnect"}

    async def _fetch(self) -> bytes | None:
        """Wait for the next piece of the body, which the worker reads; return None if the call ends before."""
        while True:
            with self._changed:
                data, self._piece = self._piece, None
                if data is not None or self._disconnect.is_set():
                    return data
                self._piece_read.clear()
                self._body_wanted = not self._reading  # otherwise it still reads for a cancelled task
                self._changed.notify_all()
            await self._piece_read.wait()

    def _stop_reading(self) -> None:
        """Interrupt a worker that waits for its client; `_changed` must be held."""
        self._body_wanted = False
        if self._reading and self._connection is not None:
            stop_reading(self._connection)

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                self._start(message)
            case "http.response.body":
                chunk = bytes(message.get("body", b""))
                more = bool(message.get("more_body", False))
                if self._bodiless and self._head is not None:
                    chunk = b""
                    await asyncio.sleep(0)  # nothing else waits here, and an endless sender must not block the loop
                while not self._offer(chunk, more=more):
                    await self._writable.wait()
            case other:
                raise RuntimeError(f"a WSGI server can't be sent {other!r}")

    def _start(self, message: Message) -> None:
        status = int(message["status"])
        head = Head(status=status, headers=[(bytes(k), bytes(v)) for k, v in message.get("headers", ())])
        with self._changed:
            self._check_open()
            if self._head is not None:
                raise RuntimeError("the response has already started")
            self._head = head
            self._stop_reading()
            if status < HTTPStatus.OK or status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
                self._bodiless = True
            self._changed.notify_all()

    def _offer(self, chunk: bytes, *, more: bool) -> bool:
        """Pass a piece to the worker; return False if too much is unread: `_writable` is set when there is room."""
        with self._changed:
            if self._head is None:
                raise RuntimeError("the response has not started yet")
            if self._complete:
                raise RuntimeError("the response is already complete")
            self._check_open()
            if len(self._chunks) >= self._ahead or self._unread >= _UNREAD_BYTES:
                self._stalled = True
                self._writable.clear()
                return False
            # An application sends an empty piece that isn't the last one to send its head immediately.
            if chunk or (more and not self._bodiless):
                self._chunks.append(chunk)
                self._unread += len(chunk)
            if not more:
                self._complete = True
                self._disconnect.set()
            self._changed.notify_all()
            return True

    def _check_open(self) -> None:
        if self._closed:
            raise ClientDisconnected("the client has disconnected")

    def disconnect(self) -> None:
        """Send the application a disconnect, and cancel it soon if it is still responding."""
        self._disconnect.set()
        self._piece_read.set()
        self._writable.set()
        with self._changed:
            self._closed = True
            self._stop_reading()
            answering = not (self._complete or self._ended)
            self._changed.notify_all()
        # After its response, an application may run until the bridge closes.
        if answering and not self._cancelling:
            self._cancelling = True
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(_GRACE, self.cancel)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    # Called in the worker thread.

    def submit(self) -> None:
        if not self.loop_thread.submit(self.begin):
            raise RuntimeError(_CLOSED)

    def wait_for_head(self) -> Head | HTTPStatus:
        """Wait for the application's head; return the status of a refusal if it could not read the body."""
        with self._changed:
            while self._head is None and not (self._ended or self._closed):
                self._wait()
            if self._head is not None:
                return self._head
            if self._disconnected:
                self._complete = True
                return Head(status=_CLIENT_CLOSED_REQUEST, headers=[(b"content-length", b"0")])  # for the server's log
            error, self._error = self._error, None
            closed = self._closed
        refusal = self._body.refusal
        if self._body_interrupted and refusal is not None and not isinstance(error, asyncio.CancelledError):
            logger.debug("the application ended after an interrupted request body", exc_info=error)
            return refusal
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(_CLOSED if closed else "the application ended without an answer") from error

    def next_chunk(self) -> bytes | None:
        """Return the next piece of the body; None after the last.

        Raises:
            BrokenPipeError: the client has disconnected.
            RuntimeError: the application failed within its response.
        """
        with self._changed:
            if self._head_only:
                return None
            while not (self._chunks or self._complete or self._ended or self._closed):
                self._wait()
            if self._chunks:
                chunk = self._chunks.popleft()
                self._unread -= len(chunk)
                # When half is read, so that a fast application is woken once for many pieces.
                wake = self._stalled and 2 * len(self._chunks) <= self._ahead and 2 * self._unread <= _UNREAD_BYTES
                if wake:
                    self._stalled = False
            elif self._complete:
                return None
            elif self._disconnected:
                raise BrokenPipeError(errno.EPIPE, "the client has disconnected")  # as if the server had noticed it
            else:
                error, self._error = self._error, None
                raise RuntimeError(_CLOSED if self._closed else _UNFINISHED) from error
        if wake:
            self.loop_thread.submit(self._writable.set)
        return chunk

    def _wait(self) -> None:
        """Wait for a change, with `_changed` held once; read a piece of the body if the application waits for it."""
        if not self._body_wanted:
            self._changed.wait()
            return
        self._body_wanted, self._reading = False, True
        self._changed.release()
        try:
            piece = self._body.read()
        finally:
            self._changed.acquire()
            self._reading = False
        self._piece = piece
        self.loop_thread.submit(self._piece_read.set)

    def discard_body(self) -> None:
        """Read the rest of the body for a moment, if the server exposes its socket."""
        if self._connection is None or not self._body.has_unread or self.loop_thread.pid != os.getpid():
            return
        self._discarding = True
        if not self.loop_thread.submit(lambda: asyncio.get_running_loop().call_later(_LINGER, self._stop_discarding)):
            self._stop_discarding()
        self._body.discard()
        with self._changed:
            self._discarding = False

    def _stop_discarding(self) -> None:
        with self._changed:  # under the lock: afterwards the connection may serve its next request
            if self._discarding and self._connection is not None:
                stop_reading(self._connection)

    def close(self) -> None:
        """Stop reading, and return immediately; the application is disconnected on the loop."""
        if self.loop_thread.pid != os.getpid():
            return  # inherited in a fork: the call belongs to the parent
        with self._changed:
            done = self._closed or self._ended or (self._complete and not self._chunks)
            self._closed = True
            error, self._error = self._error, None
        if error is not None:
            report(error, logger)
        if not done:
            self.loop_thread.submit(self.disconnect)


class _Response:
    """The body of a WSGI response: an iterator with `close()`.

    It is separate from `_Call`, so that dropping it without `close()` is noticed although the task still runs.
    """

    __slots__ = ("__weakref__", "_call")

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        chunk = self._call.next_chunk()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._call.close()
        self._call.discard_body()

    def __del__(self) -> None:
        self._call.close()


def _refuse(start_response: StartResponse, status: HTTPStatus) -> Iterable[bytes]:
    text = f"{status.phrase}\n".encode()
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(text)))]
    start_response(status_line(status), headers)
    return [text]


_process = _Process()
