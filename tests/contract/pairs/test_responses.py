"""What Responses has of its own, as its official SDK and its upstreams see it across the pairs."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from llmproxy_asgi.testing import Scenario, json_answer
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Call,
    PairHarness,
    ProtocolPair,
    Reply,
    messages_events,
    messages_whole,
    pair_harness,
    responses_events,
    responses_whole,
    sse,
)
from support.pairs.asks import (
    PDF,
    PNG,
    QUESTION,
    chat_tool,
    messages_tool,
    response_output,
    responses_tool,
    tool_result,
    tool_use,
    tools,
)
from support.pairs.callers import ChatCaller
from support.pairs.parameters import all_pairs, pairs
from support.pairs.responses_wires import message_item, thought_item

FINE = Reply(texts=("Fine.",))


def of_messages(pair: ProtocolPair, *blocks: dict[str, Any], stop: str = "end_turn") -> Scenario:
    return (
        sse(messages_events(*blocks, stop=stop))
        if pair.stream
        else json_answer(200, messages_whole(*blocks, stop=stop))
    )


def of_responses(pair: ProtocolPair, *items: dict[str, Any], **more: Any) -> Scenario:
    if pair.stream:
        return sse(responses_events(*items, **more))
    return json_answer(200, responses_whole(*items, **more))


# ── stop sequences ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(73)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=RESPONSES))
def test_stop_sequences_are_cut_by_the_gateway(harness: PairHarness, pair: ProtocolPair) -> None:
    """The text ends right before the stop, nothing of which is seen, although it came in two pieces."""
    harness.play(of_responses(pair, message_item("One. E", "ND", " Two.")))
    answer = harness.ask(pair, **QUESTION[CHAT], stop=["END"])
    assert (answer.text, answer.finish) == ("One. ", "stop")
    assert answer.warnings == ["emulated:stop"]
    assert "stop" not in harness.asked
    assert [chunk for chunk in answer.events if "E" in str(chunk.choices and chunk.choices[0].delta.content)] == []


@pytest.mark.fidelity(73)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=RESPONSES))
def test_the_stop_that_matched_is_told(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic's callers read which it was; what only looked like its beginning is text."""
    harness.play(of_responses(pair, message_item("One EN", "T. ", "END two")))
    answer = harness.ask(pair, **QUESTION[MESSAGES], stop_sequences=["END"])
    assert (answer.text, answer.finish, answer.whole.stop_sequence) == ("One ENT. ", "stop_sequence", "END")


# ── turns and media ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(23)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=RESPONSES))
def test_a_system_is_the_instructions(harness: PairHarness, pair: ProtocolPair) -> None:
    """What Messages calls system is what Responses calls instructions."""
    harness.play(FINE.scenario(RESPONSES, stream=pair.stream))
    harness.ask(pair, **QUESTION[MESSAGES], system=[{"type": "text", "text": "Be brief."}])
    assert harness.asked["instructions"] == "Be brief."
    assert [item["role"] for item in harness.asked["input"]] == ["user"]


@pytest.mark.fidelity(23)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=MESSAGES))
def test_instructions_and_developers_are_the_system(harness: PairHarness, pair: ProtocolPair) -> None:
    """Both are parts of the system, in order and apart."""
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    turns = [{"role": "developer", "content": "Be kind."}, *QUESTION[RESPONSES]["input"]]
    harness.ask(pair, input=turns, instructions="Be brief.")
    assert [part["text"] for part in harness.asked["system"]] == ["Be brief.", "Be kind."]
    assert [message["role"] for message in harness.asked["messages"]] == ["user"]


def with_file(**file: str) -> dict[str, Any]:
    return {
        "input": [{"role": "user", "content": [{"type": "input_file", **file}, {"type": "input_text", "text": "?"}]}]
    }


@pytest.mark.fidelity(30)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=MESSAGES))
def test_a_pdf_by_its_address_is_a_document(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic fetches it; a PDF that came along goes along."""
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    harness.ask(pair, **with_file(file_url="https://files.example/a.pdf"))
    document = harness.asked["messages"][0]["content"][0]
    assert (document["type"], document["source"]) == (
        "document",
        {"type": "url", "url": "https://files.example/a.pdf"},
    )
    harness.ask(pair, **with_file(filename="a.pdf", file_data=f"data:application/pdf;base64,{PDF}"))
    source = harness.asked["messages"][0]["content"][0]["source"]
    assert source == {"type": "base64", "media_type": "application/pdf", "data": PDF}


REFUSED: list[Any] = [
    pytest.param(pair.values[0], file, id=f"{pair.id}-{'link' if 'file_url' in file else 'id'}", marks=mark)
    for upstream, file, mark in (
        (CHAT, {"file_url": "https://files.example/a.pdf"}, pytest.mark.fidelity(30)),
        (GEMINI, {"file_id": "file-1"}, pytest.mark.fidelity(35)),
        (MESSAGES, {"file_id": "file-1"}, ()),
    )
    for pair in pairs(client=RESPONSES, upstream=upstream)
]


@pytest.mark.parametrize(("pair", "file"), REFUSED)
def test_a_file_that_the_upstream_cannot_see_is_refused(
    harness: PairHarness, pair: ProtocolPair, file: dict[str, str]
) -> None:
    """A 400 before anybody is asked, because the answer would be made without the file."""
    with pytest.raises(openai.BadRequestError) as caught:
        harness.ask(pair, **with_file(**file))
    assert "file" in caught.value.message or "document" in caught.value.message
    assert harness.upstream.requests == []


@pytest.mark.fidelity(34)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=RESPONSES))
def test_a_picture_in_a_result_stays_in_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """Responses has a place for it."""
    harness.play(FINE.scenario(RESPONSES, stream=pair.stream))
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    turns = [
        *QUESTION[MESSAGES]["messages"],
        {"role": "assistant", "content": [tool_use("call_1")]},
        {"role": "user", "content": [tool_result("call_1", [{"type": "text", "text": "Look:"}, picture])]},
    ]
    harness.ask(pair, messages=turns, tools=[messages_tool()])
    result = harness.asked["input"][-1]
    assert (result["type"], result["call_id"]) == ("function_call_output", "call_1")
    assert result["output"] == [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
    ]


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(42)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, streams=(True,)))
def test_the_events_of_a_call(harness: PairHarness, pair: ProtocolPair) -> None:
    """Told of, filled, done: with the same ids; the SDK's own helper checks them as it reads."""
    harness.play(
        Reply(calls=(Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}'),)).scenario(
            pair.upstream, stream=True
        )
    )
    answer = harness.ask(pair, **QUESTION[RESPONSES], tools=tools(RESPONSES, "get_weather"))
    about = [event for event in answer.events if "output_item" in event.type or "arguments" in event.type]
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in about))
    assert kinds == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    ids = {event.item.id if "output_item" in event.type else event.item_id for event in about}
    assert ids == {answer.whole.output[0].id}
    assert answer.whole.output[0].call_id == "call_1"
    assert json.loads(about[-1].item.arguments) == {"city": "Oslo"}


@pytest.mark.fidelity(49)
@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=RESPONSES))
def test_strict_is_always_said(harness: PairHarness, pair: ProtocolPair, strict: bool | None) -> None:
    """A server that is not told tries it by itself."""
    harness.play(FINE.scenario(RESPONSES, stream=pair.stream))
    harness.ask(pair, **QUESTION[CHAT], tools=[chat_tool() if strict is None else chat_tool(strict=strict)])
    assert harness.asked["tools"][0]["strict"] is bool(strict)


@pytest.mark.fidelity(55)
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=MESSAGES))
def test_allowed_tools_are_the_only_ones_left(harness: PairHarness, pair: ProtocolPair, mode: str) -> None:
    """Messages has no such list: the tools are fewer, and the warning says so."""
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    allowed = {
        "type": "allowed_tools",
        "mode": mode,
        "tools": [{"type": "function", "name": name} for name in ("get_time", "get_place")],
    }
    asked: dict[str, Any] = {"tools": tools(RESPONSES, "get_weather", "get_time", "get_place"), "tool_choice": allowed}
    answer = harness.ask(pair, **QUESTION[RESPONSES], **asked)
    assert [tool["name"] for tool in harness.asked["tools"]] == ["get_time", "get_place"]
    assert harness.asked["tool_choice"]["type"] == {"auto": "auto", "required": "any"}[mode]
    assert answer.warnings != []


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "ls"'}
FREE_TEXT = [pair for upstream in (MESSAGES, GEMINI) for pair in pairs(client=RESPONSES, upstream=upstream)]


@pytest.mark.fidelity(56)
@pytest.mark.parametrize("pair", FREE_TEXT)
def test_a_free_text_tool_is_a_function_elsewhere(harness: PairHarness, pair: ProtocolPair) -> None:
    """The upstream sees a function that quotes the grammar; the caller gets its raw text."""
    call = Call(id="call_1", name="shell_line", arguments='{"input":"ls \\"a b\\""}')
    harness.play(Reply(calls=(call,)).scenario(pair.upstream, stream=pair.stream))
    tool = {"type": "custom", "name": "shell_line", "description": "Runs it.", "format": GRAMMAR}
    answer = harness.ask(pair, **QUESTION[RESPONSES], tools=[tool])
    assert 'start: \\"ls\\"' in harness.received.body.decode()
    assert "emulated:custom_tool" in answer.warnings
    (item,) = answer.whole.output
    assert (item.type, item.name, item.call_id, item.input) == ("custom_tool_call", "shell_line", "call_1", 'ls "a b"')
    pieces = [event.delta for event in answer.events if event.type == "response.custom_tool_call_input.delta"]
    assert not pair.stream or "".join(pieces) == 'ls "a b"'


@pytest.fixture(scope="module")
def resembling() -> Iterator[PairHarness]:
    """A gateway whose Chat upstream is a server that resembles OpenAI's, and knows functions alone."""
    with pair_harness(chat="openai-compatible") as made:
        yield made


@pytest.mark.fidelity(56)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, upstream=CHAT))
def test_a_free_text_tool_is_a_function_of_a_server_like_openais(resembling: PairHarness, pair: ProtocolPair) -> None:
    """The function quotes the grammar; the raw text comes back, and goes back as the argument."""
    resembling.reset()
    call = Call(id="call_1", name="shell_line", arguments='{"input":"ls \\"a b\\" | wc -l"}')
    resembling.play(Reply(calls=(call,)).scenario(CHAT, stream=pair.stream))
    asked: dict[str, Any] = {
        "tools": [{"type": "custom", "name": "shell_line", "description": "Runs it.", "format": GRAMMAR}]
    }
    answer = resembling.ask(pair, **QUESTION[RESPONSES], **asked)
    [declared] = resembling.asked["tools"]
    assert declared["type"] == "function"
    assert GRAMMAR["definition"] in declared["function"]["description"]
    assert list(declared["function"]["parameters"]["properties"]) == ["input"]
    assert answer.warnings == ["emulated:custom_tool"]
    text = 'ls "a b" | wc -l'
    (item,) = answer.whole.output
    assert (item.type, item.name, item.call_id, item.input) == ("custom_tool_call", "shell_line", "call_1", text)
    if pair.stream:
        kinds = [event.type.removeprefix("response.") for event in answer.events]
        assert "function_call_arguments.delta" not in kinds
        pieces = [event.delta for event in answer.events if event.type == "response.custom_tool_call_input.delta"]
        assert "".join(pieces) == text
        [done] = [event for event in answer.events if event.type == "response.custom_tool_call_input.done"]
        assert (done.input, done.item_id) == (text, item.id)
    result = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "7"}
    resembling.play(FINE.scenario(CHAT, stream=pair.stream))
    resembling.ask(pair, input=[*QUESTION[RESPONSES]["input"], item.to_dict(), result], **asked)
    made, given = resembling.asked["messages"][1:]
    assert json.loads(made["tool_calls"][0]["function"]["arguments"]) == {"input": text}
    assert (given["role"], given["tool_call_id"], given["content"]) == ("tool", "call_1", "7")


@pytest.mark.fidelity(59)
@pytest.mark.parametrize("pair", [pair for pair in pairs(client=RESPONSES) if not pair.values[0].passthrough])
def test_a_namespace_is_flattened_and_found_again(harness: PairHarness, pair: ProtocolPair) -> None:
    """Also where another tool has the same name; the next turn names it as before."""
    space = {"type": "namespace", "name": "maps", "description": "Maps.", "tools": [responses_tool("find")]}
    asked = [responses_tool("find"), space]
    calls = [Call(id="call_1", name=name, arguments='{"city":"Oslo"}') for name in ("maps__find", "find")]
    for call, namespace in zip(calls, ("maps", None), strict=True):
        harness.play(Reply(calls=(call,)).scenario(pair.upstream, stream=pair.stream))
        (item,) = harness.ask(pair, **QUESTION[RESPONSES], tools=asked).whole.output
        assert (item.name, item.namespace) == ("find", namespace)
        turn = {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": '{"city":"Oslo"}'}
        made = [turn if namespace is None else {**turn, "namespace": namespace}, response_output("call_1", "Here.")]
        harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
        harness.ask(pair, input=[*QUESTION[RESPONSES]["input"], *made], tools=asked)
        assert called_in(pair.upstream, harness.asked) == call.name


def called_in(upstream: str, asked: Any) -> str:
    """The name of the one call in a request's history."""
    if upstream == CHAT:
        return str(asked["messages"][1]["tool_calls"][0]["function"]["name"])
    if upstream == GEMINI:
        return str(asked["contents"][1]["parts"][0]["functionCall"]["name"])
    return str(asked["messages"][1]["content"][0]["name"])


@pytest.mark.fidelity(59)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES))
def test_a_tool_for_programs_alone_is_refused_elsewhere(harness: PairHarness, pair: ProtocolPair) -> None:
    """No other vendor runs such programs: a 400 names the tool. OpenAI gets it unchanged."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    asked: dict[str, Any] = {**QUESTION[RESPONSES], "tools": [responses_tool(allowed_callers=["programmatic"])]}
    if pair.passthrough:
        harness.ask(pair, **asked)
        assert harness.asked["tools"][0]["allowed_callers"] == ["programmatic"]
        return
    with pytest.raises(openai.BadRequestError, match="get_weather") as caught:
        harness.ask(pair, **asked)
    assert caught.value.param == "allowed_callers"
    assert harness.upstream.requests == []


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────

THINKING = {"type": "thinking", "thinking": "Hm, 雪.", "signature": "claude-signature"}


@pytest.mark.fidelity(63)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, upstream=MESSAGES))
def test_claudes_thinking_comes_back_to_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """It is a reasoning item with state; sent back as it came, it is native thinking before its call again."""
    harness.play(of_messages(pair, THINKING, tool_use("toolu_1"), stop="tool_use"))
    asked: dict[str, Any] = {"tools": [responses_tool()], "reasoning": {"effort": "low", "summary": "auto"}}
    answer = harness.ask(pair, **QUESTION[RESPONSES], **asked)
    thought, call = answer.whole.output
    assert (thought.type, thought.summary[0].text, bool(thought.encrypted_content)) == ("reasoning", "Hm, 雪.", True)
    replayed = [item.to_dict() for item in (thought, call)]
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    result = response_output(call.call_id, "snow")
    again = harness.ask(pair, input=[*QUESTION[RESPONSES]["input"], *replayed, result], **asked)
    assert harness.asked["messages"][1]["content"] == [THINKING, tool_use("toolu_1")]
    assert again.warnings == []


@pytest.mark.fidelity(64)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=RESPONSES))
def test_openais_reasoning_comes_back_to_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """It is thinking with a signature; sent back as it came, it is the item with its id before its call again."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather"}
    whole_call = {**call, "arguments": '{"city":"Oslo"}', "status": "completed"}
    harness.play(of_responses(pair, thought_item("Hm.", state="openai-state", item_id="rs_9"), whole_call))
    asked: dict[str, Any] = {"tools": [messages_tool()], "thinking": {"type": "adaptive"}}
    answer = harness.ask(pair, **QUESTION[MESSAGES], **asked)
    thought, use = answer.whole.content
    assert (thought.type, thought.thinking, bool(thought.signature)) == ("thinking", "Hm.", True)
    turns = [
        *QUESTION[MESSAGES]["messages"],
        {"role": "assistant", "content": [thought.to_dict(), use.to_dict()]},
        {"role": "user", "content": [tool_result(use.id, "snow")]},
    ]
    harness.play(FINE.scenario(RESPONSES, stream=pair.stream))
    harness.ask(pair, messages=turns, **asked)
    item, again, result = harness.asked["input"][1:]
    assert (item["type"], item["id"], item["encrypted_content"]) == ("reasoning", "rs_9", "openai-state")
    assert (again["type"], again["call_id"], result["call_id"]) == ("function_call", "call_1", "call_1")


@pytest.mark.fidelity(70)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=RESPONSES))
def test_thinking_without_words_is_kept(harness: PairHarness, pair: ProtocolPair) -> None:
    """State alone is a thought, too."""
    harness.play(of_responses(pair, thought_item(state="openai-state"), message_item("Fine.")))
    thought, text = harness.ask(pair, **QUESTION[MESSAGES], thinking={"type": "adaptive"}).whole.content
    assert (thought.type, bool(getattr(thought, "signature", None) or getattr(thought, "data", None))) in {
        ("thinking", True),
        ("redacted_thinking", True),
    }
    assert text.text == "Fine."


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(77)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES))
def test_metadata_is_echoed(harness: PairHarness, pair: ProtocolPair) -> None:
    """From every upstream, the response repeats the caller's metadata."""
    reply = FINE if pair.upstream != RESPONSES else None
    echo: dict[str, Any] = {"metadata": {"team": "blue"}}
    played = reply.scenario(pair.upstream, stream=pair.stream) if reply else None
    harness.play(played or of_responses(pair, message_item("Fine."), **echo))
    assert harness.ask(pair, **QUESTION[RESPONSES], **echo).whole.metadata == {"team": "blue"}


@pytest.mark.fidelity(88)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, streams=(True,)))
def test_one_id_and_the_items_that_were_done(harness: PairHarness, pair: ProtocolPair) -> None:
    """Every event of the response's life names the same id; its output in the end is the items that were done."""
    harness.play(
        Reply(texts=("It ", "snows."), calls=(Call(id="call_1", name="f", arguments="{}"),)).scenario(
            pair.upstream, stream=True
        )
    )
    answer = harness.ask(pair, **QUESTION[RESPONSES], tools=[responses_tool("f", {"type": "object", "properties": {}})])
    lives = [event.response.id for event in answer.events if hasattr(event, "response")]
    assert len(lives) >= 3
    assert set(lives) == {answer.whole.id}
    done = [event.item.to_dict() for event in answer.events if event.type == "response.output_item.done"]
    assert [item["id"] for item in done] == [item.id for item in answer.whole.output]
    assert [item["type"] for item in done] == ["message", "function_call"]
    assert [event.sequence_number for event in answer.events] == list(range(len(answer.events)))


@pytest.mark.fidelity(89)
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, upstream=MESSAGES))
def test_an_answer_that_is_too_long_is_incomplete(harness: PairHarness, pair: ProtocolPair) -> None:
    """With its reason, and so is the last item."""
    harness.play(of_messages(pair, {"type": "text", "text": "It sno"}, stop="max_tokens"))
    answer = harness.ask(pair, **QUESTION[RESPONSES])
    assert (answer.finish, answer.text) == ("incomplete", "It sno")
    assert answer.whole.incomplete_details.reason == "max_output_tokens"
    if pair.stream:
        assert answer.events[-1].type == "response.incomplete"


# ── passed through ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(14, 17, 26)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # by which the SDK takes note of the unknown item
@pytest.mark.parametrize("pair", all_pairs(client=RESPONSES, upstream=RESPONSES))
def test_a_passthrough_changes_nothing_but_the_model(harness: PairHarness, pair: ProtocolPair) -> None:
    """Phases, numbers, unknown items and unknown fields arrive as they were sent."""
    later = {"id": "zz_1", "type": "later_item", "status": "completed", "more": {"n": 1}}
    harness.play(of_responses(pair, message_item("Fine.", phase="commentary"), later, future={"a": 1}))
    answer = harness.ask(pair, **QUESTION[RESPONSES])
    said, other = answer.whole.output
    assert (said.phase, other.type, other.more, answer.whole.future) == ("commentary", "later_item", {"n": 1}, {"a": 1})
    assert answer.whole.model == harness.model(pair)


@pytest.mark.fidelity(13)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=RESPONSES))
def test_a_passed_through_request_keeps_its_bytes(harness: PairHarness, pair: ProtocolPair) -> None:
    """Order, spelling and unknown fields survive; only the model's name, `store` and the state to include are set."""
    harness.play(FINE.scenario(RESPONSES, stream=pair.stream), allow=("unknown-keyword",))
    streamed = b'"stream":true,' if pair.stream else b""
    body = b'{"later":{"b":1.50,"a":1e3},%b"model":"responses/gpt-5.9","input":"Hi \\u96ea"}' % streamed
    assert harness.post(pair, body).status_code == 200
    # What is not kept must bring its state along.
    added = b'"store":false,"include":["reasoning.encrypted_content"]'
    wanted = b'{"later":{"b":1.50,"a":1e3},%b"model":"gpt-5.9","input":"Hi \\u96ea",%b}' % (streamed, added)
    assert harness.received.body == wanted


class Forecast(pydantic.BaseModel):
    """What is asked for."""

    sky: str


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("upstream", [CHAT, MESSAGES, GEMINI])
def test_parsed_answers(harness: PairHarness, upstream: str) -> None:
    """The SDK's `responses.parse` reads its own model out of anybody's answer."""
    pair = ProtocolPair(client=RESPONSES, upstream=upstream)
    harness.play(Reply(texts=('{"sky":"grey"}',)).scenario(upstream, stream=False))
    caller: Any = harness.callers[RESPONSES]
    parsed = caller.client.responses.parse(model=harness.model(pair), text_format=Forecast, **QUESTION[RESPONSES])
    assert parsed.output_parsed == Forecast(sky="grey")


@pytest.mark.parametrize("pair", pairs(client=RESPONSES, stream=False))
def test_a_conversation_that_is_kept_elsewhere_is_counted_nowhere(harness: PairHarness, pair: ProtocolPair) -> None:
    """Whatever the upstream, a count of tokens that would leave out a kept conversation is refused by its name."""
    caller = harness.callers[CHAT]
    assert isinstance(caller, ChatCaller)
    body = {"model": harness.model(pair), "input": "Hi", "conversation": "conv_1"}
    with pytest.raises(openai.BadRequestError) as caught:
        caller.client.post("/responses/input_tokens", body=body, cast_to=object)
    assert caught.value.param == "conversation"
    assert harness.upstream.requests == []
