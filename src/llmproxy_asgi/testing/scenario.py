"""The responses of a scripted upstream: lists of steps that control every byte and its time.

This module writes HTTP/1.1 responses and knows no vendor's protocol. `upstream` performs the steps; nothing here opens
a connection.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import responses
from typing import Any

import msgspec

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it was received."""

    method: str
    path: str
    """As sent, still percent-encoded, without the query."""
    query: str
    headers: list[tuple[str, str]]
    """Names as sent, in order, with repetitions."""
    body: bytes
    """The body without its transfer coding."""
    at: float
    """Monotonic seconds at which its last byte had arrived."""
    connection: int
    """The number of its connection, from 0."""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, ignoring case; None if it is missing."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def json(self) -> Any:
        """Decode the body as JSON.

        Raises:
            msgspec.DecodeError: It is not JSON.
        """
        return msgspec.json.decode(self.body)


class Gate:
    """An event that any thread may set, and that tasks of any event loop may wait for; it cannot be cleared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def is_set(self) -> bool:
        """Return whether the gate is open."""
        return self._open

    def set(self) -> None:
        """Open the gate for good."""
        with self._lock:
            self._open = True
            for passed, loop in self._waiting.items():
                loop.call_soon_threadsafe(passed.set)

    async def wait(self) -> None:
        """Wait until the gate is open."""
        passed = asyncio.Event()
        with self._lock:
            if self._open:
                return
            self._waiting[passed] = asyncio.get_running_loop()
        try:
            await passed.wait()
        finally:
            with self._lock:
                del self._waiting[passed]


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes, and continue when they have left the write buffer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Drip:
    """Write `data` in pieces of `size` bytes, with `delay` seconds after each."""

    data: bytes
    size: int = 1
    delay: float = 0.01


@dataclass(frozen=True, slots=True)
class Wait:
    """Pause for a number of seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Pause until a gate opens: this one, or the scenario's own."""

    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Close the sending side of the connection only."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection in an orderly way."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Abort the connection, so that the peer receives a reset."""


Step = Send | Drip | Wait | Hold | HalfClose | Close | Reset


class Scenario:
    """The steps of one response.

    After the last step the connection waits for its next request. So a response without its end is a stall: the peer
    waits until its timeout.
    """

    def __init__(self, *steps: Step, gate: Gate | None = None) -> None:
        self.steps = steps
        self.gate = Gate() if gate is None else gate
        """Opens every `Hold` without its own gate, in each response that uses this scenario."""

    def then(self, *steps: Step) -> "Scenario":
        """Return a scenario with more steps at the end, and the same gate."""
        return Scenario(*self.steps, *steps, gate=self.gate)


Answer = Scenario | Callable[[Received], Scenario]
"""A scenario, or a function that returns one for a request; it may check the request and raise."""


def raw_answer(data: bytes, *, close: bool = True) -> Scenario:
    """Return a response of raw bytes, including its head; `close` closes the connection after it."""
    return Scenario(Send(data), Close()) if close else Scenario(Send(data))


def json_answer(status: int, body: object, headers: Headers = ()) -> Scenario:
    """Return a response whose body is `body` encoded as JSON, or the given bytes. The connection stays open."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    framing = [("content-type", "application/json"), ("content-length", str(len(data)))]
    return Scenario(Send(_head(status, framing, headers) + data))


def error_answer(status: int, body: object = None, headers: Headers = ()) -> Scenario:
    """Return an error response; without `body`, in the form that most vendors share.

    Raises:
        ValueError: `status` is not an error status.
    """
    if status < 400:
        raise ValueError(f"{status} is not an error status")
    shown = {"error": {"message": "refused by the script", "type": "scripted"}} if body is None else body
    return json_answer(status, shown, headers)


def sse_answer(
    frames: Iterable[bytes | Step],
    *,
    chunked: bool = True,
    end: bool = True,
    status: int = 200,
    headers: Headers = (),
) -> Scenario:
    """Return a stream: each frame is one HTTP chunk and one write; steps may be placed between frames.

    Without `chunked` the body ends with the connection. Without `end` it does not end at all: close, reset or stall
    with a last step. A `Drip` is sent as a chunk like a frame, a `Send` unchanged.
    """
    framing = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]
    framing.append(("transfer-encoding", "chunked") if chunked else ("connection", "close"))
    steps: list[Step] = [Send(_head(status, framing, headers))]
    steps += [_framed(frame, chunked=chunked) for frame in frames]
    if end:
        steps.append(Send(b"0\r\n\r\n") if chunked else Close())
    return Scenario(*steps)


def _framed(frame: bytes | Step, *, chunked: bool) -> Step:
    match frame:
        case bytes():
            return Send(_chunk(frame) if chunked else frame)
        case Drip(data, size, delay):
            return Drip(_chunk(data) if chunked else data, size, delay)
        case _:
            return frame


def _chunk(data: bytes) -> bytes:
    # An empty chunk would end the body.
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _head(status: int, framing: list[tuple[str, str]], headers: Headers) -> bytes:
    """Return the status line and the headers; given ones replace the defaults."""
    given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    replaced = {name.lower() for name, _ in given}
    fields = [field for field in framing if field[0] not in replaced] + given
    lines = [f"HTTP/1.1 {status} {responses.get(status, '')}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
