"""Slots: how many calls may run at once.

Nothing here waits. The admission queues that share the slots are advanced when one becomes free, in the order of their
longest waiting calls.
"""

import itertools
from typing import Protocol


class WaitingQueue(Protocol):
    """A queue of calls that wait for slots."""

    @property
    def oldest(self) -> int | None:
        """The number of the call that has waited longest; None: none waits."""

    def advance(self) -> None:
        """Admit the waiting calls for which capacity is available."""


class Slots:
    """A bound on the number of concurrent calls.

    Args:
        limit: How many; at least 1.

    Attributes:
        used: How many are in use.
        queues: Advanced when a slot becomes free.
    """

    __slots__ = ("_numbers", "limit", "queues", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.queues: list[WaitingQueue] = []
        self._numbers = itertools.count()

    @property
    def free(self) -> bool:
        """Whether a slot is available."""
        return self.used < self.limit

    def next_number(self) -> int:
        """Return a number for a call that begins to wait, higher than any before."""
        return next(self._numbers)

    def take(self) -> None:
        """Take a slot; one must be available."""
        assert self.used < self.limit, "no slot is free"
        self.used += 1

    def release(self) -> None:
        """Return a slot. It goes to the call that has waited longest among those that lack nothing else."""
        assert self.used > 0, "no slot is in use"
        self.used -= 1
        if len(self.queues) == 1:
            self.queues[0].advance()
            return
        for _, queue in sorted(
            ((queue.oldest, queue) for queue in self.queues if queue.oldest is not None), key=lambda each: each[0]
        ):
            queue.advance()
