"""Chat callers who strip what they do not know, over an upstream that wants its thinking back."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy, Principal
from llmproxy_asgi.testing import ThreadedUpstream, Upstream, json_answer, sse_answer
from support.gateway import served

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def block_frames(step: int) -> list[bytes]:
    """One step of the upstream as a stream: thinking, then a call."""
    head: dict[str, Any] = {
        "id": f"msg_{step}",
        "type": "message",
        "role": "assistant",
        "model": "claude-upstream",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    call = {"type": "tool_use", "id": f"toolu_{step}", "name": "look", "input": {}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": f"step {step}"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": f"c2ln{step}"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": call},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"at": 1}'}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def whole(step: int) -> dict[str, Any]:
    """The same step in one piece."""
    return {
        "id": f"msg_{step}",
        "type": "message",
        "role": "assistant",
        "model": "claude-upstream",
        "content": [
            {"type": "thinking", "thinking": f"step {step}", "signature": f"c2ln{step}"},
            {"type": "tool_use", "id": f"toolu_{step}", "name": "look", "input": {"at": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 3},
    }


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


def post(base: str, messages: list[dict[str, Any]], *, stream: bool, caller: str) -> list[dict[str, Any]]:
    """The calls of the answer, and nothing else of it."""
    body = {"model": "m", "messages": messages, "tools": TOOLS, "reasoning_effort": "high", "stream": stream}
    with httpx2.Client(timeout=30, trust_env=False) as client:
        answer = client.post(base + CHAT, json=body, headers={"x-caller": caller})
    assert answer.status_code == 200, answer.text
    calls: dict[int, dict[str, Any]] = {}
    if not stream:
        calls = dict(enumerate(answer.json()["choices"][0]["message"]["tool_calls"]))
    for line in answer.text.splitlines() if stream else ():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            for piece in choice["delta"].get("tool_calls") or ():
                known = calls.setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
                known["id"] = piece.get("id") or known["id"]
                for key, text in piece["function"].items():
                    known["function"][key] += text or ""
    return [{"id": call["id"], "type": "function", "function": dict(call["function"])} for call in calls.values()]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_the_thinking_of_each_step_goes_back(upstream: ThreadedUpstream, stream: bool) -> None:
    """Three steps: native thinking stands before every call again, and never in anybody else's conversation."""
    for step in range(5):
        upstream.enqueue(
            sse_answer(block_frames(step)) if stream else json_answer(200, json.dumps(whole(step)).encode())
        )
    block = {"type": "anthropic", "base_url": upstream.base_url, "api_key": "sk-ant-one"}
    proxy = LLMProxy(
        {"providers": {"up": block}}, identify=lambda connection: Principal(connection.headers["x-caller"])
    )
    history: list[dict[str, Any]] = [{"role": "user", "content": "look around"}]
    with served(proxy) as base:
        for _ in range(4):
            calls = post(base, history, stream=stream, caller="alice")
            history.append({"role": "assistant", "content": None, "tool_calls": calls})
            history += [{"role": "tool", "tool_call_id": call["id"], "content": "seen"} for call in calls]
        post(base, history[:-2], stream=stream, caller="bob")
    asked = [received.json()["messages"] for received in upstream.requests]
    turns = [message["content"] for message in asked[3] if message["role"] == "assistant"]
    assert [[part["type"] for part in turn] for turn in turns] == [["thinking", "tool_use"]] * 3
    assert [turn[0]["signature"] for turn in turns] == ["c2ln0", "c2ln1", "c2ln2"]
    others = [message["content"] for message in asked[4] if message["role"] == "assistant"]
    assert [[part["type"] for part in turn] for turn in others] == [["tool_use"]] * 3
