"""Parallel calls of servers that give no ids, or the same one, all on one index: each is a call of its own."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from llmproxy_asgi.conversation import ToolCall
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.openai_chat.stream_decoder import ChatStreamDecoder
from support.wires.openai_chat import DONE, OUTBOUND, delta, events, upstream, upstream_request


def piece(name: str | None = None, arguments: str | None = None, **head: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": 0, **head, "function": {key: value for key, value in function.items() if value is not None}}


def streamed(*pieces: dict[str, Any]) -> list[tuple[str, str]]:
    chunks = [delta({"tool_calls": [each]}) for each in pieces]
    answer = fold(events(*chunks, delta(finish="tool_calls"), DONE))
    calls = answer.tool_calls
    assert len({call.call_id for call in calls}) == len(calls), "ids repeat"
    assert all(call.call_id for call in calls)
    return [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize("head", [{}, {"index": None}, {"id": "call_0"}, {"id": ""}])
def test_a_name_behind_whole_arguments_begins_another_call(head: dict[str, Any]) -> None:
    """Without ids, without indices, or with the same id again."""
    pieces = [piece("a", '{"x":1}', **head), piece("b", '{"y":', **head), piece(None, "2}", **head)]
    assert streamed(*pieces) == [("a", '{"x":1}'), ("b", '{"y":2}')]


def test_two_calls_of_one_function() -> None:
    """The same name again with arguments is the same function again; without, its arguments are still to come."""
    assert streamed(piece("a", '{"x":1}'), piece("a", '{"x":2}')) == [("a", '{"x":1}'), ("a", '{"x":2}')]
    halves = [piece("a", ""), piece(None, '{"x":1}'), piece("a", ""), piece(None, '{"x"'), piece(None, ":2}")]
    assert streamed(*halves) == [("a", '{"x":1}'), ("a", '{"x":2}')]


def test_calls_without_arguments() -> None:
    """Another name is another call, whatever the first one had to say."""
    assert streamed(piece("a", ""), piece("b", "")) == [("a", "{}"), ("b", "{}")]


def test_a_server_that_names_a_call_in_every_piece() -> None:
    """The name repeated while its arguments are unfinished, or with nothing behind them, begins nothing."""
    assert streamed(piece("a", '{"x"'), piece("a", ":1}"), piece("a", "")) == [("a", '{"x":1}')]


@pytest.mark.parametrize("head", [{}, {"id": "call_0"}, {"index": 0}, {"index": 0, "id": "call_0"}])
def test_whole_answers(head: dict[str, Any]) -> None:
    """Each entry is a call, and no two have one id."""
    calls = [{**head, "type": "function", "function": {"name": "a", "arguments": '{"x":1'}} for _ in range(3)]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    body = {"id": "c", "created": 1, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    when = datetime(2026, 11, 21, tzinfo=UTC)
    answer = OUTBOUND.decode(json.dumps(body).encode(), upstream_request(), upstream(), received_at=when)
    found = answer.tool_calls
    assert [(call.name, call.arguments) for call in found] == [("a", '{"x":1')] * 3
    assert len({call.call_id for call in found}) == 3


def test_the_same_stream_has_the_same_ids() -> None:
    """Ids are made from what is known of the answer, so that a passed-through and a stored one agree."""
    call = delta({"tool_calls": [piece("a", "{}")]})
    chunks = [call, call, delta(finish="stop")]

    def ids() -> list[str]:
        decoder = ChatStreamDecoder(upstream_request(), upstream())
        found = [event for chunk in chunks for event in decoder.feed(chunk).events]
        parts = [getattr(event, "part", None) for event in found]
        return [part.call_id for part in parts if isinstance(part, ToolCall)]

    assert ids() == ids()


@pytest.mark.parametrize("heads", [({}, {}), ({"id": "x"}, {"id": "y"})], ids=["no-ids", "ids"])
def test_calls_of_free_text_on_one_index(heads: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Free text is never whole by itself: a name, or another id with a name, begins another call."""

    def words(text: str, name: str | None = None, **head: Any) -> dict[str, Any]:
        return {"index": 0, **head, "custom": {"input": text, **({"name": name} if name else {})}}

    first, second = heads
    pieces = [words("on", "patch", **first), words("e"), words("tw", "patch", **second), words("o")]
    assert streamed(*pieces) == [("patch", "one"), ("patch", "two")]
