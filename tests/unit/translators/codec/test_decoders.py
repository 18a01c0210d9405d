"""All stream decoders treat unreadable events, halves of characters and blank arguments alike."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamFailed, UpstreamProtocolError
from llmproxy_asgi.translators.base import StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator

PROTOCOLS = ("anthropic-messages", "gemini", "openai-chat", "openai-responses")
HIGH, LOW = "\\ud83d", "\\ude00"


def named(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def data(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


def messages(block: dict[str, Any], delta: dict[str, Any]) -> tuple[str, str]:
    start = named("message_start", message={"id": "m", "usage": {}})
    return start + named("content_block_start", index=0, content_block=block), named(
        "content_block_delta", index=0, delta=delta
    )


def responses(item: dict[str, Any], kind: str) -> tuple[str, str]:
    start = named("response.created", response={"id": "r"})
    return start + named("response.output_item.added", output_index=0, item=item), named(
        kind, output_index=0, content_index=0, delta="@"
    )


TEXTS: dict[str, tuple[str, str]] = {
    "anthropic-messages": messages({"type": "text", "text": ""}, {"type": "text_delta", "text": "@"}),
    "gemini": ("", data({"candidates": [{"content": {"parts": [{"text": "@"}]}}]})),
    "openai-chat": ("", data({"id": "c", "choices": [{"index": 0, "delta": {"content": "@"}}]})),
    "openai-responses": responses({"type": "message", "id": "i"}, "response.output_text.delta"),
}
"""By protocol: the beginning of a stream, and a delta of a text."""

CALLS: dict[str, tuple[str, str, str]] = {
    "anthropic-messages": (
        *messages({"type": "tool_use", "id": "a", "name": "f"}, {"type": "input_json_delta", "partial_json": "@"}),
        named("message_delta", delta={"stop_reason": "tool_use"}) + named("message_stop"),
    ),
    "openai-chat": (
        data({"id": "c", "choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}}]}),
        data({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "@"}}]}}]}),
        data({"choices": [{"finish_reason": "tool_calls", "delta": {}}]}) + "data: [DONE]\n\n",
    ),
    "openai-responses": (
        *responses(
            {"type": "function_call", "id": "i", "call_id": "a", "name": "f"}, "response.function_call_arguments.delta"
        ),
        named("response.completed", response={"id": "r", "status": "completed"}),
    ),
}
"""By protocol: the beginning of a stream with a call, a delta of its arguments, and the end."""


def decoder(protocol: str) -> StreamDecoder:
    upstream = Upstream(provider="p", model="m", client_model="asked", issuer="i")
    return translator(protocol).outbound.decoder(UpstreamRequest(body=b"", stream=True), upstream)


def events_of(protocol: str, *pieces: str, feed: Callable[[str], bytes] = str.encode) -> Sequence[ir.StreamEvent]:
    """Return the events of a stream that comes in these reads."""
    stream = decoder(protocol)
    return [event for piece in pieces for event in stream.feed(feed(piece)).events] + list(stream.close().events)


def joined(events: Sequence[ir.StreamEvent], kind: type[ir.TextDelta] | type[ir.ArgumentsDelta]) -> str:
    deltas = (event.delta for event in events if isinstance(event, ir.PartDelta))
    return "".join(delta.text for delta in deltas if isinstance(delta, kind))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unreadable_event_ends_the_stream(protocol: str) -> None:
    """End the stream at an event that is not JSON, in the same words, and emit nothing afterwards."""
    start, delta = TEXTS[protocol]
    events = events_of(protocol, start, delta, 'data: {"a\n\n', delta)
    assert joined(events, ir.TextDelta) == "@"
    last = events[-1]
    assert isinstance(last, ir.Failed)
    assert isinstance(last.error, UpstreamProtocolError)
    assert str(last.error) == "The upstream sent an event that cannot be read."


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_is_found_in_an_unreadable_event(protocol: str) -> None:
    """Find an error in an event whose other fields have wrong types."""
    start, delta = TEXTS[protocol]
    error = {"error": {"message": "Broken.", "code": 500, "status": 500}}
    broken = {"type": 3, "index": "x", "output_index": "x", "choices": 3, "candidates": 3, **error}
    last = events_of(protocol, start, delta, data(broken))[-1]
    assert isinstance(last, ir.Failed)
    assert isinstance(last.error, UpstreamFailed)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_halves_of_a_character_are_joined_before_a_failure(protocol: str) -> None:
    """Join a character that two deltas share, also when the same read ends the stream with an error."""
    start, delta = TEXTS[protocol]
    halves = delta.replace("@", HIGH) + delta.replace("@", LOW)
    whole = events_of(protocol, start + halves + 'data: {"a\n\n')
    assert joined(whole, ir.TextDelta) == "\N{GRINNING FACE}"
    assert isinstance(whole[-1], ir.Failed)


@pytest.mark.parametrize("protocol", CALLS)
@pytest.mark.parametrize("blank", ["", " ", "\\n"])
def test_blank_arguments_become_an_object(protocol: str, blank: str) -> None:
    """Emit an empty object for a call whose arguments are blank, as a delta and in the complete part."""
    start, delta, end = CALLS[protocol]
    events = events_of(protocol, start, delta.replace("@", blank), end)
    assert joined(events, ir.ArgumentsDelta).strip() == "{}"
    ended = next(event.part for event in events if isinstance(event, ir.PartEnded))
    assert isinstance(ended, ir.ToolCall)
    assert ended.arguments == "{}"
    assert isinstance(events[-1], ir.Ended)


def test_an_unknown_end_of_an_incomplete_call_is_the_same_whole_and_streamed() -> None:
    """Keep an unknown stop reason after a call whose arguments are no object, in a complete message, too."""
    content = [{"type": "tool_use", "id": "a", "name": "f", "input": "x"}]
    body = json.dumps({"id": "m", "content": content, "stop_reason": "new"}).encode()
    upstream = Upstream(provider="p", model="m", client_model="asked", issuer="i")
    outbound = translator("anthropic-messages").outbound
    request = UpstreamRequest(body=b"", stream=False)
    response = outbound.decode(body, request, upstream, received_at=ir.UNDATED)
    assert response.finish_reason is ir.FinishReason.UNKNOWN
