"""Requests that stay in this protocol: looked at from outside, and passed on with their own bytes."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy_asgi.errors import BadRequest
from support.conversations import json_objects
from support.wires.openai_chat import INBOUND, OUTBOUND, body, inbound_request, upstream

SAID = b'"messages":[{"role":"user","content":"Hello"}]'


def opened(fields: bytes) -> Any:
    """A request's outside."""
    return INBOUND.open(b"{" + fields + b"}", headers={})


def test_an_inbound_request_tells_what_routing_needs() -> None:
    """Model, stream, usage and size are known without reading what is inside."""
    content = body(stream=True, stream_options={"include_usage": True})
    found = INBOUND.open(content, headers={})
    assert (found.model, found.stream, found.include_usage, found.size) == ("smart", True, True, len(content))
    assert not inbound_request().stream
    assert not inbound_request(stream=True).include_usage


def test_a_request_may_name_no_model() -> None:
    """The operator's default model is for requests that name none."""
    assert opened(SAID).model == ""
    assert msgspec.json.decode(OUTBOUND.passthrough_request(opened(SAID), upstream()).body)["model"] == "big-1"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (b'"model":"m"', "messages"),
        (b'"model":"m","messages":null', "messages"),
        (b'"model":"m","messages":[ ]', "messages"),
        (b'"model":"m","messages":"hi"', "messages"),
        (b'"model":7,' + SAID, "model"),
        (SAID + b',"stream":"true"', "stream"),
        (SAID + b',"stream":1', "stream"),
        (SAID + b',"stream_options":[]', "stream_options"),
        (SAID + b',"stream_options":{"include_usage":1}', "stream_options.include_usage"),
        (SAID + b',"temperature":"hot"', "temperature"),
        (SAID + b',"tools":{}', "tools"),
        (SAID + b',"max_tokens":0', "max_tokens"),
        (SAID + b',"max_tokens":1.5', "max_tokens"),
        (SAID + b',"max_completion_tokens":"9"', "max_completion_tokens"),
        (SAID + b',"n":0', "n"),
    ],
)
def test_wrong_types_are_refused_by_name(fields: bytes, param: str) -> None:
    """What only passes through is still refused where its outside is wrong, and the field is named."""
    with pytest.raises(BadRequest) as refused:
        opened(fields)
    assert refused.value.param == param


def test_null_is_absent() -> None:
    """Real clients send null for what they do not set."""
    fields = b"".join(b',"%b":null' % name for name in (b"stream", b"tools", b"temperature", b"max_tokens", b"n"))
    assert not opened(SAID + fields + b',"stream_options":null').stream


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b'{"messages":[1}', b'{"model":"\xff"}', b"[" * 100_000])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    """A body that is no JSON object is a bad request."""
    with pytest.raises(BadRequest):
        INBOUND.open(content, headers={})


@settings(max_examples=150)
@given(st.binary(max_size=80) | json_objects().map(msgspec.json.encode))
def test_no_body_raises_anything_else(content: bytes) -> None:
    """Whatever the body, opening and decoding it succeed or refuse it as the caller's fault."""
    with suppress(BadRequest):
        INBOUND.decode(INBOUND.open(content, headers={}))


# ── splicing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ODD = (
    b'{"zeta":1.50,"model":"smart","unknown":{"b":1e2,"a":[ 1 ]},'
    b'"messages":[{"role":"user","content":"\\u0041"}],"top_p":0.10}'
)


def test_only_the_model_changes() -> None:
    """Unknown fields, key order, number spelling, escapes and inner blanks survive."""
    passthrough_request = OUTBOUND.passthrough_request(INBOUND.open(ODD, headers={}), upstream())
    assert passthrough_request.body == ODD.replace(b'"smart"', b'"big-1"')
    assert not passthrough_request.stream
    assert passthrough_request.warnings == ()


def test_an_equal_model_keeps_its_bytes() -> None:
    """Where the upstream's name is the caller's, even its spelling stays."""
    content = ODD.replace(b'"smart"', b'"big\\u002d1"')
    assert OUTBOUND.passthrough_request(INBOUND.open(content, headers={}), upstream()).body == content


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":null', b',"stream_options":{"include_usage":true}'),
        (
            b',"stream_options":{"include_obfuscation":false,"x":1.0}',
            b',"stream_options":{"include_obfuscation":false,"x":1.0,"include_usage":true}',
        ),
        (b',"stream_options":{"include_usage":false}', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{ "include_usage" : true }', b',"stream_options":{ "include_usage" : true }'),
    ],
    ids=["absent", "null", "others kept", "declined", "asked"],
)
def test_streams_are_asked_for_usage(options: bytes, expected: bytes) -> None:
    """A streamed request asks for usage whatever the caller said, and keeps its other options."""
    content = b'{"model":"smart",' + SAID + b',"stream":true'
    passthrough_request = OUTBOUND.passthrough_request(INBOUND.open(content + options + b"}", headers={}), upstream())
    assert passthrough_request.body == content.replace(b'"smart"', b'"big-1"') + expected + b"}"


def test_servers_without_stream_usage_are_not_asked() -> None:
    """A server that does not know the option does not get it."""
    passthrough_request = OUTBOUND.passthrough_request(inbound_request(stream=True), upstream(stream_usage=False))
    assert b"stream_options" not in passthrough_request.body
    assert b"stream_options" not in OUTBOUND.passthrough_request(inbound_request(), upstream()).body


def test_models_are_listed_as_the_vendor_does() -> None:
    """The list and its entries have the official client's shape."""
    listed = msgspec.json.decode(INBOUND.list_models(["a", "b/c"]))
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["a", "b/c"]
    assert msgspec.json.decode(INBOUND.show_model("b/c")) == listed["data"][1]
