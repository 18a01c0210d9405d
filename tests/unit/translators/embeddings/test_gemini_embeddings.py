"""Gemini's embeddings: one content or a batch, served and spoken, and across to OpenAI's and back."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi.conversation import Usage, UsageReported
from llmproxy_asgi.errors import BadRequest, Unsupported, UpstreamProtocolError, UpstreamRateLimited, UpstreamRefused
from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.embeddings.gemini import BATCH, ONE
from llmproxy_asgi.translators.embeddings.records import EmbeddingInput, EmbeddingRequest, Embeddings
from llmproxy_asgi.translators.registry import translator
from support.conversations import json_values

TRANSLATOR = translator("gemini-embeddings")
INBOUND, OUTBOUND = TRANSLATOR.inbound, TRANSLATOR.outbound
OPENAI = translator("openai-embeddings")
UPSTREAM = Upstream(provider="google", model="gemini-embedding-001", client_model="m", issuer="gemini")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = ((0.5, -1.25), (1.0, 0.0))
ANSWER = Embeddings(model="m", vectors=VECTORS, usage=Usage(input=4))


def opened(body: bytes, method: str = BATCH) -> InboundRequest:
    return INBOUND.open(body, headers={}, path={"model": "models/m", "method": method})


def inbound_request(body: Any, method: str = BATCH) -> InboundRequest:
    return opened(json.dumps(body).encode(), method)


def content(*texts: str) -> dict[str, Any]:
    return {"parts": [{"text": text} for text in texts]}


def batch(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"requests": [{"model": "models/m", "content": content(text), **fields} for text in texts]}


def decoded(body: Any, method: str = BATCH) -> EmbeddingRequest:
    request = INBOUND.decode(inbound_request(body, method))
    assert isinstance(request, EmbeddingRequest)
    return request


# ── served ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(101)
def test_101_googles_sdk_embeds_a_batch() -> None:
    """The official client's request is read, and it reads the answer."""
    seen: list[EmbeddingRequest] = []

    def answering(request: httpx2.Request) -> httpx2.Response:
        path, _, method = request.url.path.rpartition(":")
        found = INBOUND.open(request.content, headers={}, path={"model": path.rpartition("/")[2], "method": method})
        assert found.model == "m"
        seen.append(INBOUND.decode(found))
        return httpx2.Response(200, content=INBOUND.encode(ANSWER, found))

    with httpx2.Client(transport=httpx2.MockTransport(answering)) as http:
        options = types.HttpOptions(base_url="http://gateway.invalid", httpx_client=http)
        client = genai.Client(api_key="k", http_options=options)
        config = types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT", title="T", output_dimensionality=2)
        answer = client.models.embed_content(model="m", contents=["one", "two"], config=config)
    assert [tuple(each.values or ()) for each in answer.embeddings or ()] == list(VECTORS)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.prompt_token_count == 4
    (request,) = seen
    tuning = {"gemini-embeddings": {"taskType": "RETRIEVAL_DOCUMENT", "title": "T"}}
    assert request.inputs == tuple(EmbeddingInput(text=text, extras=tuning) for text in ("one", "two"))
    assert request.dimensions == 2


@pytest.mark.parametrize("names", [("taskType", "outputDimensionality"), ("task_type", "output_dimensionality")])
def test_one_content_is_a_batch_of_one(names: tuple[str, str]) -> None:
    """In either spelling of the keys; several texts are one, a line each."""
    body = {"content": content("a", "b"), names[0]: "CLUSTERING", names[1]: "8"}
    request = decoded(body, ONE)
    (one,) = request.inputs
    assert (one.text, request.dimensions) == ("a\nb", 8)
    assert one.extras == {"gemini-embeddings": {"taskType": "CLUSTERING"}}
    told = json.loads(INBOUND.encode(Embeddings(model="m", vectors=VECTORS[:1]), inbound_request(body, ONE)))
    assert told["embedding"] == {"values": list(VECTORS[0])}


def test_uncounted_tokens_are_not_told() -> None:
    """A number would be made up."""
    told = Embeddings(model="m", vectors=VECTORS, usage=Usage(estimated=True))
    assert json.loads(INBOUND.encode(told, inbound_request(batch("a", "b")))).keys() == {"embeddings"}


@pytest.mark.parametrize(
    ("body", "method", "param"),
    [
        ({}, BATCH, "requests"),
        ({}, ONE, "content"),
        ({"requests": []}, BATCH, "requests"),
        ({"requests": {}}, BATCH, "requests"),
        ({"requests": ["a"]}, BATCH, "requests[0]"),
        ({"requests": [{}]}, BATCH, "requests[0].content"),
        ({"requests": [{"content": {}}]}, BATCH, "requests[0].content.parts"),
        ({"requests": [{"content": {"parts": [{"text": 7}]}}]}, BATCH, "requests[0].content.parts[0].text"),
        ({"requests": [{"content": content("")}]}, BATCH, "requests[0].content"),
        (batch("a", outputDimensionality=0), BATCH, "requests[0].outputDimensionality"),
        (batch("a", title=7), BATCH, "requests[0].title"),
        ({"content": "a"}, ONE, "content"),
        ({"content": {"parts": [{"text": None}]}}, ONE, "content.parts[0]"),
        ({"content": content("a"), "taskType": 7}, ONE, "taskType"),
    ],
    ids=str,
)
def test_98_what_is_wrong_is_refused_by_name(body: Any, method: str, param: str) -> None:
    """With the path of the field."""
    with pytest.raises(BadRequest) as refused:
        decoded(body, method)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"Model": "models/other"}, "requests[1].Model"),
        ({"MODEL": "models/other"}, "requests[1].MODEL"),
        ({"output_Dimensionality": 1}, "requests[1].output_Dimensionality"),
        ({"taskType": "A", "task_type": "B"}, "requests[1].task_type"),
    ],
)
def test_a_second_spelling_within_a_batch_is_refused(fields: dict[str, Any], param: str) -> None:
    """Each request of a batch names its model once more, so its names are looked at like those of the whole."""
    asked = inbound_request({"requests": [{"content": content("a")}, {"content": content("b"), **fields}]})
    for read in (INBOUND.decode, lambda asked: OUTBOUND.passthrough_request(asked, UPSTREAM)):
        with pytest.raises(BadRequest) as refused:
            read(asked)
        assert refused.value.param == param


def test_what_only_google_embeds_stays_there() -> None:
    """Pictures, and vectors of several sizes in one call."""
    picture = {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}
    sizes = [*batch("a", outputDimensionality=2)["requests"], *batch("b", outputDimensionality=3)["requests"]]
    for body, param in (
        ({"requests": [{"content": picture}]}, "requests[0].content.parts[0]"),
        ({"requests": sizes}, "requests[].outputDimensionality"),
    ):
        with pytest.raises(Unsupported) as refused:
            decoded(body)
        assert refused.value.param == param


@given(
    body=st.dictionaries(
        st.sampled_from(["requests", "content", "taskType", "title", "outputDimensionality"]),
        st.one_of(
            json_values(),
            st.lists(st.dictionaries(st.sampled_from(["content", "title", "model"]), json_values()), max_size=2),
        ),
        max_size=3,
    ),
    method=st.sampled_from([ONE, BATCH]),
)
@settings(max_examples=200)
def test_no_request_raises_anything_else(body: dict[str, Any], method: str) -> None:
    """Read whole, or only passed on."""
    with suppress(BadRequest):
        decoded(body, method)
    with suppress(BadRequest):
        OUTBOUND.passthrough_request(inbound_request(body, method), UPSTREAM)


# ── spoken ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_13_a_batch_is_passed_on_as_it_came() -> None:
    """But the model's name, wherever it stands."""
    body = b'{"requests":[{"model":"models/m","content":{"parts":[{"text":"a"}]},"x":1.50},{"title":"T","content":{}}]}'
    expected = body.replace(b'"models/m"', b'"models/gemini-embedding-001"')
    expected = expected.replace(b'"content":{}}', b'"content":{},"model":"models/gemini-embedding-001"}')
    assert OUTBOUND.passthrough_request(opened(body), UPSTREAM).body == expected


def test_one_content_is_passed_on_as_a_batch_of_one_and_its_answer_back() -> None:
    """Upstreams have one address for both."""
    asked = opened(b'{"content":{"parts":[{"text":"a"}]},"title":"T"}', ONE)
    model = b'"model":"models/gemini-embedding-001"'
    assert OUTBOUND.passthrough_request(asked, UPSTREAM).body == (
        b'{"requests":[{"content":{"parts":[{"text":"a"}]},"title":"T",' + model + b"}]}"
    )
    found = OUTBOUND.passthrough_response(
        b'{"embeddings":[{"values":[1.50]}],"usageMetadata":{"promptTokenCount":3}}', asked, UPSTREAM
    )
    assert found.raw == b'{"embedding":{"values":[1.50]},"usageMetadata":{"promptTokenCount":3}}'
    assert [event.usage.input for event in found.events if isinstance(event, UsageReported)] == [3]
    with pytest.raises(UpstreamProtocolError):
        OUTBOUND.passthrough_response(b'{"embeddings":[]}', asked, UPSTREAM)


def test_a_batchs_answer_is_passed_on_as_it_came() -> None:
    """Byte by byte: it names no model."""
    body = b'{"embeddings":[{"values":[1.50]}],"more":{}}'
    found = OUTBOUND.passthrough_response(body, inbound_request(batch("a")), UPSTREAM)
    assert (found.raw, found.events) == (body, ())


@pytest.mark.fidelity(101)
def test_101_openais_request_becomes_one_batch() -> None:
    """Texts, size; tokens that only OpenAI's models know are refused, the end user is left out."""

    def asked(**fields: Any) -> EmbeddingRequest:
        opened_ = OPENAI.inbound.open(json.dumps({"model": "m", **fields}).encode(), headers={})
        request = OPENAI.inbound.decode(opened_)
        assert isinstance(request, EmbeddingRequest)
        return request

    upstream_request = OUTBOUND.encode(asked(input=["a", "b"], dimensions=2, user="ann", odd=1), UPSTREAM)
    model = "models/gemini-embedding-001"
    assert json.loads(upstream_request.body) == {
        "requests": [{"model": model, "content": content(text), "outputDimensionality": 2} for text in ("a", "b")]
    }
    assert upstream_request.warnings == ("dropped:odd",)
    with pytest.raises(Unsupported) as refused:
        OUTBOUND.encode(asked(input=[1, 2]), UPSTREAM)
    assert refused.value.param == "input"


def test_googles_request_becomes_openais() -> None:
    """What tunes the vector there and has no word here is named as lost."""
    request = decoded(batch("a", "b", taskType="CLUSTERING", outputDimensionality=2))
    upstream_request = OPENAI.outbound.encode(request, UPSTREAM)
    assert json.loads(upstream_request.body) == {"model": "gemini-embedding-001", "input": ["a", "b"], "dimensions": 2}
    assert upstream_request.warnings == ("dropped:taskType",)


def test_a_request_survives_the_way_there() -> None:
    """Tuning included, where it came from Google's own clients."""
    request = decoded(batch("a", taskType="CLUSTERING", title="T", outputDimensionality=2))
    assert decoded(json.loads(OUTBOUND.encode(request, UPSTREAM).body)) == request


def read(body: bytes, *texts: str) -> Embeddings:
    upstream_request = OUTBOUND.encode(decoded(batch(*texts)), UPSTREAM)
    found = OUTBOUND.decode(body, upstream_request, UPSTREAM, received_at=NOW)
    assert isinstance(found, Embeddings)
    return found


@pytest.mark.parametrize("counted", [True, False])
def test_vectors_are_read(counted: bool) -> None:
    """The classic models count no tokens; then they are estimated from the texts, and said to be."""
    usage = {"usageMetadata": {"promptTokenCount": 4}} if counted else {}
    body = json.dumps({"embeddings": [{"values": vector} for vector in VECTORS], **usage}).encode()
    found = read(body, "a", "b")
    assert (found.model, found.vectors) == ("m", VECTORS)
    assert (found.usage.input, found.usage.estimated) == ((4, False) if counted else (2, True))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"embeddings":[]}', b'{"embeddings":[{"values":["a"]}]}', b'{"embeddings":[{}]}'],
)
def test_96_rubbish_breaks_the_protocol(body: bytes) -> None:
    """Nothing of it is shown."""
    with pytest.raises(UpstreamProtocolError):
        read(body, "a")


def test_errors_are_googles() -> None:
    """Judged by status, and given back to their own callers as they were."""
    native = {"code": 400, "message": "no", "status": "INVALID_ARGUMENT", "details": []}
    refused = OUTBOUND.decode_error(400, {}, json.dumps({"error": native}).encode())
    assert isinstance(refused, UpstreamRefused)
    assert json.loads(INBOUND.problem(refused).body)["error"] == native
    limited = b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"slow"}}'
    for asking in (
        lambda: read(limited, "a"),
        lambda: OUTBOUND.passthrough_response(limited, inbound_request(batch("a")), UPSTREAM),
    ):
        with pytest.raises(UpstreamRateLimited):
            asking()
