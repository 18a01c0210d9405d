"""A scripted upstream: an HTTP/1.1 server on a loopback socket that plays scenarios and records requests.

The sockets are real, so that tests observe real streaming, disconnects and resets. HTTP is written by hand, so that it
can be written wrongly. The upstream records each request and the time at which the peer disconnected; it does not check
them, supports neither TLS nor HTTP/2, and listens on 127.0.0.1 only.

A peer that closes only its sending side counts as disconnected, too: no HTTP client in use does that and continues to
read. The rest of a scenario is then skipped.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, assert_never

from anyio.from_thread import BlockingPortal, start_blocking_portal
from typing_extensions import override

from llmproxy_asgi.testing.scenario import (
    Answer,
    Close,
    Drip,
    HalfClose,
    Hold,
    Received,
    Reset,
    Scenario,
    Send,
    Step,
    Wait,
    error_answer,
)

_HEAD_LIMIT = 1024 * 1024


class Script:
    """The responses of an upstream, and the requests it has received so far.

    A request is answered by the first matching rule of `on`, otherwise by the next response of the queue, otherwise by
    `default`. A request without a response, or whose response raises, gets a 500, and the error is raised again when
    the upstream's context is left.
    """

    def __init__(self, *, default: Answer | None = None) -> None:
        self.default = default
        self.base_url = ""
        """`http://127.0.0.1:port` while the upstream runs."""
        self.requests: list[Received] = []
        self.connections = 0
        """The number of connections accepted so far."""
        self.closed_at: dict[int, float] = {}
        """The monotonic second at which the peer closed a connection, by its number from 0."""
        self.errors: list[Exception] = []
        """Errors that responses raised, and errors of malformed requests."""
        self._open: set[int] = set()
        self._rules: list[tuple[str | Callable[[Received], bool], Answer]] = []
        self._queue: deque[Answer] = deque()

    @property
    def open_connections(self) -> int:
        """The number of connections that neither side has closed."""
        return len(self._open)

    def enqueue(self, *answers: Answer) -> None:
        """Answer the next requests with these responses, one each, in order."""
        self._queue.extend(answers)

    def on(self, match: str | Callable[[Received], bool], answer: Answer) -> None:
        """Answer each request to this exact path, or for which `match` returns true, with `answer`."""
        self._rules.append((match, answer))

    def _scenario_for(self, received: Received) -> Scenario:
        answer = self._choose(received)
        return answer if isinstance(answer, Scenario) else answer(received)

    def _choose(self, received: Received) -> Answer:
        for match, answer in self._rules:
            if match == received.path if isinstance(match, str) else match(received):
                return answer
        if self._queue:
            return self._queue.popleft()
        if self.default is None:
            raise LookupError(f"no answer was prepared for {received.method} {received.path}")
        return self.default

    def _raise_errors(self) -> None:
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ExceptionGroup("the upstream met several errors", self.errors)


class Upstream(Script):
    """A scripted upstream for asynchronous tests; it runs while its context is entered, on the current event loop."""

    def __init__(self, *, default: Answer | None = None) -> None:
        super().__init__(default=default)
        self._server = _Server(self)

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop()
        if error is None:
            self._raise_errors()

    async def wait_for_requests(self, count: int) -> None:
        """Wait until this many requests have arrived since the start."""
        await self._server.wait_for_requests(count)

    async def wait_closed(self, request: int) -> float:
        """Return the monotonic second at which the peer closed the connection of a request, numbered from 0.

        Raises:
            RuntimeError: The upstream closed it first.
        """
        return await self._server.wait_closed(request)

    @staticmethod
    @contextmanager
    def in_thread(*, default: Answer | None = None) -> Iterator["ThreadedUpstream"]:
        """Run an upstream on an event loop in a separate thread, for synchronous tests."""
        with start_blocking_portal() as portal:
            upstream = ThreadedUpstream(portal, default=default)
            portal.call(upstream._server.start)  # noqa: SLF001  the classes belong together
            try:
                yield upstream
            finally:
                portal.call(upstream._server.stop)  # noqa: SLF001  likewise
        upstream._raise_errors()  # noqa: SLF001  likewise


class ThreadedUpstream(Script):
    """The upstream of `Upstream.in_thread`; its `wait_*` methods block the calling thread."""

    def __init__(self, portal: BlockingPortal, *, default: Answer | None = None) -> None:
        super().__init__(default=default)
        self._server = _Server(self)
        self._portal = portal

    def wait_for_requests(self, count: int, *, timeout: float = 30) -> None:
        """Wait until this many requests have arrived since the start.

        Raises:
            TimeoutError: They did not arrive within `timeout` seconds.
        """
        self._portal.call(self._server.wait_for_requests, count, timeout)

    def wait_closed(self, request: int, *, timeout: float = 30) -> float:
        """Return the monotonic second at which the peer closed the connection of a request, numbered from 0.

        Raises:
            RuntimeError: The upstream closed it first.
            TimeoutError: Neither side closed it within `timeout` seconds.
        """
        return self._portal.call(self._server.wait_closed, request, timeout)


class _Server:
    """The listening socket, its connections, and the waiters for changes."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections: set[_Connection] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._socket: socket.socket
        self._accepting: asyncio.Task[None]

    async def start(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._socket.setblocking(False)
        self.script.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def stop(self) -> None:
        self._stopping = True
        with self._socket, socket.socket() as wakeup:
            wakeup.setblocking(False)
            await asyncio.get_running_loop().sock_connect(wakeup, self._socket.getsockname())
            await self._accepting
        await asyncio.gather(*(connection.drop() for connection in self.connections))

    async def _accept(self) -> None:
        # By hand, and ended by a connection of `stop`: a cancelled accept, like a closed `asyncio.Server`, can lose a
        # connection that the system has established already, and its peer would wait forever.
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(self._socket)
            if self._stopping:
                accepted.close()
                return
            await loop.connect_accepted_socket(lambda: _Connection(self), accepted)

    def notify_waiters(self) -> None:
        """Wake all waiters, so that they check their conditions again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_for_requests(self, count: int, timeout: float | None = None) -> None:  # noqa: ASYNC109  for another thread
        requests = self.script.requests
        async with asyncio.timeout(timeout):
            await self._wait_until(lambda: len(requests) >= count)

    async def wait_closed(self, request: int, timeout: float | None = None) -> float:  # noqa: ASYNC109  for another thread
        await self.wait_for_requests(request + 1, timeout)
        script = self.script
        connection = script.requests[request].connection
        async with asyncio.timeout(timeout):
            await self._wait_until(lambda: connection not in script._open)  # noqa: SLF001  the classes belong together
        if connection not in script.closed_at:
            raise RuntimeError(f"the upstream itself closed the connection of request {request}")
        return script.closed_at[connection]

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()


class _Connection(asyncio.StreamReaderProtocol):
    """An accepted connection: reads requests, plays their scenarios, and records which side closes it and when."""

    def __init__(self, server: _Server) -> None:
        super().__init__(asyncio.StreamReader(limit=_HEAD_LIMIT), self._opened)
        self._server = server
        self._script = server.script
        self._index = -1
        self._ended = False
        self._playing = False
        self._lost = asyncio.Event()
        self._writer: asyncio.StreamWriter
        self._conversation: asyncio.Task[None]

    def _opened(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._index = self._script.connections
        self._script.connections += 1
        self._script._open.add(self._index)  # noqa: SLF001  the classes belong together
        self._server.connections.add(self)
        self._server.notify_waiters()
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` means sent
        self._writer = writer
        self._conversation = asyncio.get_running_loop().create_task(self._run(reader))

    @override
    def eof_received(self) -> bool:
        self._end(by_peer=True)
        super().eof_received()
        return True  # keep writing possible, if only to receive the reset

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._end(by_peer=True)
        super().connection_lost(exc)
        self._server.connections.discard(self)
        self._lost.set()

    async def drop(self) -> None:
        """Abort the connection; return when its task has ended and its socket is closed."""
        self._end(by_peer=False)
        self._conversation.cancel()
        await asyncio.wait([self._conversation])
        self._writer.transport.abort()
        await self._lost.wait()

    def _end(self, *, by_peer: bool) -> None:
        if self._ended:
            return
        self._ended = True
        if by_peer:
            self._script.closed_at[self._index] = time.monotonic()
        self._script._open.discard(self._index)  # noqa: SLF001  the classes belong together
        self._server.notify_waiters()
        if by_peer and self._playing:
            self._conversation.cancel()

    async def _run(self, reader: asyncio.StreamReader) -> None:
        try:
            await self._converse(reader)
        except ConnectionError:
            pass  # recorded by connection_lost
        except Exception as error:  # noqa: BLE001  raised again at the end of the context
            self._script.errors.append(error)
        finally:
            self._end(by_peer=False)
            self._writer.close()

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        while not self._ended and (received := await self._read(reader)) is not None:
            self._script.requests.append(received)
            self._server.notify_waiters()
            scenario = self._scenario_for(received)
            self._playing = True
            for step in scenario.steps:
                if self._ended:
                    break
                await self._play(step, scenario)
            self._playing = False
            if (received.header("connection") or "").lower() == "close":
                return

    def _scenario_for(self, received: Received) -> Scenario:
        try:
            return self._script._scenario_for(received)  # noqa: SLF001  the classes belong together
        except Exception as error:  # noqa: BLE001  raised again at the end of the context
            self._script.errors.append(error)
            shown = {"error": {"message": f"{type(error).__name__}: {error}", "type": "script_error"}}
            return error_answer(500, shown).then(Close())

    async def _play(self, step: Step, scenario: Scenario) -> None:
        match step:
            case Send(data):
                await self._send(data)
            case Drip(data, size, delay):
                for start in range(0, len(data), size):
                    await self._send(data[start : start + size])
                    await asyncio.sleep(delay)
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Hold(gate):
                await (gate or scenario.gate).wait()
            case HalfClose():
                self._writer.write_eof()
            case Close():
                self._end(by_peer=False)
            case Reset():
                self._reset()
            case _:
                assert_never(step)

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def _reset(self) -> None:
        self._end(by_peer=False)
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Received | None:
        """Read the next request; return None if the peer disconnects before its end."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, headers = _decode_head(head)
            named = {name.lower(): value for name, value in headers}
            if named.get("expect", "").lower() == "100-continue":
                await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            path, _, query = target.partition("?")
            return Received(
                method=method,
                path=path,
                query=query,
                headers=headers,
                body=await _read_body(reader, named),
                at=time.monotonic(),
                connection=self._index,
            )
        return None


def _decode_head(head: str) -> tuple[str, str, list[tuple[str, str]]]:
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1":
        raise ValueError(f"not a request: {first!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError(f"not a header: {line!r}")
        headers.append((name, value.strip(" \t")))
    return words[0], words[1], headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return bytes(body)
