"""Errors in the place of an answer: in a stream, or in a body with status 200, in any shape that servers use.

They are found by their shape; each protocol classifies them. This module knows no vendor.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from llmproxy_asgi.translators.error_bodies import error_of
from llmproxy_asgi.translators.raw_json import split_object
from llmproxy_asgi.wire.surrogates import replace_halves

STATUS_KEYS = ("code", "status", "status_code", "statusCode")
"""Where servers put the status of an error that comes with status 200."""
BESIDE = ("code", "param", "status", "status_code", "statusCode")
"""Members that some servers put beside the error object instead of into it."""
_LONG = 2**20
"""Bytes."""
_MARKS = frozenset({"code", "status", "status_code", "statusCode", "type", "object"})
_OF_ERRORS = frozenset({"fault", "__type", "Message", "error_description", "errorMessage", "error_message"})
"""Members that only errors have, in an object without any member of an answer."""
_OF_PROBLEMS = frozenset({"title", "detail", "errors", "reason"})
"""Members that errors have beside a status, or without a type that names another event."""
_WORDS = {
    "ThrottlingException": 429,
    "TooManyRequestsException": 429,
    "ServiceQuotaExceededException": 429,
    "policies.ratelimit.QuotaViolation": 429,
    "policies.ratelimit.SpikeArrestViolation": 429,
    "ValidationException": 400,
    "ResourceNotFoundException": 404,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 401,
    "UnrecognizedClientException": 401,
    "ModelNotReadyException": 503,
    "ServiceUnavailableException": 503,
    "ModelTimeoutException": 504,
}
"""The status for codes of AWS and Apigee, where an error has no status."""
_ANSWERS = (
    *("choices", "output", "response", "item", "delta"),
    *("candidates", "usageMetadata", "promptFeedback", "content", "content_block"),
)
"""Members that only an answer has, whatever else the object holds."""


def read_loosely(data: bytes) -> Any:
    """Return the decoded data; None where it is not JSON."""
    try:
        return msgspec.json.decode(replace_halves(data) or data)
    except (ValueError, RecursionError):
        return None


def find_error(data: bytes) -> Mapping[str, Any] | None:
    """Return the object if it is or holds an error: ``{"error": ...}``, or a message beside a code; None for an answer.

    Of a very long object only the short members are read: an error's members are short.
    """
    found = read_loosely(data) if len(data) <= _LONG else _read_short_members(data)
    if type(found) is list and found:
        found = found[0]
    if type(found) is not dict:
        return None
    if found.get("error"):
        return found
    if type(found.get("message")) is str and not found.keys().isdisjoint(_MARKS):
        return None if any(found.get(key) for key in _ANSWERS) else found
    return found if _is_foreign_error(found) and error_of(found) is not None else None


def names_problem(kind: Any) -> bool:
    """Return whether an object's type is an RFC 9457 problem type (a URI) and not an event's."""
    return type(kind) is str and ":" in kind


def _is_foreign_error(found: Mapping[str, Any]) -> bool:
    """Return whether an object has members of an error as other services write them, and none of an answer."""
    if not found.keys().isdisjoint(_ANSWERS):
        return False
    if not found.keys().isdisjoint(_OF_ERRORS):
        return True
    named = "type" in found and not names_problem(found["type"])
    return not found.keys().isdisjoint(_OF_PROBLEMS) and (not named or stated_status(found) is not None)


def _read_short_members(data: bytes) -> dict[str, Any] | None:
    try:
        inside = split_object(data)
    except (ValueError, RecursionError):
        return None
    short = {name: read_loosely(bytes(value)) for name, value in inside.items() if len(memoryview(value)) <= _LONG}
    return {name: short.get(name, True) for name in inside}


def flattened(found: Any) -> Mapping[str, Any]:
    """Return the error as one object with `message`, code and the like; empty where it has none."""
    error = error_of(found) or {}
    if type(found) is not dict or not (found.get("error") or found.get("fault")):
        return error
    return {**{key: found[key] for key in BESIDE if found.get(key) is not None}, **error}


def stated_status(error: Mapping[str, Any]) -> int | None:
    """Return the numeric status in an error."""
    for key in STATUS_KEYS:
        value = error.get(key)
        if type(value) is str and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value <= 599:
            return value
    code = error.get("code")
    return _WORDS.get(code) if type(code) is str else None
