"""Encode errors for Anthropic's clients and decode Anthropic's errors, by status and type, never by message text."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import (
    ErrorKind,
    GatewayError,
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
    WrongMediaType,
)
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.base import Headers, Problem
from llmproxy_asgi.translators.error_bodies import error_of_body
from llmproxy_asgi.translators.retry_after import limit_scope, parse_retry_after, retry_after_of_error
from llmproxy_asgi.translators.stray_errors import find_error, flattened, stated_status

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_CONTEXT_CODES = frozenset({"context_length_exceeded", "context_window_exceeded", "prompt_too_long"})
_THREAD_REFUSED: JSONObject = {"error_code": "thread_unsupported_request", "unsupported": ["gateway"]}
"""Details of a refused `thread`. Only with them do the vendor's tool runner and threads send the full conversation
without `thread`: anthropic 2.11.0, `lib/threads/_thread_state.py`."""
_DEFAULT_KIND = ErrorKind.BAD_REQUEST
_MAX_MESSAGE_LENGTH = 4000


# ── encode ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode_problem(error: GatewayError, request_id: str | None) -> Problem:
    """Encode an error with its status, headers and body."""
    status = _status(error)
    headers = [("content-type", "application/json")]
    if request_id:
        headers.append(("request-id", request_id))
    if error.retry_after is not None:
        headers.append(("retry-after", str(max(0, math.ceil(error.retry_after)))))
    if isinstance(error, UpstreamError):
        headers.append(("x-should-retry", "false"))
    allow = getattr(error, "allow", None)
    if isinstance(allow, str):
        headers.append(("allow", allow))
    if isinstance(error, WrongMediaType) and error.accept_encoding:
        headers.append(("accept-encoding", error.accept_encoding))
    return Problem(status=status, headers=tuple(headers), body=error_body(error, request_id))


def error_body(error: GatewayError, request_id: str | None = None) -> bytes:
    """Encode an error's JSON, for bodies and streams."""
    body: JSONObject = {"type": "error", "error": _native(error) or _error_object(error)}
    if request_id:
        body["request_id"] = request_id
    return msgspec.json.encode(body)


def _status(error: GatewayError) -> int:
    if error.kind is ErrorKind.OVERLOADED:
        upstream_status = getattr(error, "upstream_status", None)
        return upstream_status if upstream_status in {503, 529} else 529
    if error.kind is ErrorKind.BILLING:
        return 402
    return error.status


def _error_object(error: GatewayError) -> JSONObject:
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    found: JSONObject = {"type": _TYPES.get(_status(error)) or _fallback_type(error), "message": message}
    if isinstance(error, Unsupported) and error.param == "thread":
        found["details"] = _THREAD_REFUSED
    return found


def _fallback_type(error: GatewayError) -> str:
    return "invalid_request_error" if error.status < 500 else "api_error"


def _native(error: GatewayError) -> JSONObject | None:
    """Return the upstream's own error object if it has this protocol and concerns the caller's request."""
    if not isinstance(error, UpstreamRefused | UpstreamRateLimited) or error.protocol != PROTOCOL:
        return None
    native = error.native
    if not native or not isinstance(native.get("type"), str) or not isinstance(native.get("message"), str):
        return None
    return dict(native)


# ── decode ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_error(status: int, headers: Headers, body: bytes) -> UpstreamError:
    """Decode an error response (status 400 or higher)."""
    native = error_of_body(status, body)
    return _upstream_error(status, native, headers=headers, request_id=headers.get("request-id"))


def stream_error(native: Any) -> UpstreamError:
    """Decode an error object from a response with status 200; its type determines the status."""
    found = flattened(native)
    status = _STATUSES.get(str(found.get("type"))) or stated_status(found) or 500
    return _upstream_error(status, found)


def error_in(data: bytes) -> UpstreamError | None:
    """Return the error in an event or in a body with status 200; None if there is none."""
    found = find_error(data)
    return None if found is None else stream_error(found)


def _upstream_error(
    status: int, native: Mapping[str, Any] | None, *, headers: Headers = ir.EMPTY, request_id: str | None = None
) -> UpstreamError:
    wait = parse_retry_after(headers)
    details = native.get("details") if native else None
    code = details.get("error_code") if isinstance(details, dict) else None
    kind = str(native.get("type")) if native else ""
    common: dict[str, Any] = {
        "native": native,
        "protocol": PROTOCOL if native else None,
        "upstream_status": status,
        "upstream_request_id": request_id,
        # The code of a server error concerns the vendor's systems, not the caller.
        "code": code if isinstance(code, str) and status < 500 else None,
        "retry_after": retry_after_of_error(native) if wait is None else wait,
    }
    if status == 403 and kind in _REFUSED_403:
        error_class, error_kind = _REFUSED_403[kind]
        return error_class(_message(native, "The upstream refused the request."), status=403, kind=error_kind, **common)
    if status in {401, 403} or (status < 500 and kind == "authentication_error"):
        return UpstreamAuthFailed("The upstream refused the gateway's credential.", **{**common, **_REDACTED})
    if status == 402 or kind == "billing_error":
        return UpstreamQuotaExceeded("The gateway's quota at the upstream is spent.", **{**common, **_REDACTED})
    if status == 429:
        limit = UpstreamRateLimited(_message(native, "The upstream limits the rate of requests."), **common)
        limit.about = limit_scope((kind, common["code"] or ""), headers)
        return limit
    if status in {503, 529} or kind == "overloaded_error":
        return UpstreamOverloaded("The upstream is overloaded.", **common)
    if status in {408, 504}:
        return UpstreamTimeout("The upstream took too long, by its own account.", **common)
    if 400 <= status < 500:
        return _refused(status, native, common)
    if native is None:
        return UpstreamProtocolError("The upstream answered with an error that cannot be read.", **common)
    return UpstreamFailed("The upstream failed.", **common)


_REFUSED_403: dict[str, tuple[type[UpstreamRefused], ErrorKind]] = {
    "invalid_request_error": (UpstreamRefused, ErrorKind.FORBIDDEN),
    "not_found_error": (UpstreamModelUnsuitable, ErrorKind.FORBIDDEN),
}
"""The types of a 403 that concerns the request or the model; any other concerns the credential."""
_REDACTED: dict[str, Any] = {"native": None, "protocol": None, "code": None}
"""Fields to clear in an error about the operator's account, so that callers don't see them."""
_REFUSED_KINDS = {
    404: ErrorKind.MODEL_NOT_FOUND,  # a missing model; other missing resources have a code
    409: ErrorKind.CONFLICT,
    413: ErrorKind.TOO_LARGE,
    422: ErrorKind.UNPROCESSABLE,
}


def _refused(status: int, native: Mapping[str, Any] | None, common: dict[str, Any]) -> UpstreamError:
    kind = ErrorKind.CONTEXT_LENGTH if common["code"] in _CONTEXT_CODES else _REFUSED_KINDS.get(status, _DEFAULT_KIND)
    if kind is ErrorKind.MODEL_NOT_FOUND and common["code"]:
        kind = ErrorKind.NOT_FOUND
    error_class = (
        UpstreamModelUnsuitable if kind in {ErrorKind.CONTEXT_LENGTH, ErrorKind.MODEL_NOT_FOUND} else UpstreamRefused
    )
    return error_class(_message(native, "The upstream refused the request."), status=status, kind=kind, **common)


def _message(native: Mapping[str, Any] | None, default: str) -> str:
    message = native.get("message") if native else None
    return message[:_MAX_MESSAGE_LENGTH] if isinstance(message, str) and message else default
