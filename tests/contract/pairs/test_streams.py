"""Streams on the wire: when events arrive, how upstreams may frame them, and what reaches the caller byte by byte."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import Ended, Failed
from llmproxy_asgi.execution import attempt
from llmproxy_asgi.testing import Drip, Gate, Hold, Scenario, Step
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.registry import translator
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Call,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    delta,
    messages_events,
    pair_harness,
    responses_event,
    responses_events,
    sse,
)
from support.pairs.asks import QUESTION, counting, tools
from support.pairs.gemini_wires import function_call, gemini_chunks
from support.pairs.harness import MODELS, PROVIDERS
from support.pairs.parameters import PROTOCOLS, all_pairs, pairs
from support.pairs.responses_wires import call_item, message_item, thought_item
from support.pairs.wires import call_deltas


@pytest.fixture(autouse=True)
def _one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are compared byte by byte are completed at the same second."""
    monkeypatch.setattr(
        "llmproxy_asgi.translators.openai_responses.response_encoder.time", SimpleNamespace(time=lambda: 2e9)
    )


ARGUMENTS = '{"city":"京都 ☃\u2028","deep":{"n":[1,2.50]}}'
CALL = Call(id="call_1", name="get_weather", arguments=ARGUMENTS)
TEXTS = ("Snow ", "雪 und ☃ 👩‍🚀", " \u2028 and \u0085 end.")
REASON = ("Hm, 雪", " ☃ 👩‍🚀.")


@pytest.fixture(autouse=True)
def same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up ids are different in every call; here answers of several calls are compared."""
    monkeypatch.setattr(attempt, "token_hex", lambda size: "0" * 2 * size)


def frames(protocol: str) -> list[bytes]:
    """A stream with everything in it that can break: reasoning, text, a call; CJK, emoji, odd line separators."""
    if protocol == CHAT:
        reasons = [{"reasoning_content": text} for text in REASON]
        texts = [{"content": text} for text in TEXTS]
        return chat_chunks(*reasons, *texts, *call_deltas(0, CALL), finish="tool_calls")
    if protocol == RESPONSES:
        thought = thought_item("".join(REASON), state="openai-state")
        return responses_events(thought, message_item(*TEXTS), call_item(CALL.id, CALL.name, ARGUMENTS))
    if protocol == GEMINI:
        thoughts = [{"text": text, "thought": True} for text in REASON]
        return gemini_chunks(*thoughts, *({"text": text} for text in TEXTS), function_call(CALL))
    return messages_events(
        {"type": "thinking", "thinking": "".join(REASON), "signature": "claude-signature"},
        {"type": "text", "text": TEXTS},
        {"type": "tool_use", "id": CALL.id, "name": CALL.name, "input": ARGUMENTS},
        stop="tool_use",
    )


CREATED = re.compile(rb'"(created|created_at)":\d+')
"""Not everyone says when an answer was made, so OpenAI's callers are told when it came."""


def question(pair: ProtocolPair, **more: Any) -> dict[str, Any]:
    """The same as a body, for calls by hand."""
    limit = {"max_tokens": 2000} if pair.client == MESSAGES else {}
    model = f"{PROVIDERS[pair.upstream]}/{MODELS[pair.upstream]}"
    # Gemini's paths say which model, and whether it streams.
    head: dict[str, Any] = {} if pair.client == GEMINI else {"model": model, "stream": True}
    return {**head, **limit, **QUESTION[pair.client], **more}


def bytes_for(harness: PairHarness, pair: ProtocolPair, steps: Iterable[bytes | Step], **options: Any) -> bytes:
    """What the caller reads of a stream, byte for byte."""
    harness.play(sse(steps, **options))
    answer = harness.post(pair, question(pair, tools=tools(pair.client, "get_weather")))
    assert answer.status_code == 200, answer.text
    return CREATED.sub(rb'"\1":0', answer.content)


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(11)
@pytest.mark.parametrize("pair", all_pairs(streams=(True,)))
def test_each_event_is_delivered_before_the_next_is_made(harness: PairHarness, pair: ProtocolPair) -> None:
    """The upstream writes a word only after the SDK has handed out the one before."""
    words = ["one ", "two ", "three "]
    gates = [Gate() for _ in words]
    steps: list[bytes | Step] = []
    for frame in Reply(texts=tuple(words)).frames(pair.upstream):
        steps.append(frame)
        steps += [Hold(gate) for word, gate in zip(words, gates, strict=True) if word.encode() in frame]
    seen: list[str] = []

    def on_event(found: Any) -> None:
        text = text_in(found)
        if text:
            seen.append(text)
            gates[len(seen) - 1].set()

    harness.play(sse(steps))
    assert harness.ask(pair, on_event=on_event, **QUESTION[pair.client]).text == "one two three "
    assert seen == words


def text_in(found: Any) -> str:
    """The words in an event of any SDK."""
    if getattr(found, "object", None) == "chat.completion.chunk":
        return "".join(choice.delta.content or "" for choice in found.choices)
    kind = getattr(found, "type", None)
    if kind == "response.output_text.delta":
        return str(found.delta)
    if kind == "content_block_delta" and found.delta.type == "text_delta":
        return str(found.delta.text)
    if kind is None:  # Gemini's chunks have no name
        return found.text or ""
    return ""


@pytest.mark.fidelity(12)
@pytest.mark.parametrize("pair", pairs(stream=True))
def test_a_caller_who_leaves_ends_the_upstreams_work(harness: PairHarness, pair: ProtocolPair) -> None:
    """When the SDK closes its stream in the middle, the upstream's connection is closed, although it would go on."""
    frames = Reply(texts=("one ",)).frames(pair.upstream)
    said = next(number for number, frame in enumerate(frames) if b"one " in frame)
    harness.play(sse([*frames[: said + 1], Hold()]))

    class Left(Exception):
        pass

    def leave(found: Any) -> None:
        if text_in(found):
            raise Left

    with pytest.raises(Left):
        harness.ask(pair, on_event=leave, **QUESTION[pair.client])
    harness.upstream.wait_closed(len(harness.upstream.requests) - 1)


@pytest.mark.fidelity(12)
@pytest.mark.parametrize("pair", all_pairs(modes=("async",), streams=(False,)))
def test_a_caller_who_gives_up_ends_the_upstreams_work(harness: PairHarness, pair: ProtocolPair) -> None:
    """The same for a whole answer: when the SDK's call is cancelled, the upstream's connection is closed."""
    harness.play(Scenario(Hold()))
    caller = harness.callers[pair.client]
    asked = {"model": harness.model(pair), **QUESTION[pair.client]}
    call = caller.portal.start_task_soon(partial(caller.ask_async, pair, **asked))
    harness.upstream.wait_for_requests(1)
    call.cancel()
    harness.upstream.wait_closed(0)


KEEPALIVES = {CHAT: ": keep-alive\n\n", RESPONSES: ": keep-alive\n\n", MESSAGES: "event: ping\n", GEMINI: "\n"}


@pytest.fixture(scope="module")
def impatient() -> Iterator[PairHarness]:
    """A gateway that tells its callers very soon that it is still there."""
    with pair_harness(keepalive="30ms") as made:
        yield made


@pytest.mark.fidelity(7, 8, 9)
@pytest.mark.parametrize("pair", pairs(stream=True))
def test_a_slow_upstream_is_bridged_in_the_callers_protocol(impatient: PairHarness, pair: ProtocolPair) -> None:
    """While the upstream is silent the caller's own keep-alive comes; its SDK reads past it to the answer."""
    impatient.reset()
    whole = Reply(texts=("fine",)).scenario(pair.upstream, stream=True)
    held = Scenario(Hold(), *whole.steps)
    impatient.play(held)
    text = impatient.read(pair, question(pair), on_first=held.gate.set)
    assert text.startswith(KEEPALIVES[pair.client])
    again = Scenario(Hold(), *whole.steps)
    impatient.play(again)
    threading.Timer(0.15, again.gate.set).start()  # long enough for several keep-alives; none is needed to pass
    assert impatient.ask(pair, **QUESTION[pair.client]).text == "fine"


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def piped(client: str, upstream: str, pieces: Iterable[bytes]) -> bytes:
    """A stream through both halves of the translators alone, in these pieces, as the corridor joins them."""
    inbound, outbound = translator(IDS[client]).inbound, translator(IDS[upstream]).outbound
    pair = ProtocolPair(client=client, upstream=upstream, stream=True)
    path = {"model": "m", "method": "streamGenerateContent", "alt": "sse"} if client == GEMINI else {}
    inbound_request = inbound.open(
        msgspec.json.encode(question(pair)), headers={"anthropic-version": "2023-06-01"}, path=path
    )
    to = Upstream(
        provider="up",
        model="m",
        client_model=inbound_request.model,
        issuer=ISSUERS[upstream],
        capabilities=Capabilities(),
    )
    if client == upstream:
        passthrough = outbound.passthrough_stream(inbound_request, to)
        batches = [*(passthrough.feed(piece) for piece in pieces), passthrough.close()]
        return b"".join(batch.raw or b"" for batch in batches)
    decoder = outbound.decoder(outbound.encode(inbound.decode(inbound_request), to), to)
    encoder = inbound.encoder(inbound_request)
    batches = [*(decoder.feed(piece) for piece in pieces), decoder.close()]
    assert isinstance([event for batch in batches for event in batch.events][-1], Ended | Failed)
    return b"".join(encoder.feed(batch.events) for batch in batches)


IDS = {CHAT: "openai-chat", RESPONSES: "openai-responses", MESSAGES: "anthropic-messages", GEMINI: "gemini"}
ISSUERS = {CHAT: "openai", RESPONSES: "openai", MESSAGES: "anthropic", GEMINI: "gemini"}
PAIRS = [pytest.param(one, other, id=f"{one}-to-{other}") for one in PROTOCOLS for other in PROTOCOLS]


def brief(protocol: str) -> bytes:
    """The least of a stream that has a word and a call in it."""
    call = Call(id="call_1", name="f", arguments='{"a":"☃"}')
    told = Reply(texts=("雪👩‍🚀",), calls=(call,)).frames(protocol)
    return b"".join(map(unrepeated, told) if protocol == RESPONSES else told)


def unrepeated(frame: bytes) -> bytes:
    """An event of Responses without what a response repeats of its request."""
    told = json.loads(frame.partition(b"\ndata: ")[2])
    if "response" not in told:
        return frame
    kept = ("id", "object", "created_at", "status", "model", "output", "usage")
    told["response"] = {key: told["response"][key] for key in kept}
    return responses_event(told.pop("type"), **told)


@pytest.mark.fidelity(1, 5)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_cut_at_every_byte_changes_nothing(client: str, upstream: str) -> None:
    """Whatever two pieces an upstream's stream comes in, the caller's bytes are the same."""
    stream = brief(upstream)
    whole = piped(client, upstream, [stream])
    assert "👩‍🚀".encode() in whole
    assert "☃".encode() in whole
    for position in range(1, len(stream)):
        assert piped(client, upstream, [stream[:position], stream[position:]]) == whole, position


@pytest.mark.fidelity(1, 5)
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_cuts_through_everything_change_nothing(client: str, upstream: str) -> None:
    """The same of a stream with all that there is in it, cut at places that are everywhere in its frames."""
    stream = b"".join(frames(upstream))
    whole = piped(client, upstream, [stream])
    for position in range(1, len(stream), 23):
        assert piped(client, upstream, [stream[:position], stream[position:]]) == whole, position


@pytest.mark.fidelity(1, 5)
@pytest.mark.parametrize("pair", pairs(stream=True))
def test_a_stream_that_comes_byte_by_byte_changes_nothing(harness: PairHarness, pair: ProtocolPair) -> None:
    """On real sockets, too: one byte per write gives the very bytes that one write per frame gives."""
    whole = bytes_for(harness, pair, frames(pair.upstream))
    assert bytes_for(harness, pair, [Drip(b"".join(frames(pair.upstream)), 1, 0)]) == whole


@pytest.mark.fidelity(5)
@pytest.mark.parametrize("pair", all_pairs(streams=(True,)))
def test_code_points_that_are_torn_apart_arrive_whole(harness: PairHarness, pair: ProtocolPair) -> None:
    """CJK, emoji and raw line separators in text, reasoning and arguments, cut inside their bytes."""
    harness.play(sse([Drip(b"".join(frames(pair.upstream)), 3, 0)]))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    assert answer.text == "".join(TEXTS)
    assert json.loads(answer.calls[0].arguments) == json.loads(ARGUMENTS)
    assert thought_in(pair, answer.whole) == "".join(REASON)


def thought_in(pair: ProtocolPair, whole: Any) -> str:
    """The readable reasoning of an answer."""
    if pair.client == CHAT:
        return str(whole.choices[0].message.reasoning_content)
    if pair.client == RESPONSES:
        thoughts = [item for item in whole.output if item.type == "reasoning"]
        return "".join(part.text for item in thoughts for part in (*item.summary, *(item.content or ())))
    if pair.client == GEMINI:
        return "".join(part.text for part in whole.candidates[0].content.parts if part.thought)
    return str(whole.content[0].thinking)


def crlf(stream: bytes) -> list[bytes | Step]:
    return [stream.replace(b"\n", b"\r\n")]


def cr(stream: bytes) -> list[bytes | Step]:
    return [stream.replace(b"\n", b"\r")]


def split_crlf(stream: bytes) -> list[bytes | Step]:
    """A write ends between each carriage return and its line feed."""
    return list(stream.replace(b"\n", b"\r\0\n").split(b"\0"))


def noisy(stream: bytes) -> list[bytes | Step]:
    """Everything that is no content: comments, pings, blank lines, `retry:` and `id:`."""
    noise = b": comment\n\nretry: 100\n\n\n\nid: 7\n\n"
    return [noise, stream.replace(b"\n\n", b"\n\n: still here\n\n\n"), b": bye\n\n"]


def tight(stream: bytes) -> list[bytes | Step]:
    """No space behind the colon."""
    return [stream.replace(b"data: {", b"data:{")]


def several_lines(stream: bytes) -> list[bytes | Step]:
    """Each event's JSON on two `data:` lines."""
    return [stream.replace(b"data: {", b"data: {\ndata: ")]


def no_last_blank(stream: bytes) -> list[bytes | Step]:
    """The last event is ended by the connection, not by a blank line."""
    return [stream.removesuffix(b"data: [DONE]\n\n").rstrip(b"\n")]


FRAMINGS: list[Any] = [
    pytest.param(crlf, id="crlf", marks=pytest.mark.fidelity(2)),
    pytest.param(cr, id="cr", marks=pytest.mark.fidelity(2)),
    pytest.param(split_crlf, id="crlf-in-two-writes", marks=pytest.mark.fidelity(2)),
    pytest.param(noisy, id="noise", marks=pytest.mark.fidelity(3)),
    pytest.param(tight, id="no-space", marks=pytest.mark.fidelity(4)),
    pytest.param(several_lines, id="several-data-lines", marks=pytest.mark.fidelity(4)),
    pytest.param(no_last_blank, id="no-last-blank-line", marks=pytest.mark.fidelity(4)),
]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("pair", pairs(stream=True))
def test_any_legal_framing_says_the_same(
    harness: PairHarness, pair: ProtocolPair, framing: Callable[[bytes], list[bytes | Step]]
) -> None:
    """However an upstream ends its lines and pads its stream, the SDK reads the same answer."""
    asked = {**QUESTION[pair.client], "tools": tools(pair.client, "get_weather"), **counting(pair.client, stream=True)}
    harness.play(sse(frames(pair.upstream)))
    plain = harness.ask(pair, **asked)
    harness.play(sse(framing(b"".join(frames(pair.upstream)).replace(b"\r\n", b"\n"))))
    framed = harness.ask(pair, **asked)
    assert undated(framed.whole) == undated(plain.whole)
    assert framed.text == "".join(TEXTS)


def undated(whole: Any) -> dict[str, Any]:
    """An answer but for when it was made, and for the headers that Google's SDK keeps in it."""
    return dict(whole.model_dump(exclude={"created", "created_at", "sdk_http_response"}))


@pytest.mark.fidelity(6)
@pytest.mark.parametrize("pair", pairs(upstream=CHAT, stream=True))
def test_the_end_sign_of_chat_may_be_missing_and_nothing_counts_behind_it(
    harness: PairHarness, pair: ProtocolPair
) -> None:
    """A finished stream without `[DONE]` is complete, and data after `[DONE]` is ignored."""
    plain = chat_chunks({"content": "Snow."})
    late = [*plain, delta({"content": " Never said."})]
    answers = []
    for stream in (plain, plain[:-1], late):
        harness.play(sse(stream))
        answers.append(undated(harness.ask(pair, **QUESTION[pair.client], **counting(pair.client, stream=True)).whole))
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.fidelity(8)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, stream=True))
def test_every_event_of_messages_is_named(harness: PairHarness, pair: ProtocolPair) -> None:
    """Each event has an `event:` line, and it is the `type` of its data."""
    named = [frame.split(b"\n") for frame in bytes_for(harness, pair, frames(pair.upstream)).split(b"\n\n") if frame]
    assert len(named) > 10
    for lines in named:
        kind, data = lines
        assert kind == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()


@pytest.mark.fidelity(9)
@pytest.mark.parametrize("pair", pairs(client=CHAT, stream=True))
def test_a_chat_stream_ends_with_its_end_sign(harness: PairHarness, pair: ProtocolPair) -> None:
    """The last event is `data: [DONE]` for every upstream."""
    seen = bytes_for(harness, pair, frames(pair.upstream))
    assert seen.endswith(b"data: [DONE]\n\n")
    assert seen.count(b"[DONE]") == 1
