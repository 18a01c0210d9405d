"""Requests of other protocols, as they go to a Chat Completions upstream: what is written, and every loss by name."""

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings

from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.conversation import (
    CacheMark,
    CacheOptions,
    Grammar,
    InlineData,
    Link,
    Media,
    Message,
    Opaque,
    OutputFormat,
    Part,
    PlainText,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    Sampling,
    Seal,
    ServerToolCall,
    ServiceTier,
    StoredFile,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest, Unsupported
from support.conversations import requests
from support.wires.openai_chat import OUTBOUND, encoded, upstream

ASKS = Message(role="user", parts=(Text(text="Hello"),))
TOOL = Tool(name="f", parameters={"type": "object"})
PNG = "iVBORw0KGgoAAAA="


def request(*messages: Message, protocol: str = "anthropic-messages", **fields: Any) -> Request:
    """A request of another protocol."""
    return Request(protocol=protocol, model="smart", messages=messages or (ASKS,), **fields)


def user(*parts: Part) -> Message:
    """A user's turn."""
    return Message(role="user", parts=parts)


def model(*parts: Part) -> Message:
    """A turn of the model."""
    return Message(role="assistant", parts=parts)


def system(text: str, **fields: Any) -> Message:
    """An instruction."""
    return Message(role="system", parts=(Text(text=text),), **fields)


def results(*parts: ToolResult) -> Message:
    """What tools gave back."""
    return Message(role="tool", parts=parts)


def messages(*turns: Message, **options: Any) -> list[dict[str, Any]]:
    """Turns as they go upstream."""
    found: list[dict[str, Any]] = encoded(request(*turns), **options)[0]["messages"]
    return found


def test_a_plain_request() -> None:
    """The least that can be said: model and messages, one text as a string."""
    assert encoded(request()) == ({"model": "big-1", "messages": [{"role": "user", "content": "Hello"}]}, ())


def test_streams_ask_for_usage() -> None:
    """A streamed request always asks for usage, where the server knows how."""
    assert encoded(request(stream=True))[0]["stream_options"] == {"include_usage": True}
    assert "stream_options" not in encoded(request(stream=True), stream_usage=False)[0]


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_instructions_stay_in_place() -> None:
    """Every instruction keeps its place; its role is what the model understands, and nothing is lost."""
    turns = (system("a"), system("b", authority="system"), ASKS, system("c", authority="developer"), ASKS)
    assert [each["role"] for each in messages(*turns)] == ["developer", "system", "user", "developer", "user"]
    assert [each["role"] for each in messages(*turns, developer_role=False)] == [
        "system",
        "system",
        "user",
        "system",
        "user",
    ]
    body, warnings = encoded(request(*turns), system_midway=False)
    assert body["messages"][3:] == [
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "Hello"}]}
    ]
    assert warnings == ("downgraded:system_message",)


def test_empty_texts_are_left_out() -> None:
    """An empty text is no part, a turn without parts is no message, and calls stand with null content."""
    call = ToolCall(call_id="c", name="f")
    found = messages(
        ASKS,
        model(Text(text="")),
        user(Text(text=""), Text(text="x")),
        model(Text(text=""), call),
        results(ToolResult(call_id="c")),
    )
    assert [each["role"] for each in found] == ["user", "user", "assistant", "tool"]
    assert found[1]["content"] == "x"
    assert found[2]["content"] is None
    assert found[3]["content"] == ""


def test_the_models_texts_are_one_string() -> None:
    """What the model said is joined, its refusal stands apart, and names are kept."""
    found = messages(ASKS, Message(role="assistant", parts=(Text(text="a"), Text(text="b")), name="bob"), ASKS)
    assert found[1] == {"role": "assistant", "content": "ab", "name": "bob"}
    found = messages(ASKS, model(Refusal(text="no")), ASKS)
    assert found[1] == {"role": "assistant", "content": None, "refusal": "no"}


def test_a_trailing_turn_of_the_model_is_refused() -> None:
    """A prefill of another protocol is refused, as the model would repeat it."""
    with pytest.raises(Unsupported) as refused:
        encoded(request(ASKS, model(Text(text="Once"))))
    assert refused.value.param == "messages"
    own = request(ASKS, model(Text(text="Once")), protocol="openai-chat")
    assert encoded(own)[0]["messages"][1]["content"] == "Once"
    with pytest.raises(Unsupported):
        encoded(own, prefill=False)


# ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def media(kind: Any, source: Any, **fields: Any) -> Media:
    """A picture, a sound or a document."""
    return Media(kind=kind, source=source, **fields)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            media("image", InlineData(data=PNG), media_type="image/jpeg", detail="high"),
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}},
        ),
        (
            media("image", Link(url="https://example.org/a")),
            {"type": "image_url", "image_url": {"url": "https://example.org/a"}},
        ),
        (
            media("audio", InlineData(data="AAAA"), media_type="audio/x-wav"),
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ),
        (
            media("document", InlineData(data="JVBE"), media_type="application/pdf", title="Report"),
            {"type": "file", "file": {"filename": "Report", "file_data": "data:application/pdf;base64,JVBE"}},
        ),
        (
            media("document", StoredFile(protocol="openai-chat", id="file-1")),
            {"type": "file", "file": {"file_id": "file-1"}},
        ),
        (Opaque(protocol="openai-chat", kind="x", data={"type": "x", "a": 1}), {"type": "x", "a": 1}),
    ],
)
def test_media(part: Part, expected: dict[str, Any]) -> None:
    """Pictures, sounds and documents are written as parts, by their true type."""
    body, warnings = encoded(request(user(Text(text="see"), part)))
    assert body["messages"][0]["content"][1] == expected
    assert warnings == ()


def test_documents_in_words() -> None:
    """A plain-text document becomes text headed by its title, with a warning."""
    for source, kind in ((PlainText(text="words"), None), (InlineData(data="d29yZHM="), "text/plain")):
        document = media("document", source, media_type=kind, title="Title", context="Context")
        body, warnings = encoded(request(user(document)))
        assert body["messages"][0]["content"] == "Title\n\nContext\n\nwords"
        assert warnings == ("downgraded:document",)


@pytest.mark.parametrize(
    ("part", "options"),
    [
        (media("document", Link(url="https://example.org/a.pdf")), {}),
        (media("document", StoredFile(protocol="anthropic-messages", id="f")), {}),
        (media("document", InlineData(data="JVBE")), {"documents": False}),
        (media("image", StoredFile(protocol="gemini", id="f")), {}),
        (media("image", InlineData(data=PNG)), {"images": False}),
        (media("audio", InlineData(data="AAAA"), media_type="audio/ogg"), {}),
        (media("audio", InlineData(data="AAAA"), media_type="audio/wav"), {"audio": False}),
        (media("video", InlineData(data="AAAA")), {}),
    ],
)
def test_what_the_model_cannot_see_is_refused(part: Part, options: dict[str, Any]) -> None:
    """A file that the upstream would not get makes the answer wrong, so the request is refused."""
    with pytest.raises(Unsupported) as refused:
        encoded(request(user(part)), **options)
    assert refused.value.param == "messages"


def test_media_of_results_move_behind_the_batch() -> None:
    """Tool messages keep their text; all media follow in one user message, headed by their calls."""
    picture = media("image", Link(url="https://example.org/a"))
    found, warnings = encoded(
        request(
            ASKS,
            model(ToolCall(call_id="a", name="f"), ToolCall(call_id="b", name="f")),
            results(
                ToolResult(call_id="a", content=(Text(text="one"), picture)),
                ToolResult(call_id="b", content=(picture,)),
            ),
            ASKS,
        )
    )
    shown = {"type": "image_url", "image_url": {"url": "https://example.org/a"}}
    assert found["messages"][2:] == [
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "[a]"}, shown, {"type": "text", "text": "[b]"}, shown]},
        {"role": "user", "content": "Hello"},
    ]
    assert warnings == ("moved:tool_result_media",)


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_calls_and_results() -> None:
    """Arguments go as their very text, results in the order of their calls, errors with a prefix."""
    found = messages(
        ASKS,
        model(
            Text(text="look"),
            ToolCall(call_id="a", name="f", arguments='{ "x" : 1.0 }'),
            ToolCall(call_id="b", name="p", arguments="raw", kind="custom"),
        ),
        results(
            ToolResult(call_id="b", content=(Text(text="2"),), is_error=True),
            ToolResult(call_id="a", content=(Text(text="1"), Text(text="1"))),
        ),
    )
    assert found[1]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{ "x" : 1.0 }'}},
        {"id": "b", "type": "custom", "custom": {"name": "p", "input": "raw"}},
    ]
    assert found[2]["content"] == [{"type": "text", "text": "1"}, {"type": "text", "text": "1"}]
    assert found[3] == {"role": "tool", "tool_call_id": "b", "content": "[tool error] 2"}


def test_orphans() -> None:
    """A call that was never answered gets an error result; a result without a call is refused."""
    body, warnings = encoded(request(ASKS, model(ToolCall(call_id="a", name="f")), ASKS))
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "a", "content": "[tool error] [no result]"}
    assert warnings == ("emulated:tool_result",)
    with pytest.raises(BadRequest):
        encoded(request(ASKS, results(ToolResult(call_id="zzz"))))


def test_names_and_ids_are_made_legal_and_found_again() -> None:
    """Dotted names and long ids are rewritten alike in tools, history and choice, and the way back is kept."""
    call_id = "toolu." + "x" * 80
    upstream_request = OUTBOUND.encode(
        request(
            ASKS,
            model(ToolCall(call_id=call_id, name="ns.read")),
            results(ToolResult(call_id=call_id)),
            tools=(Tool(name="ns.read"),),
            tool_choice=ToolChoice(mode="required", only=("ns.read",), given=True),
        ),
        upstream(),
    )
    body = msgspec.json.decode(upstream_request.body)
    name = body["tools"][0]["function"]["name"]
    sent = body["messages"][1]["tool_calls"][0]
    assert body["tool_choice"] == {"type": "function", "function": {"name": name}}
    assert sent["function"]["name"] == name
    assert upstream_request.names == {name: "ns.read"}
    assert upstream_request.call_ids == {sent["id"]: call_id}
    assert body["messages"][2]["tool_call_id"] == sent["id"]
    assert len(sent["id"]) <= 64


NOTHING = {"type": "object", "properties": {}}


def test_tools() -> None:
    """Functions and custom tools are declared as they came, `strict` only if it was said and is understood."""
    grammar = Grammar(syntax="lark", definition="start: X")
    tools = (
        Tool(name="f", description="d", parameters={"type": "object"}, strict=False),
        Tool(name="g"),
        Tool(name="p", kind="custom", grammar=grammar),
    )
    body, warnings = encoded(request(tools=tools))
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": NOTHING, "strict": False},
        },
        {"type": "function", "function": {"name": "g", "parameters": NOTHING}},
        {
            "type": "custom",
            "custom": {
                "name": "p",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}},
            },
        },
    ]
    assert warnings == ()
    assert "strict" not in encoded(request(tools=tools), strict_tools=False)[0]["tools"][0]["function"]


def test_custom_tools_without_a_native_form() -> None:
    """A custom tool becomes a function with one string, in the history and for the decoder as well."""
    tool = Tool(name="p", kind="custom", description="d", grammar=Grammar(syntax="lark", definition="start: X"))
    call = ToolCall(call_id="c", name="p", arguments='a"b', kind="custom")
    upstream_request = OUTBOUND.encode(
        request(ASKS, model(call), results(ToolResult(call_id="c")), tools=(tool,)), upstream(custom_tools=False)
    )
    body = msgspec.json.decode(upstream_request.body)
    declared = body["tools"][0]["function"]
    assert declared["parameters"]["required"] == ["input"]
    assert "start: X" in declared["description"]
    sent = body["messages"][1]["tool_calls"][0]["function"]
    assert msgspec.json.decode(sent["arguments"]) == {"input": 'a"b'}
    assert upstream_request.emulated == {"p"}
    assert upstream_request.warnings == ("emulated:custom_tool",)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(), None),
        (ToolChoice(mode="auto", given=True), "auto"),
        (ToolChoice(mode="none", given=True), "none"),
        (ToolChoice(mode="required", given=True), "required"),
        (ToolChoice(mode="required", only=("f",)), {"type": "function", "function": {"name": "f"}}),
        (ToolChoice(mode="required", only=("p",)), {"type": "custom", "custom": {"name": "p"}}),
        (
            ToolChoice(mode="auto", only=("f", "p")),
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [
                        {"type": "function", "function": {"name": "f"}},
                        {"type": "custom", "custom": {"name": "p"}},
                    ],
                },
            },
        ),
    ],
)
def test_tool_choice(choice: ToolChoice, expected: object) -> None:
    """Every choice has its exact form."""
    tools = (TOOL, Tool(name="p", kind="custom"), Tool(name="q"))
    assert encoded(request(tools=tools, tool_choice=choice))[0].get("tool_choice") == expected


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_list_of_all_tools_is_no_list(mode: Literal["auto", "required"]) -> None:
    """All named is the bare mode, which every server knows."""
    tools = (TOOL, Tool(name="p", kind="custom"))
    choice = ToolChoice(mode=mode, only=("p", "f"), given=True)
    body, warnings = encoded(request(tools=tools, tool_choice=choice))
    assert (body["tool_choice"], len(body["tools"]), warnings) == (mode, 2, ())


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_servers_without_allowed_lists_get_fewer_tools(mode: Literal["auto", "required"]) -> None:
    """Servers that only resemble OpenAI know none, auto, required and one name: the others are not offered."""
    tools = (TOOL, Tool(name="g"), Tool(name="h"))
    choice = ToolChoice(mode=mode, only=("f", "h"), given=True)
    body, warnings = encoded(request(tools=tools, tool_choice=choice), allowed_tools=False)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f", "h"]
    assert (body["tool_choice"], warnings) == (mode, ("downgraded:tool_choice",))
    named = ToolChoice(mode="required", only=("g",), given=True)
    body, warnings = encoded(request(tools=tools, tool_choice=named), allowed_tools=False)
    assert (body["tool_choice"], len(body["tools"])) == ({"type": "function", "function": {"name": "g"}}, 3)
    assert warnings == ()


def test_a_choice_of_searching_forbids_functions() -> None:
    """Chat has no tool that searches: models that do always do, so that only the functions must be kept away."""
    tools = (TOOL, Tool(name="web_search", kind="server"))
    choice = ToolChoice(mode="required", only=("web_search",), given=True)
    body, warnings = encoded(request(tools=tools, tool_choice=choice))
    assert (body["tool_choice"], body["web_search_options"]) == ("none", {})
    assert warnings == ("downgraded:tool_choice",)


def test_a_choice_of_a_tool_that_is_not_declared_is_refused() -> None:
    """It names the tool."""
    with pytest.raises(Unsupported, match="'x'") as refused:
        encoded(request(tools=(TOOL,), tool_choice=ToolChoice(mode="required", only=("x",), given=True)))
    assert refused.value.param == "tool_choice"


def test_parallel_calls() -> None:
    """The switch for parallel calls is sent only beside tools, and only where it is understood."""
    choice = ToolChoice(parallel=False)
    assert encoded(request(tools=(TOOL,), tool_choice=choice))[0]["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in encoded(request(tool_choice=choice))[0]
    body, warnings = encoded(request(tools=(TOOL,), tool_choice=choice), parallel_tools=False)
    assert "parallel_tool_calls" not in body
    assert warnings == ("dropped:parallel_tool_calls",)


def test_models_that_refuse_to_be_forced() -> None:
    """A forced choice becomes auto over the named tools alone, with a warning."""
    choice = ToolChoice(mode="required", only=("f",), given=True)
    body, warnings = encoded(request(tools=(TOOL, Tool(name="g")), tool_choice=choice), forced_tool_choice=False)
    assert (body["tool_choice"], [tool["function"]["name"] for tool in body["tools"]]) == ("auto", ["f"])
    assert warnings == ("downgraded:tool_choice",)


def test_tools_of_the_upstream_itself() -> None:
    """Web search is mapped with its warnings; what does not exist here is refused; what came in this protocol stays."""
    place = {"type": "approximate", "city": "Köln"}
    search = Tool(name="web_search", kind="server", settings={"user_location": place, "allowed_domains": ["a"]})
    body, warnings = encoded(request(tools=(search,)))
    assert body["web_search_options"] == {"user_location": {"type": "approximate", "approximate": {"city": "Köln"}}}
    assert "tools" not in body
    assert warnings == ("dropped:allowed_domains",)
    with pytest.raises(Unsupported) as refused:
        encoded(request(tools=(Tool(name="computer", kind="server"),)))
    assert refused.value.param == "tools"
    native = Tool(name="x", kind="server", extras={"openai-chat": {"type": "x"}})
    assert encoded(request(tools=(native,)))[0]["tools"] == [{"type": "x"}]
    with pytest.raises(Unsupported):
        encoded(request(tools=(TOOL,)), tools=False)


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────

SIGNATURE = Seal(issuer="openrouter", kind="signature", data="sig")
HIDDEN = Seal(issuer="openrouter", kind="encrypted", data="enc", item_id="rs_1")
THOUGHT = Reasoning(text="hm", seals=(SIGNATURE,))


def thinking(*parts: Part, **options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A turn of the model with these parts, as it goes upstream."""
    body, warnings = encoded(request(ASKS, model(*parts, Text(text="x")), ASKS), **options)
    return body["messages"][1], warnings


def test_seals_return_to_their_issuer() -> None:
    """State is sent in its native form to the issuing route only."""
    found, warnings = thinking(THOUGHT, Reasoning(seals=(HIDDEN,)), issuer="openrouter")
    assert found["reasoning_details"] == [
        {"index": 0, "type": "reasoning.text", "text": "hm", "signature": "sig"},
        {"index": 1, "type": "reasoning.encrypted", "data": "enc", "id": "rs_1"},
    ]
    assert warnings == ()
    found, warnings = thinking(THOUGHT, issuer="other")
    assert found == {"role": "assistant", "content": "x"}
    assert warnings == ("dropped:reasoning",)


def test_the_vendor_itself_gets_no_state() -> None:
    """OpenAI's own Chat endpoint has no field for state, not even for its own."""
    native = Reasoning(text="hm", seals=(Seal(issuer="openai", kind="encrypted", data="e"),))
    found, warnings = thinking(native)
    assert found == {"role": "assistant", "content": "x"}
    assert warnings == ("dropped:reasoning",)


def test_readable_reasoning_goes_back_where_it_is_wanted() -> None:
    """Servers that take `reasoning_content` back get it; foreign sealed thought stays out even there."""
    assert thinking(Reasoning(text="hm"), reasoning_content=True)[0]["reasoning_content"] == "hm"
    found, warnings = thinking(THOUGHT, reasoning_content=True)
    assert "reasoning_content" not in found
    assert warnings == ("dropped:reasoning",)
    assert thinking(Reasoning(text="hm"))[1] == ("dropped:reasoning",)


def test_the_seal_of_a_call_goes_back_on_the_call() -> None:
    """Google's own endpoint gets the state of a call where it put it."""
    seal = Seal(issuer="gemini", kind="signature", data="c2ln")
    call = ToolCall(call_id="c", name="f", seals=(seal,))
    turns = (ASKS, model(call), results(ToolResult(call_id="c")))
    sent = messages(*turns, issuer="gemini")[1]["tool_calls"][0]
    assert sent["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert "extra_content" not in messages(*turns, issuer="other")[1]["tool_calls"][0]


@pytest.mark.parametrize(
    ("options", "efforts", "effort", "warnings"),
    [
        (ReasoningOptions(effort="high"), None, "high", ()),
        (ReasoningOptions(effort="max"), ("low", "high"), "high", ("clamped:reasoning_effort",)),
        (ReasoningOptions(effort="medium"), ("high", "low"), "low", ("clamped:reasoning_effort",)),
        (ReasoningOptions(effort="none"), ("low", "high"), "low", ("clamped:reasoning_effort",)),
        (ReasoningOptions(effort="high"), (), None, ("dropped:reasoning_effort",)),
        (ReasoningOptions(budget_tokens=0), None, "none", ()),
        (ReasoningOptions(budget_tokens=1023), None, "minimal", ()),
        (ReasoningOptions(budget_tokens=2048), None, "low", ()),
        (ReasoningOptions(budget_tokens=10_000), None, "medium", ()),
        (ReasoningOptions(budget_tokens=20_000), None, "high", ()),
        (ReasoningOptions(budget_tokens=40_000), None, "xhigh", ()),
        (ReasoningOptions(budget_tokens=-1), None, None, ()),
        (ReasoningOptions(), None, None, ()),
    ],
)
def test_efforts(
    options: ReasoningOptions, efforts: tuple[Effort, ...] | None, effort: str | None, warnings: tuple[str, ...]
) -> None:
    """Levels and budgets become the nearest level below that the model has; nothing is invented."""
    given = {} if efforts is None else {"efforts": efforts}
    body, said = encoded(request(reasoning=options), **given)
    assert (body.get("reasoning_effort"), said) == (effort, warnings)


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_limits() -> None:
    """The limit goes by the name that the server knows, cut to the model's ceiling."""
    assert encoded(request(max_output_tokens=9))[0]["max_completion_tokens"] == 9
    assert encoded(request(max_output_tokens=9), max_tokens_field="max_tokens")[0]["max_tokens"] == 9
    body, warnings = encoded(request(max_output_tokens=9), max_output_tokens=5)
    assert (body["max_completion_tokens"], warnings) == (5, ("clamped:max_tokens",))
    with pytest.raises(Unsupported):
        encoded(request(max_output_tokens=0))


def test_sampling() -> None:
    """Ranges are kept, models that refuse sampling get none of it, and top_k does not exist here."""
    sampling = Sampling(temperature=3.0, top_p=0.5, top_k=7)
    body, warnings = encoded(request(sampling=sampling))
    assert (body["temperature"], body["top_p"]) == (2.0, 0.5)
    assert warnings == ("clamped:temperature", "dropped:top_k")
    body, warnings = encoded(request(sampling=sampling), sampling="none")
    assert not {"temperature", "top_p", "top_k"} & body.keys()
    assert warnings == ("dropped:temperature", "dropped:top_p", "dropped:top_k")


def test_stops() -> None:
    """Four stops at most go out, the first ones, no empty one and none twice; the others are cut here."""
    body, warnings = encoded(request(stop=("a", "", "b", "c", "a", "d")))
    assert (body["stop"], warnings) == (["a", "b", "c", "d"], ())
    more = request(stop=("a", "", "b", "c", "d", "e", "f"))
    body, warnings = encoded(more)
    assert (body["stop"], warnings) == (["a", "b", "c", "d"], ("emulated:stop",))
    assert OUTBOUND.encode(more, upstream()).stop == ("e", "f")


def test_seeds_penalties_probabilities_and_candidates() -> None:
    """Options with an equivalent in this protocol are encoded."""
    sampling = Sampling(seed=7, frequency_penalty=1.0, presence_penalty=-1.0, logit_bias={"1": 2.0}, logprobs=0)
    body, warnings = encoded(request(sampling=sampling, candidates=2))
    assert (body["seed"], body["frequency_penalty"], body["presence_penalty"]) == (7, 1.0, -1.0)
    assert (body["logit_bias"], body["logprobs"], body["n"]) == ({"1": 2.0}, True, 2)
    assert "top_logprobs" not in body
    assert warnings == ()
    body, warnings = encoded(request(sampling=Sampling(logprobs=99)))
    assert (body["top_logprobs"], warnings) == (20, ("clamped:top_logprobs",))


CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("protocol", "schema", "strict", "expected"),
    [
        ("anthropic-messages", CLOSED, None, True),
        ("anthropic-messages", OPEN, None, False),
        ("gemini", {**CLOSED, "minProperties": 1}, None, False),
        ("gemini", CLOSED, False, False),
        ("openai-responses", CLOSED, None, None),
        ("openai-responses", OPEN, True, True),
    ],
)
def test_schemas(protocol: str, schema: dict[str, Any], strict: bool | None, expected: bool | None) -> None:
    """A schema gets a name, and is strict as it was said or, from protocols that always are, as far as it qualifies."""
    output = OutputFormat(kind="json_schema", schema=schema, strict=strict)
    form = encoded(request(protocol=protocol, output=output))[0]["response_format"]["json_schema"]
    assert (form["name"], form["schema"], form.get("strict")) == ("response", schema, expected)


def test_emulated_formats() -> None:
    """Where the model has no schemas or no JSON mode one instruction says it; JSON mode always speaks of JSON."""
    body, warnings = encoded(request(system("a"), ASKS, output=OutputFormat(kind="json")))
    assert body["response_format"] == {"type": "json_object"}
    assert "JSON" in body["messages"][1]["content"]
    assert warnings == ()
    said = encoded(request(user(Text(text="as json")), output=OutputFormat(kind="json")))[0]
    assert len(said["messages"]) == 1
    body, warnings = encoded(request(output=OutputFormat(kind="json")), json_mode=False)
    assert "response_format" not in body
    assert warnings == ("emulated:response_format",)
    body, warnings = encoded(request(output=OutputFormat(kind="json_schema", schema=OPEN)), structured_output=False)
    assert body["response_format"] == {"type": "json_object"}
    assert msgspec.json.encode(OPEN).decode() in body["messages"][0]["content"]
    assert warnings == ("emulated:response_format",)


def test_cache_marks() -> None:
    """Marks become breakpoints with their lifetimes, the last four of six, and vanish where they mean nothing."""
    lifetimes: list[Any] = [None, None, "5m", "1h", "24h", "30m"]
    parts = [Text(text=str(n), cache_mark=CacheMark(lifetime=each)) for n, each in enumerate(lifetimes)]
    body, warnings = encoded(request(user(*parts)))
    found = [each.get("prompt_cache_breakpoint") for each in body["messages"][0]["content"]]
    assert found == [
        None,
        None,
        {"mode": "explicit", "ttl": "30m"},
        {"mode": "explicit", "ttl": "12h"},
        {"mode": "explicit", "ttl": "12h"},
        {"mode": "explicit", "ttl": "30m"},
    ]
    assert warnings == ("clamped:cache_breakpoints",)
    body, warnings = encoded(request(user(*parts)), cache_marks=False)
    assert b"prompt_cache" not in msgspec.json.encode(body)
    cache = CacheOptions(key="k", automatic=True, lifetime="1h")
    body = encoded(request(cache=cache))[0]
    assert (body["prompt_cache_key"], body["prompt_cache_options"]) == ("k", {"mode": "implicit", "ttl": "30m"})
    bare = encoded(request(cache=cache), cache_marks=False, developer_role=False)[0]
    assert not {"prompt_cache_key", "prompt_cache_options"} & bare.keys()


def test_who_asks() -> None:
    """End user, metadata and tier have their words; a long user is hashed, compatible servers get the old name."""
    body, warnings = encoded(
        request(
            end_user="ann", metadata={"a": "b"}, service_tier=ServiceTier.STANDARD, output=OutputFormat(verbosity="low")
        )
    )
    assert (body["safety_identifier"], body["metadata"], body["service_tier"]) == ("ann", {"a": "b"}, "default")
    assert body["verbosity"] == "low"
    assert warnings == ()
    long = encoded(request(end_user="x" * 200))[0]["safety_identifier"]
    assert len(long) <= 128
    assert encoded(request(end_user="ann"), developer_role=False)[0]["user"] == "ann"
    assert encoded(request(service_tier=ServiceTier.ULTRAFAST))[1] == ("dropped:service_tier",)


def test_what_only_another_protocol_knows_is_dropped_by_name() -> None:
    """Foreign extras and parts are warned about, safety settings silently; own extras are written."""
    foreign = Opaque(protocol="anthropic-messages", kind="container_upload", data={})
    body, warnings = encoded(
        request(
            user(Text(text="x"), foreign),
            extras={"anthropic-messages": {"container": 1}, "gemini": {"safetySettings": []}, "openai-chat": {"x": 1}},
        )
    )
    assert body["x"] == 1
    assert body["messages"][0]["content"] == "x"
    assert warnings == ("dropped:container_upload", "dropped:container")


def test_speech() -> None:
    """Spoken answers are asked for with a voice of this vendor's; pictures and mute models are refused."""
    body, warnings = encoded(request(output=OutputFormat(modalities=("text", "audio"))))
    assert (body["modalities"], body["audio"]["format"], warnings) == (["text", "audio"], "wav", ("emulated:audio",))
    with pytest.raises(Unsupported):
        encoded(request(output=OutputFormat(modalities=("image",))))
    with pytest.raises(Unsupported):
        encoded(request(output=OutputFormat(modalities=("audio",))), audio=False)


def test_conversations_kept_elsewhere_are_refused() -> None:
    """A request that continues a stored response and was not expanded is refused."""
    with pytest.raises(Unsupported) as refused:
        encoded(request(continues="resp_1"))
    assert refused.value.param == "previous_response_id"


@settings(max_examples=60)
@given(requests())
def test_encoding_twice_gives_the_same_bytes(made: Request) -> None:
    """No random id and no clock: prompt caches depend on it."""
    assert OUTBOUND.encode(made, upstream()) == OUTBOUND.encode(made, upstream())


def test_top_k_where_it_was_said_in_this_protocol() -> None:
    """Who says top_k in Chat speaks to a server that has it."""
    assert encoded(request(protocol="openai-chat", sampling=Sampling(top_k=5)))[0]["top_k"] == 5


def test_turns_of_the_model_with_things_that_have_no_place() -> None:
    """Pictures of the model and foreign server tools are dropped by name; its own sound is named again."""
    sound = Opaque(protocol="openai-chat", kind="audio", data={"id": "audio_1"})
    picture = media("image", Link(url="https://example.org/a"))
    search = ServerToolCall(call_id="s", tool="web_search")
    body, warnings = encoded(request(ASKS, model(sound, picture, search), ASKS))
    assert body["messages"][1] == {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}
    assert warnings == ("dropped:media", "dropped:server_tool_call")


def test_a_turn_of_foreign_thought_alone_vanishes() -> None:
    """A message without anything that can be said is no message."""
    body, warnings = encoded(request(ASKS, model(THOUGHT), ASKS), issuer="other")
    assert [each["role"] for each in body["messages"]] == ["user", "user"]
    assert warnings == ("dropped:reasoning",)


def test_marks_on_the_models_texts_and_on_results() -> None:
    """A mark keeps its text a part of its own; a mark on a result stands on its last text."""
    marked = Text(text="a", cache_mark=CacheMark())
    call = ToolCall(call_id="c", name="f")
    result = ToolResult(call_id="c", content=(Text(text="1"),), cache_mark=CacheMark())
    found = messages(ASKS, model(marked, Text(text="b"), call), results(result))
    breakpoint_ = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    assert found[1]["content"] == [{"type": "text", "text": "a", **breakpoint_}, {"type": "text", "text": "b"}]
    assert found[2]["content"] == [{"type": "text", "text": "1", **breakpoint_}]


def test_an_error_without_words_still_says_that_it_is_one() -> None:
    """An empty error result is flagged in its text."""
    call = ToolCall(call_id="c", name="f")
    found = messages(ASKS, model(call), results(ToolResult(call_id="c", is_error=True)))
    assert found[2]["content"] == "[tool error]"


def test_state_of_google_lives_on_calls() -> None:
    """Google's own endpoint gets no details, only signatures of calls."""
    seal = Seal(issuer="gemini", kind="signature", data="c2ln")
    assert "reasoning_details" not in thinking(Reasoning(text="hm", seals=(seal,)), issuer="gemini")[0]


def test_two_seals_of_one_thought() -> None:
    """A second signature has an entry of its own."""
    twice = Reasoning(text="hm", seals=(SIGNATURE, SIGNATURE))
    found = thinking(twice, issuer="openrouter")[0]["reasoning_details"]
    assert [(each["index"], each["text"], each["signature"]) for each in found] == [(0, "hm", "sig"), (1, "", "sig")]


def test_a_document_that_is_no_base64_is_refused() -> None:
    """A text document whose base64 cannot be read is the caller's fault."""
    with pytest.raises(Unsupported):
        encoded(request(user(media("document", InlineData(data="a"), media_type="text/plain"))))


def test_descriptions_and_search_settings() -> None:
    """Descriptions of custom tools and schemas are kept, and the size of a search."""
    tool = Tool(name="p", kind="custom", description="d")
    search = Tool(name="web_search", kind="server", settings={"search_context_size": "low"})
    output = OutputFormat(kind="json_schema", schema=OPEN, name="n", description="d")
    body = encoded(request(tools=(tool, search), output=output))[0]
    assert body["tools"][0]["custom"]["description"] == "d"
    assert body["web_search_options"] == {"search_context_size": "low"}
    assert body["response_format"]["json_schema"]["description"] == "d"


def test_own_audio_options_are_kept() -> None:
    """A request of this protocol keeps its voice."""
    output = OutputFormat(modalities=("text", "audio"))
    voice = {"openai-chat": {"audio": {"voice": "nova", "format": "mp3"}}}
    body, warnings = encoded(request(protocol="openai-chat", output=output, extras=voice))
    assert (body["audio"], warnings) == ({"voice": "nova", "format": "mp3"}, ())
