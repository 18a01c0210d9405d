"""Encode and decode the errors of OpenAI's protocols.

Upstream errors are classified by their status and machine-readable codes, never by their message. Messages about the
request are kept; messages about credentials and upstream failures are not.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import (
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
from llmproxy_asgi.translators.retry_after import limit_scope, parse_retry_after, retry_after_of_error
from llmproxy_asgi.translators.stray_errors import find_error, flattened, stated_status

PROTOCOLS = frozenset({"openai-chat", "openai-responses", "openai-completions", "openai-embeddings"})
"""Protocols that share this format, so that their errors pass unchanged between them."""

FAILED_EVENT = "failed_event"
"""The key in a native error of the event that a passed-through Responses stream failed with; never sent as a field."""

_WORDS: Mapping[ErrorKind, tuple[str, str | None]] = {
    ErrorKind.BAD_REQUEST: ("invalid_request_error", None),
    ErrorKind.CONTEXT_LENGTH: ("invalid_request_error", "context_length_exceeded"),
    ErrorKind.UNSUPPORTED: ("invalid_request_error", "unsupported_by_upstream"),
    ErrorKind.AUTHENTICATION: ("authentication_error", "invalid_api_key"),
    ErrorKind.FORBIDDEN: ("permission_error", None),
    ErrorKind.BILLING: ("insufficient_quota", "insufficient_quota"),
    ErrorKind.NOT_FOUND: ("invalid_request_error", "not_found"),
    ErrorKind.MODEL_NOT_FOUND: ("invalid_request_error", "model_not_found"),
    ErrorKind.METHOD: ("invalid_request_error", "method_not_allowed"),
    ErrorKind.CONFLICT: ("invalid_request_error", None),
    ErrorKind.TOO_LARGE: ("invalid_request_error", "request_too_large"),
    ErrorKind.MEDIA_TYPE: ("invalid_request_error", "unsupported_media_type"),
    ErrorKind.UNPROCESSABLE: ("invalid_request_error", None),
    ErrorKind.RATE_LIMIT: ("rate_limit_error", "rate_limit_exceeded"),
    ErrorKind.QUOTA: ("insufficient_quota", "insufficient_quota"),
    ErrorKind.CLIENT_TIMEOUT: ("invalid_request_error", "request_timeout"),
    ErrorKind.UPSTREAM: ("server_error", None),
    ErrorKind.UPSTREAM_AUTH: ("server_error", "upstream_auth"),
    ErrorKind.OVERLOADED: ("overloaded_error", None),
    ErrorKind.UNAVAILABLE: ("server_error", None),
    ErrorKind.TIMEOUT: ("timeout_error", None),
    ErrorKind.INTERNAL: ("server_error", None),
}
_STATUSES: Mapping[int, int] = {402: 429, 529: 503}
"""Statuses that this protocol's clients don't know, with their replacements."""

_CONTEXT_CODES = frozenset(
    {
        "context_length_exceeded",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "exceed_context_size_error",
        "string_above_max_length",
        "request_too_long",
    }
)
_QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "quota_exceeded",
        "insufficient_balance",
        "insufficient_credits",
        "exceeded_current_quota_error",
        "access_terminated",
    }
)
_MODEL_CODES = frozenset(
    {"model_not_found", "deploymentnotfound", "model_not_exist", "notfounderror", "model_not_available"}
)
_CREDENTIAL_CODES = frozenset(
    {
        "invalid_api_key",
        "incorrect_api_key",
        "invalid_api_key_error",
        "invalidapikey",
        "api_key_invalid",
        "missing_api_key",
        "no_api_key",
        "expired_api_key",
        "api_key_expired",
        "api_key_disabled",
        "api_key_revoked",
        "invalid_key",
        "key_revoked",
        "authentication_error",
        "authentication_failed",
        "authenticationerror",
        "invalid_authentication",
        "invalid_authentication_error",
        "invalid_credentials",
        "invalid_token",
        "token_expired",
        "token_invalidated",
        "unauthenticated",
        "unauthorized",
        "unauthorized_error",
        "account_deactivated",
        "organization_deactivated",
        "organization_not_found",
        "invalid_organization",
        "ip_not_authorized",
    }
)
"""Codes about the credential, for any status: some vendors refuse a key with status 400."""
ABOUT_THE_INPUT = frozenset(
    {
        "invalid_prompt",
        "data_residency_mismatch",
        "bio_policy",
        "misalignment_policy_violation",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "failed_to_download_image",
        "image_file_not_found",
    }
)
"""Codes of refusals after a successful start."""

_ABOUT_THE_REQUEST = ABOUT_THE_INPUT | {"content_filter", "content_policy_violation", "moderation_blocked"}

_STREAM_STATUSES: Mapping[str, int] = {
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
    "overloaded_error": 503,
    "overloaded": 503,
    "unavailable": 503,
    "service_unavailable": 503,
    "timeout_error": 504,
    "timeout": 504,
    "invalid_request_error": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    **dict.fromkeys(_CREDENTIAL_CODES, 401),
    "permission_error": 403,
    "vector_store_timeout": 504,
    "rate_limited": 429,
    "too_many_requests": 429,
    "ratelimiterror": 429,
    "engine_overloaded_error": 503,  # Moonshot's
    "resource_exhausted": 429,  # Google's from here on: its OpenAI-compatible endpoint uses them
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "deadline_exceeded": 504,
    **dict.fromkeys(ABOUT_THE_INPUT, 400),
}
"""The statuses of codes in a stream's error, which has no status."""
_WORD_KEYS = ("code", "type", "status")


def encode_problem(error: GatewayError) -> Problem:
    """Encode an error with its status and headers."""
    headers = [("content-type", "application/json")]
    if error.retry_after is not None:
        wait = max(0.0, error.retry_after)
        headers.append(("retry-after", str(math.ceil(wait))))
        headers.append(("retry-after-ms", str(math.ceil(wait * 1000))))
    if isinstance(error, UpstreamError):
        headers.append(("x-should-retry", "false"))
    if isinstance(error, MethodNotAllowed):
        headers.append(("allow", error.allow))
    if isinstance(error, WrongMediaType) and error.accept_encoding:
        headers.append(("accept-encoding", error.accept_encoding))
    return Problem(
        status=_STATUSES.get(error.status, error.status), headers=tuple(headers), body=encode_error_object(error)
    )


def encode_error_object(error: GatewayError) -> bytes:
    """Encode an error's JSON, for bodies and stream events."""
    return msgspec.json.encode({"error": error_object(error)})


def error_object(error: GatewayError) -> dict[str, Any]:
    """Encode message, type, param and code; the upstream's own values if they are about the request."""
    kind, code = _WORDS[error.kind]
    foreign = isinstance(error, UpstreamError) and error.protocol not in {None, *PROTOCOLS}
    # Clients act on codes and don't know other vendors' codes.
    known = (code or error.code) if foreign else (error.code or code)
    ours = {"message": error.message, "type": kind, "param": error.param, "code": known}
    if (
        isinstance(error, UpstreamRefused | UpstreamRateLimited)
        and error.protocol in PROTOCOLS
        and isinstance(error.native, Mapping)
    ):
        theirs = {key: value for key, value in error.native.items() if key != FAILED_EVENT}
        if type(theirs.get("message")) is not str or not theirs["message"]:
            theirs["message"] = error.message
        if type(theirs.get("type")) is not str or not theirs["type"]:
            theirs["type"] = kind
        return {"param": None, "code": None, **theirs}
    return ours


def decode_error(status: int, headers: Headers, body: bytes, *, protocol: str) -> UpstreamError:
    """Decode an error response."""
    found = error_of_body(status, body)
    return _judge(
        status,
        found,
        protocol=protocol,
        headers=headers,
        request_id=headers.get("x-request-id") or headers.get("apim-request-id"),
    )


def decode_error_object(found: Any, *, protocol: str) -> UpstreamError:
    """Decode an error in a response that started successfully."""
    error = flattened(found)
    status = stated_status(error)
    if status is None:
        words = _codes(error)
        status = next((_STREAM_STATUSES[word] for word in words if word in _STREAM_STATUSES), 500)
        if any(word in _CONTEXT_CODES for word in words):
            status = 400
        elif any(word in _QUOTA_CODES for word in words):
            status = 429
        elif any(word in _MODEL_CODES for word in words):
            status = 404
    return _judge(status, error, protocol=protocol, headers=ir.EMPTY, request_id=None)


def error_in(data: bytes, *, protocol: str) -> UpstreamError | None:
    """Decode the error in a frame or in a body with status 200; return None if there is none."""
    found = find_error(data)
    return None if found is None else decode_error_object(found, protocol=protocol)


def _judge(
    status: int,
    found: Mapping[str, Any] | None,
    *,
    protocol: str,
    headers: Headers,
    request_id: str | None,
) -> UpstreamError:
    words = _codes(found or {})
    wait = parse_retry_after(headers) if headers else None
    seen: dict[str, Any] = {
        "retry_after": retry_after_of_error(found) if wait is None else wait,
        "upstream_status": status,
        "upstream_request_id": request_id,
        "native": found,
        "protocol": protocol if found is not None else None,
        # The code of a failure is about the vendor; callers would read it as one about their request.
        "code": _text(found, "code") if status < 500 else None,
    }
    if status == 403 and not words & _CREDENTIAL_CODES and (refusal := _forbidden(found or {}, words)) is not None:
        message = _message(found) or "The upstream refused the request with status 403."
        return refusal(message, status=403, kind=ErrorKind.FORBIDDEN, param=_text(found, "param"), **seen)
    if status in {401, 403} or (400 <= status < 500 and words & _CREDENTIAL_CODES):
        return UpstreamAuthFailed(
            "The upstream refused the gateway's credential.", **{**seen, "native": None, "code": None}
        )
    if status == 402 or (status == 429 and words & _QUOTA_CODES):
        return UpstreamQuotaExceeded("The gateway's quota at the upstream is spent.", **{**seen, "code": None})
    if status == 429:
        limit = UpstreamRateLimited(_message(found) or "The upstream limits the rate of requests.", **seen)
        limit.about = limit_scope(words, headers)
        return limit
    if status in {400, 404, 409, 413, 422}:
        return _refused(status, found, words, seen)
    if status in {503, 529}:
        return UpstreamOverloaded("The upstream is overloaded.", status=status, **seen)
    if status in {408, 504}:
        return UpstreamTimeout("The upstream took too long, by its own account.", **seen)
    if status < 400:
        return UpstreamProtocolError(f"The upstream responded with the unexpected status {status}.", **seen)
    return UpstreamFailed(f"The upstream failed with status {status}.", **seen)


def _forbidden(found: Mapping[str, Any], words: frozenset[str]) -> type[UpstreamRefused] | None:
    """Classify a 403 about the model or the request; return None if it is about the credential."""
    if words & _MODEL_CODES or found.get("param") == "model":
        return UpstreamModelUnsuitable
    metadata = found.get("metadata")
    flagged = type(metadata) is dict and ("reasons" in metadata or "flagged_input" in metadata)  # OpenRouter's
    return UpstreamRefused if flagged or words & _ABOUT_THE_REQUEST or _text(found, "param") else None


def _refused(
    status: int, found: Mapping[str, Any] | None, words: frozenset[str], seen: dict[str, Any]
) -> UpstreamRefused:
    param = _text(found, "param")
    kinds = {409: ErrorKind.CONFLICT, 413: ErrorKind.TOO_LARGE, 422: ErrorKind.UNPROCESSABLE, 404: ErrorKind.NOT_FOUND}
    kind = kinds.get(status, ErrorKind.BAD_REQUEST)
    refusal = UpstreamRefused
    if words & _CONTEXT_CODES:
        kind, refusal = ErrorKind.CONTEXT_LENGTH, UpstreamModelUnsuitable
    elif status in {400, 404} and (words & _MODEL_CODES or (status == 404 and param == "model")):
        kind, refusal = ErrorKind.MODEL_NOT_FOUND, UpstreamModelUnsuitable
    message = _message(found) or f"The upstream refused the request with status {status}."
    return refusal(message, status=status, kind=kind, param=param, **seen)


def _codes(found: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(found[key]).lower() for key in _WORD_KEYS if type(found.get(key)) is str)


def _text(found: Mapping[str, Any] | None, key: str) -> str | None:
    value = found.get(key) if found else None
    return value if type(value) is str and value else None


def _message(found: Mapping[str, Any] | None) -> str | None:
    return _text(found, "message")
