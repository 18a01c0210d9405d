"""Rows 20 and 25 to 29: answers without bounds, of the wrong length, compressed, or of the wrong kind."""

import functools
import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import pytest

from llmproxy_asgi.testing import (
    Close,
    Gate,
    HalfClose,
    Hold,
    Scenario,
    Send,
    Step,
    ThreadedUpstream,
    Upstream,
    json_answer,
    raw_answer,
)
from support.faults import (
    EVERY,
    FINE,
    FORMS,
    Answered,
    GatewayHarness,
    at_once,
    block,
    ends_badly,
    fine,
    gateway,
    is_fine,
    is_refusal,
)
from support.faults.process import MEASURES, ProcessHarness, process
from support.pairs import CHAT, GEMINI, MESSAGES, sse
from support.pairs.failing import begun

MIB = 1024 * 1024
SPOKEN = pytest.mark.parametrize("spoken", EVERY)
MEASURED = pytest.mark.skipif(not MEASURES, reason="this system does not tell what a process costs")


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def all_callers(harness: GatewayHarness, *, stream: bool) -> list[tuple[str, Answered]]:
    """What each protocol's caller reads, all at once."""
    return at_once(lambda client: (client, harness.ask(client, stream=stream)), EVERY)


# ── 20, 27, 28: a process of its own, so that what it costs can be read ──────────────────────────────────────────────


@pytest.fixture(scope="module")
def endless() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


@pytest.fixture(scope="module")
def measured(endless: ThreadedUpstream) -> Iterator[ProcessHarness]:
    """Every bound at its default; models `chat`, `responses`, `messages` and `gemini` by what their upstream speaks."""
    blocks = [block(endless, spoken, models=[spoken]) for spoken in EVERY]
    with process(*blocks) as harness:
        assert harness.ask(CHAT, model="nobody").status == 404
        yield harness


def line_of(size: int) -> list[bytes | Step]:
    """An event of so many bytes that has no end."""
    piece = b"x" * (64 * 1024)
    return [b'data: {"x":"', *[piece] * (size // len(piece)), Hold()]


@pytest.mark.fault(20)
@MEASURED
@SPOKEN
def test_an_event_of_100_mib_is_given_up(measured: ProcessHarness, endless: ThreadedUpstream, spoken: str) -> None:
    """At 16 MiB: an error event, in bounded memory, in time that grows with the bytes, and the connection is closed."""
    number = len(endless.requests)
    for client in (CHAT, MESSAGES):
        endless.default = sse([*begun(spoken), *line_of(100 * MIB)], end=False)
        size, cpu = measured.forget_peak(), measured.cpu()
        answer = measured.ask(client, stream=True, model=spoken)
        assert is_refusal(client, answer, 502) or ends_badly(client, answer)
        # Copied anew for each of 256 pieces it would be 2 GiB, and for each read many times that.
        assert measured.peak() - size < 64 * MIB
        assert measured.cpu() - cpu < 3
        endless.wait_closed(number)
        number += 1


@pytest.mark.fault(27)
@MEASURED
@SPOKEN
def test_an_endless_answer_is_given_up(measured: ProcessHarness, endless: ThreadedUpstream, spoken: str) -> None:
    """A whole answer is read to 64 MiB, then it is a 502, and the connection is closed."""
    number = len(endless.requests)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    endless.default = Scenario(Send(head + b'{"x":"'), *[Send(b"x" * MIB)] * 200, Close())
    size = measured.forget_peak()
    assert is_refusal(CHAT, measured.ask(CHAT, model=spoken), 502)
    assert measured.peak() - size < 96 * MIB
    endless.wait_closed(number)


@pytest.mark.fault(27)
def test_a_configured_bound_is_the_bound(upstream: ThreadedUpstream) -> None:
    """`limits.answer`, for every caller; what is just within it is served."""
    body = FINE.whole(CHAT)
    upstream.default = json_answer(200, body | {"padding": "x" * 5000})
    for limit, served in ((16384, True), (4096, False)):
        with gateway(block(upstream), limits={"answer": limit}) as harness:
            for client, answer in all_callers(harness, stream=False):
                assert is_fine(answer) if served else is_refusal(client, answer, 502)


@pytest.mark.fault(27)
@SPOKEN
def test_an_endless_stream_is_given_up(upstream: ThreadedUpstream, spoken: str) -> None:
    """`limits.stream`, however small its events are: the protocol's error event, and the connection is closed."""
    *head, piece = begun(spoken)
    with gateway(block(upstream, spoken), limits={"stream": "256KiB"}) as harness:
        for client in EVERY:
            number = len(upstream.requests)
            upstream.default = sse([*head, *[piece] * 5000, Hold()], end=False)
            assert ends_badly(client, harness.ask(client, stream=True))
            upstream.wait_closed(number)


@functools.cache
def bomb(coding: str) -> bytes:
    """200 MiB of spaces as 200 KB."""
    squeeze = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    spaces = b" " * MIB
    return b"".join(squeeze.compress(spaces) for _ in range(200)) + squeeze.flush()


def coded(body: bytes, coding: str, *, kind: str = "application/json") -> Scenario:
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return Scenario(Send(head.encode() + body))


@pytest.mark.fault(28)
@MEASURED
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("stream", FORMS, ids=["whole", "stream"])
def test_a_bomb_is_defused(measured: ProcessHarness, endless: ThreadedUpstream, coding: str, *, stream: bool) -> None:
    """200 KB that would be 200 MiB: a 502, and less than 32 MiB of memory and a second of time."""
    assert len(bomb(coding)) < 250_000
    endless.default = coded(bomb(coding), coding, kind="text/event-stream" if stream else "application/json")
    for client in (CHAT, MESSAGES):
        size, cpu = measured.forget_peak(), measured.cpu()
        assert is_refusal(client, measured.ask(client, stream=stream, model=CHAT), 502)
        assert measured.peak() - size < 32 * MIB
        assert measured.cpu() - cpu < 2


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}


@pytest.mark.fault(28)
@SPOKEN
def test_codings(upstream: ThreadedUpstream, spoken: str) -> None:
    """None is asked for; one layer that comes all the same is undone, more layers and others are a 502."""
    whole, stream = json.dumps(FINE.whole(spoken)).encode(), b"".join(FINE.frames(spoken))
    with gateway(block(upstream, spoken)) as harness:
        for coding, encode in CODINGS.items():
            upstream.default = coded(encode(whole), coding)
            assert all(is_fine(answer) for _, answer in all_callers(harness, stream=False)), coding
            upstream.default = coded(encode(stream), coding, kind="text/event-stream")
            assert all(is_fine(answer) for _, answer in all_callers(harness, stream=True)), coding
        for coding, body in (
            ("gzip, gzip", gzip.compress(gzip.compress(whole))),
            ("br", b"\x0b\x02\x80ok\x03"),
            ("zstd", b"\x28\xb5\x2f\xfd\x00"),
            ("gzip", whole),
            ("gzip", gzip.compress(whole)[:-9]),
        ):
            upstream.default = coded(body, coding)
            for client, answer in all_callers(harness, stream=False):
                assert is_refusal(client, answer, 502), coding
    assert {each.header("accept-encoding") for each in upstream.requests} == {"identity"}


# ── 25 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def half(body: bytes) -> bytes:
    return body[: len(body) // 2]


CHUNKED, LENGTH = b"transfer-encoding: chunked\r\n\r\n", b"content-length: %d\r\n\r\n"

WHOLE_ENDINGS: dict[str, Callable[[bytes], Scenario]] = {
    "half-closed, half of it": lambda body: Scenario(Send(JSON_HEAD + b"\r\n" + half(body)), HalfClose(), Hold()),
    "no last chunk": lambda body: raw_answer(JSON_HEAD + CHUNKED + chunked(body)),
    "half a chunk": lambda body: raw_answer(JSON_HEAD + CHUNKED + half(chunked(body))),
    "a length too long": lambda body: raw_answer(JSON_HEAD + LENGTH % (len(body) + 1) + body),
    "a length too short": lambda body: raw_answer(JSON_HEAD + LENGTH % (len(body) - 1) + body),
    "a length that is none": lambda body: raw_answer(JSON_HEAD + b"content-length: many\r\n\r\n" + body),
    "a negative length": lambda body: raw_answer(JSON_HEAD + b"content-length: -5\r\n\r\n" + body),
    "two lengths": lambda body: raw_answer(JSON_HEAD + b"content-length: 5\r\n" + LENGTH % len(body) + body),
    "a chunk of no size": lambda body: raw_answer(JSON_HEAD + CHUNKED + b"zz\r\n" + body),
    "a negative chunk": lambda body: raw_answer(JSON_HEAD + CHUNKED + b"-5\r\n" + body),
    "not HTTP": lambda body: raw_answer(b"HELLO\r\n" + body),
    "nothing": lambda _: Scenario(Close()),
}


@pytest.mark.fault(25)
@SPOKEN
def test_a_whole_answer_of_the_wrong_length_is_a_502(upstream: ThreadedUpstream, spoken: str) -> None:
    """However its end is wrong; the part that came is never taken for all of it."""
    body = json.dumps(FINE.whole(spoken)).encode()
    with gateway(block(upstream, spoken)) as harness:
        for name, made in WHOLE_ENDINGS.items():
            upstream.default = made(body)
            for client, answer in all_callers(harness, stream=False):
                assert is_refusal(client, answer, 502), (name, client, answer.text)


STREAM_ENDINGS: dict[str, tuple[bytes, tuple[Step, ...]]] = {
    "half-closed": (b"\r\n", (HalfClose(), Hold())),
    "no last chunk": (CHUNKED, (Close(),)),
    "a length too long": (LENGTH % 1_000_000, (Close(),)),
    "a bad chunk": (CHUNKED, (Send(b"zz\r\n"), Hold())),
    "half a chunk": (CHUNKED, (Send(b"ff\r\ndata: "), Close())),
}


@pytest.mark.fault(25)
@SPOKEN
def test_a_stream_of_the_wrong_length_is_an_error_event(upstream: ThreadedUpstream, spoken: str) -> None:
    """As one without its end sign: the caller reads what came, and then an error."""
    frames = b"".join(begun(spoken))
    with gateway(block(upstream, spoken)) as harness:
        for name, (head, ending) in STREAM_ENDINGS.items():
            body = chunked(frames) if head == CHUNKED else frames
            for client in (CHAT, MESSAGES):
                upstream.default = scenario = Scenario(Send(SSE_HEAD + head + body), Hold(), *_after(ending))
                with harness.streaming(client) as answer:
                    first = answer.read1()
                    scenario.gate.set()
                    read = Answered(200, {}, first + answer.read())
                assert "Half" in read.text
                assert ends_badly(client, read), name


def _after(ending: tuple[Step, ...]) -> tuple[Step, ...]:
    """The last wait is not the one that the caller ends."""
    return tuple(Hold(Gate()) if isinstance(step, Hold) else step for step in ending)


@pytest.mark.fault(25)
@SPOKEN
def test_a_stream_whose_length_is_too_short_is_an_error(upstream: ThreadedUpstream, spoken: str) -> None:
    """The rest is behind the answer's end and is not read."""
    stream = b"".join(FINE.frames(spoken))
    with gateway(block(upstream, spoken)) as harness:
        for less in (40, len(stream) // 2):
            upstream.default = raw_answer(SSE_HEAD + LENGTH % (len(stream) - less) + stream)
            for client, answer in all_callers(harness, stream=True):
                assert is_refusal(client, answer, 502) or ends_badly(client, answer), (less, client, answer.text)


# ── 26 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

SECOND = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"evil": true}'


@pytest.mark.fault(26)
@SPOKEN
def test_a_second_answer_is_nobodys(upstream: ThreadedUpstream, spoken: str) -> None:
    """What follows an answer unasked is not the next caller's answer; its connection is not used again."""
    body = json.dumps(FINE.whole(spoken)).encode()
    with gateway(block(upstream, spoken)) as harness:
        for number in range(4):
            upstream.default = Scenario(Send(JSON_HEAD + LENGTH % len(body) + body + SECOND))
            client = EVERY[number]
            answer = harness.ask(client)
            assert is_fine(answer)
            assert "evil" not in answer.text
    assert [each.connection for each in upstream.requests] == [0, 1, 2, 3]


@pytest.mark.fault(26)
@pytest.mark.parametrize("spoken", [each for each in EVERY if each != GEMINI])  # whose streams end with their bodies
def test_what_comes_behind_the_end_sign_is_not_read(upstream: ThreadedUpstream, spoken: str) -> None:
    """More words, another stream or nonsense behind the end of a stream: nothing of it counts, nothing is reused."""
    frames = FINE.frames(spoken)
    late = [frame.replace(b"fine", b"evil") for frame in frames]
    with gateway(block(upstream, spoken)) as harness:
        for more in (late, [b"\xff\xfe nonsense\n\n"], [b"data: {\n\n"]):
            for client in EVERY:
                before = len(upstream.requests)
                upstream.default = sse([*frames, *more, Hold()], end=False)
                answer = harness.ask(client, stream=True)
                assert is_fine(answer), (client, answer.text)
                assert "evil" not in answer.text
                upstream.wait_closed(before)
    connections = [each.connection for each in upstream.requests]
    assert connections == sorted(set(connections))


# ── 29 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = b"<html><title>internal-host-7</title></html>"
KINDS: dict[str, tuple[str, bytes]] = {
    "an HTML page": ("text/html", PAGE),
    "an HTML page that says it is JSON": ("application/json", PAGE),
    "an HTML page that says it is a stream": ("text/event-stream", PAGE),
    "plain text": ("text/plain", b"internal-host-7"),
    "nothing": ("text/html", b""),
}


@pytest.mark.fault(29)
@SPOKEN
def test_what_is_no_answer_is_a_502(upstream: ThreadedUpstream, spoken: str) -> None:
    """Whatever it says it is, whole or where a stream should be; an answer in the other form is read as what it is."""
    with gateway(block(upstream, spoken)) as harness:
        for name, (kind, body) in KINDS.items():
            for stream in FORMS:
                upstream.default = json_answer(200, body, headers=[("content-type", kind)])
                for client, answer in all_callers(harness, stream=stream):
                    assert is_refusal(client, answer, 502), (name, stream, client, answer.text)
                    assert "internal-host" not in answer.text
        for stream in FORMS:
            upstream.default = fine(spoken, stream=not stream)
            for client, answer in all_callers(harness, stream=stream):
                assert is_fine(answer), (stream, client, answer.text)
