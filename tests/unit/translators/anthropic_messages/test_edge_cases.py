"""Rare cases of both codec halves."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from llmproxy_asgi.conversation import (
    UNDATED,
    ArgumentsDelta,
    Candidate,
    Citation,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    Media,
    Message,
    Opaque,
    OutputFormat,
    PartDelta,
    PartEnded,
    PartStarted,
    PlainText,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Response,
    ServerToolCall,
    ServerToolResult,
    ServiceTier,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)
from llmproxy_asgi.errors import BadRequest, Unsupported, UpstreamFailed
from llmproxy_asgi.translators.anthropic_messages.usage import decode_tier, decode_usage, encode_usage
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.wire.sse import DEFAULT_MAX_EVENT
from support.wires.messages import (
    INBOUND,
    OUTBOUND,
    RECEIVED_AT,
    decoded,
    drained,
    encoded,
    events_of,
    frames,
    opened,
    plain_upstream_request,
    read_by_sdk,
    request,
    upstream,
    wire,
    written,
)

START = Started("msg_1", "asked", UNDATED)
END: list[StreamEvent] = [Finished(0, Finish(reason=FinishReason.STOP)), Ended()]


def user(*parts: Any) -> Message:
    return Message(role="user", parts=parts or (Text(text="Hi"),))


def answered(*parts: Any, usage: Usage | None = None) -> dict[str, Any]:
    """Return a complete response as a caller gets it."""
    response = Response(
        id="x",
        model="asked",
        created_at=RECEIVED_AT,
        candidates=(Candidate(parts=parts, finish=Finish(reason=FinishReason.STOP)),),
        usage=usage or Usage(input=1, output=1),
    )
    body: dict[str, Any] = json.loads(INBOUND.encode(response, opened()))
    return body


@pytest.mark.parametrize(
    ("native", "tier"),
    [
        ({"service_tier": "standard"}, ServiceTier.STANDARD),
        ({"service_tier": "priority"}, ServiceTier.PRIORITY),
        ({"service_tier": "standard", "speed": "fast"}, ServiceTier.FAST),
        ({"service_tier": "batch"}, None),
        ({}, None),
    ],
)
def test_the_tier_that_served(native: Mapping[str, str], tier: ServiceTier | None) -> None:
    """Decode the service tier from the usage, and encode it into the usage."""
    assert decode_tier(native) is tier
    found = encode_usage(Usage(input=1), tier)
    assert decode_tier(found) is tier


def test_cache_writes_by_lifetime() -> None:
    """Sum cache writes by lifetime if only those are reported, and encode both."""
    native = {"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}}
    usage = decode_usage(native)
    assert (usage.input, usage.cache_write, usage.cache_write_long) == (6, 5, 3)
    assert encode_usage(Usage(input=6, cache_write=5, cache_write_long=3))["cache_creation"] == native["cache_creation"]


def test_the_input_is_never_negative() -> None:
    """Never encode inconsistent counts as a negative number."""
    assert encode_usage(Usage(input=1, cache_read=5))["input_tokens"] == 0


def test_missing_usage_of_a_response_is_estimated() -> None:
    """Estimate the usage of a complete response without usage."""
    usage = answered(Text(text="x" * 40), usage=Usage())["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] == 10


def test_parts_of_a_response() -> None:
    """Encode the parts that the format has, and omit the others."""
    body = answered(
        Text(text=""),
        Refusal(text="No."),
        Text(text="a", citations=(Citation(url="https://example.org"), Citation(title="no address"))),
        ToolCall(call_id="a.b", name="f", kind="custom", arguments="free"),
        Opaque(protocol="anthropic-messages", kind="new", data={"type": "new"}),
        Opaque(protocol="gemini", kind="other", data={}),
        ServerToolCall(call_id="s", tool="web_search"),
        ServerToolResult(call_id="s", tool="web_search"),
        Media(kind="image", source=InlineData(data="")),
        Reasoning(),
    )
    refusal, text, call, new, search, result = body["content"]
    assert refusal == {"type": "text", "text": "No."}
    assert [citation["url"] for citation in text["citations"]] == ["https://example.org"]
    assert call["input"] == {"input": "free"}
    assert call["id"].startswith("toolu_")
    assert new == {"type": "new"}
    assert (search["type"], search["name"]) == ("server_tool_use", "web_search")
    assert (result["type"], result["tool_use_id"], result["content"]) == ("web_search_tool_result", search["id"], [])
    assert body["stop_reason"] == "refusal"


def test_a_response_keeps_a_search() -> None:
    """Return Anthropic's own search to its client unchanged."""
    body = json.loads(INBOUND.encode(fold(events_of("web_search.sse")), opened()))
    use, found, text = body["content"]
    assert (use["name"], use["input"], found["content"][0]["encrypted_content"]) == (
        "web_search",
        {"query": "köln"},
        "ENC",
    )
    assert text["citations"][0]["encrypted_index"] == "IDX"


def test_a_response_without_candidates_is_an_empty_message() -> None:
    """Encode a response without candidates as an empty message."""
    response = Response(id="", model="m", created_at=RECEIVED_AT, candidates=())
    assert json.loads(INBOUND.encode(response, opened({"model": ...})))["content"] == []


def test_a_server_call_in_pieces() -> None:
    """Encode the streamed arguments of a search in one piece, also for another vendor's search."""
    own = ServerToolCall(call_id="s", tool="web_search", extras={"anthropic-messages": {"name": "web_search"}})
    foreign = ServerToolCall(call_id="t", tool="web_search")
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, own),
        PartDelta(0, 0, ArgumentsDelta('{"query":')),
        PartDelta(0, 0, ArgumentsDelta('"x"}')),
        PartEnded(0, 0),
        PartStarted(0, 1, foreign),
        PartEnded(0, 1),
        *END,
    ]
    message, _ = read_by_sdk(written(events))
    assert [block.input for block in message.content] == [{"query": "x"}, {}]
    assert message.content[1].id.startswith("srvtoolu_")


def test_complete_and_restated_parts() -> None:
    """Encode parts that are complete at their start, and parts that are restated at their end, like others."""
    cited = Text(text="a", citations=(Citation(url="https://example.org"),))
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, cited),
        PartEnded(0, 0),
        PartStarted(0, 1, Text(text="")),
        PartEnded(0, 1, Text(text="restated")),
        PartStarted(0, 2, Reasoning()),
        PartEnded(0, 2, Reasoning(text="thought")),
        PartStarted(0, 3, ToolCall(call_id="c", name="f", arguments='{"x":1}', caller={"type": "direct"})),
        PartEnded(0, 3),
        PartStarted(0, 4, ToolCall(call_id="d", name="f", kind="custom")),
        PartDelta(0, 4, ArgumentsDelta("free")),
        PartEnded(0, 4),
        PartStarted(0, 5, Text(text="")),
        PartEnded(0, 5),
        *END,
    ]
    first, second, third, fourth, fifth = read_by_sdk(written(events))[0].content
    assert (first.text, first.citations[0].url) == ("a", "https://example.org")
    assert (second.text, third.thinking, fourth.input) == ("restated", "thought", {"x": 1})
    assert fifth.input == {"input": "free"}


def test_other_candidates_are_left_out() -> None:
    """Encode only the first candidate: Anthropic's responses have one."""
    other: list[StreamEvent] = [
        PartStarted(1, 0, Text(text="other")),
        PartEnded(1, 0),
        Finished(1, Finish(reason=FinishReason.LENGTH)),
    ]
    message, _ = read_by_sdk(written([START, *other, *END]))
    assert (message.content, message.stop_reason) == ([], "end_turn")


def test_an_unknown_event_is_passed_to_its_own_client() -> None:
    """Pass unknown events to a client of the same protocol."""
    found = frames(written(events_of("unknown.sse")))
    assert ("brand_new_event", {"type": "brand_new_event", "x": 1}) in found
    assert ("content_block_start", {"type": "brand_new_block", "content": "abc"}) in [
        (name, data.get("content_block")) for name, data in found
    ]


def test_names_of_events_cannot_break_the_framing() -> None:
    """Omit an event whose name could break the framing."""
    stream = wire("unknown.sse").replace(b"brand_new_event", b"a b")
    assert all(
        name != "a b"
        for name, _ in frames(written(drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [stream])))
    )


def test_nothing_follows_a_failure() -> None:
    """Write no events after a failure, not even for the open part."""
    failed = Failed(UpstreamFailed("It broke."))
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, Text(text="a")),
        failed,
        PartDelta(0, 0, TextDelta("b")),
        *END,
    ]
    assert [name for name, _ in frames(written(events))][-1] == "error"


def test_end_markers_of_other_protocols_are_ignored() -> None:
    """Ignore `[DONE]` and empty data."""
    stream = wire("text.sse").replace(b"event: ping", b"data: [DONE]\n\ndata:\n\nevent: ping")
    assert drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [stream]) == events_of("text.sse")


@pytest.mark.parametrize("codec", ["full", "passthrough"])
def test_an_event_without_end_is_a_failure(codec: str) -> None:
    """End the stream with a failure when an event exceeds the limit."""
    decoder = (
        OUTBOUND.decoder(plain_upstream_request(), upstream())
        if codec == "full"
        else OUTBOUND.passthrough_stream(opened(), upstream())
    )
    last = [*decoder.feed(b"data: " + b"x" * DEFAULT_MAX_EVENT).events, *decoder.close().events][-1]
    assert isinstance(last, Failed)


def test_an_error_without_a_type_is_seen() -> None:
    """Report an error object without a type as a failure, decoded and passed through."""
    for codec in (
        OUTBOUND.decoder(plain_upstream_request(), upstream()),
        OUTBOUND.passthrough_stream(opened(), upstream()),
    ):
        assert isinstance(drained(codec, [b'data: {"error": {"message": "m"}}\n\n'])[-1], Failed)


def test_a_stream_that_starts_twice() -> None:
    """Ignore a second start."""
    stream = wire("text.sse")
    start = stream[: stream.index(b"\n\n") + 2]
    assert drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [start + stream]) == events_of("text.sse")


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_in_headers_are_checked() -> None:
    """Refuse invalid versions and betas with a 400, so that they never reach an upstream's headers."""
    for header in ({"anthropic_version": "a b"}, {"anthropic_beta": "a b"}, {"anthropic_beta": "a\r\nx: y"}):
        with pytest.raises(BadRequest):
            opened(None, **header)


def test_a_count_needs_no_limit() -> None:
    """Allow a missing `max_tokens` when the path counts tokens."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    inbound_request = INBOUND.open(body, headers={}, path={"operation": "count_tokens"})
    assert INBOUND.decode(inbound_request).max_output_tokens is None


def test_odd_requests_are_read() -> None:
    """Decode unknown system blocks, empty system texts, results with state, and thinking between tools."""
    asked = decoded(
        {"system": [{"type": "new"}], "thinking": {"type": "between_tools"}, "metadata": {}, "service_tier": "auto"}
    )
    assert isinstance(asked.messages[0].parts[0], Opaque)
    assert asked.reasoning.budget_tokens == -1
    assert asked.extras == {"anthropic-messages": {"thinking": {"type": "between_tools"}}}
    assert asked.service_tier is ServiceTier.AUTO
    assert decoded({"system": ""}).messages[0].role == "user"
    said = {"type": "text", "text": "x", "citations": [{"type": "char_location", "cited_text": "x"}]}
    result = {"type": "search_result", "source": "s", "title": "t", "content": [], "citations": [said]}
    found = decoded({"messages": [{"role": "user", "content": [result]}]}, anthropic_version="2026-10-21")
    assert isinstance(found.messages[0].parts[0], Media)


def test_a_document_given_as_one_string() -> None:
    """Decode a document whose content is a string."""
    source = {"type": "content", "content": "whole"}
    asked = decoded({"messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]})
    part = asked.messages[0].parts[0]
    assert isinstance(part, Media)
    assert part.source == PlainText(text="whole")


def test_search_results_with_an_address_are_cited_by_it() -> None:
    """Give the citation of a caller's own search result its URL."""
    native = {"type": "search_result_location", "source": "https://example.org", "title": "T", "cited_text": "c"}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "text", "text": "b", "citations": [native]}]},
    ]
    part = decoded({"messages": turns}).messages[1].parts[0]
    assert isinstance(part, Text)
    assert (part.citations[0].kind, part.citations[0].url) == ("url", "https://example.org")


def test_several_instructions_in_the_middle() -> None:
    """Merge adjacent instructions after a user message; keep one with its own lifetime separate."""
    one = Message(role="system", parts=(Text(text="s"),))
    lasting = Message(role="system", parts=(Text(text="t"),), expires="never")
    body, _ = encoded(request(user(), one, one))
    assert [len(turn["content"]) for turn in body["messages"]] == [1, 2]
    body, upstream_request = encoded(request(user(), one, lasting))
    assert [turn["role"] for turn in body["messages"]] == ["user", "system", "user"]
    assert upstream_request.warnings == ("downgraded:system_message",)


@pytest.mark.parametrize(
    ("part", "able"),
    [
        (Media(kind="image", source=InlineData(data="iVBORw0KGgo="), media_type="image/png"), {"images": False}),
        (Media(kind="document", source=PlainText(text="x")), {"documents": False}),
        (Media(kind="image", source=PlainText(text="x")), {}),
        (Media(kind="document", source=InlineData(data="////"), media_type="text/plain"), {}),
        (Media(kind="image", source=InlineData(data="é"), media_type="image/x"), {}),
    ],
)
def test_media_that_this_model_cannot_take(part: Media, able: dict[str, Any]) -> None:
    """Refuse media that the model doesn't accept with a 400."""
    with pytest.raises(Unsupported):
        encoded(request(user(part)), upstream(**able))


def test_webp_is_recognised() -> None:
    """Detect WebP by its container."""
    part = Media(kind="image", source=InlineData(data="UklGRgAAAABXRUJQVlA4"), media_type="image/png")
    body, _ = encoded(request(user(part)))
    assert body["messages"][0]["content"][0]["source"]["media_type"] == "image/webp"


def test_tools_that_this_model_cannot_take() -> None:
    """Refuse tools for a model without tools, and a choice of an unknown tool, with a 400."""
    with pytest.raises(Unsupported):
        encoded(request(tools=(Tool(name="f"),)), upstream(tools=False))
    unknown = ToolChoice(mode="required", only=("g",), given=True)
    with pytest.raises(Unsupported):
        encoded(request(tools=(Tool(name="f"),), tool_choice=unknown))


def test_a_search_may_be_forced() -> None:
    """Force a mapped server tool by Anthropic's name for it."""
    fetch = Tool(name="url_fetch", kind="server")
    choice = ToolChoice(mode="required", only=("url_fetch",), given=True)
    body, _ = encoded(request(tools=(fetch,), tool_choice=choice))
    assert body["tool_choice"] == {"type": "tool", "name": "web_fetch"}


def test_automatic_thinking_on_a_model_with_budgets() -> None:
    """Send a medium budget within the model's limits to a model without automatic thinking, with a warning."""
    wish = ReasoningOptions(budget_tokens=-1)
    body, upstream_request = encoded(request(reasoning=wish), upstream(thinking="budget", max_thinking_budget=4000))
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 4000}
    assert upstream_request.warnings == ("emulated:reasoning_effort", "clamped:reasoning_effort")


def test_verbosity_and_open_objects() -> None:
    """Report dropped verbosity and dropped `additionalProperties` as losses."""
    schema = {"type": "object", "additionalProperties": True, "properties": {"a": {"type": "string"}}}
    wanted = OutputFormat(kind="json_schema", schema=schema, verbosity="low")
    body, upstream_request = encoded(request(output=wanted))
    assert body["output_config"]["format"]["schema"] == {**schema, "additionalProperties": False}
    assert upstream_request.warnings == ("dropped:verbosity", "dropped:response_format.additionalProperties")


def test_an_invalid_conversation_with_wrapped_state_passes() -> None:
    """Pass messages of invalid shapes unchanged when unwrapping state."""
    turns: list[Any] = [3, {"role": "user", "content": "bGxtcHJveHkx"}, {"role": "user", "content": [3]}]
    upstream_request = OUTBOUND.passthrough_request(opened({"messages": turns}), upstream())
    assert json.loads(upstream_request.body)["messages"] == turns
    assert upstream_request.warnings == ()
