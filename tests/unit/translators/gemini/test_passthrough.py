"""Where both sides speak Google's protocol: bytes that pass, and what must not."""

import json
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.conversation import Ended, Failed, Finished, Seal, Started, StreamEvent, UsageReported
from llmproxy_asgi.errors import UpstreamError, UpstreamOverloaded, UpstreamProtocolError, UpstreamRefused
from llmproxy_asgi.translators.gemini.schema import PLACEHOLDER_SIGNATURE
from llmproxy_asgi.translators.seals import wrap
from support.wires.gemini import (
    INBOUND,
    OUTBOUND,
    chunk,
    chunks_of,
    events_bytes,
    opened,
    relayed,
    streamed_by_sdk,
    upstream,
    wire,
)

NAME, ASKED = b'"gemini-upstream-1"', b'"asked"'


def relay(data: bytes, cut: int = 0, *, alt: str = "sse", **body: Any) -> tuple[list[StreamEvent], bytes]:
    return relayed(OUTBOUND.relay(opened(body, stream=True, alt=alt), upstream()), [data[:cut], data[cut:]])


def error(events: list[StreamEvent]) -> UpstreamError:
    last = events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamError)
    return last.error


@pytest.mark.parametrize(
    "name", ["thoughts_and_calls.sse", "grounded.sse", "pictures_and_sound.sse", "blocked_prompt.sse"]
)
def test_14_a_stream_passes_but_for_the_models_name(name: str) -> None:
    """At every split the caller gets the upstream's bytes with the name as asked; the meter gets its events."""
    data = wire(name)
    for cut in range(0, len(data), 7):
        events, raw = relay(data, cut)
        assert raw == data.replace(NAME, ASKED)
        assert [type(event) for event in events] == [Started, Finished, UsageReported, Ended]


def test_what_the_meter_gets() -> None:
    """The last chunk's usage counts, with the searches that were made."""
    events, _ = relay(wire("grounded.sse"))
    (usage,) = (event.usage for event in events if isinstance(event, UsageReported))
    assert (usage.input, usage.output, usage.server_tool_calls) == (10, 5, {"web_search": 1})


def test_7_other_framings_are_framed_anew() -> None:
    """Comments, event names, missing spaces and `[DONE]` would break Google's client: none of them passes."""
    data = wire("compatible.sse")
    whole = chunks_of(relay(data)[1])
    assert [found["candidates"][0]["content"]["parts"][0]["text"] for found in whole] == ["Hel", "lo"]
    assert {found["modelVersion"] for found in whole} == {"asked"}
    for cut in range(len(data)):
        assert chunks_of(relay(data, cut)[1]) == whole


def test_what_comes_before_the_first_chunk_is_not_collected() -> None:
    """Very many comments are forgotten as they come, and one without an end is an event that is too long."""
    good = events_bytes(chunk({"text": "x"}, finish="STOP"))
    _, raw = relayed(OUTBOUND.relay(opened(stream=True), upstream()), [*[b": wait\n\n"] * 200_000, good])
    assert raw == good.replace(NAME, ASKED)
    endless = OUTBOUND.relay(opened(stream=True), msgspec.structs.replace(upstream(), max_event=1000))
    events, raw = relayed(endless, [b":", *[b"wait"] * 1000])
    assert isinstance(error(events), UpstreamProtocolError)
    assert raw == b""


def test_a_done_behind_plain_frames_is_dropped() -> None:
    """An end sign that Google does not have is left out of a stream that is otherwise as Google's."""
    good = events_bytes(chunk({"text": "x"}, finish="STOP"))
    _, raw = relay(good + b"data: [DONE]\n\n")
    assert raw == good.replace(NAME, ASKED)
    assert len(streamed_by_sdk(raw)) == 1


@pytest.mark.parametrize("name", ["array.json", "thoughts_and_calls.sse"])
def test_10_a_caller_who_wants_an_array_gets_one(name: str) -> None:
    """Whatever the upstream's framing, an array at every split, each element's bytes as they came."""
    data = wire(name)
    expected = json.loads(wire("array.json").replace(NAME, ASKED))
    for cut in range(0, len(data), 5):
        events, raw = relay(data, cut, alt="json")
        assert json.loads(raw) == expected
        assert isinstance(events[-1], Ended)


def test_an_array_is_framed_as_events_for_a_caller_who_wants_them() -> None:
    """An upstream that takes no notice of `alt=sse` is framed anew."""
    _, raw = relay(wire("array.json"))
    assert chunks_of(raw) == json.loads(wire("array.json").replace(NAME, ASKED))


def test_an_error_ends_a_relayed_array_properly() -> None:
    """What was relayed and the error that an encoder adds are one legal array."""
    intake = opened(stream=True, alt="json")
    events, raw = relayed(
        OUTBOUND.relay(intake, upstream()), [wire("error_midway.sse")[:200], wire("error_midway.sse")[200:]]
    )
    assert isinstance(error(events), UpstreamOverloaded)
    found = json.loads(raw + INBOUND.encoder(intake).feed(events[-1:]))
    assert list(found[-1]) == ["error"]
    assert found[0]["modelVersion"] == "asked"


def test_a_try_that_fails_as_it_begins_leaves_nothing_in_the_array() -> None:
    """The next try's array begins at its beginning."""
    intake = opened(stream=True, alt="json")
    events, raw = relayed(OUTBOUND.relay(intake, upstream()), [wire("error_midway.sse")])
    assert (raw, isinstance(error(events), UpstreamOverloaded)) == (b"", True)
    _, raw = relayed(OUTBOUND.relay(intake, upstream()), [wire("grounded.sse")])
    assert len(json.loads(raw)) == 3


@pytest.mark.parametrize("alt", ["sse", "json"])
def test_95_a_stream_that_just_stops_has_failed(alt: str) -> None:
    """What came is passed on, then the failure is told."""
    events, raw = relay(wire("cut.sse"), 200, alt=alt)
    assert isinstance(error(events), UpstreamProtocolError)
    assert raw
    assert isinstance(error(relay(b"", alt=alt)[0]), UpstreamProtocolError)


def test_94_an_error_frame_is_not_relayed() -> None:
    """The frame of an error is the encoder's to write."""
    events, raw = relay(wire("error_midway.sse"))
    assert isinstance(error(events), UpstreamOverloaded)
    assert b"error" not in raw


def test_a_lost_signature_is_a_refusal() -> None:
    """An answer that ended for want of a signature lets the request be tried again without reasoning."""
    found = error(relay(events_bytes(chunk(finish="MISSING_THOUGHT_SIGNATURE")))[0])
    assert isinstance(found, UpstreamRefused)
    assert found.status == 400


def test_as_many_candidates_as_were_asked_for_must_end() -> None:
    """One of two finished candidates is a cut stream; both are a whole one."""
    options: dict[str, Any] = {"generationConfig": {"candidateCount": 2}}
    one = events_bytes(chunk({"text": "a"}), chunk({"text": "b"}, finish="STOP", index=1))
    assert isinstance(relay(one, **options)[0][-1], Failed)
    both = one + events_bytes(chunk(finish="STOP"))
    assert isinstance(relay(both, **options)[0][-1], Ended)


def test_usage_alone_in_a_last_chunk_counts() -> None:
    """A chunk of usage behind the finish is looked at."""
    last = {"usageMetadata": {"promptTokenCount": 3}}
    events, _ = relay(events_bytes(chunk({"text": "a"}, finish="STOP"), last))
    assert [event.usage.input for event in events if isinstance(event, UsageReported)] == [3]


def test_rubbish_fails() -> None:
    """What cannot be read ends the relay in either framing."""
    assert isinstance(error(relay(b"data: {\n\n")[0]), UpstreamProtocolError)
    assert isinstance(error(relay(b"data:{\n\n")[0]), UpstreamProtocolError)
    assert isinstance(error(relay(b"[}")[0]), UpstreamProtocolError)


# ── requests and whole answers ───────────────────────────────────────────────────────────────────────────────────────


def test_13_a_request_goes_on_as_it_came() -> None:
    """Spelling, order, numbers and unknown fields survive; the model stands in the path alone."""
    body = b'{ "x_new" : [1.50, 1e3], "contents":[{"parts":[{"inline_data":{"data":"-_8","mime_type":"a/b"}}]}]}'
    intake = INBOUND.open(body, headers={}, path={"model": "asked", "method": "generateContent"})
    outgoing = OUTBOUND.splice(intake, upstream())
    assert outgoing.body == (
        b'{"x_new":[1.50, 1e3],"contents":[{"parts":[{"inline_data":{"data":"-_8","mime_type":"a/b"}}]}]}'
    )
    assert (outgoing.stream, outgoing.warnings) == (False, ())


def test_a_model_in_the_body_is_the_upstreams() -> None:
    """A body that names the model as well names the upstream's."""
    outgoing = OUTBOUND.splice(opened({"model": "models/asked"}), upstream())
    assert json.loads(outgoing.body)["model"] == "models/gemini-upstream-1"


def spliced(*parts: dict[str, Any], **to: Any) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    contents = [{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": list(parts)}]
    outgoing = OUTBOUND.splice(opened({"contents": contents}), upstream(**to))
    found = json.loads(outgoing.body)["contents"]
    return found[1]["parts"] if len(found) > 1 else [], outgoing.warnings


def test_58_googles_own_state_passes_untouched() -> None:
    """Signatures, server tools and code echo as they came."""
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": "f"}, "thought_signature": "AAAA"},
        {"toolCall": {"id": "1", "toolType": "GOOGLE_SEARCH_WEB"}},
        {"toolResponse": {"id": "1"}},
    ]
    assert spliced(*parts) == (parts, ())


def test_66_wrapped_state_of_others_is_taken_out() -> None:
    """Another vendor's state in Google's clothes goes, its thoughts with it; its call gets the stand-in."""
    foreign = wrap(Seal(issuer="anthropic", kind="signature", data="BBBB"))
    parts: list[dict[str, Any]] = [
        {"text": "hm", "thought": True},
        {"functionCall": {"name": "f"}, "thoughtSignature": foreign},
        {"text": "", "thoughtSignature": foreign},
    ]
    assert spliced(*parts) == (
        [{"functionCall": {"name": "f"}, "thoughtSignature": PLACEHOLDER_SIGNATURE}],
        ("dropped:reasoning",),
    )
    assert spliced(*parts, thinking="budget")[0] == [{"functionCall": {"name": "f"}}]
    assert spliced({"text": "", "thoughtSignature": foreign}) == ([], ("dropped:reasoning",))


def test_wrapped_state_of_this_route_is_put_back() -> None:
    """State that was wrapped because its route has another name is unwrapped for that route."""
    own = wrap(Seal(issuer="my-gemini", kind="signature", data="AAAA"))
    parts: list[dict[str, Any]] = [{"functionCall": {"name": "f"}, "thoughtSignature": own}]
    assert spliced(*parts, issuer="my-gemini") == ([{"functionCall": {"name": "f"}, "thoughtSignature": "AAAA"}], ())


def test_14_a_whole_answer_passes_but_for_the_models_name() -> None:
    """Unknown fields, number spelling and order survive; usage is told."""
    body = wire("answer.response.json")
    batch = OUTBOUND.restore(body, opened(), upstream())
    assert batch.raw is not None
    assert json.loads(batch.raw) == json.loads(body.replace(NAME, ASKED))
    assert b"2.5" in batch.raw
    assert [event.usage.total for event in batch.events if isinstance(event, UsageReported)] == [15]


def test_a_tools_argument_of_that_name_is_no_name_of_the_model() -> None:
    """An answer that says no model, but calls a tool with such an argument, passes as it is."""
    call = {"functionCall": {"name": "deploy", "args": {"modelVersion": "3"}}}
    body = json.dumps({"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}).encode()
    assert OUTBOUND.restore(body, opened(), upstream()).raw == body


def test_an_answer_that_says_no_model_passes_as_it_is() -> None:
    """Nothing is added to an answer."""
    body = b'{ "candidates" : [ {"finishReason":"STOP"} ] }'
    assert OUTBOUND.restore(body, opened(), upstream()).raw == body


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"candidates":[]}', b'{"promptFeedback":{}}'])
def test_96_what_is_no_answer_is_not_passed_on(body: bytes) -> None:
    """A body without an answer is a failure."""
    with pytest.raises(UpstreamProtocolError):
        OUTBOUND.restore(body, opened(), upstream())


def test_an_error_with_a_good_status_is_an_error() -> None:
    """An error object is told as what it says."""
    with pytest.raises(UpstreamOverloaded):
        OUTBOUND.restore(b'{"error":{"code":503}}', opened(), upstream())
