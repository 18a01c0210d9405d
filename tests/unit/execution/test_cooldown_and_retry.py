"""What rests and for how long, and whether one target is tried again."""

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
from llmproxy_asgi.execution.cooldown import FAILURES_BEFORE_REST, LONGEST_REST, QUOTA_REST, Cooldowns, Subject
from llmproxy_asgi.execution.retry import LONGEST_BACKOFF, wait_before_retry
from llmproxy_asgi.settings import Retry
from support.clock import FakeClock

K = Subject("p", "p:0f", "m")


def test_a_rest_lasts_as_long_as_the_upstream_asks() -> None:
    """Not a moment less, and it is over then."""
    clock = FakeClock()
    rests = Cooldowns(clock)
    rests.failed(K, UpstreamRateLimited("", retry_after=20), 5)
    rest = rests.resting(K)
    assert rest is not None
    assert rest.asked
    assert rests.seconds_left(rest) == 20
    clock.at += 19.9
    assert rests.resting(K)
    clock.at += 0.1
    assert rests.resting(K) is None


@pytest.mark.parametrize("error", [UpstreamRateLimited(""), UpstreamAuthFailed("")])
def test_without_a_wait_from_the_upstream_the_configured_cooldown_applies(error: UpstreamError) -> None:
    """Count a configured cooldown as the gateway's own, so that the credential may be tried if nothing else is left."""
    clock = FakeClock()
    rests = Cooldowns(clock)
    rests.failed(K, error, 5)
    rest = rests.resting(K)
    assert rest is not None
    assert not rest.asked
    assert rests.seconds_left(rest) == 5


def test_an_absurd_wait_is_cut() -> None:
    """Limit the longest cooldown that an upstream can ask for."""
    rests = Cooldowns(FakeClock())
    rests.failed(K, UpstreamRateLimited("", retry_after=1e12), 5)
    rest = rests.resting(K)
    assert rest is not None
    assert rests.seconds_left(rest) == LONGEST_REST


def test_failures_in_a_row_make_a_rest_and_a_success_forgets_them() -> None:
    """One good answer starts the count anew."""
    rests = Cooldowns(FakeClock())
    for _ in range(FAILURES_BEFORE_REST - 1):
        rests.failed(K, UpstreamFailed(""), 5)
    rests.succeeded(K)
    for _ in range(FAILURES_BEFORE_REST - 1):
        rests.failed(K, UpstreamFailed(""), 5)
    assert rests.resting(K) is None
    rests.failed(K, UpstreamFailed(""), 5)
    assert rests.resting(K)


def test_a_refusal_of_the_request_rests_nobody() -> None:
    """A 400 is the caller's doing."""
    rests = Cooldowns(FakeClock())
    for _ in range(100):
        rests.failed(K, UpstreamRefused(""), 5)
    assert rests.resting(K) is None


def test_a_cooldown_of_nothing_switches_rests_off() -> None:
    """But not those that an upstream asks for."""
    rests = Cooldowns(FakeClock())
    rests.failed(K, UpstreamRateLimited(""), 0)
    assert rests.resting(K) is None
    rests.failed(K, UpstreamRateLimited("", retry_after=3), 0)
    assert rests.resting(K)


@pytest.mark.parametrize("tried", [1, 2, 3, 9])
def test_backoff_is_jittered_doubles_and_is_capped(tried: int) -> None:
    """Every draw lies between nothing and the doubled, capped wait, and they differ."""
    draw = random.Random(7)
    retry = Retry(attempts=10, backoff=0.25)
    waits = [wait_before_retry(UpstreamFailed(""), retry, tried=tried, draw=draw) for _ in range(200)]
    ceiling = min(LONGEST_BACKOFF, 0.25 * 2 ** (tried - 1))
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
    """What has failed often enough to rest."""
    rests = Cooldowns(clock)
    for _ in range(FAILURES_BEFORE_REST):
        rests.failed(K, UpstreamFailed(""), cooldown)
    return rests


def test_after_a_rest_one_call_tries_and_the_others_wait_for_its_word() -> None:
    """A circuit is half open for exactly one."""
    clock = FakeClock()
    rests = opened(clock)
    clock.at += 5
    assert rests.resting(K) is None
    rests.trying(K)
    assert rests.resting(K) is not None
    rests.answered(K)
    assert rests.resting(K) is None


def test_a_failed_try_opens_the_circuit_for_twice_as_long_up_to_a_bound() -> None:
    """Double the cooldown with each further failure, up to a bound."""
    clock = FakeClock()
    rests = opened(clock)
    waits = []
    for _ in range(9):
        rest = rests.resting(K)
        assert rest is not None
        waits.append(rests.seconds_left(rest))
        clock.at = rest.until
        rests.trying(K)
        rests.failed(K, UpstreamFailed(""), 5)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_try_that_tells_nothing_lets_the_next_one_try() -> None:
    """A caller who leaves is no verdict on the upstream."""
    clock = FakeClock()
    rests = opened(clock)
    clock.at += 5
    rests.trying(K)
    rests.gave_up(K)
    assert rests.resting(K) is None


def test_failures_of_calls_under_way_do_not_lengthen_a_rest() -> None:
    """They began before it, and tell nothing new."""
    clock = FakeClock()
    rests = opened(clock)
    clock.at += 1
    for _ in range(50):
        rests.failed(K, UpstreamFailed(""), 5)
    rest = rests.resting(K)
    assert rest is not None
    assert rests.seconds_left(rest) == 4


@pytest.mark.parametrize(
    "refusal", [UpstreamRateLimited("", retry_after=60), UpstreamRateLimited(""), UpstreamQuotaExceeded("")]
)
def test_calls_that_were_under_way_do_not_end_a_rest(refusal: UpstreamError) -> None:
    """Streams that began before it may begin to answer, and end well, while it lasts; it lasts all the same."""
    clock = FakeClock()
    rests = Cooldowns(clock)
    rests.failed(K, refusal, 30)
    rest = rests.resting(K)
    rests.answered(K)
    rests.succeeded(K)
    rests.failed(K, UpstreamRefused(""), 30)
    assert rests.resting(K) is rest is not None
    clock.at = rest.until
    assert rests.resting(K) is None


def test_a_success_during_a_cooldown_closes_the_circuit() -> None:
    """Close the circuit after a success during the cooldown just as after one behind it."""
    rests = opened(FakeClock())
    assert rests.resting(K)
    rests.trying(K)
    rests.answered(K)
    assert rests.resting(K) is None


def test_a_health_check_shortens_no_rest_that_calls_caused() -> None:
    """An upstream that asked for a wait gets it, however its checks go meanwhile."""
    clock = FakeClock()
    rests = Cooldowns(clock)
    rests.failed(K, UpstreamRateLimited("", retry_after=60), 5)
    rests.found_down(K, 600)
    rests.found_up(K)
    rest = rests.resting(K)
    assert rest is not None
    assert (rest.asked, rests.seconds_left(rest)) == (True, 60)
    clock.at += 60
    rests.found_down(K, 600)
    assert rests.resting(K)
    rests.found_up(K)
    assert rests.resting(K) is None


def test_streams_that_begin_and_break_are_failures_in_a_row() -> None:
    """An answer that begins forgives nothing; one that ends well does."""
    rests = Cooldowns(FakeClock())
    for _ in range(FAILURES_BEFORE_REST - 1):
        rests.answered(K)
        rests.failed(K, UpstreamFailed(""), 5)
    rests.answered(K)
    assert rests.resting(K) is None
    rests.failed(K, UpstreamFailed(""), 5)
    assert rests.resting(K)


def test_a_spent_quota_rests_longer() -> None:
    """No minute brings it back."""
    clock = FakeClock()
    rests = Cooldowns(clock)
    rests.failed(K, UpstreamQuotaExceeded(""), 5)
    rest = rests.resting(K)
    assert rest is not None
    assert (rests.seconds_left(rest), rest.asked) == (QUOTA_REST, False)


def test_every_change_is_observed() -> None:
    """Notify the observer when a cooldown begins and when it ends."""
    clock = FakeClock()
    rests = Cooldowns(clock)
    told: list[tuple[Subject, float | None]] = []
    rests.noticed = lambda subject, rest: told.append((subject, rest.seconds if rest else None))
    rests.failed(K, UpstreamRateLimited("", retry_after=3), 5)
    assert list(rests.all_resting()) == [(K, rests.resting(K))]
    clock.at += 3
    rests.succeeded(K)
    assert told == [(K, 3), (K, None)]
    assert list(rests.all_resting()) == []


@pytest.mark.parametrize(("status", "again"), [(500, True), (502, True), (501, False), (505, False), (307, False)])
def test_what_is_settled_is_not_asked_again(status: int, *, again: bool) -> None:
    """An upstream that cannot, or that points elsewhere, will say so each time."""
    wait = wait_before_retry(
        UpstreamFailed("", upstream_status=status), Retry(attempts=3), tried=1, draw=random.Random(1)
    )
    assert (wait is not None) is again
