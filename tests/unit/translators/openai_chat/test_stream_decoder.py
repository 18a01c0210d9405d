"""What upstreams stream, read into events: at every split, and however odd the server."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    Ended,
    Failed,
    FinishReason,
    InlineData,
    Media,
    PartDelta,
    PartStarted,
    Reasoning,
    Refusal,
    Response,
    Seal,
    ServiceTier,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    UsageReported,
)
from llmproxy_asgi.errors import (
    ErrorKind,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.stream_validator import StreamValidator
from support.wires.openai_chat import (
    DONE,
    OUTBOUND,
    USAGE,
    WIRES,
    batched,
    chunk,
    delta,
    events,
    inbound_request,
    read,
    upstream,
    upstream_request,
    wire,
)

STREAMS = sorted(path.name for path in WIRES.glob("*.sse"))
GOOD = [name for name in STREAMS if name not in {"stream_error_midway.sse", "stream_cut.sse", "stream_done_alone.sse"}]
BLANK_LINES_DIFFER = {"stream_openrouter_reasoning.sse", "stream_compatible_crlf.sse"}


def answer(name: str, **options: str) -> Response:
    """What a recorded stream folds into."""
    return fold(events(wire(name), **options))


def comparable(row: list[StreamEvent]) -> list[object]:
    """Events by value; errors have none of their own."""
    return [(type(each.error), each.error.message) if isinstance(each, Failed) else each for each in row]


@pytest.mark.parametrize("name", STREAMS)
def test_every_split_gives_the_same_events(name: str) -> None:
    """A stream cut in two at any byte gives the events of the whole one."""
    content = wire(name)
    whole = comparable(events(content))
    for cut in range(1, len(content)):
        decoder = OUTBOUND.decoder(upstream_request(), upstream())
        assert comparable(read(decoder, content[:cut], content[cut:])) == whole
    decoder = OUTBOUND.decoder(upstream_request(), upstream())
    assert comparable(read(decoder, *(content[n : n + 1] for n in range(len(content))))) == whole


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("end", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
def test_line_ends_do_not_matter(name: str, end: bytes) -> None:
    """CRLF and CR frame as LF does."""
    plain = wire(name).replace(b"\r\n", b"\n")
    assert fold(events(plain.replace(b"\n", end))) == fold(events(plain))


@pytest.mark.parametrize("name", STREAMS)
def test_events_are_in_legal_order(name: str) -> None:
    """Whatever came, the events satisfy the grammar and have exactly one ending, the last."""
    validator = StreamValidator()
    for event in events(wire(name)):
        validator.check(event)
    assert validator.complete


def test_comments_and_fields_of_no_meaning_say_nothing() -> None:
    """Keep-alives, ids, retries and blank lines are no content."""
    noise = b": ping\n\nid: 7\nretry: 10\n\n\n\n"
    plain = delta({"content": "a"}) + delta({"content": "b"}) + delta(finish="stop") + DONE
    noisy = noise.join([b"", delta({"content": "a"}), delta({"content": "b"}), delta(finish="stop"), DONE])
    assert events(noisy) == events(plain)


def test_data_without_a_space_and_on_several_lines_is_read() -> None:
    """The space after the colon is optional, and one event may have several data lines."""
    head = b'data:{"id":"chatcmpl-1","created":1795000000,"model":"m",\ndata: "choices":[{"index":0,"delta":'
    found = fold(events(head + b'{"content":"Hi"},\ndata:"finish_reason":"stop"}]}\n\ndata:[DONE]\n\n'))
    assert found.text == "Hi"


def test_done_may_be_missing_and_ends_everything() -> None:
    """With [DONE] or without it: the same; what follows it is ignored."""
    plain = delta({"content": "a"}) + delta(finish="stop")
    assert (
        events(plain)
        == events(plain + DONE)
        == events(plain + DONE + delta({"content": "more"}) + b"data: rubbish\n\n")
    )


def test_the_first_chunk_gives_the_first_events() -> None:
    """Nothing is held back: the first chunk's text is an event before the second chunk is there."""
    decoder = OUTBOUND.decoder(upstream_request(), upstream())
    first = decoder.feed(delta({"role": "assistant", "content": "Hi"})).events
    assert [type(event) for event in first] == [Started, PartStarted, PartDelta]


def test_text_usage_and_tier() -> None:
    """A plain stream: id, asked model, time, text, finish, and every count of its usage."""
    found = answer("stream_text.sse")
    assert (found.id, found.model, found.created_at) == (
        "chatcmpl-Bt1",
        "smart",
        datetime.fromtimestamp(1795000000, UTC),
    )
    assert found.text == "Grüß Gott 🙂"
    assert found.finish_reason is FinishReason.STOP
    assert found.service_tier is ServiceTier.STANDARD
    usage = found.usage
    assert (usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning) == (12, 7, 4, 2, 3)


def test_interleaved_calls_keep_their_arguments() -> None:
    """Two calls whose pieces alternate keep ids, names and the very text of their arguments."""
    found = answer("stream_parallel_calls.sse")
    assert [(call.call_id, call.name, call.arguments) for call in found.tool_calls] == [
        ("call_a", "weather", '{"city":"東京"}'),
        ("call_b", "clock", '{"zone":"UTC"}'),
    ]
    assert found.finish_reason is FinishReason.TOOL_CALLS


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """A call that streams no arguments at all ends with {}."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    found = fold(events(delta({"tool_calls": [call]}), delta(finish="tool_calls"), DONE))
    assert found.tool_calls[0].arguments == "{}"


def test_calls_that_share_index_0_stay_apart() -> None:
    """An id that comes with a name begins a call even on a used index; `stop` behind calls means tool calls."""
    found = answer("stream_google_calls.sse", issuer="gemini")
    assert [(call.call_id, call.name, call.arguments) for call in found.tool_calls] == [
        ("function-call-1", "a", "{}"),
        ("function-call-2", "b", '{"x":2}'),
    ]
    assert found.tool_calls[0].seals == (Seal(issuer="gemini", kind="signature", data="c2lnLTE=", model="big-1"),)
    assert found.finish_reason is FinishReason.TOOL_CALLS
    assert found.candidates[0].finish.native == "stop"


def test_length_behind_a_call_stays_length() -> None:
    """Only `stop` is overridden by a call."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}
    assert (
        fold(events(delta({"tool_calls": [call]}), delta(finish="length"), DONE)).finish_reason is FinishReason.LENGTH
    )


def test_late_and_repeated_names_and_ids() -> None:
    """A call starts when it has a name; repeats of id, name and finish change nothing."""
    found = answer("stream_late_name.sse")
    assert [(call.call_id, call.name, call.arguments) for call in found.tool_calls] == [("call_x", "late", '{"a":1}')]


def test_a_call_without_an_id_gets_one() -> None:
    """An id that never comes is made from what is known, the same each time."""
    row = [delta({"tool_calls": [{"index": n, "function": {"name": "f", "arguments": "{}"}}]}) for n in range(2)]
    found = [[call.call_id for call in fold(events(*row, delta(finish="stop"), DONE)).tool_calls] for _ in range(2)]
    assert found[0] == found[1]
    assert len(set(found[0])) == 2
    assert all(call_id.startswith("call_") for call_id in found[0])


def test_calls_without_an_index_belong_to_their_id_or_the_last() -> None:
    """Where the index is null the id tells the call, and without both it is the last one."""
    row = [
        delta({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}),
        delta({"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "["}}]}),
        delta({"tool_calls": [{"id": "a", "function": {"arguments": "}"}}]}),
        delta({"tool_calls": [{"function": {"arguments": "!"}}]}),
    ]
    found = fold(events(*row, delta(finish="tool_calls"), DONE))
    assert [(call.call_id, call.arguments) for call in found.tool_calls] == [("a", "{}!"), ("b", "[")]


def test_arguments_as_an_object_become_text() -> None:
    """A server that sends an object where text belongs is understood."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    assert fold(events(delta({"tool_calls": [call]}), delta(finish="stop"), DONE)).tool_calls[0].arguments == '{"a":1}'


def test_custom_and_deprecated_calls() -> None:
    """Free-text calls keep their text; the deprecated form is a call like any other."""
    custom = answer("stream_custom_call.sse").tool_calls[0]
    assert (custom.kind, custom.call_id, custom.name, custom.arguments) == (
        "custom",
        "call_p",
        "patch",
        "*** Begin\n+ä",
    )
    old = answer("stream_function_call.sse")
    assert (old.tool_calls[0].name, old.tool_calls[0].arguments) == ("weather", '{"city":"Köln"}')
    assert old.finish_reason is FinishReason.TOOL_CALLS


def test_an_emulated_custom_call_is_unwrapped() -> None:
    """A custom tool that went as a function comes back as free text, under the caller's name and id."""
    memory = upstream_request(names={"p_1": "patch"}, call_ids={"c": "original.id"}, emulated=frozenset({"p_1"}))
    row = [
        delta({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "p_1", "arguments": '{"inp'}}]}),
        delta({"tool_calls": [{"index": 0, "function": {"arguments": 'ut":"a\\nb"}'}}]}),
        delta(finish="tool_calls"),
        DONE,
    ]
    call = fold(read(OUTBOUND.decoder(memory, upstream()), *row)).tool_calls[0]
    assert (call.kind, call.name, call.call_id, call.arguments) == ("custom", "patch", "original.id", "a\nb")


def test_reasoning_with_a_signature() -> None:
    """Reasoning in two fields is decoded once, with the upstream as the issuer of its signature."""
    found = answer("stream_openrouter_reasoning.sse", issuer="openrouter")
    form = "anthropic-claude-v1"
    seal = Seal(issuer="openrouter", kind="signature", data="c2lnbmVk", model="big-1", format=form)
    assert found.candidates[0].parts == (Reasoning(text="First then.", seals=(seal,)), Text(text="Done."))
    assert found.usage.total == 11


@pytest.mark.parametrize(
    ("name", "thought", "text"),
    [("stream_thinking_parts.sse", "Well, so", "Forty-two"), ("stream_reasoning_content.sse", "Hmm...", "42")],
)
def test_other_spellings_of_reasoning(name: str, thought: str, text: str) -> None:
    """Reasoning is read in each of the spellings that servers have for it."""
    found = answer(name)
    assert (found.reasoning, found.text) == (thought, text)
    assert len(found.candidates[0].parts) == 2


def test_other_spellings_of_usage() -> None:
    """Cache hits in another spelling count, and reasoning that is counted beside the output is put into it."""
    usage = answer("stream_reasoning_content.sse").usage
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning) == (20, 16, 8, 5)
    beside = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35}
    row = [delta({"content": "x"}), delta(finish="stop")]
    detail = {"completion_tokens_details": {"reasoning_tokens": 20}}
    found = fold(events(*row, chunk(usage={**beside, **detail}), DONE)).usage
    assert (found.output, found.reasoning, found.total) == (25, 20, 35)


@pytest.mark.parametrize(
    "usage",
    [None, [], "x", {}, {"prompt_tokens": None}, {"prompt_tokens": -1}, {"prompt_tokens": "7"}],
)
def test_usage_that_cannot_be_read_is_none(usage: object) -> None:
    """Odd usage never breaks a stream and never counts."""
    found = fold(events(delta({"content": "x"}), delta(finish="stop"), chunk(usage=usage), DONE))
    assert found.usage.total == 0


def test_usage_is_told_when_it_comes() -> None:
    """The usage chunk is an event at once, so that a call cancelled now has its usage."""
    decoder = OUTBOUND.decoder(upstream_request(), upstream())
    decoder.feed(delta({"content": "x"}) + delta(finish="stop"))
    assert [type(event) for event in decoder.feed(chunk(usage=USAGE)).events] == [UsageReported]


def test_a_first_chunk_that_says_nothing_is_not_the_beginning() -> None:
    """A chunk without id and choices does not name the answer."""
    assert answer("stream_azure_filters.sse").id == "chatcmpl-Bt1"


def test_a_stream_of_a_compatible_server() -> None:
    """CRLF, null roles and no [DONE] read as any other stream."""
    found = answer("stream_compatible_crlf.sse")
    assert (found.text, found.finish_reason, found.usage.total) == ("One two", FinishReason.LENGTH, 3)


def test_two_choices_with_logprobs() -> None:
    """Each candidate has its own text, finish and probabilities."""
    found = answer("stream_two_choices_logprobs.sse").candidates
    assert [(each.index, each.finish.native, each.logprobs[0].token) for each in found] == [
        (0, "length", "zero"),
        (1, "stop", "one"),
    ]
    assert found[0].logprobs[0].token_bytes == tuple(b"zero")
    assert found[0].logprobs[0].top[0].logprob == -2.0


def test_sound() -> None:
    """A spoken answer is one part with all its data and words."""
    sound = answer("stream_audio.sse").candidates[0].parts[0]
    assert isinstance(sound, Media)
    assert (sound.kind, sound.id, sound.transcript) == ("audio", "audio_1", "Hello")
    assert sound.source == InlineData(data="AAAABBBB")


def test_citations_and_refusals() -> None:
    """A citation stands in its text, in code points; a refusal makes `stop` a refusal."""
    found = answer("stream_refusal_citations.sse").candidates[0]
    text, refusal = found.parts
    assert isinstance(text, Text)
    assert [(each.url, each.start, each.end) for each in text.citations] == [("https://example.org/jp", 0, 2)]
    assert refusal == Refusal(text="No more.")
    assert found.finish.reason is FinishReason.REFUSAL


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def failure(row: list[StreamEvent]) -> UpstreamError:
    """The error that ends these events."""
    assert isinstance(row[-1], Failed)
    assert isinstance(row[-1].error, UpstreamError)
    return row[-1].error


@pytest.mark.parametrize("name", ["stream_cut.sse", "stream_done_alone.sse"])
def test_no_end_sign_is_a_failure(name: str) -> None:
    """A stream without a finish reason has failed, with [DONE] and without, and its half call is not completed."""
    row = events(wire(name))
    assert isinstance(failure(row), UpstreamProtocolError)
    assert "PartEnded" not in {type(event).__name__ for event in row[-2:]}


def test_one_unfinished_choice_is_a_failure() -> None:
    """Every candidate that was seen must have finished."""
    row = events(delta({"content": "a"}), delta({"content": "b"}, index=1), delta(finish="stop"), DONE)
    assert isinstance(failure(row), UpstreamProtocolError)


def test_an_error_in_the_stream_ends_it() -> None:
    """What follows an error is not read."""
    row = events(wire("stream_error_midway.sse"))
    assert isinstance(failure(row), UpstreamFailed)
    assert [event.delta for event in row if isinstance(event, PartDelta)] == [TextDelta("Half")]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "m", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, UpstreamRateLimited),
        ({"message": "m", "code": 429}, UpstreamRateLimited),
        ({"message": "m", "code": "503"}, UpstreamOverloaded),
        ({"message": "m", "type": "overloaded_error"}, UpstreamOverloaded),
        ({"message": "m", "type": "invalid_request_error"}, UpstreamRefused),
        ({"message": "m", "type": "server_error"}, UpstreamFailed),
        ("just words", UpstreamFailed),
        (True, UpstreamFailed),
    ],
)
def test_errors_in_streams_are_judged_by_their_words(error: object, kind: type[UpstreamError]) -> None:
    """An error without a status is classified by its code and type."""
    assert type(failure(events(chunk(error=error)))) is kind
    assert type(failure(events(b"event: error\n" + chunk(error=error)))) is kind


def test_context_length_in_a_stream() -> None:
    """A prompt that is too long is known by its code, and another model may take it."""
    error = failure(events(chunk(error={"message": "m", "code": "context_length_exceeded"})))
    assert error.kind is ErrorKind.CONTEXT_LENGTH
    assert error.failover


@pytest.mark.parametrize(
    "content",
    [
        b"data: {\n\n",
        b"data: <html>\n\n",
        b"data: [1]\n\n",
        b'data: {"choices":{}}\n\n',
        b'data: {"choices":[{"index":"0"}]}\n\n',
        b'data: {"choices":[{"delta":[]}]}\n\n',
        b'data: {"choices":[{"delta":{"content":7}}]}\n\n',
        b"data: " + b"[" * 5000 + b"\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b"<html>Bad gateway</html>",
        b'{"error":{"message":"not a stream"}}',
        b"",
    ],
)
def test_rubbish_is_a_protocol_error(content: bytes) -> None:
    """What cannot be read ends the events with an error that does not repeat it, and later reads give nothing."""
    decoder = OUTBOUND.decoder(upstream_request(), upstream())
    row = [*decoder.feed(content).events, *decoder.close().events]
    assert isinstance(failure(row), UpstreamProtocolError)
    assert "html" not in str(failure(row))
    assert not decoder.feed(DONE).events
    assert not decoder.close().events


@settings(max_examples=200)
@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([delta({"content": "x"}), DONE, b"data: ", b"\n\n"]), max_size=6)
)
def test_no_bytes_raise(pieces: list[bytes]) -> None:
    """Whatever is fed, the events have one ending and are in legal order."""
    validator = StreamValidator()
    for event in read(OUTBOUND.decoder(upstream_request(), upstream()), *pieces):
        validator.check(event)
    assert validator.complete


KEYS = (
    *("content", "tool_calls", "index", "id", "function", "custom", "name", "arguments", "input", "reasoning"),
    *("reasoning_details", "text", "signature", "data", "audio", "images", "image_url", "url", "annotations"),
    *("url_citation", "refusal", "thinking", "type", "extra_content", "google", "thought_signature"),
    *("function_call", "start_index", "end_index"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.sampled_from(["stop", "function", "id"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
DELTAS = st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3), max_size=4)


@settings(max_examples=300)
@given(DELTAS, JSON, JSON)
def test_no_shape_raises(deltas: list[dict[str, object]], logprobs: object, usage: object) -> None:
    """Whatever the JSON within a chunk, the decoder answers with events in legal order."""
    row = [delta(each, logprobs=logprobs) for each in deltas]
    validator = StreamValidator()
    for event in events(*row, delta(finish="stop"), chunk(usage=usage), DONE):
        validator.check(event)
    assert validator.complete


# ── the passthrough ───────────────────────────────────────────────────────────────────────────────────────────────────


NOT_DISTINCT = {"stream_google_calls.sse", "stream_late_name.sse"}
"""Streams of servers with one index for parallel calls, or a name in each delta: calls stay separate."""


def without_calls(content: bytes) -> bytes:
    return b"\n\n".join(frame for frame in content.split(b"\n\n") if b'"tool_calls":[' not in frame)


@pytest.mark.parametrize("asked", [True, False], ids=["usage asked", "usage not asked"])
@pytest.mark.parametrize("name", GOOD)
def test_passed_through_bytes_are_the_upstreams(name: str, asked: bool) -> None:
    """At every split the caller gets the very bytes, but for the model, comments, and usage that was not asked for."""
    content = wire(name)
    request = inbound_request(stream=True, n=2 if "two_choices" in name else 1, stream_options={"include_usage": asked})
    whole = batched(OUTBOUND.passthrough_stream(request, upstream()), content)
    expected = content.replace(b": OPENROUTER PROCESSING\n\n", b"").replace(b'"model":"big-1"', b'"model":"smart"')
    expected = expected.replace(b'"model": "big-1"', b'"model": "smart"')
    expected = expected.replace(b'"model":"maker/model-3"', b'"model":"smart"')
    expected = expected.replace(b'"model":"models/big-1"', b'"model":"smart"')
    if not asked:
        frames = expected.split(b"\n\n")
        expected = b"\n\n".join(each for each in frames if b'"choices":[],"usage":{' not in each)
    if name == "stream_compatible_crlf.sse":
        expected += b"\n\n" + DONE
    passed = whole.raw or b""
    if name in NOT_DISTINCT:
        passed, expected = (without_calls(content) for content in (passed, expected))
    assert passed.split(b"\n\n") == expected.split(b"\n\n") or name in BLANK_LINES_DIFFER
    assert passed.split() == expected.split()
    assert isinstance(whole.events[0], Started)
    assert isinstance(whole.events[-1], Ended)
    for cut in range(1, len(content), 3):
        again = batched(OUTBOUND.passthrough_stream(request, upstream()), content[:cut], content[cut:])
        assert ((again.raw or b"").split(), list(again.events)) == ((whole.raw or b"").split(), list(whole.events))


@pytest.mark.parametrize("name", GOOD)
def test_passthrough_and_codec_agree(name: str) -> None:
    """Both codecs tell the same start, usage and native finishes."""
    request = inbound_request(stream=True, n=2 if "two_choices" in name else 1)
    passed_through = list(batched(OUTBOUND.passthrough_stream(request, upstream()), wire(name)).events)
    full = events(wire(name))
    usages = [[e.usage for e in row if isinstance(e, UsageReported)][-1:] for row in (passed_through, full)]
    finishes = [
        sorted((e.candidate, e.finish.native) for e in row if type(e).__name__ == "Finished")  # type: ignore[union-attr]
        for row in (passed_through, full)
    ]
    assert usages[0] == usages[1]
    assert finishes[0] == finishes[1]


@pytest.mark.parametrize("name", ["stream_error_midway.sse", "stream_cut.sse", "stream_done_alone.sse"])
def test_the_passthrough_fails_where_the_codec_fails(name: str) -> None:
    """A passed-through stream that broke ends with the same error, and its error frame is left to the encoder."""
    passed_through = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), wire(name))
    assert comparable(list(passed_through.events))[-1] == comparable(events(wire(name)))[-1]
    assert b'"error"' not in (passed_through.raw or b"")
    assert b"never" not in (passed_through.raw or b"")
    assert b"[DONE]" not in (passed_through.raw or b"")


def test_a_passthrough_waits_for_all_choices_that_were_asked_for() -> None:
    """Without [DONE] a stream of two choices is whole when both have finished; [DONE] settles it."""
    request = inbound_request(stream=True, n=2)
    one = delta({"content": "a"}) + delta(finish="stop")
    assert isinstance(batched(OUTBOUND.passthrough_stream(request, upstream()), one).events[-1], Failed)
    assert isinstance(batched(OUTBOUND.passthrough_stream(request, upstream()), one + DONE).events[-1], Ended)


def test_what_a_model_says_is_not_taken_for_protocol() -> None:
    """Text that looks like an error, usage or a finish passes untouched."""
    said = '"finish_reason":"stop" "error":{} "usage":{"prompt_tokens":9} data: [DONE] "model":"big-1"'
    content = delta({"content": said}) + delta(finish="stop") + DONE
    passed_through = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content)
    assert passed_through.raw == content.replace(b'"model":"big-1"', b'"model":"smart"')
    assert not [event for event in passed_through.events if isinstance(event, UsageReported)]
    assert fold(events(content)).text == said


def test_a_call_is_never_told_without_id_and_name() -> None:
    """Every call that starts has both, in every recorded stream."""
    heads = [e.part for name in STREAMS for e in events(wire(name)) if isinstance(e, PartStarted)]
    assert all(head.call_id and head.name for head in heads if isinstance(head, ToolCall))


# ── oddities ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_that_is_too_large_ends_the_stream() -> None:
    """An upstream cannot make us hold more than one event of the largest size."""
    decoder = OUTBOUND.decoder(upstream_request(), upstream())
    decoder.feed(b"data: ")
    piece = b"x" * (4 * 1024 * 1024)
    row = [event for _ in range(5) for event in decoder.feed(piece).events]
    assert isinstance(failure(row), UpstreamProtocolError)
    assert not decoder.close().events


def test_a_finish_of_error_is_a_failure_in_both_codecs() -> None:
    """`finish_reason: error` without an error object is still a failure."""
    content = delta({"content": "x"}) + delta(finish="error") + DONE
    assert isinstance(failure(events(content)), UpstreamFailed)
    assert isinstance(
        batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content).events[-1], Failed
    )


@pytest.mark.parametrize("place", [0, 1], ids=["first", "later"])
def test_a_passed_through_error_frame_is_not_passed_on(place: int) -> None:
    """An error is left to the encoder wherever it stands."""
    frames = [delta({"content": "x"})][:place]
    content = b"".join(frames) + chunk(error={"message": "m", "code": 429}) + DONE
    passed_through = batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), content)
    assert isinstance(failure(list(passed_through.events)), UpstreamRateLimited)
    assert passed_through.raw == b"".join(frames).replace(b"big-1", b"smart")


def test_done_before_anything_is_a_failure_in_the_passthrough() -> None:
    """[DONE] alone is no answer."""
    assert isinstance(
        batched(OUTBOUND.passthrough_stream(inbound_request(stream=True), upstream()), DONE).events[-1], Failed
    )


def test_a_finish_of_tool_calls_without_a_call_is_a_stop() -> None:
    """A tool call finish without a call becomes a stop; the native reason is kept."""
    found = fold(events(delta({"content": "x"}), delta(finish="tool_calls"), DONE)).candidates[0].finish
    assert (found.reason, found.native) == (FinishReason.STOP, "tool_calls")


def test_an_unknown_finish_is_unknown() -> None:
    """An unknown finish reason is not decoded as success, and is kept."""
    found = fold(events(delta({"content": "x"}), delta(finish="asteroid"), DONE)).candidates[0].finish
    assert (found.reason, found.native) == (FinishReason.UNKNOWN, "asteroid")


def test_the_seal_of_a_call_may_come_as_a_detail() -> None:
    """An entry whose id is a call's belongs to that call, before its name is known and after."""
    entry = {"index": 0, "type": "reasoning.encrypted", "data": "ZW5j", "id": "c"}
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    early = {"index": 0, "id": "c"}
    for row in (
        [delta({"tool_calls": [call]}), delta({"reasoning_details": [entry]}), delta({"reasoning_details": [entry]})],
        [delta({"tool_calls": [early]}), delta({"reasoning_details": [entry]}), delta({"tool_calls": [call]})],
    ):
        found = fold(events(*row, delta(finish="stop"), DONE, issuer="route"))
        seal = Seal(issuer="route", kind="encrypted", data="ZW5j", item_id="c", model="big-1")
        assert [each.seals for each in found.tool_calls] == [(seal,)]


def test_a_detail_without_words_is_a_part_of_its_own() -> None:
    """Sealed thought without text is kept, a second seal does not join the first."""
    entries = [{"index": n, "type": "reasoning.encrypted", "data": f"ZW5{n}"} for n in range(2)]
    found = fold(events(delta({"reasoning_details": entries}), delta(finish="stop"), DONE, issuer="route"))
    assert [len(part.seals) for part in found.candidates[0].parts] == [1, 1]


@pytest.mark.parametrize(("index", "parts"), [(0, [("hm", 1)]), (1, [("hm", 0), ("", 1)])])
def test_a_signature_belongs_to_the_entry_with_its_index(index: int, parts: list[tuple[str, int]]) -> None:
    """A signature in an entry of its own seals the text with the same index, and is a part of its own otherwise."""
    text = {"index": 0, "type": "reasoning.text", "text": "hm"}
    signature = {"index": index, "type": "reasoning.text", "text": "", "signature": "AA=="}
    rows = [[delta({"reasoning_details": [text, signature]})]]
    rows += [[delta({"reasoning_details": [text]}), delta({"reasoning_details": [signature]})]]
    for row in rows:
        found = fold(events(*row, delta(finish="stop"), DONE, issuer="route")).candidates[0].parts
        reasoning = [part for part in found if isinstance(part, Reasoning)]
        assert [(part.text, len(part.seals)) for part in reasoning] == parts


def test_calls_that_are_named_but_never_go_on() -> None:
    """A name without id and arguments is a call when the stream ends; a call without a name is none."""
    row = [delta({"tool_calls": [{"index": 0, "function": {"name": "f"}}, {"index": 1, "id": "x"}]})]
    found = fold(events(*row, delta(finish="tool_calls"), DONE))
    assert [(call.name, call.arguments) for call in found.tool_calls] == [("f", "{}")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [("", ""), ('{"input":7}', '{"input":7}'), ('{"input":"a","b":1}', '{"input":"a","b":1}'), ("raw", "raw")],
)
def test_an_emulated_call_with_other_arguments_keeps_them(arguments: str, text: str) -> None:
    """What is not one string property `input` reaches the tool as the model wrote it."""
    memory = upstream_request(emulated=frozenset({"p"}))
    call = {"index": 0, "id": "c", "function": {"name": "p", "arguments": arguments}}
    row = [delta({"tool_calls": [call]}), delta(finish="tool_calls"), DONE]
    assert fold(read(OUTBOUND.decoder(memory, upstream()), *row)).tool_calls[0].arguments == text


def test_pictures_in_answers() -> None:
    """Pictures of other gateways are parts, inline and by address; what is no picture is passed over."""
    images = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url"},
        7,
    ]
    found = fold(events(delta({"images": images}), delta(finish="stop"), DONE)).candidates[0].parts
    assert [part.kind for part in found if isinstance(part, Media)] == ["image", "image"]
    assert isinstance(found[0], Media)
    assert (found[0].source, found[0].media_type) == (InlineData(data="iVBORw0KGgo="), "image/png")


def test_citations_before_and_after_their_text() -> None:
    """A citation before any text opens one; one behind a call has lost its place; one without a span has none."""
    cited = {"type": "url_citation", "url_citation": {"url": "https://a", "title": ""}}
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    row = [
        delta({"annotations": [cited, {"type": "file_citation"}, {"url_citation": {"url": 7}}]}),
        delta({"content": "x"}),
        delta({"tool_calls": [call]}),
        delta({"annotations": [cited]}),
        delta(finish="stop"),
        DONE,
    ]
    text = fold(events(*row)).candidates[0].parts[0]
    assert isinstance(text, Text)
    assert [(each.url, each.start) for each in text.citations] == [("https://a", None)]


def test_a_chunk_may_name_a_choice_without_a_delta() -> None:
    """A choice without a delta, and pieces that cannot be read, say nothing."""
    row = [
        chunk([{"index": 0}]),
        delta({"content": [7, {"text": ""}, {"type": "text", "text": "x"}, {"thinking": [{"text": ""}]}]}),
        delta({"audio": {}}, logprobs={"content": [{"token": "x"}, {"token": 7}, 7]}),
        delta(finish="stop"),
        DONE,
    ]
    assert fold(events(*row)).text == "x"


@pytest.mark.parametrize("created", [None, -1, 1e300, 10**20])
def test_times_that_cannot_be(created: float | None) -> None:
    """A time that is missing or out of range is the epoch."""
    first = events(chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}], created=created))[0]
    assert isinstance(first, Started)
    assert first.created_at == datetime.fromtimestamp(0, UTC)


def test_usage_with_pictures_and_whole_floats() -> None:
    """Counts of pictures and sound are read; 7.0 is 7."""
    usage = {
        "prompt_tokens": 7.0,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"image_tokens": 4, "audio_tokens": 2},
        "completion_tokens_details": {"image_tokens": 1, "audio_tokens": 1},
    }
    found = fold(events(delta({"content": "x"}), delta(finish="stop"), chunk(usage=usage), DONE)).usage
    assert (found.input, found.image_input, found.audio_input) == (7, 4, 2)
    assert (found.image_output, found.audio_output) == (1, 1)


@pytest.mark.parametrize(
    ("code", "kind"), [("insufficient_quota", ErrorKind.QUOTA), ("model_not_found", ErrorKind.MODEL_NOT_FOUND)]
)
def test_codes_in_streams_decide_the_cause(code: str, kind: ErrorKind) -> None:
    """A spent quota and a missing model are known by their codes alone."""
    assert failure(events(chunk(error={"message": "m", "code": code}))).kind is kind


def test_an_error_event_that_is_no_json() -> None:
    """An event named error fails the stream whatever it holds."""
    assert isinstance(failure(events(b"event: error\ndata: <html>\n\n")), UpstreamFailed)
