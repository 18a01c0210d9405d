"""Reasoning that is put back into a request whose bytes are passed on, and read beside an answer's."""

import json
from typing import Any

import pytest

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.conversation import Ended, Finished, Message, PartEnded, Reasoning, Request, ToolCall
from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.registry import translator

CHAT = translator("openai-chat")
ABLE = Capabilities(needs_reasoning_content=True)
UPSTREAM = Upstream(provider="p", model="m", client_model="m", issuer="p", capabilities=ABLE)
OTHER = Upstream(provider="p", model="m", client_model="m", issuer="p")
CALL = '{"id":"call_1","type":"function","function":{"name":"f","arguments":"{ }"}}'
ASKED = '{"role":"user","content":"h\\u0069","later":1.50}'
RESULT = '{"role":"tool","tool_call_id":"call_1","content":"r"}'


def opened(*turns: str) -> InboundRequest:
    body = f'{{"model":"m","seed":12345678901234567890,"messages":[{",".join(turns)}]}}'
    return CHAT.inbound.open(body.encode(), headers={})


def thought(call_id: str, words: str) -> Message:
    call = ToolCall(call_id=call_id, name="f", arguments="{}")
    return Message(role="assistant", parts=(Reasoning(text=words), call))


def put_back(inbound_request: InboundRequest, *messages: Message) -> bytes:
    request = Request(protocol="openai-chat", model="m", messages=messages)
    return CHAT.outbound.passthrough_request(CHAT.outbound.with_reasoning(inbound_request, request), UPSTREAM).body


@pytest.mark.parametrize("lacking", ["", ',"reasoning_content":null', ',"reasoning_content":""'])
def test_what_is_lacking_is_added_and_all_else_stays(lacking: str) -> None:
    """The message gets one member; every other byte is the caller's."""
    turn = f'{{"role":"assistant","content":null,"tool_calls":[{CALL}]'
    sent = put_back(opened(ASKED, turn + lacking + "}", RESULT), thought("call_1", "Hm. 雪"))
    expected = opened(ASKED, turn + ',"reasoning_content":"Hm. 雪"}', RESULT)
    assert sent == CHAT.outbound.passthrough_request(expected, UPSTREAM).body


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_what_the_caller_says_stays(key: str) -> None:
    """Its own reasoning is what the upstream reads."""
    inbound_request = opened(ASKED, f'{{"role":"assistant","tool_calls":[{CALL}],"{key}":"mine"}}', RESULT)
    request = Request(protocol="openai-chat", model="m", messages=(thought("call_1", "kept"),))
    assert CHAT.outbound.with_reasoning(inbound_request, request) is inbound_request


@pytest.mark.parametrize("turn", ["null", "7", '{"role":"user","content":"\\"tool_calls\\""}', '{"tool_calls":7}'])
def test_odd_messages_stay_as_they_are(turn: str) -> None:
    """They are the upstream's to refuse."""
    inbound_request = opened(ASKED, turn, '{"tool_calls":null}', '{"tool_calls":[]}', '{"tool_calls":[7]}')
    request = Request(protocol="openai-chat", model="m", messages=(thought("call_1", "kept"),))
    assert CHAT.outbound.with_reasoning(inbound_request, request) is inbound_request


def test_other_upstreams_are_not_asked_about() -> None:
    """Nothing is looked up, and nothing read, where reasoning may be lacking or there are no calls."""
    inbound_request = opened(ASKED, f'{{"role":"assistant","tool_calls":[{CALL}]}}', RESULT)
    assert CHAT.outbound.lacks_reasoning(inbound_request, UPSTREAM)
    assert not CHAT.outbound.lacks_reasoning(inbound_request, OTHER)
    assert not CHAT.outbound.lacks_reasoning(opened(ASKED), UPSTREAM)


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


CALLED = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b""])
def test_a_passed_through_stream_tells_its_parts_before_its_end(done: bytes) -> None:
    """Whole, wherever the stream is cut, beside the very bytes that pass."""
    wire = chunk(reasoning_content="Hm") + chunk(tool_calls=[CALLED]) + chunk("tool_calls") + done
    for cut in range(1, len(wire)):
        passthrough = CHAT.outbound.passthrough_stream(opened(ASKED), UPSTREAM)
        batches = [passthrough.feed(wire[:cut]), passthrough.feed(wire[cut:]), passthrough.close()]
        events = [event for batch in batches for event in batch.events]
        parts = [event.part for event in events if isinstance(event, PartEnded)]
        assert [type(part) for part in parts] == [Reasoning, ToolCall]
        assert isinstance(events[-1], Ended)
        assert isinstance(events[-2], Finished)
        assert b"".join(batch.raw or b"" for batch in batches) == wire + (b"" if done else b"data: [DONE]\n\n")
