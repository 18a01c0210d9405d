"""Decode streams of a Messages upstream, and pass them through as bytes."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    Batch,
    Ended,
    Failed,
    Finished,
    FinishReason,
    Opaque,
    PartEnded,
    Passed,
    Reasoning,
    Response,
    ServerToolCall,
    ServerToolResult,
    ServiceTier,
    Started,
    StreamEvent,
    Text,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import (
    GatewayError,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import StreamDecoder, UpstreamRequest
from llmproxy_asgi.translators.stream_validator import StreamValidator
from support.wires.messages import (
    INBOUND,
    OUTBOUND,
    RECEIVED_AT,
    STREAMS,
    drained,
    events_of,
    frames,
    opened,
    plain_upstream_request,
    read_by_sdk,
    upstream,
    wire,
)

GOOD = [name for name in STREAMS if not name.startswith(("error", "cut"))]


def decoder(upstream_request: UpstreamRequest | None = None) -> StreamDecoder:
    return OUTBOUND.decoder(upstream_request or plain_upstream_request(), upstream())


def passthrough() -> StreamDecoder:
    return OUTBOUND.passthrough_stream(opened({"stream": True}), upstream())


def passed_through(decoder: StreamDecoder, pieces: Sequence[bytes]) -> tuple[list[StreamEvent], bytes]:
    """Return all events of a passed stream, and the caller's bytes."""
    batches = [*map(decoder.feed, pieces), decoder.close()]
    return [event for batch in batches for event in batch.events], b"".join(batch.raw or b"" for batch in batches)


def folded(name: str) -> Response:
    return fold(events_of(name))


def error_of(events: Sequence[StreamEvent]) -> GatewayError:
    last = events[-1]
    assert isinstance(last, Failed)
    return last.error


def same(events: Sequence[StreamEvent]) -> list[object]:
    """Return comparable events: an error is its class and message."""
    return [(type(event.error), str(event.error)) if isinstance(event, Failed) else event for event in events]


def frame(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


START = frame("message_start", message={"id": "msg_1", "role": "assistant", "content": [], "usage": {}})


def block(index: int, content: dict[str, object], *deltas: Mapping[str, object]) -> bytes:
    return b"".join(
        [
            frame("content_block_start", index=index, content_block=content),
            *(frame("content_block_delta", index=index, delta=delta) for delta in deltas),
            frame("content_block_stop", index=index),
        ]
    )


def ending(reason: str | None = "end_turn") -> bytes:
    return frame("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3}) + frame("message_stop")


@pytest.mark.parametrize("name", STREAMS)
def test_cut_at_every_byte(name: str) -> None:
    """Decode the same events from a stream that is split anywhere, or byte by byte."""
    whole = wire(name)
    expected = same(drained(decoder(), [whole]))
    for cut in range(len(whole)):
        assert same(drained(decoder(), [whole[:cut], whole[cut:]])) == expected
    assert same(drained(decoder(), [whole[at : at + 1] for at in range(len(whole))])) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_passed_bytes_do_not_depend_on_splits(name: str) -> None:
    """Pass the same bytes and events, however the stream is split."""
    whole = wire(name)

    def run(pieces: Sequence[bytes]) -> tuple[list[object], bytes]:
        codec, events, raw = passthrough(), list[StreamEvent](), b""
        for piece in pieces:
            batch = codec.feed(piece)
            events.extend(batch.events)
            raw += batch.raw or b""
        batch = codec.close()
        return same([*events, *batch.events]), raw + (batch.raw or b"")

    expected = run([whole])
    for cut in range(0, len(whole), 3):
        assert run([whole[:cut], whole[cut:]]) == expected
    assert run([whole[at : at + 1] for at in range(len(whole))]) == expected


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n"], ids=["crlf", "cr", "lf"])
@pytest.mark.parametrize("name", GOOD)
def test_any_line_end(name: str, line_end: str) -> None:
    """Accept any line end."""
    other = wire(name).replace(b"\n", line_end.encode())
    assert drained(decoder(), [other]) == drained(decoder(), [wire(name)])


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_satisfies_the_grammar(name: str) -> None:
    """Emit events in a valid order with exactly one ending for any stream."""
    validator = StreamValidator()
    for event in events_of(name):
        validator.check(event)
    assert validator.complete


def test_text_arrives_intact() -> None:
    """Keep code points of several bytes and raw U+2028."""
    assert folded("text.sse").text == "Grüße aus Köln 😀\u2028 und 東京"


def test_a_plain_response() -> None:
    """Decode text, finish, usage and id, with the caller's model name."""
    response = folded("text.sse")
    assert (response.id, response.model, response.finish_reason) == ("msg_01Wire", "asked", FinishReason.STOP)
    assert (response.usage.input, response.usage.output) == (10, 5)


def test_calls_keep_their_own_text() -> None:
    """Keep the bytes of the upstream's arguments; a call without arguments has `{}`."""
    first, second = folded("thinking_and_calls.sse").tool_calls
    assert (first.call_id, first.name, first.arguments) == ("toolu_01A", "weather", '{"city": "Köln", "days": 1.0}')
    assert (second.call_id, second.name, second.arguments) == ("toolu_01B", "now", "{}")


def test_thinking_is_sealed_by_its_upstream() -> None:
    """Seal thinking and redacted thinking with the upstream's state, issuer and model."""
    thinking, redacted, *_ = folded("thinking_and_calls.sse").candidates[0].parts
    assert isinstance(thinking, Reasoning)
    assert isinstance(redacted, Reasoning)
    assert thinking.text == "Two cities, two calls."
    seals = [(seal.issuer, seal.model, seal.kind, seal.data) for seal in (*thinking.seals, *redacted.seals)]
    assert seals == [
        ("anthropic", "claude-upstream-1", "signature", "EqQBsignature=="),
        ("anthropic", "claude-upstream-1", "redacted", "EmwKredacted=="),
    ]


def test_omitted_thinking_is_reasoning() -> None:
    """Keep thinking without text for its signature."""
    part = folded("omitted_thinking.sse").candidates[0].parts[0]
    assert isinstance(part, Reasoning)
    assert (part.text, part.seals[0].data) == ("", "EqQBomitted==")


def test_usage_is_counted_once_and_in_full() -> None:
    """Include cache reads and writes in the input and thinking in the output; restated counts replace."""
    usage = folded("thinking_and_calls.sse").usage
    assert (usage.input, usage.cache_read, usage.cache_write, usage.cache_write_long) == (237, 200, 30, 20)
    assert (usage.output, usage.reasoning) == (41, 12)


def test_the_start_has_its_usage() -> None:
    """Emit the first event's usage with the start."""
    started = events_of("thinking_and_calls.sse")[0]
    assert isinstance(started, Started)
    assert started.usage is not None
    assert started.usage.input == 237
    assert started.service_tier is ServiceTier.STANDARD


def test_a_web_search() -> None:
    """Decode the upstream's search as a call and a result, and a citation's span in code points."""
    response = folded("web_search.sse")
    call, result, text = response.candidates[0].parts
    assert isinstance(call, ServerToolCall)
    assert (call.tool, call.arguments) == ("web_search", '{"query": "köln"}')
    assert isinstance(result, ServerToolResult)
    assert [hit.url for hit in result.hits] == ["https://example.org/a"]
    assert isinstance(text, Text)
    citation = text.citations[0]
    assert (citation.url, citation.start, citation.end) == ("https://example.org/a", 0, len("Köln liegt am Rhein."))
    assert response.usage.server_tool_calls == {"web_search": 1}


def test_a_refusal_says_why() -> None:
    """Keep a refusal's details with the finish."""
    finish = folded("refusal.sse").candidates[0].finish
    assert (finish.reason, finish.category, finish.message) == (FinishReason.REFUSAL, "cyber", "This could harm.")


def test_the_stop_sequence_is_named() -> None:
    """Decode which sequence stopped the response."""
    finish = folded("stop_sequence.sse").candidates[0].finish
    assert (finish.reason, finish.stop_sequence) == (FinishReason.STOP_SEQUENCE, "END")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.CONTEXT_LENGTH),
        ("pause_turn", FinishReason.PAUSE),
        ("compaction", FinishReason.COMPACTION),
        ("tomorrow", FinishReason.UNKNOWN),
    ],
)
def test_stop_reasons(word: str, reason: FinishReason) -> None:
    """Map each stop reason, and keep the native one."""
    finish = next(event.finish for event in drained(decoder(), [START + ending(word)]) if isinstance(event, Finished))
    assert (finish.reason, finish.native) == (reason, word)


@pytest.mark.parametrize("word", ["end_turn", "tool_use"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"type": "tool_use", "id": "a", "name": "f", "input": {}}, FinishReason.TOOL_CALLS),
        ({"type": "text", "text": "So."}, FinishReason.STOP),
        ({"type": "mcp_tool_use", "id": "a", "name": "f", "input": {}}, FinishReason.STOP),
    ],
)
def test_the_finish_reason_matches_the_calls(word: str, content: dict[str, object], reason: FinishReason) -> None:
    """Correct the stop reason of servers that confuse `end_turn` and `tool_use`."""
    events = drained(decoder(), [START + block(0, content) + ending(word)])
    finish = next(event.finish for event in events if isinstance(event, Finished))
    assert (finish.reason, finish.native) == (reason, word)
    body = json.dumps({"id": "msg_1", "content": [content], "stop_reason": word}).encode()
    assert whole(body).candidates[0].finish == finish


def test_unknown_data_survives() -> None:
    """Pass unknown events, keep unknown blocks as opaque parts, and keep unknown stop reasons."""
    events = events_of("unknown.sse")
    response = fold(events)
    opaque, text = response.candidates[0].parts
    assert isinstance(opaque, Opaque)
    assert opaque.data == {"type": "brand_new_block", "content": "abc"}
    assert isinstance(text, Text)
    assert response.candidates[0].finish.native == "brand_new_reason"
    assert [event.name for event in events if isinstance(event, Passed)] == ["brand_new_event", "content_block_delta"]


def test_a_free_text_tool_is_unwrapped() -> None:
    """Decode a call of an emulated free-text tool as one, with the caller's name and id."""
    upstream_request = UpstreamRequest(
        body=b"", stream=True, names={"f_1": "f.1"}, call_ids={"toolu_x": "mine"}, emulated=frozenset({"f_1"})
    )
    use: dict[str, object] = {"type": "tool_use", "id": "toolu_x", "name": "f_1", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ('{"inp', 'ut": "a\\n', 'b"}')]
    stream = START + block(0, use, *pieces) + ending("tool_use")
    (call,) = fold(drained(decoder(upstream_request), [stream])).tool_calls
    assert (call.kind, call.name, call.call_id, call.arguments) == ("custom", "f.1", "mine", "a\nb")


def test_compatible_servers_are_read() -> None:
    """Decode content in a block's start, blocks that never end and a missing message_stop."""
    stream = (
        START
        + frame("content_block_start", index=0, content_block={"type": "text", "text": "Hel"})
        + frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"})
        + frame(
            "content_block_start",
            index=1,
            content_block={"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        )
        + frame("content_block_stop", index=1)
        + frame("message_delta", delta={"stop_reason": "tool_use"}, usage=None)
    )
    response = fold(drained(decoder(), [stream]))
    assert response.text == "Hello"
    assert json.loads(response.tool_calls[0].arguments) == {"x": 1}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", UpstreamOverloaded),
        ("rate_limit_error", UpstreamRateLimited),
        ("api_error", UpstreamFailed),
        ("invalid_request_error", UpstreamRefused),
        ("authentication_error", UpstreamAuthFailed),
        ("never_heard_of", UpstreamFailed),
    ],
)
@pytest.mark.parametrize("codec", [decoder, passthrough], ids=["full", "passthrough"])
def test_an_error_event_ends_the_stream(codec: object, kind: str, error: type[UpstreamError]) -> None:
    """End the stream with the failure of an error event's type, first or later."""
    assert callable(codec)
    broken = frame("error", error={"type": kind, "message": "m"})
    for stream in (broken, START + broken):
        events = drained(codec(), [stream + ending()])
        assert type(error_of(events)) is error


@pytest.mark.parametrize("codec", [decoder, passthrough], ids=["full", "passthrough"])
def test_a_stream_that_stops_is_a_failure(codec: object) -> None:
    """Report a failure without an end marker, and never complete a half-sent call."""
    assert callable(codec)
    events = drained(codec(), [wire("cut.sse")])
    assert isinstance(error_of(events), UpstreamProtocolError)
    assert not [event for event in events if isinstance(event, PartEnded | Finished | Ended)]


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {nonsense\n\n",
        b'event: message_start\ndata: {"type": "message_start", "message": 3}\n\n',
        START + frame("content_block_delta", index=4, delta={"type": "text_delta", "text": "?"}),
        frame("content_block_start", index=0, content_block={"type": "text"}),
        START + frame("content_block_start", index=0),
        frame("message_stop"),
        START + b'event: x\ndata: {"type": "x", "a": "\xff"}\n\n',
        b"",
        b"<html>Bad gateway</html>",
        b'{"type": "error", "error": {"type": "api_error"}}',
    ],
)
def test_rubbish_is_a_failure_of_the_upstream(broken: bytes) -> None:
    """End the stream with one protocol failure on unreadable or misplaced events."""
    codec = decoder()
    events = drained(codec, [broken])
    assert isinstance(error_of(events), UpstreamProtocolError)
    assert sum(isinstance(event, Failed | Ended) for event in events) == 1
    assert not codec.feed(START).events
    assert not codec.close().events


@given(st.lists(st.binary(max_size=60) | st.sampled_from([START, ending(), block(0, {"type": "text"}, {"text": "x"})])))
def test_no_bytes_raise(pieces: list[bytes]) -> None:
    """End with exactly one ending, and never raise, for any bytes, decoded and passed through."""
    for codec in (decoder(), passthrough()):
        events = drained(codec, pieces)
        assert sum(isinstance(event, Failed | Ended) for event in events) == 1
        assert isinstance(events[-1], Failed | Ended)


@pytest.mark.parametrize("name", GOOD)
def test_a_passed_stream_changes_only_the_models_name(name: str) -> None:
    """Pass the upstream's bytes with the caller's model name."""
    codec = passthrough()
    raw = (codec.feed(wire(name)).raw or b"") + (codec.close().raw or b"")
    assert raw == wire(name).replace(b'"claude-upstream-1"', b'"asked"')


def test_a_passed_stream_waits_for_the_models_name() -> None:
    """Replace the model's name after any number of pings."""
    start = frame("message_start", message={"id": "msg_1", "model": "claude-upstream-1", "content": [], "usage": {}})
    decoder = passthrough()
    assert [decoder.feed(frame("ping")) for _ in range(100)] == [Batch([], b"")] * 100
    raw = decoder.feed(start + ending()).raw
    assert raw == frame("ping") * 100 + start.replace(b"claude-upstream-1", b"asked") + ending()
    assert read_by_sdk(raw)[0].model == "asked"


def test_a_ping_does_not_start_a_passed_stream() -> None:
    """Start with the first event after pings, so that an earlier error still permits failover and has its status."""
    events, raw = passed_through(
        passthrough(), [frame("ping"), frame("error", error={"type": "overloaded_error", "message": "x"})]
    )
    assert [type(event) for event in events] == [Failed]
    assert raw == b""
    assert passed_through(passthrough(), [frame("ping")] * 3)[1] == b""
    endless = OUTBOUND.passthrough_stream(opened({"stream": True}), msgspec.structs.replace(upstream(), max_event=500))
    assert isinstance(error_of(passed_through(endless, [frame("ping")] * 50)[0]), UpstreamProtocolError)


def test_a_passed_stream_emits_events() -> None:
    """Emit start, finish, usage and end while bytes pass."""
    events = drained(passthrough(), [wire("thinking_and_calls.sse")])
    assert [type(event) for event in events] == [Started, Finished, UsageReported, Ended]
    reported = events[2]
    assert isinstance(reported, UsageReported)
    assert (reported.usage.input, reported.usage.output) == (237, 41)


def test_a_passed_stream_stops_before_the_error() -> None:
    """Pass the bytes before an error, and leave the error to the encoder."""
    codec = passthrough()
    batch = codec.feed(wire("error_midway.sse"))
    assert isinstance(error_of(batch.events), UpstreamOverloaded)
    raw = (batch.raw or b"") + INBOUND.encoder(opened()).feed(batch.events[-1:])
    assert [name for name, _ in frames(raw)][-2:] == ["content_block_delta", "error"]


def test_a_missing_end_marker_is_written() -> None:
    """Write message_stop if the upstream omits it after a stop reason."""
    codec = passthrough()
    stream = wire("text.sse").removesuffix(b'event: message_stop\ndata: {"type": "message_stop"}\n\n')
    raw = (codec.feed(stream).raw or b"") + (codec.close().raw or b"")
    assert [name for name, _ in frames(raw)][-1] == "message_stop"
    assert read_by_sdk(raw)[0].stop_reason == "end_turn"


# ── complete responses ───────────────────────────────────────────────────────────────────────────────────────────────


def whole(body: bytes, at: datetime = RECEIVED_AT) -> Response:
    return OUTBOUND.decode(body, plain_upstream_request(), upstream(), received_at=at)


def test_a_complete_response() -> None:
    """Decode every part, its state, the arguments' own spelling and all counts."""
    response = whole(wire("answer.response.json"))
    thinking, redacted, text, call = response.candidates[0].parts
    assert isinstance(thinking, Reasoning)
    assert thinking.seals[0].data == "EqQBwhole=="
    assert isinstance(redacted, Reasoning)
    assert (redacted.redacted, redacted.seals[0].data) == (True, "EmwK==")
    assert isinstance(text, Text)
    assert text.text == "Köln: 12 °C"
    assert isinstance(call, ToolCall)
    assert call.arguments == '{"b": 1.0, "a": [1000.0]}'
    assert response.finish_reason is FinishReason.TOOL_CALLS
    usage = response.usage
    assert (usage.input, usage.output, usage.cache_read, usage.cache_write, usage.cache_write_long) == (17, 5, 4, 3, 2)


def test_a_passed_response_keeps_its_bytes() -> None:
    """Keep every value's bytes for a caller of the same protocol, except the model's name."""
    batch = OUTBOUND.passthrough_response(wire("answer.response.json"), opened(), upstream())
    assert batch.raw is not None
    assert json.loads(batch.raw) == {**json.loads(wire("answer.response.json")), "model": "asked"}
    assert b'{"b": 1.0, "a": [1000.0]}' in batch.raw
    (reported,) = batch.events
    assert isinstance(reported, UsageReported)
    assert reported.usage.input == 17


def test_a_response_without_changes_is_the_same_object() -> None:
    """Pass the same bytes object if the model's name doesn't change."""
    body = wire("answer.response.json").replace(b"claude-upstream-1", b"asked")
    assert OUTBOUND.passthrough_response(body, opened(), upstream()).raw is body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"content": 3}',
        b'{"content": [3]}',
        b'{"content": [{"type": "text", "text": 3}]}',
    ],
)
def test_invalid_responses_are_upstream_failures(body: bytes) -> None:
    """Report an invalid response as the upstream's failure, without its body."""
    with pytest.raises(UpstreamProtocolError) as caught:
        whole(body)
    assert "html" not in str(caught.value)


def test_an_error_with_a_good_status() -> None:
    """Report an error object with status 200 as the failure of its type, decoded and passed through."""
    body = b'{"type": "error", "error": {"type": "overloaded_error", "message": "m"}}'
    with pytest.raises(UpstreamOverloaded):
        whole(body)
    with pytest.raises(UpstreamOverloaded):
        OUTBOUND.passthrough_response(body, opened(), upstream())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["content", "type", "usage", "id", "text", "input", "input_tokens"]), x)
        ),
    )
)
def test_no_response_raises_anything_else(value: object) -> None:
    """Decode any JSON or raise an upstream error."""
    body = json.dumps(value).encode()
    for read in (whole, lambda body: OUTBOUND.passthrough_response(body, opened(), upstream())):
        try:
            read(body)
        except UpstreamError:
            continue


def test_usage_may_be_missing_or_invalid() -> None:
    """Decode invalid counts as 0, and missing usage as none."""
    response = whole(b'{"content": [], "usage": {"input_tokens": null, "output_tokens": "3", "cache_creation": 3}}')
    assert (response.usage.input, response.usage.output) == (0, 0)
    assert whole(b'{"content": []}').usage == Usage()
