"""Token buckets: how much may pass at once, how fast it comes back, and when exactly there is enough.

Plain arithmetic on a monotonic clock, in constant time for each call; nothing here waits (`gate.py` does). What is
taken is known before it is spent, so a bucket can be *in debt*: whoever spent more than was set aside makes those wait
who come later, and over time no more passes than the rate says.
"""

from collections.abc import Iterable, Sequence

from llmproxy_asgi.clock import Clock

SLACK = 1e-6
"""Seconds. What is due within so little is due: no timer is finer, and it is taken off what comes later."""


class TokenBucket:
    """So many at once, and so many more each second.

    Args:
        rate: Of refilling, in a second; more than 0.
        capacity: What it holds when it is full, as it is in the beginning.
        clock: What seconds are measured with.
        limit: What it stands for, in words (`60 requests per minute`).
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
        """What is in it now; below 0 it is in debt."""
        now = self._clock.monotonic()
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait(self, amount: float) -> float:
        """Seconds until it holds so much, exactly; 0: it does now. More than it can hold is as much as it can hold."""
        missing = min(amount, self.capacity) - self.level
        return missing / self.rate if missing > self.rate * SLACK else 0.0

    def take(self, amount: float) -> None:
        """Take so much, there or not."""
        self._level = self.level - amount

    def give(self, amount: float) -> None:
        """Put back what was taken and not spent; less than nothing takes more."""
        self._level = min(self.capacity, self.level + amount)


class Limiter:
    """Several buckets that a call must pass together: those that count calls, and one that counts tokens.

    Args:
        calls: Each gives one for a call.
        tokens: Gives as many as a call is estimated to be; put right when it is known how many it was.
    """

    __slots__ = ("_buckets", "_calls", "_tokens")

    def __init__(self, calls: Sequence[TokenBucket], tokens: TokenBucket | None) -> None:
        self._calls = tuple(calls)
        self._tokens = tokens
        self._buckets = self._calls if tokens is None else (*self._calls, tokens)

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens a call is."""
        return self._tokens is not None

    @property
    def is_full(self) -> bool:
        """Whether it is as if nobody had ever come."""
        return all(bucket.level >= bucket.capacity for bucket in self._buckets)

    def wait(self, tokens: int) -> float:
        """Seconds until a call of so many tokens may pass; 0: it may now."""
        longest = 0.0
        for bucket in self._buckets:
            wait = bucket.wait(tokens if bucket is self._tokens else 1)
            longest = max(longest, wait)
        return longest

    def lacking(self, tokens: int) -> str:
        """Which limit a call of so many tokens has to wait for longest, in words."""
        return max(self._buckets, key=lambda bucket: bucket.wait(tokens if bucket is self._tokens else 1)).limit

    def take(self, tokens: int) -> float:
        """Let a call pass.

        Returns:
            The tokens that are set aside for it: at most what the bucket holds, or a call that is larger never came.
        """
        for bucket in self._calls:
            bucket.take(1)
        if self._tokens is None:
            return 0.0
        aside = float(min(tokens, self._tokens.capacity))  # in this order: a caller's number may be too large for one
        self._tokens.take(aside)
        return aside

    def correct(self, tokens: float) -> None:
        """Put back tokens that were set aside and not spent; less than nothing takes what was spent beyond."""
        if self._tokens is not None:
            self._tokens.give(tokens)

    def forget(self, aside: float) -> None:
        """A call that was let pass never went anywhere: as if it had not come."""
        for bucket in self._calls:
            bucket.give(1)
        self.correct(aside)

    def forecast(self, calls: Iterable[int]) -> float:
        """Seconds until the last of these calls has passed, one after the other, if nothing is given back meanwhile.

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
