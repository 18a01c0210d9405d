"""Parallel calls that an upstream gives one id, or none: every protocol's decoder makes them distinct."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator

NOW = datetime(2026, 11, 21, tzinfo=UTC)
NAMES = ("a", "a", "b")


def responses(call_id: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    known = {"call_id": call_id} if call_id is not None else {}
    items = [{"type": "function_call", **known, "name": name, "arguments": "{}"} for name in NAMES]
    whole = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "output": items,
    }
    events: list[dict[str, Any]] = [{"type": "response.created", "response": {**whole, "output": []}}]
    for number, item in enumerate(items):
        events.append({"type": "response.output_item.added", "output_index": number, "item": item})
        events.append({"type": "response.output_item.done", "output_index": number, "item": item})
    return whole, [*events, {"type": "response.completed", "response": whole}]


def messages(call_id: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    blocks = [{"type": "tool_use", "id": call_id or "", "name": name, "input": {}} for name in NAMES]
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    usage = {"input_tokens": 1, "output_tokens": 1}
    whole = {**head, "content": blocks, "stop_reason": "tool_use", "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**head, "content": [], "usage": usage}}]
    for number, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": number, "content_block": block})
        events.append({"type": "content_block_stop", "index": number})
    events.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": usage})
    return whole, [*events, {"type": "message_stop"}]


def gemini(call_id: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    known = {"id": call_id} if call_id is not None else {}
    parts = [{"functionCall": {**known, "name": name, "args": {}}} for name in NAMES]
    content = {"role": "model", "parts": parts}
    whole = {"responseId": "r", "candidates": [{"content": content, "finishReason": "STOP"}]}
    return whole, [whole]


WIRES = {"openai-responses": responses, "anthropic-messages": messages, "gemini": gemini}


@pytest.mark.parametrize("call_id", ["call_0", None])
@pytest.mark.parametrize("protocol", WIRES)
def test_every_call_has_an_id_of_its_own(protocol: str, call_id: str | None) -> None:
    """Streamed and whole: as many calls as were made, the first under its own id, no two under one."""
    whole, events = WIRES[protocol](call_id)
    outbound = translator(protocol).outbound
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="i")
    upstream_request = UpstreamRequest(body=b"", stream=True)
    decoder = outbound.decoder(upstream_request, upstream)
    frames = [f"event: {event.get('type')}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    if protocol == "gemini":
        frames = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    streamed = fold([event for frame in frames for event in decoder.feed(frame).events] + list(decoder.close().events))
    answered = outbound.decode(json.dumps(whole).encode(), upstream_request, upstream, received_at=NOW)
    for answer in (streamed, answered):
        assert [call.name for call in answer.tool_calls] == list(NAMES)
        ids = [call.call_id for call in answer.tool_calls]
        assert len(set(ids)) == len(ids)
        assert all(ids)
        assert call_id is None or ids[0] == call_id
