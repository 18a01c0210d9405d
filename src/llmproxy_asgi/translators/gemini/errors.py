"""Encode errors for Google's clients and decode Google's errors, by status, code and reason, never by message text."""

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

_CLIENT_STATUSES: Mapping[int, int] = {402: 429, 529: 503}
"""Statuses that Google's clients don't know, and their replacements."""
_STATUS_NAMES: Mapping[ErrorKind, str] = {
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
_STATUS_CODES: Mapping[str, int] = {
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
_TYPE_PREFIX = "type.googleapis.com/google.rpc."
_MAX_MESSAGE_LENGTH = 4000


# ── encode ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode_problem(error: GatewayError) -> Problem:
    """Encode an error with its status, headers and body."""
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
    """Encode an error's JSON, for bodies and streams: `error` is its first key and `code` an integer."""
    return msgspec.json.encode({"error": _native(error) or _error_object(error)})


def _status(error: GatewayError) -> int:
    return _CLIENT_STATUSES.get(error.status, error.status)


def _error_object(error: GatewayError) -> JSONObject:
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    fields: JSONObject = {"code": _status(error), "message": message, "status": _STATUS_NAMES[error.kind]}
    details: list[JSONObject] = []
    if error.param:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": _TYPE_PREFIX + "BadRequest", "fieldViolations": [violation]})
    if error.code:
        details.append({"@type": _TYPE_PREFIX + "ErrorInfo", "reason": error.code.upper()})
    if error.retry_after is not None:
        details.append(
            {"@type": _TYPE_PREFIX + "RetryInfo", "retryDelay": f"{math.ceil(max(0.0, error.retry_after))}s"}
        )
    return {**fields, "details": details} if details else fields


def _native(error: GatewayError) -> JSONObject | None:
    """Return the upstream's own error object if it has this protocol and concerns the caller's request."""
    if not isinstance(error, UpstreamRefused | UpstreamRateLimited) or error.protocol != PROTOCOL or not error.native:
        return None
    message, status_name = error.native.get("message"), error.native.get("status")
    return {
        **error.native,
        "code": _status(error),
        "message": message if isinstance(message, str) and message else error.message,
        "status": status_name if isinstance(status_name, str) and status_name else _STATUS_NAMES[error.kind],
    }


# ── decode ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_error(status: int, headers: Headers, body: bytes) -> UpstreamError:
    """Decode an error response (status 400 or higher)."""
    return _upstream_error(
        status, error_of_body(status, body), wait=parse_retry_after(headers), request_id=headers.get("x-request-id")
    )


def stream_error(found: Any) -> UpstreamError:
    """Decode an error object from a response with status 200; its code is used as the status."""
    native = flattened(found)
    code = stated_status(native) or _STATUS_CODES.get(str(native.get("status")).upper(), 500)
    return _upstream_error(code, native)


def error_in(data: bytes) -> UpstreamError | None:
    """Return the error in a chunk or in a body with status 200; None if there is none."""
    found = find_error(data)
    return None if found is None else stream_error(found)


def _upstream_error(
    status: int, native: Mapping[str, Any] | None, *, wait: float | None = None, request_id: str | None = None
) -> UpstreamError:
    reasons = set(_values(native, "ErrorInfo", "reason"))
    common: dict[str, Any] = {
        "upstream_status": status,
        "upstream_request_id": request_id,
        "retry_after": retry_after_of_error(native) if wait is None else wait,
        "native": native,
        "protocol": PROTOCOL if native is not None else None,
    }
    redacted = {**common, "native": None, "protocol": None}
    # Google refuses a wrong key with 400; only the reason identifies it.
    is_credential_error = _is_unauthenticated(native) or any(
        reason.startswith(_CREDENTIAL_REASONS) for reason in reasons
    )
    if status == 403 and not is_credential_error and not reasons and _is_about_request(native):
        message = _message(native, "The upstream refused the request.")
        return UpstreamModelUnsuitable(message, status=403, kind=ErrorKind.FORBIDDEN, **common)
    if status in {401, 403} or (status < 500 and is_credential_error):
        return UpstreamAuthFailed("The upstream refused the gateway's credential.", **redacted)
    if status == 402 or (status == 429 and _is_daily_quota(native)):
        quota_error = UpstreamQuotaExceeded("The gateway's quota at the upstream is spent.", **redacted)
        quota_error.about = _limit_scope(native) if status == 429 else "credential"
        return quota_error
    if status == 429:
        limit = UpstreamRateLimited(_message(native, "The upstream limits the rate of requests."), **common)
        limit.about = _limit_scope(native)
        return limit
    if status in {503, 529}:
        return UpstreamOverloaded("The upstream is overloaded.", **common)
    if status in {408, 504}:
        return UpstreamTimeout("The upstream took too long, by its own account.", **common)
    if 400 <= status < 500 and status != 499:
        return _refused(status, native, common)
    if native is None:
        return UpstreamProtocolError("The upstream answered with an error that cannot be read.", **common)
    return UpstreamFailed("The upstream failed.", **common)


_CREDENTIAL_REASONS = ("API_KEY", "ACCESS_TOKEN", "CREDENTIALS_MISSING", "ACCOUNT_STATE_INVALID")


def _is_unauthenticated(native: Mapping[str, Any] | None) -> bool:
    return native is not None and str(native.get("status")).upper() == "UNAUTHENTICATED"


def _is_about_request(native: Mapping[str, Any] | None) -> bool:
    """Return whether a 403 names the forbidden resource or the field with it."""
    return any(True for kind in ("ResourceInfo", "BadRequest") for _ in _details(native, kind))


_REFUSED_KINDS = {
    404: ErrorKind.MODEL_NOT_FOUND,
    409: ErrorKind.CONFLICT,
    413: ErrorKind.TOO_LARGE,
    422: ErrorKind.UNPROCESSABLE,
}


def _refused(status: int, native: Mapping[str, Any] | None, common: dict[str, Any]) -> UpstreamError:
    kind = _REFUSED_KINDS.get(status, ErrorKind.BAD_REQUEST)
    error_class = UpstreamModelUnsuitable if kind is ErrorKind.MODEL_NOT_FOUND else UpstreamRefused
    param = next(iter(_values(native, "BadRequest", "field")), None)
    message = _message(native, "The upstream refused the request.")
    return error_class(message, status=status, kind=kind, param=param, **common)


def _is_daily_quota(native: Mapping[str, Any] | None) -> bool:
    """Return whether a daily quota is used up, for which a short wait is useless."""
    return any("PerDay" in quota for quota in _values(native, "QuotaFailure", "quotaId"))


def _limit_scope(native: Mapping[str, Any] | None) -> About:
    """Return a limit's scope: `...PerModel` limits one model, otherwise the project.

    Example of a quota id: `GenerateRequestsPerMinutePerProjectPerModel`.
    """
    quotas = list(_values(native, "QuotaFailure", "quotaId"))
    return "credential" if quotas and not any("PerModel" in quota for quota in quotas) else "model"


def _message(native: Mapping[str, Any] | None, default: str) -> str:
    message = native.get("message") if native else None
    return message[:_MAX_MESSAGE_LENGTH] if isinstance(message, str) and message else default


def _values(native: Mapping[str, Any] | None, kind: str, key: str) -> Iterator[str]:
    """Yield the strings under a key in the details of one kind, and in lists within them."""
    for detail in _details(native, kind):
        rows = [detail, *(row for value in detail.values() if isinstance(value, list) for row in value)]
        yield from (row[key] for row in rows if isinstance(row, dict) and isinstance(row.get(key), str))


def _details(native: Mapping[str, Any] | None, kind: str) -> Iterator[JSONObject]:
    """Yield the details of one kind."""
    details = native.get("details") if native else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith(kind):
            yield detail
