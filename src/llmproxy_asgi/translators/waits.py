"""How long an upstream asks to wait, by the headers that vendors use for it."""

import math
from email.utils import parsedate_to_datetime

from llmproxy_asgi.translators.base import Headers

_LONGEST = 3600.0
_ABSURD = 10 * 365 * 86_400.0


def wait_of(headers: Headers) -> float | None:
    """Seconds that the upstream asks to wait, at most an hour; None where it names none or an absurd one."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return sane_wait(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return sane_wait(seconds)
    try:
        # A date counts from the upstream's own clock; without that there is nothing to count from.
        wait = parsedate_to_datetime(value or "") - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return sane_wait(max(0.0, wait.total_seconds()))


def sane_wait(seconds: float) -> float | None:
    """A wait as it was asked for, at most an hour; None where it makes no sense."""
    return min(seconds, _LONGEST) if 0 <= seconds <= _ABSURD else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
