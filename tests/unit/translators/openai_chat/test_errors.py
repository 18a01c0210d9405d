"""Errors in both directions."""

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi import errors
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
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from support.wires.openai_chat import INBOUND, OUTBOUND, answered, client


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "raised"),
    [
        (BadRequest("m", param="messages[0]"), 400, "invalid_request_error", None, openai.BadRequestError),
        (Unsupported("m"), 400, "invalid_request_error", "unsupported_by_upstream", openai.BadRequestError),
        (Unauthenticated("m"), 401, "authentication_error", "invalid_api_key", openai.AuthenticationError),
        (Forbidden("m"), 403, "permission_error", None, openai.PermissionDeniedError),
        (ModelNotFound("x"), 404, "invalid_request_error", "model_not_found", openai.NotFoundError),
        (
            MethodNotAllowed("m", allow="POST"),
            405,
            "invalid_request_error",
            "method_not_allowed",
            openai.APIStatusError,
        ),
        (BodyTooLarge("m"), 413, "invalid_request_error", "request_too_large", openai.APIStatusError),
        (
            GatewayError("m", status=402, kind=ErrorKind.BILLING),
            429,
            "insufficient_quota",
            "insufficient_quota",
            openai.RateLimitError,
        ),
        (
            GatewayError("m", status=429, kind=ErrorKind.RATE_LIMIT),
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
            openai.RateLimitError,
        ),
        (Unavailable("m"), 503, "server_error", None, openai.InternalServerError),
        (UpstreamAuthFailed("m"), 502, "server_error", "upstream_auth", openai.InternalServerError),
        (UpstreamQuotaExceeded("m"), 429, "insufficient_quota", "insufficient_quota", openai.RateLimitError),
        (UpstreamOverloaded("m", status=529), 503, "overloaded_error", None, openai.InternalServerError),
        (UpstreamFailed("m"), 502, "server_error", None, openai.InternalServerError),
        (UpstreamTimeout("m"), 504, "timeout_error", None, openai.InternalServerError),
        (InternalError("m"), 500, "server_error", None, openai.InternalServerError),
    ],
)
def test_every_cause_has_its_words(
    error: GatewayError, status: int, kind: str, code: str | None, raised: type[openai.APIStatusError]
) -> None:
    """Status, type and code are the vendor's, and the official client raises its matching class."""
    problem = INBOUND.problem(error)
    found = msgspec.json.decode(problem.body)["error"]
    assert (problem.status, found["type"], found["code"], found["message"]) == (status, kind, code, error.message)
    assert found["param"] == error.param
    assert dict(problem.headers)["content-type"] == "application/json"
    with pytest.raises(raised) as seen, client(problem.body, status=problem.status) as reader:
        reader.chat.completions.create(model="m", messages=[])
    assert type(seen.value) is raised


def test_every_kind_has_words() -> None:
    """No cause is without a type."""
    for kind in ErrorKind:
        found = msgspec.json.decode(INBOUND.problem(GatewayError("m", kind=kind)).body)["error"]
        assert found["type"]


def test_waits_and_retries_are_in_the_headers() -> None:
    """A wait goes in whole seconds, rounded up, and in milliseconds; an upstream's failure is final."""
    headers = dict(INBOUND.problem(UpstreamRateLimited("m", retry_after=1.25)).headers)
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == ("2", "1250", "false")
    assert "x-should-retry" not in dict(INBOUND.problem(Unavailable("m", retry_after=0)).headers)
    assert dict(INBOUND.problem(MethodNotAllowed("m", allow="GET")).headers)["allow"] == "GET"


NATIVE = {"message": "theirs", "type": "t", "code": "c", "param": "p", "misalignment": {"x": 1}}


def test_the_upstreams_own_words_pass_where_it_speaks_this_protocol() -> None:
    """A refusal's object passes whole; one in another protocol, or about a credential, never does."""
    own = UpstreamRefused("ours", native=NATIVE, protocol="openai-chat")
    assert msgspec.json.decode(INBOUND.problem(own).body)["error"] == NATIVE
    foreign = UpstreamRefused("ours", native=NATIVE, protocol="gemini", code="c")
    assert msgspec.json.decode(INBOUND.problem(foreign).body)["error"]["message"] == "ours"
    secret = UpstreamAuthFailed("ours", native=NATIVE, protocol="openai-chat")
    assert b"theirs" not in INBOUND.problem(secret).body


def test_a_native_object_without_words_gets_ours() -> None:
    """The client needs a message and a type whatever the upstream left out."""
    bare = UpstreamRefused("ours", native={"message": None}, protocol="openai-chat")
    found = msgspec.json.decode(INBOUND.problem(bare).body)["error"]
    assert found == {"message": "ours", "type": "invalid_request_error", "code": None, "param": None}


def problem_of(status: int, error: object, **headers: str) -> UpstreamError:
    """What an upstream's error means."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return OUTBOUND.decode_error(status, named, msgspec.json.encode({"error": error}))


@pytest.mark.parametrize(
    ("status", "error", "raised", "ours", "kind"),
    [
        (400, {"message": "m", "param": "messages"}, UpstreamRefused, 400, ErrorKind.BAD_REQUEST),
        (400, {"message": "m", "code": "context_length_exceeded"}, UpstreamRefused, 400, ErrorKind.CONTEXT_LENGTH),
        (401, {"message": "secret"}, UpstreamAuthFailed, 502, ErrorKind.UPSTREAM_AUTH),
        (403, {"message": "secret"}, UpstreamAuthFailed, 502, ErrorKind.UPSTREAM_AUTH),
        (402, {"message": "m"}, UpstreamQuotaExceeded, 429, ErrorKind.QUOTA),
        (404, {"message": "m", "code": "model_not_found"}, UpstreamRefused, 404, ErrorKind.MODEL_NOT_FOUND),
        (404, {"message": "m", "code": "DeploymentNotFound"}, UpstreamRefused, 404, ErrorKind.MODEL_NOT_FOUND),
        (404, {"message": "m"}, UpstreamRefused, 404, ErrorKind.NOT_FOUND),
        (408, {"message": "m"}, UpstreamTimeout, 504, ErrorKind.TIMEOUT),
        (409, {"message": "m"}, UpstreamRefused, 409, ErrorKind.CONFLICT),
        (413, {"message": "m"}, UpstreamRefused, 413, ErrorKind.TOO_LARGE),
        (422, {"message": "m"}, UpstreamRefused, 422, ErrorKind.UNPROCESSABLE),
        (429, {"message": "m"}, UpstreamRateLimited, 429, ErrorKind.RATE_LIMIT),
        (429, {"message": "m", "code": "insufficient_quota"}, UpstreamQuotaExceeded, 429, ErrorKind.QUOTA),
        (500, {"message": "m"}, UpstreamFailed, 502, ErrorKind.UPSTREAM),
        (502, {"message": "m"}, UpstreamFailed, 502, ErrorKind.UPSTREAM),
        (503, {"message": "m"}, UpstreamOverloaded, 503, ErrorKind.OVERLOADED),
        (504, {"message": "m"}, UpstreamTimeout, 504, ErrorKind.TIMEOUT),
        (529, {"message": "m"}, UpstreamOverloaded, 529, ErrorKind.OVERLOADED),
        (302, {"message": "m"}, UpstreamProtocolError, 502, ErrorKind.UPSTREAM),
    ],
)
def test_an_upstreams_statuses(
    status: int, error: dict[str, str], raised: type[UpstreamError], ours: int, kind: ErrorKind
) -> None:
    """Each status of an upstream has its class, its status towards the caller and its cause."""
    found = problem_of(status, error)
    assert isinstance(found, raised)
    assert (found.status, found.kind, found.upstream_status) == (ours, kind, status)
    assert "secret" not in str(found)
    assert found.native is None or found.native["message"] == "m"


def test_a_refusal_keeps_its_reason() -> None:
    """Message, param, code and the request's id are kept; a longer prompt may fit another model."""
    found = problem_of(
        400, {"message": "too long", "param": "messages", "code": "context_length_exceeded"}, x_request_id="req_9"
    )
    assert (found.message, found.param, found.code) == ("too long", "messages", "context_length_exceeded")
    assert found.upstream_request_id == "req_9"
    assert found.protocol == "openai-chat"
    assert found.failover
    assert not problem_of(400, {"message": "m"}).failover


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "7", "retry_after_ms": "1500"}, 1.5),
        ({"retry_after": "7200"}, 3600.0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "1e30"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({}, None),
    ],
)
def test_waits(headers: dict[str, str], wait: float | None) -> None:
    """Seconds, milliseconds and dates are read, long waits cut to an hour, absurd ones ignored."""
    assert problem_of(429, {"message": "m"}, **headers).retry_after == wait


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error":"words"}', "words"),
        (b'{"error":"words","code":"x"}', "words"),
        (b'[{"error":{"message":"words","code":400}}]', "words"),
        (b'{"detail":"words"}', "words"),
        (b'{"object":"error","message":"words","type":"BadRequestError","code":400}', "words"),
        (b"<html>No <b>way</b></html>", "No way"),
        (b"", "The upstream refused the request with status 400."),
        (b"{}", "The upstream refused the request with status 400."),
        (b"\xff\xfe", "The upstream refused the request with status 400."),
    ],
)
def test_error_bodies_of_compatible_servers(content: bytes, message: str) -> None:
    """Errors are decoded from all known formats; without a message, the error contains the status."""
    assert OUTBOUND.decode_error(400, {}, content).message == message


@given(st.integers(300, 599), st.binary(max_size=60))
def test_no_error_body_raises(status: int, content: bytes) -> None:
    """Whatever the body, an error is answered."""
    assert isinstance(OUTBOUND.decode_error(status, {}, content), UpstreamError)


def test_an_error_with_status_200_is_an_error() -> None:
    """A whole answer that holds an error is judged by it."""
    content = b'{"error":{"message":"m","code":429}}'
    inbound_request = INBOUND.open(b'{"messages":[{"role":"user","content":"x"}]}', headers={})
    with pytest.raises(errors.UpstreamRateLimited):
        OUTBOUND.passthrough_response(content, inbound_request, None)  # type: ignore[arg-type]


def test_the_client_reads_our_answers() -> None:
    """The helper of these tests is the official client: it refuses what is no answer."""
    assert answered(b'{"id":"x","object":"chat.completion","choices":[]}').id == "x"
