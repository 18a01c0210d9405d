"""Legacy completions as our callers send and read them, and as they are passed on."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    Candidate,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    PartEnded,
    PartStarted,
    Reasoning,
    Refusal,
    Request,
    Response,
    Started,
    StreamEvent,
    Text,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import BadRequest, ModelNotFound, Unsupported, UpstreamFailed, UpstreamRefused
from llmproxy_asgi.translators.assemble import fold, unfold
from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.registry import translator
from support.conversations import event_rows, json_values, responses

TRANSLATOR = translator("openai-completions")
INBOUND, OUTBOUND = TRANSLATOR.inbound, TRANSLATOR.outbound
UPSTREAM = Upstream(provider="old", model="old-1", client_model="m", issuer="provider:old")
BORN = datetime(2026, 1, 1, tzinfo=UTC)
FIELDS = [
    "model",
    "prompt",
    "suffix",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stream",
    "stream_options",
    "logprobs",
]
FIELDS += ["echo", "stop", "presence_penalty", "frequency_penalty", "best_of", "logit_bias", "seed", "user", "unknown"]
STOP = Finish(reason=FinishReason.STOP)


def inbound_request(**fields: Any) -> InboundRequest:
    return INBOUND.open(json.dumps({"model": "m", "prompt": "p", **fields}).encode(), headers={})


def decoded(**fields: Any) -> Request:
    request = INBOUND.decode(inbound_request(**fields))
    assert isinstance(request, Request)
    return request


def answer(*parts: Any, finish: Finish = STOP, **fields: Any) -> Response:
    candidates = (Candidate(parts=parts, finish=finish),)
    return Response(
        id="x-1", model="u", created_at=BORN, candidates=candidates, usage=Usage(input=2, output=3), **fields
    )


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_is_one_user_message() -> None:
    """And every option that conversations know, too, comes along."""
    request = decoded(
        prompt="Say hi",
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        n=2,
        stop=["a", "b"],
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"5": -100},
        seed=7,
        user="ann",
        stream=True,
        stream_options={"include_usage": True},
        min_p=0.1,
    )
    (message,) = request.messages
    assert (message.role, [part.text for part in message.parts if isinstance(part, Text)]) == ("user", ["Say hi"])
    assert (request.max_output_tokens, request.candidates, request.stop) == (9, 2, ("a", "b"))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 7)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias) == (1, -1, {"5": -100})
    assert (request.end_user, request.stream, request.include_usage) == ("ann", True, True)
    assert request.extras == {"openai-completions": {"min_p": 0.1}}


def test_no_limit_is_made_up() -> None:
    """The vendor's 16 tokens would leave nothing to say for a model that thinks first."""
    assert decoded().max_output_tokens is None


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("a", 1), (["a"], 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2]], 1), ([[1], [2, 3]], 2)],
    ids=str,
)
def test_several_prompts_are_known_from_outside(prompt: Any, count: int) -> None:
    """A list of tokens is one prompt, a list of texts or of lists is several."""
    assert inbound_request(prompt=prompt).is_batch == (count > 1)


def test_several_prompts_are_several_requests_of_one_message() -> None:
    """Decoding them as one request is refused."""
    batch = inbound_request(prompt=["a", "b"], n=2)
    requests = INBOUND.decode_each(batch)
    assert [request.messages[0].parts[0].text for request in requests] == ["a", "b"]
    assert [request.candidates for request in requests] == [2, 2]
    with pytest.raises(Unsupported) as refused:
        INBOUND.decode(batch)
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], [True]]}, "prompt[1]"),
        ({"prompt": [[1], "a", None]}, "prompt[2]"),
        ({"model": 7}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_from_outside(fields: dict[str, Any], param: str) -> None:
    """Also where the request is only passed on."""
    with pytest.raises(BadRequest) as refused:
        inbound_request(**fields)
    assert refused.value.param == param
    assert not isinstance(refused.value, Unsupported)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": [1]}, "stop[0]"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 0}, "best_of"),
        ({"logit_bias": {"a": "b"}}, "logit_bias.a"),
        ({"echo": "yes"}, "echo"),
        ({"suffix": 3}, "suffix"),
        ({"presence_penalty": 9}, "presence_penalty"),
    ],
    ids=str,
)
def test_what_is_wrong_inside_is_refused_where_it_is_read(fields: dict[str, Any], param: str) -> None:
    """A wrong type is a wrong type, and not something that the upstream cannot do."""
    with pytest.raises(BadRequest) as refused:
        decoded(**fields)
    assert refused.value.param == param
    assert not isinstance(refused.value, Unsupported)


@given(fields=st.dictionaries(st.sampled_from(FIELDS), json_values(), max_size=4))
@settings(max_examples=200)
def test_no_request_raises_anything_else(fields: dict[str, Any]) -> None:
    """Whatever stands in a body, it is read or refused."""
    with suppress(BadRequest):
        INBOUND.decode_each(inbound_request(**fields))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_by_sdk(body: bytes, **headers: str) -> openai.OpenAI:
    """The official client, given these bytes whatever it asks."""
    sent = {"content-type": "application/json", **headers}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body, headers=sent))
    return openai.OpenAI(api_key="k", base_url="http://t/v1", http_client=httpx2.Client(transport=transport))


def stream_of(events: Sequence[StreamEvent], **fields: Any) -> bytes:
    encoder = INBOUND.encoder(inbound_request(stream=True, **fields))
    return b"".join(encoder.feed([event]) for event in events)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.STOP_SEQUENCE, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.CONTEXT_LENGTH, "length"),
        (FinishReason.CONTENT_FILTER, "content_filter"),
        (FinishReason.REFUSAL, "content_filter"),
        (FinishReason.UNKNOWN, "stop"),
    ],
)
def test_finish_reasons_are_three(reason: FinishReason, word: str) -> None:
    """Whole and streamed alike."""
    response = answer(Text(text="t"), finish=Finish(reason=reason))
    whole = json.loads(INBOUND.encode(response, inbound_request()))
    assert whole["choices"][0]["finish_reason"] == word
    streamed = stream_of(list(unfold(response)))
    assert f'"finish_reason":"{word}"'.encode() in streamed


def test_only_words_are_told() -> None:
    """Thoughts and calls have no place; a refusal's words are text."""
    response = answer(
        Reasoning(text="hm"), Text(text="No. "), Refusal(text="Sorry."), ToolCall(call_id="c", name="f", arguments="{}")
    )
    assert json.loads(INBOUND.encode(response, inbound_request()))["choices"][0]["text"] == "No. Sorry."
    with read_by_sdk(stream_of(list(unfold(response))), **{"content-type": "text/event-stream"}) as client:
        chunks = list(client.completions.create(model="m", prompt="p", stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "No. Sorry."


def test_a_refusal_without_words_says_why() -> None:
    """Where the upstream told."""
    response = answer(finish=Finish(reason=FinishReason.REFUSAL, message="Not this."))
    assert json.loads(INBOUND.encode(response, inbound_request()))["choices"][0]["text"] == "Not this."
    assert b'"text":"Not this."' in stream_of(list(unfold(response)))


def test_a_part_that_is_told_only_at_its_end_is_told() -> None:
    """Some upstreams restate what they never streamed."""
    events: list[StreamEvent] = [
        Started("a", "u", BORN),
        PartStarted(0, 0, Text(text="")),
        PartEnded(0, 0, Text(text="late")),
        Finished(0, STOP),
        Ended(),
    ]
    assert b'"text":"late"' in stream_of(events)


def test_usage_is_told_last_and_only_if_asked() -> None:
    """Every chunk before it says null then."""
    events = [*unfold(answer(Text(text="t")))]
    events.insert(-1, UsageReported(Usage(input=2, output=3)))
    asked = stream_of(events, stream_options={"include_usage": True}).split(b"\n\n")
    chunks = [json.loads(frame[6:]) for frame in asked[:-2]]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert b"usage" not in stream_of(events)


def test_a_failure_is_an_error_event_and_the_last() -> None:
    """No end sign follows; it can be the very first event."""
    failed = stream_of([Failed(UpstreamFailed("gone"))])
    assert json.loads(failed.removeprefix(b"data: "))["error"]["message"] == "gone"
    with (
        read_by_sdk(failed, **{"content-type": "text/event-stream"}) as client,
        pytest.raises(openai.APIError, match="gone"),
    ):
        list(client.completions.create(model="m", prompt="p", stream=True))


@pytest.mark.parametrize("last", [Ended(), Failed(UpstreamFailed("gone"))], ids=["end", "failure"])
def test_nothing_is_told_behind_the_end(last: StreamEvent) -> None:
    """A call that is broken off while its last bytes are on their way has ended all the same."""
    encoder = INBOUND.encoder(inbound_request(stream=True))
    assert encoder.feed([*list(unfold(answer(Text(text="t"))))[:-1], last])
    assert encoder.feed([Failed(UpstreamFailed("too late"))]) == b""


def test_an_id_keeps_its_form_or_gets_it() -> None:
    """The same upstream id gives the same id."""
    own = msgspec.structs.replace(answer(), id="cmpl-7")
    assert json.loads(INBOUND.encode(own, inbound_request()))["id"] == "cmpl-7"
    made = {json.loads(INBOUND.encode(answer(), inbound_request()))["id"] for _ in range(2)}
    assert len(made) == 1
    assert made.pop().startswith("cmpl-")


@given(response=responses(kinds={"text", "refusal"}, candidates=2))
@settings(max_examples=60)
def test_the_sdk_reads_the_same_from_a_stream_as_from_the_whole(response: Response) -> None:
    """Text and finish of each choice."""
    with read_by_sdk(INBOUND.encode(response, inbound_request())) as client:
        whole = client.completions.create(model="m", prompt="p")
    texts = {choice.index: choice.text for choice in whole.choices}
    finishes = {choice.index: str(choice.finish_reason) for choice in whole.choices}
    with read_by_sdk(stream_of(list(unfold(response))), **{"content-type": "text/event-stream"}) as client:
        streamed = dict.fromkeys(texts, "")
        ends: dict[int, str] = {}
        for chunk in client.completions.create(model="m", prompt="p", stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
    assert (streamed, ends) == (texts, finishes)


@given(events=event_rows())
@settings(max_examples=60)
def test_every_legal_stream_can_be_written(events: list[StreamEvent]) -> None:
    """Whatever an upstream tells, bytes that are whole events come out."""
    written = stream_of(events)
    assert written.endswith(b"\n\n")
    if not isinstance(events[-1], Failed):
        assert written.endswith(b"data: [DONE]\n\n")
        assert fold(events)


def test_errors_are_openais() -> None:
    """With the words that its clients know."""
    problem = INBOUND.problem(ModelNotFound("x"))
    assert (problem.status, json.loads(problem.body)["error"]["code"]) == (404, "model_not_found")


# ── passed on ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_passed_on_as_it_came() -> None:
    """Number spelling, order and unknown fields survive; the model's name is the upstream's."""
    body = b'{"prompt":[[1,2],[3]],"model":"m","temperature":1.50,"best_of":3,"x":{"b":1,"a":2}}'
    upstream_request = OUTBOUND.passthrough_request(INBOUND.open(body, headers={}), UPSTREAM)
    assert upstream_request.body == body.replace(b'"m"', b'"old-1"')
    assert not upstream_request.stream


def test_an_answer_is_passed_on_as_it_came() -> None:
    """But the model's name; its usage is noted."""
    body = (
        b'{"id":"cmpl-1","model":"old-1","choices":[{"text":"t","index":0,"logprobs":{"x":1.50},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
    )
    batch = OUTBOUND.passthrough_response(body, inbound_request(), UPSTREAM)
    assert batch.raw == body.replace(b'"old-1"', b'"m"')
    (event,) = batch.events
    assert isinstance(event, UsageReported)
    assert event.usage.total == 3


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_is_whole_when_every_choice_is(size: int) -> None:
    """Two prompts with two candidates each are four choices; one less is a cut stream."""
    frames = [
        b'data: {"id":"c","model":"old-1","choices":[{"text":"t","index":%d,"finish_reason":"stop"}]}\n\n' % index
        for index in range(4)
    ]
    asked = inbound_request(prompt=["a", "b"], n=2, stream=True)
    for count, ending in ((4, Ended), (3, Failed)):
        passthrough = OUTBOUND.passthrough_stream(asked, UPSTREAM)
        data = b"".join(frames[:count])
        batches = [passthrough.feed(data[start : start + size]) for start in range(0, len(data), size)]
        batches.append(passthrough.close())
        assert type([event for batch in batches for event in batch.events][-1]) is ending
        raw = b"".join(batch.raw or b"" for batch in batches)
        assert raw.startswith(data.replace(b"old-1", b"m"))


def test_errors_of_the_upstream_keep_their_words() -> None:
    """They come back to its own callers as they were."""
    native = {"message": "too long", "type": "t", "param": "prompt", "code": "c", "more": 1}
    error = OUTBOUND.decode_error(400, {}, json.dumps({"error": native}).encode())
    assert isinstance(error, UpstreamRefused)
    assert error.protocol == "openai-completions"
    assert json.loads(INBOUND.problem(error).body)["error"] == native


def test_no_conversation_is_written_as_a_prompt() -> None:
    """The target is unfit, so that another may serve."""
    with pytest.raises(Unsupported):
        OUTBOUND.encode(decoded(), UPSTREAM)


@given(body=st.binary(max_size=60))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """What is no request is refused."""
    with pytest.raises(BadRequest):
        INBOUND.open(body, headers={})
