"""A body of one OpenAI protocol on the path of the other is read as what it is and answered in the path's words."""

from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from llmproxy_asgi.testing import Received, Scenario
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, Reply
from support.pairs.callers import ChatCaller
from support.pairs.parameters import pairs
from support.pairs.wires import Call

CALLED = Reply(calls=(Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}'),))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FLAT = {"type": "function", "name": "get_weather", "description": "Look it up.", "parameters": SCHEMA}
CURSORS: dict[str, Any] = {
    "instructions": "You code.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "function_call", "call_id": "call_0", "name": "get_weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call_output", "call_id": "call_0", "output": "sun"},
        {"role": "user", "content": "And in Oslo?"},
    ],
    "tools": [FLAT],
    "tool_choice": "auto",
    "max_output_tokens": 99,
}


OTHER = {**FLAT, "description": "Look it up elsewhere."}
OTHERS = (CHAT, MESSAGES, GEMINI)
CHATS = ("/chat/completions", ChatCompletion, openai.Stream[ChatCompletionChunk])
RESPONSES_OWN = ("/responses", Response, openai.Stream[ResponseStreamEvent])


def sent(harness: PairHarness, pair: ProtocolPair, body: dict[str, Any], *, to: tuple[str, Any, Any] = CHATS) -> Any:
    """What OpenAI's SDK makes of the answer on a path; of a stream its events."""
    path, whole, events = to
    caller = harness.callers[CHAT]
    assert isinstance(caller, ChatCaller)
    asked = {"model": harness.model(pair), **body}
    if not pair.stream:
        return caller.client.post(path, body=asked, cast_to=whole)
    asked |= {"stream": True}
    with caller.client.post(path, body=asked, cast_to=whole, stream=True, stream_cls=events) as stream:
        return list(stream)


@pytest.mark.fidelity(112)
@pytest.mark.parametrize("pair", pairs(client=CHAT))
def test_a_body_of_responses_on_chats_path(harness: PairHarness, pair: ProtocolPair) -> None:
    """An agent's `input` and flat tools reach every upstream in its own form, and the answer is Chat's."""
    harness.play(CALLED.scenario(pair.upstream, stream=pair.stream))
    found = sent(harness, pair, CURSORS)
    if pair.stream:
        state: Any = ChatCompletionStreamState()
        for chunk in found:
            assert chunk.object == "chat.completion.chunk"
            state.handle_chunk(chunk)
        found = state.current_completion_snapshot
    choice = found.choices[0]
    assert found.model == harness.model(pair)
    assert choice.finish_reason == "tool_calls"
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"city":"Oslo"}']
    body = harness.received.body
    assert all(words in body for words in (b"You code.", b"Weather?", b"sun", b"And in Oslo?", b"Look it up."))
    if pair.upstream == CHAT:
        assert [tool["function"]["name"] for tool in harness.asked["tools"]] == ["get_weather"]
        assert [message["role"] for message in harness.asked["messages"]] == [
            "developer", "user", "assistant", "tool", "user",
        ]  # fmt: skip


@pytest.mark.fidelity(112)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES))
def test_a_body_of_chat_on_the_path_of_responses(harness: PairHarness, pair: ProtocolPair) -> None:
    """Messages and nested tools are served there, too, and the answer is Responses'."""
    harness.play(CALLED.scenario(pair.upstream, stream=pair.stream))
    body = {
        "messages": [{"role": "system", "content": "You code."}, {"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}],
    }
    found = sent(harness, pair, body, to=RESPONSES_OWN)
    answer = found[-1].response if pair.stream else found
    assert (answer.object, answer.status) == ("response", "completed")
    assert [item.name for item in answer.output if item.type == "function_call"] == ["get_weather"]
    assert b"You code." in harness.received.body


@pytest.mark.parametrize(
    "pair", [pair for other in (RESPONSES, MESSAGES, GEMINI) for pair in pairs(client=CHAT, upstream=other)]
)
def test_a_tool_keeps_the_callers_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """A name that the upstream refuses is another there, and the caller's own in the answer."""

    def called(received: Received) -> Scenario:
        [tool] = received.json()["tools"]
        name = tool["functionDeclarations"][0]["name"] if pair.upstream == GEMINI else tool["name"]
        return Reply(calls=(Call(id="call_1", name=name, arguments="{}"),)).scenario(pair.upstream, stream=pair.stream)

    harness.play(called)
    found = sent(harness, pair, {"input": "Hi", "tools": [{**FLAT, "name": "files/read"}]})
    assert b"files/read" not in harness.received.body
    if pair.stream:
        pieces = [call for chunk in found for choice in chunk.choices for call in choice.delta.tool_calls or ()]
        assert pieces[0].function.name == "files/read"
    else:
        assert found.choices[0].message.tool_calls[0].function.name == "files/read"


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=CHAT))
@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "get_weather"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
        "auto",
    ],
    ids=["one", "list", "mode"],
)
def test_flat_tools_beside_messages_are_nested(harness: PairHarness, pair: ProtocolPair, choice: Any) -> None:
    """A Chat upstream reads tools of Responses' form, and a choice of one, in its own form; the rest stays."""
    harness.play(CALLED.scenario(pair.upstream, stream=pair.stream))
    body = {"messages": [{"role": "user", "content": "Weather?"}], "tools": [FLAT], "tool_choice": choice}
    sent(harness, pair, body)
    declared_flat = {key: value for key, value in FLAT.items() if key != "type"}
    assert harness.asked["tools"] == [{"type": "function", "function": declared_flat}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    if choice == "auto":
        assert harness.asked["tool_choice"] == "auto"
    elif "name" in choice:
        assert harness.asked["tool_choice"] == named
    else:
        assert harness.asked["tool_choice"] == {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [named]},
        }


@pytest.mark.parametrize("client", [CHAT, RESPONSES])
@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES, GEMINI])
@pytest.mark.parametrize("first", ["nested", "flat"])
def test_tools_of_both_forms_in_one_list_reach_every_upstream(
    harness: PairHarness, client: str, upstream: str, first: str
) -> None:
    """Whichever form comes first, on both paths, passed on or translated: each in the form that its upstream takes."""
    pair = ProtocolPair(client=client, upstream=upstream)
    harness.play(CALLED.scenario(upstream, stream=False))
    inner = {key: value for key, value in FLAT.items() if key != "type"}
    mixed = [{"type": "function", "function": {**inner, "name": "nested"}}, {**FLAT, "name": "flat"}]
    body: dict[str, Any] = {"tools": mixed if first == "nested" else mixed[::-1]}
    question = {"messages": [{"role": "user", "content": "Hi"}]} if client == CHAT else {"input": "Hi", "store": False}
    sent(harness, pair, {**question, **body}, to=CHATS if client == CHAT else RESPONSES_OWN)
    assert sorted(declared(pair, harness.asked)) == ["flat", "nested"]


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES])
def test_stop_sequences_on_the_path_of_responses_are_refused_by_name(harness: PairHarness, upstream: str) -> None:
    """Responses has no word for them, so that an answer would run on behind one."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "stop": ["END"]}
    with pytest.raises(openai.BadRequestError) as caught:
        sent(harness, ProtocolPair(client=RESPONSES, upstream=upstream), body, to=RESPONSES_OWN)
    assert caught.value.param == "stop"
    assert harness.upstream.requests == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_chat_cannot_say_is_refused_by_name(harness: PairHarness, stream: bool) -> None:
    """A body that continues a stored response names the field that Chat does not have."""
    pair = ProtocolPair(client=CHAT, upstream=CHAT, stream=stream)
    with pytest.raises(openai.BadRequestError) as caught:
        sent(harness, pair, {"input": "Hi", "previous_response_id": "resp_1"})
    assert caught.value.param == "previous_response_id"


def test_a_body_of_neither_kind_is_refused(harness: PairHarness) -> None:
    """Without messages and input the path's own field is named."""
    with pytest.raises(openai.BadRequestError) as caught:
        sent(harness, ProtocolPair(client=CHAT, upstream=CHAT), {"tools": []})
    assert caught.value.param == "messages"


# ── items that only Responses has ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pair", pairs(client=RESPONSES))
def test_tools_are_offered_wherever_they_are_declared(harness: PairHarness, pair: ProtocolPair) -> None:
    """Tools of an `additional_tools` item stand beside the others for every upstream, equal ones once."""
    harness.play(CALLED.scenario(pair.upstream, stream=pair.stream), allow=("items", "input", "unknown-keyword"))
    more = {"type": "additional_tools", "role": "developer", "tools": [FLAT, {**FLAT, "name": "other"}]}
    answer = harness.ask(pair, tools=[FLAT], input=[more, {"role": "user", "content": "Weather?"}])
    assert [call.name for call in answer.calls] == ["get_weather"]
    if pair.upstream != RESPONSES:
        assert len(declared(pair, harness.asked)) == 2
        assert set(declared(pair, harness.asked)) == {"get_weather", "other"}


def declared(pair: ProtocolPair, asked: Any) -> list[str]:
    if pair.upstream == GEMINI:
        return [tool["name"] for group in asked["tools"] for tool in group["functionDeclarations"]]
    return [tool["function"]["name"] if pair.upstream == CHAT else tool["name"] for tool in asked["tools"]]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "compaction_trigger"},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "shell_call_output", "call_id": "call_1", "output": []},
    ],
    ids=lambda item: str(item["type"]),
)
@pytest.mark.parametrize("upstream", [CHAT, MESSAGES, GEMINI])
def test_items_that_nobody_else_can_honour_are_refused_by_name(
    harness: PairHarness, upstream: str, item: dict[str, Any]
) -> None:
    """The refusal is the same over every upstream, and names the item's kind."""
    pair = ProtocolPair(client=RESPONSES, upstream=upstream)
    with pytest.raises(openai.BadRequestError) as caught:
        harness.ask(pair, input=[item, {"role": "user", "content": "Hi"}])
    assert item["type"] in caught.value.message
    assert caught.value.param == "input"
    assert harness.upstream.requests == []


@pytest.mark.parametrize("pair", [pair for other in OTHERS for pair in pairs(client=RESPONSES, upstream=other)])
def test_different_tools_of_one_name_in_items_are_refused_by_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """A tool that an item declares in other words than the request, or than another item, is a 400 by name."""
    one, other = ({"type": "additional_tools", "role": "developer", "tools": [tool]} for tool in (FLAT, OTHER))
    user = {"role": "user", "content": "Hi"}
    for asked in ({"tools": [FLAT], "input": [other, user]}, {"input": [one, other, user]}):
        with pytest.raises(openai.BadRequestError, match="'get_weather'") as caught:
            harness.ask(pair, **asked)
        assert caught.value.param == "tools"
    assert harness.upstream.requests == []
