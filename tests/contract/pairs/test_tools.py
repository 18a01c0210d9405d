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
    Lane,
    Reply,
    Stage,
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
from support.pairs.lanes import lanes, pairs

FINE = Reply(texts=("Fine.",))
WITH_STRICT = (CHAT, RESPONSES, MESSAGES)
USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
ODD = '{ "n": 1.50, "big": 12345678901234567890, "k": "\\u0041" , "e": 1e2 }'


def odd(lane: Lane) -> Scenario:
    """A call whose arguments are spelled as no library would; where they are an object, too."""
    reply = Reply(calls=(Call(id="call_1", name="get_weather", arguments='"HERE"'),))
    if lane.upstream == GEMINI:
        frames = [frame.replace(b'"HERE"', ODD.encode()) for frame in reply.frames(GEMINI)]
        return sse(frames) if lane.stream else json_answer(200, raw(reply.whole(GEMINI)))
    if lane.upstream == MESSAGES and not lane.stream:
        return json_answer(200, raw(reply.whole(MESSAGES)))
    call = Call(id="call_1", name="get_weather", arguments=ODD)
    return Reply(calls=(call,)).scenario(lane.upstream, stream=lane.stream)


def raw(body: dict[str, Any]) -> bytes:
    return json.dumps(body).replace('"HERE"', ODD).encode()


@pytest.mark.fidelity(36)
@pytest.mark.parametrize("lane", [*pairs(client=CHAT), *pairs(client=RESPONSES)])
def test_arguments_keep_their_spelling(stage: Stage, lane: Lane) -> None:
    """Where the caller reads text it is the upstream's byte for byte, odd numbers and spaces included."""
    stage.play(odd(lane))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "get_weather"))
    assert answer.calls == (Call(id="call_1", name="get_weather", arguments=ODD),)


@pytest.mark.fidelity(36)
@pytest.mark.parametrize("lane", [*pairs(client=MESSAGES), *pairs(client=GEMINI)])
def test_arguments_keep_their_values(stage: Stage, lane: Lane) -> None:
    """Where a protocol holds an object, the values are the same."""
    stage.play(odd(lane))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "get_weather"))
    [call] = answer.calls
    assert json.loads(call.arguments) == {"n": 1.5, "big": 12345678901234567890, "k": "A", "e": 100.0}


@pytest.mark.fidelity(37)
@pytest.mark.parametrize("lane", lanes())
def test_a_call_without_arguments(stage: Stage, lane: Lane) -> None:
    """No arguments are `{}` for the caller, and the next turn with that call is taken."""
    # Servers that resemble OpenAI say nothing at all; where bytes are passed on the caller sees what OpenAI says.
    says_so = lane.relays or lane.upstream in {MESSAGES, GEMINI}
    silent = Call(id="call_1", name="now", arguments="{}" if says_so else "")
    stage.play(Reply(calls=(silent,)).scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "now"))
    [call] = answer.calls
    assert call.arguments == "{}"
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    turns = [*begun(lane.client), *step(lane.client, [call], {call.id: "noon"})]
    stage.ask(lane, **conversation(lane.client, turns), tools=tools(lane.client, "now"))
    if lane.upstream == CHAT:
        assert stage.asked["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"
    elif lane.upstream == RESPONSES:
        assert stage.asked["input"][1]["arguments"] == "{}"
    elif lane.upstream == MESSAGES:
        assert stage.asked["messages"][1]["content"][0]["input"] == {}
    else:
        made = stage.asked["contents"][1]["parts"][0]
        assert made.get("functionCall", made.get("function_call")).get("args") == {}


@pytest.mark.fidelity(38)
@pytest.mark.parametrize("lane", lanes(client=MESSAGES, upstream=CHAT, streams=(True,)))
def test_interleaved_calls_become_two_blocks(stage: Stage, lane: Lane) -> None:
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
    stage.play(sse(chat_chunks(*deltas, finish="tool_calls")))
    answer = stage.ask(lane, **QUESTION[MESSAGES], tools=tools(MESSAGES, "get_weather"))
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
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES, streams=(True,)))
def test_calls_behind_a_text_are_counted_from_nought(stage: Stage, lane: Lane) -> None:
    """Blocks one and two are calls nought and one; id and name are said once; OpenAI's accumulator sees two calls."""
    blocks = [
        {"type": "text", "text": ("Let ", "me see.")},
        tool_use("toolu_1", city="Oslo"),
        tool_use("toolu_2", city="Kyoto"),
    ]
    stage.play(sse(messages_events(*blocks, stop="tool_use")))
    answer = stage.ask(lane, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
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
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_results_in_any_order_are_put_in_the_calls_order(stage: Stage, lane: Lane) -> None:
    """Three results in mixed order, and words behind them, are one user message: results first, as they were called."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    calls = [Call(id=f"call_{name}", name="get_weather", arguments="{}") for name in "abc"]
    results = {"call_c": "C", "call_a": "A", "call_b": "B"}
    turns = [USER, *step(CHAT, calls, results), {"role": "user", "content": "Go on."}]
    stage.ask(lane, messages=turns, tools=tools(CHAT, "get_weather"))
    *_, answered = stage.asked["messages"]
    assert [block.get("tool_use_id", block.get("text")) for block in answered["content"]] == [
        "call_a",
        "call_b",
        "call_c",
        "Go on.",
    ]


@pytest.mark.fidelity(45)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_a_failed_tool_says_so_in_words(stage: Stage, lane: Lane) -> None:
    """Chat has no flag for it: the result's text begins with a word that says it."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    turns: list[Any] = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1")]},
        {"role": "user", "content": [tool_result("toolu_1", "no such city", is_error=True)]},
    ]
    stage.ask(lane, messages=turns, tools=[messages_tool()])
    assert stage.asked["messages"][2] == {
        "role": "tool",
        "tool_call_id": "toolu_1",
        "content": "[tool error] no such city",
    }


@pytest.mark.fidelity(46)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_a_call_that_nobody_answered_gets_a_result(stage: Stage, lane: Lane) -> None:
    """A call in the past without its result would be refused; it gets one that says so, and the caller is told."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [chat_call("call_1")]}, USER]
    answer = stage.ask(lane, messages=turns, tools=tools(CHAT, "get_weather"))
    made_up = stage.asked["messages"][2]["content"][0]
    assert (made_up["tool_use_id"], made_up["is_error"]) == ("call_1", True)
    assert "emulated:tool_result" in answer.warnings


@pytest.mark.fidelity(46)
@pytest.mark.parametrize("lane", [*pairs(client=CHAT, upstream=MESSAGES), *pairs(client=MESSAGES, upstream=CHAT)])
def test_a_result_that_answers_no_call_is_refused(stage: Stage, lane: Lane) -> None:
    """A result for a call that is not there is the caller's mistake: a 400 that names `messages`."""
    if lane.client == CHAT:
        orphan: Any = {"role": "tool", "tool_call_id": "call_9", "content": "snow"}
    else:
        orphan = {"role": "user", "content": [tool_result("call_9", "snow")]}
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="call_9") as refused:
        stage.ask(lane, messages=[USER, orphan], tools=tools(lane.client, "get_weather"))
    assert getattr(refused.value, "param", None) == "messages" or "messages: " in str(refused.value)
    assert stage.upstream.requests == []


LONG_ID = "call.with.dots:" + "x" * 65


@pytest.mark.fidelity(47)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_odd_call_ids_are_legal_upstream_and_the_callers_own_in_its_answers(stage: Stage, lane: Lane) -> None:
    """Eighty characters with dots are rewritten for Anthropic, alike in call and result, and the same in every turn."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    assert len(LONG_ID) == 80
    calls = [Call(id=LONG_ID, name="get_weather", arguments="{}")]
    for _ in range(2):
        stage.ask(lane, messages=[USER, *step(CHAT, calls, {LONG_ID: "snow"})], tools=tools(CHAT, "get_weather"))
    sent = [request.json()["messages"] for request in stage.upstream.requests]
    ids = {turns[1]["content"][0]["id"] for turns in sent} | {turns[2]["content"][0]["tool_use_id"] for turns in sent}
    assert len(ids) == 1
    assert ids != {LONG_ID}
    [rewritten] = ids
    stage.play(
        Reply(calls=(Call(id=rewritten, name="get_weather", arguments="{}"),)).scenario(MESSAGES, stream=lane.stream)
    )
    turns = [USER, *step(CHAT, calls, {LONG_ID: "snow"})]
    answer = stage.ask(lane, messages=turns, tools=tools(CHAT, "get_weather"))
    assert [call.id for call in answer.calls] == [LONG_ID]


@pytest.mark.fidelity(47)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_odd_call_ids_of_an_upstream_are_accepted_back(stage: Stage, lane: Lane) -> None:
    """An upstream's id that Anthropic's clients could not send back is rewritten, and its result finds its call."""
    odd = "functions.get_weather:0"
    stage.play(Reply(calls=(Call(id=odd, name="get_weather", arguments="{}"),)).scenario(CHAT, stream=lane.stream))
    [call] = stage.ask(lane, **QUESTION[MESSAGES], tools=[messages_tool()]).calls
    assert call.id.replace("_", "").replace("-", "").isalnum()
    stage.play(FINE.scenario(CHAT, stream=lane.stream))
    stage.ask(lane, messages=[USER, *step(MESSAGES, [call], {call.id: "snow"})], tools=[messages_tool()])
    _, said, answered = stage.asked["messages"]
    assert said["tool_calls"][0]["id"] == answered["tool_call_id"]


@pytest.mark.fidelity(50)
@pytest.mark.parametrize("lane", pairs(among=WITH_STRICT))
def test_strict_tools_stay_strict(stage: Stage, lane: Lane) -> None:
    """A tool that is declared strict is strict upstream; one that is not is not, whatever the upstream's default."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[lane.client]
    stage.ask(lane, **QUESTION[lane.client], tools=[make("one", strict=True), make("two")])
    strict, loose = (tool.get("function", tool).get("strict") for tool in stage.asked["tools"])
    assert strict is True
    assert loose is False or (loose is None and lane.upstream != RESPONSES)


@pytest.mark.fidelity(50)
@pytest.mark.parametrize("lane", [lane for client in WITH_STRICT for lane in pairs(client=client, upstream=GEMINI)])
def test_gemini_has_no_strict_tools(stage: Stage, lane: Lane) -> None:
    """It is left out, and the schema stays as it is."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[lane.client]
    stage.ask(lane, **QUESTION[lane.client], tools=[make("one", strict=True)])
    assert stage.asked["tools"] == functions(declared("one", WEATHER_SCHEMA))


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
@pytest.mark.parametrize("lane", pairs())
def test_tool_choice_in_the_upstreams_words(stage: Stage, lane: Lane, choice: str) -> None:
    """Auto, none, required and one by name, each in its exact form."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    field = "tool_config" if lane.client == GEMINI else "tool_choice"
    asked = {field: CHOICES[choice][lane.client]}
    stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "one", "two"), **asked)
    if lane.upstream == GEMINI:
        assert stage.asked["toolConfig"] == CHOICES[choice][GEMINI]
        assert len(stage.asked["tools"][0]["functionDeclarations"]) == 2
    else:
        assert stage.asked["tool_choice"] == CHOICES[choice][lane.upstream]
        assert len(stage.asked["tools"]) == 2


@pytest.mark.fidelity(53)
@pytest.mark.parametrize("lane", pairs(among=(CHAT, RESPONSES, MESSAGES)))
def test_no_parallel_calls_in_the_upstreams_words(stage: Stage, lane: Lane) -> None:
    """One call at a time is a field of its own for OpenAI, and part of the choice in Messages."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    forms: dict[str, Any] = {
        CHAT: {"parallel_tool_calls": False},
        RESPONSES: {"parallel_tool_calls": False},
        MESSAGES: {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    }
    stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "one"), **forms[lane.client])
    for key, value in forms[lane.upstream].items():
        assert stage.asked[key] == value


@pytest.mark.fidelity(54)
@pytest.mark.parametrize(
    ("model", "effort"),
    [("claude-opus-5-5", {}), ("claude-sonnet-4-5", {"reasoning_effort": "low"})],
    ids=["never-forced", "with-thinking"],
)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_a_choice_that_cannot_be_forced(stage: Stage, lane: Lane, model: str, effort: dict[str, str]) -> None:
    """Where a model refuses a forced choice, the named tool alone is offered, and the caller is told."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    named: Any = {"type": "function", "function": {"name": "one"}}
    asked = {**QUESTION[CHAT], "tools": tools(CHAT, "one", "two"), "tool_choice": named, **effort}
    answer = stage.ask(lane, model=model, **asked)
    assert stage.asked["tool_choice"] == {"type": "auto"}
    assert [tool["name"] for tool in stage.asked["tools"]] == ["one"]
    assert "downgraded:tool_choice" in answer.warnings


@pytest.mark.fidelity(55)
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=MESSAGES))
def test_allowed_tools_are_the_only_ones_offered(stage: Stage, lane: Lane, mode: str) -> None:
    """Anthropic has no list of allowed tools: the others are left out, and the caller is told."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    names = [{"type": "function", "function": {"name": name}} for name in ("one", "three")]
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": names}}
    answer = stage.ask(lane, **QUESTION[CHAT], tools=tools(CHAT, "one", "two", "three"), tool_choice=choice)
    assert [tool["name"] for tool in stage.asked["tools"]] == ["one", "three"]
    assert stage.asked["tool_choice"] == {"type": "auto" if mode == "auto" else "any"}
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
    "lane", [lane for one, other in CROSSED if one != other for lane in pairs(client=one, upstream=other, stream=True)]
)
def test_a_list_of_all_tools_is_the_bare_mode(stage: Stage, lane: Lane, mode: str) -> None:
    """As frameworks say "any": the upstream is told its own word for it, and nothing is lost."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    asked = {
        **QUESTION[lane.client],
        "tools": tools(lane.client, "one", "two"),
        **every(lane.client, mode, "one", "two"),
    }
    answer = stage.ask(lane, **asked)
    found = stage.asked.get("toolConfig") if lane.upstream == GEMINI else stage.asked["tool_choice"]
    assert found == CHOICES[mode][lane.upstream]
    assert "downgraded:tool_choice" not in answer.warnings


@pytest.mark.parametrize("head", [{}, {"id": "call_0"}])
@pytest.mark.parametrize("lane", pairs(client=RESPONSES, upstream=CHAT) + pairs(client=MESSAGES, upstream=CHAT))
def test_parallel_calls_without_ids_are_answered_one_by_one(stage: Stage, lane: Lane, head: dict[str, Any]) -> None:
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
    if lane.stream:
        frames = chat_chunks(*({"tool_calls": [each]} for each in calls), finish="tool_calls")
        stage.play(sse(frames))
    else:
        stage.play(json_answer(200, chat_whole(tool_calls=calls, finish="tool_calls")))
    made = stage.ask(lane, **QUESTION[lane.client], tools=tools(lane.client, "get_weather")).calls
    assert [json.loads(call.arguments) for call in made] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({call.id for call in made}) == 2
    stage.play(FINE.scenario(CHAT, stream=lane.stream))
    results = {made[1].id: "rain", made[0].id: "snow"}
    turns = [*begun(lane.client), *step(lane.client, list(made), results)]
    stage.ask(lane, **conversation(lane.client, turns), tools=tools(lane.client, "get_weather"))
    _, said, first, second = stage.asked["messages"]
    told = {first["tool_call_id"]: first["content"], second["tool_call_id"]: second["content"]}
    assert [told[call["id"]] for call in said["tool_calls"]] == ["snow", "rain"]


@pytest.mark.fidelity(57)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=MESSAGES))
def test_odd_tool_names_are_rewritten_and_restored(stage: Stage, lane: Lane) -> None:
    """A name with a dot is legal upstream in declaration, history and choice, and its own again in the answer."""
    calls = [Call(id="call_1", name="ns.read", arguments="{}")]
    asked: dict[str, Any] = {
        "messages": [USER, *step(CHAT, calls, {"call_1": "text"})],
        "tools": tools(CHAT, "ns.read", "other"),
        "tool_choice": {"type": "function", "function": {"name": "ns.read"}},
    }

    def answer(received: Any) -> Any:
        name = received.json()["tools"][0]["name"]
        return Reply(calls=(Call(id="call_2", name=name, arguments="{}"),)).scenario(MESSAGES, stream=lane.stream)

    stage.play(answer)
    seen = stage.ask(lane, **asked)
    assert [call.name for call in seen.calls] == ["ns.read"]
    rewritten = stage.asked["tools"][0]["name"]
    assert rewritten not in {"ns.read", "other"}
    assert stage.asked["messages"][1]["content"][0]["name"] == rewritten
    assert stage.asked["tool_choice"] == {"type": "tool", "name": rewritten}


@pytest.mark.parametrize(
    "lane", [lane for other in (CHAT, RESPONSES, MESSAGES) for lane in pairs(client=GEMINI, upstream=other)]
)
@pytest.mark.parametrize("names", [("one", "nope"), ("one", "two", "nope")], ids=["some", "all"])
def test_a_list_with_an_unknown_name_is_refused_by_name(stage: Stage, lane: Lane, names: tuple[str, ...]) -> None:
    """Also where it names all the tools there are beside it, as Google itself does."""
    asked = {**QUESTION[GEMINI], "tools": tools(GEMINI, "one", "two"), "tool_config": chosen("ANY", *names)}
    with pytest.raises(ClientError, match="'nope' is chosen but not declared"):
        stage.ask(lane, **asked)
    assert stage.upstream.requests == []


@pytest.mark.parametrize("lane", pairs(client=RESPONSES, upstream=MESSAGES))
def test_an_emulated_tool_without_description_sends_none(stage: Stage, lane: Lane) -> None:
    """Anthropic refuses a null."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    stage.ask(lane, **QUESTION[RESPONSES], tools=[{"type": "custom", "name": "patch"}])
    [tool] = stage.asked["tools"]
    assert "description" not in tool
