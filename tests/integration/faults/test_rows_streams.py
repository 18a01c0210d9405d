"""Rows 15 to 19 and 21 to 24: upstreams that are late, stop, drip, speak oddly, break off or say that they failed."""

import json
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import pytest

from llmproxy_asgi.facts import CredentialCooled
from llmproxy_asgi.testing import (
    Close,
    Drip,
    Hold,
    Reset,
    Scenario,
    Send,
    Step,
    ThreadedUpstream,
    Upstream,
    Wait,
    json_answer,
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
    words,
)
from support.pairs import CHAT, MESSAGES, Reply, sse
from support.pairs.failing import begun, error_event

SPOKEN = pytest.mark.parametrize("spoken", EVERY)


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


@pytest.fixture
def second() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=lambda received: fine(stream=bool(received.json().get("stream")))) as made:
        yield made


def all_callers(harness: GatewayHarness, *, stream: bool) -> list[tuple[str, Answered]]:
    """What each protocol's caller reads, all at once."""
    return at_once(lambda client: (client, harness.ask(client, stream=stream)), EVERY)


def accounted_as_cut(harness: GatewayHarness, count: int) -> bool:
    """Whether each call is reported once, as interrupted, with a count marked as an estimate."""
    ended = harness.finished(count)
    return len(ended) == count and {(each.outcome, each.exactness) for each in ended} == {("interrupted", "estimated")}


# ── 15, 16, 17 ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(15)
@SPOKEN
def test_a_late_first_byte_is_waited_for(upstream: ThreadedUpstream, second: ThreadedUpstream, spoken: str) -> None:
    """No other target is tried meanwhile, and the duration is reported."""
    with gateway(block(upstream, spoken, timeout={"idle": "10s", "first_byte": "10s"}), block(second)) as harness:
        for stream in FORMS:
            upstream.default = Scenario(Wait(0.15), *fine(spoken, stream=stream).steps)
            assert all(is_fine(answer) for _, answer in all_callers(harness, stream=stream))
        told = harness.finished(8)
    assert (len(upstream.requests), len(second.requests)) == (8, 0)
    assert all(each.first_seconds is not None and each.first_seconds >= 0.14 for each in told)


@pytest.mark.fault(16)
@SPOKEN
def test_a_stall_ends_by_the_idle_clock(upstream: ThreadedUpstream, spoken: str) -> None:
    """Each caller reads its protocol's own error event, the connections are closed, and the calls are accounted."""
    upstream.default = sse([*begun(spoken), Hold()], end=False)
    with gateway(block(upstream, spoken, timeout={"idle": "150ms"})) as harness:
        for client, answer in all_callers(harness, stream=True):
            assert ends_badly(client, answer)
            assert "Half" in answer.text
            assert "stopped in the middle" in answer.text
        for number in range(4):
            upstream.wait_closed(number)
        assert accounted_as_cut(harness, 4)


@pytest.mark.fault(16)
def test_a_stall_in_a_whole_answer_is_a_504(upstream: ThreadedUpstream) -> None:
    """Nothing of it was shown, so it has a status of its own."""
    upstream.default = Scenario(
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"), Hold()
    )
    with gateway(block(upstream, timeout={"idle": "100ms"})) as harness:
        assert all(is_refusal(client, answer, 504) for client, answer in all_callers(harness, stream=False))


DRIPS: dict[str, Callable[[str], list[bytes | Step]]] = {
    "comments": lambda spoken: [*begun(spoken), Drip(b": \n\n" * 5000, delay=0.02)],
    "an event": lambda spoken: [*begun(spoken), Drip(b"data: " + b"x" * 5000, delay=0.02)],
}


@pytest.mark.fault(17)
@SPOKEN
@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
def test_a_drip_ends_by_the_total_clock(
    upstream: ThreadedUpstream, spoken: str, drip: Callable[[str], list[bytes | Step]]
) -> None:
    """However lively the connection is, byte by byte, the call is over when it may take no longer."""
    upstream.default = sse(drip(spoken), end=False, chunked=False)
    with gateway(block(upstream, spoken, timeout={"total": "300ms", "idle": "200ms"})) as harness:
        for client, answer in all_callers(harness, stream=True):
            assert ends_badly(client, answer)
            assert "longer than its time limit" in answer.text
        assert accounted_as_cut(harness, 4)
    upstream.wait_closed(0)


@pytest.mark.fault(17)
def test_a_drip_that_never_says_anything_is_a_504(upstream: ThreadedUpstream) -> None:
    """Comments before the first event, or a whole answer byte by byte: a real status, for nothing was shown."""
    clocks = {"total": "300ms", "idle": "200ms"}
    with gateway(block(upstream, timeout=clocks)) as harness:
        upstream.default = sse([Drip(b":\n\n" * 5000, delay=0.02)], end=False, chunked=False)
        assert all(is_refusal(client, answer, 504) for client, answer in all_callers(harness, stream=True))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
        upstream.default = Scenario(Send(head), Drip(b" " * 5000, delay=0.02))
        assert all(is_refusal(client, answer, 504) for client, answer in all_callers(harness, stream=False))


# ── 18, 19 ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ODD: dict[str, Callable[[bytes], bytes]] = {
    "CRLF": lambda stream: stream.replace(b"\n", b"\r\n"),
    "CR": lambda stream: stream.replace(b"\n", b"\r"),
    "byte order mark": lambda stream: b"\xef\xbb\xbf" + stream,
    "comments": lambda stream: b": hello\n\n" + stream.replace(b"\n\n", b"\n:\n\n: ping\n\n"),
    "no space": lambda stream: stream.replace(b"data: ", b"data:"),
    "ids and retries": lambda stream: stream.replace(
        b"data: ", b"id: a\x00b\nretry: 99999999999999999999\nunheard: of\ndata: "
    ),
    "blank lines": lambda stream: b"\n\n" + stream.replace(b"\n\n", b"\n\n\n\n\n"),
    "several lines": lambda stream: stream.replace(b',"', b',\ndata: "'),
    "no last blank line": lambda stream: stream.rstrip(b"\n"),
}


@pytest.mark.fault(18)
@SPOKEN
def test_odd_streams_are_read_by_the_standard(upstream: ThreadedUpstream, spoken: str) -> None:
    """Each oddity, in one piece and in pieces of seven bytes: every caller reads the same words and a clean end."""
    plain = b"".join(FINE.frames(spoken)).replace(b"\r\n", b"\n")
    with gateway(block(upstream, spoken)) as harness:
        for name, odd in ODD.items():
            stream = odd(plain)
            for pieces in ([stream], [Drip(stream, size=7, delay=0)]):
                upstream.default = sse(pieces, chunked=False)
                for client, answer in all_callers(harness, stream=True):
                    assert is_fine(answer), (name, client, answer.text)
        assert {each.outcome for each in harness.finished(8 * len(ODD))} == {"ok"}


MANY_BYTES = Reply(texts=("Grüße ", "世界 ", "🎉\u2028!"))


@pytest.mark.fault(19)
@SPOKEN
def test_characters_are_put_together_again(upstream: ThreadedUpstream, spoken: str) -> None:
    """Every byte of two, three and four byte characters comes in a piece of its own."""
    upstream.default = sse([Drip(b"".join(MANY_BYTES.frames(spoken)), delay=0)], chunked=False)
    with gateway(block(upstream, spoken)) as harness:
        for client, answer in all_callers(harness, stream=True):
            assert words(answer) == "".join(MANY_BYTES.texts), client
            assert "\ufffd" not in answer.text


WRONG = (b"\xff", b"\xc3", b"\xe4\xb8", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80")


@pytest.mark.fault(19)
@SPOKEN
def test_invalid_utf8_breaks_nothing(upstream: ThreadedUpstream, spoken: str) -> None:
    """Passed on as it came, or a proper error: never a clean end without what could not be read."""
    with gateway(block(upstream, spoken)) as harness:
        for wrong in WRONG:
            upstream.default = sse([frame.replace(b"is ", b"i" + wrong + b"s ") for frame in FINE.frames(spoken)])
            for client, answer in all_callers(harness, stream=True):
                check_readable(client, answer, wrong, relayed=client == spoken)
            upstream.default = json_answer(
                200, json.dumps(FINE.whole(spoken)).encode().replace(b"is ", b"i" + wrong + b"s ")
            )
            for client, answer in all_callers(harness, stream=False):
                check_readable(client, answer, wrong, relayed=client == spoken)


def check_readable(client: str, answer: Answered, wrong: bytes, *, relayed: bool) -> None:
    if wrong in answer.body:
        assert relayed
        assert answer.status == 200
        assert answer.whole
    else:
        assert is_refusal(client, answer, 502) or ends_badly(client, answer)


# ── 21, 22 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def middle(frames: list[bytes]) -> int:
    """The frame in the middle of the text."""
    return next(number for number, frame in enumerate(frames) if b'"is "' in frame)


def check_cut_events(upstream: ThreadedUpstream, spoken: str, *, step: int) -> None:
    """One event's JSON is cut off and the stream continues: each caller gets an error event."""
    frames = FINE.frames(spoken)
    number = middle(frames)
    head, _, data = frames[number].partition(b"data: ")
    text = data.rstrip()
    with gateway(block(upstream, spoken)) as harness:
        for offset in [*range(1, len(text), step), len(text) - 1]:
            cut = head + b"data: " + text[:offset] + b"\n\n"
            upstream.default = sse([*frames[:number], cut, *frames[number + 1 :]])
            for client, answer in all_callers(harness, stream=True):
                if client == spoken and shows_cut_json(answer):
                    continue  # handed on as it came: the caller reads what is wrong
                # What comes in one read with the beginning breaks before anything was shown.
                assert is_refusal(client, answer, 502) or ends_badly(client, answer), offset
                assert "fine" not in answer.text


def shows_cut_json(answer: Answered) -> bool:
    """Whether one of its events holds what no reader can take for JSON."""
    for line in answer.body.splitlines():
        data = line.removeprefix(b"data: ")
        if data not in {line, b"[DONE]"}:
            try:
                json.loads(data)
            except ValueError:
                return True
    return False


def check_cut_bodies(upstream: ThreadedUpstream, spoken: str, *, step: int) -> None:
    """A whole answer whose JSON is cut off is a 502."""
    body = json.dumps(FINE.whole(spoken)).encode()
    with gateway(block(upstream, spoken)) as harness:
        for offset in [*range(0, len(body), step), len(body) - 1]:
            upstream.default = json_answer(200, body[:offset])
            for client, answer in all_callers(harness, stream=False):
                assert is_refusal(client, answer, 502), (offset, answer.text)


@pytest.mark.fault(21)
@SPOKEN
def test_cut_json_is_never_skipped(upstream: ThreadedUpstream, spoken: str) -> None:
    """Neither an event nor a body, wherever it is cut (here: at every thirteenth byte)."""
    check_cut_events(upstream, spoken, step=13)
    check_cut_bodies(upstream, spoken, step=53)


@pytest.mark.verify
@pytest.mark.fault(21)
@SPOKEN
def test_cut_json_is_never_skipped_at_any_offset(upstream: ThreadedUpstream, spoken: str) -> None:
    """The same at every byte."""
    check_cut_events(upstream, spoken, step=1)
    check_cut_bodies(upstream, spoken, step=1)


@pytest.mark.fault(21)
@SPOKEN
def test_cut_json_in_the_first_event_is_tried_elsewhere(
    upstream: ThreadedUpstream, second: ThreadedUpstream, spoken: str
) -> None:
    """Nothing was shown yet, so the next target serves, streamed or whole."""
    first, *rest = FINE.frames(spoken)
    with gateway(block(upstream, spoken), block(second)) as harness:
        for offset in (len(first) // 2, len(first) - 5):
            upstream.default = sse([first[:offset] + b"\n\n", *rest])
            assert all(is_fine(answer) for _, answer in all_callers(harness, stream=True))
        upstream.default = json_answer(200, json.dumps(FINE.whole(spoken)).encode()[:-1])
        assert all(is_fine(answer) for _, answer in all_callers(harness, stream=False))


ODDITIES: tuple[Any, ...] = (None, [], {}, "odd", 7, True, [None], -1.5, {"odd": [1]})


def bent(value: Any) -> Iterator[Any]:
    """The value with each of its nodes in turn replaced by something else, or left out."""
    turn = iter(range(1_000_000))

    def replaced(node: Any) -> Iterator[Any]:
        yield ODDITIES[next(turn) % len(ODDITIES)]
        yield None
        if isinstance(node, dict):
            for key, inner in node.items():
                yield {other: item for other, item in node.items() if other != key}
                for each in replaced(inner):
                    yield {**node, key: each}
        elif isinstance(node, list):
            for at, inner in enumerate(node):
                for each in replaced(inner):
                    yield [*node[:at], each, *node[at + 1 :]]

    return replaced(value)


def judged(client: str, answer: Answered) -> bool:
    """Whether it is an answer, or an upstream's fault reported properly; never a fault of the gateway."""
    if answer.status != 200:
        return is_refusal(client, answer, 502)
    return answer.whole and "failed unexpectedly" not in answer.text


def check_bodies(upstream: ThreadedUpstream, spoken: str, *, step: int) -> None:
    with gateway(block(upstream, spoken)) as harness:
        for number, body in enumerate(islice(bent(FINE.whole(spoken)), 0, None, step)):
            upstream.default = json_answer(200, body)
            client = EVERY[number % 4]
            answer = harness.ask(client)
            assert judged(client, answer), (client, body, answer.text)


def check_events(upstream: ThreadedUpstream, spoken: str, *, step: int) -> None:
    frames = FINE.frames(spoken)
    turn = cycle(EVERY)
    with gateway(block(upstream, spoken)) as harness:
        for at in (0, middle(frames), len(frames) - (2 if spoken == CHAT else 1)):
            head, _, data = frames[at].partition(b"data: ")
            for body in islice(bent(json.loads(data)), 0, None, step):
                bad = head + b"data: " + json.dumps(body).encode() + b"\n\n"
                upstream.default = sse([*frames[:at], bad, *frames[at + 1 :]])
                client = next(turn)
                answer = harness.ask(client, stream=True)
                assert judged(client, answer), (client, body, answer.text)


@pytest.mark.fault(22)
@SPOKEN
def test_answers_of_another_shape(upstream: ThreadedUpstream, spoken: str) -> None:
    """A node of an answer is missing, null or of another type: read as far as it makes sense, or a 502 (a sample)."""
    check_bodies(upstream, spoken, step=3)
    check_events(upstream, spoken, step=7)


@pytest.mark.verify
@pytest.mark.fault(22)
@SPOKEN
def test_answers_of_any_other_shape(upstream: ThreadedUpstream, spoken: str) -> None:
    """The same of every node of an answer, of a stream's first event, of its last and of one in its middle."""
    check_bodies(upstream, spoken, step=1)
    check_events(upstream, spoken, step=1)


# ── 23, 24 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def broken_off(
    harness: GatewayHarness, upstream: ThreadedUpstream, spoken: str, client: str, *ending: Step
) -> Answered:
    """A stream that breaks off when its caller has seen how it begins, and not before."""
    upstream.default = scenario = sse([*begun(spoken), Hold()], end=False).then(*ending)
    with harness.streaming(client) as answer:
        first = answer.read1()
        scenario.gate.set()
        return Answered(200, {}, first + answer.read())


def chunk(data: bytes) -> Send:
    return Send(b"%x\r\n%b\r\n" % (len(data), data))


@pytest.mark.fault(23)
@SPOKEN
def test_an_error_within_a_stream_counts_against_its_upstream(
    upstream: ThreadedUpstream, second: ThreadedUpstream, spoken: str
) -> None:
    """Each caller reads its own protocol's event; after five such streams the key cools down and others serve."""
    with gateway(block(upstream, spoken, cooldown="10m"), block(second)) as harness:
        for client in (*EVERY, CHAT):
            answer = broken_off(harness, upstream, spoken, client, chunk(error_event(spoken)), Send(b"0\r\n\r\n"))
            assert ends_badly(client, answer)
        assert accounted_as_cut(harness, 5)
        assert is_fine(harness.ask(MESSAGES, stream=True))
        (rest,) = [fact for fact in harness.observer.facts if isinstance(fact, CredentialCooled)]
    assert rest.seconds == 600
    assert len(upstream.requests) == 5


@pytest.mark.fault(23)
@SPOKEN
def test_an_error_as_the_first_event_is_tried_elsewhere(
    upstream: ThreadedUpstream, second: ThreadedUpstream, spoken: str
) -> None:
    """Nothing was shown; alone it is a real status, not a 200."""
    upstream.default = sse([error_event(spoken)])
    with gateway(block(upstream, spoken, models=["m", "alone"]), block(second)) as harness:
        assert all(is_fine(answer) for _, answer in all_callers(harness, stream=True))
        for client in EVERY:
            refused = harness.ask(client, stream=True, model="alone")
            # Anthropic has a status of its own for it, which its callers read from it alone.
            assert is_refusal(client, refused, 529 if client == spoken == MESSAGES else 503), refused.text


@pytest.mark.fault(24)
@SPOKEN
@pytest.mark.parametrize("ending", [Close(), Reset(), Send(b"0\r\n\r\n")], ids=["close", "reset", "whole body"])
def test_a_stream_without_its_end_sign_is_accounted_as_cut(
    upstream: ThreadedUpstream, spoken: str, ending: Step
) -> None:
    """However it ends: an error event for each caller, and told of once, with a count that is called an estimate."""
    with gateway(block(upstream, spoken)) as harness:
        for client in EVERY:
            assert ends_badly(client, broken_off(harness, upstream, spoken, client, ending))
        assert accounted_as_cut(harness, 4)


@pytest.mark.fault(24)
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_finish_alone_is_an_end_for_chat(upstream: ThreadedUpstream, missing: int) -> None:
    """Chat streams of other makers lack `[DONE]`, or usage, too: told whole. Without its finish it is not."""
    upstream.default = sse(fine_without(missing))
    with gateway(block(upstream)) as harness:
        for client, answer in all_callers(harness, stream=True):
            assert is_fine(answer) if missing < 3 else ends_badly(client, answer)


def fine_without(missing: int) -> list[bytes]:
    return FINE.frames(CHAT)[:-missing]
