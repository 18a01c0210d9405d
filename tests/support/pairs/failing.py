"""Streams that begin and do not end: what upstreams said until then, and what a caller reads at their end."""

import json
from typing import Any

from support.pairs.gemini_wires import gemini_chunk, gemini_frame
from support.pairs.responses_wires import call_item, message_item, responses_event, responses_events
from support.pairs.wires import CHAT, GEMINI, RESPONSES, block_events, delta, event, messages_start


def begun(protocol: str) -> list[bytes]:
    """A stream that has said one word."""
    if protocol == CHAT:
        return [delta({"role": "assistant", "content": ""}), delta({"content": "Half"})]
    if protocol == RESPONSES:
        return responses_events(begun=message_item("Half"), ends=False)
    if protocol == GEMINI:
        return [gemini_chunk({"text": "Half"})]
    return [messages_start(), *block_events(0, {"type": "text", "text": "Half"})[:2]]


def begun_call(protocol: str) -> list[bytes]:
    """A stream that is in the middle of a call's arguments."""
    if protocol == CHAT:
        head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        more = {"index": 0, "function": {"arguments": '{"city":'}}
        return [delta({"role": "assistant", "tool_calls": [head]}), delta({"tool_calls": [more]})]
    if protocol == RESPONSES:
        return responses_events(begun=call_item("call_1", "get_weather", '{"city":"Oslo"}'), ends=False)[:-1]
    use = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": '{"city":"Oslo"}'}
    return [messages_start(), *block_events(0, use)[:3]]


def error_event(protocol: str) -> bytes:
    """A stream that ends with an error in the form of each vendor."""
    error: dict[str, Any] = {"type": "overloaded_error", "message": "Busy now."}
    if protocol == CHAT:
        return b"data: " + json.dumps({"error": {**error, "code": None, "param": None}}).encode() + b"\n\n"
    if protocol == RESPONSES:
        return responses_event("error", code="overloaded", message="Busy now.", param=None, sequence_number=9)
    if protocol == GEMINI:
        return gemini_frame({"error": {"code": 503, "message": "Busy now.", "status": "UNAVAILABLE"}})
    return event("error", error=error)


ENDS = ("[DONE]", "message_stop", "message_delta", '"finish_reason":"', "response.completed", "finishReason")
"""What says in any of the protocols that an answer is whole."""


def check_error_event(client: str, last: str) -> None:
    """Assert that the last event of a stream is an error in the form of the caller's vendor."""
    head, _, data = last.rpartition("data: ")
    told = json.loads(data)
    if client == CHAT:
        assert head == ""
        assert {"message", "type", "code", "param"} <= told["error"].keys()
    elif client == RESPONSES:
        assert head == "event: response.failed\n"
        assert told["response"]["status"] == "failed"
        assert told["response"]["error"]["code"] == "server_error"
    elif client == GEMINI:
        assert head == ""
        assert data.startswith('{"error":')
        assert isinstance(told["error"]["code"], int)
    else:
        assert head == "event: error\n"
        assert told["type"] == "error"
