"""How much may be tried again."""

import pytest

from llmproxy_asgi.execution.budget import REFILL, RESERVE, SHARE, RetryBudget, RetryBudgets
from support.clock import FakeClock


@pytest.mark.parametrize("calls", [100, 500, 5_000])
def test_an_outage_is_hardly_multiplied(calls: int) -> None:
    """Where every call fails and would be retried, the upstream sees a tenth more calls at the most."""
    budget = RetryBudget(FakeClock())
    retries = 0
    for _ in range(calls):
        budget.first_attempt()
        retries += budget.try_retry()
    assert retries <= RESERVE + SHARE * calls
    assert (calls + retries) / calls <= 1.1 or calls < 500


def test_a_quiet_service_may_retry() -> None:
    """The first failures are retried, and what is spent comes back with time."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    assert [budget.try_retry() for _ in range(11)] == [True] * 10 + [False]
    clock.at += 1 / REFILL
    assert budget.try_retry()
    assert not budget.try_retry()


def test_healthy_hours_save_up_no_storm() -> None:
    """A long quiet time is worth no more than the reserve."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    for _ in range(10_000):
        budget.first_attempt()
    clock.at += 86_400
    assert sum(budget.try_retry() for _ in range(1_000)) == RESERVE


def test_one_provider_does_not_pay_for_another() -> None:
    """Keep one budget per provider."""
    budgets = RetryBudgets(FakeClock())
    while budgets.of("a").try_retry():
        pass
    assert not budgets.of("a").try_retry()
    assert budgets.of("b").try_retry()
