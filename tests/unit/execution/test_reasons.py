"""The line that tells operators why an attempt failed."""

import errno
import json
import socket
from typing import Any

import pytest

from llmproxy_asgi.errors import (
    SocketsExhausted,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamNotConnected,
    UpstreamRefused,
    UpstreamUnreachable,
)
from llmproxy_asgi.execution.reasons import MAX_REASON, describe_response, redact_error
from llmproxy_asgi.masking import Mask
from llmproxy_asgi.transport import address
from llmproxy_asgi.transport.failures import unreachable
from support.answers import FakeAnswer

URL = address("https://api.example.com/v1/chat/completions")
MASK = Mask(["xai-bad-key"])
SENT = json.dumps(
    {"model": "gpt-5", "temperature": 9, "messages": [{"role": "user", "content": "My name is Ada Lovelace, id X-42."}]}
).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {"error": {"code": "invalid_api_key", "message": "no"}}, "401 invalid_api_key: no"),
        (400, {"error": {"type": "bad_request", "code": None, "message": "bad"}}, "400 bad_request: bad"),
        (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "bad"}}], "400 INVALID_ARGUMENT: bad"),
        (400, {"error": {"message": "bad", "details": [{"reason": "API_KEY_INVALID"}]}}, "400 API_KEY_INVALID: bad"),
        (400, {"code": "Client error", "error": "bad"}, "400 Client error: bad"),
        (422, {"detail": [{"loc": ["body"], "msg": "Required", "type": "missing"}]}, "422 missing: Required"),
        (500, {"errors": [{"message": "boom"}]}, "500 boom"),
        (500, {"error": "Not Found", "message": "no such route"}, "500 Not Found: no such route"),
        (401, {"fault": {"faultstring": "no", "detail": {"errorcode": "a.b"}}}, "401 a.b: no"),
        (400, {"__type": "com.amazon#ValidationException", "Message": "bad"}, "400 ValidationException: bad"),
        (400, {"title": "Bad", "status": 400, "detail": "bad"}, "400 bad"),
        (400, {"error": "invalid_grant", "error_description": "bad"}, "400 invalid_grant: bad"),
        (500, {"hm": 1}, "500 with no content type, of another shape (asked api.example.com:443/v1/chat/completions)"),
        (502, b"", "502 with no content type, an empty body (asked api.example.com:443/v1/chat/completions)"),
        (502, b"<html><title>\nBad Gateway </title>", "502 with no content type: Bad Gateway (asked"),
        (503, b"<p>over <b>capacity</b>", "503 with no content type: over capacity (asked"),
        (200, b"Once upon a time", "200 with no content type, of another shape (asked"),
    ],
)  # fmt: skip
def test_an_answer_says_what_it_is(status: int, body: Any, reason: str) -> None:
    """Its status, then the vendor's code and words, or what kind of page it is; never a word of an answer."""
    told = describe_response(
        FakeAnswer(status=status), URL, body if isinstance(body, bytes) else json.dumps(body).encode()
    )
    assert told.startswith(reason)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://llm.example.com/v1/x?key=s3cret#f", "https://llm.example.com/v1/x"),
        ("/v2/chat", "https://api.example.com/v2/chat"),
        ("https://user:s3cret@h:8443/", "https://h:8443/"),
        ("http://[oops", "a location that cannot be read"),
    ],
)
def test_a_redirect_says_where_to(location: str, target: str) -> None:
    """Origin and path, without a query, a user or a password."""
    assert describe_response(FakeAnswer(status=308, location=location), URL, b"") == f"308 redirects to {target}"


def reason_of(error: UpstreamError) -> str:
    """Return the reason of an error."""
    found = redact_error(error, MASK, sent=SENT, model="gpt-5")
    assert isinstance(found, UpstreamError)
    return found.reason


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("400 Your text 'My name is Ada' is bad", "400 Your text '***' is bad"),
        ("400 name is Ada Lovelace is bad", "400 name is *** is bad"),
        ("400 unknown id X-42.", "400 unknown ***"),
        ("400 The model 'gpt-5' has no 'temperature'", "400 The model 'gpt-5' has no 'temperature'"),
        ("400 'user' is no role, gpt-5", "400 'user' is no role, gpt-5"),
    ],
)
def test_the_callers_text_is_masked(words: str, reason: str) -> None:
    """What the request holds is not repeated in a log; the model, fields and words of the protocol are."""
    assert reason_of(UpstreamRefused("x", reason=words)) == reason


def test_a_reason_is_short_and_one_line() -> None:
    """Shorten whatever the upstream sends to one line."""
    told = reason_of(UpstreamRefused("x", reason="a\nb\x1b[31m" + "c" * 5000))
    assert len(told) <= MAX_REASON
    assert told.isprintable()


def test_a_refusal_that_quotes_the_key_is_about_the_key() -> None:
    """A 400 whose words quote the credential makes the credential fail, and the caller is not blamed."""
    found = redact_error(UpstreamRefused("Bad key xa***ey", upstream_status=400), MASK, sent=SENT, model="")
    assert isinstance(found, UpstreamAuthFailed)
    assert found.status == 502
    assert "xa***ey" not in found.message + found.reason


@pytest.mark.parametrize(
    ("broken", "kind", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), UpstreamNotConnected, "ECONNREFUSED h:1"),
        (OSError(errno.EMFILE, "many"), SocketsExhausted, "EMFILE Too many open files"),
        (OSError(errno.ENOBUFS, "many"), SocketsExhausted, "ENOBUFS"),
        (socket.gaierror(socket.EAI_NONAME, "not known"), UpstreamNotConnected, "gaierror EAI_NONAME (not known) h:1"),
        (ExceptionGroup("all", [OSError(errno.EHOSTUNREACH, "x")]), UpstreamNotConnected, "EHOSTUNREACH h:1"),
    ],
)
def test_a_broken_connection_says_why(broken: BaseException, kind: type[UpstreamError], reason: str) -> None:
    """The cause is found under whatever wraps it."""
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = broken
    found = unreachable(wrapped, "h:1")
    assert type(found) is kind
    assert found.reason.startswith(reason)


def test_a_connection_that_broke_later() -> None:
    """Distinguish it from a connection that was never established."""
    found = unreachable(ConnectionResetError(errno.ECONNRESET, "x"), "h:1", connected=True)
    assert (type(found), found.reason) == (UpstreamUnreachable, "ECONNRESET h:1")


def test_what_is_no_fault_of_the_upstream() -> None:
    """Count a process without descriptors against no credential."""
    assert not SocketsExhausted("x").blames_upstream
    assert UpstreamUnreachable("x").blames_upstream
