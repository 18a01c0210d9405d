"""How long an upstream asks to wait, in every form that vendors have for it."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from llmproxy_asgi.translators.retry_after import limit_scope, parse_retry_after, retry_after_of_error

DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "7200"}, 3600.0),
        ({"retry-after": "1795255210", "date": DATE}, 10.0),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Saturday, 21-Nov-26 10:00:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Sat Nov 21 10:00:30 2026", "date": DATE}, 30.0),
        ({"retry-after": "2026-11-21T10:00:30Z", "date": DATE}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 09:59:00 GMT", "date": DATE}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m30s"}, 90.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6h0m0s"}, 3600.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1d2h"}, 3600.0),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "12"}, 12.0),
        (
            {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-reset": "1795255210",
                "date": DATE,
            },
            10.0,
        ),
        (
            {
                "anthropic-ratelimit-unified-5h-status": "rejected",
                "anthropic-ratelimit-unified-5h-reset": "1795255210",
                "anthropic-ratelimit-unified-7d-status": "allowed",
                "anthropic-ratelimit-unified-7d-reset": "1795255999",
                "date": DATE,
            },
            10.0,
        ),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": DATE}, 30.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "250ms"}, 0.25),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795255210", "date": DATE}, 10.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795255210500", "date": DATE}, 10.5),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "5"}, 5.0),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-21T10:00:20Z",
                "date": DATE,
            },
            20.0,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6h",
            },
            3600.0,
        ),
    ],
)
def test_each_form_is_read(headers: dict[str, str], seconds: float) -> None:
    """An instant counts from the upstream's own clock; of several limits that are used up the last one counts."""
    assert parse_retry_after(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "-4"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1e300"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000000001"},
        {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"},
        {"retry-after": "-5"},
        {"retry-after": "inf"},
        {"retry-after": "nan"},
        {"retry-after": "Sat, 99 Nov 2026 10:00:30 GMT", "date": DATE},
        {"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "once"},
        {"anthropic-ratelimit-unified-overage-status": "rejected"},
        {"retry-after": "soon", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"},
    ],
)
def test_nonsense_and_limits_with_room_say_nothing(headers: dict[str, str]) -> None:
    """Only a limit of which nothing remains, and a time that can be read, is a wait."""
    assert parse_retry_after(headers) is None


def test_without_a_date_of_the_upstreams_ours_counts() -> None:
    """An instant ahead of our clock is a wait, whether or not the upstream says what time it is."""
    then = datetime.now(UTC) + timedelta(seconds=600)
    for headers in (
        {"retry-after": format_datetime(then, usegmt=True)},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(then.timestamp())},
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": then.isoformat()},
    ):
        wait = parse_retry_after(headers)
        assert wait is not None
        assert 0 < wait <= 600


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]}, 17.0),
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.250s"}]}, 0.25),
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "99999s"}]}, 3600.0),
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "soon"}]}, None),
        ({"details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "retryDelay": "17s"}]}, None),
        ({"details": "RetryInfo"}, None),
        ({"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": 12}}}, 12.0),
        ({"metadata": {"headers": []}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_an_error_object_may_say_it_too(error: dict[str, Any] | None, seconds: float | None) -> None:
    """Google's `RetryInfo`, and the headers that OpenRouter repeats."""
    assert retry_after_of_error(error) == seconds


@pytest.mark.parametrize(
    ("codes", "headers", "about"),
    [
        (["rate_limit_exceeded", "tokens"], {}, "model"),
        (["rate_limit_error"], {}, "model"),
        (["user_model_rate_limited"], {}, "model"),
        (["user_global_rate_limited:pro_plus"], {}, "credential"),
        (["rate_limit_reached_error"], {}, "credential"),
        (["organization_rate_limit_exceeded"], {}, "credential"),
        ([], {"anthropic-ratelimit-unified-representative-claim": "five_hour"}, "credential"),
        ([], {"anthropic-ratelimit-unified-representative-claim": "seven_day_opus"}, "model"),
        ([], {"x-ratelimit-scope": "account"}, "credential"),
        ([], {"x-ratelimit-scope": "model"}, "model"),
        ([], {"x-ratelimit-exceeded": "global-chat:global-user-tps"}, "credential"),
    ],
)
def test_what_a_limit_is_about(codes: list[str], headers: dict[str, str], about: str) -> None:
    """One model, unless a code or a header of the vendor's says that the account is limited."""
    assert limit_scope(codes, headers) == about
