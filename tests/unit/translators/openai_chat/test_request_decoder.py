"""Requests read whole: what the vendor documents, what real clients send, and what is refused by its path."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Reasoning,
    ReasoningOptions,
    Refusal,
    Seal,
    ServiceTier,
    StoredFile,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.seals import wrap
from support.wires.openai_chat import INBOUND, body, decoded

PNG = "iVBORw0KGgoAAAA="


def parts(content: object) -> tuple[Part, ...]:
    """What a user's content is read into."""
    return decoded(messages=[{"role": "user", "content": content}]).messages[0].parts


def assistant(**fields: Any) -> tuple[Part, ...]:
    """What a message of the model is read into."""
    return decoded(messages=[{"role": "assistant", **fields}]).messages[0].parts


def tool(entry: dict[str, Any]) -> Tool:
    """What a declared tool is read into."""
    return decoded(tools=[entry]).tools[0]


def call(call_id: str = "call_1", **fields: Any) -> dict[str, Any]:
    """A call in history."""
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}


def test_instructions_keep_their_place_and_their_word() -> None:
    """System and developer messages are not glued, not moved, and know what they were called."""
    found = decoded(
        messages=[
            {"role": "system", "content": "a"},
            {"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {"role": "user", "content": "d", "name": "ann"},
            {"role": "system", "content": "e"},
        ]
    ).messages
    assert [(each.role, each.authority, len(each.parts)) for each in found] == [
        ("system", "system", 1),
        ("system", "developer", 2),
        ("user", None, 1),
        ("system", "system", 1),
    ]
    assert found[2].name == "ann"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "x"}, Text(text="x")),
        ("x", Text(text="x")),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
            Media(kind="image", source=InlineData(data=PNG), media_type="image/png", detail="low"),
        ),
        (
            {"type": "image_url", "image_url": {"url": f"DATA:image/jpeg;charset=x;base64,{PNG}"}},
            Media(kind="image", source=InlineData(data=PNG), media_type="image/png"),
        ),
        (
            {"type": "image_url", "image_url": "https://example.org/a.png"},
            Media(kind="image", source=Link(url="https://example.org/a.png")),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AA-_", "format": "mp3"}},
            Media(kind="audio", source=InlineData(data="AA+/"), media_type="audio/mpeg"),
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
            Media(kind="document", source=InlineData(data="JVBE"), media_type="application/pdf", name="a.pdf"),
        ),
        (
            {"type": "file", "file": {"file_data": "JVBERi0"}},
            Media(kind="document", source=InlineData(data="JVBERi0="), media_type="application/pdf"),
        ),
        (
            {"type": "file", "file": {"file_id": "file-1"}},
            Media(kind="document", source=StoredFile(protocol="openai-chat", id="file-1")),
        ),
        (
            {"type": "hologram", "depth": 3},
            Opaque(protocol="openai-chat", kind="hologram", data={"type": "hologram", "depth": 3}),
        ),
        (
            {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}},
            Text(text="x", cache_mark=CacheMark(lifetime="12h")),
        ),
        (
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            Text(text="x", cache_mark=CacheMark()),
        ),
    ],
)
def test_parts(part: object, expected: Part) -> None:
    """Each kind of part is read; pictures know their true type; unknown parts stay as they are."""
    assert parts([part]) == (expected,)


def test_the_models_own_turns() -> None:
    """Text, refusal, calls and custom calls of a turn are ordered parts, arguments the very text."""
    found = assistant(
        content=[{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}],
        tool_calls=[
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{ "a" : 1.0 }'}},
            {"id": "2", "type": "custom", "custom": {"name": "p", "input": "raw"}},
        ],
    )
    assert found == (
        Text(text="a"),
        Refusal(text="no"),
        ToolCall(call_id="1", name="f", arguments='{ "a" : 1.0 }'),
        ToolCall(call_id="2", name="p", arguments="raw", kind="custom"),
    )
    assert assistant(content=None, refusal="no") == (Refusal(text="no"),)


def test_reasoning_comes_back_with_its_seals() -> None:
    """Wrapped seals are unwrapped, native ones are the vendor's, and each stands by its text."""
    signature = Seal(issuer="anthropic", kind="signature", data="sig")
    redacted = Seal(issuer="anthropic", kind="redacted", data="red")
    found = assistant(
        content="x",
        reasoning_content="one",
        reasoning_details=[
            {"index": 0, "type": "reasoning.text", "text": "one", "signature": wrap(signature)},
            {"index": 1, "type": "reasoning.encrypted", "data": wrap(redacted)},
            {"index": 2, "type": "reasoning.summary", "summary": "two"},
            {"index": 3, "type": "reasoning.encrypted", "data": "native", "id": "rs_1"},
        ],
    )
    native = Seal(issuer="openai", kind="encrypted", data="native", item_id="rs_1")
    assert found == (
        Reasoning(text="one", seals=(signature,)),
        Reasoning(redacted=True, seals=(redacted,)),
        Reasoning(text="two", style="summary", seals=(native,)),
        Text(text="x"),
    )


def test_clients_that_keep_only_the_text_of_reasoning() -> None:
    """`reasoning_content` alone is reasoning; beside a bare seal it is that seal's text."""
    assert assistant(content="x", reasoning_content="one") == (Reasoning(text="one"), Text(text="x"))
    seal = Seal(issuer="anthropic", kind="signature", data="sig")
    bare = [{"index": 0, "type": "reasoning.text", "signature": wrap(seal)}]
    found = assistant(content="x", reasoning_content="one", reasoning_details=bare)
    assert found == (Reasoning(text="one", seals=(seal,)), Text(text="x"))


def test_the_seal_of_a_call_comes_back_from_either_place() -> None:
    """extra_content and reasoning_details name the same state; it is kept once, in its fuller account."""
    bare = Seal(issuer="gemini", kind="signature", data="c2ln")
    full = Seal(issuer="gemini", kind="signature", data="c2ln", model="g-1")
    extra = {"google": {"thought_signature": "c2ln"}}
    details = [{"index": 0, "type": "reasoning.encrypted", "data": wrap(full), "id": "call_1"}]
    only_extra = assistant(tool_calls=[call(extra_content=extra)])
    assert only_extra == (ToolCall(call_id="call_1", name="f", arguments="{}", seals=(bare,)),)
    for found in (
        assistant(tool_calls=[call(extra_content=extra)], reasoning_details=details),
        assistant(tool_calls=[call()], reasoning_details=details),
    ):
        assert found == (ToolCall(call_id="call_1", name="f", arguments="{}", seals=(full,)),)


def test_results_of_one_step_are_one_message() -> None:
    """Tool messages that follow each other become one; pictures in results are kept."""
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    found = decoded(
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [call("a"), call("b")]},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}, picture]},
        ]
    ).messages
    assert [each.role for each in found] == ["user", "assistant", "tool"]
    assert found[2].parts == (
        ToolResult(call_id="b", content=(Text(text="2"),)),
        ToolResult(
            call_id="a",
            content=(Text(text="1"), Media(kind="image", source=Link(url="https://example.org/a.png"))),
        ),
    )


def test_deprecated_functions() -> None:
    """Functions are tools of which one call at most is made, and their results find their call."""
    found = decoded(
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
    )
    assert found.tools == (Tool(name="f", parameters={"type": "object"}),)
    assert found.tool_choice == ToolChoice(mode="required", only=("f",), parallel=False, given=True)
    made, result = found.messages[1].parts[0], found.messages[2].parts[0]
    assert isinstance(made, ToolCall)
    assert isinstance(result, ToolResult)
    assert made.call_id == result.call_id
    assert result.name == "f"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"a": 1}, "strict": True}},
            Tool(name="f", description="d", parameters={"a": 1}, strict=True),
        ),
        ({"type": "function", "name": "f", "parameters": {}}, Tool(name="f", parameters={})),
        (
            {"type": "custom", "custom": {"name": "p", "format": {"type": "text"}}},
            Tool(name="p", kind="custom"),
        ),
        (
            {
                "type": "custom",
                "custom": {
                    "name": "p",
                    "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}},
                },
            },
            Tool(name="p", kind="custom", grammar=Grammar(syntax="lark", definition="start: X")),
        ),
        (
            {"type": "teleport", "max": 3},
            Tool(name="teleport", kind="server", extras={"openai-chat": {"type": "teleport", "max": 3}}),
        ),
        (
            {"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            Tool(name="f", cache_mark=CacheMark(lifetime="1h")),
        ),
    ],
)
def test_tools(entry: dict[str, Any], expected: Tool) -> None:
    """Each kind of tool is read, `strict` only where it was said; unknown kinds are carried."""
    assert tool(entry) == expected


def test_web_search_options_are_a_tool() -> None:
    """The search that some models always have is the search tool of the others."""
    place = {"type": "approximate", "approximate": {"city": "Köln"}}
    found = decoded(web_search_options={"search_context_size": "low", "user_location": place}).tools
    settings = {"search_context_size": "low", "user_location": {"type": "approximate", "city": "Köln"}}
    assert found == (Tool(name="web_search", kind="server", settings=settings),)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice(mode="auto", given=True)),
        ("none", ToolChoice(mode="none", given=True)),
        ("required", ToolChoice(mode="required", given=True)),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice(mode="required", only=("f",), given=True)),
        ({"type": "custom", "custom": {"name": "p"}}, ToolChoice(mode="required", only=("p",), given=True)),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            ToolChoice(mode="auto", only=("f",), given=True),
        ),
    ],
)
def test_tool_choice(choice: object, expected: ToolChoice) -> None:
    """Every form of the choice is read, and whether calls may be parallel."""
    assert decoded(tool_choice=choice).tool_choice == expected
    both = decoded(tool_choice=choice, parallel_tool_calls=False).tool_choice
    assert both == msgspec.structs.replace(expected, parallel=False)


def test_options() -> None:
    """Every option that has a word in the vocabulary is in its place; the rest is carried."""
    found = decoded(
        max_tokens=10,
        max_completion_tokens=20,
        temperature=1,
        top_p=0.5,
        frequency_penalty=-1,
        presence_penalty=2,
        logit_bias={"7": -100},
        logprobs=True,
        top_logprobs=3,
        n=2,
        stop="END",
        seed=7,
        reasoning_effort="xhigh",
        verbosity="low",
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        prompt_cache_key="k",
        prompt_cache_options={"mode": "explicit", "ttl": "30m"},
        safety_identifier="ann",
        user="old",
        metadata={"a": "b"},
        service_tier="default",
        store=False,
        prediction={"type": "content", "content": "x"},
    )
    assert found.max_output_tokens == 20
    sampling = found.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.logprobs) == (1.0, 0.5, 7, 3)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.logit_bias) == (-1, 2, {"7": -100})
    assert (found.candidates, found.stop, found.reasoning.effort, found.end_user) == (2, ("END",), "xhigh", "ann")
    assert found.output == OutputFormat(verbosity="low", modalities=("text", "audio"))
    assert found.cache == CacheOptions(key="k", automatic=False, lifetime="30m")
    assert (found.metadata, found.service_tier, found.store) == ({"a": "b"}, ServiceTier.STANDARD, False)
    assert found.extras == {
        "openai-chat": {
            "audio": {"voice": "alloy", "format": "wav"},
            "prediction": {"type": "content", "content": "x"},
        }
    }
    assert decoded(user="old").end_user == "old"
    assert decoded(logprobs=True).sampling.logprobs == 0
    assert decoded(logprobs=False).sampling.logprobs is None
    assert decoded(stop=["a", "b"]).stop == ("a", "b")


def test_response_formats() -> None:
    """Each format of an answer is read; `strict` only where it was said."""
    assert decoded(response_format={"type": "text"}).output == OutputFormat()
    assert decoded(response_format={"type": "json_object"}).output == OutputFormat(kind="json")
    form = {"name": "n", "schema": {"type": "object"}, "strict": True, "description": "d"}
    assert decoded(response_format={"type": "json_schema", "json_schema": form}).output == OutputFormat(
        kind="json_schema", name="n", schema={"type": "object"}, strict=True, description="d"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x,y"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].file.file_data",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]}, "messages[0].tool_calls[0].id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "magic"}]}]},
            "messages[0].tool_calls[0].type",
        ),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stop": 7}, "stop"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"service_tier": "royal"}, "service_tier"),
        ({"logit_bias": {"7": "x"}}, "logit_bias.7"),
    ],
)
def test_faults_are_named_by_their_path(fields: dict[str, Any], param: str) -> None:
    """What is wrong is refused, and `param` leads to it."""
    with pytest.raises(BadRequest) as refused:
        decoded(**fields)
    assert refused.value.param == param


def test_null_is_absent_within_messages() -> None:
    """Clients that write out every field as null are read as if they had not."""
    nulls = {"name": None, "tool_calls": None, "function_call": None, "refusal": None, "audio": None}
    found = decoded(messages=[{"role": "assistant", "content": "x", **nulls}]).messages
    assert found == (Message(role="assistant", parts=(Text(text="x"),)),)


KEYS = (
    *("role", "content", "type", "text", "name", "tool_calls", "id", "function", "arguments", "custom", "input"),
    *("tool_call_id", "image_url", "url", "file", "file_data", "input_audio", "data", "format", "reasoning_details"),
    *("reasoning_content", "signature", "index", "extra_content", "google", "thought_signature", "refusal", "audio"),
    *("mode", "tools", "allowed_tools", "json_schema", "schema", "parameters", "ttl", "cache_control"),
)
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.floats(allow_nan=False)
WORDS = st.sampled_from(
    ["user", "assistant", "tool", "function", "text", "image_url", "custom", "auto", "data:a;base64,"]
)
JSON = st.recursive(
    LEAVES | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "function", "system"]), "content": JSON},
        optional=dict.fromkeys(KEYS[2:], JSON),
    ),
    min_size=1,
    max_size=3,
)
FIELDS = st.sampled_from(
    [
        *("tools", "tool_choice", "functions", "function_call", "response_format", "stop", "metadata", "logit_bias"),
        *("prompt_cache_options", "web_search_options", "modalities", "user", "seed", "top_logprobs", "service_tier"),
    ]
)


@settings(max_examples=100)
@given(MESSAGES, st.dictionaries(FIELDS, JSON, max_size=3))
def test_no_request_raises_anything_but_bad_request(messages: list[Any], fields: dict[str, Any]) -> None:
    """Whatever the JSON, it is read or refused as the caller's fault with a path."""
    with suppress(BadRequest):
        INBOUND.decode(INBOUND.open(body(**{**fields, "messages": messages}), headers={}))


def test_reasoning_options_of_other_gateways() -> None:
    """Effort, budget and visibility are read in the spellings that clients learned elsewhere."""
    assert decoded(reasoning={"effort": "low", "exclude": True}).reasoning == ReasoningOptions(
        effort="low", visible="hidden"
    )
    assert decoded(reasoning={"max_tokens": 2000}).reasoning == ReasoningOptions(budget_tokens=2000)
    thinking = {"type": "enabled", "budget_tokens": 2000}
    assert decoded(thinking=thinking).reasoning == ReasoningOptions(budget_tokens=2000)
    assert decoded(thinking={"type": "disabled"}).reasoning == ReasoningOptions(effort="none")
    assert decoded(reasoning_effort="high", thinking=thinking).reasoning == ReasoningOptions(effort="high")
    assert decoded(top_k=5).sampling.top_k == 5
    assert decoded(top_k=-1).sampling.top_k is None


def test_sound_that_the_model_made_before() -> None:
    """An earlier spoken answer is known by its id alone, and stays what it is."""
    assert assistant(content=None, audio={"id": "audio_1"}) == (
        Opaque(protocol="openai-chat", kind="audio", data={"id": "audio_1"}),
    )


def test_a_document_by_its_address() -> None:
    """Some clients put an address where data belongs."""
    (part,) = parts([{"type": "file", "file": {"file_data": "https://example.org/a.pdf"}}])
    assert isinstance(part, Media)
    assert part.source == Link(url="https://example.org/a.pdf")


def test_a_call_without_an_id_is_refused() -> None:
    """An empty id cannot be answered."""
    with pytest.raises(BadRequest) as refused:
        assistant(tool_calls=[call("")])
    assert refused.value.param == "messages[0].tool_calls[0].id"
