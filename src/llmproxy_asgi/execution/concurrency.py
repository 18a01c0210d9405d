"""Slots: how many calls may be under way at once.

Nothing here waits; the gates (`gate.py`) that lead to the same slots are told when one becomes free, whoever has waited
longest first.
"""

import itertools
from typing import Protocol


class Waiting(Protocol):
    """A line of callers in front of slots."""

    @property
    def oldest(self) -> int | None:
        """The number of whoever has waited longest; None: nobody waits."""

    def advance(self) -> None:
        """Let in who may come in now."""


class Slots:
    """So many at once.

    Args:
        limit: How many; at least 1.

    Attributes:
        used: How many are under way.
        lines: Who is told when one becomes free.
    """

    __slots__ = ("_numbers", "limit", "lines", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.lines: list[Waiting] = []
        self._numbers = itertools.count()

    @property
    def free(self) -> bool:
        """Whether there is one to be had."""
        return self.used < self.limit

    def number(self) -> int:
        """For somebody who begins to wait: later ones are higher."""
        return next(self._numbers)

    def take(self) -> None:
        """Take one; there must be one."""
        assert self.used < self.limit, "no slot is free"
        self.used += 1

    def release(self) -> None:
        """Give one back: it goes to whoever has waited longest and lacks nothing else."""
        assert self.used > 0, "no slot is taken"
        self.used -= 1
        if len(self.lines) == 1:
            self.lines[0].advance()
            return
        for _, line in sorted(
            ((line.oldest, line) for line in self.lines if line.oldest is not None), key=lambda each: each[0]
        ):
            line.advance()
