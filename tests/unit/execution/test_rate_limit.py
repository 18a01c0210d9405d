"""Buckets: exact waits, never more than was promised, and debts that are paid."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.execution.rate_limit import SLACK, Limiter, TokenBucket
from support.clock import FakeClock

RATES = st.floats(0.01, 1e5)
STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 30)), min_size=1, max_size=40)


def limiter(
    clock: FakeClock, *, calls: tuple[tuple[float, float], ...] = (), tokens: tuple[float, float] | None = None
) -> Limiter:
    buckets = [TokenBucket(rate, capacity, clock) for rate, capacity in calls]
    return Limiter(buckets, TokenBucket(*tokens, clock) if tokens else None)


def test_a_burst_passes_and_then_one_at_a_time() -> None:
    """Ten at once and twenty a second: the eleventh waits 50 ms, and each one after it 50 ms more."""
    clock = FakeClock(at=0.0)
    bucket = TokenBucket(20, 10, clock)
    for _ in range(10):
        assert bucket.wait(1) == 0
        bucket.take(1)
    assert bucket.wait(1) == pytest.approx(0.05)
    for _ in range(100):
        clock.at += bucket.wait(1)
        assert bucket.wait(1) == 0
        bucket.take(1)
    assert clock.at == pytest.approx(5.0)


def test_what_is_not_used_is_kept_only_up_to_the_capacity() -> None:
    """After a year of silence there is one burst, not a year's worth."""
    clock = FakeClock()
    bucket = TokenBucket(20, 10, clock)
    clock.at += 365 * 86400
    assert bucket.level == 10


def test_more_than_it_can_hold_waits_for_a_full_one() -> None:
    """A call that is larger than the bucket passes when the bucket is full, and takes all of it."""
    clock = FakeClock()
    one = limiter(clock, tokens=(10, 100))
    assert one.reserve(30) == 30
    assert one.wait(1_000) == pytest.approx(3.0)
    clock.at += 3
    assert one.wait(1_000) == 0
    assert one.reserve(1_000) == 100
    assert one.wait(1) == pytest.approx(0.1)


def test_a_debt_is_paid_before_anybody_passes() -> None:
    """Delay later calls by the tokens that were used beyond a reservation."""
    clock = FakeClock()
    one = limiter(clock, tokens=(10, 100))
    reserved = one.reserve(50)
    one.adjust(reserved - 150)  # 150 it was
    assert one.wait(1) == pytest.approx(5.1)


def test_what_was_set_aside_and_not_spent_comes_back_at_once() -> None:
    """A call that turns out small makes room for the next."""
    clock = FakeClock()
    one = limiter(clock, tokens=(10, 100))
    reserved = one.reserve(100)
    assert one.wait(50) == pytest.approx(5.0)
    one.adjust(reserved - 20)
    assert one.wait(50) == 0


def test_a_correction_never_fills_a_bucket_beyond_its_capacity() -> None:
    """What comes back late, when time has filled the bucket already, is lost."""
    clock = FakeClock()
    one = limiter(clock, tokens=(10, 100))
    reserved = one.reserve(100)
    clock.at += 60
    one.adjust(reserved)
    one.reserve(100)
    assert one.wait(1) == pytest.approx(0.1)


def test_a_forgotten_call_leaves_no_trace() -> None:
    """Calls and tokens are back as they were."""
    clock = FakeClock()
    one = limiter(clock, calls=((1, 1),), tokens=(10, 100))
    reserved = one.reserve(100)
    assert not one.is_full
    one.cancel(reserved)
    assert one.is_full
    assert one.wait(100) == 0


@given(rate=RATES, capacity=st.integers(1, 50), steps=STEPS)
def test_never_more_than_was_promised(rate: float, capacity: int, steps: list[tuple[float, int]]) -> None:
    """In any stretch of time at most the burst, and what came back in that time, passes."""
    clock = FakeClock()
    bucket = TokenBucket(rate, capacity, clock)
    passed: list[float] = []
    for pause, tries in steps:
        clock.at += pause
        for _ in range(tries):
            if bucket.wait(1) == 0:
                bucket.take(1)
                passed.append(clock.at)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            promised = capacity + rate * (passed[last] - start + 2 * SLACK)
            assert last - first + 1 <= promised + 1e-6


@given(rate=RATES, capacity=st.integers(1, 50), steps=STEPS)
def test_waits_are_exact(rate: float, capacity: int, steps: list[tuple[float, int]]) -> None:
    """Provide enough tokens when the announced wait is over, and not a hundredth of it before."""
    clock = FakeClock()
    bucket = TokenBucket(rate, capacity, clock)
    for pause, amount in steps:
        clock.at += pause
        wait = bucket.wait(amount)
        if wait > 100 * SLACK:
            before = TokenBucket(rate, capacity, clock)
            before.take(capacity - bucket.level)
            clock.at += wait * 0.99
            assert before.wait(amount) > 0
            clock.at -= wait * 0.99
        clock.at += wait
        assert bucket.wait(amount) == 0
        bucket.take(min(amount, capacity))


@given(
    calls=st.lists(st.tuples(RATES, st.integers(1, 5)), max_size=2),
    tokens=st.none() | st.tuples(st.floats(0.1, 1e4), st.integers(1, 1000)),
    spent=st.integers(0, 20),
    line=st.lists(st.integers(0, 1500), min_size=1, max_size=12),
)
def test_a_forecast_comes_true(
    calls: list[tuple[float, float]], tokens: tuple[float, float] | None, spent: int, line: list[int]
) -> None:
    """Announce to a call behind others when it passes if each one passes as soon as it may."""
    clock = FakeClock(at=0.0)
    one = limiter(clock, calls=tuple(calls), tokens=tokens)
    for _ in range(spent):
        one.reserve(70)
    told = one.forecast(line)
    for each in line:
        while (wait := one.wait(each)) > 0:
            clock.at += wait
        one.reserve(each)
    assert clock.at == pytest.approx(told, rel=1e-6, abs=1e-3 if told > 1 else 1e-4)
    assert math.isfinite(told)
