"""Streams for callers, with the official client's stream helper as the reader."""

import json
from typing import Any

import openai
import pytest

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Candidate,
    Citation,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    LogprobsDelta,
    Media,
    Opaque,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Reasoning,
    Refusal,
    Response,
    Seal,
    SealDelta,
    ServerToolCall,
    ServiceTier,
    StreamEvent,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamFailed, UpstreamRateLimited
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.openai_responses.stream_encoder import ResponsesStreamEncoder, encode_answer
from llmproxy_asgi.translators.seals import unwrap, wrap
from support.wires.openai_responses import (
    INBOUND,
    NOW,
    STARTED,
    accumulated,
    answer,
    answered,
    frames,
    helped,
    inbound_request,
    streamed,
    written,
)

ANTHROPIC = Seal(issuer="anthropic", kind="signature", data="sig")


def told(*parts: Any, reason: FinishReason = FinishReason.STOP, **fields: Any) -> list[StreamEvent]:
    """The events of an answer with these parts."""
    return list(unfold(answer(*parts, reason=reason, **fields)))


def kinds(content: bytes) -> list[str]:
    """The types of a stream's events, in order, each run of equal ones once."""
    names = [str(frame["type"]).removeprefix("response.") for frame in frames(content)]
    return [name for n, name in enumerate(names) if not n or name != names[n - 1]]


def test_plain_text_passes_through_the_official_helper() -> None:
    """Text arrives whole, with usage, the model's name as asked, and one id throughout."""
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, Text(text="")),
        PartDelta(0, 0, TextDelta("Hel")),
        PartDelta(0, 0, TextDelta("lo")),
        PartEnded(0, 0),
        Finished(0, Finish(reason=FinishReason.STOP)),
        UsageReported(Usage(input=10, output=5, cache_read=4, reasoning=2)),
        Ended(),
    ]
    content = written(row)
    found = accumulated(content)
    assert found.output_text == "Hello"
    assert (found.id, found.model, found.status) == ("resp_1", "smart", "completed")
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.total_tokens) == (10, 15)
    assert found.usage.input_tokens_details.cached_tokens == 4
    assert found.usage.output_tokens_details.reasoning_tokens == 2
    assert kinds(content) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_sequence_numbers_rise_by_one_and_every_event_is_named() -> None:
    """Events are numbered from 0 without a gap, and the name of each is its type."""
    content = written(told(Reasoning(text="hm"), Text(text="hi"), ToolCall(call_id="c", name="f")))
    found = frames(content)
    assert [frame["sequence_number"] for frame in found] == list(range(len(found)))
    named = [line.removeprefix(b"event: ").decode() for line in content.split(b"\n") if line.startswith(b"event:")]
    assert named == [frame["type"] for frame in found]


def test_calls_are_told_of_filled_and_done() -> None:
    """Function and custom calls stream under one id each, and the helper completes."""
    content = written(
        told(
            Text(text="Let me see."),
            ToolCall(call_id="call_1", name="weather", arguments='{"city": "Köln"}'),
            ToolCall(call_id="call_2", name="patch", kind="custom", arguments="*** free\ntext"),
            reason=FinishReason.TOOL_CALLS,
        )
    )
    found = accumulated(content)
    message, call, custom = found.output
    assert message.type == "message"
    assert call.type == "function_call"
    assert custom.type == "custom_tool_call"
    assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", '{"city": "Köln"}')
    assert (custom.call_id, custom.name, custom.input) == ("call_2", "patch", "*** free\ntext")
    assert call.id is not None
    assert custom.id is not None
    assert message.id.startswith("msg_")
    assert call.id.startswith("fc_")
    assert custom.id.startswith("ctc_")
    assert "custom_tool_call_input.delta" in kinds(content)


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """A function that was called without anything is called with `{}`."""
    found = accumulated(written(told(ToolCall(call_id="c", name="f"), reason=FinishReason.TOOL_CALLS)))
    assert found.output[0].type == "function_call"
    assert found.output[0].arguments == "{}"


def test_ids_are_the_same_each_time() -> None:
    """Ids follow from the answer's id alone."""
    row = told(Reasoning(text="hm"), Text(text="hi"), ToolCall(call_id="c", name="f"))
    assert written(row) == written(row)


def test_foreign_answer_ids_become_legal_and_stay_the_same() -> None:
    """An answer of another protocol gets one `resp_` id for all its events, whole or streamed."""
    whole = Response(
        id="chatcmpl-ö/1", model="m", created_at=NOW, candidates=answer(Text(text="hi")).candidates, usage=Usage()
    )
    found = frames(written(list(unfold(whole))))
    ids = {frame["response"]["id"] for frame in found if "response" in frame}
    assert len(ids) == 1
    assert ids == {answered(INBOUND.encode(whole, inbound_request())).id}
    assert next(iter(ids)).startswith("resp_")


def test_the_last_output_is_what_was_done() -> None:
    """`output` of `response.completed` equals the items that were done, in order."""
    found = frames(
        written(told(Reasoning(text="hm", seals=(ANTHROPIC,)), Text(text="hi"), ToolCall(call_id="c", name="f")))
    )
    items = [frame["item"] for frame in found if frame["type"] == "response.output_item.done"]
    assert found[-1]["response"]["output"] == items


def test_neighbouring_texts_are_one_message() -> None:
    """Texts and refusals that follow each other are contents of one item; what comes between parts them."""
    found = accumulated(
        written(
            told(Text(text="a"), Text(text="b"), ToolCall(call_id="c", name="f"), Text(text="d"), Refusal(text="e"))
        )
    )
    shape = [
        (item.type, [content.type for content in item.content]) if item.type == "message" else item.type
        for item in found.output
    ]
    assert shape == [
        ("message", ["output_text", "output_text"]),
        "function_call",
        ("message", ["output_text", "refusal"]),
    ]


def test_messages_of_different_phase_stay_apart() -> None:
    """Commentary and answer are messages of their own, and say what they are."""
    own: Any = {"openai-responses": {"phase": "commentary"}}
    last: Any = {"openai-responses": {"phase": "final_answer"}}
    found = accumulated(written(told(Text(text="a", extras=own), Text(text="b", extras=last))))
    assert [item.phase for item in found.output if item.type == "message"] == ["commentary", "final_answer"]


def test_the_phase_of_a_whole_answer_is_told() -> None:
    """A candidate's phase is that of its messages."""
    whole = Response(
        id="resp_1",
        model="m",
        created_at=NOW,
        candidates=(Candidate(parts=(Text(text="a"),), finish=Finish(reason=FinishReason.STOP), phase="final_answer"),),
    )
    item = answered(INBOUND.encode(whole, inbound_request())).output[0]
    assert item.type == "message"
    assert item.phase == "final_answer"


@pytest.mark.parametrize("first", [Text(text="a"), Refusal(text="a")], ids=["text", "refusal"])
@pytest.mark.parametrize(
    "other",
    [
        Reasoning(seals=(ANTHROPIC,)),
        ToolCall(call_id="c", name="f", arguments="{}"),
        Media(kind="image", source=InlineData(data="AA=="), media_type="image/png"),
    ],
    ids=["sealed reasoning", "call", "image"],
)
@pytest.mark.parametrize("text_ends_first", [True, False])
def test_a_message_is_open_as_long_as_a_text_that_began_empty(
    first: Text | Refusal, other: Any, text_ends_first: bool
) -> None:
    """An empty text gets its words after another part has started: its message is done once, with all contents."""
    ends = [PartEnded(0, 1), PartEnded(0, 2, other)]
    row = [
        STARTED,
        PartStarted(0, 0, first),
        PartEnded(0, 0),
        PartStarted(0, 1, Text(text="")),
        PartStarted(0, 2, other),
        PartDelta(0, 1, TextDelta("b")),
        *(ends if text_ends_first else reversed(ends)),
        Finished(0, Finish(reason=FinishReason.STOP)),
        Ended(),
    ]
    content = written(row)
    done = [frame["item"] for frame in frames(content) if frame["type"] == "response.output_item.done"]
    [message] = [item for item in done if item["type"] == "message"]
    assert [part.get("text") or part.get("refusal") for part in message["content"]] == ["a", "b"]
    assert sorted(str(item.id) for item in accumulated(content).output) == sorted(item["id"] for item in done)
    if isinstance(other, Reasoning):
        assert [item["encrypted_content"] for item in done if item["type"] == "reasoning"] == [wrap(ANTHROPIC)]


def test_overlapping_parts_keep_to_their_items() -> None:
    """Calls that interleave, and a text that ends late, all reach their own items."""
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, Text(text="")),
        PartDelta(0, 0, TextDelta("a")),
        PartStarted(0, 1, ToolCall(call_id="c1", name="f")),
        PartStarted(0, 2, ToolCall(call_id="c2", name="g")),
        PartDelta(0, 1, ArgumentsDelta('{"x"')),
        PartDelta(0, 2, ArgumentsDelta('{"y":2}')),
        PartDelta(0, 0, TextDelta("b")),
        PartDelta(0, 1, ArgumentsDelta(":1}")),
        PartEnded(0, 2, ToolCall(call_id="c2", name="g", arguments='{"y":2}')),
        PartEnded(0, 1, ToolCall(call_id="c1", name="f", arguments='{"x":1}')),
        PartEnded(0, 0),
        Finished(0, Finish(reason=FinishReason.TOOL_CALLS)),
        Ended(),
    ]
    found = accumulated(written(row))
    assert found.output_text == "ab"
    assert [item.arguments for item in found.output if item.type == "function_call"] == ['{"x":1}', '{"y":2}']


def test_reasoning_has_a_summary_and_its_state_wrapped() -> None:
    """Another vendor's reasoning is an item with readable summary, and with its state whole only when it is done."""
    content = written(told(Reasoning(text="Let me think.", seals=(ANTHROPIC,)), Text(text="hi")))
    item = accumulated(content).output[0]
    assert item.type == "reasoning"
    assert item.summary[0].text == "Let me think."
    assert item.encrypted_content is not None
    assert unwrap(item.encrypted_content) == ANTHROPIC
    begun = next(frame["item"] for frame in frames(content) if frame["type"] == "response.output_item.added")
    assert "encrypted_content" not in begun


def test_the_vendors_own_state_is_not_wrapped() -> None:
    """OpenAI's reasoning keeps its bytes and its id."""
    seal = Seal(issuer="openai", kind="encrypted", data="opaque==", item_id="rs_7")
    item = accumulated(written(told(Reasoning(text="s", id="rs_7", style="summary", seals=(seal,))))).output[0]
    assert item.type == "reasoning"
    assert (item.id, item.encrypted_content) == ("rs_7", "opaque==")


def test_empty_reasoning_with_state_is_kept() -> None:
    """Reasoning whose text is not shown is an item all the same."""
    item = accumulated(written(told(Reasoning(seals=(ANTHROPIC,)), Text(text="hi")))).output[0]
    assert item.type == "reasoning"
    assert item.summary == []
    assert item.encrypted_content


def test_raw_reasoning_is_content_and_not_a_summary() -> None:
    """Raw reasoning is `reasoning_text`, with its own events."""
    part = Reasoning(text="raw", raw=True)
    content = written(told(part))
    item = accumulated(content).output[0]
    assert item.type == "reasoning"
    assert item.content is not None
    assert item.content[0].text == "raw"
    assert "reasoning_text.delta" in kinds(content)


def test_no_state_stands_behind_what_it_hangs_on() -> None:
    """State known at the start stands before its call; what comes too late is withheld, under its message's id."""
    seal = Seal(issuer="gemini", kind="signature", data="g")
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, ToolCall(call_id="c1", name="f", seals=(seal,))),
        PartEnded(0, 0, ToolCall(call_id="c1", name="f", arguments="{}", seals=(seal,))),
        PartStarted(0, 1, ToolCall(call_id="c2", name="f")),
        PartDelta(0, 1, SealDelta(seal)),
        PartEnded(0, 1, ToolCall(call_id="c2", name="f", arguments="{}", seals=(seal,))),
        PartStarted(0, 2, Text(text="t")),
        PartEnded(0, 2),
        PartStarted(0, 3, Text(text="")),
        PartDelta(0, 3, SealDelta(seal)),
        PartEnded(0, 3, Text(text="", seals=(seal,))),
        Finished(0, Finish(reason=FinishReason.TOOL_CALLS)),
        Ended(),
    ]
    encoder = ResponsesStreamEncoder(inbound_request())
    output = accumulated(encoder.feed(row)).output
    assert [item.type for item in output] == ["reasoning", "function_call", "function_call", "message"]
    state = output[0]
    assert state.type == "reasoning"
    found = unwrap(state.encrypted_content or "")
    assert found is not None
    assert found.item_id == "c1"
    message = output[-1]
    assert message.type == "message"
    assert [content.type for content in message.content] == ["output_text"]
    assert dict(encoder.withheld()) == {message.id: [seal]}


def test_the_state_of_a_whole_text_stands_before_its_message() -> None:
    """The last item of a whole answer is its message; the state that hangs on it comes first and names it."""
    seal = Seal(issuer="gemini", kind="signature", data="g")
    finish = Finish(reason=FinishReason.STOP)
    parts = (Reasoning(text="Hm.", style="summary"), Text(text="t", seals=(seal,)))
    response = Response(id="r", model="m", created_at=NOW, candidates=(Candidate(parts=parts, finish=finish),))
    output = json.loads(encode_answer(response, inbound_request()))["output"]
    assert [item["type"] for item in output] == ["reasoning", "reasoning", "message"]
    assert output[-1]["content"][0]["text"] == "t"
    found = unwrap(output[1]["encrypted_content"])
    assert found is not None
    assert found.item_id == output[-1]["id"]


def test_refusals_and_citations_and_logprobs() -> None:
    """A refusal is its own content; citations and probabilities reach their text, streamed and whole."""
    cited = Text(text="See here.", citations=(Citation(url="https://example.org", title="E", start=0, end=3),))
    tokens = (TokenLogprob(token="See", logprob=-0.5, top=(TokenLogprob(token="Se", logprob=-1.0),)),)
    row = told(cited, Refusal(text="No."))
    row.insert(3, PartDelta(0, 0, LogprobsDelta(tokens)))
    content = written(row)
    item = accumulated(content).output[0]
    assert item.type == "message"
    text, refusal = item.content
    assert refusal.type == "refusal"
    assert refusal.refusal == "No."
    assert text.type == "output_text"
    assert text.annotations[0].type == "url_citation"
    assert text.annotations[0].url == "https://example.org"
    assert (text.annotations[0].start_index, text.annotations[0].end_index) == (0, 3)
    assert text.logprobs is not None
    assert (text.logprobs[0].token, text.logprobs[0].bytes) == ("See", [83, 101, 101])
    assert "output_text.annotation.added" in kinds(content)


def test_an_explained_refusal_without_words_becomes_a_refusal() -> None:
    """Where there is no text, the reason for refusing is what the caller reads."""
    found = accumulated(written(told(reason=FinishReason.REFUSAL, message="Not that.")))
    assert found.status == "completed"
    item = found.output[0]
    assert item.type == "message"
    assert item.content[0].type == "refusal"
    assert item.content[0].refusal == "Not that."


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        (FinishReason.STOP, "completed", None),
        (FinishReason.STOP_SEQUENCE, "completed", None),
        (FinishReason.COMPACTION, "completed", None),
        (FinishReason.UNKNOWN, "completed", None),
        (FinishReason.LENGTH, "incomplete", "max_output_tokens"),
        (FinishReason.CONTEXT_LENGTH, "incomplete", "max_output_tokens"),
        (FinishReason.PAUSE, "incomplete", "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "incomplete", "content_filter"),
        (FinishReason.REFUSAL, "incomplete", "content_filter"),
        (FinishReason.CANCELLED, "cancelled", None),
    ],
)
def test_every_finish_has_its_status(reason: FinishReason, status: str, why: str | None) -> None:
    """Each finish reason is encoded in the vendor's terms, in streams and complete responses."""
    whole = answer(Text(text="hi"), reason=reason)
    last = helped(written(list(unfold(whole))))[-1].response
    for found in (last, answered(INBOUND.encode(whole, inbound_request()))):
        assert found.status == status
        assert (found.incomplete_details.reason if found.incomplete_details else None) == why


def test_a_call_that_cannot_be_read_is_a_failed_answer() -> None:
    """A malformed call fails the answer with a code of the vendor's list."""
    last = helped(written(told(reason=FinishReason.MALFORMED_CALL)))[-1]
    assert last.type == "response.failed"
    assert last.response.error.code == "server_error"


def test_a_call_that_was_cut_off_is_incomplete() -> None:
    """What ran out of tokens inside a call does not look like a call to execute."""
    row = told(ToolCall(call_id="c1", name="f", arguments='{"a":1}'), ToolCall(call_id="c2", name="f", arguments='{"a'))
    row[-2] = Finished(0, Finish(reason=FinishReason.LENGTH))
    found = helped(written(row))
    assert found[-1].type == "response.incomplete"
    assert [item.status for item in found[-1].response.output] == ["completed", "incomplete"]
    assert found[-1].response.incomplete_details.reason == "max_output_tokens"


def test_a_failure_midway_is_a_failed_answer_with_what_there_was() -> None:
    """`response.failed` carries the same id, a code of the closed list, and the output so far."""
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, Reasoning()),
        PartEnded(0, 0, Reasoning(text="hm")),
        PartStarted(0, 1, Text(text="")),
        PartDelta(0, 1, TextDelta("Hel")),
        PartStarted(0, 2, ToolCall(call_id="c", name="f")),
        PartDelta(0, 2, ArgumentsDelta('{"a')),
        Failed(UpstreamRateLimited("Slow down.")),
        PartDelta(0, 1, TextDelta("lo")),
        Ended(),
    ]
    last = helped(written(row))[-1]
    assert last.type == "response.failed"
    assert (last.response.id, last.response.status) == ("resp_1", "failed")
    assert (last.response.error.code, last.response.error.message) == ("rate_limit_exceeded", "Slow down.")
    thought, said, called = last.response.output
    assert thought.summary[0].text == "hm"
    assert (said.status, said.content[0].text) == ("incomplete", "Hel")
    assert (called.status, called.arguments) == ("incomplete", '{"a')


def test_a_failure_of_which_nothing_is_known_makes_the_client_raise() -> None:
    """The error event of an encoder that began nothing raises in the official client, helper or not."""
    content = written([Failed(UpstreamFailed("It broke."))])
    with pytest.raises(openai.APIError, match="It broke"):
        streamed(content)
    with pytest.raises(openai.APIError, match="It broke"):
        helped(content)
    assert frames(content)[0]["type"] == "error"


def test_nothing_follows_a_failure() -> None:
    """After the failure not a byte is written."""
    encoder = INBOUND.encoder(inbound_request(stream=True))
    encoder.feed([STARTED, Failed(UpstreamFailed("x"))])
    assert encoder.feed([PartStarted(0, 0, Text(text="a")), Ended()]) == b""


def test_the_request_is_repeated_in_the_answer() -> None:
    """The response object tells what was asked, in the caller's own words."""
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}]
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"k": "v"},
        "temperature": 0.5,
        "tools": tools,
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "low"},
        "max_output_tokens": 99,
        "truncation": None,
    }
    found = frames(written(told(Text(text="hi")), **asked))[0]["response"]
    filled = {
        "tools": [{**tools[0], "description": None}],
        "reasoning": {"effort": "low", "summary": None},
        "text": {"verbosity": "low", "format": {"type": "text"}},
        "truncation": "disabled",
    }
    assert {key: found[key] for key in asked} == {**asked, **filled}
    parsed = accumulated(written(told(Text(text="hi")), **asked))
    assert parsed.parallel_tool_calls is False
    assert parsed.metadata == {"k": "v"}


def test_service_tier_is_told_in_the_vendors_word() -> None:
    """The tier that served is named as the vendor names it."""
    row = told(Text(text="hi"))
    row[-1] = Ended(ServiceTier.STANDARD)
    assert accumulated(written(row)).service_tier == "default"


def test_a_namespace_that_an_upstream_lost_is_found_again() -> None:
    """A call of a tool that just one namespace holds names that namespace."""
    space = {
        "type": "namespace",
        "name": "crm",
        "description": "d",
        "tools": [{"type": "function", "name": "find"}, {"type": "function", "name": "both"}],
    }
    tools = [space, {"type": "function", "name": "both"}]
    row = told(ToolCall(call_id="c", name="find"), ToolCall(call_id="d", name="both"))
    calls = accumulated(written(row, tools=tools)).output
    assert [call.namespace for call in calls if call.type == "function_call"] == ["crm", None]


def test_searches_are_told_of() -> None:
    """A search that the upstream ran is an item with its words."""
    call = ServerToolCall(call_id="srv_1", tool="web_search", arguments='{"query":"Köln"}')
    content = written(told(call, Text(text="hi")))
    item = accumulated(content).output[0]
    assert item.type == "web_search_call"
    assert item.action.type == "search"
    assert item.action.query == "Köln"
    assert item.id.startswith("ws_")
    assert {"web_search_call.in_progress", "web_search_call.completed"} <= set(kinds(content))


def test_pictures_and_own_items_come_whole() -> None:
    """A picture is a picture that was made; what only this protocol knows stays; foreign parts are left out."""
    item = {"id": "cmp_1", "type": "compaction", "encrypted_content": "x"}
    picture = Media(kind="image", source=InlineData(data="aGk="), media_type="image/png")
    parts = (
        Opaque(protocol="openai-responses", kind="compaction", data=item),
        picture,
        Opaque(protocol="gemini", kind="thing", data={}),
        Media(kind="audio", source=InlineData(data="aGk=")),
        ServerToolCall(call_id="s", tool="code_execution"),
    )
    own, image = accumulated(written(told(*parts))).output
    assert own.to_dict() == item
    assert image.type == "image_generation_call"
    assert image.result == "aGk="


def test_a_second_candidate_and_foreign_frames_are_not_written() -> None:
    """This protocol knows one answer; frames of other numberings are not passed on."""
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, Text(text="a")),
        PartStarted(1, 0, Text(text="b")),
        Passed("openai-responses", "response.x", b"{}"),
        PartDelta(1, 0, TextDelta("b")),
        PartEnded(1, 0),
        PartEnded(0, 0),
        Finished(1, Finish(reason=FinishReason.STOP)),
        Finished(0, Finish(reason=FinishReason.STOP)),
        Ended(),
    ]
    assert accumulated(written(row)).output_text == "a"


def test_wrapped_state_is_told_as_it_was_given() -> None:
    """Wrapping is the same in every turn, so that prompt caches hold."""
    first = accumulated(written(told(Reasoning(seals=(ANTHROPIC,))))).output[0]
    assert first.type == "reasoning"
    assert first.encrypted_content == wrap(ANTHROPIC)
