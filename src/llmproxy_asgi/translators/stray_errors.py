"""Errors where an answer was due: in a stream, or in a body with status 200, in whatever shape a server gave them.

Found by their shape and judged by each protocol's own words; nothing here knows a vendor.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from llmproxy_asgi.translators.error_bodies import error_of
from llmproxy_asgi.wire.surrogates import replace_halves

STATUS_KEYS = ("code", "status", "status_code")
"""Where servers put the status of an error that comes with status 200."""
BESIDE = ("code", "param", "status", "status_code")
"""What some servers put beside the error and not into it."""
_MARKS = frozenset({"code", "status", "status_code", "type", "object"})
_ANSWERS = (
    *("choices", "output", "response", "item", "delta"),
    *("candidates", "usageMetadata", "promptFeedback", "content", "content_block"),
)
"""Members that an object has which is no error, whatever else it holds."""


def read_loosely(data: bytes) -> Any:
    """An error's data, whatever it is; None where it cannot be read."""
    try:
        return msgspec.json.decode(replace_halves(data) or data)
    except (ValueError, RecursionError):
        return None


def find_error(data: bytes) -> Mapping[str, Any] | None:
    """The object, if it is or holds an error: ``{"error": ...}``, or a message beside a code; None for an answer."""
    found = read_loosely(data)
    if type(found) is list and found:
        found = found[0]
    if type(found) is not dict:
        return None
    flat = type(found.get("message")) is str and not found.keys().isdisjoint(_MARKS)
    return found if found.get("error") or (flat and not any(found.get(key) for key in _ANSWERS)) else None


def flattened(found: Any) -> Mapping[str, Any]:
    """The error itself: an object whose `message`, code and the like are its members; empty where it says nothing."""
    error = error_of(found) or {}
    if type(found) is not dict or not found.get("error"):
        return error
    return {**{key: found[key] for key in BESIDE if found.get(key) is not None}, **error}


def stated_status(error: Mapping[str, Any]) -> int | None:
    """The status that an error names by its number."""
    for key in STATUS_KEYS:
        value = error.get(key)
        if type(value) is str and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value <= 599:
            return value
    return None
