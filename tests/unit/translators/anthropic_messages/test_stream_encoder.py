"""Encode streams for Anthropic's clients; Anthropic's own SDK reads them."""

import json
from collections.abc import Sequence
from typing import Any

import anthropic
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    UNDATED,
    ArgumentsDelta,
    Candidate,
    Citation,
    CitationDelta,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Response,
    Seal,
    SealDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamFailed, UpstreamOverloaded
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.seals import unwrap
from support.conversations import broken_rows, event_rows, responses
from support.wires.messages import INBOUND, events_of, frames, opened, read_by_sdk, wire, written

START = Started("msg_1", "asked", UNDATED)


def ending(reason: FinishReason = FinishReason.STOP, usage: Usage | None = None, **more: Any) -> list[StreamEvent]:
    reported = [UsageReported(usage)] if usage else []
    return [Finished(0, Finish(reason=reason, **more)), *reported, Ended()]


def call(index: int, call_id: str, *fragments: str) -> list[StreamEvent]:
    return [
        PartStarted(0, index, ToolCall(call_id=call_id, name="f")),
        *(PartDelta(0, index, ArgumentsDelta(text)) for text in fragments),
        PartEnded(0, index, ToolCall(call_id=call_id, name="f", arguments="".join(fragments))),
    ]


def test_the_sdk_reads_text_thinking_and_calls() -> None:
    """Encode a stream with every common part so that Anthropic's client reads all of it."""
    message, _ = read_by_sdk(written(events_of("thinking_and_calls.sse")))
    assert (message.id, message.model, message.stop_reason) == ("msg_01Wire", "asked", "tool_use")
    thinking, redacted, text, first, second = message.content
    assert (thinking.thinking, thinking.signature) == ("Two cities, two calls.", "EqQBsignature==")
    assert redacted.data == "EmwKredacted=="
    assert text.text == "I look it up."
    assert (first.id, first.name, first.input) == ("toolu_01A", "weather", {"city": "Köln", "days": 1})
    assert (second.id, second.name, second.input) == ("toolu_01B", "now", {})
    usage = message.usage
    assert (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (7, 30, 200)
    assert (usage.output_tokens, usage.output_tokens_details.thinking_tokens) == (41, 12)


def test_every_event_is_named_by_its_type() -> None:
    """Give each event an event line equal to its type, and data on one line."""
    for name, data in frames(written(events_of("thinking_and_calls.sse"))):
        assert name == data["type"]


def test_overlapping_calls_are_written_one_after_the_other() -> None:
    """Encode interleaved fragments of two calls as two closed blocks, in the order of their starts."""
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, ToolCall(call_id="a", name="f")),
        PartStarted(0, 1, ToolCall(call_id="b", name="g")),
        PartDelta(0, 1, ArgumentsDelta('{"y":')),
        PartDelta(0, 0, ArgumentsDelta('{"x":')),
        PartDelta(0, 1, ArgumentsDelta("2}")),
        PartEnded(0, 1, ToolCall(call_id="b", name="g", arguments='{"y":2}')),
        PartDelta(0, 0, ArgumentsDelta("1}")),
        PartEnded(0, 0, ToolCall(call_id="a", name="f", arguments='{"x":1}')),
        *ending(FinishReason.TOOL_CALLS),
    ]
    stream = written(events)
    message, _ = read_by_sdk(stream)
    assert [(block.id, block.input) for block in message.content] == [("a", {"x": 1}), ("b", {"y": 2})]
    open_blocks: set[int] = set()
    for _, data in frames(stream):
        match data["type"]:
            case "content_block_start":
                assert not open_blocks
                open_blocks.add(data["index"])
            case "content_block_delta":
                assert open_blocks == {data["index"]}
            case "content_block_stop":
                open_blocks.remove(data["index"])


def test_overlapping_parts_left_open_are_closed_at_the_end() -> None:
    """Close all open and queued parts before the message ends."""
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, Text(text="")),
        PartDelta(0, 0, TextDelta("a")),
        PartStarted(0, 1, Text(text="b")),
        PartStarted(0, 2, Text(text="c")),
        PartEnded(0, 2),
        *ending(),
    ]
    message, _ = read_by_sdk(written(events))
    assert [block.text for block in message.content] == ["a", "b", "c"]


def test_text_is_written_while_another_part_waits() -> None:
    """Write the open part's text at once, even if other parts are queued."""
    encoder_events: list[StreamEvent] = [START, PartStarted(0, 0, Text(text="")), PartStarted(0, 1, Text(text=""))]
    stream = written([*encoder_events, PartDelta(0, 1, TextDelta("later")), PartDelta(0, 0, TextDelta("now"))])
    assert b'"now"' in stream
    assert b'"later"' not in stream


@pytest.mark.parametrize(
    ("fragments", "read"),
    [
        ([], {}),
        ([""], {}),
        (["null"], {}),
        (["  ", '{"a"', ":1}"], {"a": 1}),
        (["[1,", "2]"], {"value": [1, 2]}),
        (["not", " json"], {"_raw": "not json"}),
    ],
    ids=["none", "empty", "null", "spaces", "array", "rubbish"],
)
def test_arguments_always_join_to_an_object(fragments: Sequence[str], read: dict[str, object]) -> None:
    """Write fragments that join to a JSON object for any arguments."""
    stream = written([START, *call(0, "a", *fragments), *ending(FinishReason.TOOL_CALLS)])
    message, _ = read_by_sdk(stream)
    assert message.content[0].input == read
    joined = "".join(data["delta"]["partial_json"] for name, data in frames(stream) if name == "content_block_delta")
    assert json.loads(joined) == read


def test_a_signature_is_sent_whole_and_last() -> None:
    """Write one signature event directly before the block's end."""
    names = [
        data.get("delta", {}).get("type", name)
        for name, data in frames(written(events_of("thinking_and_calls.sse")))
        if data.get("index") == 0
    ]
    assert names == ["content_block_start", "thinking_delta", "thinking_delta", "signature_delta", "content_block_stop"]


def test_thinking_without_text_keeps_its_signature() -> None:
    """Encode thinking without text as a thinking block with its signature."""
    message, _ = read_by_sdk(written(events_of("omitted_thinking.sse")))
    assert (message.content[0].type, message.content[0].signature) == ("thinking", "EqQBomitted==")


def test_foreign_state_is_wrapped() -> None:
    """Wrap another vendor's state as a signature, or as redacted thinking without text."""
    seal = Seal(issuer="openai", kind="encrypted", data="blob", item_id="rs_1")
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, Reasoning()),
        PartDelta(0, 0, ReasoningDelta("Hm.")),
        PartDelta(0, 0, SealDelta(seal)),
        PartEnded(0, 0, Reasoning(text="Hm.", seals=(seal,))),
        PartStarted(0, 1, Reasoning()),
        PartDelta(0, 1, SealDelta(seal)),
        PartEnded(0, 1, Reasoning(seals=(seal,))),
        *ending(),
    ]
    message, _ = read_by_sdk(written(events))
    readable, silent = message.content
    assert (readable.thinking, unwrap(readable.signature)) == ("Hm.", seal)
    assert (silent.type, unwrap(silent.data)) == ("redacted_thinking", seal)


def test_unsigned_reasoning_never_looks_like_anthropics() -> None:
    """Mark unsigned reasoning with an empty wrapped seal."""
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, Reasoning()),
        PartDelta(0, 0, ReasoningDelta("Hm.")),
        PartEnded(0, 0),
        *ending(),
    ]
    message, _ = read_by_sdk(written(events))
    found = unwrap(message.content[0].signature)
    assert found is not None
    assert found.data == ""


def test_state_of_a_call_precedes_it() -> None:
    """Encode another vendor's state of a call as redacted thinking that precedes and names the call."""
    seal = Seal(issuer="gemini", kind="signature", data="blob")
    sealed = ToolCall(call_id="a", name="f", seals=(seal,))
    events: list[StreamEvent] = [START, PartStarted(0, 0, sealed), PartEnded(0, 0, sealed), *ending()]
    message, _ = read_by_sdk(written(events))
    state, use = message.content
    found = unwrap(state.data)
    assert (use.type, found and found.item_id) == ("tool_use", "a")


def test_late_state_of_a_call_follows_it() -> None:
    """Write state that arrives during a call once, after the call, with the call's name."""
    seal = Seal(issuer="gemini", kind="signature", data="blob")
    whole = ToolCall(call_id="a", name="f", arguments="{}", seals=(seal,))
    for late in ([PartDelta(0, 0, SealDelta(seal)), PartEnded(0, 0)], [PartEnded(0, 0, whole)]):
        events: list[StreamEvent] = [START, PartStarted(0, 0, ToolCall(call_id="a", name="f")), *late, *ending()]
        use, state = read_by_sdk(written(events))[0].content
        found = unwrap(state.data)
        assert (use.type, found and found.item_id) == ("tool_use", "a")


def test_a_stream_starts_with_usable_usage() -> None:
    """Estimate the input by the request's size if the start has no usage; never write 0."""
    usage = Usage(input=30, cache_read=20, output=7)
    stream = written([START, *ending(usage=usage)], opened({"stream": True}))
    first = frames(stream)[0][1]["message"]["usage"]
    assert first["input_tokens"] > 0
    message, _ = read_by_sdk(stream)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (10, 20)
    assert message.usage.output_tokens == 7


def test_missing_usage_is_estimated_at_the_end() -> None:
    """Estimate usage at the end from what was written if there is none."""
    part: list[StreamEvent] = [PartStarted(0, 0, Text(text="")), PartDelta(0, 0, TextDelta("x" * 400)), PartEnded(0, 0)]
    message, _ = read_by_sdk(written([START, *part, *ending()]))
    assert message.usage.output_tokens == 100
    assert message.usage.input_tokens > 0


def test_a_refusal_is_text_and_a_stop_reason() -> None:
    """Encode a refusal as text, and as the stop reason's explanation."""
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, Refusal(text="")),
        PartDelta(0, 0, RefusalDelta("I cannot ")),
        PartDelta(0, 0, RefusalDelta("do that.")),
        PartEnded(0, 0),
        *ending(FinishReason.STOP),
    ]
    message, _ = read_by_sdk(written(events))
    assert message.content[0].text == "I cannot do that."
    assert message.stop_reason == "refusal"
    assert message.stop_details.explanation == "I cannot do that."
    assert message.stop_details.category is None


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (FinishReason.STOP, "end_turn"),
        (FinishReason.STOP_SEQUENCE, "stop_sequence"),
        (FinishReason.TOOL_CALLS, "tool_use"),
        (FinishReason.LENGTH, "max_tokens"),
        (FinishReason.CONTEXT_LENGTH, "model_context_window_exceeded"),
        (FinishReason.CONTENT_FILTER, "refusal"),
        (FinishReason.REFUSAL, "refusal"),
        (FinishReason.PAUSE, "pause_turn"),
        (FinishReason.MALFORMED_CALL, "end_turn"),
        (FinishReason.UNKNOWN, "end_turn"),
    ],
)
def test_every_finish_has_its_stop_reason(reason: FinishReason, word: str) -> None:
    """Encode each finish reason by its row."""
    assert read_by_sdk(written([START, *ending(reason)]))[0].stop_reason == word


def test_citations_of_others_become_search_locations() -> None:
    """Encode another vendor's citation with a URL as a search location on its text."""
    cited = Citation(url="https://example.org/a", title="A", cited_text="Köln")
    events: list[StreamEvent] = [
        START,
        PartStarted(0, 0, Text(text="")),
        PartDelta(0, 0, TextDelta("Köln")),
        PartDelta(0, 0, CitationDelta(cited)),
        PartEnded(0, 0),
        *ending(),
    ]
    block = read_by_sdk(written(events))[0].content[0]
    assert (block.citations[0].url, block.citations[0].cited_text) == ("https://example.org/a", "Köln")


def test_anthropics_searches_are_unchanged() -> None:
    """Keep the call, results and encrypted index of Anthropic's own searches."""
    message, _ = read_by_sdk(written(events_of("web_search.sse")))
    use, found, text = message.content
    assert (use.id, use.name, use.input) == ("srvtoolu_1", "web_search", {"query": "köln"})
    assert found.content[0].encrypted_content == "ENC"
    assert text.citations[0].encrypted_index == "IDX"
    assert message.usage.server_tool_use.web_search_requests == 1


def test_a_failure_after_the_first_event_is_an_error_event() -> None:
    """Write a failure as the last event, so that the SDK raises; leave the open block open."""
    failed = Failed(UpstreamOverloaded("The upstream is overloaded."))
    stream = written([START, PartStarted(0, 0, Text(text="Half")), failed, Ended()])
    assert frames(stream)[-1] == (
        "error",
        {"type": "error", "error": {"type": "overloaded_error", "message": "The upstream is overloaded."}},
    )
    assert b"content_block_stop" not in stream
    with pytest.raises(anthropic.APIStatusError) as caught:
        read_by_sdk(stream)
    assert caught.value.body == frames(stream)[-1][1]


def test_a_failure_may_be_the_only_event() -> None:
    """Write only the error event when the encoder ends a passed stream."""
    assert [name for name, _ in frames(written([Failed(UpstreamFailed("It broke."))]))] == ["error"]


def test_a_refusal_that_is_restated_only_is_explained_as_in_a_complete_response() -> None:
    """Write the text and the category of a refusal in a stream wherever the upstream sends them."""
    refusal = Refusal(text="I can't help with that.", category="cyber")
    started = PartStarted(0, 0, msgspec.structs.replace(refusal, text=""))
    finish = Finish(reason=FinishReason.REFUSAL)
    row: list[StreamEvent] = [START, started, PartEnded(0, 0, refusal), Finished(0, finish), Ended()]
    names = [body for name, body in frames(written(row)) if name == "message_delta"]
    whole = Response(id="r", model="m", created_at=UNDATED, candidates=(Candidate(parts=(refusal,), finish=finish),))
    assert names[0]["delta"]["stop_details"] == json.loads(INBOUND.encode(whole, opened({})))["stop_details"]
    assert names[0]["delta"]["stop_details"]["explanation"] == refusal.text


def test_keepalives_are_unseen_by_the_sdk() -> None:
    """Let keep-alives between any frames change nothing for the SDK."""
    stream = wire("thinking_and_calls.sse")
    pieces = [piece + b"\n\n" for piece in stream.split(b"\n\n")[:-1]]
    noisy = INBOUND.keepalive + INBOUND.keepalive.join(pieces)
    assert read_by_sdk(noisy)[0] == read_by_sdk(stream)[0]


def test_ids_of_others_become_ids_of_anthropics_form() -> None:
    """Derive the same id each time from an id without Anthropic's form."""
    events: list[StreamEvent] = [Started("chatcmpl-9", "asked", UNDATED), *ending()]
    first, second = read_by_sdk(written(events))[0].id, read_by_sdk(written(events))[0].id
    assert first == second
    assert first.startswith("msg_")


@given(event_rows(), st.data())
def test_any_legal_stream_is_readable_by_the_strict_reader(row: list[StreamEvent], data: st.DataObject) -> None:
    """Encode any valid events, split anywhere: one block at a time, dense indexes, one start, one end."""
    cut = data.draw(st.integers(0, len(row)))
    encoder = INBOUND.encoder(opened({"stream": True}))
    found = frames(encoder.feed(row[:cut]) + encoder.feed(row[cut:]))
    names = [name for name, _ in found if name != "ping"]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    current, blocks = None, 0
    for name, body in found:
        if name == "content_block_start":
            assert current is None
            assert body["index"] == blocks
            current, blocks = blocks, blocks + 1
        elif name in {"content_block_delta", "content_block_stop"}:
            assert body["index"] == current
            current = None if name == "content_block_stop" else current


@given(broken_rows())
def test_any_broken_stream_ends_with_its_error(row: list[StreamEvent]) -> None:
    """End a stream that fails anywhere with one error event and no end marker."""
    names = [name for name, _ in frames(written(row))]
    assert names[-1] == "error"
    assert names.count("error") == 1
    assert "message_stop" not in names


@given(responses(kinds={"text", "tool_call", "reasoning"}, candidates=1, with_logprobs=False, with_extras=False))
def test_a_streamed_response_equals_a_complete_one(response: Response) -> None:
    """Let the SDK accumulate from the stream what the complete response has."""
    inbound_request = opened({"stream": True})
    streamed, _ = read_by_sdk(written(list(unfold(response)), inbound_request))
    whole = json.loads(INBOUND.encode(response, inbound_request))
    assert json.loads(streamed.to_json(exclude_unset=True))["content"] == whole["content"]
    assert streamed.stop_reason == whole["stop_reason"]
