"""How long an upstream asks to wait and whom it limits, by the headers and codes that vendors use for it."""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llmproxy_asgi.errors import About
from llmproxy_asgi.translators.base import Headers

_LONGEST = 3600.0
_ABSURD = 10 * 365 * 86_400.0
_EPOCH = 1e9
"""From here on a number is an instant, in seconds since 1970; from a thousand times that, in milliseconds."""
_DURATION = re.compile(
    r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,7}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
"""`google.protobuf.Duration` in JSON."""

_ACCOUNT_CODES = ("account", "organization", "organisation", "workspace", "user_global", "user_weekly")
"""Parts of codes by which a limit is the account's: Copilot says `user_global_rate_limited:pro_plus`."""
_ACCOUNT_WORDS = frozenset({"rate_limit_reached_error"})
"""Codes that say so by who sends them: Moonshot's limits are the account's, over all models (platform.kimi.ai)."""
_ACCOUNT_CLAIMS = frozenset({"five_hour", "seven_day"})
"""Windows of a Claude subscription; `seven_day_opus` and its like are of one family of models."""
_ACCOUNT_SCOPES = frozenset({"account", "organization", "org", "workspace", "user", "global"})


def wait_of(headers: Headers) -> float | None:
    """Seconds that the upstream asks to wait, at most an hour; None where it names none or an absurd one."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None and (wait := sane_wait(milliseconds / 1000)) is not None:
        return wait
    value = headers.get("retry-after", "").strip()
    if not value:
        return _until_reset(headers)
    seconds = _number(value)
    if seconds is not None and seconds < _EPOCH:
        return sane_wait(seconds)
    return _from_now(value, headers.get("date", ""))


def sane_wait(seconds: float) -> float | None:
    """A wait as it was asked for, at most an hour; None where it makes no sense."""
    return min(seconds, _LONGEST) if 0 <= seconds <= _ABSURD else None


def wait_within(error: Mapping[str, Any] | None) -> float | None:
    """Seconds that an error object asks to wait: Google's `RetryInfo`, or the headers that OpenRouter repeats in it."""
    details = error.get("details") if error else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith("RetryInfo"):
            found = _DELAY.fullmatch(str(detail.get("retryDelay")))
            if found:
                return sane_wait(float(found[1]))
    metadata = error.get("metadata") if error else None
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(headers, dict):
        return None
    return wait_of({str(name).lower(): str(value) for name, value in headers.items()})


def limited(codes: Iterable[str], headers: Headers) -> About:
    """What a 429 limits: the account where a code or a header says so, else one model.

    Args:
        codes: The error's machine-readable words.
        headers: Of the answer.
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
    """Until the last of those limits is filled up again of which nothing remains."""
    waits = []
    for name, value in headers.items():
        reset = _reset_of(name)
        if reset is not None and _is_used_up(value):
            wait = _from_now(headers.get(reset, ""), headers.get("date", ""))
            if wait is not None:
                waits.append(wait)
    return max(waits, default=None)


def _reset_of(name: str) -> str | None:
    """The header that says when a limit is filled up, for one that says what remains of it."""
    if "ratelimit-" not in name:
        return None
    if "remaining" in name:
        return name.replace("remaining", "reset")
    # Subscriptions of Claude say `rejected` in place of a number: anthropic-ratelimit-unified-5h-status.
    return name.removesuffix("status") + "reset" if "-unified-" in name and name.endswith("-status") else None


def _is_used_up(value: str) -> bool:
    number = _number(value)
    return number <= 0 if number is not None else value.strip().lower() == "rejected"


def _from_now(text: str, date: str) -> float | None:
    """Seconds until then: told as a duration, as seconds, or as an instant by the upstream's own clock."""
    text = text.strip()
    number = _number(text)
    if number is None:
        found = _DURATION.fullmatch(text)
        if text and found is not None:
            days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
            return sane_wait(days * 86_400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
    elif number < _EPOCH:
        return sane_wait(number)
    try:
        then = _instant(text) if number is None else _since_1970(number)
        # An instant counts from the upstream's own clock; where it tells none, ours has to do.
        wait = then - (_instant(date) if date else datetime.now(UTC))
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    seconds = wait.total_seconds()
    return sane_wait(max(0.0, seconds) if date else seconds)


def _since_1970(number: float) -> datetime:
    return datetime.fromtimestamp(number / 1000 if number >= 1000 * _EPOCH else number, UTC)


def _instant(text: str) -> datetime:
    """A point in time in RFC 3339, or in one of HTTP's three forms (RFC 9110, 5.6.7); without a zone it is UTC.

    Raises:
        ValueError: It is none.
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
