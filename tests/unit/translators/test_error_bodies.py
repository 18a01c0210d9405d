"""What an upstream's error body says, in each of the shapes that servers use."""

import json
import time
from functools import partial
from typing import Any

import pytest

from llmproxy_asgi.conversation import UNDATED, Failed
from llmproxy_asgi.errors import GatewayError, UpstreamError
from llmproxy_asgi.translators.base import InboundRequest, Upstream, UpstreamRequest
from llmproxy_asgi.translators.error_bodies import error_of, error_of_body
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.translators.stray_errors import find_error

FASTAPI = {
    "detail": [
        {
            "type": "string_type",
            "loc": ["body", "messages", 0, "content"],
            "msg": "Input should be a valid string",
            "input": {"secret": "what the caller wrote"},
        },
        {"type": "missing", "loc": ["body", "model"], "msg": "Field required"},
    ]
}
REASON = "messages[0].content: Input should be a valid string; model: Field required"
PAGE = """<!DOCTYPE html><html><head><title>413 Too Large</title><style>h1 {color: red}</style>
<script>if (1 < 2) alert("no")</script></head>
<body><!-- hidden --><center><h1>413 Request Entity Too Large</h1></center><hr>nginx &amp; friends</body></html>"""

BODIES: list[Any] = [
    pytest.param({"error": {"message": "words", "code": 7}}, "words", id="vendor"),
    pytest.param({"error": "words"}, "words", id="string"),
    pytest.param({"error": {"detail": "words"}}, "words", id="detail-within"),
    pytest.param({"message": "words"}, "words", id="message"),
    pytest.param({"msg": "words"}, "words", id="msg"),
    pytest.param({"Message": "words"}, "words", id="capital"),
    pytest.param({"detail": "words"}, "words", id="detail"),
    pytest.param({"detail": {"error": {"message": "words"}}}, "words", id="detail-object"),
    pytest.param(FASTAPI, REASON, id="fastapi"),
    pytest.param(FASTAPI["detail"], REASON, id="bare-validation"),
    pytest.param({"object": "error", "message": FASTAPI, "code": 422}, REASON, id="mistral"),
    pytest.param({"errors": ["words", "more"]}, "words; more", id="errors-strings"),
    pytest.param({"success": False, "errors": [{"code": 1, "message": "words"}]}, "words", id="errors-objects"),
    pytest.param({"title": "Bad Request", "errors": {"stop": ["is wrong"]}}, "stop: is wrong", id="errors-fields"),
    pytest.param({"title": "Bad Request", "detail": "words"}, "words", id="problem-json"),
    pytest.param({"title": "words", "status": 400}, "words", id="problem-json-title"),
    pytest.param({"fault": {"faultstring": "words", "detail": {"errorcode": "a.B"}}}, "words", id="apigee"),
    pytest.param({"fault": {"message": "words", "code": 1}}, "words", id="wso2"),
    pytest.param({"__type": "com.amazon#SomeException", "message": "words"}, "words", id="aws"),
    pytest.param({"__type": "SomeException", "Message": "words"}, "words", id="aws-capital"),
    pytest.param({"__type": "com.amazon#SomeException"}, "com.amazon#SomeException", id="aws-type-alone"),
    pytest.param({"error": "invalid_request", "error_description": "words"}, "words", id="oauth"),
    pytest.param({"errorMessage": "words", "errorType": "Some"}, "words", id="lambda"),
    pytest.param({"error_code": 17, "error_msg": "words"}, "words", id="baidu"),
    pytest.param({"reason": "words"}, "words", id="reason"),
    pytest.param({"statusCode": 400, "message": ["words", "more"], "error": "Bad Request"}, "words; more", id="nest"),
    pytest.param([{"error": {"message": "words"}}], "words", id="list"),
    pytest.param("words", "words", id="json-string"),
    pytest.param(b"words\n\x1b[31m of a proxy", "words [31m of a proxy", id="text"),
    pytest.param(b"\xef\xbb\xbf" + b'{"error": {"message": "words"}}', "words", id="byte-order-mark"),
    pytest.param(b'event: error\ndata: {"error": {"message": "words"}}\n\n', "words", id="event"),
    pytest.param(PAGE.encode(), "413 Request Entity Too Large nginx & friends", id="page"),
    pytest.param(b"<html><head><title>Blocked</title></head></html>", "Blocked", id="title-alone"),
    pytest.param(b"<Error><Code>Bad</Code><Message>words</Message></Error>", "Bad words", id="xml"),
    pytest.param(b"\xff words", "\ufffd words", id="no-utf-8"),
]


def encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(("body", "reason"), BODIES)
@pytest.mark.parametrize(
    "protocol", ["openai-chat", "openai-responses", "openai-embeddings", "anthropic-messages", "gemini"]
)
def test_a_refusal_keeps_its_reason(protocol: str, body: object, reason: str) -> None:
    """Whatever the shape and the protocol, the caller reads the words that the upstream refused with."""
    found = translator(protocol).outbound.decode_error(400, {}, encoded(body))
    assert (found.status, found.message) == (400, reason)
    shown = translator(protocol).inbound.problem(found).body.decode()
    assert json.dumps(reason, ensure_ascii=False)[1:-1] in shown
    assert "what the caller wrote" not in shown


PROTOCOLS = ["openai-chat", "openai-responses", "anthropic-messages", "gemini"]
STRAY: list[Any] = [
    pytest.param({"fault": {"faultstring": "words", "detail": {"errorcode": "a.B"}}, "status": 400}, 400, id="apigee"),
    pytest.param({"__type": "com.amazon#ValidationException", "message": "words"}, 400, id="aws"),
    pytest.param({"__type": "ThrottlingException", "Message": "words"}, 429, id="aws-capital"),
    pytest.param({"Message": "words", "code": 400}, 400, id="capital"),
    pytest.param({"error": "invalid_request_error", "error_description": "words", "status": 400}, 400, id="oauth"),
    pytest.param({"type": "about:blank", "title": "Bad", "status": 400, "detail": "words"}, 400, id="problem-json"),
    pytest.param({"title": "words", "status": 422}, 422, id="problem-json-title"),
    pytest.param({"reason": "words", "code": 409}, 409, id="reason"),
    pytest.param({"statusCode": 429, "message": "words"}, 429, id="api-management"),
    pytest.param({"detail": [{"loc": ["body"], "msg": "words"}], "status": 400}, 400, id="fastapi"),
]
BEGINNINGS: dict[str, bytes] = {
    "openai-chat": b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
    "openai-responses": b"event: response.created\ndata: "
    b'{"type":"response.created","response":{"id":"r","status":"in_progress","output":[]}}\n\n',
    "anthropic-messages": b"event: message_start\ndata: "
    b'{"type":"message_start","message":{"id":"m","usage":{"input_tokens":1,"output_tokens":1}}}\n\n',
    "gemini": b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}\n\n',
}
ENDS = {"openai-chat": b"data: [DONE]\n\n"}


def streamed(protocol: str, *frames: bytes, passed_through: bool) -> GatewayError:
    """The error that ends a stream."""
    outbound = translator(protocol).outbound
    inbound_request = InboundRequest(protocol=protocol, model="m", stream=True, raw={}, path={"model": "m"})
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")
    upstream_request = UpstreamRequest(body=b"{}", stream=True, nonce="n")
    decoder = (
        outbound.passthrough_stream(inbound_request, upstream)
        if passed_through
        else outbound.decoder(upstream_request, upstream)
    )
    events = [event for frame in frames for event in decoder.feed(frame).events]
    last = (*events, *decoder.close().events)[-1]
    assert isinstance(last, Failed)
    return last.error


@pytest.mark.parametrize(("body", "status"), STRAY)
@pytest.mark.parametrize("passed_through", [False, True], ids=["translation", "passthrough"])
@pytest.mark.parametrize("begun", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_in_a_stream_keeps_its_reason(
    protocol: str, begun: bool, passed_through: bool, body: object, status: int
) -> None:
    """In the first event or in a later one, followed by an end sign or not, read or passed on."""
    begin = (BEGINNINGS[protocol],) if begun else ()
    for end in ((), (ENDS[protocol],)) if protocol in ENDS else ((),):
        found = streamed(protocol, *begin, b"data: " + encoded(body) + b"\n\n", *end, passed_through=passed_through)
        assert (found.status, "words" in found.message) == (status, True)
    if protocol in ENDS:
        joined = b"data: " + encoded(body) + b"\n\n" + ENDS[protocol]
        assert "words" in streamed(protocol, *begin, joined, passed_through=passed_through).message


@pytest.mark.parametrize(("body", "status"), STRAY)
@pytest.mark.parametrize("passed_through", [False, True], ids=["translation", "passthrough"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_with_a_good_status_keeps_its_reason(
    protocol: str, passed_through: bool, body: object, status: int
) -> None:
    """A whole body that is an error in the place of an answer."""
    outbound = translator(protocol).outbound
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")
    inbound_request = InboundRequest(protocol=protocol, model="m", raw={}, path={"model": "m"})
    upstream_request = UpstreamRequest(body=b"{}", stream=False, nonce="n")
    read = partial(outbound.decode, upstream_request=upstream_request, upstream=upstream, received_at=UNDATED)
    passed = partial(outbound.passthrough_response, inbound_request=inbound_request, upstream=upstream)
    with pytest.raises(UpstreamError) as raised:
        (passed if passed_through else read)(encoded(body))
    assert (raised.value.status, "words" in raised.value.message) == (status, True)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "status", "detail": "searching"},
        {"type": "status", "title": "Search", "status": "running"},
        {"choices": [], "detail": "about the usage"},
        {"id": "1", "errors": []},
        {"fault": None},
    ],
)
def test_another_event_is_no_error(body: object) -> None:
    """What services send beside an answer does not end it."""
    assert find_error(encoded(body)) is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"fault": {"faultstring": "words", "detail": {"errorcode": "steps.Bad"}}}, "steps.Bad"),
        ({"__type": "com.amazon#ValidationException", "message": "words"}, "ValidationException"),
        ({"error": "invalid_request", "error_description": "words"}, "invalid_request"),
        ({"error": "model not found"}, None),
        ({"type": "https://example.com/full", "title": "Full", "detail": "words"}, None),
    ],
)
def test_a_code_of_another_shape_is_kept(body: object, code: str | None) -> None:
    """The word for programs, wherever it stands; an address or a sentence is none."""
    found = error_of(body)
    assert found is not None
    assert (found.get("code"), found.get("type")) == (code, None)


def test_a_fault_of_validation_names_its_field() -> None:
    """FastAPI's place is the field's path, without the part of the request that it begins with."""
    found = translator("openai-chat").outbound.decode_error(422, {}, encoded(FASTAPI))
    assert (found.status, found.param) == (422, "messages[0].content")


@pytest.mark.parametrize(
    "body", [b"", b" \n", b"{}", b"[]", b"null", b"7", b"<html></html>", b"data:", b"\xff\xfe", b"[" * 2000]
)
def test_a_body_without_words_says_nothing(body: bytes) -> None:
    """Nothing is made up where there is nothing."""
    assert error_of_body(400, body) is None


def test_a_reason_is_bounded() -> None:
    """Of a long text the beginning is shown, on one line."""
    found = error_of_body(400, b"x" * 100_000)
    assert found is not None
    assert len(found["message"]) == 1003
    assert error_of({"errors": ["e"] * 50}) == {"message": "e; e; e"}
    assert error_of({"detail": {"detail": {"detail": {"detail": {"detail": {"detail": "deep"}}}}}}) is None


@pytest.mark.parametrize("piece", [b"<script>", b"<", b"<title", b"<!--", b"<a>x"])
def test_markup_costs_no_more_than_its_size(piece: bytes) -> None:
    """A hostile page of a quarter of a mebibyte is read in one pass."""
    begun = time.process_time()
    error_of_body(400, b"<html>" + piece * (256 * 1024 // len(piece)))
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("protocol", ["openai-chat", "anthropic-messages", "gemini"])
def test_the_vendors_own_object_passes_whole(protocol: str) -> None:
    """An object with a message of its own is kept with every field."""
    native = {"message": "words", "type": "t", "details": {"error_code": "c"}, "more": [1]}
    found = translator(protocol).outbound.decode_error(400, {}, encoded({"error": native}))
    assert found.native == native


@pytest.mark.parametrize("protocol", ["openai-chat", "anthropic-messages", "gemini"])
@pytest.mark.parametrize("body", [b"<html>inner-host</html>", b"inner-host"])
def test_what_a_broken_server_writes_is_not_repeated(protocol: str, body: bytes) -> None:
    """A page beside a 500 says nothing of the request, and none of it reaches the caller."""
    found = translator(protocol).outbound.decode_error(500, {}, body)
    assert (found.status, found.native) == (502, None)
    assert "inner-host" not in translator(protocol).inbound.problem(found).body.decode()
