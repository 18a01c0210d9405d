"""Decode an upstream's errors, and encode errors for callers."""

import json
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    ErrorKind,
    Forbidden,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unsupported,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
    WrongMediaType,
)
from support.wires.messages import INBOUND, OUTBOUND, sdk


def native(kind: str, message: str = "their words", **more: Any) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "error", "ours", "retryable", "failover"),
    [
        (400, "invalid_request_error", UpstreamRefused, 400, False, False),
        (401, "authentication_error", UpstreamAuthFailed, 502, False, True),
        (402, "billing_error", UpstreamQuotaExceeded, 429, False, True),
        (403, "permission_error", UpstreamAuthFailed, 502, False, True),
        (404, "not_found_error", UpstreamRefused, 404, False, True),
        (409, "conflict_error", UpstreamRefused, 409, False, False),
        (413, "request_too_large", UpstreamRefused, 413, False, False),
        (422, "invalid_request_error", UpstreamRefused, 422, False, False),
        (429, "rate_limit_error", UpstreamRateLimited, 429, True, True),
        (500, "api_error", UpstreamFailed, 502, True, True),
        (503, "api_error", UpstreamOverloaded, 503, True, True),
        (504, "timeout_error", UpstreamTimeout, 504, True, True),
        (529, "overloaded_error", UpstreamOverloaded, 503, True, True),
    ],
)
def test_an_upstreams_status_has_its_class(
    status: int, kind: str, error: type[UpstreamError], ours: int, *, retryable: bool, failover: bool
) -> None:
    """Choose error class, recovery and the caller's error by status and type."""
    found = OUTBOUND.decode_error(status, {"request-id": "req_up"}, native(kind))
    assert isinstance(found, error)
    assert (found.status, found.retryable, found.failover) == (ours, retryable, failover)
    assert (found.upstream_status, found.upstream_request_id) == (status, "req_up")


def test_what_a_refusal_keeps() -> None:
    """Keep the message, the native object and its code; a length code has its own kind."""
    found = OUTBOUND.decode_error(400, {}, native("invalid_request_error", details={"error_code": "prompt_too_long"}))
    assert (found.message, found.code, found.kind) == ("their words", "prompt_too_long", ErrorKind.CONTEXT_LENGTH)
    assert found.failover
    assert found.native is not None
    assert found.native["details"] == {"error_code": "prompt_too_long"}
    assert found.protocol == "anthropic-messages"


def test_a_credentials_refusal_says_nothing_of_it() -> None:
    """Keep nothing that the upstream wrote about the operator's account."""
    for status in (401, 402, 403):
        found = OUTBOUND.decode_error(status, {}, native("authentication_error", "key sk-ant-secret is wrong"))
        problem = INBOUND.problem(found)
        assert "secret" not in problem.body.decode() + found.message
        assert found.native is None
        assert problem.status in {429, 502}


@pytest.mark.parametrize("body", [b"", b"<html></html>", b"[1]", b"{}", b"\xff"])
@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 529])
def test_unreadable_bodies(status: int, body: bytes) -> None:
    """Use only the status for an unreadable body."""
    found = OUTBOUND.decode_error(status, {}, body)
    assert (found.native, found.protocol) == (None, None)
    assert isinstance(found, UpstreamProtocolError) == (status in {500, 502})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "99999999"}, 3600.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, 0.0),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, None),
    ],
)
def test_requested_waits(headers: dict[str, str], expected: float | None) -> None:
    """Decode and limit milliseconds, seconds and dates; ignore invalid values."""
    assert OUTBOUND.decode_error(429, headers, native("rate_limit_error")).retry_after == expected


@pytest.mark.parametrize(
    ("error", "status", "kind", "read_as"),
    [
        (BadRequest("m", param="messages[0]"), 400, "invalid_request_error", anthropic.BadRequestError),
        (Unsupported("m", param="tools"), 400, "invalid_request_error", anthropic.BadRequestError),
        (Unauthenticated("m"), 401, "authentication_error", anthropic.AuthenticationError),
        (Forbidden("m"), 403, "permission_error", anthropic.PermissionDeniedError),
        (ModelNotFound("x"), 404, "not_found_error", anthropic.NotFoundError),
        (NotFound("m"), 404, "not_found_error", anthropic.NotFoundError),
        (MethodNotAllowed("m", allow="POST"), 405, "invalid_request_error", anthropic.APIStatusError),
        (BodyTimeout("m"), 408, "timeout_error", anthropic.APIStatusError),
        (BodyTooLarge("m"), 413, "request_too_large", anthropic.APIStatusError),
        (WrongMediaType("m"), 415, "invalid_request_error", anthropic.APIStatusError),
        (GatewayError("m", kind=ErrorKind.BILLING, status=402), 402, "billing_error", anthropic.APIStatusError),
        (GatewayError("m", kind=ErrorKind.RATE_LIMIT, status=429), 429, "rate_limit_error", anthropic.RateLimitError),
        (Unavailable("m"), 503, "overloaded_error", anthropic.InternalServerError),
        (InternalError("m"), 500, "api_error", anthropic.InternalServerError),
        (UpstreamRefused("m", status=422), 422, "invalid_request_error", anthropic.UnprocessableEntityError),
        (UpstreamRefused("m", status=409), 409, "conflict_error", anthropic.ConflictError),
        (UpstreamAuthFailed("m"), 502, "api_error", anthropic.InternalServerError),
        (UpstreamAuthFailed("m", status=401), 401, "authentication_error", anthropic.AuthenticationError),
        (UpstreamQuotaExceeded("m"), 429, "rate_limit_error", anthropic.RateLimitError),
        (UpstreamOverloaded("m"), 529, "overloaded_error", anthropic.InternalServerError),
        (UpstreamOverloaded("m", upstream_status=503), 503, "overloaded_error", anthropic.InternalServerError),
        (UpstreamFailed("m"), 502, "api_error", anthropic.InternalServerError),
        (UpstreamUnreachable("m"), 502, "api_error", anthropic.InternalServerError),
        (UpstreamTimeout("m"), 504, "timeout_error", anthropic.InternalServerError),
        (UpstreamProtocolError("m"), 502, "api_error", anthropic.InternalServerError),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, GatewayError) else None,
)
def test_the_sdk_raises_the_matching_class(
    error: GatewayError, status: int, kind: str, read_as: type[anthropic.APIStatusError]
) -> None:
    """Give each error to Anthropic's client with its status, type, message and request id."""
    problem = INBOUND.problem(error, request_id="req-1")
    assert problem.status == status
    answer = httpx2.Response(problem.status, headers=list(problem.headers), content=problem.body)
    with sdk(answer) as client, pytest.raises(read_as) as caught:
        client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["error"]["type"] == kind
    assert error.message in body["error"]["message"]
    assert caught.value.request_id == body["request_id"] == "req-1"


def test_the_field_at_fault_is_named() -> None:
    """Name the field once in the message, because Anthropic's errors have no field for it."""
    body = json.loads(INBOUND.problem(BadRequest("must be a string.", param="model")).body)
    assert body["error"]["message"] == "model: must be a string."
    body = json.loads(INBOUND.problem(BadRequest("model is required.", param="model")).body)
    assert body["error"]["message"] == "model is required."


def test_headers_of_a_problem() -> None:
    """Round waits up to seconds, mark final failures as not retryable, and send the allowed methods."""
    headers = dict(INBOUND.problem(UpstreamRateLimited("m", retry_after=1.2)).headers)
    assert headers == {"content-type": "application/json", "retry-after": "2", "x-should-retry": "false"}
    assert dict(INBOUND.problem(MethodNotAllowed("m", allow="POST")).headers)["allow"] == "POST"
    assert "x-should-retry" not in dict(INBOUND.problem(BadRequest("m")).headers)


def test_a_refusal_in_the_same_protocol_passes() -> None:
    """Pass the upstream's error object to a caller of the same protocol; re-encode another protocol's."""
    found = OUTBOUND.decode_error(400, {}, native("invalid_request_error", details={"a": 1}))
    body = json.loads(INBOUND.problem(found, request_id="r").body)
    expected = {"type": "invalid_request_error", "message": "their words", "details": {"a": 1}}
    assert body == {"type": "error", "error": expected, "request_id": "r"}
    foreign = UpstreamRefused("Too many.", native={"message": "x", "type": "y"}, protocol="openai-chat")
    assert json.loads(INBOUND.problem(foreign).body)["error"] == {
        "type": "invalid_request_error",
        "message": "Too many.",
    }


@given(
    st.integers(400, 599),
    st.dictionaries(st.sampled_from(["retry-after", "date", "retry-after-ms"]), st.text()),
    st.binary(),
)
def test_no_error_raises(status: int, headers: dict[str, str], body: bytes) -> None:
    """Decode any upstream error into a gateway error that can be encoded."""
    problem = INBOUND.problem(OUTBOUND.decode_error(status, headers, body))
    assert 400 <= problem.status <= 599


def test_models_are_listed_and_shown() -> None:
    """List models and show one to Anthropic's client."""
    page = httpx2.Response(200, content=INBOUND.list_models(["a", "b/c"]), headers={"content-type": "application/json"})
    with sdk(page) as client:
        assert [model.id for model in client.models.list()] == ["a", "b/c"]
    one = httpx2.Response(200, content=INBOUND.show_model("a"), headers={"content-type": "application/json"})
    with sdk(one) as client:
        assert client.models.retrieve("a").display_name == "a"
