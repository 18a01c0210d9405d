"""Requests of callers, opened and read whole."""

from typing import Any

import msgspec
import pytest

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
    Reasoning,
    ReasoningOptions,
    Refusal,
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
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.seals import wrap
from support.wires.openai_responses import INBOUND, body, decoded, inbound_request

OWN = "openai-responses"


def refused(**fields: Any) -> BadRequest:
    """The complaint about a request."""
    with pytest.raises(BadRequest) as caught:
        decoded(**fields)
    return caught.value


def turns(*items: Any) -> tuple[Message, ...]:
    """The messages of these items."""
    return decoded(input=list(items)).messages


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_opening_reads_the_outside_alone() -> None:
    """Model, stream and size are known; the rest stays bytes."""
    found = inbound_request(stream=True)
    assert (found.model, found.stream, found.protocol) == ("smart", True, OWN)
    assert found.size == len(body(stream=True))
    assert bytes(found.raw["input"]) == b'"Hello"'
    assert INBOUND.open(b'{"input":"x"}', headers={}).model == ""


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": 5}, "model", "invalid_type"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "empty_array"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"instructions": ["x"]}, "instructions", "invalid_type"),
        ({"tools": {}}, "tools", "invalid_type"),
        ({"text": "x"}, "text", "invalid_type"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"previous_response_id": 1}, "previous_response_id", "invalid_type"),
    ],
)
def test_wrong_types_are_refused_when_opened(fields: dict[str, Any], param: str, code: str) -> None:
    """What routing passes over is refused by its name, also where the request only passes through."""
    with pytest.raises(BadRequest) as caught:
        inbound_request(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_what_is_no_json_is_refused() -> None:
    """A body that cannot be read says so."""
    with pytest.raises(BadRequest):
        INBOUND.open(b"{", headers={})


@pytest.mark.parametrize("supplier", ["previous_response_id", "prompt", "conversation"])
def test_input_may_be_supplied_elsewhere(supplier: str) -> None:
    """Where something else says what to answer, there need be no input."""
    value = {"id": "x"} if supplier == "prompt" else "x"
    assert INBOUND.open(msgspec.json.encode({"model": "m", supplier: value}), headers={}).model == "m"
    assert INBOUND.open(b"{}", headers={}, path={"operation": "input_tokens"}).model == ""


def test_counts_have_the_vendors_shape() -> None:
    """A count names its kind."""
    assert msgspec.json.decode(INBOUND.encode_count(12)) == {"object": "response.input_tokens", "input_tokens": 12}


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_alone_is_a_user_turn() -> None:
    """The short form is one user message."""
    assert decoded(input="Hi").messages == (Message(role="user", parts=(Text(text="Hi"),)),)


def test_instructions_and_roles() -> None:
    """Instructions lead; system and developer keep their words and places."""
    found = decoded(
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "D"},
            {"role": "user", "content": "U"},
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "S"}]},
        ],
    ).messages
    assert [(each.role, each.authority) for each in found] == [
        ("system", None),
        ("system", "developer"),
        ("user", None),
        ("system", "system"),
    ]


def test_the_models_side_is_one_turn_in_order() -> None:
    """Reasoning, words and calls that follow each other are one message; results that follow are one message."""
    found = turns(
        {"role": "user", "content": "U"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "b",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "r"}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "f",
            "arguments": '{"a": 1}',
            "namespace": "crm",
        },
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "p", "input": "free"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
    )
    assert [each.role for each in found] == ["user", "assistant", "tool"]
    assert found[1].phase == "commentary"
    thought, text, refusal, call, custom = found[1].parts
    assert thought == Reasoning(
        text="hm",
        style="summary",
        id="rs_1",
        seals=(Seal(issuer="openai", kind="encrypted", data="b", item_id="rs_1"),),
    )
    assert isinstance(text, Text)
    assert isinstance(refusal, Refusal)
    assert (text.id, refusal.id) == ("msg_1", "msg_1")
    assert call == ToolCall(call_id="c1", name="f", arguments='{"a": 1}', id="fc_1", namespace="crm")
    assert custom == ToolCall(call_id="c2", name="p", arguments="free", kind="custom", id="ctc_1")
    assert found[2].parts == (
        ToolResult(call_id="c1", content=(Text(text="one"),)),
        ToolResult(call_id="c2", content=(Text(text="two"),), kind="custom"),
    )


def test_messages_of_two_phases_keep_theirs() -> None:
    """Where a turn holds both, each text says which it is."""
    found = turns(
        {"role": "assistant", "phase": "commentary", "content": "a"},
        {"role": "assistant", "phase": "final_answer", "content": "b"},
    )
    assert found[0].phase is None
    assert [part.extras[OWN]["phase"] for part in found[0].parts] == ["commentary", "final_answer"]


def test_wrapped_state_is_its_makers_again() -> None:
    """A blob that we wrapped is unwrapped; the readable text is that of the summary."""
    seal = Seal(issuer="anthropic", kind="signature", data="sig")
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": wrap(seal),
    }
    (part,) = turns(item)[0].parts
    assert isinstance(part, Reasoning)
    assert (part.text, part.seals) == ("hm", (seal,))


def test_state_that_hung_on_a_call_or_a_text_returns_to_it() -> None:
    """A bare reasoning item that names a call or a message is put back on it, before or after."""
    on_call = wrap(Seal(issuer="gemini", kind="signature", data="a", item_id="c1"))
    on_text = wrap(Seal(issuer="gemini", kind="signature", data="b", item_id="msg_1"))
    elsewhere = wrap(Seal(issuer="gemini", kind="signature", data="c", item_id="gone"))
    found = turns(
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": on_call},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": "t"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": on_text},
        {"type": "reasoning", "id": "rs_3", "summary": [], "encrypted_content": elsewhere},
    )
    call, text, rest = found[0].parts
    assert call.seals == (Seal(issuer="gemini", kind="signature", data="a"),)
    assert text.seals == (Seal(issuer="gemini", kind="signature", data="b"),)
    assert isinstance(rest, Reasoning)


def test_reasoning_that_says_nothing_is_left_out() -> None:
    """An id alone is nothing that anybody could use."""
    assert turns({"role": "user", "content": "U"}, {"type": "reasoning", "id": "rs_1", "summary": []})[1:] == ()


def test_pictures_and_files() -> None:
    """Addresses, data and stored files are read with detail, name and type."""
    (message,) = turns(
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "https://x/i.png", "detail": "low"},
                {"type": "input_image", "image_url": "data:image/jpeg;base64,iVBORw0KGgo="},
                {"type": "input_image", "file_id": "file_1"},
                {"type": "input_file", "file_url": "https://x/a.pdf"},
                {"type": "input_file", "filename": "a.txt", "file_data": "aGk"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
            ],
        }
    )
    assert message.parts == (
        Media(kind="image", source=Link(url="https://x/i.png"), detail="low"),
        Media(kind="image", source=InlineData(data="iVBORw0KGgo="), media_type="image/png"),
        Media(kind="image", source=StoredFile(protocol=OWN, id="file_1")),
        Media(kind="document", source=Link(url="https://x/a.pdf"), media_type="application/pdf"),
        Media(kind="document", source=InlineData(data="aGk="), media_type="text/plain", name="a.txt"),
        Media(kind="document", source=InlineData(data="JVBERi0="), media_type="application/pdf", name="a.pdf"),
        Media(kind="audio", source=InlineData(data="aGk="), media_type="audio/mpeg"),
    )


def test_cache_marks_are_read() -> None:
    """A breakpoint marks its part, with its lifetime."""
    mark = {"mode": "explicit", "ttl": "12h"}
    (message,) = turns(
        {"role": "user", "content": [{"type": "input_text", "text": "a", "prompt_cache_breakpoint": mark}]}
    )
    assert message.parts[0].cache_mark == CacheMark(lifetime="12h")


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        ("computer_call", "assistant"),
        ("compaction", "assistant"),
        ("program", "assistant"),
        ("mcp_approval_request", "assistant"),
        ("computer_call_output", "user"),
        ("mcp_approval_response", "user"),
        ("item_reference", "user"),
        ("made_up", "user"),
    ],
)
def test_items_that_only_this_protocol_knows_stay_at_their_place(kind: str, role: str) -> None:
    """They are whole, in order, and on the side that made them."""
    item = {"type": kind, "id": "x_1", "data": {"a": 1.5}}
    found = turns({"role": "user", "content": "a"}, item, {"role": "user", "content": "b"})
    assert [each.role for each in found] == ["user", role, "user"]
    assert found[1].parts == (Opaque(protocol=OWN, kind=kind, data=item, id="x_1"),)


def test_searches_and_unknown_contents() -> None:
    """An earlier web search is a call; an unknown content part stays in its message."""
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    found = turns(search, {"role": "user", "content": [{"type": "input_smell", "smell": "rose"}]})
    (call,) = found[0].parts
    assert isinstance(call, ServerToolCall)
    assert call.arguments == '{"query":"q"}'
    (part,) = found[1].parts
    assert isinstance(part, Opaque)
    assert part.kind == "input_smell"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"content": "x"}, "input[0].type"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": 5}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "assistant", "phase": "x", "content": "a"}, "input[0].phase"),
        ({"type": "function_call", "name": "f"}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "", "name": "f"}, "input[0].call_id"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"type": "reasoning", "encrypted_content": 5}, "input[0].encrypted_content"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[0].content[0].file_data"),
        (5, "input[0]"),
    ],
)
def test_a_wrong_item_is_named_by_its_path(item: Any, param: str) -> None:
    """The complaint says where."""
    assert refused(input=[item]).param == param


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tools_of_every_kind() -> None:
    """Functions, free-text tools, namespaces and the vendor's own tools are read."""
    schema = {"type": "object", "properties": {}}
    search = {
        "type": "web_search_2025_08_26",
        "filters": {"allowed_domains": ["a.org"]},
        "search_context_size": "low",
        "user_location": {"type": "approximate", "city": "Köln"},
    }
    found = decoded(
        tools=[
            {"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True},
            {"type": "function", "name": "g", "parameters": None, "defer_loading": True, "output_schema": schema},
            {"type": "custom", "name": "p", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "namespace", "name": "crm", "description": "n", "tools": [{"type": "function", "name": "find"}]},
            search,
            {"type": "mcp", "server_label": "l", "server_url": "u"},
            {"type": "function", "function": {"name": "nested"}},
        ]
    ).tools
    function, bare, custom, spaced, web, mcp, nested = found
    assert function == Tool(name="f", description="d", parameters=schema, strict=True)
    assert bare == Tool(name="g", deferred=True, extras={OWN: {"output_schema": schema}})
    assert custom == Tool(name="p", kind="custom", grammar=Grammar(syntax="lark", definition="x"))
    assert spaced == Tool(name="find", namespace="crm", extras={OWN: {"namespace_description": "n"}})
    assert (web.name, web.kind) == ("web_search", "server")
    assert web.settings == {
        "allowed_domains": ["a.org"],
        "search_context_size": "low",
        "user_location": {"type": "approximate", "city": "Köln"},
    }
    assert web.extras == {OWN: search}
    assert (mcp.name, mcp.kind) == ("mcp", "server")
    assert nested.name == "nested"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("auto", ToolChoice(mode="auto", given=True)),
        ("none", ToolChoice(mode="none", given=True)),
        ("required", ToolChoice(mode="required", given=True)),
        ({"type": "function", "name": "f"}, ToolChoice(mode="required", only=("f",), given=True)),
        ({"type": "custom", "name": "p"}, ToolChoice(mode="required", only=("p",), given=True)),
        ({"type": "web_search_preview"}, ToolChoice(mode="required", only=("web_search",), given=True)),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}, {"type": "mcp"}]},
            ToolChoice(mode="auto", only=("f", "mcp"), given=True),
        ),
    ],
)
def test_choices_are_read(said: Any, found: ToolChoice) -> None:
    """Every form of a choice has its meaning."""
    assert decoded(tool_choice=said).tool_choice == found


def test_parallel_calls_are_read_without_a_choice() -> None:
    """Forbidding parallel calls names no mode."""
    assert decoded(parallel_tool_calls=False).tool_choice == ToolChoice(parallel=False)


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_are_read() -> None:
    """Every option with a neutral field is decoded into it."""
    found = decoded(
        temperature=0.5,
        top_p=1,
        max_output_tokens=100,
        reasoning={"effort": "xhigh", "summary": "detailed", "context": "all_turns"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs", "file_search_call.results"],
        top_logprobs=3,
        text={"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": False}},
        prompt_cache_key="k",
        prompt_cache_options={"mode": "implicit", "ttl": "12h"},
        safety_identifier="me",
        user="older",
        metadata={"a": "b"},
        service_tier="ultrafast",
        previous_response_id="resp_0",
        store=False,
        truncation="auto",
        max_tool_calls=4,
    )
    assert found.sampling == Sampling(temperature=0.5, top_p=1.0, logprobs=3)
    assert found.max_output_tokens == 100
    assert found.reasoning == ReasoningOptions(effort="xhigh", visible="summary")
    assert found.output == OutputFormat(kind="json_schema", name="n", schema={"a": 1}, strict=False, verbosity="low")
    assert found.cache == CacheOptions(key="k", automatic=True, lifetime="12h")
    assert (found.end_user, found.metadata, found.continues, found.store) == ("me", {"a": "b"}, "resp_0", False)
    assert found.service_tier is ServiceTier.ULTRAFAST
    assert found.extras == {
        OWN: {
            "include": ["file_search_call.results"],
            "truncation": "auto",
            "max_tool_calls": 4,
            "reasoning": {"context": "all_turns", "summary": "detailed"},
        }
    }


def test_defaults_that_are_said_leave_no_trace() -> None:
    """What only says what is so anyway does not become an extra, about which others would have to warn."""
    found = decoded(
        truncation="disabled",
        background=False,
        include=["reasoning.encrypted_content"],
        stream_options={"include_obfuscation": False},
        reasoning={"effort": None, "summary": "auto"},
        text={"format": {"type": "text"}},
        user=None,
    )
    assert found.extras == {}
    assert found.output == OutputFormat()
    assert found.reasoning == ReasoningOptions(visible="summary")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"service_tier": "x"}, "service_tier"),
        ({"truncation": "x"}, "truncation"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"include": [5]}, "include[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0].tools"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ],
)
def test_wrong_options_are_named(fields: dict[str, Any], param: str) -> None:
    """The complaint says which."""
    assert refused(**fields).param == param
