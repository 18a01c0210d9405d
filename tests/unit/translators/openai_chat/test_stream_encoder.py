"""Our streams, read by the official client."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given, settings

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Candidate,
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
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Seal,
    SealDelta,
    ServiceTier,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamOverloaded
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.seals import unwrap
from support.conversations import event_rows
from support.wires.openai_chat import INBOUND, accumulated, chunks, inbound_request

BEGAN = datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC)
STARTED = Started("chatcmpl-1", "big-1", BEGAN)


def stream(events: Sequence[StreamEvent], *, split: bool = False, **request: Any) -> bytes:
    """The bytes of these events, fed at once or one by one."""
    encoder = INBOUND.encoder(inbound_request(stream=True, **request))
    return b"".join(encoder.feed([event]) for event in events) if split else encoder.feed(events)


def part(index: int, head: Part, *deltas: Any, candidate: int = 0, whole: Part | None = None) -> list[StreamEvent]:
    """The events of one part."""
    return [
        PartStarted(candidate, index, head),
        *(PartDelta(candidate, index, each) for each in deltas),
        PartEnded(candidate, index, whole),
    ]


def ending(reason: FinishReason = FinishReason.STOP, **finish: Any) -> list[StreamEvent]:
    """The events of a good end."""
    return [Finished(0, Finish(reason=reason, **finish)), Ended()]


ASKING: dict[str, Any] = {"stream_options": {"include_usage": True}}
HELLO: list[StreamEvent] = [STARTED, *part(0, Text(text=""), TextDelta("Hel"), TextDelta("lo")), *ending()]


def test_a_plain_answer_reads_as_it_was_told() -> None:
    """Text, finish, id, time and the asked model name reach the client's accumulator."""
    found = accumulated(stream(HELLO))
    assert found.choices[0].message.content == "Hello"
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason == "stop"
    assert (found.id, found.created, found.model) == ("chatcmpl-1", int(BEGAN.timestamp()), "smart")


def test_the_last_line_is_done_and_keepalives_do_not_disturb() -> None:
    """A comment between frames is invisible to the client, and the stream ends with [DONE]."""
    frames = stream(HELLO).split(b"\n\n")
    content = b"".join(INBOUND.keepalive + frame + b"\n\n" for frame in frames if frame)
    assert content.endswith(b"data: [DONE]\n\n")
    assert accumulated(content).choices[0].message.content == "Hello"


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not asked"])
def test_usage_is_the_last_chunk_and_only_if_asked(asked: bool) -> None:
    """The usage chunk has no choices and stands last; the other chunks carry null only if it was asked for."""
    usage = Usage(input=10, output=5, cache_read=4, reasoning=2)
    row = [*HELLO[:-1], UsageReported(Usage(input=1)), UsageReported(usage), Ended()]
    found = chunks(stream(row, **(ASKING if asked else {})))
    if not asked:
        assert all(each.choices for each in found)
        assert b'"usage"' not in stream(row)
        return
    last = found[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (10, 5, 15)
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 4
    assert last.usage.completion_tokens_details is not None
    assert last.usage.completion_tokens_details.reasoning_tokens == 2
    assert all(each.usage is None for each in found[:-1])
    assert accumulated(stream(row, **ASKING)).usage == last.usage


def test_two_calls_behind_a_text_have_indexes_0_and_1() -> None:
    """Id and name go out once, interleaved arguments stay apart, and the accumulator has both calls."""
    calls = [ToolCall(call_id=f"call_{name}", name=name) for name in ("first", "second")]
    row: list[StreamEvent] = [
        STARTED,
        *part(0, Text(text=""), TextDelta("Let me see.")),
        PartStarted(0, 1, calls[0]),
        PartDelta(0, 1, ArgumentsDelta('{"a"')),
        PartStarted(0, 2, calls[1]),
        PartDelta(0, 2, ArgumentsDelta('{"b":')),
        PartDelta(0, 1, ArgumentsDelta(":1}")),
        PartDelta(0, 2, ArgumentsDelta("2}")),
        PartEnded(0, 1),
        PartEnded(0, 2),
        *ending(FinishReason.TOOL_CALLS),
    ]
    choice = accumulated(stream(row)).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.tool_calls is not None
    told = [
        (each.id, each.function.name, each.function.arguments)
        for each in choice.message.tool_calls
        if each.type == "function"
    ]
    assert told == [("call_first", "first", '{"a":1}'), ("call_second", "second", '{"b":2}')]


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    """Where no argument came the client reads {}."""
    row = [STARTED, *part(0, ToolCall(call_id="c", name="f")), *ending(FinishReason.TOOL_CALLS)]
    calls = accumulated(stream(row)).choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.arguments == "{}"


def test_a_custom_call_streams_as_custom() -> None:
    """Free text goes in the custom call's input, unescaped but for JSON."""
    head = ToolCall(call_id="c", name="patch", kind="custom")
    row = [
        STARTED,
        *part(0, head, ArgumentsDelta("*** Begin\n"), ArgumentsDelta("{")),
        *ending(FinishReason.TOOL_CALLS),
    ]
    found = [
        each.choices[0].delta.tool_calls[0].model_dump()
        for each in chunks(stream(row))
        if each.choices and each.choices[0].delta.tool_calls
    ]
    assert found[0]["type"] == "custom"
    assert found[0]["custom"] == {"name": "patch", "input": ""}
    assert "".join(each["custom"]["input"] for each in found) == "*** Begin\n{"


def test_callers_with_functions_get_a_function_call() -> None:
    """Who declared `functions` reads message.function_call and its own finish word."""
    row = [
        STARTED,
        *part(0, ToolCall(call_id="c", name="f"), ArgumentsDelta("{}")),
        *ending(FinishReason.TOOL_CALLS),
    ]
    found = accumulated(stream(row, functions=[{"name": "f"}])).choices[0]
    assert found.finish_reason == "function_call"
    assert found.message.function_call is not None
    assert (found.message.function_call.name, found.message.function_call.arguments) == ("f", "{}")
    assert found.message.tool_calls is None


def test_reasoning_is_readable_and_sealed() -> None:
    """Reasoning goes as text, and by part with its wrapped seal under an integer index."""
    seal = Seal(issuer="anthropic", kind="signature", data="c2VhbA==")
    redacted = Seal(issuer="anthropic", kind="redacted", data="aGlkZGVu")
    row = [
        STARTED,
        *part(0, Reasoning(), ReasoningDelta("I "), ReasoningDelta("think"), SealDelta(seal)),
        *part(1, Reasoning(redacted=True, seals=(redacted,))),
        *part(2, Text(text=""), TextDelta("Done")),
        *ending(),
    ]
    message = accumulated(stream(row)).choices[0].message.model_dump()
    assert message["reasoning_content"] == "I think"
    first, second = message["reasoning_details"]
    assert (first["index"], first["type"], first["text"]) == (0, "reasoning.text", "I think")
    assert unwrap(first["signature"]) == seal
    assert (second["index"], second["type"]) == (1, "reasoning.encrypted")
    assert unwrap(second["data"]) == redacted


def test_the_seal_of_a_call_is_told_in_both_places_that_clients_keep() -> None:
    """A Gemini call's state is in extra_content, native, and in reasoning_details, wrapped."""
    seal = Seal(issuer="gemini", kind="signature", data="c2ln")
    head = ToolCall(call_id="call_1", name="f", seals=(seal,))
    row = [STARTED, *part(0, head, ArgumentsDelta("{}")), *ending(FinishReason.TOOL_CALLS)]
    message = accumulated(stream(row)).choices[0].message.model_dump()
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert message["reasoning_details"][0]["id"] == "call_1"
    assert unwrap(message["reasoning_details"][0]["data"]) == seal


def test_refusals() -> None:
    """Refusal parts stay refusals; an explanation becomes one only where nothing else was said."""
    said = [STARTED, *part(0, Refusal(text=""), RefusalDelta("No.")), *ending(FinishReason.REFUSAL)]
    found = accumulated(stream(said)).choices[0]
    assert (found.message.refusal, found.finish_reason) == ("No.", "stop")
    silent = accumulated(stream([STARTED, *ending(FinishReason.REFUSAL, message="Not that.")])).choices[0]
    assert (silent.message.refusal, silent.finish_reason) == ("Not that.", "stop")
    broken_off = [*HELLO[:-2], *ending(FinishReason.REFUSAL, message="Not that.")]
    found = accumulated(stream(broken_off)).choices[0]
    assert (found.message.content, found.message.refusal, found.finish_reason) == ("Hello", None, "content_filter")


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.STOP_SEQUENCE, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.CONTEXT_LENGTH, "length"),
        (FinishReason.CONTENT_FILTER, "content_filter"),
        (FinishReason.PAUSE, "stop"),
        (FinishReason.UNKNOWN, "stop"),
    ],
)
def test_every_finish_has_its_word(reason: FinishReason, word: str) -> None:
    """Each finish reason is encoded in the client's terms."""
    assert accumulated(stream([*HELLO[:-2], *ending(reason)])).choices[0].finish_reason == word


def test_citations_count_code_points_of_the_whole_message() -> None:
    """Spans within a part become spans within the message, and all annotations come in one chunk."""
    row = [
        STARTED,
        *part(0, Text(text=""), TextDelta("日本語🙂")),
        *part(
            1,
            Text(text=""),
            TextDelta("Köln"),
            CitationDelta(Citation(url="https://a", title="A", start=0, end=4)),
            CitationDelta(Citation(url="https://b")),
            CitationDelta(Citation(kind="document", source="doc")),
        ),
        *ending(),
    ]
    content = stream(row)
    assert content.count(b'"annotations"') == 1
    annotations = accumulated(content).choices[0].message.annotations
    assert annotations is not None
    told = [(each.url_citation.url, each.url_citation.start_index, each.url_citation.end_index) for each in annotations]
    assert told == [("https://a", 4, 8), ("https://b", 4, 8)]


def test_two_candidates_choice_0_first() -> None:
    """The first chunk is of choice 0 even if candidate 1 speaks first, and both are read."""
    row: list[StreamEvent] = [
        STARTED,
        *part(0, Text(text=""), TextDelta("one"), candidate=1),
        *part(0, Text(text=""), TextDelta("zero")),
        Finished(1, Finish(reason=FinishReason.STOP)),
        Finished(0, Finish(reason=FinishReason.LENGTH)),
        Ended(),
    ]
    found = accumulated(stream(row, n=2)).choices
    assert [(each.index, each.message.content, each.finish_reason) for each in found] == [
        (0, "zero", "length"),
        (1, "one", "stop"),
    ]


def test_overlapping_texts_do_not_mix() -> None:
    """A text part that begins before another has ended waits for it."""
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, Text(text="")),
        PartDelta(0, 0, TextDelta("a")),
        PartStarted(0, 1, Text(text="")),
        PartDelta(0, 1, TextDelta("x")),
        PartDelta(0, 0, TextDelta("b")),
        PartEnded(0, 0),
        PartDelta(0, 1, TextDelta("y")),
        PartEnded(0, 1),
        *ending(),
    ]
    assert accumulated(stream(row)).choices[0].message.content == "abxy"


def test_logprobs_are_accumulated() -> None:
    """Probabilities reach the client with the bytes of their tokens."""
    token = TokenLogprob(token="é", logprob=-0.5, top=(TokenLogprob(token="e", logprob=-1.0, token_bytes=(101,)),))
    row = [STARTED, *part(0, Text(text=""), TextDelta("é"), LogprobsDelta((token,))), *ending()]
    found = accumulated(stream(row)).choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert (found.content[0].token, found.content[0].bytes, found.content[0].logprob) == ("é", [195, 169], -0.5)
    assert found.content[0].top_logprobs[0].bytes == [101]


def test_pictures_and_sounds() -> None:
    """A picture comes whole in `images`, a sound piece by piece in `audio`, its id once."""
    picture = Media(kind="image", source=InlineData(data="iVBORw0KGgo="), media_type="image/png")
    sound = Media(kind="audio", source=InlineData(data=""), id="audio_1")
    row = [
        STARTED,
        *part(0, picture, whole=picture),
        *part(1, sound, MediaDelta("AAAA", "he"), MediaDelta("BBBB", "llo")),
        *ending(),
    ]
    message = accumulated(stream(row)).choices[0].message.model_dump()
    assert message["images"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="
    assert (message["audio"]["id"], message["audio"]["data"], message["audio"]["transcript"]) == (
        "audio_1",
        "AAAABBBB",
        "hello",
    )


def test_the_service_tier_is_translated() -> None:
    """The served tier is encoded once in the vendor's term."""
    began = Started("chatcmpl-1", "big-1", BEGAN, None, ServiceTier.STANDARD)
    row = [began, *HELLO[1:-1], UsageReported(Usage(input=1, output=1)), Ended(ServiceTier.STANDARD)]
    found = chunks(stream(row, **ASKING))
    assert {each.service_tier for each in found} == {"default"}


def test_a_failure_in_the_middle_raises_in_the_client() -> None:
    """The error event is the last thing sent: no finish, no [DONE], and the client raises with its words."""
    row = [*HELLO[:3], Failed(UpstreamOverloaded("Too busy."))]
    content = stream(row)
    assert content.endswith(b'"code":null}}\n\n')
    with pytest.raises(openai.APIError, match=r"Too busy\.") as raised:
        chunks(content)
    assert raised.value.type == "overloaded_error"
    assert (
        INBOUND.encoder(inbound_request(stream=True)).feed([Failed(UpstreamOverloaded("Too busy."))])
        == content[content.rindex(b"data: ") :]
    )


def test_nothing_follows_a_failure() -> None:
    """Events behind a failure are not written."""
    assert stream([Failed(UpstreamOverloaded("x")), *HELLO]).count(b"data: ") == 1


@settings(max_examples=60)
@given(event_rows())
def test_any_stream_reads_as_its_answer(row: list[StreamEvent]) -> None:
    """Whatever the events and their order, the client accumulates what they fold into, at once or one by one."""
    response = fold(row)
    content = stream(row, n=2)
    assert stream(row, n=2, split=True) == content
    found = accumulated(content)
    assert [choice.index for choice in found.choices] == [each.index for each in response.candidates]
    for choice, candidate in zip(found.choices, response.candidates, strict=True):
        texts = "".join(each.text for each in candidate.parts if isinstance(each, Text))
        assert (choice.message.content or "") == texts
        refusals = "".join(each.text for each in candidate.parts if isinstance(each, Refusal))
        assert (choice.message.refusal or "") == (refusals or _explained(candidate.finish, texts))
        calls = [each.model_dump() for each in choice.message.tool_calls or ()]
        assert [_told(call) for call in calls] == [
            (part.call_id, part.name, part.arguments or ("" if part.kind == "custom" else "{}"))
            for part in _calls_by_start(row, candidate)
        ]
    assert msgspec.json.decode(content.split(b"\n\n")[0].removeprefix(b"data: "))["model"] == "smart"


def _explained(finish: Finish, texts: str) -> str:
    return (finish.message or "") if finish.reason is FinishReason.REFUSAL and not texts else ""


def _told(call: dict[str, Any]) -> tuple[str, str, str]:
    inner = call.get("custom") or call["function"]
    return call["id"], inner["name"], inner["input"] if "input" in inner else inner["arguments"]


def _calls_by_start(row: Sequence[StreamEvent], candidate: Candidate) -> list[ToolCall]:
    """The calls of a candidate in the order in which they began."""
    begun = [each.index for each in row if isinstance(each, PartStarted) and each.candidate == candidate.index]
    found = [candidate.parts[index] for index in begun]
    return [each for each in found if isinstance(each, ToolCall)]


def test_seals_that_come_late_are_told_without_breaking_the_client() -> None:
    """A call's seal behind its start comes with an empty piece of arguments, as the client insists."""
    seal = Seal(issuer="gemini:vertex", kind="signature", data="c2ln")
    head = ToolCall(call_id="call_1", name="f")
    for deltas, whole in (
        ((ArgumentsDelta("{}"), SealDelta(seal)), None),
        ((ArgumentsDelta("{}"),), ToolCall(call_id="call_1", name="f", arguments="{}", seals=(seal,))),
    ):
        row = [STARTED, *part(0, head, *deltas, whole=whole), *ending(FinishReason.TOOL_CALLS)]
        call = accumulated(stream(row)).choices[0].message.model_dump()["tool_calls"][0]
        assert unwrap(call["extra_content"]["google"]["thought_signature"]) == seal
        assert call["function"]["arguments"] == "{}"


def test_parts_that_are_told_only_at_their_end() -> None:
    """What no delta said is taken from the part that is restated whole."""
    seal = Seal(issuer="anthropic", kind="signature", data="s")
    row = [
        STARTED,
        *part(0, Reasoning(style="summary"), whole=Reasoning(text="hm", style="summary", seals=(seal,))),
        *part(1, Text(text=""), whole=Text(text="Hello")),
        *part(2, ToolCall(call_id="c", name="f"), whole=ToolCall(call_id="c", name="f", arguments='{"a":1}')),
        *ending(FinishReason.TOOL_CALLS),
    ]
    message = accumulated(stream(row)).choices[0].message.model_dump()
    assert message["content"] == "Hello"
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    (entry,) = message["reasoning_details"]
    assert (entry["type"], entry["summary"], unwrap(entry["signature"])) == ("reasoning.summary", "hm", seal)


def test_sound_that_comes_whole_and_pictures_that_come_in_pieces() -> None:
    """Audio is encoded once in any form; an image is encoded when it is complete."""
    sound = Media(kind="audio", source=InlineData(data="AAAA"), id="audio_1", transcript="hi")
    picture = Media(kind="image", source=InlineData(data=""), media_type="image/webp")
    words_first = Media(kind="audio", source=InlineData(data=""), id="audio_2")
    row = [STARTED, *part(0, sound), *part(1, picture, MediaDelta("AA"), MediaDelta("BB")), *ending()]
    message = accumulated(stream(row)).choices[0].message.model_dump()
    assert (message["audio"]["id"], message["audio"]["data"], message["audio"]["transcript"]) == (
        "audio_1",
        "AAAA",
        "hi",
    )
    assert message["images"][0]["image_url"]["url"] == "data:image/webp;base64,AABB"
    row = [STARTED, *part(0, words_first, MediaDelta("", "he"), MediaDelta("AA", "y")), *ending()]
    assert accumulated(stream(row)).choices[0].message.model_dump()["audio"]["id"] == "audio_2"


def test_candidate_1_alone_still_lets_choice_0_begin() -> None:
    """A stream whose first words are of candidate 1 starts with choice 0, also without a start of its own."""
    row: list[StreamEvent] = [*part(0, Text(text="x"), candidate=1), Finished(1, Finish(reason=FinishReason.STOP))]
    assert [each.choices[0].index for each in chunks(stream(row))][:2] == [0, 1]


def test_a_tier_that_is_known_only_at_the_end() -> None:
    """The served tier is encoded with the usage if the start did not have it."""
    row = [*HELLO[:-1], UsageReported(Usage(input=1)), Ended(ServiceTier.PRIORITY)]
    assert chunks(stream(row, **ASKING))[-1].service_tier == "priority"
