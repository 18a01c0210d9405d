"""Answers in another form than was asked for, raw reasoning, and state that is found again."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmproxy_asgi.testing import Scenario, json_answer, raw_answer
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
    chat_whole,
    pair_harness,
    sse,
)
from support.pairs.asks import QUESTION, begun, conversation, step, tools
from support.pairs.gemini_wires import gemini_chunks, gemini_whole, signature
from support.pairs.parameters import all_pairs, pairs

ARGUMENTS = '{"city": "Oslo"}'
REPLY = Reply(texts=("Snow ", "in 雪."), calls=(Call(id="call_a1b2c3d4e5", name="get_weather", arguments=ARGUMENTS),))
TYPES = {"json": "application/json", "text": "text/plain", "none": None, "events": "text/event-stream; charset=utf-8"}


def typed(body: bytes, kind: str | None) -> Scenario:
    """An answer with status 200 of this content type."""
    named = f"content-type: {kind}\r\n" if kind else ""
    return raw_answer(f"HTTP/1.1 200 OK\r\n{named}content-length: {len(body)}\r\n\r\n".encode() + body)


# ── another form than was asked for ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(115)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("pair", pairs())
def test_an_answer_is_read_by_its_first_bytes(harness: PairHarness, pair: ProtocolPair, kind: str) -> None:
    """A whole answer becomes the stream that was asked for, and a stream the whole answer, whatever its type says."""
    body = json.dumps(REPLY.whole(pair.upstream)).encode() if pair.stream else b"".join(REPLY.frames(pair.upstream))
    harness.play(typed((b"\n \n" if pair.stream else b"") + body, TYPES[kind]))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    assert answer.text == "Snow in 雪."
    assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == [("get_weather", {"city": "Oslo"})]


@pytest.mark.parametrize("kind", ["none", "text"])
@pytest.mark.parametrize("pair", pairs(stream=True))
def test_a_stream_without_its_content_type_is_one(harness: PairHarness, pair: ProtocolPair, kind: str) -> None:
    """As it is for those who speak one protocol on both sides."""
    harness.play(typed(b"".join(REPLY.frames(pair.upstream)), TYPES[kind]))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    assert answer.text == "Snow in 雪."


LIMITED = {
    CHAT: {"error": {"message": "Slow down.", "code": 429}},
    RESPONSES: {"error": {"message": "Slow down.", "code": "429"}},
    MESSAGES: {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}},
    GEMINI: [{"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}],
}


@pytest.mark.parametrize("kind", ["json", "events"])
@pytest.mark.parametrize("pair", pairs())
def test_an_error_with_status_200_keeps_its_own(pair: ProtocolPair, kind: str) -> None:
    """As a body of JSON where a stream was asked for, too, and before anything was said."""
    with pair_harness() as harness:
        harness.play(typed(json.dumps(LIMITED[pair.upstream]).encode(), TYPES[kind]))
        asked = {**QUESTION[pair.client], "model": harness.model(pair)}
        if pair.client != GEMINI:
            asked |= {"stream": pair.stream}
        if pair.client == MESSAGES:
            asked |= {"max_tokens": 99}
        answer = harness.post(pair, asked)
    assert answer.status_code == 429
    assert "Slow down." in answer.text


# ── raw reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(116)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=RESPONSES) + pairs(client=RESPONSES, upstream=CHAT))
def test_raw_reasoning_is_told_as_what_it_is(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat has it under both names; Responses has `reasoning_text` with its events, and no summary."""
    text = "Hm, 雪."
    if pair.upstream == CHAT:
        said: dict[str, Any] = {"reasoning": text}
        harness.play(
            sse(chat_chunks(said, {"content": "Snow."}))
            if pair.stream
            else json_answer(200, chat_whole(**said, content="Snow."))
        )
    else:
        harness.play(sse(raw_events(text)) if pair.stream else json_answer(200, raw_whole(text)))
    answer = harness.ask(pair, **QUESTION[pair.client])
    assert answer.text == "Snow."
    if pair.client == CHAT:
        message = answer.whole.choices[0].message
        assert (message.reasoning_content, message.reasoning) == (text, text)
    else:
        thought = answer.whole.output[0]
        assert (thought.type, thought.summary, thought.content[0].text) == ("reasoning", [], text)
        if pair.stream:
            kinds = [event.type for event in answer.events]
            assert "response.reasoning_text.delta" in kinds
            assert "response.reasoning_text.done" in kinds
            assert "response.reasoning_summary_text.delta" not in kinds


def raw_whole(text: str) -> dict[str, Any]:
    """A whole answer of a Responses server with an open model."""
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
    whole = Reply(texts=("Snow.",)).whole(RESPONSES)
    return {**whole, "output": [thought, *whole["output"]]}


def raw_events(text: str) -> list[bytes]:
    """The same as a stream."""
    whole = raw_whole(text)
    thought, said = whole["output"]
    message = {**said, "content": [{"type": "output_text", "text": "Snow.", "annotations": []}]}
    place = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**thought, "content": []}},
        {"type": "response.reasoning_text.delta", **place, "delta": text[:2]},
        {"type": "response.reasoning_text.delta", **place, "delta": text[2:]},
        {"type": "response.reasoning_text.done", **place, "text": text},
        {"type": "response.output_item.done", "output_index": 0, "item": thought},
        {"type": "response.output_item.added", "output_index": 1, "item": {**message, "content": []}},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Snow."},
        {"type": "response.output_item.done", "output_index": 1, "item": message},
        {"type": "response.completed", "response": {**whole, "output": [thought, message]}},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


# ── unsealed reasoning ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def compatible() -> Iterator[PairHarness]:
    with pair_harness(chat="openai-compatible") as made:
        yield made


def opened(protocol: str, number: int) -> list[dict[str, Any]]:
    """The beginning of a conversation that can be told from others."""
    text = f"Conversation {number}: how is the weather?"
    return [{"role": "user", "parts": [{"text": text}]} if protocol == GEMINI else {"role": "user", "content": text}]


@pytest.mark.fidelity(117)
@pytest.mark.parametrize("call_id", ["functions.get_weather:0", "call_a1b2c3d4e5f6"], ids=["counted", "random"])
@pytest.mark.parametrize("pair", pairs(upstream=CHAT))
def test_reasoning_is_restored_for_who_refuses_calls_without_it(
    compatible: PairHarness, pair: ProtocolPair, call_id: str
) -> None:
    """In each conversation its own, even where the upstream repeats the ids of its calls; only to such models."""
    harness = compatible
    harness.reset()
    offered = tools(pair.client, "get_weather")
    histories = []
    for number in (1, 2):
        own = call_id if call_id.endswith(":0") else f"{call_id}{number}"
        call = Call(id=own, name="get_weather", arguments=ARGUMENTS)
        thought: dict[str, Any] = {"reasoning_content": f"thought {number}"}
        harness.play(
            sse(chat_chunks(thought, *deltas(call), finish="tool_calls"))
            if pair.stream
            else json_answer(200, chat_whole(finish="tool_calls", **thought, tool_calls=[whole(call)]))
        )
        turns = opened(pair.client, number)
        answer = harness.ask(pair, model="kimi-k2-thinking", **conversation(pair.client, turns), tools=offered)
        given = answer.calls[0]
        histories.append([*turns, *step(pair.client, [given], {given.id: "snow"})])
    harness.play(Reply(texts=("ok",)).scenario(CHAT, stream=pair.stream), allow=("unknown-keyword", "call-ids"))
    sent = []
    for model, history in [("kimi-k2-thinking", each) for each in histories] + [("house-1", histories[0])]:
        harness.ask(pair, model=model, **conversation(pair.client, history), tools=offered)
        sent.append(next(message for message in harness.asked["messages"] if message["role"] == "assistant"))
    assert [turn.get("reasoning_content") for turn in sent] == ["thought 1", "thought 2", None]


def deltas(call: Call) -> list[dict[str, Any]]:
    head = {"index": 0, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return [{"tool_calls": [head]}]


def whole(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def nameless(upstream: str, *, stream: bool) -> Scenario:
    """The same answer each time, from a server that counts its answers or names nothing."""
    reply = Reply(texts=("Snow.",), calls=(Call(id="call_0", name="get_weather", arguments=ARGUMENTS),))
    if upstream == GEMINI:
        call = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}, "thoughtSignature": signature("one")}
        return sse(gemini_chunks(call)) if stream else json_answer(200, gemini_whole(call))
    if stream:
        content = b"".join(reply.frames(upstream))
        for known in (b"chatcmpl-7Wx", b"msg_01Ab", b"resp_up1"):
            content = content.replace(known, b"7")
        return sse([content.replace(b'"id":"call_0",', b"").replace(b'"id": "call_0", ', b"")])
    return json_answer(200, {**reply.whole(upstream), "id": "7"})


@pytest.mark.fidelity(118)
@pytest.mark.parametrize("pair", [pair for pair in pairs() if not pair.values[0].passthrough])
def test_made_up_ids_are_never_made_twice(harness: PairHarness, pair: ProtocolPair) -> None:
    """Not by upstreams that number their answers, and not by those without ids: in answers, items and calls alike."""
    found: list[str] = []
    for _ in range(5):
        harness.play(nameless(pair.upstream, stream=pair.stream))
        answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
        if pair.client != GEMINI:
            found.append(answer.whole.id)
        if pair.upstream == GEMINI:
            found.append(answer.calls[0].id)
        if pair.client == RESPONSES:
            found += [item.id for item in answer.whole.output if item.id not in {"msg_up1", "fc_up1", "rs_up1"}]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("pair", [pair for pair in pairs(upstream=GEMINI) if not pair.values[0].passthrough])
def test_state_of_one_conversation_never_goes_into_another(harness: PairHarness, pair: ProtocolPair) -> None:
    """Two conversations with the very same words, over an upstream without any ids: each call gets its own state."""
    given = []
    for name in ("one", "two"):
        part: dict[str, Any] = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}}
        part["thoughtSignature"] = signature(name)
        harness.play(sse(gemini_chunks(part)) if pair.stream else json_answer(200, gemini_whole(part)))
        given.append(harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather")).calls[0])
    assert given[0].id != given[1].id
    harness.play(Reply(texts=("ok",)).scenario(GEMINI, stream=pair.stream))
    for call, name in zip(given, ("one", "two"), strict=True):
        turns = [*begun(pair.client), *step(pair.client, [call], {call.id: "snow"})]
        harness.ask(pair, **conversation(pair.client, turns), tools=tools(pair.client, "get_weather"))
        parts = [part for content in harness.asked["contents"] for part in content["parts"] if "functionCall" in part]
        assert parts[0]["thoughtSignature"] == signature(name)


# ── state of texts ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(119)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, upstream=GEMINI, modes=("sync",)))
def test_a_message_is_the_last_item_and_its_state_comes_back(harness: PairHarness, pair: ProtocolPair) -> None:
    """Google seals the end of a text; its caller reads the text at the end, and the next turn has the seal."""
    parts = [{"text": "Snow."}, {"text": "", "thoughtSignature": signature("text")}]
    harness.play(sse(gemini_chunks(*parts)) if pair.stream else json_answer(200, gemini_whole(*parts)))
    answer = harness.ask(pair, **QUESTION[RESPONSES])
    last = answer.whole.output[-1]
    assert (last.type, last.content[0].text, len(last.content)) == ("message", "Snow.", 1)
    items = [item.model_dump(exclude_none=True) for item in answer.whole.output]
    harness.play(Reply(texts=("ok",)).scenario(GEMINI, stream=pair.stream))
    harness.ask(pair, input=[*begun(RESPONSES), *items, {"role": "user", "content": "And now?"}], store=False)
    sealed = [part.get("thoughtSignature") for part in harness.asked["contents"][1]["parts"]]
    assert signature("text") in sealed
