"""Errors: Google's words for ours, and ours for Google's. Status, code and reason decide, never a message's text."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import (
    About,
    ErrorKind,
    GatewayError,
    MethodNotAllowed,
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
    WrongMediaType,
)
from llmproxy_asgi.translators.base import Headers, Problem
from llmproxy_asgi.translators.error_bodies import error_of_body
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.retry_after import parse_retry_after, retry_after_of_error
from llmproxy_asgi.translators.stray_errors import find_error, flattened, stated_status

_STATUSES: Mapping[int, int] = {402: 429, 529: 503}
"""Statuses that Google's clients do not know."""
_WORDS: Mapping[ErrorKind, str] = {
    ErrorKind.BAD_REQUEST: "INVALID_ARGUMENT",
    ErrorKind.CONTEXT_LENGTH: "INVALID_ARGUMENT",
    ErrorKind.UNSUPPORTED: "INVALID_ARGUMENT",
    ErrorKind.AUTHENTICATION: "UNAUTHENTICATED",
    ErrorKind.FORBIDDEN: "PERMISSION_DENIED",
    ErrorKind.BILLING: "RESOURCE_EXHAUSTED",
    ErrorKind.NOT_FOUND: "NOT_FOUND",
    ErrorKind.MODEL_NOT_FOUND: "NOT_FOUND",
    ErrorKind.METHOD: "UNIMPLEMENTED",
    ErrorKind.CONFLICT: "ABORTED",
    ErrorKind.TOO_LARGE: "INVALID_ARGUMENT",
    ErrorKind.MEDIA_TYPE: "INVALID_ARGUMENT",
    ErrorKind.UNPROCESSABLE: "INVALID_ARGUMENT",
    ErrorKind.RATE_LIMIT: "RESOURCE_EXHAUSTED",
    ErrorKind.QUOTA: "RESOURCE_EXHAUSTED",
    ErrorKind.CLIENT_TIMEOUT: "DEADLINE_EXCEEDED",
    ErrorKind.UPSTREAM: "INTERNAL",
    ErrorKind.UPSTREAM_AUTH: "INTERNAL",
    ErrorKind.OVERLOADED: "UNAVAILABLE",
    ErrorKind.UNAVAILABLE: "UNAVAILABLE",
    ErrorKind.TIMEOUT: "DEADLINE_EXCEEDED",
    ErrorKind.INTERNAL: "INTERNAL",
}
_CODES: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_TYPE = "type.googleapis.com/google.rpc."
_REASON_MAX = 4000


# ── ours in Google's words ───────────────────────────────────────────────────────────────────────────────────────────


def encode_problem(error: GatewayError) -> Problem:
    """An error with its status, headers and body."""
    headers = [("content-type", "application/json")]
    if error.retry_after is not None:
        headers.append(("retry-after", str(math.ceil(max(0.0, error.retry_after)))))
    if isinstance(error, UpstreamError):
        headers.append(("x-should-retry", "false"))
    if isinstance(error, MethodNotAllowed):
        headers.append(("allow", error.allow))
    if isinstance(error, WrongMediaType) and error.accept_encoding:
        headers.append(("accept-encoding", error.accept_encoding))
    return Problem(status=_status(error), headers=tuple(headers), body=error_body(error))


def error_body(error: GatewayError) -> bytes:
    """An error's JSON, as a body and in a stream alike: `error` is its first key and `code` a whole number."""
    return msgspec.json.encode({"error": _native(error) or _error_object(error)})


def _status(error: GatewayError) -> int:
    return _STATUSES.get(error.status, error.status)


def _error_object(error: GatewayError) -> JSONObject:
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    fields: JSONObject = {"code": _status(error), "message": message, "status": _WORDS[error.kind]}
    details: list[JSONObject] = []
    if error.param:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": [violation]})
    if error.code:
        details.append({"@type": _TYPE + "ErrorInfo", "reason": error.code.upper()})
    if error.retry_after is not None:
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": f"{math.ceil(max(0.0, error.retry_after))}s"})
    return {**fields, "details": details} if details else fields


def _native(error: GatewayError) -> JSONObject | None:
    """The upstream's own error object, where it speaks this protocol and is about the caller's request."""
    if not isinstance(error, UpstreamRefused | UpstreamRateLimited) or error.protocol != PROTOCOL or not error.native:
        return None
    message, word = error.native.get("message"), error.native.get("status")
    return {
        **error.native,
        "code": _status(error),
        "message": message if isinstance(message, str) and message else error.message,
        "status": word if isinstance(word, str) and word else _WORDS[error.kind],
    }


# ── Google's in ours ─────────────────────────────────────────────────────────────────────────────────────────────────


def decode_error(status: int, headers: Headers, body: bytes) -> UpstreamError:
    """What an answer with a status of 400 and more means."""
    return _judged(
        status, error_of_body(status, body), wait=parse_retry_after(headers), request_id=headers.get("x-request-id")
    )


def stream_error(found: Any) -> UpstreamError:
    """What an error object inside a 200 means; its code stands in for the status."""
    native = flattened(found)
    code = stated_status(native) or _CODES.get(str(native.get("status")).upper(), 500)
    return _judged(code, native)


def error_in(data: bytes) -> UpstreamError | None:
    """The error that a chunk, or a body with status 200, holds in the place of an answer; None where it holds none."""
    found = find_error(data)
    return None if found is None else stream_error(found)


def _judged(
    status: int, native: Mapping[str, Any] | None, *, wait: float | None = None, request_id: str | None = None
) -> UpstreamError:
    reasons = set(_values(native, "ErrorInfo", "reason"))
    same: dict[str, Any] = {
        "upstream_status": status,
        "upstream_request_id": request_id,
        "retry_after": retry_after_of_error(native) if wait is None else wait,
        "native": native,
        "protocol": PROTOCOL if native is not None else None,
    }
    secret = {**same, "native": None, "protocol": None}
    # Google answers a wrong key with 400; only the reason tells.
    refused_key = _is_unauthenticated(native) or any(reason.startswith(_CREDENTIAL_REASONS) for reason in reasons)
    if status == 403 and not refused_key and not reasons and _is_about_request(native):
        message = _reason(native, "The upstream refused the request.")
        return UpstreamModelUnsuitable(message, status=403, kind=ErrorKind.FORBIDDEN, **same)
    if status in {401, 403} or (status < 500 and refused_key):
        return UpstreamAuthFailed("The upstream refused the gateway's credential.", **secret)
    if status == 402 or (status == 429 and _spent(native)):
        spent = UpstreamQuotaExceeded("The gateway's quota at the upstream is spent.", **secret)
        spent.about = _limited(native) if status == 429 else "credential"
        return spent
    if status == 429:
        limit = UpstreamRateLimited(_reason(native, "The upstream limits the rate of requests."), **same)
        limit.about = _limited(native)
        return limit
    if status in {503, 529}:
        return UpstreamOverloaded("The upstream is overloaded.", **same)
    if status in {408, 504}:
        return UpstreamTimeout("The upstream took too long, by its own account.", **same)
    if 400 <= status < 500 and status != 499:
        return _refused(status, native, same)
    if native is None:
        return UpstreamProtocolError("The upstream answered with an error that cannot be read.", **same)
    return UpstreamFailed("The upstream failed.", **same)


_CREDENTIAL_REASONS = ("API_KEY", "ACCESS_TOKEN", "CREDENTIALS_MISSING", "ACCOUNT_STATE_INVALID")


def _is_unauthenticated(native: Mapping[str, Any] | None) -> bool:
    return native is not None and str(native.get("status")).upper() == "UNAUTHENTICATED"


def _is_about_request(native: Mapping[str, Any] | None) -> bool:
    """Whether a 403 names the resource that may not be used, or the field that says so."""
    return any(True for kind in ("ResourceInfo", "BadRequest") for _ in _details(native, kind))


_REFUSED_KINDS = {
    404: ErrorKind.MODEL_NOT_FOUND,
    409: ErrorKind.CONFLICT,
    413: ErrorKind.TOO_LARGE,
    422: ErrorKind.UNPROCESSABLE,
}


def _refused(status: int, native: Mapping[str, Any] | None, same: dict[str, Any]) -> UpstreamError:
    kind = _REFUSED_KINDS.get(status, ErrorKind.BAD_REQUEST)
    refusal = UpstreamModelUnsuitable if kind is ErrorKind.MODEL_NOT_FOUND else UpstreamRefused
    param = next(iter(_values(native, "BadRequest", "field")), None)
    message = _reason(native, "The upstream refused the request.")
    return refusal(message, status=status, kind=kind, param=param, **same)


def _spent(native: Mapping[str, Any] | None) -> bool:
    """Whether a limit was met that no short wait helps over: a day's."""
    return any("PerDay" in quota for quota in _values(native, "QuotaFailure", "quotaId"))


def _limited(native: Mapping[str, Any] | None) -> About:
    """What was limited: `GenerateRequestsPerMinutePerProjectPerModel` one model, without `PerModel` the project."""
    quotas = list(_values(native, "QuotaFailure", "quotaId"))
    return "credential" if quotas and not any("PerModel" in quota for quota in quotas) else "model"


def _reason(native: Mapping[str, Any] | None, otherwise: str) -> str:
    message = native.get("message") if native else None
    return message[:_REASON_MAX] if isinstance(message, str) and message else otherwise


def _values(native: Mapping[str, Any] | None, kind: str, key: str) -> Iterator[str]:
    """The texts under a key in the details of one kind, or in the lists within them."""
    for detail in _details(native, kind):
        rows = [detail, *(row for value in detail.values() if isinstance(value, list) for row in value)]
        yield from (row[key] for row in rows if isinstance(row, dict) and isinstance(row.get(key), str))


def _details(native: Mapping[str, Any] | None, kind: str) -> Iterator[JSONObject]:
    """The details of one kind."""
    details = native.get("details") if native else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith(kind):
            yield detail
