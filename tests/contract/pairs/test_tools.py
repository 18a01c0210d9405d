"""Tools: declared, chosen, called and answered across protocols."""

import json
from typing import Any

import anthropic
import openai
import pytest
from google.genai.errors import ClientError

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
    chat_chunks,
    chat_whole,
    messages_events,
    sse,
)
from support.pairs.asks import (
    QUESTION,
    WEATHER_SCHEMA,
    begun,
    chat_call,
    chat_tool,
    conversation,
    messages_tool,
    responses_tool,
    step,
    tool_result,
    tool_use,
    tools,
)
from support.pairs.gemini_asks import chosen, declared, functions
from support.pairs.parameters import all_pairs, pairs

FINE = Reply(texts=("Fine.",))
WITH_STRICT = (CHAT, RESPONSES, MESSAGES)
USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
ODD = '{ "n": 1.50, "big": 12345678901234567890, "k": "\\u0041" , "e": 1e2 }'


def odd(pair: ProtocolPair) -> Scenario:
    """A call whose arguments are spelled as no library would; where they are an object, too."""
    reply = Reply(calls=(Call(id="call_1", name="get_weather", arguments='"HERE"'),))
    if pair.upstream == GEMINI:
        frames = [frame.replace(b'"HERE"', ODD.encode()) for frame in reply.frames(GEMINI)]
        return sse(frames) if pair.stream else json_answer(200, raw(reply.whole(GEMINI)))
    if pair.upstream == MESSAGES and not pair.stream:
        return json_answer(200, raw(reply.whole(MESSAGES)))
    call = Call(id="call_1", name="get_weather", arguments=ODD)
    return Reply(calls=(call,)).scenario(pair.upstream, stream=pair.stream)


def raw(body: dict[str, Any]) -> bytes:
    return json.dumps(body).replace('"HERE"', ODD).encode()


@pytest.mark.fidelity(36)
@pytest.mark.parametrize("pair", [*pairs(client=CHAT), *pairs(client=RESPONSES)])
def test_arguments_keep_their_spelling(harness: PairHarness, pair: ProtocolPair) -> None:
    """Where the caller reads text it is the upstream's byte for byte, odd numbers and spaces included."""
    harness.play(odd(pair))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    assert answer.calls == (Call(id="call_1", name="get_weather", arguments=ODD),)


@pytest.mark.fidelity(36)
@pytest.mark.parametrize("pair", [*pairs(client=MESSAGES), *pairs(client=GEMINI)])
def test_arguments_keep_their_values(harness: PairHarness, pair: ProtocolPair) -> None:
    """Where a protocol holds an object, the values are the same."""
    harness.play(odd(pair))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather"))
    [call] = answer.calls
    assert json.loads(call.arguments) == {"n": 1.5, "big": 12345678901234567890, "k": "A", "e": 100.0}


@pytest.mark.fidelity(37)
@pytest.mark.parametrize("pair", all_pairs())
def test_a_call_without_arguments(harness: PairHarness, pair: ProtocolPair) -> None:
    """No arguments are `{}` for the caller, and the next turn with that call is taken."""
    # Servers that resemble OpenAI say nothing at all; where bytes are passed on the caller sees what OpenAI says.
    says_so = pair.passthrough or pair.upstream in {MESSAGES, GEMINI}
    silent = Call(id="call_1", name="now", arguments="{}" if says_so else "")
    harness.play(Reply(calls=(silent,)).scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "now"))
    [call] = answer.calls
    assert call.arguments == "{}"
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    turns = [*begun(pair.client), *step(pair.client, [call], {call.id: "noon"})]
    harness.ask(pair, **conversation(pair.client, turns), tools=tools(pair.client, "now"))
    if pair.upstream == CHAT:
        assert harness.asked["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"
    elif pair.upstream == RESPONSES:
        assert harness.asked["input"][1]["arguments"] == "{}"
    elif pair.upstream == MESSAGES:
        assert harness.asked["messages"][1]["content"][0]["input"] == {}
    else:
        made = harness.asked["contents"][1]["parts"][0]
        assert made.get("functionCall", made.get("function_call")).get("args") == {}


@pytest.mark.fidelity(38)
@pytest.mark.parametrize("pair", all_pairs(client=MESSAGES, upstream=CHAT, streams=(True,)))
def test_interleaved_calls_become_two_blocks(harness: PairHarness, pair: ProtocolPair) -> None:
    """Two calls whose fragments come in turns are two blocks one after the other, none touched behind its stop."""

    def piece(index: int, text: str, **head: Any) -> dict[str, Any]:
        name = {"name": head.pop("name")} if "name" in head else {}
        return {"tool_calls": [{"index": index, **head, "function": {**name, "arguments": text}}]}

    deltas = [
        piece(0, "", id="call_a", type="function", name="get_weather"),
        piece(1, "", id="call_b", type="function", name="get_weather"),
        piece(0, '{"city":'),
        piece(1, '{"city":"Ky'),
        piece(0, '"Oslo"}'),
        piece(1, 'oto"}'),
    ]
    harness.play(sse(chat_chunks(*deltas, finish="tool_calls")))
    answer = harness.ask(pair, **QUESTION[MESSAGES], tools=tools(MESSAGES, "get_weather"))
    assert [(block.id, block.input) for block in answer.whole.content] == [
        ("call_a", {"city": "Oslo"}),
        ("call_b", {"city": "Kyoto"}),
    ]
    open_block: int | None = None
    for found in answer.events:
        if found.type == "content_block_start":
            assert open_block is None
            open_block = found.index
        elif found.type in {"content_block_delta", "content_block_stop"}:
            assert found.index == open_block
            open_block = None if found.type == "content_block_stop" else open_block


@pytest.mark.fidelity(39)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES, streams=(True,)))
def test_calls_behind_a_text_are_counted_from_nought(harness: PairHarness, pair: ProtocolPair) -> None:
    """Blocks one and two are calls nought and one; id and name are said once; OpenAI's accumulator sees two calls."""
    blocks = [
        {"type": "text", "text": ("Let ", "me see.")},
        tool_use("toolu_1", city="Oslo"),
        tool_use("toolu_2", city="Kyoto"),
    ]
    harness.play(sse(messages_events(*blocks, stop="tool_use")))
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
    assert [(call.id, json.loads(call.arguments)["city"]) for call in answer.calls] == [
        ("toolu_1", "Oslo"),
        ("toolu_2", "Kyoto"),
    ]
    entries = [entry for found in answer.events for choice in found.choices for entry in choice.delta.tool_calls or ()]
    assert sorted({entry.index for entry in entries}) == [0, 1]
    assert [entry.id for entry in entries if entry.id] == ["toolu_1", "toolu_2"]
    assert [entry.function.name for entry in entries if entry.function.name] == ["get_weather", "get_weather"]
    assert [choice.finish_reason for found in answer.events for choice in found.choices if choice.finish_reason] == [
        "tool_calls"
    ]


@pytest.mark.fidelity(43)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_results_in_any_order_are_put_in_the_calls_order(harness: PairHarness, pair: ProtocolPair) -> None:
    """Three results in mixed order, and words behind them, are one user message: results first, as they were called."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    calls = [Call(id=f"call_{name}", name="get_weather", arguments="{}") for name in "abc"]
    results = {"call_c": "C", "call_a": "A", "call_b": "B"}
    turns = [USER, *step(CHAT, calls, results), {"role": "user", "content": "Go on."}]
    harness.ask(pair, messages=turns, tools=tools(CHAT, "get_weather"))
    *_, answered = harness.asked["messages"]
    assert [block.get("tool_use_id", block.get("text")) for block in answered["content"]] == [
        "call_a",
        "call_b",
        "call_c",
        "Go on.",
    ]


@pytest.mark.fidelity(45)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_a_failed_tool_says_so_in_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat has no flag for it: the result's text begins with a word that says it."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    turns: list[Any] = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1")]},
        {"role": "user", "content": [tool_result("toolu_1", "no such city", is_error=True)]},
    ]
    harness.ask(pair, messages=turns, tools=[messages_tool()])
    assert harness.asked["messages"][2] == {
        "role": "tool",
        "tool_call_id": "toolu_1",
        "content": "[tool error] no such city",
    }


@pytest.mark.fidelity(46)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_call_that_nobody_answered_gets_a_result(harness: PairHarness, pair: ProtocolPair) -> None:
    """A past call without its result gets a placeholder result, which upstreams require, with a warning."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [chat_call("call_1")]}, USER]
    answer = harness.ask(pair, messages=turns, tools=tools(CHAT, "get_weather"))
    made_up = harness.asked["messages"][2]["content"][0]
    assert (made_up["tool_use_id"], made_up["is_error"]) == ("call_1", True)
    assert "emulated:tool_result" in answer.warnings


@pytest.mark.fidelity(46)
@pytest.mark.parametrize("pair", [*pairs(client=CHAT, upstream=MESSAGES), *pairs(client=MESSAGES, upstream=CHAT)])
def test_a_result_that_answers_no_call_is_refused(harness: PairHarness, pair: ProtocolPair) -> None:
    """A result for a call that is not there is the caller's mistake: a 400 that names `messages`."""
    if pair.client == CHAT:
        orphan: Any = {"role": "tool", "tool_call_id": "call_9", "content": "snow"}
    else:
        orphan = {"role": "user", "content": [tool_result("call_9", "snow")]}
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="call_9") as refused:
        harness.ask(pair, messages=[USER, orphan], tools=tools(pair.client, "get_weather"))
    assert getattr(refused.value, "param", None) == "messages" or "messages: " in str(refused.value)
    assert harness.upstream.requests == []


LONG_ID = "call.with.dots:" + "x" * 65


@pytest.mark.fidelity(47)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_odd_call_ids_are_legal_upstream_and_the_callers_own_in_its_answers(
    harness: PairHarness, pair: ProtocolPair
) -> None:
    """Eighty characters with dots are rewritten for Anthropic, alike in call and result, and the same in every turn."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    assert len(LONG_ID) == 80
    calls = [Call(id=LONG_ID, name="get_weather", arguments="{}")]
    for _ in range(2):
        harness.ask(pair, messages=[USER, *step(CHAT, calls, {LONG_ID: "snow"})], tools=tools(CHAT, "get_weather"))
    sent = [request.json()["messages"] for request in harness.upstream.requests]
    ids = {turns[1]["content"][0]["id"] for turns in sent} | {turns[2]["content"][0]["tool_use_id"] for turns in sent}
    assert len(ids) == 1
    assert ids != {LONG_ID}
    [rewritten] = ids
    harness.play(
        Reply(calls=(Call(id=rewritten, name="get_weather", arguments="{}"),)).scenario(MESSAGES, stream=pair.stream)
    )
    turns = [USER, *step(CHAT, calls, {LONG_ID: "snow"})]
    answer = harness.ask(pair, messages=turns, tools=tools(CHAT, "get_weather"))
    assert [call.id for call in answer.calls] == [LONG_ID]


@pytest.mark.fidelity(47)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_odd_call_ids_of_an_upstream_are_accepted_back(harness: PairHarness, pair: ProtocolPair) -> None:
    """An upstream's id that Anthropic's clients could not send back is rewritten, and its result finds its call."""
    odd = "functions.get_weather:0"
    harness.play(Reply(calls=(Call(id=odd, name="get_weather", arguments="{}"),)).scenario(CHAT, stream=pair.stream))
    [call] = harness.ask(pair, **QUESTION[MESSAGES], tools=[messages_tool()]).calls
    assert call.id.replace("_", "").replace("-", "").isalnum()
    harness.play(FINE.scenario(CHAT, stream=pair.stream))
    harness.ask(pair, messages=[USER, *step(MESSAGES, [call], {call.id: "snow"})], tools=[messages_tool()])
    _, said, answered = harness.asked["messages"]
    assert said["tool_calls"][0]["id"] == answered["tool_call_id"]


@pytest.mark.fidelity(50)
@pytest.mark.parametrize("pair", pairs(among=WITH_STRICT))
def test_strict_tools_stay_strict(harness: PairHarness, pair: ProtocolPair) -> None:
    """A tool that is declared strict is strict upstream; one that is not is not, whatever the upstream's default."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[pair.client]
    harness.ask(pair, **QUESTION[pair.client], tools=[make("one", strict=True), make("two")])
    strict, loose = (tool.get("function", tool).get("strict") for tool in harness.asked["tools"])
    assert strict is True
    assert loose is False or (loose is None and pair.upstream != RESPONSES)


@pytest.mark.fidelity(50)
@pytest.mark.parametrize("pair", [pair for client in WITH_STRICT for pair in pairs(client=client, upstream=GEMINI)])
def test_gemini_has_no_strict_tools(harness: PairHarness, pair: ProtocolPair) -> None:
    """It is left out, and the schema stays as it is."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[pair.client]
    harness.ask(pair, **QUESTION[pair.client], tools=[make("one", strict=True)])
    assert harness.asked["tools"] == functions(declared("one", WEATHER_SCHEMA))


CHOICES: dict[str, dict[str, Any]] = {
    "auto": {CHAT: "auto", RESPONSES: "auto", MESSAGES: {"type": "auto"}, GEMINI: chosen("AUTO")},
    "none": {CHAT: "none", RESPONSES: "none", MESSAGES: {"type": "none"}, GEMINI: chosen("NONE")},
    "required": {CHAT: "required", RESPONSES: "required", MESSAGES: {"type": "any"}, GEMINI: chosen("ANY")},
    "named": {
        CHAT: {"type": "function", "function": {"name": "one"}},
        RESPONSES: {"type": "function", "name": "one"},
        MESSAGES: {"type": "tool", "name": "one"},
        GEMINI: chosen("ANY", "one"),
    },
}


@pytest.mark.fidelity(53)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("pair", pairs())
def test_tool_choice_in_the_upstreams_words(harness: PairHarness, pair: ProtocolPair, choice: str) -> None:
    """Auto, none, required and one by name, each in its exact form."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    field = "tool_config" if pair.client == GEMINI else "tool_choice"
    asked = {field: CHOICES[choice][pair.client]}
    harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "one", "two"), **asked)
    if pair.upstream == GEMINI:
        assert harness.asked["toolConfig"] == CHOICES[choice][GEMINI]
        assert len(harness.asked["tools"][0]["functionDeclarations"]) == 2
    else:
        assert harness.asked["tool_choice"] == CHOICES[choice][pair.upstream]
        assert len(harness.asked["tools"]) == 2


@pytest.mark.fidelity(53)
@pytest.mark.parametrize("pair", pairs(among=(CHAT, RESPONSES, MESSAGES)))
def test_no_parallel_calls_in_the_upstreams_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """One call at a time is a field of its own for OpenAI, and part of the choice in Messages."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    forms: dict[str, Any] = {
        CHAT: {"parallel_tool_calls": False},
        RESPONSES: {"parallel_tool_calls": False},
        MESSAGES: {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    }
    harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "one"), **forms[pair.client])
    for key, value in forms[pair.upstream].items():
        assert harness.asked[key] == value


@pytest.mark.fidelity(54)
@pytest.mark.parametrize(
    ("model", "effort"),
    [("claude-opus-5-5", {}), ("claude-sonnet-4-5", {"reasoning_effort": "low"})],
    ids=["never-forced", "with-thinking"],
)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_choice_that_cannot_be_forced(
    harness: PairHarness, pair: ProtocolPair, model: str, effort: dict[str, str]
) -> None:
    """Where a model refuses a forced choice, only the named tool is offered, with a warning."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    named: Any = {"type": "function", "function": {"name": "one"}}
    asked = {**QUESTION[CHAT], "tools": tools(CHAT, "one", "two"), "tool_choice": named, **effort}
    answer = harness.ask(pair, model=model, **asked)
    assert harness.asked["tool_choice"] == {"type": "auto"}
    assert [tool["name"] for tool in harness.asked["tools"]] == ["one"]
    assert "downgraded:tool_choice" in answer.warnings


@pytest.mark.fidelity(55)
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_allowed_tools_are_the_only_ones_offered(harness: PairHarness, pair: ProtocolPair, mode: str) -> None:
    """Anthropic has no list of allowed tools: the others are dropped with a warning."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    names = [{"type": "function", "function": {"name": name}} for name in ("one", "three")]
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": names}}
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "one", "two", "three"), tool_choice=choice)
    assert [tool["name"] for tool in harness.asked["tools"]] == ["one", "three"]
    assert harness.asked["tool_choice"] == {"type": "auto" if mode == "auto" else "any"}
    assert "downgraded:tool_choice" in answer.warnings


def every(client: str, mode: str, *names: str) -> dict[str, Any]:
    """A choice among all the tools there are, in the caller's words."""
    if client == GEMINI:
        return {"tool_config": chosen("ANY" if mode == "required" else "AUTO", *names)}
    if client == CHAT:
        named = [{"type": "function", "function": {"name": name}} for name in names]
        return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}}
    listed = [{"type": "function", "name": name} for name in names]
    return {"tool_choice": {"type": "allowed_tools", "mode": mode, "tools": listed}}


CROSSED = [(one, other) for one in (CHAT, RESPONSES, GEMINI) for other in (CHAT, RESPONSES, MESSAGES, GEMINI)]


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize(
    "pair", [pair for one, other in CROSSED if one != other for pair in pairs(client=one, upstream=other, stream=True)]
)
def test_a_list_of_all_tools_is_the_bare_mode(harness: PairHarness, pair: ProtocolPair, mode: str) -> None:
    """The choice "any", which frameworks send, becomes the upstream's own value."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    asked = {
        **QUESTION[pair.client],
        "tools": tools(pair.client, "one", "two"),
        **every(pair.client, mode, "one", "two"),
    }
    answer = harness.ask(pair, **asked)
    found = harness.asked.get("toolConfig") if pair.upstream == GEMINI else harness.asked["tool_choice"]
    assert found == CHOICES[mode][pair.upstream]
    assert "downgraded:tool_choice" not in answer.warnings


@pytest.mark.parametrize("head", [{}, {"id": "call_0"}])
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=CHAT) + pairs(client=MESSAGES, upstream=CHAT))
def test_parallel_calls_without_ids_are_answered_one_by_one(
    harness: PairHarness, pair: ProtocolPair, head: dict[str, Any]
) -> None:
    """Both on index nought, without ids or with the same: the SDK sees two, and each result finds its call."""
    calls = [
        {
            "index": 0,
            **head,
            "type": "function",
            "function": {"name": "get_weather", "arguments": f'{{"city":"{city}"}}'},
        }
        for city in ("Oslo", "Rome")
    ]
    if pair.stream:
        frames = chat_chunks(*({"tool_calls": [each]} for each in calls), finish="tool_calls")
        harness.play(sse(frames))
    else:
        harness.play(json_answer(200, chat_whole(tool_calls=calls, finish="tool_calls")))
    made = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "get_weather")).calls
    assert [json.loads(call.arguments) for call in made] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({call.id for call in made}) == 2
    harness.play(FINE.scenario(CHAT, stream=pair.stream))
    results = {made[1].id: "rain", made[0].id: "snow"}
    turns = [*begun(pair.client), *step(pair.client, list(made), results)]
    harness.ask(pair, **conversation(pair.client, turns), tools=tools(pair.client, "get_weather"))
    _, said, first, second = harness.asked["messages"]
    told = {first["tool_call_id"]: first["content"], second["tool_call_id"]: second["content"]}
    assert [told[call["id"]] for call in said["tool_calls"]] == ["snow", "rain"]


@pytest.mark.fidelity(57)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=MESSAGES))
def test_odd_tool_names_are_rewritten_and_restored(harness: PairHarness, pair: ProtocolPair) -> None:
    """A name with a dot is legal upstream in declaration, history and choice, and its own again in the answer."""
    calls = [Call(id="call_1", name="ns.read", arguments="{}")]
    asked: dict[str, Any] = {
        "messages": [USER, *step(CHAT, calls, {"call_1": "text"})],
        "tools": tools(CHAT, "ns.read", "other"),
        "tool_choice": {"type": "function", "function": {"name": "ns.read"}},
    }

    def answer(received: Any) -> Any:
        name = received.json()["tools"][0]["name"]
        return Reply(calls=(Call(id="call_2", name=name, arguments="{}"),)).scenario(MESSAGES, stream=pair.stream)

    harness.play(answer)
    seen = harness.ask(pair, **asked)
    assert [call.name for call in seen.calls] == ["ns.read"]
    rewritten = harness.asked["tools"][0]["name"]
    assert rewritten not in {"ns.read", "other"}
    assert harness.asked["messages"][1]["content"][0]["name"] == rewritten
    assert harness.asked["tool_choice"] == {"type": "tool", "name": rewritten}


@pytest.mark.parametrize(
    "pair", [pair for other in (CHAT, RESPONSES, MESSAGES) for pair in pairs(client=GEMINI, upstream=other)]
)
@pytest.mark.parametrize("names", [("one", "nope"), ("one", "two", "nope")], ids=["some", "all"])
def test_a_list_with_an_unknown_name_is_refused_by_name(
    harness: PairHarness, pair: ProtocolPair, names: tuple[str, ...]
) -> None:
    """Also where it names all the tools there are beside it, as Google itself does."""
    asked = {**QUESTION[GEMINI], "tools": tools(GEMINI, "one", "two"), "tool_config": chosen("ANY", *names)}
    with pytest.raises(ClientError, match="'nope' is chosen but not declared"):
        harness.ask(pair, **asked)
    assert harness.upstream.requests == []


@pytest.mark.parametrize("pair", pairs(client=RESPONSES, upstream=MESSAGES))
def test_an_emulated_tool_without_description_sends_none(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic refuses a null."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    harness.ask(pair, **QUESTION[RESPONSES], tools=[{"type": "custom", "name": "patch"}])
    [tool] = harness.asked["tools"]
    assert "description" not in tool
