"""Cooldowns, their duration, and retries on one target."""

import random

import pytest

from llmproxy_asgi.errors import (
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamFailed,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from llmproxy_asgi.execution.cooldown import FAILURE_THRESHOLD, MAX_COOLDOWN, QUOTA_COOLDOWN, Cooldowns, Subject
from llmproxy_asgi.execution.retry import MAX_BACKOFF, wait_before_retry
from llmproxy_asgi.settings import Retry
from support.clock import FakeClock

K = Subject("p", "p:0f", "m")


def test_a_rest_lasts_as_long_as_the_upstream_asks() -> None:
    """Not a moment less, and it is over then."""
    clock = FakeClock()
    cooldowns = Cooldowns(clock)
    cooldowns.failed(K, UpstreamRateLimited("", retry_after=20), 5)
    cooldown = cooldowns.active(K)
    assert cooldown is not None
    assert cooldown.asked
    assert cooldowns.seconds_left(cooldown) == 20
    clock.at += 19.9
    assert cooldowns.active(K)
    clock.at += 0.1
    assert cooldowns.active(K) is None


@pytest.mark.parametrize("error", [UpstreamRateLimited(""), UpstreamAuthFailed("")])
def test_without_a_wait_from_the_upstream_the_configured_cooldown_applies(error: UpstreamError) -> None:
    """Count a configured cooldown as the gateway's own, so that the credential may be tried if nothing else is left."""
    clock = FakeClock()
    cooldowns = Cooldowns(clock)
    cooldowns.failed(K, error, 5)
    cooldown = cooldowns.active(K)
    assert cooldown is not None
    assert not cooldown.asked
    assert cooldowns.seconds_left(cooldown) == 5


def test_an_absurd_wait_is_cut() -> None:
    """Limit the longest cooldown that an upstream can ask for."""
    cooldowns = Cooldowns(FakeClock())
    cooldowns.failed(K, UpstreamRateLimited("", retry_after=1e12), 5)
    cooldown = cooldowns.active(K)
    assert cooldown is not None
    assert cooldowns.seconds_left(cooldown) == MAX_COOLDOWN


def test_failures_in_a_row_make_a_rest_and_a_success_forgets_them() -> None:
    """One good answer starts the count anew."""
    cooldowns = Cooldowns(FakeClock())
    for _ in range(FAILURE_THRESHOLD - 1):
        cooldowns.failed(K, UpstreamFailed(""), 5)
    cooldowns.succeeded(K)
    for _ in range(FAILURE_THRESHOLD - 1):
        cooldowns.failed(K, UpstreamFailed(""), 5)
    assert cooldowns.active(K) is None
    cooldowns.failed(K, UpstreamFailed(""), 5)
    assert cooldowns.active(K)


def test_a_refusal_of_the_request_begins_no_cooldown() -> None:
    """A 400 is the caller's doing."""
    cooldowns = Cooldowns(FakeClock())
    for _ in range(100):
        cooldowns.failed(K, UpstreamRefused(""), 5)
    assert cooldowns.active(K) is None


def test_a_cooldown_of_nothing_switches_rests_off() -> None:
    """Disable cooldowns with 0, except those that an upstream asks for."""
    cooldowns = Cooldowns(FakeClock())
    cooldowns.failed(K, UpstreamRateLimited(""), 0)
    assert cooldowns.active(K) is None
    cooldowns.failed(K, UpstreamRateLimited("", retry_after=3), 0)
    assert cooldowns.active(K)


@pytest.mark.parametrize("tried", [1, 2, 3, 9])
def test_backoff_is_jittered_doubles_and_is_capped(tried: int) -> None:
    """Every draw lies between nothing and the doubled, capped wait, and they differ."""
    draw = random.Random(7)
    retry = Retry(attempts=10, backoff=0.25)
    waits = [wait_before_retry(UpstreamFailed(""), retry, tried=tried, draw=draw) for _ in range(200)]
    ceiling = min(MAX_BACKOFF, 0.25 * 2 ** (tried - 1))
    assert all(wait is not None and 0 <= wait <= ceiling for wait in waits)
    assert max(wait for wait in waits if wait is not None) > ceiling * 0.9
    assert len(set(waits)) > 100


def test_one_attempt_is_no_retry_and_a_refusal_never_is() -> None:
    """`attempts` counts all tries; what cannot get better is not repeated."""
    draw = random.Random(7)
    assert wait_before_retry(UpstreamFailed(""), Retry(attempts=1), tried=1, draw=draw) is None
    assert wait_before_retry(UpstreamRefused(""), Retry(attempts=5), tried=1, draw=draw) is None
    assert wait_before_retry(UpstreamAuthFailed(""), Retry(attempts=5), tried=1, draw=draw) is None


def test_a_short_wait_that_the_upstream_asks_for_is_obeyed_and_a_long_one_is_the_callers() -> None:
    """We wait seconds for the caller, not minutes."""
    draw = random.Random(7)
    retry = Retry(attempts=2)
    assert wait_before_retry(UpstreamRateLimited("", retry_after=2), retry, tried=1, draw=draw) == 2
    assert wait_before_retry(UpstreamRateLimited("", retry_after=60), retry, tried=1, draw=draw) is None


# ── circuits ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def opened(clock: FakeClock, cooldown: float = 5) -> Cooldowns:
    """What has failed often enough to cool down."""
    cooldowns = Cooldowns(clock)
    for _ in range(FAILURE_THRESHOLD):
        cooldowns.failed(K, UpstreamFailed(""), cooldown)
    return cooldowns


def test_after_a_rest_one_call_tries_and_the_others_wait_for_its_word() -> None:
    """A circuit is half open for exactly one."""
    clock = FakeClock()
    cooldowns = opened(clock)
    clock.at += 5
    assert cooldowns.active(K) is None
    cooldowns.attempt_started(K)
    assert cooldowns.active(K) is not None
    cooldowns.response_started(K)
    assert cooldowns.active(K) is None


def test_a_failed_try_opens_the_circuit_for_twice_as_long_up_to_a_bound() -> None:
    """Double the cooldown with each further failure, up to a bound."""
    clock = FakeClock()
    cooldowns = opened(clock)
    waits = []
    for _ in range(9):
        cooldown = cooldowns.active(K)
        assert cooldown is not None
        waits.append(cooldowns.seconds_left(cooldown))
        clock.at = cooldown.until
        cooldowns.attempt_started(K)
        cooldowns.failed(K, UpstreamFailed(""), 5)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_try_that_tells_nothing_lets_the_next_one_try() -> None:
    """Learn nothing about the upstream from a call whose caller disconnects."""
    clock = FakeClock()
    cooldowns = opened(clock)
    clock.at += 5
    cooldowns.attempt_started(K)
    cooldowns.attempt_abandoned(K)
    assert cooldowns.active(K) is None


def test_failures_of_calls_under_way_do_not_lengthen_a_rest() -> None:
    """They began before it, and tell nothing new."""
    clock = FakeClock()
    cooldowns = opened(clock)
    clock.at += 1
    for _ in range(50):
        cooldowns.failed(K, UpstreamFailed(""), 5)
    cooldown = cooldowns.active(K)
    assert cooldown is not None
    assert cooldowns.seconds_left(cooldown) == 4


@pytest.mark.parametrize(
    "refusal", [UpstreamRateLimited("", retry_after=60), UpstreamRateLimited(""), UpstreamQuotaExceeded("")]
)
def test_calls_that_were_under_way_do_not_end_a_rest(refusal: UpstreamError) -> None:
    """Streams that began before it may begin to answer, and end well, while it lasts; it lasts all the same."""
    clock = FakeClock()
    cooldowns = Cooldowns(clock)
    cooldowns.failed(K, refusal, 30)
    cooldown = cooldowns.active(K)
    cooldowns.response_started(K)
    cooldowns.succeeded(K)
    cooldowns.failed(K, UpstreamRefused(""), 30)
    assert cooldowns.active(K) is cooldown is not None
    clock.at = cooldown.until
    assert cooldowns.active(K) is None


def test_a_success_during_a_cooldown_closes_the_circuit() -> None:
    """Close the circuit after a success during the cooldown just as after one behind it."""
    cooldowns = opened(FakeClock())
    assert cooldowns.active(K)
    cooldowns.attempt_started(K)
    cooldowns.response_started(K)
    assert cooldowns.active(K) is None


def test_a_health_check_shortens_no_rest_that_calls_caused() -> None:
    """Respect a wait that an upstream asked for, whatever the results of its health checks."""
    clock = FakeClock()
    cooldowns = Cooldowns(clock)
    cooldowns.failed(K, UpstreamRateLimited("", retry_after=60), 5)
    cooldowns.found_down(K, 600)
    cooldowns.found_up(K)
    cooldown = cooldowns.active(K)
    assert cooldown is not None
    assert (cooldown.asked, cooldowns.seconds_left(cooldown)) == (True, 60)
    clock.at += 60
    cooldowns.found_down(K, 600)
    assert cooldowns.active(K)
    cooldowns.found_up(K)
    assert cooldowns.active(K) is None


def test_streams_that_begin_and_break_are_failures_in_a_row() -> None:
    """An answer that begins forgives nothing; one that ends well does."""
    cooldowns = Cooldowns(FakeClock())
    for _ in range(FAILURE_THRESHOLD - 1):
        cooldowns.response_started(K)
        cooldowns.failed(K, UpstreamFailed(""), 5)
    cooldowns.response_started(K)
    assert cooldowns.active(K) is None
    cooldowns.failed(K, UpstreamFailed(""), 5)
    assert cooldowns.active(K)


def test_a_spent_quota_rests_longer() -> None:
    """No minute brings it back."""
    clock = FakeClock()
    cooldowns = Cooldowns(clock)
    cooldowns.failed(K, UpstreamQuotaExceeded(""), 5)
    cooldown = cooldowns.active(K)
    assert cooldown is not None
    assert (cooldowns.seconds_left(cooldown), cooldown.asked) == (QUOTA_COOLDOWN, False)


def test_every_change_is_observed() -> None:
    """Notify the observer when a cooldown begins and when it ends."""
    clock = FakeClock()
    cooldowns = Cooldowns(clock)
    told: list[tuple[Subject, float | None]] = []
    cooldowns.on_change = lambda subject, cooldown: told.append((subject, cooldown.seconds if cooldown else None))
    cooldowns.failed(K, UpstreamRateLimited("", retry_after=3), 5)
    assert list(cooldowns.all_active()) == [(K, cooldowns.active(K))]
    clock.at += 3
    cooldowns.succeeded(K)
    assert told == [(K, 3), (K, None)]
    assert list(cooldowns.all_active()) == []


@pytest.mark.parametrize(("status", "again"), [(500, True), (502, True), (501, False), (505, False), (307, False)])
def test_permanent_statuses_are_not_retried(status: int, *, again: bool) -> None:
    """An upstream that cannot, or that points elsewhere, will say so each time."""
    wait = wait_before_retry(
        UpstreamFailed("", upstream_status=status), Retry(attempts=3), tried=1, draw=random.Random(1)
    )
    assert (wait is not None) is again
