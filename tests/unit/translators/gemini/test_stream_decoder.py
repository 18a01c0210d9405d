"""Streams and answers of an upstream that speaks Google's protocol."""

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
from llmproxy_asgi.translators.grammar import Grammar
from llmproxy_asgi.translators.pairing import arguments_object
from support.wires.gemini import (
    OUTBOUND,
    RECEIVED_AT,
    STREAMS,
    chunk,
    drained,
    events_bytes,
    plain_outgoing,
    read,
    told,
    upstream,
    wire,
)

GOOD = [name for name in STREAMS if name not in {"cut.sse", "error_midway.sse"}]


def checked(events: list[StreamEvent]) -> list[StreamEvent]:
    grammar = Grammar()
    for event in events:
        grammar.check(event)
    return events


def failure(events: list[StreamEvent]) -> UpstreamError:
    last = events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamError)
    return last.error


@pytest.mark.parametrize("name", [*STREAMS, "array.json"])
def test_1_a_stream_is_the_same_at_every_split(name: str) -> None:
    """Cut in two at each byte, every recorded stream folds into what it says uncut, by a legal row of events."""
    data = wire(name)
    whole = checked(read(data))
    for cut in range(len(data)):
        pieces = drained(OUTBOUND.decoder(plain_outgoing(), upstream()), [data[:cut], data[cut:]])
        if name in {"cut.sse", "error_midway.sse"}:
            assert type(failure(pieces)) is type(failure(whole))
            assert pieces[:-1] == whole[:-1]
        else:
            assert pieces == whole


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_2_all_line_ends_are_the_same(ends: bytes) -> None:
    """The three line ends of server-sent events give equal results."""
    data = wire("thoughts_and_calls.sse")
    assert fold(read(data.replace(b"\r\n", ends))) == fold(read(data))


def test_an_array_says_the_same_as_events() -> None:
    """Without `alt=sse` the answer comes as one JSON array, and is read alike."""
    array, events = (fold(read(wire(name))).candidates[0] for name in ("array.json", "thoughts_and_calls.sse"))
    assert array.parts[:2] == events.parts[:2]
    assert array.finish == events.finish
    calls = [[part for part in found.parts if isinstance(part, ToolCall)] for found in (array, events)]
    assert [(call.name, arguments_object(call.arguments), call.seals) for call in calls[0]] == [
        (call.name, arguments_object(call.arguments), call.seals) for call in calls[1]
    ]


def test_4_what_compatible_servers_send_is_read() -> None:
    """Comments, event names, no space behind the colon and `[DONE]` change nothing."""
    assert fold(read(wire("compatible.sse"))).text == "Hello"


def test_18_thoughts_text_and_calls() -> None:
    """Every common part comes through with its signature, its id, the finish and the counts."""
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


def test_48_calls_without_an_id_get_one_that_stays() -> None:
    """Minted ids are unique within an answer, legal everywhere, and the same when the stream is read again."""
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
def test_41_a_stop_behind_a_call_asks_for_it_and_nothing_else_does(word: str, reason: FinishReason) -> None:
    """A later chunk with STOP and an empty text ends a call's turn; other reasons keep their meaning."""
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
def test_79_finish_reasons(word: str, reason: FinishReason) -> None:
    """Each reason has its meaning, and stays readable as it was."""
    finish = fold(told(chunk({"text": "x"}), chunk(finish=word))).candidates[0].finish
    assert (finish.reason, finish.native) == (reason, word)


def test_a_call_that_went_wrong_before_anything_was_said_is_a_failure_that_may_be_tried_again() -> None:
    """MALFORMED_FUNCTION_CALL alone is no answer, streamed or not."""
    malformed = chunk(finish="MALFORMED_FUNCTION_CALL")
    events = told(malformed)
    assert len(events) == 1
    assert isinstance(failure(events), UpstreamFailed)
    assert failure(events).retryable
    with pytest.raises(UpstreamFailed):
        whole(malformed)


def test_a_lost_signature_is_the_requests_fault() -> None:
    """MISSING_THOUGHT_SIGNATURE is a refusal of the request with its status."""
    error = failure(told(chunk(finish="MISSING_THOUGHT_SIGNATURE")))
    assert isinstance(error, UpstreamRefused)
    assert error.status == 400


def test_80_usage_adds_up() -> None:
    """Thoughts are inside the output and tool prompts inside the input; the last snapshot counts."""
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


def test_84_grounding_becomes_citations_in_code_points() -> None:
    """Byte offsets over Japanese text become code points of the text part, each source a citation."""
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
def test_grounding_that_cannot_be_read_is_passed_over(indices: Any) -> None:
    """An answer is worth more than what it is said to be taken from."""
    support = {"segment": {"endIndex": 2}, "groundingChunkIndices": indices}
    grounded = chunk({"text": "so"}, finish="STOP")
    grounded["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://a.example"}}],
        "groundingSupports": [support, {**support, "groundingChunkIndices": [0]}],
    }
    part = fold(told(grounded)).candidates[0].parts[0]
    assert isinstance(part, Text)
    assert [citation.url for citation in part.citations] == ["https://a.example"]


def test_84_grounding_of_a_whole_answer_counts_from_its_part() -> None:
    """In a whole answer offsets count within the part that is named, whatever stands before and behind it."""
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


def test_86_a_blocked_prompt_is_an_answer_without_content() -> None:
    """No candidates but a block reason: filtered, with the reason's word, and no error."""
    answer = fold(read(wire("blocked_prompt.sse")))
    (candidate,) = answer.candidates
    assert (candidate.parts, candidate.finish.reason) == ((), FinishReason.CONTENT_FILTER)
    assert candidate.finish.native == "PROHIBITED_CONTENT"
    assert answer.usage.input == 7


def test_pictures_sounds_and_what_we_have_no_word_for() -> None:
    """A picture is whole, a sound is joined from its pieces, code that was run stays as it is."""
    picture, sound, code, result = fold(read(wire("pictures_and_sound.sse"))).candidates[0].parts
    assert picture == Media(kind="image", source=InlineData(data="iVBORw0KGgo="), media_type="image/png")
    assert isinstance(sound, Media)
    assert (sound.kind, sound.source) == ("audio", InlineData(data="AAECAwQ="))
    assert isinstance(code, Opaque)
    assert (code.kind, code.data["executableCode"]["code"]) == ("executableCode", "print(1)")
    assert isinstance(result, Opaque)
    assert result.kind == "codeExecutionResult"


def test_a_signature_on_an_empty_text_is_kept_on_its_own_text() -> None:
    """A signed empty text in the last chunk stays a part, because it must go back where it was."""
    said, signed = fold(read(wire("signed_text.sse"))).candidates[0].parts
    assert said == Text(text="Done.")
    assert isinstance(signed, Text)
    assert (signed.text, signed.seals[0].data) == ("", "dGV4dHNpZw==")


def test_74_two_candidates_keep_apart() -> None:
    """Interleaved candidates have their own parts, finishes and probabilities."""
    first, second = fold(read(wire("two_candidates.sse"))).candidates
    assert first.parts == (Text(text="one more"),)
    assert second.parts == (Text(text="two words"),)
    assert (first.finish.reason, second.finish.reason) == (FinishReason.STOP, FinishReason.LENGTH)
    (token,) = first.logprobs
    assert (token.token, token.logprob, [other.token for other in token.top]) == ("one", -0.5, ["one", "x"])


def test_arguments_in_pieces_are_one_call() -> None:
    """Values that come with the path of their place make the call's arguments, texts going on where they stopped."""

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


def test_texts_in_pieces_go_on_where_they_stopped() -> None:
    """A text that comes in many pieces, others in between, is their sum; another value takes the place of a text."""
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
def test_pieces_without_a_place_end_the_stream(path: str) -> None:
    """A path that leads nowhere breaks the protocol."""
    pieces = [{"jsonPath": "$.s", "stringValue": "x"}, {"jsonPath": path, "stringValue": "x"}]
    events = told(chunk({"functionCall": {"name": "f", "partialArgs": pieces, "willContinue": True}}))
    assert isinstance(failure(events), UpstreamProtocolError)


def test_pieces_far_behind_each_other_end_the_stream() -> None:
    """A few words cannot fill the memory with the empty places between them, in however many lists."""
    pieces = [{"jsonPath": f"$.a{number}[60000]", "numberValue": 1} for number in range(2)]
    events = told(chunk({"functionCall": {"name": "f", "partialArgs": pieces, "willContinue": True}}))
    assert isinstance(failure(events), UpstreamProtocolError)


def test_custom_tools_and_rewritten_names_are_found_again() -> None:
    """A free-text tool that went as a function comes back as free text, and a rewritten name as the caller's."""
    outgoing = plain_outgoing(names={"up_name": "ns.read"}, emulated=frozenset({"patch"}))
    calls = chunk(
        {"functionCall": {"name": "patch", "args": {"input": "*** x\n"}}}, {"functionCall": {"name": "up_name"}}
    )
    first, second = fold(told(calls, chunk(finish="STOP"), outgoing=outgoing)).tool_calls
    assert (first.kind, first.arguments) == ("custom", "*** x\n")
    assert second.name == "ns.read"


def test_94_an_error_in_the_stream_is_told_as_such() -> None:
    """An error chunk ends the stream with the error that its code means; nothing follows."""
    events = read(wire("error_midway.sse"))
    assert isinstance(failure(events), UpstreamOverloaded)
    limited = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down"}}
    assert isinstance(failure(told(limited)), UpstreamRateLimited)
    assert not any(isinstance(event, Started) for event in told(limited))


@pytest.mark.parametrize("name", ["cut.sse"])
def test_95_a_stream_that_just_stops_has_failed(name: str) -> None:
    """Without a finish reason nothing is complete."""
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
def test_96_what_cannot_be_read_ends_the_stream(data: bytes) -> None:
    """Rubbish is a failure of the upstream in one event, and what comes later is not looked at."""
    decoder = OUTBOUND.decoder(plain_outgoing(), upstream())
    events = drained(decoder, [data])
    assert isinstance(failure(events), UpstreamProtocolError)
    assert decoder.feed(events_bytes(chunk({"text": "x"}, finish="STOP"))).events == ()
    assert decoder.close().events == ()


@given(st.lists(st.binary(max_size=40), max_size=4), st.sampled_from([b"", b"data: ", b"[", b'data: {"candidates":[{']))
def test_no_bytes_break_the_decoder(pieces: list[bytes], start: bytes) -> None:
    """Whatever comes, the row is legal and ends exactly once."""
    events = drained(OUTBOUND.decoder(plain_outgoing(), upstream()), [start, *pieces])
    checked(events)
    assert isinstance(events[-1], Ended | Failed)


def test_an_event_has_a_limit() -> None:
    """A chunk longer than allowed ends the stream, in both framings."""
    to = upstream()
    small = type(to)(provider="google", model="m", asked="asked", issuer="gemini", max_event=100)
    for data in (b"data: " + b"x" * 200, b'["' + b"x" * 200):
        assert isinstance(failure(read(data, to=small)), UpstreamProtocolError)


def whole(answer: Any) -> Response:
    import json

    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return OUTBOUND.decode(body, plain_outgoing(), upstream(), received_at=RECEIVED_AT)


def test_a_whole_answer_says_the_same_as_its_stream() -> None:
    """A whole answer is read like a stream of one chunk, and dated when it arrives."""
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
def test_96_a_whole_answer_that_is_none(body: bytes) -> None:
    """What is no answer is a failure of the upstream, and none of its bytes are repeated."""
    with pytest.raises(UpstreamProtocolError) as refused:
        whole(body)
    assert "html" not in str(refused.value)


def test_an_error_in_a_whole_answer() -> None:
    """An error object with status 200 is the error that it says."""
    with pytest.raises(UpstreamOverloaded):
        whole({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}})


def test_sealed_parts_are_restated_whole() -> None:
    """Whoever keeps sealed parts finds them whole at their end."""
    ended = [event.part for event in read(wire("signed_text.sse")) if isinstance(event, PartEnded) and event.part]
    assert [part.seals[0].data for part in ended] == ["dGV4dHNpZw=="]
