"""OpenAI's Embeddings: what callers send and read, what goes upstream and comes back."""

import base64
import json
import math
import struct
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi.conversation import Usage, UsageReported
from llmproxy_asgi.errors import (
    BadRequest,
    InternalError,
    UpstreamAuthFailed,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.embeddings.records import EmbeddingInput, EmbeddingRequest, Embeddings
from llmproxy_asgi.translators.registry import translator
from support.conversations import json_values

TRANSLATOR = translator("openai-embeddings")
INBOUND, OUTBOUND = TRANSLATOR.inbound, TRANSLATOR.outbound
UPSTREAM = Upstream(provider="up", model="embedder-1", client_model="m", issuer="provider:up")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = ((0.5, -1.25, 3.0), (1.0, 0.0, -2.0))
ANSWER = Embeddings(model="m", vectors=VECTORS, usage=Usage(input=4))


def inbound_request(**fields: Any) -> InboundRequest:
    return INBOUND.open(json.dumps({"model": "m", "input": "one", **fields}).encode(), headers={})


def decoded(**fields: Any) -> EmbeddingRequest:
    request = INBOUND.decode(inbound_request(**fields))
    assert isinstance(request, EmbeddingRequest)
    return request


def packed(vector: Any) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# ── served ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("a", [EmbeddingInput(text="a")]),
        (["a", "b"], [EmbeddingInput(text="a"), EmbeddingInput(text="b")]),
        ([1, 2], [EmbeddingInput(tokens=(1, 2))]),
        ([[1], [2, 3]], [EmbeddingInput(tokens=(1,)), EmbeddingInput(tokens=(2, 3))]),
    ],
    ids=str,
)
def test_inputs_come_in_four_forms(given_: Any, expected: list[EmbeddingInput]) -> None:
    """A text or several, tokens or several lists of them."""
    assert list(decoded(input=given_).inputs) == expected


def test_options_come_along() -> None:
    """Unknown fields are kept as extras."""
    request = decoded(dimensions=64, user="ann", encoding_format="base64", truncate="END")
    assert (request.dimensions, request.end_user) == (64, "ann")
    assert request.extras == {"openai-embeddings": {"truncate": "END"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": {}}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[1], [True]]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "64"}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": 7}, "model"),
        ({"user": 7}, "user"),
    ],
    ids=str,
)
def test_98_what_is_wrong_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """With the path of the field."""
    with pytest.raises(BadRequest) as refused:
        decoded(**fields)
    assert refused.value.param == param


@given(
    fields=st.dictionaries(
        st.sampled_from(["model", "input", "dimensions", "encoding_format", "user", "more"]), json_values(), max_size=4
    )
)
@settings(max_examples=200)
def test_no_request_raises_anything_else(fields: dict[str, Any]) -> None:
    """Whatever stands in a body, it is read or refused."""
    with suppress(BadRequest):
        decoded(**fields)


@pytest.mark.fidelity(101)
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["default", "float"])
def test_101_the_sdk_reads_what_it_asked_for(options: dict[str, Any]) -> None:
    """Base64 by default, numbers on request, and the same vectors in either."""

    def answering(request: httpx2.Request) -> httpx2.Response:
        body = INBOUND.encode(ANSWER, INBOUND.open(request.content, headers={}))
        assert (b'"embedding":"' in body) == (not options)
        return httpx2.Response(200, content=body, headers={"content-type": "application/json"})

    transport = httpx2.MockTransport(answering)
    http = httpx2.Client(transport=transport)
    with openai.OpenAI(api_key="k", base_url="http://t/v1", http_client=http) as client:
        found = client.embeddings.create(model="m", input=["a", "b"], **options)
    assert tuple(tuple(each.embedding) for each in found.data) == VECTORS
    assert [each.index for each in found.data] == [0, 1]
    assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("m", 4, 4)


def test_base64_is_little_endian_float32() -> None:
    """As the vendor's is, on every machine."""
    body = json.loads(INBOUND.encode(ANSWER, inbound_request(encoding_format="base64")))
    assert [each["embedding"] for each in body["data"]] == list(map(packed, VECTORS))


def test_embeddings_never_stream() -> None:
    """Asking for a stream codec is a bug and raises."""
    assert not inbound_request(stream=True).stream
    for asking in (
        lambda: INBOUND.encoder(inbound_request()),
        lambda: OUTBOUND.decoder(OUTBOUND.passthrough_request(inbound_request(), UPSTREAM), UPSTREAM),
        lambda: OUTBOUND.passthrough_stream(inbound_request(), UPSTREAM),
    ):
        with pytest.raises(InternalError):
            asking()


# ── spoken ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_13_a_request_is_passed_on_as_it_came() -> None:
    """But the model's name."""
    body = b'{"input":["a"],"model":"m","dimensions":64.0,"x":{"b":1,"a":2},"encoding_format":"base64"}'
    upstream_request = OUTBOUND.passthrough_request(INBOUND.open(body, headers={}), UPSTREAM)
    assert upstream_request.body == body.replace(b'"m"', b'"embedder-1"')


def test_14_an_answer_is_passed_on_as_it_came() -> None:
    """But the model's name; its usage is noted where there is any."""
    told = b'{"object":"list","data":[{"embedding":[1.50],"index":0}],"model":"embedder-1"%s}'
    counted = told % b',"usage":{"prompt_tokens":4,"total_tokens":4}'
    batch = OUTBOUND.passthrough_response(counted, inbound_request(), UPSTREAM)
    assert batch.raw == counted.replace(b"embedder-1", b"m")
    assert [event.usage.input for event in batch.events if isinstance(event, UsageReported)] == [4]
    assert OUTBOUND.passthrough_response(told % b"", inbound_request(), UPSTREAM).events == ()


def test_a_request_made_elsewhere_is_written_whole() -> None:
    """Texts and tokens in one list; nothing that only some servers take."""
    request = EmbeddingRequest(
        protocol="made-up",
        model="m",
        inputs=(EmbeddingInput(text="a"), EmbeddingInput(tokens=(1, 2))),
        dimensions=8,
        end_user="ann",
        extras={"made-up": {"odd": 1}},
    )
    upstream_request = OUTBOUND.encode(request, UPSTREAM)
    expected = {"model": "embedder-1", "input": ["a", [1, 2]], "dimensions": 8, "user": "ann"}
    assert json.loads(upstream_request.body) == expected
    assert upstream_request.warnings == ("dropped:odd",)


def answer(data: Any, **fields: Any) -> bytes:
    return json.dumps({"object": "list", "data": data, "model": "embedder-1", **fields}).encode()


def read(body: bytes, *, inputs: int = 2) -> Embeddings:
    upstream_request = OUTBOUND.encode(decoded(input=["x"] * inputs), UPSTREAM)
    found = OUTBOUND.decode(body, upstream_request, UPSTREAM, received_at=NOW)
    assert isinstance(found, Embeddings)
    return found


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("form", [list, packed], ids=["floats", "base64"])
def test_vectors_are_read_in_either_form_and_in_order(form: Any, numbered: bool) -> None:
    """The index counts where there is one, else the place."""
    data = [
        {"embedding": form(vector), **({"index": index} if numbered else {})} for index, vector in enumerate(VECTORS)
    ]
    found = read(answer(data[::-1] if numbered else data, usage={"prompt_tokens": 4, "total_tokens": 4}))
    assert found == Embeddings(model="m", vectors=VECTORS, usage=found.usage)
    assert (found.usage.input, found.usage.estimated) == (4, False)


def test_uncounted_tokens_are_none_and_said_to_be() -> None:
    """Nothing is made up."""
    found = read(answer([{"embedding": [1]}], usage=None), inputs=1)
    assert (found.usage.input, found.usage.estimated) == (0, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"object":"list"}',
        answer([]),
        answer([{"embedding": [1]}]),
        answer([{"embedding": [1]}] * 3),
        answer([{"embedding": [1], "index": 0}] * 2),
        answer([{"embedding": [1], "index": 1}, {"embedding": [1], "index": 2}]),
        answer([{"embedding": "!!!!"}, {"embedding": "AAAA"}]),
        answer([{"embedding": "AAA="}, {"embedding": "AAA="}]),
        answer([{"embedding": ["a"]}, {"embedding": [None]}]),
    ],
    ids=lambda body: body[:60].decode(),
)
def test_96_rubbish_breaks_the_protocol(body: bytes) -> None:
    """Nothing of it is shown."""
    with pytest.raises(UpstreamProtocolError):
        read(body)


def test_an_error_in_a_good_answer_is_an_error() -> None:
    """Whole or only passed on."""
    body = json.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).encode()
    for asking in (lambda: read(body), lambda: OUTBOUND.passthrough_response(body, inbound_request(), UPSTREAM)):
        with pytest.raises(UpstreamRateLimited):
            asking()


def test_91_errors_are_judged_by_status() -> None:
    """And come back to their own callers as they were, but those about our credential."""
    native = {"message": "m", "type": "t", "param": "input", "code": None}
    refused = OUTBOUND.decode_error(400, {}, json.dumps({"error": native}).encode())
    assert isinstance(refused, UpstreamRefused)
    assert json.loads(INBOUND.problem(refused).body)["error"] == native
    assert isinstance(OUTBOUND.decode_error(401, {}, b""), UpstreamAuthFailed)


@given(
    vectors=st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    ),
    encoding=st.sampled_from(["float", "base64"]),
)
def test_what_is_written_is_read(vectors: list[list[float]], encoding: str) -> None:
    """Float32 values survive both encodings exactly."""
    told = Embeddings(model="m", vectors=tuple(map(tuple, vectors)), usage=Usage(input=1))
    found = read(INBOUND.encode(told, inbound_request(encoding_format=encoding)), inputs=len(vectors))
    assert found.vectors == told.vectors


def test_a_number_beyond_float32_is_still_written() -> None:
    """As infinity, which is what it is there."""
    told = Embeddings(model="m", vectors=((1e300,),), usage=Usage(input=1))
    found = read(INBOUND.encode(told, inbound_request(encoding_format="base64")), inputs=1)
    assert math.isinf(found.vectors[0][0])
