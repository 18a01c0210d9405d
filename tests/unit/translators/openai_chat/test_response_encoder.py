"""Whole answers: read, passed on, and written for the official client."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.conversation import (
    Candidate,
    Citation,
    Finish,
    FinishReason,
    InlineData,
    Link,
    Media,
    Part,
    Reasoning,
    Refusal,
    Response,
    Seal,
    ServerToolCall,
    ServiceTier,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError, UpstreamRateLimited
from llmproxy_asgi.translators.seals import unwrap
from support.wires.openai_chat import INBOUND, OUTBOUND, answered, inbound_request, upstream, upstream_request, wire

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def decode(content: bytes, **memory: Any) -> Response:
    """A whole answer, read."""
    return OUTBOUND.decode(content, upstream_request(**memory), upstream(), received_at=NOW)


def message(*parts: Part, reason: FinishReason = FinishReason.STOP, request: Any = None, **finish: Any) -> Any:
    """The message that the official client reads from an answer of these parts."""
    candidate = Candidate(parts=parts, finish=Finish(reason=reason, **finish))
    response = Response(id="chatcmpl-1", model="big-1", created_at=NOW, candidates=(candidate,))
    return answered(INBOUND.encode(response, inbound_request(**(request or {})))).choices[0]


# ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_text() -> None:
    """Id, time, text, finish, usage and tier of a plain answer."""
    found = decode(wire("text.response.json"))
    assert (found.id, found.created_at) == ("chatcmpl-A1", datetime.fromtimestamp(1795000000, UTC))
    assert (found.text, found.finish_reason) == ("Grüß Gott 🙂", FinishReason.STOP)
    assert found.service_tier is ServiceTier.STANDARD
    assert found.usage == Usage(input=10, output=5, cache_read=4, cache_write=1, reasoning=2, extras=found.usage.extras)


def test_calls_and_reasoning() -> None:
    """Calls keep the very text of their arguments, and get their own names and ids back."""
    found = decode(wire("calls.response.json"), names={"weather": "ns.weather"}, call_ids={"call_a": "a" * 90})
    assert found.candidates[0].parts == (
        Reasoning(text="Look.", raw=True),
        ToolCall(call_id="a" * 90, name="ns.weather", arguments='{"city": "東京", "n": 1.0}'),
        ToolCall(call_id="call_b", name="patch", arguments="+ä", kind="custom"),
    )
    assert found.finish_reason is FinishReason.TOOL_CALLS


def test_citations_and_sound() -> None:
    """Annotations stand in their text; sound is a part with its words."""
    text, sound = decode(wire("cited.response.json")).candidates[0].parts
    assert text == Text(
        text="日本 says", citations=(Citation(url="https://example.org/jp", title="Japan", start=0, end=2),)
    )
    assert isinstance(sound, Media)
    assert (sound.source, sound.transcript, sound.id) == (InlineData(data="AAAABBBB"), "Hello", "audio_1")


def test_an_answer_without_a_finish_reason_is_whole_but_says_nothing_of_why() -> None:
    """A server that leaves the reason out has still answered."""
    found = decode(wire("no_finish.response.json"))
    assert (found.text, found.finish_reason) == ("Short", FinishReason.UNKNOWN)


def test_an_answer_without_a_time_has_ours() -> None:
    """The time of receipt stands in for a missing one."""
    assert decode(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}').created_at == NOW


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[7]}',
        b'{"choices":[{"message":{"content":7}}]}',
        b"\xff",
    ],
)
def test_what_is_no_answer_is_a_protocol_error(content: bytes) -> None:
    """HTML, truncated JSON and empty answers are the upstream's failure, and are not repeated."""
    for read in (
        lambda: decode(content),
        lambda: OUTBOUND.passthrough_response(content, inbound_request(), upstream()),
    ):
        with pytest.raises(UpstreamProtocolError) as failed:
            read()
        assert "html" not in str(failed.value)


def test_an_error_with_a_good_status_is_an_error() -> None:
    """An error object in an answer counts, whatever the status was."""
    content = b'{"error":{"message":"m","code":429}}'
    with pytest.raises(UpstreamRateLimited):
        decode(content)
    with pytest.raises(UpstreamError):
        OUTBOUND.passthrough_response(content, inbound_request(), upstream())


# ── passed on ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_passed_on_with_its_bytes() -> None:
    """Unknown fields, order and spelling stay unchanged; the model is the requested one; usage is reported."""
    content = wire("text.response.json")
    batch = OUTBOUND.passthrough_response(content, inbound_request(), upstream())
    assert batch.raw is not None
    restored, original = msgspec.json.decode(batch.raw), msgspec.json.decode(content)
    assert restored == {**original, "model": "smart"}
    assert list(restored) == list(original)
    assert b'"kept": 1.5' in batch.raw
    (usage,) = batch.events
    assert isinstance(usage, UsageReported)
    assert usage.usage.total == 15


def test_an_answer_of_the_asked_model_is_the_very_bytes() -> None:
    """Where the names agree nothing is touched."""
    content = wire("text.response.json").replace(b"big-1", b"smart")
    assert OUTBOUND.passthrough_response(content, inbound_request(), upstream()).raw == content


# ── written ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_the_clients() -> None:
    """The client reads id, time, asked model, tier and usage."""
    response = Response(
        id="msg_0123",
        model="big-1",
        created_at=NOW,
        candidates=(
            Candidate(index=0, parts=(Text(text="a"), Text(text="b")), finish=Finish(reason=FinishReason.STOP)),
            Candidate(index=1, parts=(), finish=Finish(reason=FinishReason.CONTENT_FILTER)),
        ),
        usage=Usage(input=10, output=5, cache_read=4, reasoning=2),
        service_tier=ServiceTier.FLEX,
    )
    found = answered(INBOUND.encode(response, inbound_request(n=2)))
    assert found.id.startswith("chatcmpl-")
    assert found.id == answered(INBOUND.encode(response, inbound_request())).id
    assert (found.created, found.model, found.service_tier) == (int(NOW.timestamp()), "smart", "flex")
    assert [(each.message.content, each.finish_reason) for each in found.choices] == [
        ("ab", "stop"),
        (None, "content_filter"),
    ]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (10, 5, 15)


def test_calls_are_the_clients() -> None:
    """Function and custom calls, arguments as text, {} where there are none; what tools of others did is left out."""
    choice = message(
        ServerToolCall(call_id="s", tool="web_search"),
        ToolCall(call_id="a", name="f"),
        ToolCall(call_id="b", name="p", kind="custom", arguments="raw"),
        reason=FinishReason.TOOL_CALLS,
    )
    function, custom = choice.message.tool_calls
    assert (function.id, function.function.arguments) == ("a", "{}")
    assert (custom.type, custom.custom.input) == ("custom", "raw")
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")


def test_callers_with_functions_get_a_function_call() -> None:
    """The deprecated form is answered in kind."""
    choice = message(
        ToolCall(call_id="a", name="f"), reason=FinishReason.TOOL_CALLS, request={"functions": [{"name": "f"}]}
    )
    assert (choice.message.function_call.name, choice.finish_reason) == ("f", "function_call")
    assert choice.message.tool_calls is None


def test_reasoning_is_readable_and_sealed() -> None:
    """Readable reasoning, its entries and wrapped seals; state of calls and of texts has entries of its own."""
    signature = Seal(issuer="anthropic", kind="signature", data="sig")
    encrypted = Seal(issuer="openai", kind="encrypted", data="native", item_id="rs_1")
    google = Seal(issuer="gemini", kind="signature", data="c2ln")
    found = message(
        Reasoning(text="one", seals=(signature,)),
        Reasoning(text="two", style="summary", seals=(encrypted,)),
        Text(text="x", seals=(google,)),
        ToolCall(call_id="a", name="f", seals=(google,)),
    ).message.model_dump()
    assert found["reasoning_content"] == "onetwo"
    details = found["reasoning_details"]
    assert [entry["index"] for entry in details] == list(range(5))
    assert (details[0]["type"], details[0]["text"], unwrap(details[0]["signature"])) == (
        "reasoning.text",
        "one",
        signature,
    )
    assert details[1] == {"index": 1, "type": "reasoning.summary", "summary": "two"}
    assert details[2] == {"index": 2, "type": "reasoning.encrypted", "data": "native", "id": "rs_1"}
    assert unwrap(details[3]["signature"]) == google
    assert (details[4]["id"], unwrap(details[4]["data"])) == ("a", google)
    assert found["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}


def test_refusals() -> None:
    """A refusal's words are its own field; an explanation counts only where nothing was said."""
    assert message(Refusal(text="No."), reason=FinishReason.REFUSAL).message.refusal == "No."
    silent = message(reason=FinishReason.REFUSAL, message="Not that.")
    assert (silent.message.refusal, silent.finish_reason) == ("Not that.", "stop")
    spoken = message(Text(text="x"), reason=FinishReason.REFUSAL, message="Not that.")
    assert (spoken.message.refusal, spoken.finish_reason) == (None, "content_filter")


def test_citations_probabilities_and_media() -> None:
    """Annotations count the whole message; probabilities, pictures and sound are where clients look for them."""
    token = TokenLogprob(token="a", logprob=-0.5, refusal=True)
    candidate = Candidate(
        parts=(
            Text(text="日本"),
            Text(text="Köln", citations=(Citation(url="https://a", start=1, end=2), Citation(kind="document"))),
            Media(kind="image", source=InlineData(data="iVBORw0KGgo=")),
            Media(kind="image", source=Link(url="https://b")),
            Media(kind="audio", source=InlineData(data="AAAA"), id="audio_1", transcript="hi"),
        ),
        finish=Finish(reason=FinishReason.STOP),
        logprobs=(token,),
    )
    response = Response(id="x", model="m", created_at=NOW, candidates=(candidate,))
    choice = answered(INBOUND.encode(response, inbound_request())).choices[0]
    found = choice.message.model_dump()
    (cited,) = found["annotations"]
    assert (cited["url_citation"]["start_index"], cited["url_citation"]["end_index"]) == (3, 4)
    assert [each["image_url"]["url"] for each in found["images"]] == ["data:image/png;base64,iVBORw0KGgo=", "https://b"]
    assert (found["audio"]["id"], found["audio"]["data"], found["audio"]["transcript"]) == ("audio_1", "AAAA", "hi")
    assert choice.logprobs is not None
    assert choice.logprobs.content is None
    assert choice.logprobs.refusal is not None
    assert choice.logprobs.refusal[0].token == "a"
