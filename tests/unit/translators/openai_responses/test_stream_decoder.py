"""Streams and whole answers of upstreams."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.calls import Calls
from llmproxy_asgi.conversation import (
    MOST_PARTS,
    Ended,
    Failed,
    Finished,
    FinishReason,
    Media,
    Opaque,
    PartEnded,
    PartStarted,
    Passed,
    Reasoning,
    Refusal,
    Response,
    Seal,
    ServerToolCall,
    ServerToolResult,
    ServiceTier,
    Started,
    Text,
    ToolCall,
)
from llmproxy_asgi.errors import (
    ErrorKind,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamFailed,
    UpstreamModelUnsuitable,
    UpstreamProtocolError,
    UpstreamRateLimited,
)
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.seals import wrap
from llmproxy_asgi.translators.stream_validator import StreamValidator
from support.wires.openai_responses import (
    COMPLETED,
    CREATED,
    NOW,
    OUTBOUND,
    WIRES,
    added,
    done,
    event,
    events,
    life,
    read,
    upstream,
    upstream_request,
    wire,
)

STREAMS = sorted(path.name for path in WIRES.glob("*.sse"))


def folded(*pieces: bytes, **options: Any) -> Response:
    """The answer that a stream tells."""
    return fold(events(*pieces, **options))


def parts_of(*pieces: bytes, **options: Any) -> tuple[Any, ...]:
    """The parts of a stream's answer."""
    return folded(*pieces, **options).candidates[0].parts


def failure(*pieces: bytes) -> UpstreamError:
    """The error that a stream ends with."""
    last = events(*pieces)[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamError)
    return last.error


# ── what the vendor sends ────────────────────────────────────────────────────────────────────────────────────────────


def test_text_usage_and_names() -> None:
    """Text, its message's id and phase, the model as asked, usage and tier are read."""
    found = folded(wire("text.sse"))
    assert found.text == "Köln liegt\u2028am Rhein."
    assert (found.id, found.model, found.created_at.timestamp()) == ("resp_text", "smart", 1_795_000_000)
    part = found.candidates[0].parts[0]
    assert part.id == "msg_1"
    assert part.extras == {"openai-responses": {"phase": "final_answer"}}
    assert (found.usage.input, found.usage.cache_read, found.usage.output, found.usage.reasoning) == (10, 4, 5, 2)
    assert found.service_tier is ServiceTier.STANDARD
    assert found.finish_reason is FinishReason.STOP


def test_reasoning_and_calls() -> None:
    """Reasoning keeps its summary and the state of `done`, calls keep order, ids, kinds and namespace."""
    found = folded(wire("reasoning_and_calls.sse"))
    thought, said, call, custom, spaced = found.candidates[0].parts
    assert isinstance(thought, Reasoning)
    assert (thought.text, thought.style) == ("First this.\n\nThen that.", "summary")
    assert thought.extras == {"openai-responses": {"summary": ["First this.", "Then that."]}}
    assert thought.seals == (
        Seal(issuer="openai", kind="encrypted", data="gAAAAB-state==", model="big-1", item_id="rs_1"),
    )
    assert isinstance(said, Text)
    assert call == ToolCall(call_id="call_1", name="weather", arguments='{"city":"Köln"}', id="fc_1")
    assert custom == ToolCall(call_id="call_2", name="patch", kind="custom", arguments="*** Begin\n+ x", id="ctc_1")
    assert isinstance(spaced, ToolCall)
    assert spaced.namespace == "crm"
    assert found.finish_reason is FinishReason.TOOL_CALLS


def test_searches_and_citations() -> None:
    """A search becomes a call with its hits, citations keep their spans, what only this protocol knows stays."""
    row = events(wire("web_search.sse"))
    found = fold(row)
    search, hits, text, own = found.candidates[0].parts
    assert isinstance(search, ServerToolCall)
    assert (search.tool, search.arguments, search.status) == ("web_search", '{"query":"Köln"}', "completed")
    assert isinstance(hits, ServerToolResult)
    assert [hit.url for hit in hits.hits] == ["https://example.org/k"]
    assert isinstance(text, Text)
    page, file = text.citations
    assert (page.url, page.start, page.end, page.title) == ("https://example.org/k", 0, 4, "Köln")
    assert (file.kind, file.url, file.title) == ("file", None, "a.txt")
    assert isinstance(own, Opaque)
    assert own.kind == "compaction"
    assert found.usage.server_tool_calls == {"web_search": 1}
    passed = [each.name for each in row if isinstance(each, Passed)]
    assert "response.web_search_call.searching" in passed
    assert "response.compaction.compacting" in passed


def test_a_refusal_ends_with_one() -> None:
    """A refusal is a part of its own and the reason of the finish."""
    found = folded(wire("refusal.sse"))
    (part,) = found.candidates[0].parts
    assert isinstance(part, Refusal)
    assert part.text == "I can't do that."
    assert found.finish_reason is FinishReason.REFUSAL


def test_a_picture_is_media() -> None:
    """A picture that was made is a picture."""
    (part,) = parts_of(wire("image.sse"))
    assert isinstance(part, Media)
    assert (part.kind, part.media_type, part.id) == ("image", "image/webp", "ig_1")


def test_incomplete_names_its_reason() -> None:
    """Out of tokens is `length`, also inside a call, which is not completed."""
    found = folded(wire("incomplete.sse"))
    assert found.finish_reason is FinishReason.LENGTH
    assert found.candidates[0].finish.native == "max_output_tokens"
    assert found.tool_calls[0].arguments == '{"city'


@pytest.mark.parametrize(
    ("fields", "reason", "native"),
    [
        ({"status": "completed"}, FinishReason.STOP, "completed"),
        ({"incomplete_details": {"reason": "content_filter"}}, FinishReason.CONTENT_FILTER, "content_filter"),
        ({"incomplete_details": {"reason": "steered"}}, FinishReason.LENGTH, "steered"),
        ({"incomplete_details": None}, FinishReason.LENGTH, "incomplete"),
        ({"status": "cancelled"}, FinishReason.CANCELLED, "cancelled"),
    ],
)
def test_finishes_are_read(fields: dict[str, Any], reason: FinishReason, native: str) -> None:
    """The status and its details give the reason; the vendor's word is kept."""
    finish = folded(CREATED, life("response.incomplete", **fields)).candidates[0].finish
    assert (finish.reason, finish.native) == (reason, native)


def test_logprobs_are_read_with_their_deltas() -> None:
    """Log probabilities of deltas or of done texts are decoded once."""
    item = {"id": "msg_1", "type": "message", "content": []}
    entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -2}]}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    delta = event("response.output_text.delta", **place, delta="a", logprobs=[entry])
    late = event("response.output_text.delta", **place, delta="a", logprobs=[])
    restated = event("response.output_text.done", **place, text="a", logprobs=[entry])
    for row in ((delta, restated), (late, restated)):
        found = folded(CREATED, added(0, item), *row, COMPLETED).candidates[0].logprobs
        assert [(token.token, token.logprob, token.top[0].token) for token in found] == [("a", -0.5, "b")]


# ── what compatible servers send ─────────────────────────────────────────────────────────────────────────────────────


def test_items_that_are_never_told_of_are_read() -> None:
    """Deltas without items around them make a text and plain reasoning; the answer has no last blank line."""
    thought, text = parts_of(wire("compatible_crlf.sse"))
    assert isinstance(thought, Reasoning)
    assert (thought.text, thought.style) == ("Thinking", "full")
    assert isinstance(text, Text)
    assert text.text == "Hello"


def test_an_answer_that_comes_with_its_last_event_alone_is_read() -> None:
    """Where nothing was streamed, the output of the last event is the answer."""
    text, call = parts_of(wire("only_completed.sse"))
    assert isinstance(text, Text)
    assert text.text == "All at once"
    assert isinstance(call, ToolCall)
    assert call.call_id == "call_1"


def test_what_was_streamed_is_not_told_again() -> None:
    """The output of the last event, and every restatement before it, adds nothing to what was streamed."""
    assert folded(wire("text.sse")).text.count("Köln") == 1


def test_text_that_comes_with_done_alone_is_read() -> None:
    """A text, a refusal, a summary and arguments that were never streamed are taken from what is done."""
    row = (
        added(0, {"id": "rs_1", "type": "reasoning", "summary": []}),
        done(0, {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}),
        added(1, {"id": "msg_1", "type": "message", "content": []}),
        done(
            1,
            {
                "id": "msg_1",
                "type": "message",
                "content": [{"type": "output_text", "text": "hi"}, {"type": "refusal", "refusal": "no"}],
            },
        ),
        added(2, {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": ""}),
        event("response.function_call_arguments.done", item_id="fc_1", output_index=2, arguments='{"a":1}'),
        done(2, {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f"}),
        done(3, {"id": "fc_2", "type": "function_call", "call_id": "d", "name": "g", "arguments": '{"b":1}'}),
    )
    thought, text, refusal, call, unseen = parts_of(CREATED, *row, COMPLETED)
    assert (thought.text, text.text, refusal.text) == ("hm", "hi", "no")
    assert (call.arguments, unseen.arguments) == ('{"a":1}', '{"b":1}')


def test_items_that_are_never_done_are_whole_in_the_answer() -> None:
    """A call whose arguments, a text and a thought whose state come with the last event alone are taken from there."""
    items: list[dict[str, Any]] = [
        {"id": "rs_1", "type": "reasoning", "summary": []},
        {"id": "msg_1", "type": "message", "content": []},
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
    ]
    whole = [
        {**items[0], "encrypted_content": "state"},
        {**items[1], "content": [{"type": "output_text", "text": "hi"}]},
        {**items[2], "arguments": '{"a":1}'},
    ]
    begun = (added(index, item) for index, item in enumerate(items))
    thought, text, call = parts_of(CREATED, *begun, life("response.completed", output=whole))
    assert [seal.data for seal in thought.seals] == ["state"]
    assert (text.text, call.arguments) == ("hi", '{"a":1}')


def _done_only(numbers: Sequence[int]) -> list[bytes]:
    return [done(n, _empty(n)) for n in numbers]


def _added_only(numbers: Sequence[int]) -> list[bytes]:
    return [added(n, _empty(n)) for n in numbers]


def _restated(numbers: Sequence[int]) -> list[bytes]:
    items = [_empty(n) for n in numbers]
    return [*_added_only(numbers), life("response.completed", output=items[::-1])]


def _empty(number: int) -> dict[str, Any]:
    return {"id": f"rs_{number}", "type": "reasoning", "summary": []}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("shape", [_done_only, _added_only, _restated])
def test_many_items_cost_what_each_costs(shape: Callable[[Sequence[int]], list[bytes]], backwards: bool) -> None:
    """Twice the items make about twice the calls: no item is compared with all others."""

    def calls(count: int) -> int:
        numbers = range(count)
        pieces = [CREATED, *shape(numbers[::-1] if backwards else numbers)]
        decoder = OUTBOUND.decoder(upstream_request(), upstream())
        return Calls().during(lambda: [decoder.feed(piece) for piece in pieces]).all

    assert calls(400) < 2.2 * calls(200)


def test_items_without_parts_are_bounded() -> None:
    """Items that make no part are bounded like parts."""
    error = failure(CREATED, *_done_only(range(MOST_PARTS + 1)))
    assert str(error) == "The upstream's answer has more than 10000 items."


def test_an_item_that_is_done_twice_is_read_once() -> None:
    """Some servers repeat the event; the id may be in the second event of the item alone."""
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    twice = [done(0, {**item, "id": "fc_1"})] * 2
    (call,) = parts_of(CREATED, added(0, item), *twice, life("response.completed", output=[]))
    assert call.call_id == "c"


def test_indexes_that_are_left_out_or_used_twice() -> None:
    """Items are matched by id or order if indexes are ambiguous."""
    bare = (
        event("response.output_item.added", item={"id": "msg_1", "type": "message", "content": []}),
        event("response.output_text.delta", item_id="msg_1", delta="a"),
        event("response.output_item.added", item={"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f"}),
        event("response.function_call_arguments.delta", item_id="fc_1", delta="{}"),
        event("response.output_text.delta", item_id="msg_1", delta="b"),
    )
    text, call = parts_of(CREATED, *bare, COMPLETED)
    assert (text.text, call.arguments) == ("ab", "{}")
    two = (
        event("response.output_item.added", item={"id": "msg_1", "type": "message", "content": []}),
        event("response.output_text.delta", item_id="msg_1", delta="a"),
        event("response.output_item.added", item={"id": "msg_2", "type": "message", "content": []}),
        event("response.output_text.delta", item_id="msg_2", delta="b"),
        event("response.output_text.delta", item_id="msg_1", delta="c"),
    )
    assert [part.text for part in parts_of(CREATED, *two, COMPLETED)] == ["ac", "b"]
    same = (
        added(0, {"id": "msg_1", "type": "message", "content": []}),
        event("response.output_text.delta", output_index=0, content_index=0, delta="a"),
        added(0, {"id": "msg_2", "type": "message", "content": []}),
        event("response.output_text.delta", output_index=0, content_index=0, delta="b"),
    )
    assert [part.text for part in parts_of(CREATED, *same, COMPLETED)] == ["a", "b"]


def test_a_name_that_comes_late_is_waited_for() -> None:
    """A call starts when its name is known."""
    row = (
        added(0, {"id": "fc_1", "type": "function_call", "call_id": "c"}),
        event("response.function_call_arguments.delta", item_id="fc_1", output_index=0, delta='{"a":1}'),
        done(0, {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'}),
    )
    (call,) = parts_of(CREATED, *row, COMPLETED)
    assert (call.name, call.arguments) == ("f", '{"a":1}')


def test_a_stream_without_its_first_event_is_read() -> None:
    """Where nothing says that an answer begins, its first item does; its id follows from what is known."""
    row = events(added(0, {"id": "msg_1", "type": "message", "content": []}), COMPLETED)
    assert isinstance(row[0], Started)
    assert row[0].id.startswith("resp_")
    assert isinstance(row[-1], Ended)


def test_names_and_ids_are_the_callers() -> None:
    """Names and call ids that went under others come back; a free-text tool that went as a function is unwrapped."""
    sent = upstream_request(names={"f_1": "ns.f"}, call_ids={"call_x": "a.b"}, emulated=frozenset({"patch"}))
    item = {"id": "fc_1", "type": "function_call", "call_id": "call_x", "name": "f_1", "arguments": ""}
    free = {"id": "fc_2", "type": "function_call", "call_id": "call_y", "name": "patch", "arguments": ""}
    pieces = (
        CREATED,
        added(0, item),
        done(0, item),
        added(1, free),
        event("response.function_call_arguments.delta", item_id="fc_2", output_index=1, delta='{"input":"*** x"}'),
        done(1, {**free, "arguments": '{"input":"*** x"}'}),
        COMPLETED,
    )
    row = read(OUTBOUND.decoder(sent, upstream()), *pieces)
    call, custom = (each.part for each in row if isinstance(each, PartEnded))
    assert isinstance(call, ToolCall)
    assert (call.call_id, call.name, call.arguments) == ("a.b", "ns.f", "{}")
    assert isinstance(custom, ToolCall)
    assert (custom.kind, custom.arguments) == ("custom", "*** x")
    assert fold(row).tool_calls == (call, custom)


def test_wrapped_state_is_unwrapped() -> None:
    """An upstream that is a gateway too gives another vendor's state; it is that vendor's again."""
    seal = Seal(issuer="anthropic", kind="signature", data="sig")
    item = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": wrap(seal)}
    (part,) = parts_of(CREATED, added(0, item), done(0, item), COMPLETED)
    assert part.seals == (seal,)


def test_reasoning_without_words_and_state_is_no_part() -> None:
    """An id alone says nothing that could be sent back."""
    item = {"id": "rs_1", "type": "reasoning", "summary": []}
    assert parts_of(CREATED, added(0, item), done(0, item), COMPLETED) == ()


def test_what_is_no_event_is_passed_over() -> None:
    """Comments, reconnecting fields, keep-alives and the end sign of another protocol say nothing."""
    noise = b": hi\n\nretry: 5\nid: 7\n\ndata: [DONE]\n\n" + event("keepalive")
    found = folded(noise + CREATED + noise + wire("text.sse").partition(b"\n\n")[2])
    assert found.text == "Köln liegt\u2028am Rhein."


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_failures_in_a_stream_are_told_by_their_code() -> None:
    """`response.failed` and both forms of the error event are failures of the right kind."""
    limited = failure(wire("failed.sse"))
    assert isinstance(limited, UpstreamRateLimited)
    assert limited.message == "Slow down."
    assert isinstance(failure(wire("error.sse")), UpstreamFailed)
    nested = event("error", error={"code": "context_length_exceeded", "message": "too long", "type": "x"})
    long = failure(CREATED, nested)
    assert isinstance(long, UpstreamModelUnsuitable)
    assert long.kind is ErrorKind.CONTEXT_LENGTH
    refused = failure(event("error", code="invalid_api_key", message="sk-123 is wrong"))
    assert isinstance(refused, UpstreamAuthFailed)
    assert "sk-123" not in refused.message
    nameless = b'data: {"error":{"message":"x","code":"rate_limit_exceeded"}}\n\n'
    assert isinstance(failure(nameless), UpstreamRateLimited)


def test_a_stream_without_an_end_sign_is_a_failure() -> None:
    """A stream that just stops is never a clean finish, nor is one that only says `[DONE]`."""
    assert isinstance(failure(wire("cut.sse")), UpstreamProtocolError)
    assert isinstance(failure(CREATED, b"data: [DONE]\n\n"), UpstreamProtocolError)
    assert isinstance(failure(b""), UpstreamProtocolError)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"data: <html>\n\n",
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"type": 5}\n\n',
        event("response.function_call_arguments.delta", item_id="x", output_index=9, delta="{}"),
        event("response.output_text.delta", output_index=0, content_index=0, delta={"a": 1}),
        added(0, {"type": "reasoning"}) + event("response.output_text.delta", output_index=0, delta="x"),
        added(0, {"type": "message"}) + event("response.reasoning_text.delta", output_index=0, delta="x"),
    ],
    ids=["html", "half", "array", "typed", "no-call", "object-delta", "text-in-thought", "thought-in-text"],
)
def test_what_cannot_be_read_ends_the_stream(rubbish: bytes) -> None:
    """Rubbish is a failure that repeats nothing of it, and nothing follows."""
    row = events(CREATED, rubbish, COMPLETED)
    assert isinstance(row[-1], Failed)
    assert isinstance(row[-1].error, UpstreamProtocolError)
    assert "html" not in row[-1].error.message
    assert not any(isinstance(each, Finished) for each in row)


def test_text_behind_its_end_is_a_failure() -> None:
    """Deltas after the end of a text fail the stream."""
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    row = (
        added(0, {"id": "m", "type": "message", "content": []}),
        event("response.output_text.delta", **place, delta="a"),
        event("response.content_part.done", **place, part={"type": "output_text", "text": "a"}),
        event("response.output_text.delta", **place, delta="b"),
    )
    assert isinstance(failure(CREATED, *row), UpstreamProtocolError)


# ── every split, any bytes ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", STREAMS)
def test_every_split_gives_the_same_events(name: str) -> None:
    """A stream cut at any byte tells what it tells whole."""
    content = wire(name)
    whole = _comparable(read(OUTBOUND.decoder(upstream_request(), upstream()), content))
    for cut in range(len(content)):
        found = read(OUTBOUND.decoder(upstream_request(), upstream()), content[:cut], content[cut:])
        assert _comparable(found) == whole, cut


def _comparable(row: list[Any]) -> list[Any]:
    return [(type(each.error), each.error.message) if isinstance(each, Failed) else each for each in row]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_every_line_end_is_read(name: str, end: bytes) -> None:
    """CRLF and CR frame as LF does."""
    content = wire(name).replace(b"\r\n", b"\n")
    whole = _comparable(read(OUTBOUND.decoder(upstream_request(), upstream()), content))
    assert _comparable(read(OUTBOUND.decoder(upstream_request(), upstream()), content.replace(b"\n", end))) == whole


@given(st.lists(st.binary(max_size=60) | st.sampled_from(list(map(wire, STREAMS))), max_size=4), st.data())
def test_no_bytes_make_the_decoder_raise(pieces: list[bytes], data: st.DataObject) -> None:
    """Whatever comes, it ends in exactly one ending and keeps to the order."""
    content = b"".join(pieces)
    cut = data.draw(st.integers(0, len(content)))
    validator = StreamValidator()
    row = read(OUTBOUND.decoder(upstream_request(), upstream()), content[:cut], content[cut:])
    for each in row:
        validator.check(each)
    assert sum(isinstance(each, Failed | Ended) for each in row) == 1


_KINDS = st.sampled_from(
    [
        "response.created",
        "response.completed",
        "response.failed",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.output_text.annotation.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.custom_tool_call_input.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.made_up",
    ]
)
_SCRAPS = st.none() | st.integers(-1, 2) | st.sampled_from(["", "a", "{}"]) | st.lists(st.just({"a": 1}), max_size=1)
_ITEMS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["message", "reasoning", "function_call", "custom_tool_call", "web_search_call", "x"]),
    },
    optional={
        "id": st.sampled_from(["a", "b"]),
        "call_id": st.sampled_from(["c", "d"]) | _SCRAPS,
        "name": st.sampled_from(["f", ""]) | _SCRAPS,
        "arguments": _SCRAPS,
        "content": st.just([{"type": "output_text", "text": "t"}, {"type": "refusal", "refusal": "r"}]) | _SCRAPS,
        "summary": st.just([{"type": "summary_text", "text": "s"}]) | _SCRAPS,
        "encrypted_content": st.just("blob") | _SCRAPS,
        "action": st.just({"query": "q", "sources": [{"url": "u"}, 3]}) | _SCRAPS,
    },
)
_EVENTS = st.builds(
    lambda kind, fields: event(kind, **fields),
    _KINDS,
    st.fixed_dictionaries(
        {},
        optional={
            "item": _ITEMS,
            "output_index": st.integers(0, 2),
            "content_index": st.integers(0, 1),
            "summary_index": st.integers(0, 1),
            "item_id": st.sampled_from(["a", "b"]),
            "delta": st.sampled_from(["x", ""]) | _SCRAPS,
            "text": st.sampled_from(["x", ""]),
            "arguments": st.just("{}"),
            "part": st.sampled_from([{"type": "output_text", "text": "p"}, {"type": "refusal"}, {}, None]),
            "response": st.sampled_from([None, {}, {"id": "resp_1", "output": [{"type": "message"}]}]),
        },
    ),
)


@given(st.lists(_EVENTS, max_size=12))
def test_no_row_of_events_breaks_the_order(pieces: list[bytes]) -> None:
    """Events in any order, with anything left out, make a legal row that ends once."""
    row = events(b"".join(pieces))
    assert sum(isinstance(each, Failed | Ended) for each in row) == 1


# ── whole answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_answer_is_read_like_its_stream() -> None:
    """The same items whole make the same parts, and what has no word here is kept."""
    found = OUTBOUND.decode(wire("answer.response.json"), upstream_request(), upstream(), received_at=NOW)
    assert found.candidates == folded(wire("reasoning_and_calls.sse")).candidates
    assert found.id == "resp_whole"
    assert found.extras["openai-responses"]["input_transformations"][0]["id"] == "rs_0"


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"{}", b'{"output":5}', b'{"output":[],"status":"in_progress"}', b'{"output":[{"a":', b""],
)
def test_a_whole_answer_that_cannot_be_read_is_an_error(body: bytes) -> None:
    """What is no complete answer is the upstream's error, and its text is not repeated."""
    with pytest.raises(UpstreamProtocolError) as caught:
        OUTBOUND.decode(body, upstream_request(), upstream(), received_at=NOW)
    assert "html" not in caught.value.message


def test_a_whole_answer_that_failed_raises() -> None:
    """A 200 that says it failed is a failure."""
    with pytest.raises(UpstreamFailed):
        OUTBOUND.decode(wire("failed.response.json"), upstream_request(), upstream(), received_at=NOW)


def test_an_undated_answer_is_dated_when_it_came() -> None:
    """Where the upstream does not say when it began, it is when we got it."""
    found = OUTBOUND.decode(b'{"output":[],"status":"completed"}', upstream_request(), upstream(), received_at=NOW)
    assert found.created_at == NOW
    assert found.candidates[0].parts == ()


def test_every_part_starts_before_it_ends() -> None:
    """Parts are numbered as they start."""
    row = events(wire("reasoning_and_calls.sse"))
    assert [each.index for each in row if isinstance(each, PartStarted)] == [0, 1, 2, 3, 4]
