"""Where both sides speak one protocol: what goes in comes out, byte for byte but for the model's name."""

import json
from typing import Any

import anthropic
import pytest

from llmproxy_asgi.testing import error_answer, json_answer
from support.pairs import (
    CHAT,
    KEY,
    MESSAGES,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    chat_whole,
    messages_events,
    messages_whole,
    sse,
)
from support.pairs.asks import QUESTION
from support.pairs.parameters import all_pairs, pairs
from support.pairs.wires import chunk, event
from support.strict import check_messages

CHAT_BODY = (
    '{"zeta": 1, "model": "openai/gpt-5.9", "temperature": 1.0, "top_p": 1e-1, "seed": 12345678901234567890,\n'
    ' "messages": [{"content": "h\\u0069 雪", "role": "user", "later": {"b": 1, "a": [ ]}}], "alpha": null%s}'
)
MESSAGES_BODY = (
    '{"zeta": 1, "max_tokens": 2E3, "model": "anthropic/claude-sonnet-5",\n'
    ' "messages": [{"content": "h\\u0069 雪", "role": "user", "later": {"b": 1.50, "a": [ ]}}], "alpha": null%s}'
)
BODIES = {CHAT: CHAT_BODY, MESSAGES: MESSAGES_BODY}
MODEL = {CHAT: ("openai/gpt-5.9", "gpt-5.9"), MESSAGES: ("anthropic/claude-sonnet-5", "claude-sonnet-5")}
ANY = ("unknown-keyword", "numbers", "max-tokens")


def squeezed(text: str | bytes) -> bytes:
    """A body without the whitespace between its top-level members."""
    members = json.JSONDecoder(object_pairs_hook=list)
    data = text.encode() if isinstance(text, str) else text
    assert isinstance(members.decode(data.decode()), list)
    return b"".join(part.strip() for part in data.replace(b": ", b":").replace(b", ", b",").split(b"\n"))


@pytest.mark.fidelity(13)
@pytest.mark.parametrize("protocol", [CHAT, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_keeps_its_bytes(harness: PairHarness, protocol: str, stream: bool) -> None:
    """Unknown fields, the order of keys, escapes and the spelling of numbers survive; the model's name is replaced."""
    pair = ProtocolPair(client=protocol, upstream=protocol, stream=stream)
    harness.play(Reply(texts=("Snow.",)).scenario(protocol, stream=stream), allow=ANY)
    asking = ', "stream": true' + (', "stream_options": {"include_usage": true}' if protocol == CHAT else "")
    body = BODIES[protocol] % (asking if stream else "")
    assert harness.post(pair, body.encode(), **{"anthropic-version": "2023-06-01"}).status_code == 200
    wanted = body.replace(*MODEL[protocol])
    assert squeezed(harness.received.body) == squeezed(wanted)
    inner = body[body.index('"messages": ') + 12 : body.index(', "alpha"')]
    assert inner.encode() in harness.received.body


@pytest.mark.fidelity(14)
@pytest.mark.parametrize("protocol", [CHAT, MESSAGES])
def test_an_answer_keeps_its_bytes(harness: PairHarness, protocol: str) -> None:
    """A whole answer differs from the upstream's in the model's name alone."""
    pair = ProtocolPair(client=protocol, upstream=protocol)
    if protocol == CHAT:
        answer = json.dumps(chat_whole(content="Snow. 雪", later={"b": 1.50, "a": []}), ensure_ascii=False)
    else:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": "雪"}, {"type": "crystal", "facets": 6}]
        answer = json.dumps(messages_whole(*blocks, later={"b": 1.50, "a": []}), ensure_ascii=False)
    harness.play(json_answer(200, answer.encode()))
    limit = {"max_tokens": 9} if protocol == MESSAGES else {}
    seen = harness.post(pair, {"model": MODEL[protocol][0], **limit, **QUESTION[protocol]})
    told = json.loads(answer)["model"]
    assert squeezed(seen.content) == squeezed(answer.replace(told, MODEL[protocol][0]))


@pytest.mark.fidelity(14)
@pytest.mark.parametrize("asks", [False, True], ids=["without-usage", "with-usage"])
@pytest.mark.parametrize("protocol", [CHAT, MESSAGES])
def test_a_stream_keeps_its_bytes(harness: PairHarness, protocol: str, asks: bool) -> None:
    """A stream differs in the model's name, and in the usage chunk that only we asked for; unknown events stay."""
    pair = ProtocolPair(client=protocol, upstream=protocol, stream=True)
    if protocol == CHAT:
        frames = chat_chunks({"content": "雪"}, {"later": {"b": 1.50}}, finish="stop")
        frames.insert(3, chunk(choices=[], weather={"sky": "grey"}))
        kept = [frame for frame in frames if asks or b'"usage"' not in frame]
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
    else:
        frames = messages_events({"type": "text", "text": ("雪", "!")}, {"type": "crystal", "facets": 6})
        frames.insert(4, event("weather", sky="grey"))
        kept, more = frames, {"max_tokens": 9}
    harness.play(sse(frames))
    seen = harness.post(pair, {"model": MODEL[protocol][0], "stream": True, **more, **QUESTION[protocol]})
    told = b"gpt-5.9-2026-10-01" if protocol == CHAT else b"claude-upstream-20261001"
    assert seen.content == b"".join(kept).replace(told, MODEL[protocol][0].encode())


@pytest.mark.fidelity(15)
@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_anthropics_own_headers_pass(harness: PairHarness, header: str) -> None:
    """The version and the betas that a caller names reach the upstream; its key may come in either header."""
    harness.play(Reply(texts=("Snow.",)).scenario(MESSAGES, stream=False))
    body = {"model": MODEL[MESSAGES][0], "max_tokens": 9, **QUESTION[MESSAGES]}
    named = {"anthropic-version": "2026-10-21", "anthropic-beta": "one-2026-01-01,two-2026-02-02"}
    key = {"authorization": "", "x-api-key": KEY} if header == "x-api-key" else {}
    answer = harness.post(ProtocolPair(client=MESSAGES, upstream=MESSAGES), body, **named, **key)
    assert answer.status_code == 200, answer.text
    assert harness.received.header("anthropic-version") == "2026-10-21"
    assert harness.received.header("anthropic-beta") == "one-2026-01-01,two-2026-02-02"


@pytest.mark.fidelity(15)
def test_the_sdks_own_version_passes(harness: PairHarness) -> None:
    """What version the official SDK speaks, the upstream is spoken to in."""
    harness.play(Reply(texts=("Snow.",)).scenario(MESSAGES, stream=False))
    caller: Any = harness.callers[MESSAGES]
    harness.ask(ProtocolPair(client=MESSAGES, upstream=MESSAGES), **QUESTION[MESSAGES])
    assert harness.received.header("anthropic-version") == caller.client.default_headers["anthropic-version"]


@pytest.mark.fidelity(15)
def test_the_sdks_beta_methods_pass(harness: PairHarness) -> None:
    """What the SDK sends from its `beta` namespace, `?beta=true` and all, reaches the upstream with its betas."""
    harness.play(Reply(texts=("Snow.",)).scenario(MESSAGES, stream=False))
    client: Any = harness.callers[MESSAGES].client
    model = harness.model(ProtocolPair(client=MESSAGES, upstream=MESSAGES))
    found = client.beta.messages.create(model=model, max_tokens=9, betas=["one-2026-01-01"], **QUESTION[MESSAGES])
    assert found.content[0].text == "Snow."
    assert harness.received.header("anthropic-beta") == "one-2026-01-01"


THINKING = {"type": "thinking", "thinking": "Hm. 雪", "signature": "claude-signature/+=="}
REDACTED = {"type": "redacted_thinking", "data": "claude-redacted/+=="}


@pytest.mark.fidelity(60)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=MESSAGES))
def test_thinking_goes_round_unchanged(harness: PairHarness, pair: ProtocolPair) -> None:
    """Thinking, its signature and redacted thinking come to the SDK as they were said, and go back the same."""
    blocks: list[dict[str, Any]] = [
        THINKING,
        REDACTED,
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
    ]
    streamed = sse(messages_events(*blocks, stop="tool_use"))
    harness.play(streamed if pair.stream else json_answer(200, messages_whole(*blocks, stop="tool_use")))
    tools = [{"name": "get_weather", "input_schema": {"type": "object"}}]
    asked: dict[str, Any] = {"thinking": {"type": "adaptive"}, "tools": tools}
    first = harness.ask(pair, **QUESTION[MESSAGES], **asked)
    content = [block.model_dump(exclude_none=True) for block in first.whole.content]
    assert content[:2] == [THINKING, REDACTED]
    if pair.stream:
        signatures = [
            found.delta.signature
            for found in first.events
            if found.type == "content_block_delta" and found.delta.type == "signature_delta"
        ]
        assert signatures == ["claude-signature/+=="]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "snow"}
    turns = [*QUESTION[MESSAGES]["messages"], {"role": "assistant", "content": first.whole.content}]
    harness.ask(pair, messages=[*turns, {"role": "user", "content": [result]}], **asked)
    assert harness.asked["messages"][1]["content"][:2] == [THINKING, REDACTED]


INVALID_SIGNATURE = error_answer(
    400,
    {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "messages.1.content.0: Invalid `signature` in `thinking` block",
        },
    },
)


def replayed(state: str) -> list[dict[str, Any]]:
    """A conversation whose second turn holds thinking."""
    said = [{**THINKING, "signature": state}, {"type": "text", "text": "It snows."}]
    return [
        *QUESTION[MESSAGES]["messages"],
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And now?"},
    ]


@pytest.mark.fidelity(67)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=MESSAGES))
def test_a_refused_signature_is_tried_once_without_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """A 400 about replayed state brings one more try without any reasoning, and the caller sees only its answer."""
    fine = Reply(texts=("Still snow.",)).scenario(MESSAGES, stream=pair.stream)
    harness.play(INVALID_SIGNATURE, fine)
    answer = harness.ask(pair, messages=replayed("claude-stale"), thinking={"type": "adaptive"})
    assert answer.text == "Still snow."
    first, second = harness.upstream.requests
    assert "claude-stale" in first.body.decode()
    check_messages(second)
    assert [block["type"] for block in second.json()["messages"][1]["content"]] == ["text"]


@pytest.mark.fidelity(67)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=MESSAGES))
def test_a_second_refusal_is_reported(harness: PairHarness, pair: ProtocolPair) -> None:
    """If the second try is refused, too, the caller hears of it, and there is no third."""
    harness.play(INVALID_SIGNATURE)
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        harness.ask(pair, messages=replayed("claude-stale"), thinking={"type": "adaptive"})
    assert len(harness.upstream.requests) == 2
