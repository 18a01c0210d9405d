"""What counters are asked, what they answer, and what our callers are told."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.conversation import Message, Request, Text
from llmproxy_asgi.errors import NotFound, UpstreamProtocolError
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator

KEYS = {"anthropic-messages": "input_tokens", "openai-responses": "input_tokens", "gemini": "totalTokens"}


def upstream(model: str = "m-1") -> Upstream:
    return Upstream(provider="p", model=model, client_model="m", issuer="provider:p")


@pytest.mark.parametrize(("protocol", "key"), KEYS.items(), ids=KEYS)
def test_100_a_count_is_read_and_told(protocol: str, key: str) -> None:
    """Each vendor's field is read; other members are ignored."""
    halves = translator(protocol)
    body = halves.inbound.encode_count(42)
    assert msgspec.json.decode(body)[key] == 42
    assert halves.outbound.decode_count(body) == 42
    assert halves.outbound.decode_count(msgspec.json.encode({"more": [1], key: "7"})) == 7


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b"\xff", b'{"%s":null}', b'{"%s":-1}', b'{"%s":"x"}'])
@pytest.mark.parametrize(("protocol", "key"), KEYS.items(), ids=KEYS)
def test_an_answer_without_a_count_is_the_upstreams_fault(protocol: str, key: str, body: bytes) -> None:
    """It is never taken for a count of nothing."""
    with pytest.raises(UpstreamProtocolError):
        translator(protocol).outbound.decode_count(body.replace(b"%s", key.encode()))


CHAT = {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "message": {"content": "hi"}}]}
USAGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "openai-chat": (CHAT, "usage", "prompt_tokens"),
    "openai-responses": ({"id": "r", "status": "completed", "output": []}, "usage", "input_tokens"),
    "anthropic-messages": ({"id": "m", "content": [], "stop_reason": "end_turn"}, "usage", "input_tokens"),
    "gemini": (
        {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]},
        "usageMetadata",
        "promptTokenCount",
    ),
    "openai-embeddings": ({"data": [{"index": 0, "embedding": [1.0]}]}, "usage", "prompt_tokens"),
    "gemini-embeddings": ({"embeddings": [{"values": [1.0]}]}, "usageMetadata", "promptTokenCount"),
}


@pytest.mark.parametrize("protocol", USAGES)
def test_a_number_that_no_answer_can_have_cost_is_no_count(protocol: str) -> None:
    """Else one absurd word of an upstream would stand in metrics, and in the way of all who share a limit."""
    body, block, key = USAGES[protocol]
    outbound = translator(protocol).outbound

    def counted(tokens: int) -> int:
        answer = msgspec.json.encode({**body, block: {key: 1}}).replace(b":1}}", b":%d}}" % tokens)
        upstream_request = UpstreamRequest(body=b'{"input":["x"],"requests":[{}]}', stream=False)
        read = outbound.decode(answer, upstream_request, upstream(), received_at=datetime(2026, 1, 1, tzinfo=UTC))
        return int(read.usage.input)

    assert counted(7_000_000) == 7_000_000
    assert [counted(10**25), counted(10**400)] == [0, 0]


@pytest.mark.parametrize("protocol", ["openai-chat", "openai-completions", "openai-embeddings"])
def test_who_has_no_word_for_it_cannot_be_told(protocol: str) -> None:
    """Their callers have no path to ask by."""
    with pytest.raises(NotFound):
        translator(protocol).inbound.encode_count(1)


def question(protocol: str, body: bytes) -> bytes:
    upstream_request = UpstreamRequest(body=body, stream=True)
    asked = translator(protocol).outbound.encode_count(upstream_request, upstream())
    assert not asked.stream
    return asked.body


def test_messages_counter_gets_no_more_than_it_takes() -> None:
    """What only steers the answer is left out; every other byte stays."""
    body = b'{"model":"m","max_tokens":9,"messages":[ {"role": "user"} ],"temperature":1.0,"new":1e2,"stream":true}'
    assert question("anthropic-messages", body) == b'{"model":"m","messages":[ {"role": "user"} ],"new":1e2}'


def test_responses_counter_gets_no_more_than_it_takes() -> None:
    """Likewise."""
    body = b'{"model":"m","input":"hi","store":false,"max_output_tokens":16,"tools":[{"type": "x"}],"new":1e2}'
    assert question("openai-responses", body) == b'{"model":"m","input":"hi","tools":[{"type": "x"}],"new":1e2}'


def test_gemini_counts_contents_alone_or_a_whole_request() -> None:
    """More than contents stands in a request of its own, that names the model."""
    assert question("gemini", b'{"contents":[ 1.50 ]}') == b'{"contents":[ 1.50 ]}'
    body = b'{"contents":[ 1.50 ],"tools":[{"x": 1}]}'
    assert question("gemini", body) == b'{"generateContentRequest":{"model":"models/m-1",' + body[1:] + b"}"


@pytest.mark.parametrize("protocol", KEYS)
def test_a_request_of_another_protocol_can_be_counted(protocol: str) -> None:
    """What a translator writes survives its own counter's rules: the text is in it, the limit is not."""
    asked = Request(
        protocol="openai-chat",
        model="m",
        messages=(Message(role="user", parts=(Text(text="needle"),)),),
        max_output_tokens=99,
        stream=True,
    )
    outbound = translator(protocol).outbound
    body = outbound.encode_count(outbound.encode(asked, upstream()), upstream()).body
    assert b"needle" in body
    assert b'"stream"' not in body
    assert b"max_tokens" not in body
    assert b"max_output_tokens" not in body
