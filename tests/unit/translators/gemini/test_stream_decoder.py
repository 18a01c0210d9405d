"""Decode streams and responses of a generateContent upstream."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    Ended,
    Failed,
    Finished,
    FinishReason,
    InlineData,
    Media,
    Opaque,
    PartEnded,
    Reasoning,
    Response,
    Started,
    StreamEvent,
    Text,
    ToolCall,
)
from llmproxy_asgi.errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.pairing import arguments_object
from llmproxy_asgi.translators.stream_validator import StreamValidator
from support.wires.gemini import (
    OUTBOUND,
    RECEIVED_AT,
    STREAMS,
    chunk,
    drained,
    events_bytes,
    plain_upstream_request,
    read,
    told,
    upstream,
    wire,
)

GOOD = [name for name in STREAMS if name not in {"cut.sse", "error_midway.sse"}]


def checked(events: list[StreamEvent]) -> list[StreamEvent]:
    validator = StreamValidator()
    for event in events:
        validator.check(event)
    return events


def failure(events: list[StreamEvent]) -> UpstreamError:
    last = events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamError)
    return last.error


@pytest.mark.parametrize("name", [*STREAMS, "array.json"])
def test_a_stream_is_the_same_at_every_split(name: str) -> None:
    """Decode every recorded stream, split at any byte, into the same valid events."""
    data = wire(name)
    whole = checked(read(data))
    for cut in range(len(data)):
        pieces = drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [data[:cut], data[cut:]])
        if name in {"cut.sse", "error_midway.sse"}:
            assert type(failure(pieces)) is type(failure(whole))
            assert pieces[:-1] == whole[:-1]
        else:
            assert pieces == whole


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_all_line_ends_are_the_same(ends: bytes) -> None:
    """Accept the three line ends of server-sent events."""
    data = wire("thoughts_and_calls.sse")
    assert fold(read(data.replace(b"\r\n", ends))) == fold(read(data))


def test_an_array_equals_events() -> None:
    """Decode a JSON array, as without `alt=sse`, like events."""
    array, events = (fold(read(wire(name))).candidates[0] for name in ("array.json", "thoughts_and_calls.sse"))
    assert array.parts[:2] == events.parts[:2]
    assert array.finish == events.finish
    calls = [[part for part in found.parts if isinstance(part, ToolCall)] for found in (array, events)]
    assert [(call.name, arguments_object(call.arguments), call.seals) for call in calls[0]] == [
        (call.name, arguments_object(call.arguments), call.seals) for call in calls[1]
    ]


def test_what_compatible_servers_send_is_read() -> None:
    """Ignore comments, event names, a missing space after the colon and `[DONE]`."""
    assert fold(read(wire("compatible.sse"))).text == "Hello"


def test_thoughts_text_and_calls() -> None:
    """Decode every common part with its signature, id, finish reason and counts."""
    answer = fold(read(wire("thoughts_and_calls.sse")))
    thought, text, first, second = answer.candidates[0].parts
    assert isinstance(thought, Reasoning)
    assert (thought.text, thought.style) == ("Two cities, two calls.", "summary")
    assert text == Text(text="I look it up. 😀 東京")
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert (first.call_id, first.name) == ("fc_1", "weather")
    assert first.arguments == '{"city": "Köln", "days": 1}'
    assert [(seal.issuer, seal.model, seal.data) for seal in first.seals] == [
        ("gemini", "gemini-upstream-1", "c2lnbmF0dXJlKy8=")
    ]
    assert (second.name, second.arguments, second.seals) == ("now", "{}", ())
    assert (answer.id, answer.model, answer.finish_reason) == ("Wire1", "asked", FinishReason.TOOL_CALLS)


def test_calls_without_an_id_get_one_that_stays() -> None:
    """Derive ids that are unique within a response, valid everywhere and stable."""
    calls = [chunk({"functionCall": {"name": "f"}}, {"functionCall": {"name": "f"}}), chunk(finish="STOP")]
    first, second = fold(told(*calls)).tool_calls
    assert first.call_id != second.call_id
    assert first.call_id.startswith("call_")
    assert len(first.call_id) <= 64
    assert (first, second) == fold(told(*calls)).tool_calls


@pytest.mark.parametrize(
    ("word", "reason"),
    [("STOP", FinishReason.TOOL_CALLS), ("MAX_TOKENS", FinishReason.LENGTH), ("SAFETY", FinishReason.CONTENT_FILTER)],
)
def test_a_stop_after_a_call_means_tool_calls(word: str, reason: FinishReason) -> None:
    """Decode a later STOP after a call as tool calls; keep other reasons."""
    answer = fold(told(chunk({"functionCall": {"name": "f"}}), chunk({"text": ""}, finish=word)))
    assert answer.candidates[0].finish.reason is reason
    assert answer.candidates[0].finish.native == word
    assert len(answer.candidates[0].parts) == 1


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("RECITATION", FinishReason.CONTENT_FILTER),
        ("IMAGE_SAFETY", FinishReason.CONTENT_FILTER),
        ("LANGUAGE", FinishReason.CONTENT_FILTER),
        ("MALFORMED_FUNCTION_CALL", FinishReason.MALFORMED_CALL),
        ("TOO_MANY_TOOL_CALLS", FinishReason.PAUSE),
        ("CONTINUATION", FinishReason.PAUSE),
        ("OTHER", FinishReason.UNKNOWN),
        ("SOMETHING_NEW", FinishReason.UNKNOWN),
    ],
)
def test_finish_reasons(word: str, reason: FinishReason) -> None:
    """Map each finish reason, and keep the native one."""
    finish = fold(told(chunk({"text": "x"}), chunk(finish=word))).candidates[0].finish
    assert (finish.reason, finish.native) == (reason, word)


def test_a_malformed_call_alone_is_retryable() -> None:
    """Report MALFORMED_FUNCTION_CALL without content as a failure, streamed or complete."""
    malformed = chunk(finish="MALFORMED_FUNCTION_CALL")
    events = told(malformed)
    assert len(events) == 1
    assert isinstance(failure(events), UpstreamFailed)
    assert failure(events).retryable
    with pytest.raises(UpstreamFailed):
        whole(malformed)


def test_a_lost_signature_is_the_requests_fault() -> None:
    """Report MISSING_THOUGHT_SIGNATURE as a refusal of the request."""
    error = failure(told(chunk(finish="MISSING_THOUGHT_SIGNATURE")))
    assert isinstance(error, UpstreamRefused)
    assert error.status == 400


def test_usage_adds_up() -> None:
    """Include thoughts in the output and tool prompts in the input; use the last counts."""
    usage = {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 5,
        "cachedContentTokenCount": 4,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 20,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}, {"modality": "TEXT", "tokenCount": 4}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1}],
    }
    early = {"promptTokenCount": 9, "candidatesTokenCount": 1}
    found = fold(told(chunk({"text": "x"}, usageMetadata=early), chunk(finish="STOP", usageMetadata=usage))).usage
    assert (found.input, found.output, found.cache_read, found.reasoning) == (15, 5, 4, 2)
    assert (found.audio_input, found.image_output, found.total) == (6, 1, 20)


def test_grounding_becomes_citations_in_code_points() -> None:
    """Convert byte offsets in Japanese text to code points of the text part, one citation per source."""
    answer = fold(read(wire("grounded.sse")))
    (text,) = answer.candidates[0].parts
    assert isinstance(text, Text)
    assert text.text == "東京は大きい。Köln is not."
    assert [(found.url, found.title, text.text[found.start : found.end]) for found in text.citations] == [
        ("https://example.org/tokyo", "Tokyo", "東京は大きい。"),
        ("https://example.org/tokyo", "Tokyo", "Köln is not."),
        ("https://example.org/koeln", "Köln", "Köln is not."),
    ]
    assert answer.usage.server_tool_calls == {"web_search": 1}


@pytest.mark.parametrize("indices", [3, 1.5, True, "0", {"0": 1}, ["0", None, -1, 99]])
def test_unreadable_grounding_is_skipped(indices: Any) -> None:
    """Skip unreadable grounding, and keep the response."""
    support = {"segment": {"endIndex": 2}, "groundingChunkIndices": indices}
    grounded = chunk({"text": "so"}, finish="STOP")
    grounded["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://a.example"}}],
        "groundingSupports": [support, {**support, "groundingChunkIndices": [0]}],
    }
    part = fold(told(grounded)).candidates[0].parts[0]
    assert isinstance(part, Text)
    assert [citation.url for citation in part.citations] == ["https://a.example"]


def test_grounding_of_a_response_counts_from_its_part() -> None:
    """Count offsets of a complete response within the named part."""
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://example.org/a", "title": "A"}}],
        "groundingSupports": [
            {"segment": {"partIndex": 2, "startIndex": 3, "endIndex": 6}, "groundingChunkIndices": [0, 7]}
        ],
    }
    answer = chunk({"text": "é", "thought": True}, {"text": "ja. "}, {"text": "京都"}, {"functionCall": {"name": "f"}})
    answer["candidates"][0] |= {"finishReason": "STOP", "groundingMetadata": grounding}
    found = [part for part in whole(answer).candidates[0].parts if isinstance(part, Text)]
    (citation,) = [citation for part in found for citation in part.citations]
    assert found[0].text == "ja. 京都"
    assert found[0].text[citation.start : citation.end] == "都"


def test_a_blocked_prompt_is_a_response_without_content() -> None:
    """Decode a block reason without candidates as a filtered response, not as an error."""
    answer = fold(read(wire("blocked_prompt.sse")))
    (candidate,) = answer.candidates
    assert (candidate.parts, candidate.finish.reason) == ((), FinishReason.CONTENT_FILTER)
    assert candidate.finish.native == "PROHIBITED_CONTENT"
    assert answer.usage.input == 7


def test_images_audio_and_unknown_parts() -> None:
    """Decode an image at once, join audio from its pieces, and keep executed code unchanged."""
    picture, sound, code, result = fold(read(wire("pictures_and_sound.sse"))).candidates[0].parts
    assert picture == Media(kind="image", source=InlineData(data="iVBORw0KGgo="), media_type="image/png")
    assert isinstance(sound, Media)
    assert (sound.kind, sound.source) == ("audio", InlineData(data="AAECAwQ="))
    assert isinstance(code, Opaque)
    assert (code.kind, code.data["executableCode"]["code"]) == ("executableCode", "print(1)")
    assert isinstance(result, Opaque)
    assert result.kind == "codeExecutionResult"


def test_a_signature_on_an_empty_text_is_kept_on_its_own_text() -> None:
    """Keep a signed empty text of the last chunk as a part, because it must return in its position."""
    said, signed = fold(read(wire("signed_text.sse"))).candidates[0].parts
    assert said == Text(text="Done.")
    assert isinstance(signed, Text)
    assert (signed.text, signed.seals[0].data) == ("", "dGV4dHNpZw==")


def test_two_candidates_keep_apart() -> None:
    """Keep parts, finishes and log probabilities of interleaved candidates separate."""
    first, second = fold(read(wire("two_candidates.sse"))).candidates
    assert first.parts == (Text(text="one more"),)
    assert second.parts == (Text(text="two words"),)
    assert (first.finish.reason, second.finish.reason) == (FinishReason.STOP, FinishReason.LENGTH)
    (token,) = first.logprobs
    assert (token.token, token.logprob, [other.token for other in token.top]) == ("one", -0.5, ["one", "x"])


def test_arguments_in_pieces_are_one_call() -> None:
    """Assemble a call's arguments from values with paths; append to texts."""

    def piece(more: bool, *args: dict[str, Any], **call: Any) -> dict[str, Any]:
        return chunk({"functionCall": {**call, "partialArgs": list(args), "willContinue": more}})

    answer = fold(
        told(
            piece(True, {"jsonPath": "$.city", "stringValue": "Kö", "willContinue": True}, name="f", id="c1"),
            piece(True, {"jsonPath": "$.city", "stringValue": "ln"}, {"jsonPath": "$.days[1].n", "numberValue": 2}),
            piece(False, {"jsonPath": "$['a b']", "boolValue": False}, {"jsonPath": "$.x", "nullValue": "NULL_VALUE"}),
            chunk(finish="STOP"),
        )
    )
    (call,) = answer.tool_calls
    assert (call.call_id, call.name) == ("c1", "f")
    assert call.arguments == '{"city":"Köln","days":[null,{"n":2}],"a b":false,"x":null}'


def test_texts_in_pieces_are_appended() -> None:
    """Append interleaved pieces to their texts; replace a text by another kind of value."""
    pieces: list[tuple[str, Any]] = [
        ("$.a", "x"),
        ("$.a", "y"),
        ("$.b[0]", "1"),
        ("$.a", "z"),
        ("$.a", ""),
        ("$.a", "!"),
    ]
    pieces += [("$.b[0]", "2"), ("$.b[0]", "3"), ("$.c", "gone"), ("$.c", " too"), ("$.c", 5), ("$.d", 6), ("$.d", "d")]
    pieces.append(("$.d", "e"))
    chunks = [
        chunk(
            {
                "functionCall": {
                    "name": "f",
                    "partialArgs": [
                        {"jsonPath": path, ("stringValue" if type(value) is str else "numberValue"): value}
                    ],
                    "willContinue": True,
                }
            }
        )
        for path, value in pieces
    ]
    (call,) = fold(told(*chunks, chunk({"functionCall": {}}), chunk(finish="STOP"))).tool_calls
    assert call.arguments == '{"a":"xyz!","b":["123"],"c":5,"d":"de"}'


@pytest.mark.parametrize("path", ["city", "$", "$.a..b", "$.a[999999999]", "$[0]", "$.s.t"])
def test_invalid_paths_end_the_stream(path: str) -> None:
    """Fail on an invalid path."""
    pieces = [{"jsonPath": "$.s", "stringValue": "x"}, {"jsonPath": path, "stringValue": "x"}]
    events = told(chunk({"functionCall": {"name": "f", "partialArgs": pieces, "willContinue": True}}))
    assert isinstance(failure(events), UpstreamProtocolError)


def test_distant_indexes_end_the_stream() -> None:
    """Limit the elements of all lists of a call, so that large indexes can't fill memory."""
    pieces = [{"jsonPath": f"$.a{number}[60000]", "numberValue": 1} for number in range(2)]
    events = told(chunk({"functionCall": {"name": "f", "partialArgs": pieces, "willContinue": True}}))
    assert isinstance(failure(events), UpstreamProtocolError)


def test_custom_tools_and_rewritten_names_are_found_again() -> None:
    """Restore free-text calls of emulated tools, and the caller's names."""
    upstream_request = plain_upstream_request(names={"up_name": "ns.read"}, emulated=frozenset({"patch"}))
    calls = chunk(
        {"functionCall": {"name": "patch", "args": {"input": "*** x\n"}}}, {"functionCall": {"name": "up_name"}}
    )
    first, second = fold(told(calls, chunk(finish="STOP"), upstream_request=upstream_request)).tool_calls
    assert (first.kind, first.arguments) == ("custom", "*** x\n")
    assert second.name == "ns.read"


def test_an_error_in_the_stream_is_reported() -> None:
    """End the stream with the error of an error chunk's code; emit nothing after it."""
    events = read(wire("error_midway.sse"))
    assert isinstance(failure(events), UpstreamOverloaded)
    limited = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down"}}
    assert isinstance(failure(told(limited)), UpstreamRateLimited)
    assert not any(isinstance(event, Started) for event in told(limited))


@pytest.mark.parametrize("name", ["cut.sse"])
def test_a_stream_that_just_stops_has_failed(name: str) -> None:
    """Report a failure without a finish reason."""
    events = read(wire(name))
    assert isinstance(failure(events), UpstreamProtocolError)
    assert not any(isinstance(event, Finished | Ended) for event in events)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"candidates":{}}\n\n',
        b'data: {"candidates":[{"content":{"parts":[{"text":5}]}}]}\n\n',
        b'data: {"candidates":[{"content":{"parts":[{"functionCall":{}}]}}]}\n\n',
        b'data: {"candidates":[]}\n\n',
        b"[1]",
        b"[}",
        b'[{"candidates":[]}',
        b"<html>no</html>",
    ],
)
def test_unreadable_data_ends_the_stream(data: bytes) -> None:
    """Report unreadable data as one upstream failure, and ignore later data."""
    decoder = OUTBOUND.decoder(plain_upstream_request(), upstream())
    events = drained(decoder, [data])
    assert isinstance(failure(events), UpstreamProtocolError)
    assert decoder.feed(events_bytes(chunk({"text": "x"}, finish="STOP"))).events == ()
    assert decoder.close().events == ()


@given(st.lists(st.binary(max_size=40), max_size=4), st.sampled_from([b"", b"data: ", b"[", b'data: {"candidates":[{']))
def test_no_bytes_break_the_decoder(pieces: list[bytes], start: bytes) -> None:
    """Emit valid events with exactly one ending for any bytes."""
    events = drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [start, *pieces])
    checked(events)
    assert isinstance(events[-1], Ended | Failed)


def test_an_event_has_a_limit() -> None:
    """End the stream at a chunk over the limit, in both framings."""
    to = upstream()
    small = type(to)(provider="google", model="m", client_model="asked", issuer="gemini", max_event=100)
    for data in (b"data: " + b"x" * 200, b'["' + b"x" * 200):
        assert isinstance(failure(read(data, to=small)), UpstreamProtocolError)


def whole(answer: Any) -> Response:
    import json

    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return OUTBOUND.decode(body, plain_upstream_request(), upstream(), received_at=RECEIVED_AT)


def test_a_complete_response_equals_its_stream() -> None:
    """Decode a complete response like a stream of one chunk, dated at its arrival."""
    answer = whole(wire("answer.response.json"))
    thought, text, call = answer.candidates[0].parts
    assert isinstance(thought, Reasoning)
    assert text == Text(text="Hi ")
    assert isinstance(call, ToolCall)
    assert call.arguments.replace("\n", "").replace(" ", "") == '{"a":1.0,"b":[1,2]}'
    assert (answer.created_at, answer.model, answer.usage.total) == (RECEIVED_AT, "asked", 15)
    dated = whole(chunk({"text": "x"}, finish="STOP", createTime="2026-11-20T10:00:00.5Z"))
    assert dated.created_at.isoformat() == "2026-11-20T10:00:00.500000+00:00"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"candidates":[]}', b'{"candidates":[{"content":{"parts":[]}}]}']
)
def test_invalid_responses_are_upstream_failures(body: bytes) -> None:
    """Report a body that is not a response as an upstream failure, without its bytes."""
    with pytest.raises(UpstreamProtocolError) as refused:
        whole(body)
    assert "html" not in str(refused.value)


def test_an_error_with_status_200() -> None:
    """Report an error object with status 200 as its error."""
    with pytest.raises(UpstreamOverloaded):
        whole({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}})


def test_sealed_parts_are_restated() -> None:
    """Restate sealed parts completely at their end."""
    ended = [event.part for event in read(wire("signed_text.sse")) if isinstance(event, PartEnded) and event.part]
    assert [part.seals[0].data for part in ended] == ["dGV4dHNpZw=="]
