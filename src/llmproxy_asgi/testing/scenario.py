"""What a scripted upstream is told: answers as lists of steps, down to the byte and the moment.

Knows HTTP/1.1 well enough to write an answer, and no protocol of any vendor. The steps are carried out by
`upstream`; nothing here opens a connection.
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
    """One request as it arrived."""

    method: str
    path: str
    """As sent: percent signs and all, without the query."""
    query: str
    headers: list[tuple[str, str]]
    """Names as sent, in their order, repetitions kept."""
    body: bytes
    """Without its transfer coding."""
    at: float
    """Monotonic seconds: when its last byte had arrived."""
    connection: int
    """Which connection brought it, counted from 0."""

    def header(self, name: str) -> str | None:
        """The first value under `name`, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            msgspec.DecodeError: it is no JSON.
        """
        return msgspec.json.decode(self.body)


class Gate:
    """Shut until `set`, then open for good. Any thread may open it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._open

    def set(self) -> None:
        """Open it, now and for all who come later."""
        with self._lock:
            self._open = True
            for passed, loop in self._waiting.items():
                loop.call_soon_threadsafe(passed.set)

    async def wait(self) -> None:
        """Return once it is open."""
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
    """Write these bytes, and go on when the peer's side has taken them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Drip:
    """Write `data` in pieces of `size` bytes, with `delay` seconds after each."""

    data: bytes
    size: int = 1
    delay: float = 0.01


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Do nothing until a gate opens: this one, or the scenario's own."""

    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Say that no more bytes will come, and still listen."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in good order."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Tear the connection down, so that the peer meets a reset."""


Step = Send | Drip | Wait | Hold | HalfClose | Close | Reset


class Scenario:
    """The steps of one answer.

    After the last step the connection waits for its next request. So an answer that lacks its end is a
    stall: the peer waits until it loses patience.
    """

    def __init__(self, *steps: Step, gate: Gate | None = None) -> None:
        self.steps = steps
        self.gate = Gate() if gate is None else gate
        """Opens every `Hold` that names no gate of its own, in each answer that plays this scenario."""

    def then(self, *steps: Step) -> "Scenario":
        """The same with more steps at its end, behind the same gate."""
        return Scenario(*self.steps, *steps, gate=self.gate)


Answer = Scenario | Callable[[Received], Scenario]
"""A scenario, or what makes one from the request; it may check the request and raise."""


def raw_answer(data: bytes, *, close: bool = True) -> Scenario:
    """An answer written by hand, head and all; `close` ends the connection behind it."""
    return Scenario(Send(data), Close()) if close else Scenario(Send(data))


def json_answer(status: int, body: object, headers: Headers = ()) -> Scenario:
    """An answer whose body is `body` as JSON, or these very bytes. The connection stays open."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    framing = [("content-type", "application/json"), ("content-length", str(len(data)))]
    return Scenario(Send(_head(status, framing, headers) + data))


def error_answer(status: int, body: object = None, headers: Headers = ()) -> Scenario:
    """A refusal; without `body`, one in the shape that most vendors share.

    Raises:
        ValueError: `status` does not say error.
    """
    if status < 400:
        raise ValueError(f"{status} is no status of an error")
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
    """A stream: each frame is one HTTP chunk and one write; steps may stand between frames.

    Without `chunked` the body ends with the connection. Without `end` it does not end at all: close, reset
    or stall by a last step. A `Drip` is framed like a frame, a `Send` goes out as it is.
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
    """Status line and headers; those of the caller replace the ones we would write."""
    given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    replaced = {name.lower() for name, _ in given}
    fields = [field for field in framing if field[0] not in replaced] + given
    lines = [f"HTTP/1.1 {status} {responses.get(status, '')}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
