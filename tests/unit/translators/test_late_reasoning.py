"""Reasoning that some Chat servers send after the call it led to."""

import json
from typing import Any

import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import Reasoning, ToolCall
from llmproxy_asgi.conversation_state.reasoning import ReasoningTap
from llmproxy_asgi.translators.assemble import fold, reasoning_first
from llmproxy_asgi.translators.base import InboundRequest, Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator

ABLE = Capabilities(needs_reasoning_content=True)
UPSTREAM = Upstream(provider="p", model="m", client_model="m", issuer="p", capabilities=ABLE)


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


def call(index: int) -> dict[str, Any]:
    function = {"name": "f", "arguments": json.dumps({"n": index})}
    return {
        "tool_calls": [{"index": index, "id": f"call_Zk3mQ8vT2xY{index}", "type": "function", "function": function}]
    }


WIRE = chunk(**call(0)) + chunk(**call(1)) + chunk(reasoning_content="Hm") + chunk("tool_calls") + b"data: [DONE]\n\n"


def events() -> list[Any]:
    decoder = translator("openai-chat").outbound.decoder(UpstreamRequest(body=b"{}", stream=True), UPSTREAM)
    return [*decoder.feed(WIRE).events, *decoder.close().events]


def test_a_whole_answer_has_it_in_front() -> None:
    """Where a stream is read whole, every part can still be moved."""
    parts = reasoning_first(fold(events())).candidates[0].parts
    assert [type(part) for part in parts] == [Reasoning, ToolCall, ToolCall]
    assert reasoning_first(fold(events())) == reasoning_first(reasoning_first(fold(events())))


@pytest.mark.parametrize("protocol", ["anthropic-messages", "gemini"])
def test_a_stream_has_it_in_front_of_what_is_not_written_yet(protocol: str) -> None:
    """The first call is written when it begins; the second one waits, and the reasoning goes before it."""
    encoder = translator(protocol).inbound.encoder(InboundRequest(protocol=protocol, model="m", stream=True, raw={}))
    written = b"".join(encoder.feed([event]) for event in events())
    places = [written.index(word) for word in (b"call_Zk3mQ8vT2xY0", b"Hm", b"call_Zk3mQ8vT2xY1")]
    assert places == sorted(places)


def test_it_is_kept_for_the_last_call() -> None:
    """An upstream that refuses the turn without it gets it back."""
    tap = ReasoningTap(include_text=True)
    kept = [each for event in events() for each in tap.feed([event])]
    assert [(key, [part.text for part in (*thought.first, *thought.close)]) for key, thought in kept] == [
        ("call_Zk3mQ8vT2xY1", ["Hm"])
    ]
