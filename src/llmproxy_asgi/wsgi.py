"""Any ASGI application seen from a WSGI server: it streams, it cancels, and a process needs one event loop.

```
worker thread (WSGI)                             event-loop thread (one per process)
────────────────────                             ───────────────────────────────────
bridge(environ, start_response)
  environ -> scope                    ──begin──▶  task: await app(scope, receive, send)
  wait for the head                   ◀─wanted──  receive()
  read a piece of wsgi.input          ──piece──▶  goes on
                                      ◀──head───  send(http.response.start)
  start_response(status, headers)
  next(answer)                        ◀──deque──  send(http.response.body); waits once too much is unread
                                      ──room───▶  goes on
  answer.close(): the client left     ──leave──▶  receive() -> http.disconnect; cancelled soon after
```

What holds:

- **One loop.** The first request starts a daemon thread with an event loop, and every bridge of the process shares
  it, so an application's pools see one loop. It is module state, and the only such: threads can't be
  shared through anything smaller than the process. It is keyed by pid and forgotten after a fork, so
  preloading servers and forks after first use work; a child gets a thread of its own with its first
  request. The last bridge that closes ends the thread, and so does the exit of the process.
- **Back-pressure.** Of one answer at most `ahead` pieces or 64 KiB stay unread; then `send` waits.
- **The client's leaving.** A WSGI server notices it with a write that fails, and closes the iterator. The
  application reads `http.disconnect` and gets an `OSError` from `send` at once, and is cancelled 0.1 s
  later. Closing never waits. Where the server shows its socket (gunicorn's and werkzeug's do) and the system
  tells how a connection stands (Linux), it is looked at twice a second, so that nobody has to write to find out.
  Elsewhere the scope says so (`extensions`, `llmproxy.unwatched`): an application that may be silent for
  long has to send heartbeats, and one alone is not enough: the first write to a client that left still succeeds.
- **Failures.** Before the head the application's exception is raised in the worker, and the server answers
  500. After the head the iterator raises, so the server breaks the connection off: never a
  silent truncation. A failure nobody can be told of (the client left, the answer is out) is logged.
- **Request bodies** are read in the worker, because only the worker may read `wsgi.input`, but not before the
  application asks for them, and a piece at a time: what it refuses by the head alone costs no thread a body. Where
  the application answers while the worker waits for a slow client (its own clock has run out, for instance), the
  connection's receiving side is shut, if the server shows its socket, so that the worker can send the answer. What is
  unread then, or when an answer is out, is read for half a second at most: clients that are still sending would
  otherwise lose the answer, and servers wait for the rest without end before they take the next request.
  Of a body that is over `max_body` the application gets what its limit needs for a refusal in its own words: nothing
  if the length was declared (`content-length` tells it), else `max_body` + 1 bytes; then, as after an upload broken
  off, `http.disconnect`. If it gives up without an answer, the bridge answers 413. A body shorter than declared, or one
  that the server can't read to its end, is broken off the same way (400).
- **Context.** The application runs in a copy of the worker's context variables, so traces keep their parent.

What it refuses to do: it runs no lifespan, makes no decision about who is calling, buffers no answer, sets
no loop policy and no signal handler, and never touches an event loop of the host.

Under gevent's monkey patching `threading.Thread` is a greenlet, and the loop is one greenlet of the worker
among others. That works, because request greenlets only wait on a `threading.Condition`, which gevent makes
cooperative, and never ask asyncio for a running loop. (Tried with gevent 26.9 and its pywsgi server: a hundred
streams at once, and clients that leave.) One thing is lost there: host code that calls `asyncio.run` in
a request greenlet is told that a loop is running already.
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
_UNREAD_BYTES = 64 * 1024  # of one answer, between the application and the server
_LOOK = 0.5  # seconds between two looks at whether the client is still there
_GRACE = 0.1  # seconds between http.disconnect and the cancellation
_ENDING = 1.0  # seconds a bridge that closes gives to each step of ending its calls
_LINGER = 0.5  # seconds in which the rest of a body is read that the application did not ask for
_CLOSING = 5.0  # seconds a bridge that closes waits for the loop in all

_CLIENT_LEFT = 499  # no status of HTTP's: what servers write into their logs

_CLOSED = "the WSGI bridge is closed"
_BROKEN_OFF = "the application did not finish its answer"

logger = logging.getLogger(__name__)


class WSGIBridge:
    """A WSGI application that hands every request to an ASGI application.

    Args:
        app: An ASGI 3 application. It is not closed by the bridge.
        max_body: Bytes of a request's body that are read at most; see the module's docstring. A function is asked anew
            for each request, for limits that may change.
        ahead: Pieces of an answer that may be unread by the server before `send` waits.
        on_close: Awaited on the event loop when the bridge closes, after its calls have ended; here the
            owner of the application closes what lives on that loop. Not called if no request ever came.
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
        """Call the application, and return once its head has been given to `start_response`.

        The returned iterator yields each piece of the body as it comes and has a `close()`, so it may be
        the body of a Flask response. `scope_extra` is merged into the ASGI scope.

        Raises:
            RuntimeError: the bridge is closed, or the application ended without an answer.
            Exception: whatever the application raised before its head.
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
        call = _Call(_process.enter(self), self, scope, body, connection)
        answer = _Answer(call)
        try:
            call.submit()
            head = call.wait_for_head()
            if isinstance(head, HTTPStatus):
                call.linger()
                return _refuse(start_response, head)
            start_response(*encode_head(head))
        except BaseException:
            answer.close()
            raise
        return answer

    def close(self) -> None:
        """End the calls of this bridge; the last bridge of the process ends the event loop.

        Waits some seconds at most. Must not be called on the bridge's own event loop. Requests
        after it raise RuntimeError.

        Raises:
            Exception: whatever `on_close` raised; the bridge is closed all the same.
        """
        home = _process.leave(self)
        if home is None:
            return
        try:
            if not home.run(self._finish(home), timeout=_CLOSING):
                logger.warning("calls of a WSGI bridge did not end in %s seconds", _CLOSING)
        finally:
            _process.release(self, home)

    async def _finish(self, home: "_LoopThread") -> None:
        await home.end([call for call in home.calls if call.bridge is self])
        if self._on_close is not None:
            await self._on_close()


class _Process:
    """The event-loop thread of this process, and what a fork does to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home: _LoopThread | None = None
        self._hooked = False
        # A child must not let go of its parent's loop: closing it would take file descriptors out of
        # the epoll set that both still share.
        self._inherited: list[_LoopThread] = []

    def enter(self, bridge: WSGIBridge) -> "_LoopThread":
        """Give the bridge the loop it runs on, started if need be."""
        with self._lock:
            if bridge._closed:  # noqa: SLF001 - a bridge's only state, guarded by this lock
                raise RuntimeError(_CLOSED)
            home = self._of_this_process()
            if home is None:
                self._hook()
                home = self._home = _LoopThread()
            home.bridges.add(bridge)
            return home

    def leave(self, bridge: WSGIBridge) -> "_LoopThread | None":
        """Mark the bridge closed; the loop it has still to be ended on, if any."""
        with self._lock:
            bridge._closed = True  # noqa: SLF001 - as above
            home = self._of_this_process()
            return home if home is not None and bridge in home.bridges else None

    def release(self, bridge: WSGIBridge, home: "_LoopThread") -> None:
        with self._lock:
            home.bridges.discard(bridge)
            if home.bridges or home is not self._home:
                return
            self._home = None
        home.stop()

    def _of_this_process(self) -> "_LoopThread | None":
        if self._home is not None and self._home.pid != os.getpid():
            self._forget()
        return self._home

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(after_in_child=self._after_fork)
            atexit.register(self._at_exit)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the parent's may have been held by a thread that the child has not
        self._forget()

    def _forget(self) -> None:
        if self._home is not None:
            self._inherited.append(self._home)
            self._home = None

    def _at_exit(self) -> None:
        home = self._of_this_process()
        if home is None:
            return
        for bridge in list(home.bridges):
            try:
                bridge.close()
            except Exception:
                logger.exception("a WSGI bridge failed to close")  # and the others still have to
        home.stop()


class _LoopThread:
    """An event loop in a daemon thread, and the calls that run on it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.bridges: weakref.WeakSet[WSGIBridge] = weakref.WeakSet()
        self.calls: set[_Call] = set()  # touched on the loop only
        # To be entered again: the garbage collector may run while it is held, and close an answer that nobody closed.
        self._lock = threading.RLock()
        self._stopping = False
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="llmproxy-wsgi", daemon=True)
        self._thread.start()

    def submit(self, callback: Callable[[], object]) -> bool:
        """Have the callback run on the loop; False if the loop ends and won't run it."""
        with self._lock:  # so that what was taken on before the stop is also run before it
            if self._stopping:
                return False
            self._loop.call_soon_threadsafe(callback)
            return True

    def run(self, work: Coroutine[Any, Any, None], *, timeout: float) -> bool:
        """Run the coroutine on the loop, and raise what it raises; False if it did not end in `timeout` seconds."""
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
                # A SystemExit in somebody's task must not leave every later request waiting for ever.
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
        """End the calls: by http.disconnect first, and by cancelling what is left after a second."""
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
    """One request: the application's task on the loop, and a worker thread that reads its answer.

    What both touch is guarded by `_changed`; everything else belongs to the loop.
    """

    def __init__(
        self,
        home: _LoopThread,
        bridge: WSGIBridge,
        scope: Scope,
        body: RequestBody,
        connection: socket.socket | None = None,
    ) -> None:
        self.home = home
        self._connection = connection
        self.bridge = bridge
        self.task: asyncio.Task[None] | None = None
        self._app = bridge._app  # noqa: SLF001 - a call is a part of its bridge
        self._ahead = bridge._ahead  # noqa: SLF001 - as above
        self._scope = scope
        self._head_only = scope["method"] == "HEAD"
        self._body = body
        self._first = True  # nothing of the body has been handed on yet
        self._fed = asyncio.Event()
        self._broken_off = False  # the application has been told that the body ends early
        self._gone = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None  # looks after the client, and then for the end
        self._dismissed = False  # the application is about to be cancelled

        self._changed = threading.Condition(threading.RLock())  # to be entered again, as the loop thread's
        self._wanted = False  # the application waits for a piece of the body
        self._reading = False  # the worker is reading one
        self._lingers = False  # the worker reads what nobody asked for
        self._piece: bytes | None = None
        self._head: Head | None = None
        self._bodiless = self._head_only
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._stalled = False  # a send waits for room
        self._complete = False  # the application has sent its last message
        self._ended = False  # the application's task is over
        self._error: BaseException | None = None
        self._left = False  # nobody reads the answer any more
        self._deserted = False  # because the client has left, as we saw before the server did

    # On the loop.

    def begin(self) -> None:
        self.home.calls.add(self)
        self.task = asyncio.get_running_loop().create_task(self._run())
        if self._connection is not None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look, self._connection)

    def _look(self, connection: socket.socket) -> None:
        """Whether the client is still there."""
        self._timer = None
        if self._left or self._complete:
            return
        if is_disconnected(connection):
            self._deserted = True
            self.disconnect()
        else:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look, connection)

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as raised:  # noqa: BLE001 - it belongs to the worker thread
            error = raised
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self.home.calls.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._gone.set()
        with self._changed:
            self._ended = True
            self._stop_reading()
            unheard = self._left or self._complete
            self._error = None if unheard else error
            self._changed.notify_all()
        if unheard and error is not None:
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
            self._broken_off = True
        else:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _fetch(self) -> bytes | None:
        """The next piece of the body, which the worker reads; None if the call ends before it comes."""
        while True:
            with self._changed:
                data, self._piece = self._piece, None
                if data is not None or self._gone.is_set():
                    return data
                self._fed.clear()
                self._wanted = not self._reading  # else it still reads for a task that was cancelled
                self._changed.notify_all()
            await self._fed.wait()

    def _stop_reading(self) -> None:
        """Release a worker that waits for its client; must be called with `_changed` held."""
        self._wanted = False
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
                    await asyncio.sleep(0)  # nothing here waits, and an endless sender must not hold the loop
                while not self._offer(chunk, more=more):
                    await self._room.wait()
            case other:
                raise RuntimeError(f"a WSGI server can't be sent {other!r}")

    def _start(self, message: Message) -> None:
        status = int(message["status"])
        head = Head(status=status, headers=[(bytes(k), bytes(v)) for k, v in message.get("headers", ())])
        with self._changed:
            self._refuse_if_left()
            if self._head is not None:
                raise RuntimeError("the response has already started")
            self._head = head
            self._stop_reading()
            if status < HTTPStatus.OK or status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
                self._bodiless = True
            self._changed.notify_all()

    def _offer(self, chunk: bytes, *, more: bool) -> bool:
        """Hand a piece to the worker; False if too much is unread, and `_room` will say when not."""
        with self._changed:
            if self._head is None:
                raise RuntimeError("the response has not started yet")
            if self._complete:
                raise RuntimeError("the response is already complete")
            self._refuse_if_left()
            if len(self._chunks) >= self._ahead or self._unread >= _UNREAD_BYTES:
                self._stalled = True
                self._room.clear()
                return False
            # An empty piece that isn't the last one is how an application has its head sent at once.
            if chunk or (more and not self._bodiless):
                self._chunks.append(chunk)
                self._unread += len(chunk)
            if not more:
                self._complete = True
                self._gone.set()
            self._changed.notify_all()
            return True

    def _refuse_if_left(self) -> None:
        if self._left:
            raise ClientDisconnected("the client has left")

    def disconnect(self) -> None:
        """Tell the application that the client left, and cancel it soon if it goes on answering."""
        self._gone.set()
        self._fed.set()
        self._room.set()
        with self._changed:
            self._left = True
            self._stop_reading()
            answering = not (self._complete or self._ended)
            self._changed.notify_all()
        # What an application does after its answer is its own affair, until the bridge closes.
        if answering and not self._dismissed:
            self._dismissed = True
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(_GRACE, self.cancel)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    # In the worker thread.

    def submit(self) -> None:
        if not self.home.submit(self.begin):
            raise RuntimeError(_CLOSED)

    def wait_for_head(self) -> Head | HTTPStatus:
        """The application's head, or the status with which to refuse a body it could not take."""
        with self._changed:
            while self._head is None and not (self._ended or self._left):
                self._wait()
            if self._head is not None:
                return self._head
            if self._deserted:
                self._complete = True
                return Head(status=_CLIENT_LEFT, headers=[(b"content-length", b"0")])  # for the server's log
            error, self._error = self._error, None
            closed = self._left
        refusal = self._body.refusal
        if self._broken_off and refusal is not None and not isinstance(error, asyncio.CancelledError):
            logger.debug("the application gave up on a broken off request body", exc_info=error)
            return refusal
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(_CLOSED if closed else "the application ended without an answer") from error

    def next_chunk(self) -> bytes | None:
        """The next piece of the body, or None after the last one.

        Raises:
            BrokenPipeError: the client has left.
            RuntimeError: the application failed in the middle of its answer.
        """
        with self._changed:
            if self._head_only:
                return None
            while not (self._chunks or self._complete or self._ended or self._left):
                self._wait()
            if self._chunks:
                chunk = self._chunks.popleft()
                self._unread -= len(chunk)
                # At half, so that a fast application is woken once for many pieces.
                wake = self._stalled and 2 * len(self._chunks) <= self._ahead and 2 * self._unread <= _UNREAD_BYTES
                if wake:
                    self._stalled = False
            elif self._complete:
                return None
            elif self._deserted:
                raise BrokenPipeError(errno.EPIPE, "the client has left")  # as if the server had seen it first
            else:
                error, self._error = self._error, None
                raise RuntimeError(_CLOSED if self._left else _BROKEN_OFF) from error
        if wake:
            self.home.submit(self._room.set)
        return chunk

    def _wait(self) -> None:
        """Wait for a change, with `_changed` held once; if the application waits for its body, read a piece of it."""
        if not self._wanted:
            self._changed.wait()
            return
        self._wanted, self._reading = False, True
        self._changed.release()
        try:
            piece = self._body.read()
        finally:
            self._changed.acquire()
            self._reading = False
        self._piece = piece
        self.home.submit(self._fed.set)

    def linger(self) -> None:
        """Read what is left of the body, for a moment, where the server shows its socket."""
        if self._connection is None or not self._body.has_unread or self.home.pid != os.getpid():
            return
        self._lingers = True
        if not self.home.submit(lambda: asyncio.get_running_loop().call_later(_LINGER, self._stop_lingering)):
            self._stop_lingering()
        self._body.discard()
        with self._changed:
            self._lingers = False

    def _stop_lingering(self) -> None:
        with self._changed:  # not a moment later: the connection may serve its next request then
            if self._lingers and self._connection is not None:
                stop_reading(self._connection)

    def leave(self) -> None:
        """Stop reading. Returns at once; the application is told and ended on the loop."""
        if self.home.pid != os.getpid():
            return  # inherited by a fork: the call belongs to the parent
        with self._changed:
            done = self._left or self._ended or (self._complete and not self._chunks)
            self._left = True
            error, self._error = self._error, None
        if error is not None:
            report(error, logger)
        if not done:
            self.home.submit(self.disconnect)


class _Answer:
    """The body as WSGI wants it: an iterator with `close()`.

    Apart from `_Call`, so that an iterator dropped without `close()` is noticed although the task lives on.
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
        self._call.leave()
        self._call.linger()

    def __del__(self) -> None:
        self._call.leave()


def _refuse(start_response: StartResponse, status: HTTPStatus) -> Iterable[bytes]:
    text = f"{status.phrase}\n".encode()
    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(text)))]
    start_response(status_line(status), headers)
    return [text]


_process = _Process()
