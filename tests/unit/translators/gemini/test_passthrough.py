"""Pass requests and responses through between callers and upstreams of Google's protocol."""

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
    passed_through,
    streamed_by_sdk,
    upstream,
    wire,
)

NAME, ASKED = b'"gemini-upstream-1"', b'"asked"'


def passthrough(data: bytes, cut: int = 0, *, alt: str = "sse", **body: Any) -> tuple[list[StreamEvent], bytes]:
    return passed_through(
        OUTBOUND.passthrough_stream(opened(body, stream=True, alt=alt), upstream()), [data[:cut], data[cut:]]
    )


def error(events: list[StreamEvent]) -> UpstreamError:
    last = events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamError)
    return last.error


@pytest.mark.parametrize(
    "name", ["thoughts_and_calls.sse", "grounded.sse", "pictures_and_sound.sse", "blocked_prompt.sse"]
)
def test_a_stream_passes_but_for_the_models_name(name: str) -> None:
    """Pass the upstream's bytes with the caller's model name and emit events, at every split."""
    data = wire(name)
    for cut in range(0, len(data), 7):
        events, raw = passthrough(data, cut)
        assert raw == data.replace(NAME, ASKED)
        assert [type(event) for event in events] == [Started, Finished, UsageReported, Ended]


def test_usage_of_a_passed_stream() -> None:
    """Report the last chunk's usage with the number of searches."""
    events, _ = passthrough(wire("grounded.sse"))
    (usage,) = (event.usage for event in events if isinstance(event, UsageReported))
    assert (usage.input, usage.output, usage.server_tool_calls) == (10, 5, {"web_search": 1})


def test_other_framings_are_reframed() -> None:
    """Reframe comments, event names, missing spaces and `[DONE]`, on which Google's client fails."""
    data = wire("compatible.sse")
    whole = chunks_of(passthrough(data)[1])
    assert [found["candidates"][0]["content"]["parts"][0]["text"] for found in whole] == ["Hel", "lo"]
    assert {found["modelVersion"] for found in whole} == {"asked"}
    for cut in range(len(data)):
        assert chunks_of(passthrough(data, cut)[1]) == whole


def test_what_comes_before_the_first_chunk_is_not_collected() -> None:
    """Discard comments at once; fail on an endless one as on a too long event."""
    good = events_bytes(chunk({"text": "x"}, finish="STOP"))
    _, raw = passed_through(
        OUTBOUND.passthrough_stream(opened(stream=True), upstream()), [*[b": wait\n\n"] * 200_000, good]
    )
    assert raw == good.replace(NAME, ASKED)
    endless = OUTBOUND.passthrough_stream(opened(stream=True), msgspec.structs.replace(upstream(), max_event=1000))
    events, raw = passed_through(endless, [b":", *[b"wait"] * 1000])
    assert isinstance(error(events), UpstreamProtocolError)
    assert raw == b""


def test_a_done_behind_plain_frames_is_dropped() -> None:
    """Drop an end marker that Google doesn't have."""
    good = events_bytes(chunk({"text": "x"}, finish="STOP"))
    _, raw = passthrough(good + b"data: [DONE]\n\n")
    assert raw == good.replace(NAME, ASKED)
    assert len(streamed_by_sdk(raw)) == 1


@pytest.mark.parametrize("name", ["array.json", "thoughts_and_calls.sse"])
def test_a_caller_may_request_an_array(name: str) -> None:
    """Send an array for either framing at every split, each element's bytes unchanged."""
    data = wire(name)
    expected = json.loads(wire("array.json").replace(NAME, ASKED))
    for cut in range(0, len(data), 5):
        events, raw = passthrough(data, cut, alt="json")
        assert json.loads(raw) == expected
        assert isinstance(events[-1], Ended)


def test_an_array_is_reframed_as_events() -> None:
    """Reframe the array of an upstream that ignores `alt=sse`."""
    _, raw = passthrough(wire("array.json"))
    assert chunks_of(raw) == json.loads(wire("array.json").replace(NAME, ASKED))


def test_an_error_ends_a_passed_array() -> None:
    """End a passed array and the encoder's error as one valid array."""
    inbound_request = opened(stream=True, alt="json")
    events, raw = passed_through(
        OUTBOUND.passthrough_stream(inbound_request, upstream()),
        [wire("error_midway.sse")[:200], wire("error_midway.sse")[200:]],
    )
    assert isinstance(error(events), UpstreamOverloaded)
    found = json.loads(raw + INBOUND.encoder(inbound_request).feed(events[-1:]))
    assert list(found[-1]) == ["error"]
    assert found[0]["modelVersion"] == "asked"


def test_a_failed_attempt_leaves_no_array() -> None:
    """Start the next attempt's array from its beginning."""
    inbound_request = opened(stream=True, alt="json")
    events, raw = passed_through(OUTBOUND.passthrough_stream(inbound_request, upstream()), [wire("error_midway.sse")])
    assert (raw, isinstance(error(events), UpstreamOverloaded)) == (b"", True)
    _, raw = passed_through(OUTBOUND.passthrough_stream(inbound_request, upstream()), [wire("grounded.sse")])
    assert len(json.loads(raw)) == 3


@pytest.mark.parametrize("alt", ["sse", "json"])
def test_a_stream_that_just_stops_has_failed(alt: str) -> None:
    """Pass what arrived, then report a failure, for a stream without a finish reason."""
    events, raw = passthrough(wire("cut.sse"), 200, alt=alt)
    assert isinstance(error(events), UpstreamProtocolError)
    assert raw
    assert isinstance(error(passthrough(b"", alt=alt)[0]), UpstreamProtocolError)


def test_an_error_frame_is_not_passed() -> None:
    """Leave the error's frame to the encoder."""
    events, raw = passthrough(wire("error_midway.sse"))
    assert isinstance(error(events), UpstreamOverloaded)
    assert b"error" not in raw


def test_a_lost_signature_is_a_refusal() -> None:
    """Report a missing signature as a refusal, so that the request can be retried without reasoning."""
    found = error(passthrough(events_bytes(chunk(finish="MISSING_THOUGHT_SIGNATURE")))[0])
    assert isinstance(found, UpstreamRefused)
    assert found.status == 400


def test_all_requested_candidates_must_end() -> None:
    """Treat a stream as interrupted until all requested candidates finished."""
    options: dict[str, Any] = {"generationConfig": {"candidateCount": 2}}
    one = events_bytes(chunk({"text": "a"}), chunk({"text": "b"}, finish="STOP", index=1))
    assert isinstance(passthrough(one, **options)[0][-1], Failed)
    both = one + events_bytes(chunk(finish="STOP"))
    assert isinstance(passthrough(both, **options)[0][-1], Ended)


def test_usage_alone_in_a_last_chunk_counts() -> None:
    """Decode a chunk of usage after the finish reason."""
    last = {"usageMetadata": {"promptTokenCount": 3}}
    events, _ = passthrough(events_bytes(chunk({"text": "a"}, finish="STOP"), last))
    assert [event.usage.input for event in events if isinstance(event, UsageReported)] == [3]


def test_rubbish_fails() -> None:
    """End the passthrough on unreadable data in either framing."""
    assert isinstance(error(passthrough(b"data: {\n\n")[0]), UpstreamProtocolError)
    assert isinstance(error(passthrough(b"data:{\n\n")[0]), UpstreamProtocolError)
    assert isinstance(error(passthrough(b"[}")[0]), UpstreamProtocolError)


# ── requests and complete responses ──────────────────────────────────────────────────────────────────────────────────


def test_a_request_passes_unchanged() -> None:
    """Keep spelling, order, numbers and unknown fields; put the model into the path only."""
    body = b'{ "x_new" : [1.50, 1e3], "contents":[{"parts":[{"inline_data":{"data":"-_8","mime_type":"a/b"}}]}]}'
    inbound_request = INBOUND.open(body, headers={}, path={"model": "asked", "method": "generateContent"})
    upstream_request = OUTBOUND.passthrough_request(inbound_request, upstream())
    assert upstream_request.body == (
        b'{"x_new":[1.50, 1e3],"contents":[{"parts":[{"inline_data":{"data":"-_8","mime_type":"a/b"}}]}]}'
    )
    assert (upstream_request.stream, upstream_request.warnings) == (False, ())


def test_a_model_in_the_body_is_the_upstreams() -> None:
    """Replace the model's name in a body that has one."""
    upstream_request = OUTBOUND.passthrough_request(opened({"model": "models/asked"}), upstream())
    assert json.loads(upstream_request.body)["model"] == "models/gemini-upstream-1"


def passthrough_request(*parts: dict[str, Any], **to: Any) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    contents = [{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": list(parts)}]
    upstream_request = OUTBOUND.passthrough_request(opened({"contents": contents}), upstream(**to))
    found = json.loads(upstream_request.body)["contents"]
    return found[1]["parts"] if len(found) > 1 else [], upstream_request.warnings


def test_googles_own_state_passes_untouched() -> None:
    """Pass signatures, server tools and code unchanged."""
    parts: list[dict[str, Any]] = [
        {"functionCall": {"name": "f"}, "thought_signature": "AAAA"},
        {"toolCall": {"id": "1", "toolType": "GOOGLE_SEARCH_WEB"}},
        {"toolResponse": {"id": "1"}},
    ]
    assert passthrough_request(*parts) == (parts, ())


def test_wrapped_state_of_others_is_taken_out() -> None:
    """Remove another vendor's state and its thoughts; give its call the placeholder."""
    foreign = wrap(Seal(issuer="anthropic", kind="signature", data="BBBB"))
    parts: list[dict[str, Any]] = [
        {"text": "hm", "thought": True},
        {"functionCall": {"name": "f"}, "thoughtSignature": foreign},
        {"text": "", "thoughtSignature": foreign},
    ]
    assert passthrough_request(*parts) == (
        [{"functionCall": {"name": "f"}, "thoughtSignature": PLACEHOLDER_SIGNATURE}],
        ("dropped:reasoning",),
    )
    assert passthrough_request(*parts, thinking="budget")[0] == [{"functionCall": {"name": "f"}}]
    assert passthrough_request({"text": "", "thoughtSignature": foreign}) == ([], ("dropped:reasoning",))


def test_wrapped_state_of_this_route_is_put_back() -> None:
    """Unwrap state that was wrapped because its route has another name."""
    own = wrap(Seal(issuer="my-gemini", kind="signature", data="AAAA"))
    parts: list[dict[str, Any]] = [{"functionCall": {"name": "f"}, "thoughtSignature": own}]
    assert passthrough_request(*parts, issuer="my-gemini") == (
        [{"functionCall": {"name": "f"}, "thoughtSignature": "AAAA"}],
        (),
    )


def test_a_response_passes_except_for_the_models_name() -> None:
    """Keep unknown fields, number spelling and order; report usage."""
    body = wire("answer.response.json")
    batch = OUTBOUND.passthrough_response(body, opened(), upstream())
    assert batch.raw is not None
    assert json.loads(batch.raw) == json.loads(body.replace(NAME, ASKED))
    assert b"2.5" in batch.raw
    assert [event.usage.total for event in batch.events if isinstance(event, UsageReported)] == [15]


def test_a_tools_argument_of_that_name_is_no_name_of_the_model() -> None:
    """Pass a tool's argument with the model field's name unchanged."""
    call = {"functionCall": {"name": "deploy", "args": {"modelVersion": "3"}}}
    body = json.dumps({"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}).encode()
    assert OUTBOUND.passthrough_response(body, opened(), upstream()).raw == body


def test_a_response_without_a_model_passes_unchanged() -> None:
    """Add nothing to a response without a model."""
    body = b'{ "candidates" : [ {"finishReason":"STOP"} ] }'
    assert OUTBOUND.passthrough_response(body, opened(), upstream()).raw == body


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"candidates":[]}', b'{"promptFeedback":{}}'])
def test_invalid_responses_are_not_passed(body: bytes) -> None:
    """Report a body that is not a response as a failure."""
    with pytest.raises(UpstreamProtocolError):
        OUTBOUND.passthrough_response(body, opened(), upstream())


def test_an_error_with_a_good_status_is_an_error() -> None:
    """Report an error object with status 200 as its error."""
    with pytest.raises(UpstreamOverloaded):
        OUTBOUND.passthrough_response(b'{"error":{"code":503}}', opened(), upstream())
