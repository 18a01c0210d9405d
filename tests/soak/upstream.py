"""The upstreams of a soak: one scripted server of all four protocols, with faults on request and records of all calls.

Run as `python -m soak.upstream BOOKS`. It prints its address, serves until its standard input is closed, and writes one
line for each request: whose it was, how often it had been asked, how it answered and which tokens it told. The last
line says what was still open at the end, and what went wrong.
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import IO

import msgspec

from bench.processes import allow_many_files
from llmproxy_asgi.testing import (
    Close,
    Hold,
    Received,
    Reset,
    Scenario,
    Send,
    Step,
    Upstream,
    Wait,
    error_answer,
    json_answer,
    sse_answer,
)
from soak.plan import DOWN, LATE, NONE, Errand, Wire, errand_in
from soak.records import Closing, Entry
from soak.wires import failure, spoken, whole

SLOW = 1.5
"""Seconds before a slow answer."""
THINKING = 3.0
"""Seconds before a whole answer at most: less than the clocks allow."""
_BUSY_WAITS = ({"retry-after": "1"}, {"retry-after-ms": "400"})


class Books:
    """Answers requests, and writes each down."""

    def __init__(self, upstream: Upstream, file: IO[bytes]) -> None:
        self._upstream = upstream
        self._file = file
        self._asked: Counter[int] = Counter()

    def answer(self, received: Received) -> Scenario:
        """The answer to one request."""
        # The notes of the scripted upstream are for short tests; these books take their place.
        self._upstream.requests.clear()
        self._upstream.closed_at.clear()
        if received.method == "GET":
            return error_answer(404)  # it lists no models
        errand, wire = errand_in(received.body), _wire(received)
        self._asked[errand.number] += 1
        attempt = self._asked[errand.number]
        fault = errand.fault if attempt == 1 or errand.fault == DOWN else NONE
        entry = Entry(
            number=errand.number,
            attempt=attempt,
            wire=wire,
            fault=fault,
            input=errand.input,
            cached=errand.cached,
            output=errand.output,
        )
        self._file.write(msgspec.json.encode(entry) + b"\n")
        return _scenario(received, errand, wire, fault)

    def close(self, upstream: Upstream) -> None:
        """Write the last line."""
        errors = [repr(error) for error in upstream.errors]
        closing = Closing(open_connections=upstream.open_connections, errors=errors)
        self._file.write(msgspec.json.encode(closing) + b"\n")


def _wire(received: Received) -> Wire:
    path = received.path
    if path.endswith("/chat/completions"):
        return "chat"
    if path.endswith("/responses"):
        return "responses"
    return "messages" if path.endswith("/messages") else "gemini"


def _scenario(received: Received, errand: Errand, wire: Wire, fault: str) -> Scenario:
    match fault:
        case "reset":
            return Scenario(Reset())
        case "rate_limited":
            return error_answer(429, headers=_BUSY_WAITS[errand.number % len(_BUSY_WAITS)])
        case "error" | "down":
            return error_answer(500)
        case "silent":
            return Scenario(Hold())
        case _:
            pass
    streamed = ":streamGenerateContent" in received.path or received.json().get("stream")
    if fault == "told":
        return sse_answer([failure(wire)]) if streamed else error_answer(503)
    answer = _streamed(received, errand, wire, fault) if streamed else _whole(errand, wire, fault)
    return Scenario(Wait(SLOW), *answer.steps) if fault == "slow" else answer


def _whole(errand: Errand, wire: Wire, fault: str) -> Scenario:
    """A whole answer takes a while, too."""
    wait = Wait(min(THINKING, errand.pace * errand.at / 1000))
    (sent,) = json_answer(200, whole(errand, wire)).steps
    assert isinstance(sent, Send)
    if fault not in LATE:
        return Scenario(wait, sent)
    half = Send(sent.data[: len(sent.data) * 2 // 3])
    return Scenario(wait, *_broken(half, fault, len(sent.data) - len(half.data)))


def _broken(half: Send, fault: str, missing: int) -> list[Step]:
    match fault:
        case "stall":
            return [half, Hold()]
        case "cut":
            return [half, Close()]
        case "malformed":
            return [half, Send(b"\\" * missing)]
        case _:
            return [half, Wait(0.05), Reset()]


def _streamed(received: Received, errand: Errand, wire: Wire, fault: str) -> Scenario:
    wants_usage = b'"include_usage":true' in received.body.replace(b" ", b"")
    beginning, pieces, end = spoken(errand, wire, wants_usage=wants_usage)
    pause = Wait(errand.pace / 1000)
    paced: list[bytes | Step] = [*beginning]
    for index, piece in enumerate(pieces):
        if fault in LATE and index == errand.at:
            return sse_answer([*paced, *_breaking(piece, fault)], end=False)
        paced += [pause, piece]
    return sse_answer([*paced, *end])


def _breaking(frame: bytes, fault: str) -> list[bytes | Step]:
    """The end of a stream that breaks.

    A frame that is no JSON is the last one: a relay passes on what it does not read, so that only the lack of an end
    shows there that something is wrong.
    """
    match fault:
        case "stall":
            return [Hold()]
        case "cut":
            return [Close()]
        case "malformed":
            start, _, rest = frame.partition(b"data: ")
            return [start + b"data: " + rest[: len(rest) // 2].rstrip() + b"\n\n", Close()]
        case _:
            return [Reset()]


async def _serve(file: IO[bytes]) -> None:
    upstream = Upstream()
    books = Books(upstream, file)
    upstream.default = books.answer
    async with upstream:
        print(upstream.base_url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        books.close(upstream)
        upstream.errors.clear()  # they are in the books


def main() -> None:
    """Serve until the parent process is done."""
    allow_many_files()
    with Path(sys.argv[1]).open("wb") as file:
        asyncio.run(_serve(file))


if __name__ == "__main__":
    main()
