"""Decode requests of callers of the Messages protocol."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    CacheMark,
    InlineData,
    Link,
    Media,
    Message,
    Opaque,
    PlainText,
    Reasoning,
    Seal,
    ServerToolCall,
    ServerToolResult,
    ServiceTier,
    StoredFile,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators.anthropic_messages.reasoning import UNSIGNED
from llmproxy_asgi.translators.seals import wrap
from support.wires.messages import INBOUND, decoded, opened

NEW = "2026-10-21"


def user(*content: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def messages(*turns: dict[str, Any], **headers: str) -> tuple[Message, ...]:
    return decoded({"messages": list(turns)}, **headers).messages


def refused(body: dict[str, Any], **headers: str) -> str | None:
    """Return the field that an error names when the request is opened or decoded."""
    with pytest.raises(BadRequest) as caught:
        decoded(body, **headers)
    return caught.value.param


def test_headers_are_read() -> None:
    """Keep the version as sent, or its absence; decode betas into a list, repeated or not."""
    inbound_request = opened(anthropic_version=NEW, anthropic_beta="a-1, b-2,,c-3")
    assert (inbound_request.version, inbound_request.betas) == (NEW, ("a-1", "b-2", "c-3"))
    assert opened().version is None


def test_opening_reads_what_routing_needs() -> None:
    """Read model, stream and size without decoding messages; a missing model is an empty name."""
    inbound_request = opened({"stream": True, "messages": [{"role": "nobody"}]})
    assert (inbound_request.model, inbound_request.stream) == ("asked", True)
    assert inbound_request.size > 0
    assert opened({"model": ...}).model == ""


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": ...}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"system": 3}, "system"),
        ({"thinking": []}, "thinking"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"temperature": "1"}, "temperature"),
        ({"metadata": []}, "metadata"),
    ],
)
def test_wrong_top_level_types_are_refused_on_open(body: dict[str, Any], param: str) -> None:
    """Refuse a wrong type at the top level with a 400 that names the field, before routing."""
    with pytest.raises(BadRequest) as caught:
        opened(body)
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b'{"a":1}x', b"\xff", b"[" * 100], ids=repr)
def test_bodies_other_than_objects_are_refused(body: bytes) -> None:
    """Refuse bytes that are not a JSON object with a 400."""
    with pytest.raises(BadRequest):
        INBOUND.open(body, headers={})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [user({"text": "x"})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "text", "text": 3})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "image", "source": {"type": "ftp"}})]}, "messages[0].content[0].source.type"),
        ({"messages": [user({"type": "image", "source": {"type": "url"}})]}, "messages[0].content[0].source.url"),
        ({"messages": [user({"type": "tool_use", "id": "a", "name": "f"})]}, "messages[0].content[0]"),
        ({"messages": [assistant({"type": "tool_result", "tool_use_id": "a"})]}, "messages[0].content[0]"),
        ({"messages": [assistant({"type": "tool_use", "id": "a"})]}, "messages[0].content[0].name"),
        (
            {"messages": [assistant({"type": "tool_use", "id": "a", "name": "f", "input": "x"})]},
            "messages[0].content[0].input",
        ),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"temperature": 1.5}, "temperature"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_wrong_fields_are_named_by_their_path(body: dict[str, Any], param: str) -> None:
    """Refuse an invalid field with its exact path when the request is decoded."""
    assert refused(body) == param


def test_warming_a_cache_is_anthropics_alone() -> None:
    """Open `max_tokens: 0`, so that it can pass through, but refuse to translate it."""
    inbound_request = opened({"max_tokens": 0})
    with pytest.raises(Unsupported):
        INBOUND.decode(inbound_request)


@pytest.mark.parametrize("version", [NEW, "2023-06-01", "2099-01-01"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k"])
def test_sampling_values_are_read_whatever_the_version(field: str, version: str) -> None:
    """Decode sampling values in every version: only Anthropic's own models refuse them."""
    assert getattr(decoded({field: 1}, anthropic_version=version).sampling, field) == 1


def test_documents_and_citations_are_read_whatever_the_version() -> None:
    """Decode documents in assistant messages and citations in user messages in every version."""
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    cited = {"type": "text", "text": "x", "citations": [{"type": "char_location", "cited_text": "x"}]}
    said = [user("Hi"), assistant(document)]
    assert isinstance(messages(*said, anthropic_version=NEW)[1].parts[0], Media)
    assert messages(user(cited), anthropic_version=NEW)[0].parts[0] != Text(text="x")
    assert messages(user("Hi"), assistant(cited), anthropic_version=NEW)[1].parts[0] != Text(text="x")
    nested = {"type": "tool_result", "tool_use_id": "a", "content": [document]}
    assert messages(user(nested), anthropic_version=NEW)[0].role == "tool"


def test_system_texts_stay_apart() -> None:
    """Decode a system list into one message whose texts keep their order and their cache marks."""
    system = [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    leading = decoded({"system": system}).messages[0]
    assert leading.role == "system"
    assert leading.parts == (Text(text="a"), Text(text="b", cache_mark=CacheMark(lifetime="1h")))
    assert decoded({"system": "a"}).messages[0].parts == (Text(text="a"),)


def test_a_system_message_keeps_its_position() -> None:
    """Keep the position and the lifetime of a system message within the conversation."""
    system = {"role": "system", "content": "Be brief.", "clear_at": "never"}
    first, second, third = messages(user("Hi"), system, assistant({"type": "text", "text": "Yes"}))
    assert [turn.role for turn in (first, second, third)] == ["user", "system", "assistant"]
    assert (second.parts, second.expires) == ((Text(text="Be brief."),), "never")


def test_results_and_text_in_one_message_become_two() -> None:
    """Split a user message with results and text into a tool message and a user message."""
    result = {"type": "tool_result", "tool_use_id": "a", "content": "12 °C", "is_error": True}
    tool, said = messages(user({"type": "text", "text": "And?"}, result))
    assert (tool.role, said.role) == ("tool", "user")
    assert tool.parts == (ToolResult(call_id="a", content=(Text(text="12 °C"),), is_error=True),)
    assert said.parts == (Text(text="And?"),)


def test_results_hold_media_and_unknown_blocks() -> None:
    """Decode a result's content like other content; it may be absent."""
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    reference = {"type": "tool_reference", "tool_name": "f"}
    (tool,) = messages(
        user(
            {"type": "tool_result", "tool_use_id": "a", "content": [image, reference]},
            {"type": "tool_result", "tool_use_id": "b"},
        )
    )
    first, second = tool.parts
    assert isinstance(first, ToolResult)
    assert isinstance(first.content[0], Media)
    assert first.content[1] == Opaque(protocol="anthropic-messages", kind="tool_reference", data=reference)
    assert second == ToolResult(call_id="b")


@pytest.mark.parametrize(
    ("source", "expected", "media_type"),
    [
        ({"type": "base64", "media_type": "image/png", "data": "iVBO"}, InlineData(data="iVBO"), "image/png"),
        ({"type": "url", "url": "https://example.org/a"}, Link(url="https://example.org/a"), None),
        ({"type": "file", "file_id": "file_1"}, StoredFile(protocol="anthropic-messages", id="file_1"), None),
    ],
    ids=["base64", "url", "file"],
)
def test_images(source: dict[str, str], expected: object, media_type: str | None) -> None:
    """Decode each kind of image source."""
    (part,) = messages(user({"type": "image", "source": source}))[0].parts
    assert isinstance(part, Media)
    assert (part.kind, part.source, part.media_type) == ("image", expected, media_type)


def test_documents() -> None:
    """Keep a document's title and context; decode texts as plain text, and keep one with images unchanged."""
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    texts = {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    mixed = {"type": "content", "content": [{"type": "image", "source": {}}]}
    one, two, three = messages(
        user(
            {"type": "document", "source": pdf, "title": "T", "context": "C", "citations": {"enabled": True}},
            {"type": "document", "source": texts},
            {"type": "document", "source": mixed},
        )
    )[0].parts
    assert isinstance(one, Media)
    assert (one.source, one.title, one.context) == (InlineData(data="JVBERi0="), "T", "C")
    assert one.extras == {"anthropic-messages": {"citations": {"enabled": True}}}
    assert isinstance(two, Media)
    assert two.source == PlainText(text="a\nb")
    assert isinstance(three, Opaque)


def test_a_search_result_is_a_document() -> None:
    """Decode a caller's own search result as a document with title and source."""
    block = {
        "type": "search_result",
        "source": "https://example.org",
        "title": "T",
        "content": [{"type": "text", "text": "found"}],
    }
    (part,) = messages(user(block))[0].parts
    assert isinstance(part, Media)
    assert (part.source, part.title, part.context) == (PlainText(text="found"), "T", "https://example.org")


def test_native_state_is_anthropics() -> None:
    """Decode signatures and redacted data that are not wrapped as Anthropic's state."""
    thinking, redacted, call = messages(
        user("Hi"),
        assistant(
            {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
            {"type": "redacted_thinking", "data": "blob"},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}, "caller": {"type": "direct"}},
        ),
    )[1].parts
    assert thinking == Reasoning(text="Hm.", seals=(Seal(issuer="anthropic", kind="signature", data="sig"),))
    assert redacted == Reasoning(redacted=True, seals=(Seal(issuer="anthropic", kind="redacted", data="blob"),))
    assert call == ToolCall(call_id="a", name="f", arguments='{"x":1}', caller={"type": "direct"})


def test_wrapped_state_is_unwrapped() -> None:
    """Unwrap state of its issuer; give reasoning marked as unsigned none."""
    seal = Seal(issuer="openai", kind="encrypted", data="blob", item_id="rs_1")
    first, second, third = messages(
        user("Hi"),
        assistant(
            {"type": "thinking", "thinking": "Hm.", "signature": wrap(seal)},
            {"type": "redacted_thinking", "data": wrap(seal)},
            {"type": "thinking", "thinking": "Hm.", "signature": UNSIGNED},
        ),
    )[1].parts
    assert first == Reasoning(text="Hm.", seals=(seal,))
    assert second == Reasoning(seals=(seal,))
    assert third == Reasoning(text="Hm.")


def test_state_of_a_call_returns_to_it() -> None:
    """Move state that was encoded before its call back to the call."""
    seal = Seal(issuer="gemini", kind="signature", data="blob")
    loose = wrap(Seal(issuer="gemini", kind="signature", data="blob", item_id="a"))
    parts = messages(
        user("Hi"),
        assistant(
            {"type": "redacted_thinking", "data": loose},
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        ),
    )[1].parts
    assert parts == (ToolCall(call_id="a", name="f", arguments="{}", seals=(seal,)),)


def test_server_tools_in_history() -> None:
    """Keep the position of Anthropic's own searches and their encrypted content."""
    hit = {"type": "web_search_result", "url": "https://example.org", "title": "T", "encrypted_content": "E"}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [hit]}
    failed = {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {"type": "web_fetch_tool_result_error"}}
    call, result, error = messages(
        user("Hi"),
        assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}, found, failed),
    )[1].parts
    assert isinstance(call, ServerToolCall)
    assert (call.tool, call.arguments) == ("web_search", '{"query":"x"}')
    assert isinstance(result, ServerToolResult)
    assert (result.hits[0].url, result.extras["anthropic-messages"]) == ("https://example.org", found)
    assert isinstance(error, ServerToolResult)
    assert (error.tool, error.is_error) == ("url_fetch", True)


def test_tools() -> None:
    """Decode strictness, cache marks and deferred loading; carry unknown and unnamed tools."""
    mark = {"type": "ephemeral"}
    schema = {"type": "object"}
    function, search, odd, bare = decoded(
        {
            "tools": [
                {"name": "f", "input_schema": schema, "strict": True, "cache_control": mark, "input_examples": [{}]},
                {"type": "web_search_20260318", "name": "web_search", "max_uses": 2, "allowed_domains": ["a.org"]},
                {"type": "bash_20250124", "name": "bash"},
                {"type": "brand_new_toolset"},
            ]
        }
    ).tools
    assert (function.kind, function.strict, function.parameters) == ("function", True, schema)
    assert function.cache_mark == CacheMark()
    assert function.extras == {"anthropic-messages": {"input_examples": [{}]}}
    assert (search.kind, search.name) == ("server", "web_search")
    assert search.settings == {"max_uses": 2, "allowed_domains": ["a.org"]}
    assert (odd.kind, odd.name, odd.extras["anthropic-messages"]["type"]) == ("function", "bash", "bash_20250124")
    assert (bare.kind, bare.name) == ("server", "brand_new_toolset")


@pytest.mark.parametrize(
    ("choice", "mode", "only", "parallel"),
    [
        ({"type": "auto"}, "auto", (), None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", (), False),
        ({"type": "none"}, "none", (), None),
        ({"type": "tool", "name": "f", "disable_parallel_tool_use": False}, "required", ("f",), True),
    ],
)
def test_tool_choice(choice: dict[str, Any], mode: str, only: tuple[str, ...], parallel: bool | None) -> None:
    """Decode each form of tool choice."""
    found = decoded({"tool_choice": choice}).tool_choice
    assert (found.mode, found.only, found.parallel, found.given) == (mode, only, parallel, True)


@pytest.mark.parametrize(
    ("body", "effort", "budget", "visible"),
    [
        ({}, None, None, None),
        ({"thinking": {"type": "adaptive"}}, None, -1, None),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, None, -1, "summary"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048, "display": "omitted"}}, None, 2048, "hidden"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none", None, None),
        ({"output_config": {"effort": "xhigh"}}, "xhigh", None, None),
    ],
)
def test_reasoning(body: dict[str, Any], effort: str | None, budget: int | None, visible: str | None) -> None:
    """Decode thinking and effort into one set of options; invent nothing that is not requested."""
    found = decoded(body).reasoning
    assert (found.effort, found.budget_tokens, found.visible) == (effort, budget, visible)


def test_options() -> None:
    """Decode the other options, and keep unknown ones as extras."""
    asked = decoded(
        {
            "stop_sequences": ["END"],
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}, "task_budget": 3},
            "cache_control": {"type": "ephemeral", "ttl": "5m"},
            "metadata": {"user_id": "u"},
            "speed": "fast",
            "container": "c_1",
            "temperature": 0.5,
        }
    )
    assert asked.stop == ("END",)
    assert (asked.output.kind, asked.output.schema) == ("json_schema", {"type": "object"})
    assert (asked.cache.automatic, asked.cache.lifetime) == (True, "5m")
    assert (asked.end_user, asked.service_tier) == ("u", ServiceTier.FAST)
    assert asked.sampling.temperature == 0.5
    assert asked.extras == {"anthropic-messages": {"output_config": {"task_budget": 3}, "container": "c_1"}}


_WORDS = st.sampled_from(
    [
        "model",
        "messages",
        "max_tokens",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "metadata",
        "role",
        "content",
        "type",
        "text",
        "source",
        "input",
        "id",
        "name",
        "tool_use_id",
        "image",
        "document",
        "thinking",
        "user",
        "assistant",
        "tool_use",
        "tool_result",
        "base64",
        "url",
        "search_result",
        "citations",
        "cache_control",
        "ephemeral",
        "input_schema",
        "stream",
        "enabled",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5000) | st.floats(allow_nan=False) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=6),
    max_leaves=30,
)
_BLOCKS = st.dictionaries(_WORDS, _VALUES, max_size=5).flatmap(
    lambda rest: _WORDS.map(lambda kind: {"type": kind, **rest})
)
_TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(_BLOCKS, max_size=4) | _VALUES}
)


@given(st.dictionaries(_WORDS, _VALUES, max_size=6), st.lists(_TURNS, max_size=3) | _VALUES)
def test_no_input_raises_anything_but_a_bad_request(body: dict[str, Any], turns: Any) -> None:
    """Decode any JSON or refuse it with a 400."""
    whole = {"max_tokens": 9, "messages": turns, **body}
    try:
        INBOUND.decode(INBOUND.open(json.dumps(whole).encode(), headers={}))
    except BadRequest:
        return


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_but_a_bad_request(body: bytes) -> None:
    """Open any bytes or refuse them with a 400."""
    try:
        INBOUND.open(body, headers={})
    except BadRequest:
        return
