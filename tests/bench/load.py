"""The load: plays one job at a time against one server, checks every answer, measures the server from outside.

Run as `python -m bench.load --core N`; jobs come as JSON lines on standard input, findings go out as JSON lines.
Each answer must have status 200 and each stream all its marks in order and its proper end; what has not is counted
as an error and shown, never left out silently.
"""

import argparse
import asyncio
import gc
import os
import re
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast

import msgspec
import uvloop
from typing_extensions import override

from bench import processes, traffic

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_PATIENCE = 60.0
"""Seconds after which a stuck job is given up."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The process that a job is played against; with `pid` 0 no process's CPU time is read."""

    port: int
    pid: int = 0
    idle: float = 0.0
    """CPU seconds used per second while idle."""
    wire: traffic.Wire = "chat"
    prefix: str = ""
    key: str = ""

    def request(self, model: str) -> bytes:
        """The HTTP request that asks this subject for `model`."""
        return traffic.request(self.wire, model, prefix=self.prefix, key=self.key)


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Plain requests, each connection sending its next one when the last is answered."""

    subject: Subject
    connections: int
    seconds: float
    warm_up: float


class Paced(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Streams side by side whose chunks come in even steps."""

    subject: Subject
    streams: int
    seconds: float
    warm_up: float


class Full(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Streams side by side whose chunks come as fast as they can; each connection plays `turns` of them."""

    subject: Subject
    streams: int
    chunks: int
    turns: int


class Hold(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Streams opened and held after their first chunk, to see what one costs in memory."""

    subject: Subject
    streams: int


Job = Closed | Paced | Full | Hold


class Finding(msgspec.Struct, kw_only=True):
    """What a job saw. Times in seconds."""

    done: int
    """Requests answered, chunks delivered, or streams held."""
    wall: float = 0.0
    cpu: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    bytes_before: int = 0
    bytes_after: int = 0
    errors: int = 0
    first_error: str = ""

    def fault(self, text: str) -> None:
        """Count an error and keep the first one's text."""
        self.errors += 1
        self.first_error = self.first_error or text


class Answer(NamedTuple):
    """One HTTP answer, its body as it was framed."""

    status: int
    framed: bytes
    chunked: bool

    def body(self) -> bytes:
        """The body without the chunk framing."""
        if not self.chunked:
            return self.framed
        pieces = []
        at = 0
        while (line := self.framed.find(b"\r\n", at)) >= 0:
            size = int(self.framed[at:line], 16)
            if size == 0:
                break
            pieces.append(self.framed[line + 2 : line + 2 + size])
            at = line + 4 + size
        return b"".join(pieces)


class Connection(asyncio.Protocol):
    """A client's end of one connection: reports whole answers and, if asked, every arrival."""

    def __init__(self) -> None:
        self.answered: Callable[[Answer], None] = lambda _: None
        self.arrived: Callable[[bytes], None] | None = None
        self.lost: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._body_at = 0
        self._end = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes) -> None:
        """Ask; only when the last answer is complete."""
        self._transport.write(request)

    def close(self) -> None:
        """Leave, in the middle of an answer or not."""
        self.lost = lambda: None
        self._transport.abort()

    @override
    def data_received(self, data: bytes) -> None:
        if self.arrived is not None:
            self.arrived(data)
        buffer = self._buffer
        buffer += data
        if not self._body_at and not self._read_head():
            return
        if self._end:
            if len(buffer) < self._end:
                return
        elif not buffer.endswith(_LAST_CHUNK):
            return
        answer = Answer(int(buffer[9:12]), bytes(buffer[self._body_at :]), chunked=not self._end)
        buffer.clear()
        self._body_at = 0
        self.answered(answer)

    def _read_head(self) -> bool:
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        self._body_at = head_end + 4
        length = _LENGTH.search(self._buffer, 0, head_end)
        self._end = self._body_at + int(length[1]) if length else 0
        return True

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost()

    async def ask(self, request: bytes) -> Answer:
        """Ask and wait for the whole answer.

        Raises:
            ConnectionError: the server left before it was complete.
        """
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def lost() -> None:
            if not waiting.done():
                waiting.set_exception(ConnectionError("the server left"))

        self.answered = waiting.set_result
        self.lost = lost
        self.send(request)
        return await waiting


async def connect(port: int) -> Connection:
    """Open one connection to a server on this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


class Span:
    """Wall and processor time of a subject between two moments."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._cpu = processes.cpu_seconds(subject.pid) if subject.pid else 0.0
        self._wall = time.perf_counter()

    def end(self, finding: Finding) -> None:
        """Record the CPU time that has passed, less what the subject uses while idle."""
        finding.wall = time.perf_counter() - self._wall
        if self._subject.pid:
            used = processes.cpu_seconds(self._subject.pid) - self._cpu
            finding.cpu = used - self._subject.idle * finding.wall


def _spread(finding: Finding, seconds: list[float]) -> None:
    if len(seconds) > 1:
        finding.p50 = statistics.median(seconds)
        finding.p99 = statistics.quantiles(seconds, n=100)[98]


class ClosedLoop:
    """Plays `Closed`. Callbacks rather than tasks, so that the load stays far from being the limit."""

    def __init__(self, job: Closed) -> None:
        self._job = job
        self._request = job.subject.request("plain-1")
        self._finding = Finding(done=0)
        self._taken: list[float] = []
        self._counting = False
        self._stopping = False
        self._open = 0
        self._all_done = asyncio.Event()

    async def play(self) -> Finding:
        """Warm up, measure, and let the last answers in."""
        connections = [await connect(self._job.subject.port) for _ in range(self._job.connections)]
        self._open = len(connections)
        for connection in connections:
            self._keep_asking(connection)
        await asyncio.sleep(self._job.warm_up)
        span = Span(self._job.subject)
        self._counting = True
        await asyncio.sleep(self._job.seconds)
        self._counting = False
        span.end(self._finding)
        self._stopping = True
        await self._all_done.wait()
        for connection in connections:
            connection.close()
        self._finding.done = len(self._taken)
        _spread(self._finding, self._taken)
        return self._finding

    def _keep_asking(self, connection: Connection) -> None:
        sent = 0.0

        def ask() -> None:
            nonlocal sent
            sent = time.perf_counter()
            connection.send(self._request)

        def answered(answer: Answer) -> None:
            now = time.perf_counter()
            if answer.status != 200 or b"~0@" not in answer.framed:
                self._finding.fault(f"status {answer.status}: {answer.framed[:200]!r}")
            elif self._counting:
                self._taken.append(now - sent)
            if self._stopping:
                self._leave()
            else:
                ask()

        def lost() -> None:
            self._finding.fault("the server closed a connection")
            self._leave()

        connection.answered = answered
        connection.lost = lost
        ask()

    def _leave(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._all_done.set()


async def play_paced(job: Paced) -> Finding:
    """Measure in the middle of streams that are longer than the measurement, then check them to their end."""
    chunks = round((job.warm_up + job.seconds + 0.2) / traffic.PACE)
    request = job.subject.request(f"paced-{chunks}")
    expected = [b"%d" % index for index in range(chunks)]
    finding = Finding(done=0)
    lags: list[float] = []
    counting = False

    def arrived(data: bytes) -> None:
        if counting:
            now = time.monotonic_ns()
            lags.extend((now - int(sent)) / 1e9 for _, sent in traffic.MARK.findall(data))

    async def stream(number: int) -> None:
        # The streams start spread over one step: real ones do not breathe together.
        await asyncio.sleep(number / job.streams * traffic.PACE)
        connection = await connect(job.subject.port)
        connection.arrived = arrived
        await _checked_stream(connection, request, job.subject.wire, expected, finding)
        connection.close()

    async with asyncio.TaskGroup() as group:
        for number in range(job.streams):
            group.create_task(stream(number))
        await asyncio.sleep(job.warm_up)
        span = Span(job.subject)
        counting = True
        await asyncio.sleep(job.seconds)
        counting = False
        span.end(finding)
    finding.done = len(lags)
    _spread(finding, lags)
    return finding


async def _checked_stream(
    connection: Connection, request: bytes, wire: traffic.Wire, expected: list[bytes], finding: Finding
) -> None:
    try:
        answer = await connection.ask(request)
        body = answer.body()
    except (ConnectionError, ValueError) as error:
        finding.fault(repr(error))
        return
    if answer.status != 200:
        finding.fault(f"status {answer.status}: {body[:200]!r}")
    elif fault := traffic.fault_in_stream(body, wire, expected):
        finding.fault(fault)
    else:
        finding.done += len(expected)


async def play_full(job: Full) -> Finding:
    """A fixed amount of work, so that no stream is counted by halves."""
    request = job.subject.request(f"full-{job.chunks}")
    expected = [b"%d" % index for index in range(job.chunks)]
    finding = Finding(done=0)
    connections = [await connect(job.subject.port) for _ in range(job.streams)]

    async def turns(connection: Connection, count: int) -> None:
        for _ in range(count):
            await _checked_stream(connection, request, job.subject.wire, expected, finding)

    await asyncio.gather(*(turns(connection, 1) for connection in connections))
    finding.done = 0
    span = Span(job.subject)
    await asyncio.gather(*(turns(connection, job.turns) for connection in connections))
    span.end(finding)
    for connection in connections:
        connection.close()
    return finding


async def play_hold(job: Hold) -> Finding:
    """Open all streams, look at the memory while all of them are quiet, and leave."""
    finding = Finding(done=0)
    warm = await connect(job.subject.port)
    await _checked_stream(
        warm, job.subject.request("full-32"), job.subject.wire, [b"%d" % index for index in range(32)], finding
    )
    warm.close()
    await asyncio.sleep(0.3)
    finding.bytes_before = processes.resident_bytes(job.subject.pid)
    request = job.subject.request("hold-1")
    held: list[Connection] = []
    for first in range(0, job.streams, 50):
        some = await asyncio.gather(
            *(_held_stream(job.subject.port, request) for _ in range(min(50, job.streams - first)))
        )
        held += [connection for connection in some if connection is not None]
        if None in some:
            finding.fault("a stream brought no first chunk within 5 s")
            break
    await asyncio.sleep(0.5)
    finding.done = len(held)
    finding.bytes_after = processes.resident_bytes(job.subject.pid)
    for connection in held:
        connection.close()
    return finding


async def _held_stream(port: int, request: bytes) -> Connection | None:
    connection = await connect(port)
    first = asyncio.Event()
    seen = bytearray()

    def arrived(data: bytes) -> None:
        seen.extend(data)
        if b"~0@" in seen:
            first.set()

    connection.arrived = arrived
    connection.send(request)
    try:
        async with asyncio.timeout(5):
            await first.wait()
    except TimeoutError:
        connection.close()
        return None
    connection.arrived = None
    return connection


def play(job: Job) -> Awaitable[Finding]:
    """The coroutine that plays a job."""
    match job:
        case Closed():
            return ClosedLoop(job).play()
        case Paced():
            return play_paced(job)
        case Full():
            return play_full(job)
        case Hold():
            return play_hold(job)


async def _patiently(job: Job) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await play(job)
    except (TimeoutError, OSError, ExceptionGroup) as error:
        return Finding(done=0, errors=1, first_error=f"given up: {error!r}")


def main() -> None:
    """Play jobs until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, required=True)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    processes.allow_many_files()
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            finding = runner.run(_patiently(msgspec.json.decode(line, type=Job)))
            sys.stdout.buffer.write(msgspec.json.encode(finding) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
