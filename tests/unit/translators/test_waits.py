"""How long an upstream asks to wait, in every form that vendors have for it."""

import pytest

from llmproxy_asgi.translators.waits import wait_of

DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "7"}, 7.0),
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
    assert wait_of(headers) == pytest.approx(seconds)


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
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795255210"},
        {"retry-after": "soon", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"},
    ],
)
def test_nonsense_and_limits_with_room_say_nothing(headers: dict[str, str]) -> None:
    """Only a limit of which nothing remains, and a time that can be read, is a wait."""
    assert wait_of(headers) is None
