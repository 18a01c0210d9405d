"""How long an upstream asks to wait, by the headers that vendors use for it."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llmproxy_asgi.translators.base import Headers

_LONGEST = 3600.0
_ABSURD = 10 * 365 * 86_400.0
_EPOCH = 1e9
"""From here on a number is an instant, in seconds since 1970; from a thousand times that, in milliseconds."""
_DURATION = re.compile(r"(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,7}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?")


def wait_of(headers: Headers) -> float | None:
    """Seconds that the upstream asks to wait, at most an hour; None where it names none or an absurd one."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return sane_wait(milliseconds / 1000)
    value = headers.get("retry-after")
    if value is None:
        return _until_reset(headers)
    seconds = _number(value)
    if seconds is not None:
        return sane_wait(seconds)
    try:
        # A date counts from the upstream's own clock; without that there is nothing to count from.
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return sane_wait(max(0.0, wait.total_seconds()))


def sane_wait(seconds: float) -> float | None:
    """A wait as it was asked for, at most an hour; None where it makes no sense."""
    return min(seconds, _LONGEST) if 0 <= seconds <= _ABSURD else None


def _until_reset(headers: Headers) -> float | None:
    """Until the last of those limits is filled up again of which nothing remains."""
    waits = []
    for name, value in headers.items():
        reset = _reset_of(name)
        if reset is not None and _number(value) == 0:
            wait = _from_now(headers.get(reset, ""), headers.get("date", ""))
            if wait is not None:
                waits.append(wait)
    return max(waits, default=None)


def _reset_of(remaining: str) -> str | None:
    """The header that says when a limit is filled up, for the one that says what remains of it."""
    if "ratelimit-" not in remaining or "remaining" not in remaining:
        return None
    return remaining.replace("remaining", "reset")


def _from_now(text: str, date: str) -> float | None:
    """Seconds until then: told as a duration, as seconds, or as an instant by the upstream's own clock."""
    number = _number(text)
    if number is None:
        found = _DURATION.fullmatch(text)
        if text and found is not None:
            hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
            return sane_wait(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
    elif number < _EPOCH:
        return sane_wait(number)
    try:
        if number is None:
            then = datetime.fromisoformat(text)
        else:
            then = datetime.fromtimestamp(number / 1000 if number >= 1000 * _EPOCH else number, UTC)
        wait = then - parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return sane_wait(max(0.0, wait.total_seconds()))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
