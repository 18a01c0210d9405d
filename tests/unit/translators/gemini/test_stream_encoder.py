"""Encode streams and responses for Google's clients; Google's own SDK reads them."""

import json
from collections.abc import Sequence

import pytest
from google.genai import errors as sdk_errors
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    UNDATED,
    ArgumentsDelta,
    Citation,
    CitationDelta,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    LogprobsDelta,
    Media,
    MediaDelta,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
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
    TokenLogprob,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamOverloaded, UpstreamRateLimited
from llmproxy_asgi.translators.assemble import fold, unfold
from llmproxy_asgi.translators.seals import unwrap
from support.conversations import broken_rows, event_rows, responses
from support.wires.gemini import (
    INBOUND,
    answered_by_sdk,
    chunks_of,
    opened,
    read,
    sdk,
    streamed_by_sdk,
    wire,
    written,
)

START = Started("r1", "m", UNDATED)
FOREIGN = Seal(issuer="anthropic", kind="signature", data="EqQB/sig==", model="claude")


def ending(reason: FinishReason = FinishReason.STOP, usage: Usage | None = None) -> list[StreamEvent]:
    reported = [UsageReported(usage)] if usage else []
    return [Finished(0, Finish(reason=reason)), *reported, Ended()]


def text(index: int, *pieces: str) -> list[StreamEvent]:
    deltas = [PartDelta(0, index, TextDelta(piece)) for piece in pieces]
    return [PartStarted(0, index, Text(text="")), *deltas, PartEnded(0, index)]


def thought(index: int, words: str, *seals: Seal) -> list[StreamEvent]:
    whole = Reasoning(text=words, seals=seals)
    said = [PartDelta(0, index, ReasoningDelta(words))] if words else []
    sealed = [PartDelta(0, index, SealDelta(seal)) for seal in seals]
    return [PartStarted(0, index, Reasoning()), *said, *sealed, PartEnded(0, index, whole)]


def call(index: int, call_id: str, arguments: str = "{}", *seals: Seal) -> list[StreamEvent]:
    whole = ToolCall(call_id=call_id, name="f", arguments=arguments, seals=seals)
    return [
        PartStarted(0, index, ToolCall(call_id=call_id, name="f")),
        PartDelta(0, index, ArgumentsDelta(arguments)),
        PartEnded(0, index, whole),
    ]


def parts_of(events: Sequence[StreamEvent]) -> list[dict[str, object]]:
    return [part for found in chunks_of(written(events)) for part in found["candidates"][0]["content"]["parts"]]


def test_the_sdk_reads_text_thoughts_and_calls() -> None:
    """Encode a stream with every common part so that Google's client reads all of it."""
    chunks = streamed_by_sdk(written(read(wire("thoughts_and_calls.sse"))))
    parts = [part for found in chunks for part in found.candidates[0].content.parts]
    assert "".join(part.text for part in parts if part.thought) == "Two cities, two calls."
    assert "".join(found.text or "" for found in chunks) == "I look it up. 😀 東京"
    first, second = (part for part in parts if part.function_call)
    assert (first.function_call.id, first.function_call.name) == ("fc_1", "weather")
    assert first.function_call.args == {"city": "Köln", "days": 1}
    assert (first.thought_signature, second.thought_signature) == (b"signature+/", None)
    last = chunks[-1]
    assert last.candidates[0].finish_reason == "STOP"
    assert {found.model_version for found in chunks} == {"asked"}
    assert {found.response_id for found in chunks} == {"Wire1"}
    usage = last.usage_metadata
    assert (usage.prompt_token_count, usage.cached_content_token_count, usage.total_token_count) == (10, 4, 15)
    assert (usage.candidates_token_count, usage.thoughts_token_count) == (3, 2)


def test_a_chat_of_the_sdk_keeps_streamed_responses() -> None:
    """Let Google's chat helper add a streamed response to its history and next request."""
    with sdk(written(read(wire("thoughts_and_calls.sse")))) as client:
        chat = client.chats.create(model="asked")
        for _ in chat.send_message_stream("Hi"):
            pass
        history = chat.get_history(curated=True)
    assert [content.role for content in history][:2] == ["user", "model"]
    sent = {"contents": [content.model_dump(exclude_none=True, mode="json") for content in history]}
    asked = INBOUND.decode(opened(sent))
    user, answer = asked.messages
    assert user.parts == (Text(text="Hi"),)
    kept, said, first, second = answer.parts
    assert isinstance(kept, Reasoning)
    assert said == Text(text="I look it up. 😀 東京")
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert first.seals[0].data == "c2lnbmF0dXJlKy8="
    assert first.call_id == "fc_1"


def test_only_data_lines_and_blank_ones() -> None:
    """Write only data lines and blank lines: Google's client fails on others."""
    stream = written(read(wire("thoughts_and_calls.sse")))
    lines = stream.split(b"\n")
    assert all(not line or line.startswith(b"data: {") for line in lines)
    kept_alive = INBOUND.keepalive + INBOUND.keepalive.join(piece + b"\n\n" for piece in stream.split(b"\n\n")[:-1])
    assert [found.text for found in streamed_by_sdk(kept_alive)] == [found.text for found in streamed_by_sdk(stream)]


def test_without_alt_sse_the_response_is_an_array() -> None:
    """Write the same chunks as a JSON array that parses complete and in pieces."""
    events = read(wire("thoughts_and_calls.sse"))
    encoder = INBOUND.encoder(opened(stream=True, alt="json"))
    pieces = [encoder.feed([event]) for event in events]
    whole = b"\n".join(pieces)
    assert json.loads(whole) == chunks_of(written(events))
    first = {"text": "Two cities, ", "thought": True}
    assert pieces[1] == b""
    assert json.loads(pieces[2] + b"]")[0]["candidates"][0]["content"]["parts"] == [first]


@pytest.mark.parametrize("said", [True, False])
def test_any_encoder_can_end_the_array(said: bool) -> None:
    """Continue the array in an encoder that only writes a failure."""
    inbound_request = opened(stream=True, alt="json")
    begun = INBOUND.encoder(inbound_request).feed([START, *text(0, "Hel")]) if said else b""
    ended = INBOUND.encoder(inbound_request).feed([Failed(UpstreamOverloaded("busy"))])
    found = json.loads(begun + ended)
    assert found[-1]["error"]["status"] == "UNAVAILABLE"
    assert len(found) == 1 + said


def test_the_sdk_raises_for_an_error_in_the_stream() -> None:
    """Let Google's client raise code and status of an error after the first text."""
    stream = written([START, *text(0, "Hel"), Failed(UpstreamOverloaded("busy"))])
    with pytest.raises(sdk_errors.ServerError) as raised:
        streamed_by_sdk(stream)
    assert (raised.value.code, raised.value.status, raised.value.message) == (503, "UNAVAILABLE", "busy")
    limited = written([Failed(UpstreamRateLimited("wait", retry_after=2.5))])
    with pytest.raises(sdk_errors.ClientError) as refused:
        streamed_by_sdk(limited)
    assert refused.value.code == 429


def test_nothing_follows_a_failure() -> None:
    """Write the error as the last chunk."""
    stream = written([START, Failed(UpstreamOverloaded("busy")), *text(0, "more"), Ended()])
    assert [next(iter(found)) for found in chunks_of(stream)] == ["error"]


def test_text_is_written_at_once() -> None:
    """Write each piece of text as a chunk at once, and a call at its end."""
    encoder = INBOUND.encoder(opened(stream=True))
    assert encoder.feed([START, PartStarted(0, 0, Text(text=""))]) == b""
    assert [
        found["candidates"][0]["content"]["parts"]
        for found in chunks_of(encoder.feed([PartDelta(0, 0, TextDelta("Hel")), PartDelta(0, 0, TextDelta(""))]))
    ] == [[{"text": "Hel"}]]
    assert encoder.feed([PartEnded(0, 0), *call(1, "c1", '{"a":')[:2]]) == b""


def test_overlapping_parts_are_written_in_their_order() -> None:
    """Queue a call that ends within a text, and a second text."""
    row: list[StreamEvent] = [START, PartStarted(0, 0, Text(text="")), *call(1, "c1"), PartStarted(0, 2, Text(text=""))]
    row += [PartDelta(0, 2, TextDelta("b")), PartDelta(0, 0, TextDelta("a")), PartEnded(0, 0)]
    row += [PartDelta(0, 2, TextDelta("c")), PartEnded(0, 2), *ending(FinishReason.TOOL_CALLS)]
    kinds = [part.get("text", "call") for part in parts_of(row)]
    assert kinds == ["a", "call", "b", "c", ""]


def test_foreign_state_is_on_the_next_part() -> None:
    """Wrap another vendor's signature in valid base64 and put it on the call after the thought."""
    row = [START, *thought(0, "hm", FOREIGN), *call(1, "c1"), *call(2, "c2"), *ending(FinishReason.TOOL_CALLS)]
    shown, first, second, _ = parts_of(row)
    assert shown == {"text": "hm", "thought": True}
    assert "thoughtSignature" not in second
    assert unwrap(str(first["thoughtSignature"])) == FOREIGN
    chunks = streamed_by_sdk(written(row))
    assert chunks[1].candidates[0].content.parts[0].thought_signature is not None


def test_several_seals_find_their_places() -> None:
    """Write redacted state and signatures in order; use an empty text for one without a part."""
    redacted = Seal(issuer="anthropic", kind="redacted", data="Emw=")
    hidden: list[StreamEvent] = [
        PartStarted(0, 1, Reasoning(redacted=True)),
        PartDelta(0, 1, SealDelta(redacted)),
        PartEnded(0, 1, Reasoning(redacted=True, seals=(redacted,))),
    ]
    row = [START, *thought(0, "hm", FOREIGN), *hidden, *text(2, "So", " be it"), *ending()]
    shown, bare, said, more, last = parts_of(row)
    assert shown == {"text": "hm", "thought": True}
    assert bare["text"] == ""
    assert unwrap(str(bare["thoughtSignature"])) == FOREIGN
    assert unwrap(str(said["thoughtSignature"])) == redacted
    assert (said["text"], more, last) == ("So", {"text": " be it"}, {"text": ""})


def test_state_at_the_end_stands_in_the_last_chunk() -> None:
    """Put the state of a last thought on an empty text in the last chunk."""
    (last,) = chunks_of(written([START, *thought(0, "", FOREIGN), *ending()]))
    (part,) = last["candidates"][0]["content"]["parts"]
    assert unwrap(part["thoughtSignature"]) == FOREIGN
    assert last["candidates"][0]["finishReason"] == "STOP"


def test_citations_become_grounding_in_bytes() -> None:
    """Convert spans in code points to UTF-8 bytes from the response's first text, in the last chunk."""
    cited = Citation(url="https://example.org/a", title="A", start=1, end=2)
    row = [START, *text(0, "東京。"), PartStarted(0, 1, Text(text="")), PartDelta(0, 1, TextDelta("京都"))]
    row += [PartDelta(0, 1, CitationDelta(cited)), PartEnded(0, 1), *ending()]
    grounding = chunks_of(written(row))[-1]["candidates"][0]["groundingMetadata"]
    assert grounding["groundingChunks"] == [{"web": {"uri": "https://example.org/a", "title": "A"}}]
    (support,) = grounding["groundingSupports"]
    assert support == {"segment": {"startIndex": 12, "endIndex": 15, "text": "都"}, "groundingChunkIndices": [0]}


@pytest.mark.parametrize("streamed", [True, False])
def test_grounding_comes_back(streamed: bool) -> None:
    """Encode citations for a client and decode the same ones as an upstream's."""
    answer = fold(read(wire("grounded.sse")))
    if streamed:
        again = fold(read(written(list(unfold(answer)))))
    else:
        from support.wires.gemini import OUTBOUND, RECEIVED_AT, plain_upstream_request, upstream

        body = INBOUND.encode(answer, opened())
        again = OUTBOUND.decode(body, plain_upstream_request(), upstream(), received_at=RECEIVED_AT)
    assert again.candidates[0].parts == answer.candidates[0].parts


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (FinishReason.STOP_SEQUENCE, "STOP"),
        (FinishReason.TOOL_CALLS, "STOP"),
        (FinishReason.CONTEXT_LENGTH, "MAX_TOKENS"),
        (FinishReason.REFUSAL, "SAFETY"),
        (FinishReason.PAUSE, "CONTINUATION"),
        (FinishReason.MALFORMED_CALL, "MALFORMED_FUNCTION_CALL"),
        (FinishReason.COMPACTION, "OTHER"),
        (FinishReason.UNKNOWN, "OTHER"),
    ],
)
def test_finish_reasons(reason: FinishReason, word: str) -> None:
    """Encode each finish reason as Google's nearest."""
    assert chunks_of(written([START, *text(0, "x"), *ending(reason)]))[-1]["candidates"][0]["finishReason"] == word


def test_a_refused_prompt_has_no_candidates() -> None:
    """Encode a filtered response without parts as a blocked prompt, and one with text as a candidate."""
    (blocked,) = chunks_of(written([START, *ending(FinishReason.CONTENT_FILTER, Usage(input=3))]))
    assert blocked["promptFeedback"] == {"blockReason": "SAFETY"}
    assert "candidates" not in blocked
    assert streamed_by_sdk(written(read(wire("blocked_prompt.sse"))))[0].prompt_feedback.block_reason == (
        "PROHIBITED_CONTENT"
    )
    said = chunks_of(written([START, *text(0, "x"), *ending(FinishReason.CONTENT_FILTER)]))[-1]
    assert said["candidates"][0]["finishReason"] == "SAFETY"


def test_refusals_are_text() -> None:
    """Encode a refusal as text with SAFETY."""
    row: list[StreamEvent] = [START, PartStarted(0, 0, Refusal(text="")), PartDelta(0, 0, RefusalDelta("No."))]
    row += [PartEnded(0, 0), *ending(FinishReason.REFUSAL)]
    chunks = streamed_by_sdk(written(row))
    assert (chunks[0].text, chunks[-1].candidates[0].finish_reason) == ("No.", "SAFETY")


def test_audio_and_images() -> None:
    """Encode media at once, joined from streamed pieces."""
    header = Media(kind="audio", source=InlineData(data=""), media_type="audio/pcm")
    row: list[StreamEvent] = [START, PartStarted(0, 0, header)]
    row += [PartDelta(0, 0, MediaDelta("AAEC")), PartDelta(0, 0, MediaDelta("AwQ=")), PartEnded(0, 0), *ending()]
    (sound, _) = parts_of(row)
    assert sound == {"inlineData": {"mimeType": "audio/pcm", "data": "AAECAwQ="}}


@pytest.mark.parametrize("alt", ["sse", "json"])
def test_undecodable_audio_is_an_error(alt: str) -> None:
    """End the stream with an error event on pieces that are not base64; keep what precedes them."""
    sound = Media(kind="audio", source=InlineData(data=""), media_type="audio/wav")
    pieces = [PartDelta(0, 1, MediaDelta(piece)) for piece in ("A=A", "BB")]
    encoder = INBOUND.encoder(opened(stream=True, alt=alt))
    out = encoder.feed([START, *text(0, "so"), PartStarted(0, 1, sound), *pieces, PartEnded(0, 1), *ending()])
    found = chunks_of(out) if alt == "sse" else json.loads(out)
    assert [next(iter(chunk)) for chunk in found] == ["candidates", "error"]
    assert found[1]["error"]["code"] == 502
    assert encoder.feed([Ended()]) == b""


def test_token_probabilities() -> None:
    """Write log probabilities in the candidate's last chunk."""
    tokens = (TokenLogprob(token="x", logprob=-0.5, top=(TokenLogprob(token="y", logprob=-1.0),)),)
    row: list[StreamEvent] = [START, PartStarted(0, 0, Text(text="x")), PartDelta(0, 0, LogprobsDelta(tokens))]
    row += [PartEnded(0, 0), *ending()]
    (found,) = streamed_by_sdk(written(row))[-1].candidates
    assert found.logprobs_result.chosen_candidates[0].log_probability == -0.5
    assert found.logprobs_result.top_candidates[0].candidates[0].token == "y"


def test_googles_own_parts_are_passed() -> None:
    """Pass Google's own chunks and parts, and drop those of other vendors."""
    row = [START, Passed("gemini", None, b'{"x":1}'), Passed("openai-chat", None, b"{}"), *text(0, "a"), *ending()]
    assert chunks_of(written(row))[0] == {"x": 1}
    code = fold(read(wire("pictures_and_sound.sse")))
    kinds = [next(iter(part)) for part in parts_of(list(unfold(code)))]
    assert kinds == ["inlineData", "inlineData", "executableCode", "codeExecutionResult", "text"]


def test_a_complete_response_is_read_by_the_sdk() -> None:
    """Let Google's client read text, calls, signature, usage and model of a complete response."""
    body = INBOUND.encode(fold(read(wire("thoughts_and_calls.sse"))), opened())
    answer = answered_by_sdk(body)
    assert answer.text == "I look it up. 😀 東京"
    assert [found.name for found in answer.function_calls] == ["weather", "now"]
    assert (answer.model_version, answer.usage_metadata.total_token_count) == ("asked", 15)
    assert answer.candidates[0].content.parts[2].thought_signature == b"signature+/"


def test_arguments_stay_on_one_line() -> None:
    """Write arguments of several lines on one line, with the same values."""
    arguments = '{\r\n "a\\n": 1.50\n}'
    stream = written([START, *call(0, "c1", arguments), *ending(FinishReason.TOOL_CALLS)])
    assert b'"args":{ "a\\n": 1.50}' in stream


@given(
    responses(kinds={"text", "reasoning", "tool_call", "refusal", "media", "citations"}).flatmap(
        lambda answer: st.tuples(st.just(answer), event_rows(answer))
    )
)
def test_any_stream_is_a_legal_one_for_the_client(drawn: tuple[Response, list[StreamEvent]]) -> None:
    """Write each candidate's text, calls, seals and finish for any events, overlapping or not, in any pieces."""
    answer, row = drawn
    found: dict[int, list[dict[str, object]]] = {}
    finished: dict[int, str] = {}
    for chunk in chunks_of(written(row)):
        for candidate in chunk.get("candidates", ()):
            found.setdefault(candidate["index"], []).extend(candidate["content"]["parts"])
            finished |= {candidate["index"]: word} if (word := candidate.get("finishReason")) else {}
    for candidate in answer.candidates:
        parts = found[candidate.index]
        words = "".join(str(part["text"]) for part in parts if "text" in part and not part.get("thought"))
        assert words == "".join(part.text for part in candidate.parts if isinstance(part, Text | Refusal))
        calls = [part["functionCall"]["id"] for part in parts if "functionCall" in part]  # type: ignore[index]
        assert calls == [part.call_id for part in candidate.parts if isinstance(part, ToolCall)]
        seals = [part for part in parts if "thoughtSignature" in part]
        assert len(seals) == sum(len(part.seals) for part in candidate.parts)
    assert finished.keys() == found.keys()


@given(broken_rows())
def test_a_stream_that_fails_says_so_last(row: list[StreamEvent]) -> None:
    """Write the error as the last chunk, as its first key, with an integer code."""
    last = chunks_of(written(row))[-1]
    assert list(last) == ["error"]
    assert isinstance(last["error"]["code"], int)
