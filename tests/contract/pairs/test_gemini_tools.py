"""Tools where one side is Gemini: its schemas, its choices, its calls without ids and its results in one content."""

import json
from typing import Any

import openai
import pytest
from google.genai import errors

from llmproxy_asgi.testing import Scenario, json_answer, sse_answer
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Call, PairHarness, ProtocolPair, Reply
from support.pairs.asks import (
    QUESTION,
    WEATHER_SCHEMA,
    begun,
    chat_tool,
    conversation,
    messages_tool,
    step,
    tool_result,
    tool_use,
    tools,
)
from support.pairs.gemini_asks import STAND_IN, declared, function_response, functions, model, user
from support.pairs.gemini_wires import gemini_chunk, gemini_chunks, gemini_whole, signature
from support.pairs.parameters import all_pairs, pairs

FINE = Reply(texts=("Fine.",))
USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}


def call(city: str, **more: Any) -> dict[str, Any]:
    """A call by Gemini, which gave it no id unless `more` has one."""
    return {"functionCall": {"name": "get_weather", "args": {"city": city}, **more}}


def ended(*frames: bytes, finish: str = "STOP") -> Scenario:
    """These chunks, and a last one with an empty text that tells why it ended."""
    return sse_answer([*frames, gemini_chunk({"text": ""}, finish=finish, usage={"promptTokenCount": 3})])


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(40)
@pytest.mark.parametrize("together", [True, False], ids=["one-chunk", "two-chunks"])
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI, streams=(True,)))
def test_parallel_calls_are_counted_from_nought(harness: PairHarness, pair: ProtocolPair, together: bool) -> None:
    """Two calls, in one chunk or in two, are calls nought and one, and the answer ends once, for its calls."""
    oslo, kyoto = call("Oslo", id="a"), call("京都", id="b")
    frames = [gemini_chunk(oslo, kyoto)] if together else [gemini_chunk(oslo), gemini_chunk(kyoto)]
    harness.play(ended(*frames))
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
    assert [(made.id, json.loads(made.arguments)) for made in answer.calls] == [
        ("a", {"city": "Oslo"}),
        ("b", {"city": "京都"}),
    ]
    choices = [choice for chunk in answer.events for choice in chunk.choices]
    assert {entry.index for choice in choices for entry in choice.delta.tool_calls or ()} == {0, 1}
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]


@pytest.mark.fidelity(40)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI, streams=(False,)))
def test_parallel_calls_of_a_whole_answer(harness: PairHarness, pair: ProtocolPair) -> None:
    """The same where it comes in one piece, although Google's word for its end is that of any answer."""
    harness.play(json_answer(200, gemini_whole(call("Oslo", id="a"), call("京都", id="b"))))
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
    assert [made.id for made in answer.calls] == ["a", "b"]
    assert answer.finish == "tool_calls"


ENDS = {
    CHAT: {"STOP": "tool_calls", "MAX_TOKENS": "length"},
    RESPONSES: {"STOP": "completed", "MAX_TOKENS": "incomplete"},
    MESSAGES: {"STOP": "tool_use", "MAX_TOKENS": "max_tokens"},
    GEMINI: {"STOP": "STOP", "MAX_TOKENS": "MAX_TOKENS"},
}


@pytest.mark.fidelity(41)
@pytest.mark.parametrize("native", ["STOP", "MAX_TOKENS"])
@pytest.mark.parametrize("client", ENDS)
def test_a_stop_behind_a_call_asks_for_the_call(harness: PairHarness, client: str, native: str) -> None:
    """The reason comes in a later chunk than the call, with an empty text: a stop is the call's, a limit stays one."""
    pair = ProtocolPair(client=client, upstream=GEMINI, stream=True)
    harness.play(ended(gemini_chunk(call("Oslo", id="a")), finish=native))
    answer = harness.ask(pair, **QUESTION[client], tools=tools(client, "get_weather"))
    assert answer.finish == ENDS[client][native]
    assert answer.text == ""
    assert [made.name for made in answer.calls] == ["get_weather"]


@pytest.mark.fidelity(41)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI, streams=(True,)))
def test_a_last_chunk_without_content_ends_the_answer(harness: PairHarness, pair: ProtocolPair) -> None:
    """The chunk with the reason may have no content at all."""
    harness.play(sse_answer([gemini_chunk(call("Oslo", id="a")), gemini_chunk(finish="STOP")]))
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
    assert (answer.finish, len(answer.calls)) == ("tool_calls", 1)


@pytest.mark.fidelity(48)
@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_calls_without_ids_get_some_that_stay(harness: PairHarness, client: str, stream: bool) -> None:
    """Two equal calls have different ids, the same in each event, and results under these ids find their calls."""
    pair = ProtocolPair(client=client, upstream=GEMINI, stream=stream)
    parts = [{**call("Oslo"), "thoughtSignature": signature("one")}, call("Oslo")]
    harness.play(sse_answer(gemini_chunks(*parts)) if stream else json_answer(200, gemini_whole(*parts)))
    answer = harness.ask(pair, **QUESTION[client], tools=tools(client, "get_weather"))
    first, second = answer.calls
    assert first.id != second.id
    assert all(made.id.replace("_", "").replace("-", "").isalnum() and len(made.id) <= 64 for made in answer.calls)
    harness.play(FINE.scenario(GEMINI, stream=stream))
    turns = [*begun(client), *step(client, [first, second], {second.id: "rain", first.id: "snow"})]
    harness.ask(pair, **conversation(client, turns), tools=tools(client, "get_weather"))
    _, said, answered = harness.asked["contents"]
    assert [part["functionCall"]["id"] for part in said["parts"]] == [first.id, second.id]
    assert [part["functionResponse"] for part in answered["parts"]] == [
        {"id": first.id, "name": "get_weather", "response": {"output": "snow"}},
        {"id": second.id, "name": "get_weather", "response": {"output": "rain"}},
    ]


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(44)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_results_in_any_order_are_one_content(harness: PairHarness, pair: ProtocolPair) -> None:
    """Three results in mixed order are one content in the calls' order, each with its call's name and id."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    calls = [Call(id=f"call_{name}", name=name, arguments='{"city":"Oslo"}') for name in ("one", "two", "three")]
    results = {"call_three": "C", "call_one": "A", "call_two": "B"}
    turns = [USER, *step(CHAT, calls, results), {"role": "user", "content": "Go on."}]
    harness.ask(pair, messages=turns, tools=tools(CHAT, "one", "two", "three"))
    _, said, answered = harness.asked["contents"]
    assert said["role"] == "model"
    assert [part["functionCall"]["name"] for part in said["parts"]] == ["one", "two", "three"]
    assert answered == user(
        function_response("call_one", "one", {"output": "A"}),
        function_response("call_two", "two", {"output": "B"}),
        function_response("call_three", "three", {"output": "C"}),
        "Go on.",
    )


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_result_that_is_json_is_a_value(harness: PairHarness, pair: ProtocolPair) -> None:
    """What parses is the value, with its spelling; words are words, also where they stand in quotes."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    calls = [Call(id=f"call_{number}", name="get_weather", arguments="{}") for number in range(3)]
    results = {"call_0": '{"degrees": -3.50}', "call_1": '"snow"', "call_2": "3 degrees"}
    harness.ask(pair, messages=[USER, *step(CHAT, calls, results)], tools=tools(CHAT, "get_weather"))
    answered = [part["functionResponse"]["response"] for part in harness.asked["contents"][-1]["parts"]]
    assert answered == [{"output": {"degrees": -3.5}}, {"output": '"snow"'}, {"output": "3 degrees"}]
    assert b"-3.50" in harness.received.body


@pytest.mark.fidelity(45)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=GEMINI))
def test_a_failed_tool_is_an_error_for_gemini(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic's flag is the key `error` of Google's response."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    turns: list[Any] = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1"), tool_use("toolu_2")]},
        {
            "role": "user",
            "content": [tool_result("toolu_1", "no such city", is_error=True), tool_result("toolu_2", "snow")],
        },
    ]
    harness.ask(pair, messages=turns, tools=[messages_tool()])
    responses = [part["functionResponse"]["response"] for part in harness.asked["contents"][2]["parts"]]
    assert responses == [{"error": "no such city"}, {"output": "snow"}]


FAILED = [
    *[user("How is the weather?"), model({**call("Oslo", id="call_1"), "thoughtSignature": STAND_IN})],
    user(function_response("call_1", "get_weather", {"error": "no such city"})),
]


@pytest.mark.fidelity(45)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=MESSAGES))
def test_geminis_error_is_a_failed_tool_for_claude(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back."""
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    harness.ask(pair, contents=FAILED, tools=tools(GEMINI, "get_weather"))
    [result] = harness.asked["messages"][2]["content"]
    assert (result["tool_use_id"], result["is_error"]) == ("call_1", True)
    assert "no such city" in json.dumps(result["content"])


@pytest.mark.fidelity(45)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=CHAT))
def test_geminis_error_is_words_for_chat(harness: PairHarness, pair: ProtocolPair) -> None:
    """Chat has no flag for it."""
    harness.play(FINE.scenario(CHAT, stream=pair.stream))
    harness.ask(pair, contents=FAILED, tools=tools(GEMINI, "get_weather"))
    assert harness.asked["messages"][2] == {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": "[tool error] no such city",
    }


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_results_without_ids_find_their_calls(harness: PairHarness, upstream: str, stream: bool) -> None:
    """Older clients of Google's send neither ids with calls nor with results; the names say what belongs together."""
    pair = ProtocolPair(client=GEMINI, upstream=upstream, stream=stream)
    harness.play(FINE.scenario(upstream, stream=stream))
    answered = [
        {"functionResponse": {"name": name, "response": {"output": name.upper()}}} for name in ("two", "one", "two")
    ]
    calls = [{"functionCall": {"name": name, "args": {"city": "Oslo"}}} for name in ("one", "two", "two")]
    contents = [user("How is the weather?"), model(*calls), user(*answered)]
    harness.ask(pair, contents=contents, tools=tools(GEMINI, "one", "two"))
    if upstream == CHAT:
        _, said, *results = harness.asked["messages"]
        made = [(each["id"], each["function"]["name"]) for each in said["tool_calls"]]
        found = [(each["tool_call_id"], each["content"]) for each in results]
    elif upstream == RESPONSES:
        items = harness.asked["input"]
        made = [(each["call_id"], each["name"]) for each in items if each.get("type") == "function_call"]
        found = [(each["call_id"], each["output"]) for each in items if each.get("type") == "function_call_output"]
    else:
        _, said, results = harness.asked["messages"]
        made = [(each["id"], each["name"]) for each in said["content"]]
        found = [(each["tool_use_id"], text_of(each["content"])) for each in results["content"]]
    assert [name for _, name in made] == ["one", "two", "two"]
    assert len({call_id for call_id, _ in made}) == 3
    assert found == [(call_id, name.upper()) for call_id, name in made]


def text_of(content: Any) -> str:
    """A result's text, whichever way it is written."""
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────────

WIDE: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "place": {"$ref": "#/$defs/place"},
        "unit": {"const": "celsius"},
        "note": {"type": ["string", "null"], "description": "Anything."},
        "sky": {"type": ["string", "null"], "enum": ["grey", "blue", "", None]},
        "days": {"type": "integer", "exclusiveMinimum": 0, "multipleOf": 1},
        "tags": {"type": "array", "uniqueItems": True},
        "either": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    },
    "required": ["place"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string", "minLength": 1}},
            "required": ["name"],
            "$comment": "where",
        }
    },
}


@pytest.mark.fidelity(51)
@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_schema_with_everything_is_taken_and_means_the_same(harness: PairHarness, client: str, stream: bool) -> None:
    """Reference, constant, null as type and value, exclusive bound, bare array: rewritten in words of Google's."""
    pair = ProtocolPair(client=client, upstream=GEMINI, stream=stream)
    harness.play(FINE.scenario(GEMINI, stream=stream))
    flat = {"type": "function", "name": "look", "parameters": WIDE, "strict": False}
    tool = {CHAT: chat_tool("look", WIDE), RESPONSES: flat, MESSAGES: messages_tool("look", WIDE)}[client]
    harness.ask(pair, **QUESTION[client], tools=[tool])
    [function] = harness.asked["tools"][0]["functionDeclarations"]
    schema = function["parametersJsonSchema"]
    fields = schema["properties"]
    assert schema["required"] == ["place"]
    assert schema["additionalProperties"] is False
    assert fields["place"] == {"$ref": "#/$defs/place"}
    assert schema["$defs"]["place"]["required"] == ["name"]
    assert schema["$defs"]["place"]["properties"]["name"]["type"] == "string"
    assert (fields["unit"]["type"], fields["unit"]["enum"]) == ("string", ["celsius"])
    assert fields["note"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert fields["note"]["description"] == "Anything."
    assert fields["sky"]["anyOf"] == [{"type": "string", "enum": ["grey", "blue"]}, {"type": "null"}]
    assert (fields["days"]["type"], fields["days"]["minimum"]) == ("integer", 1)
    assert fields["tags"]["items"] == {}
    assert fields["either"]["anyOf"] == [{"type": "string"}, {"type": "number"}]


@pytest.mark.fidelity(51)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_tool_that_google_cannot_take_is_named(harness: PairHarness, pair: ProtocolPair) -> None:
    """Parameters that are no object are a 400 that names the tool, not one that names nothing from upstream."""
    with pytest.raises(openai.BadRequestError, match="shout") as refused:
        harness.ask(pair, **QUESTION[CHAT], tools=[chat_tool("shout", {"type": "string"})])
    assert refused.value.param == "tools"
    assert harness.upstream.requests == []


OWN: dict[str, Any] = {
    "type": "OBJECT",
    "properties": {
        "city": {"type": "STRING", "nullable": True, "description": "Where.", "example": "Oslo"},
        "days": {"type": "INTEGER", "minimum": 1},
        "tags": {"type": "ARRAY", "items": {"type": "STRING", "enum": ["a", "b"], "format": "enum"}},
        "mixed": {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}]},
    },
    "required": ["city"],
    "propertyOrdering": ["city", "days", "tags", "mixed"],
}


@pytest.mark.fidelity(52)
@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_googles_own_schemas_are_json_schema_elsewhere(harness: PairHarness, upstream: str, stream: bool) -> None:
    """Upper-case types, `nullable` and `propertyOrdering` become what a validator of JSON Schema reads."""
    pair = ProtocolPair(client=GEMINI, upstream=upstream, stream=stream)
    harness.play(FINE.scenario(upstream, stream=stream))
    harness.ask(pair, **QUESTION[GEMINI], tools=functions({"name": "look", "description": "Looks.", "parameters": OWN}))
    [tool] = harness.asked["tools"]
    schema = tool.get("input_schema") or tool.get("function", tool)["parameters"]
    assert schema["type"] == "object"
    assert schema["required"] == ["city"]
    assert "propertyOrdering" not in schema
    fields = schema["properties"]
    assert fields["city"] == {"type": ["string", "null"], "description": "Where."}
    assert fields["days"] == {"type": "integer", "minimum": 1}
    assert (fields["tags"]["type"], fields["tags"]["items"]["enum"]) == ("array", ["a", "b"])
    assert fields["mixed"] == {"anyOf": [{"type": "string"}, {"type": "number"}]}


@pytest.mark.fidelity(52)
@pytest.mark.parametrize("pair", pairs(client=GEMINI))
def test_the_sdks_own_functions_are_declared(harness: PairHarness, pair: ProtocolPair) -> None:
    """A Python function that Google's SDK turns into a declaration reaches every upstream, and is called."""

    def get_weather(city: str) -> str:
        """Looks out of the window."""
        return city

    made = Call(id="call_1", name="get_weather", arguments='{"city": "Oslo"}')
    harness.play(Reply(calls=(made,)).scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[GEMINI], tools=[get_weather])
    assert [(each.name, json.loads(each.arguments)) for each in answer.calls] == [("get_weather", {"city": "Oslo"})]


# ── choices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(55)
@pytest.mark.parametrize(("mode", "native"), [("auto", "VALIDATED"), ("required", "ANY")])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_allowed_tools_are_googles_own_list(harness: PairHarness, pair: ProtocolPair, mode: str, native: str) -> None:
    """All tools stay declared, and two of them are allowed: a model that may call, or one that must."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    names = [{"type": "function", "function": {"name": name}} for name in ("one", "three")]
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": names}}
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "one", "two", "three"), tool_choice=choice)
    assert harness.asked["toolConfig"] == {
        "functionCallingConfig": {"mode": native, "allowedFunctionNames": ["one", "three"]}
    }
    assert len(harness.asked["tools"][0]["functionDeclarations"]) == 3
    assert answer.warnings == []


ONE_CALL: dict[str, dict[str, Any]] = {
    CHAT: {"parallel_tool_calls": False},
    RESPONSES: {"parallel_tool_calls": False},
    MESSAGES: {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
}


@pytest.mark.fidelity(53)
@pytest.mark.parametrize("pair", [pair for client in ONE_CALL for pair in pairs(client=client, upstream=GEMINI)])
def test_google_cannot_forbid_parallel_calls(harness: PairHarness, pair: ProtocolPair) -> None:
    """Gemini has no such switch: it is dropped with a warning."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tools(pair.client, "one"), **ONE_CALL[pair.client])
    assert answer.warnings == ["dropped:parallel_tool_calls"]


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_free_text_tools_go_as_functions_and_come_back_as_free_text(harness: PairHarness, pair: ProtocolPair) -> None:
    """A `custom` tool is a function with one text; its call is a custom call again."""
    part = {"functionCall": {"id": "a", "name": "shell", "args": {"input": "ls -l"}}}
    harness.play(sse_answer(gemini_chunks(part)) if pair.stream else json_answer(200, gemini_whole(part)))
    tool = {"type": "custom", "custom": {"name": "shell", "description": "Runs."}}
    request = {"model": harness.model(pair), **QUESTION[CHAT], "tools": [tool], "stream": pair.stream}
    seen = harness.post(pair, request)
    assert seen.status_code == 200, seen.text
    assert "ls -l" in seen.text
    assert '"custom"' in seen.text
    [function] = harness.asked["tools"][0]["functionDeclarations"]
    assert list(function["parametersJsonSchema"]["properties"]) == ["input"]


# ── Google's own tools ───────────────────────────────────────────────────────────────────────────────────────────────

SEARCHED: list[dict[str, Any]] = [
    {"toolCall": {"id": "s1", "toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["雪 Oslo"]}},
     "thoughtSignature": signature("search")},
    {"toolResponse": {"id": "s1", "toolType": "GOOGLE_SEARCH_WEB", "response": {"found": 1.50}}},
    {**call("Oslo", id="call_1"), "thoughtSignature": signature("call")},
]  # fmt: skip


@pytest.mark.fidelity(58)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, upstream=GEMINI))
def test_googles_own_tools_beside_functions(harness: PairHarness, pair: ProtocolPair) -> None:
    """Calls of its own tools, their results and all signatures come to the SDK, and go back to Google as they were."""
    harness.play(sse_answer(gemini_chunks(*SEARCHED)) if pair.stream else json_answer(200, gemini_whole(*SEARCHED)))
    asked: dict[str, Any] = {
        "tools": [*tools(GEMINI, "get_weather"), {"googleSearch": {}}],
        "tool_config": {"include_server_side_tool_invocations": True},
    }
    first = harness.ask(pair, **QUESTION[GEMINI], **asked)
    # The text of the chunk that only told the end: Google's own clients send it back, too.
    harness.play(FINE.scenario(GEMINI, stream=pair.stream), allow=("empty-text",))
    result = user(function_response("call_1", "get_weather", {"output": "snow"}))
    harness.ask(pair, contents=[*begun(GEMINI), first.whole.candidates[0].content, result], **asked)
    sent = [camelled(part) for part in harness.asked["contents"][1]["parts"] if part.get("text") != ""]
    assert sent == SEARCHED
    assert harness.asked["toolConfig"] == {"includeServerSideToolInvocations": True}


def camelled(part: dict[str, Any]) -> dict[str, Any]:
    """A part as Google writes it: the SDK may spell its keys and its base64 in the other way."""
    kind = next(key for key in part if key.startswith(("tool", "function")))
    made = {kind: {"toolType" if key == "tool_type" else key: value for key, value in part[kind].items()}}
    state = part.get("thoughtSignature") or part.get("thought_signature")
    return {**made, **({"thoughtSignature": state.replace("-", "+").replace("_", "/")} if state else {})}


@pytest.mark.fidelity(58)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_search_beside_functions_sets_googles_flag(harness: PairHarness, pair: ProtocolPair) -> None:
    """Google refuses its own tools beside functions without a flag that no other protocol has: we set it."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"), web_search_options={})
    assert {"googleSearch": {}} in harness.asked["tools"]
    assert harness.asked["toolConfig"]["includeServerSideToolInvocations"] is True


@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=CHAT))
def test_a_tool_that_only_google_runs_is_refused(harness: PairHarness, pair: ProtocolPair) -> None:
    """Only Google executes code: elsewhere a 400, without an upstream call."""
    with pytest.raises(errors.ClientError) as refused:
        harness.ask(pair, **QUESTION[GEMINI], tools=[{"codeExecution": {}}])
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert harness.upstream.requests == []


def test_schemas_of_functions_reach_google_as_they_are(harness: PairHarness) -> None:
    """What Google takes needs no rewriting: the schema of an ordinary tool is the same on both sides."""
    pair = ProtocolPair(client=CHAT, upstream=GEMINI)
    harness.play(FINE.scenario(GEMINI, stream=False))
    answer = harness.ask(pair, **QUESTION[CHAT], tools=tools(CHAT, "get_weather"))
    assert harness.asked["tools"] == functions(declared("get_weather", WEATHER_SCHEMA))
    assert answer.warnings == []
