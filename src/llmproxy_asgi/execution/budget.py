"""Retry budgets: retries are limited to a share of the traffic, so that the gateway does not amplify an outage.

Each first attempt on a provider adds a little to its budget, each retry takes one. A failover to *another* provider is
no retry, because no upstream receives a call twice. Kept per provider, beside the configuration.
"""

import threading

from llmproxy_asgi.clock import SYSTEM, Clock

SHARE = 0.08
"""Retries that one first attempt adds."""
RESERVE = 10.0
"""The maximum of a budget, and its initial value, for services with little traffic."""
REFILL = 0.1
"""Retries that each second adds, up to the reserve."""


class RetryBudget:
    """The budget of one provider."""

    __slots__ = ("_balance", "_clock", "_lock", "_seen")

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # threads must not spend the same retry twice
        self._balance = RESERVE
        self._seen = clock.monotonic()

    def first_attempt(self) -> None:
        """Count a first attempt."""
        if self._balance < RESERVE:
            self._balance = min(RESERVE, self._balance + SHARE)

    def try_retry(self) -> bool:
        """Take one retry, if the budget has one."""
        with self._lock:
            now = self._clock.monotonic()
            self._balance = min(RESERVE, self._balance + (now - self._seen) * REFILL)
            self._seen = now
            if self._balance < 1.0:
                return False
            self._balance -= 1.0
            return True


class RetryBudgets:
    """The budgets of all providers, by name."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._budgets: dict[str, RetryBudget] = {}

    def of(self, provider: str) -> RetryBudget:
        """Return the budget of a provider."""
        budget = self._budgets.get(provider)
        if budget is None:
            budget = self._budgets[provider] = RetryBudget(self._clock)
        return budget
