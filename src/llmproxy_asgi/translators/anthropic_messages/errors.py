"""Errors: Anthropic's words for ours, and ours for Anthropic's. Status and type decide, never a message's text."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from llmproxy_asgi.conversation import EMPTY, JSONObject
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
"""Details of a refused `thread`. The vendor's tool runner and threads send the whole conversation without it then, and
only then: anthropic 2.11.0, `lib/threads/_thread_state.py`."""
_ANY = ErrorKind.BAD_REQUEST
_REASON_MAX = 4000


# ── ours in Anthropic's words ────────────────────────────────────────────────────────────────────────────────────────


def encode_problem(error: GatewayError, request_id: str | None) -> Problem:
    """An error with its status, headers and body."""
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
    """An error's JSON, as a body and in a stream alike."""
    body: JSONObject = {"type": "error", "error": _native(error) or _error_object(error)}
    if request_id:
        body["request_id"] = request_id
    return msgspec.json.encode(body)


def _status(error: GatewayError) -> int:
    if error.kind is ErrorKind.OVERLOADED:
        told = getattr(error, "upstream_status", None)
        return told if told in {503, 529} else 529
    if error.kind is ErrorKind.BILLING:
        return 402
    return error.status


def _error_object(error: GatewayError) -> JSONObject:
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    found: JSONObject = {"type": _TYPES.get(_status(error)) or _type_of_rest(error), "message": message}
    if isinstance(error, Unsupported) and error.param == "thread":
        found["details"] = _THREAD_REFUSED
    return found


def _type_of_rest(error: GatewayError) -> str:
    return "invalid_request_error" if error.status < 500 else "api_error"


def _native(error: GatewayError) -> JSONObject | None:
    """The upstream's own error object, where it speaks this protocol and is about the caller's request."""
    if not isinstance(error, UpstreamRefused | UpstreamRateLimited) or error.protocol != PROTOCOL:
        return None
    native = error.native
    if not native or not isinstance(native.get("type"), str) or not isinstance(native.get("message"), str):
        return None
    return dict(native)


# ── Anthropic's in ours ──────────────────────────────────────────────────────────────────────────────────────────────


def decode_error(status: int, headers: Headers, body: bytes) -> UpstreamError:
    """What an answer with a status of 400 and more means."""
    native = error_of_body(status, body)
    return _upstream_error(status, native, headers=headers, request_id=headers.get("request-id"))


def stream_error(native: Any) -> UpstreamError:
    """What an error object inside a 200 means; its type stands in for the status."""
    found = flattened(native)
    status = _STATUSES.get(str(found.get("type"))) or stated_status(found) or 500
    return _upstream_error(status, found)


def error_in(data: bytes) -> UpstreamError | None:
    """The error that an event, or a body with status 200, holds in the place of an answer; None where it holds none."""
    found = find_error(data)
    return None if found is None else stream_error(found)


def _upstream_error(
    status: int, native: Mapping[str, Any] | None, *, headers: Headers = EMPTY, request_id: str | None = None
) -> UpstreamError:
    wait = parse_retry_after(headers)
    details = native.get("details") if native else None
    code = details.get("error_code") if isinstance(details, dict) else None
    kind = str(native.get("type")) if native else ""
    same: dict[str, Any] = {
        "native": native,
        "protocol": PROTOCOL if native else None,
        "upstream_status": status,
        "upstream_request_id": request_id,
        # A code of a failure is about the vendor's own house, not about the caller.
        "code": code if isinstance(code, str) and status < 500 else None,
        "retry_after": retry_after_of_error(native) if wait is None else wait,
    }
    if status == 403 and kind in _REFUSED_403:
        refusal, what = _REFUSED_403[kind]
        return refusal(_reason(native, "The upstream refused the request."), status=403, kind=what, **same)
    if status in {401, 403} or (status < 500 and kind == "authentication_error"):
        return UpstreamAuthFailed("The upstream refused the gateway's credential.", **{**same, **_SECRET})
    if status == 402 or kind == "billing_error":
        return UpstreamQuotaExceeded("The gateway's quota at the upstream is spent.", **{**same, **_SECRET})
    if status == 429:
        limit = UpstreamRateLimited(_reason(native, "The upstream limits the rate of requests."), **same)
        limit.about = limit_scope((kind, same["code"] or ""), headers)
        return limit
    if status in {503, 529} or kind == "overloaded_error":
        return UpstreamOverloaded("The upstream is overloaded.", **same)
    if status in {408, 504}:
        return UpstreamTimeout("The upstream took too long, by its own account.", **same)
    if 400 <= status < 500:
        return _refused(status, native, same)
    if native is None:
        return UpstreamProtocolError("The upstream answered with an error that cannot be read.", **same)
    return UpstreamFailed("The upstream failed.", **same)


_REFUSED_403: dict[str, tuple[type[UpstreamRefused], ErrorKind]] = {
    "invalid_request_error": (UpstreamRefused, ErrorKind.FORBIDDEN),
    "not_found_error": (UpstreamModelUnsuitable, ErrorKind.FORBIDDEN),
}
"""The types of a 403 that is about the request or the model; any other is about the credential."""
_SECRET: dict[str, Any] = {"native": None, "protocol": None, "code": None}
"""What an error about the operator's own account must not carry on."""
_REFUSED_KINDS = {
    404: ErrorKind.MODEL_NOT_FOUND,  # of a model: what else is missing has a code
    409: ErrorKind.CONFLICT,
    413: ErrorKind.TOO_LARGE,
    422: ErrorKind.UNPROCESSABLE,
}


def _refused(status: int, native: Mapping[str, Any] | None, same: dict[str, Any]) -> UpstreamError:
    kind = ErrorKind.CONTEXT_LENGTH if same["code"] in _CONTEXT_CODES else _REFUSED_KINDS.get(status, _ANY)
    if kind is ErrorKind.MODEL_NOT_FOUND and same["code"]:
        kind = ErrorKind.NOT_FOUND
    refusal = (
        UpstreamModelUnsuitable if kind in {ErrorKind.CONTEXT_LENGTH, ErrorKind.MODEL_NOT_FOUND} else UpstreamRefused
    )
    return refusal(_reason(native, "The upstream refused the request."), status=status, kind=kind, **same)


def _reason(native: Mapping[str, Any] | None, otherwise: str) -> str:
    message = native.get("message") if native else None
    return message[:_REASON_MAX] if isinstance(message, str) and message else otherwise
