"""How much may be tried again: a share of the traffic, so that an outage is not multiplied by us.

Every first try on a provider puts a little into its account, every retry takes one out. Going on to *another* provider
is no retry: no upstream sees a call more often for it. Kept per provider, beside the configuration.
"""

import threading

from llmproxy_asgi.clock import SYSTEM, Clock

SHARE = 0.08
"""Retries that one first try pays for."""
RESERVE = 10.0
"""Retries in an account at the most, and at the beginning: what quiet services live on."""
REFILL = 0.1
"""Retries that every second adds, up to the reserve."""


class RetryBudget:
    """One provider's account."""

    __slots__ = ("_balance", "_clock", "_lock", "_seen")

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # what is paid by one thread is not paid by another
        self._balance = RESERVE
        self._seen = clock.monotonic()

    def tried(self) -> None:
        """A first try is made."""
        if self._balance < RESERVE:
            self._balance = min(RESERVE, self._balance + SHARE)

    def may_retry(self) -> bool:
        """Whether one more try is affordable; it is paid for then."""
        with self._lock:
            now = self._clock.monotonic()
            self._balance = min(RESERVE, self._balance + (now - self._seen) * REFILL)
            self._seen = now
            if self._balance < 1.0:
                return False
            self._balance -= 1.0
            return True


class RetryBudgets:
    """Every provider's account, by its name."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._budgets: dict[str, RetryBudget] = {}

    def of(self, provider: str) -> RetryBudget:
        """The account of a provider."""
        budget = self._budgets.get(provider)
        if budget is None:
            budget = self._budgets[provider] = RetryBudget(self._clock)
        return budget
