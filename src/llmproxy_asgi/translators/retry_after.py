"""Parse how long an upstream asks to wait, and what a 429 limits, from vendors' headers and error codes."""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llmproxy_asgi.errors import About
from llmproxy_asgi.translators.base import Headers

_MAX_WAIT = 3600.0
_IMPLAUSIBLE = 10 * 365 * 86_400.0
_EPOCH = 1e9
"""A number from here on is a Unix time in seconds; from a thousand times that, in milliseconds."""
_DURATION = re.compile(
    r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,7}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
"""`google.protobuf.Duration` in JSON."""

_ACCOUNT_CODES = ("account", "organization", "organisation", "workspace", "user_global", "user_weekly")
"""Parts of error codes for a limit of the account, such as Copilot's `user_global_rate_limited:pro_plus`."""
_ACCOUNT_WORDS = frozenset({"rate_limit_reached_error"})
"""Error codes for a limit of the account: Moonshot limits accounts, over all models (platform.kimi.ai)."""
_ACCOUNT_CLAIMS = frozenset({"five_hour", "seven_day"})
"""Windows of a Claude subscription for all models; `seven_day_opus` etc. are for one model family."""
_ACCOUNT_SCOPES = frozenset({"account", "organization", "org", "workspace", "user", "global"})


def parse_retry_after(headers: Headers) -> float | None:
    """Return the seconds that the upstream asks to wait, at most an hour; None if there are none or too many."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None and (wait := clamp_wait(milliseconds / 1000)) is not None:
        return wait
    value = headers.get("retry-after", "").strip()
    if not value:
        return _until_reset(headers)
    seconds = _number(value)
    if seconds is not None and seconds < _EPOCH:
        return clamp_wait(seconds)
    return _from_now(value, headers.get("date", ""))


def clamp_wait(seconds: float) -> float | None:
    """Limit a wait to an hour; return None for negative and implausible ones."""
    return min(seconds, _MAX_WAIT) if 0 <= seconds <= _IMPLAUSIBLE else None


def retry_after_of_error(error: Mapping[str, Any] | None) -> float | None:
    """Return the wait in an error object: in Google's `RetryInfo`, or in the headers that OpenRouter repeats there."""
    details = error.get("details") if error else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith("RetryInfo"):
            found = _DELAY.fullmatch(str(detail.get("retryDelay")))
            if found:
                return clamp_wait(float(found[1]))
    metadata = error.get("metadata") if error else None
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(headers, dict):
        return None
    return parse_retry_after({str(name).lower(): str(value) for name, value in headers.items()})


def limit_scope(codes: Iterable[str], headers: Headers) -> About:
    """Return what a 429 limits: the account if a code or a header says so, else one model.

    Args:
        codes: The error's codes.
        headers: The response's headers.
    """
    for code in codes:
        word = code.lower()
        if word in _ACCOUNT_WORDS or any(part in word for part in _ACCOUNT_CODES):
            return "credential"
    if headers.get("anthropic-ratelimit-unified-representative-claim", "").strip().lower() in _ACCOUNT_CLAIMS:
        return "credential"
    if headers.get("x-ratelimit-scope", "").strip().lower() in _ACCOUNT_SCOPES:
        return "credential"
    # Copilot's, such as `global-chat:global-user-tps-high-2025-04-08`.
    return "credential" if headers.get("x-ratelimit-exceeded", "").startswith("global") else "model"


def _until_reset(headers: Headers) -> float | None:
    """Return the seconds until all used-up limits have reset."""
    waits = []
    for name, value in headers.items():
        reset = _reset_of(name)
        if reset is not None and _is_used_up(value):
            wait = _from_now(headers.get(reset, ""), headers.get("date", ""))
            if wait is not None:
                waits.append(wait)
    return max(waits, default=None)


def _reset_of(name: str) -> str | None:
    """Return the name of the reset header for a header with a remaining quota."""
    if "ratelimit-" not in name:
        return None
    if "remaining" in name:
        return name.replace("remaining", "reset")
    # Claude subscriptions send `rejected` instead of a number: anthropic-ratelimit-unified-5h-status.
    return name.removesuffix("status") + "reset" if "-unified-" in name and name.endswith("-status") else None


def _is_used_up(value: str) -> bool:
    number = _number(value)
    return number <= 0 if number is not None else value.strip().lower() == "rejected"


def _from_now(text: str, date: str) -> float | None:
    """Return the seconds until a time given as a duration, as seconds, or as an instant of the upstream's clock."""
    text = text.strip()
    number = _number(text)
    if number is None:
        found = _DURATION.fullmatch(text)
        if text and found is not None:
            days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
            return clamp_wait(days * 86_400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
    elif number < _EPOCH:
        return clamp_wait(number)
    try:
        then = _instant(text) if number is None else _since_1970(number)
        # An instant is on the upstream's clock; without a Date header, use ours.
        wait = then - (_instant(date) if date else datetime.now(UTC))
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    seconds = wait.total_seconds()
    return clamp_wait(max(0.0, seconds) if date else seconds)


def _since_1970(number: float) -> datetime:
    return datetime.fromtimestamp(number / 1000 if number >= 1000 * _EPOCH else number, UTC)


def _instant(text: str) -> datetime:
    """Parse an instant in RFC 3339 or one of HTTP's three formats (RFC 9110, 5.6.7); the default zone is UTC.

    Raises:
        ValueError: The text is not an instant.
    """
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        then = parsedate_to_datetime(text)
    return then if then.tzinfo is not None else then.replace(tzinfo=UTC)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
