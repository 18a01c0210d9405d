"""Encode errors for Google's clients, and decode Google's errors."""

import json
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors as sdk_errors
from google.genai import types

from llmproxy_asgi.errors import (
    BadRequest,
    BodyTooLarge,
    ErrorKind,
    Forbidden,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    ModelNotFound,
    Unauthenticated,
    Unavailable,
    Unsupported,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamFailed,
    UpstreamModelUnsuitable,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from support.wires.gemini import INBOUND, OUTBOUND, sdk

RPC = "type.googleapis.com/google.rpc."


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (BadRequest("no", param="contents[0]"), 400, "INVALID_ARGUMENT"),
        (Unsupported("no", param="tools"), 400, "INVALID_ARGUMENT"),
        (Unauthenticated("who?"), 401, "UNAUTHENTICATED"),
        (Forbidden("no"), 403, "PERMISSION_DENIED"),
        (ModelNotFound("x"), 404, "NOT_FOUND"),
        (MethodNotAllowed("no", allow="POST"), 405, "UNIMPLEMENTED"),
        (BodyTooLarge("big"), 413, "INVALID_ARGUMENT"),
        (UpstreamRateLimited("wait", retry_after=1.2), 429, "RESOURCE_EXHAUSTED"),
        (UpstreamQuotaExceeded("spent"), 429, "RESOURCE_EXHAUSTED"),
        (GatewayError("pay", status=402, kind=ErrorKind.BILLING), 429, "RESOURCE_EXHAUSTED"),
        (UpstreamAuthFailed("key"), 502, "INTERNAL"),
        (UpstreamFailed("down"), 502, "INTERNAL"),
        (UpstreamOverloaded("busy", status=529), 503, "UNAVAILABLE"),
        (Unavailable("none"), 503, "UNAVAILABLE"),
        (UpstreamTimeout("slow"), 504, "DEADLINE_EXCEEDED"),
        (InternalError("bug"), 500, "INTERNAL"),
    ],
)
def test_every_error_is_the_sdks_own(error: GatewayError, status: int, word: str) -> None:
    """Let Google's client raise its class for each error, with code, status and message."""
    problem = INBOUND.problem(error)
    assert problem.status == status
    expected = sdk_errors.ClientError if status < 500 else sdk_errors.ServerError
    with sdk(problem.body, status=problem.status) as client, pytest.raises(expected) as raised:
        client.models.generate_content(model="m", contents="Hi")
    assert (raised.value.code, raised.value.status) == (status, word)
    assert error.message in str(raised.value.message)


def test_headers_and_details() -> None:
    """Send the wait as header and detail, and the field as a violation; mark upstream failures as final."""
    problem = INBOUND.problem(UpstreamRateLimited("wait", retry_after=1.2))
    assert dict(problem.headers) == {
        "content-type": "application/json",
        "retry-after": "2",
        "x-should-retry": "false",
    }
    details = json.loads(problem.body)["error"]["details"]
    assert details == [{"@type": RPC + "RetryInfo", "retryDelay": "2s"}]
    body = json.loads(INBOUND.problem(BadRequest("no", param="a.b", code="invalid_type")).body)["error"]
    assert body["message"] == "a.b: no"
    assert body["details"][0]["fieldViolations"] == [{"field": "a.b", "description": "no"}]
    assert body["details"][1]["reason"] == "INVALID_TYPE"
    assert ("allow", "POST") in INBOUND.problem(MethodNotAllowed("no", allow="POST")).headers


def test_an_upstreams_own_refusal_passes() -> None:
    """Pass Google's errors about the request to its callers, but not those about the account."""
    native = {"code": 400, "message": "bad part", "status": "FAILED_PRECONDITION", "details": [{"x": 1}]}
    refused = decoded(400, {"error": native})
    assert json.loads(INBOUND.problem(refused).body)["error"] == native
    secret = decoded(403, {"error": {"code": 403, "message": "key of project 12", "status": "PERMISSION_DENIED"}})
    assert "project" not in INBOUND.problem(secret).body.decode()


def decoded(status: int, body: Any, **headers: str) -> UpstreamError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return OUTBOUND.decode_error(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"status": "INVALID_ARGUMENT", "message": "no"}, UpstreamRefused),
        (400, {"details": [{"@type": RPC + "ErrorInfo", "reason": "API_KEY_INVALID"}]}, UpstreamAuthFailed),
        (401, {}, UpstreamAuthFailed),
        (403, {}, UpstreamAuthFailed),
        (404, {"message": "no model"}, UpstreamModelUnsuitable),
        (409, {}, UpstreamRefused),
        (429, {}, UpstreamRateLimited),
        (
            429,
            {"details": [{"@type": RPC + "QuotaFailure", "violations": [{"quotaId": "RequestsPerDayPerProject"}]}]},
            UpstreamQuotaExceeded,
        ),
        (499, {}, UpstreamFailed),
        (500, {}, UpstreamFailed),
        (503, {}, UpstreamOverloaded),
        (504, {}, UpstreamTimeout),
    ],
)
def test_what_a_status_means(status: int, error: dict[str, Any], expected: type[UpstreamError]) -> None:
    """Decode by status, code and reason, also for an error in a list of one."""
    found = decoded(status, {"error": {"code": status, **error}})
    assert type(found) is expected
    assert found.upstream_status == status
    assert type(decoded(status, [{"error": {"code": status, **error}}])) is expected


def test_what_a_refusal_keeps() -> None:
    """Keep the message, the status and the field."""
    violation = {"@type": RPC + "BadRequest", "fieldViolations": [{"field": "contents[1]", "description": "d"}]}
    found = decoded(400, {"error": {"code": 400, "message": "bad part", "details": [violation]}})
    assert (found.message, found.status, found.param) == ("bad part", 400, "contents[1]")
    missing = decoded(404, {"error": {"code": 404, "message": "no model"}})
    assert (missing.kind, missing.failover) == (ErrorKind.MODEL_NOT_FOUND, True)


@pytest.mark.parametrize(
    ("headers", "delay", "wait"),
    [
        ({"retry_after": "7"}, None, 7.0),
        ({}, "3.5s", 3.5),
        ({"retry_after": "7"}, "3s", 7.0),
        ({}, "99999999s", 3600.0),
        ({}, "soon", None),
        ({}, None, None),
    ],
)
def test_waits(headers: dict[str, str], delay: str | None, wait: float | None) -> None:
    """Decode and limit a wait from the header or RetryInfo."""
    details = [{"@type": RPC + "RetryInfo", "retryDelay": delay}] if delay else []
    assert decoded(429, {"error": {"code": 429, "details": details}}, **headers).retry_after == wait


@pytest.mark.parametrize("body", [b"", b"<html>secret</html>", b"[]", b"[" * 2000])
def test_unreadable_errors(body: bytes) -> None:
    """Use only the status for an unreadable body, and repeat none of it."""
    assert isinstance(decoded(500, body), UpstreamProtocolError)
    assert isinstance(decoded(400, body), UpstreamRefused)
    assert "secret" not in decoded(500, body).message


def test_models_as_the_sdk_lists_them() -> None:
    """Let Google's client list and get models, also names with slashes."""
    with listed(INBOUND.list_models(["gemini-3-pro", "openai/gpt-6"])) as client:
        names = [found.name for found in client.models.list()]
    assert names == ["models/gemini-3-pro", "models/openai/gpt-6"]
    with listed(INBOUND.show_model("openai/gpt-6")) as client:
        assert client.models.get(model="openai/gpt-6").name == "models/openai/gpt-6"


def test_counted_tokens_as_the_sdk_reads_them() -> None:
    """Let Google's client read a token count."""
    from llmproxy_asgi.translators.gemini import encode_count

    with listed(encode_count(42)) as client:
        assert client.models.count_tokens(model="m", contents="Hi").total_tokens == 42


def listed(body: bytes) -> genai.Client:
    def respond(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=body)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    return genai.Client(
        api_key="test",
        vertexai=False,
        http_options=types.HttpOptions(base_url="http://upstream.invalid", httpx_client=http),
    )
