"""Round trips of requests and responses through both codec halves."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    FinishReason,
    Link,
    Media,
    Message,
    Part,
    Reasoning,
    Request,
    Response,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.translators.anthropic_messages import TRANSLATOR as MESSAGES
from llmproxy_asgi.translators.assemble import fold, unfold
from llmproxy_asgi.translators.openai_chat import TRANSLATOR as CHAT
from llmproxy_asgi.translators.pairing import arguments_object, drop_empty, merge
from support.conversations import requests, responses
from support.wires.gemini import (
    INBOUND,
    OUTBOUND,
    RECEIVED_AT,
    drained,
    opened,
    plain_upstream_request,
    read,
    upstream,
    wire,
    written,
)


def plain(part: Part) -> object:
    """Return a part as Google can express it."""
    match part:
        case ToolCall():
            return (part.call_id, part.name, arguments_object(part.arguments))
        case ToolResult():
            return (part.call_id, part.name, [plain(inner) for inner in part.content], part.is_error)
        case Media():
            return (part.kind, part.source)
        case Reasoning():
            return ("reasoning", part.text)
        case Text():
            return ("text", _value(part.text), tuple(seal.data for seal in part.seals))
        case _:
            return part


def _value(text: str) -> object:
    """Return a text, or the value of one that is JSON: results are values on the wire."""
    try:
        found = msgspec.json.decode(text)
    except ValueError:
        return text
    return text if isinstance(found, str) or found is None else found


def joined(parts: Sequence[Part]) -> list[Part]:
    """Return parts with adjacent texts of the model merged, as for Google's pieces."""
    made: list[Part] = []
    for part in parts:
        last = made[-1] if made else None
        if isinstance(part, Text) and isinstance(last, Text):
            made[-1] = msgspec.structs.replace(last, text=last.text + part.text)
        elif isinstance(part, Reasoning) and isinstance(last, Reasoning) and not last.seals:
            made[-1] = msgspec.structs.replace(last, text=last.text + part.text, seals=part.seals)
        else:
            made.append(part)
    return made


def turns(messages: Sequence[Message]) -> list[tuple[str, list[object]]]:
    """Return a conversation in its normal form."""
    kept = merge(drop_empty(messages), roles=("system", "user", "assistant", "tool"))
    return [
        (turn.role, [plain(part) for part in (joined(turn.parts) if turn.role == "assistant" else turn.parts)])
        for turn in kept
    ]


def bare(messages: Sequence[Message]) -> list[Message]:
    """Return the messages without cache marks and without reasoning, which only its issuer gets."""
    return [
        msgspec.structs.replace(
            turn,
            parts=tuple(
                msgspec.structs.replace(part, cache_mark=None) for part in turn.parts if not isinstance(part, Reasoning)
            ),
        )
        for turn in messages
    ]


@given(requests(with_reasoning=True))
def test_a_request_comes_back(asked: Request) -> None:
    """Keep a request's meaning through encoding and decoding, except for what warnings name."""
    parts = [part for turn in asked.messages for part in turn.parts]
    assume(not any(isinstance(part, Media) and isinstance(part.source, Link) for part in parts))
    upstream_request = OUTBOUND.encode(asked, upstream(issuer="nobody"))
    path = {"model": asked.model, "method": "generateContent"}
    found = INBOUND.decode(INBOUND.open(upstream_request.body, headers={}, path=path))
    assert turns(found.messages) == turns(bare(asked.messages))
    assert ("dropped:reasoning" in upstream_request.warnings) == any(isinstance(part, Reasoning) for part in parts)
    assert [(tool.name, tool.description or None) for tool in found.tools] == [
        (tool.name, tool.description or None) for tool in asked.tools
    ]
    assert [tool.parameters for tool in found.tools] == [tool.parameters for tool in asked.tools]
    assert (found.tool_choice.mode, found.tool_choice.only) == (asked.tool_choice.mode, asked.tool_choice.only)
    assert (found.sampling, found.max_output_tokens) == (asked.sampling, asked.max_output_tokens)
    assert found.stop == asked.stop


KINDS = responses(kinds={"text", "reasoning", "tool_call"}, with_extras=False)


def said(answer: Response) -> list[tuple[list[object], FinishReason]]:
    """Return a response in its normal form: its texts, calls and finishes."""
    found = []
    for candidate in answer.candidates:
        parts = [part for part in joined(candidate.parts) if not isinstance(part, Reasoning)]
        shown = [plain(msgspec.structs.replace(part, seals=())) for part in joined(parts) if part != Text(text="")]
        found.append((shown, candidate.finish.reason))
    return found


def thoughts(answer: Response) -> list[str]:
    return [
        "".join(part.text for part in candidate.parts if isinstance(part, Reasoning)) for candidate in answer.candidates
    ]


@given(KINDS, st.booleans())
@pytest.mark.parametrize("array", [False, True], ids=["events", "array"])
def test_a_response_comes_back(array: bool, answer: Response, streamed: bool) -> None:
    """Keep a response's meaning, streamed or complete, in either framing."""
    inbound_request = opened(stream=streamed, alt="json" if array else "sse")
    if streamed:
        data = written(list(unfold(answer)), inbound_request)
        again = fold(drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [data]))
    else:
        body = INBOUND.encode(answer, inbound_request)
        again = OUTBOUND.decode(body, plain_upstream_request(), upstream(), received_at=RECEIVED_AT)
    without = [[part for part in c.parts if not (isinstance(part, Text) and not part.text)] for c in again.candidates]
    candidates = tuple(
        msgspec.structs.replace(candidate, parts=tuple(_unsigned(parts)))
        for candidate, parts in zip(again.candidates, without, strict=True)
    )
    assert said(msgspec.structs.replace(again, candidates=candidates)) == said(answer)
    assert thoughts(again) == thoughts(answer)
    assert again.usage.total == answer.usage.total
    assert (again.usage.cache_read, again.usage.reasoning) == (answer.usage.cache_read, answer.usage.reasoning)
    if not streamed:  # in a stream they are in the last chunk, which may have no part for them
        assert [candidate.logprobs for candidate in again.candidates] == [
            candidate.logprobs for candidate in answer.candidates
        ]


def _unsigned(parts: Sequence[Part]) -> list[Part]:
    return [msgspec.structs.replace(part, seals=()) for part in parts]


@given(KINDS)
def test_seals_come_back_to_their_thoughts(answer: Response) -> None:
    """Return all seals, in order, from a caller that sends the response back."""
    candidate = answer.candidates[0]
    body = msgspec.json.decode(INBOUND.encode(answer, opened()))
    content = body["candidates"][0]["content"]
    assume(content["parts"])
    calls = [part for part in candidate.parts if isinstance(part, ToolCall)]
    results: list[dict[str, Any]] = [{"functionResponse": {"id": call.call_id, "name": call.name}} for call in calls]
    history = [{"parts": [{"text": "x"}]}, content, {"parts": results or [{"text": "y"}]}]
    found = INBOUND.decode(opened({"contents": history})).messages[1]
    sent = [seal for part in candidate.parts for seal in part.seals]
    kept = [seal for part in found.parts for seal in part.seals]
    assert [seal.data for seal in kept] == [seal.data for seal in sent]
    assert [seal.issuer for seal in kept] == [seal.issuer for seal in sent]
    foreign = [part for part in found.parts if any(not seal.issuer.startswith("gemini") for seal in part.seals)]
    assert all(isinstance(part, Reasoning) for part in foreign)


def test_a_chat_caller_keeps_googles_state() -> None:
    """Send a signature to a Chat caller with its call, and decode it back onto that call."""
    answer = fold(read(wire("thoughts_and_calls.sse")))
    asked: dict[str, Any] = {"model": "asked", "messages": [{"role": "user", "content": "x"}]}
    inbound_request = CHAT.inbound.open(msgspec.json.encode(asked), headers={})
    message = msgspec.json.decode(CHAT.inbound.encode(answer, inbound_request))["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in message["tool_calls"]]
    again = {**asked, "messages": [*asked["messages"], message, *results]}
    found = CHAT.inbound.decode(CHAT.inbound.open(msgspec.json.encode(again), headers={}))
    assert signed(found) == ["c2lnbmF0dXJlKy8=", None]


def test_a_messages_caller_keeps_googles_state() -> None:
    """Send a signature to a Messages caller in a block before its call, and decode it back onto that call."""
    answer = fold(read(wire("thoughts_and_calls.sse")))
    asked: dict[str, Any] = {"model": "asked", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    inbound_request = MESSAGES.inbound.open(msgspec.json.encode(asked), headers={})
    content = msgspec.json.decode(MESSAGES.inbound.encode(answer, inbound_request))["content"]
    calls = [block["id"] for block in content if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call, "content": "ok"} for call in calls]
    turns = [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    again = {**asked, "messages": [*asked["messages"], *turns]}
    found = MESSAGES.inbound.decode(MESSAGES.inbound.open(msgspec.json.encode(again), headers={}))
    assert signed(found) == ["c2lnbmF0dXJlKy8=", None]


def signed(asked: Request) -> list[str | None]:
    """Return the signatures of the model's calls, as sent to the upstream."""
    body = msgspec.json.decode(OUTBOUND.encode(asked, upstream()).body)
    return [part.get("thoughtSignature") for part in body["contents"][1]["parts"] if "functionCall" in part]
