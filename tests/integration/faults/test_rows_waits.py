"""Rows 8 to 13: upstreams that ask for waits, fail, refuse, or are all down at once."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest

from llmproxy_asgi.facts import AttemptFailed, CredentialCooled
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, error_answer, json_answer
from support.faults import (
    EVERY,
    FORMS,
    GatewayHarness,
    block,
    fine,
    gateway,
    is_fine,
    is_refusal,
    request,
    upstreams,
    wait_until,
)
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES

NOW = datetime.now(UTC).replace(microsecond=0)
DATE = ("date", format_datetime(NOW, usegmt=True))


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


@pytest.fixture
def second() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=lambda received: fine(stream=bool(received.json().get("stream")))) as made:
        yield made


def limited(*headers: tuple[str, str]) -> Scenario:
    return error_answer(429, {"error": {"message": "Slow down.", "type": "rate_limit_error"}}, headers=headers)


def cooldowns(harness: GatewayHarness) -> list[CredentialCooled]:
    return [fact for fact in harness.observer.facts if isinstance(fact, CredentialCooled)]


# ── 8, 9 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

WAITS: dict[str, tuple[list[tuple[str, str]], float]] = {
    "seconds": ([("retry-after", "40")], 40),
    "date": ([("retry-after", format_datetime(NOW + timedelta(seconds=50), usegmt=True)), DATE], 50),
    "a fraction": ([("retry-after", "40.5")], 40.5),
    "an older date": ([("retry-after", (NOW + timedelta(seconds=50)).strftime("%A, %d-%b-%y %H:%M:%S GMT")), DATE], 50),
    "asctime": ([("retry-after", (NOW + timedelta(seconds=50)).strftime("%a %b %d %H:%M:%S %Y")), DATE], 50),
    "since 1970": ([("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", str(int(NOW.timestamp()) + 70)), DATE], 70),
    "a subscription's": (
        [
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-reset", str(int(NOW.timestamp()) + 80)),
            DATE,
        ],
        80,
    ),
    "milliseconds": ([("retry-after-ms", "20500")], 20.5),
    "openai's reset": ([("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "1m0s")], 60),
    "anthropic's reset": (
        [
            ("anthropic-ratelimit-tokens-remaining", "0"),
            ("anthropic-ratelimit-tokens-reset", (NOW + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ")),
            DATE,
        ],
        30,
    ),
}
ABSURD: dict[str, tuple[list[tuple[str, str]], float]] = {
    "a day": ([("retry-after", "86400")], 3600),
    "for ever": ([("retry-after", "1" + "0" * 12)], 7),
    "negative": ([("retry-after", "-1")], 7),
    "text": ([("retry-after", "after lunch")], 7),
    "not a number": ([("retry-after", "nan")], 7),
    "infinite": ([("retry-after-ms", "inf")], 7),
    "a date without a clock": ([("retry-after", format_datetime(NOW, usegmt=True)), ("date", "never")], 7),
}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        *(pytest.param(*case, id=name, marks=pytest.mark.fault(8)) for name, case in WAITS.items()),
        *(pytest.param(*case, id=name, marks=pytest.mark.fault(9)) for name, case in ABSURD.items()),
    ],
)
def test_the_wait_is_the_rest(
    upstream: ThreadedUpstream, second: ThreadedUpstream, headers: list[tuple[str, str]], seconds: float
) -> None:
    """The key cools down for that time, at most an hour; an invalid value means the default. Another target serves."""
    upstream.default = limited(*headers)
    with gateway(block(upstream, cooldown="7s"), block(second)) as harness:
        assert is_fine(harness.ask(CHAT))
        assert is_fine(harness.ask(MESSAGES, stream=True))
        (rest,) = cooldowns(harness)
    assert rest.seconds == pytest.approx(seconds)
    assert rest.asked == (seconds != 7)
    assert len(upstream.requests) == 1


@pytest.mark.fault(9)
@pytest.mark.parametrize("past", ["0", format_datetime(NOW - timedelta(hours=1), usegmt=True)], ids=["nought", "past"])
def test_a_wait_that_is_over_already_is_none(upstream: ThreadedUpstream, past: str) -> None:
    """The same key is asked again at once."""
    upstream.enqueue(limited(("retry-after", past), DATE), fine())
    with gateway(block(upstream, cooldown="10m", retry={"attempts": 2, "backoff": "10s"})) as harness:
        assert is_fine(harness.ask())
        assert cooldowns(harness) == []


@pytest.mark.fault(8)
@pytest.mark.parametrize("client", EVERY)
def test_the_caller_is_told_the_shortest_of_all_waits(client: str) -> None:
    """At first, and while they last; no upstream is asked meanwhile."""
    with upstreams(3) as made, gateway(*(block(each) for each in made)) as harness:
        for each, seconds in zip(made, ("90", "33", "60"), strict=True):
            each.default = limited(("retry-after", seconds))
        for stream in FORMS:
            refused = harness.ask(client, stream=stream)
            assert is_refusal(client, refused, 429), refused.text
            assert 25 <= int(refused.headers["retry-after"]) <= 33
        assert [len(each.requests) for each in made] == [1, 1, 1]


# ── 10 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(10)
def test_without_a_wait_it_is_backed_off(upstream: ThreadedUpstream) -> None:
    """Retries have waits that double, with fresh jitter each time; the cooldown after them was not requested."""
    upstream.default = limited()
    with gateway(block(upstream, cooldown="5s", retry={"attempts": 4, "backoff": "16ms"})) as harness:
        assert is_refusal(CHAT, harness.ask(), 429)
        waits = [
            fact.wait
            for fact in harness.observer.facts
            if isinstance(fact, AttemptFailed) and fact.next_action == "retry"
        ]
        assert all(0 <= wait <= 0.016 * 2**number for number, wait in enumerate(waits))
        assert all(not each.asked and each.seconds == 5 for each in cooldowns(harness))


SPENT: dict[str, tuple[int, dict[str, Any]]] = {
    CHAT: (429, {"error": {"message": "You exceeded your quota.", "type": "x", "code": "insufficient_quota"}}),
    RESPONSES: (429, {"error": {"message": "No quota.", "type": "insufficient_quota", "code": None}}),
    MESSAGES: (400, {"type": "error", "error": {"type": "billing_error", "message": "Credit balance is too low."}}),
    GEMINI: (
        429,
        {
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "Quota.",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                        "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}],
                    }
                ],
            }
        },
    ),
}


@pytest.mark.fault(10)
@pytest.mark.parametrize("spoken", EVERY)
def test_a_spent_quota_rests_for_long(upstream: ThreadedUpstream, second: ThreadedUpstream, spoken: str) -> None:
    """Each vendor's own words for it: not tried again, ten minutes' rest and more, and another target serves."""
    status, body = SPENT[spoken]
    upstream.default = json_answer(status, body)
    spent = block(upstream, spoken, cooldown="5s", retry={"attempts": 3, "backoff": "1ms"})
    with gateway(spent, block(second)) as harness:
        assert all(is_fine(harness.ask(client)) for client in EVERY)
        (rest,) = cooldowns(harness)
    assert rest.seconds >= 600
    assert len(upstream.requests) == 1


# ── 11, 12 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(11)
@pytest.mark.parametrize("spoken", EVERY)
def test_which_failures_are_tried_again(upstream: ThreadedUpstream, spoken: str) -> None:
    """Those that may pass; what an upstream cannot do it cannot do the second time."""
    body = {"type": "error", "error": {"type": "api_error", "message": "Boom.", "code": None, "param": None}}
    twice = {"attempts": 2, "backoff": "1ms"}
    with gateway(block(upstream, spoken, retry=twice)) as harness:
        for status, client in zip((500, 502, 503, 504, 529), itertools.cycle(EVERY), strict=False):
            for stream in FORMS:
                upstream.enqueue(json_answer(status, body), fine(spoken, stream=stream))
                assert is_fine(harness.ask(client, stream=stream)), status
        assert len(upstream.requests) == 20
        for status, client in zip((501, 505), (CHAT, MESSAGES), strict=True):
            upstream.enqueue(json_answer(status, body))
            assert is_refusal(client, harness.ask(client), 502), status
        assert len(upstream.requests) == 22


@pytest.mark.fault(12)
@pytest.mark.parametrize("client", EVERY)
def test_refusals_are_not_tried_again(upstream: ThreadedUpstream, client: str) -> None:
    """They keep their status in the caller's format despite other targets; a refused key is no caller's 401."""
    error = {"message": "No, because.", "type": "invalid_request_error", "param": None, "code": None}
    with gateway(block(upstream, retry={"attempts": 3, "backoff": "1ms"})) as harness:
        for number, status in enumerate((400, 404, 413, 422, 401, 403), 1):
            upstream.default = error_answer(status, {"error": error})
            refused = harness.ask(client)
            assert is_refusal(client, refused, 502 if status in {401, 403} else status), refused.text
            assert ("No, because." in refused.text) == (status not in {401, 403})
            assert len(upstream.requests) == number


@pytest.mark.fault(12)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_makes_room_for_the_next(
    upstream: ThreadedUpstream, second: ThreadedUpstream, status: int
) -> None:
    """First for the provider's other keys, then for the next target; refused keys rest."""

    def by_key(received: Received) -> Scenario:
        good = received.header("authorization") == "Bearer sk-good-good"
        return fine() if good else error_answer(status, {"error": {"message": "Wrong key: sk-bad-bad"}})

    upstream.default = by_key
    twice = {"attempts": 2, "backoff": "1ms"}
    with gateway(block(upstream, api_key=["sk-bad-bad", "sk-good-good"], cooldown="10m", retry=twice)) as harness:
        assert all(is_fine(harness.ask()) for _ in range(4))
        (rest,) = cooldowns(harness)
    keys = Counter(each.header("authorization") for each in upstream.requests)
    assert keys == {"Bearer sk-bad-bad": 1, "Bearer sk-good-good": 4}
    assert rest.seconds == 600
    with gateway(block(upstream, api_key="sk-bad-bad", cooldown="10m"), block(second)) as harness:
        assert all(is_fine(harness.ask()) for _ in range(3))
    assert len(upstream.requests) == 6


# ── 13 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

CLIENTS = 500


async def storm(harness: GatewayHarness) -> Counter[int]:
    """So many callers at once, half of them streaming, in two protocols."""

    async def one(session: aiohttp.ClientSession, number: int) -> int:
        path, body = request((CHAT, MESSAGES)[number % 2], stream=number % 4 < 2)
        async with session.post(harness.base + path, json=body) as answer:
            await answer.read()
            return answer.status

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return Counter(await asyncio.gather(*(one(session, number) for number in range(CLIENTS))))


@pytest.mark.fault(13)
@pytest.mark.parametrize("cooldown", ["30s", 0], ids=["with cooldowns", "without cooldowns"])
def test_a_total_outage_is_not_multiplied(cooldown: object) -> None:
    """All upstreams down, five hundred callers at once: none of the upstreams sees more than 1.1 times the calls."""
    down = error_answer(503, {"error": {"message": "down"}})
    again = {"attempts": 3, "backoff": "10ms"}
    with (
        upstreams(3, down) as made,
        gateway(
            *(block(each, cooldown=cooldown, retry=again, timeout={"connect": "120s"}) for each in made),
            keepalive="120s",  # a slow machine: neither a 504 nor a stream that began
        ) as harness,
    ):
        since = time.monotonic()
        statuses = asyncio.run(storm(harness))
        idle = 0.1 * (time.monotonic() - since)  # what an account earns by the time alone, on a slow machine, too
        wait_until(lambda: len(harness.observer.finished()) == CLIENTS)
        assert sum(statuses.values()) == CLIENTS
        assert set(statuses) <= {502, 503}
        assert all(len(each.requests) <= 1.1 * CLIENTS + idle for each in made), [len(each.requests) for each in made]
        attempts = sum(each.attempts for each in harness.observer.finished())
        assert attempts == sum(len(each.requests) for each in made)
