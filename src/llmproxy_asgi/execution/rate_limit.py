"""Token buckets: bursts, refill rates, and the exact time until an amount is available.

Plain arithmetic on a monotonic clock, in constant time per call; nothing here waits (`admission_queue` does). Tokens
are reserved before they are used, so a bucket can be in debt: a call that used more than its reservation delays later
calls, and over time no more is used than the rate allows.
"""

from collections.abc import Iterable, Sequence

from llmproxy_asgi.clock import Clock

SLACK = 1e-6
"""Seconds. A wait this short counts as none: no timer is finer, and later calls wait for it."""


class TokenBucket:
    """Allow bursts of `capacity`, refilled at `rate` per second.

    Args:
        rate: Refill per second; more than 0.
        capacity: The content when full, as at the beginning.
        clock: Measures the time of refilling.
        limit: The limit in words (`60 requests per minute`).
    """

    __slots__ = ("_at", "_clock", "_level", "capacity", "limit", "rate")

    def __init__(self, rate: float, capacity: float, clock: Clock, *, limit: str = "") -> None:
        self.rate = rate
        self.limit = limit
        self.capacity = capacity
        self._clock = clock
        self._level = capacity
        self._at = clock.monotonic()

    @property
    def level(self) -> float:
        """The present content; below 0 the bucket is in debt."""
        now = self._clock.monotonic()
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, amount: float) -> float:
        """Return the exact seconds until `amount` is available; 0: it is now. More than `capacity` counts as that."""
        missing = min(amount, self.capacity) - self.level
        return missing / self.rate if missing > self.rate * SLACK else 0.0

    def take(self, amount: float) -> None:
        """Take an amount, available or not."""
        self._level = self.level - amount

    def give(self, amount: float) -> None:
        """Return an amount that was taken and not used; negative: take more."""
        self._level = min(self.capacity, self.level + amount)


class Limiter:
    """Several buckets that a call needs together: those that count calls, and one that counts tokens.

    Args:
        calls: Each gives one for a call.
        tokens: Gives the estimated tokens of a call; adjusted when they are known.
    """

    __slots__ = ("_buckets", "_calls", "_tokens")

    def __init__(self, calls: Sequence[TokenBucket], tokens: TokenBucket | None) -> None:
        self._calls = tuple(calls)
        self._tokens = tokens
        self._buckets = self._calls if tokens is None else (*self._calls, tokens)

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens of a call are limited."""
        return self._tokens is not None

    @property
    def is_full(self) -> bool:
        """Whether every bucket is full, as at the beginning."""
        return all(bucket.level >= bucket.capacity for bucket in self._buckets)

    def wait(self, tokens: int) -> float:
        """Return the seconds until a call of `tokens` may be admitted; 0: it may now."""
        longest = 0.0
        for bucket in self._buckets:
            wait = bucket.wait(tokens if bucket is self._tokens else 1)
            longest = max(longest, wait)
        return longest

    def limit_reached(self, tokens: int) -> str:
        """Return the limit that a call of `tokens` waits for longest, in words."""
        return max(self._buckets, key=lambda bucket: bucket.wait(tokens if bucket is self._tokens else 1)).limit

    def reserve(self, tokens: int) -> float:
        """Take what a call needs.

        Returns:
            The reserved tokens: at most the capacity, or a larger call could never be admitted.
        """
        for bucket in self._calls:
            bucket.take(1)
        if self._tokens is None:
            return 0.0
        reserved = float(min(tokens, self._tokens.capacity))  # in this order: an int may be too large for a float
        self._tokens.take(reserved)
        return reserved

    def adjust(self, unused: float) -> None:
        """Return reserved tokens that were not used; negative: take those used beyond the reservation."""
        if self._tokens is not None:
            self._tokens.give(unused)

    def cancel(self, reserved: float) -> None:
        """Return everything that was taken for a call that was never sent."""
        for bucket in self._calls:
            bucket.give(1)
        self.adjust(reserved)

    def forecast(self, calls: Iterable[int]) -> float:
        """Return the seconds until the last of these calls is admitted, in their order, if nothing is returned before.

        Args:
            calls: The tokens of each.
        """
        levels = [bucket.level for bucket in self._buckets]
        total = 0.0
        for tokens in calls:
            needs = [min(tokens, each.capacity) if each is self._tokens else 1.0 for each in self._buckets]
            waits = (
                (need - level) / bucket.rate if need - level > bucket.rate * SLACK else 0.0
                for bucket, level, need in zip(self._buckets, levels, needs, strict=True)
            )
            wait = max(waits, default=0.0)
            total += wait
            levels = [
                min(bucket.capacity, level + wait * bucket.rate) - need
                for bucket, level, need in zip(self._buckets, levels, needs, strict=True)
            ]
        return total


def plural(number: float, noun: str) -> str:
    """Return a number of things in words: `1 request`, `60 requests`."""
    return f"{number:.12g} {noun}{'' if number == 1 else 's'}"
