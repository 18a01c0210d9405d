"""A clock that only a test turns, and an event loop whose time only jumps."""

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from typing_extensions import override


@dataclass
class FakeAlarm:
    """Rings when its clock is turned past its time, unless it is cancelled before."""

    callback: Callable[[], object] | None

    def cancel(self) -> None:
        self.callback = None


@dataclass
class FakeClock:
    """Stand still until it is turned, `at` is changed or a coroutine sleeps. Only turning rings alarms.

    Attributes:
        at: The present time, in seconds.
        slept: How long each sleep was, in order.
    """

    at: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)
    _alarms: list[tuple[float, int, FakeAlarm]] = field(default_factory=list)
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    async def sleep(self, seconds: float) -> None:
        """Let the time pass, and other tasks have a turn."""
        self.slept.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> FakeAlarm:
        alarm = FakeAlarm(callback)
        heapq.heappush(self._alarms, (self.at + seconds, next(self._count), alarm))
        return alarm

    @property
    def alarms(self) -> int:
        """How many are set."""
        return sum(alarm.callback is not None for _, _, alarm in self._alarms)

    def turn(self, seconds: float) -> None:
        """Let time pass; alarms ring in their order, each at its own time."""
        end = self.at + seconds
        while self._alarms and self._alarms[0][0] <= end:
            due, _, alarm = heapq.heappop(self._alarms)
            self.at = max(self.at, due)
            if alarm.callback is not None:
                alarm.callback()
        self.at = end


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop without sockets whose time jumps to the next timer whenever nothing else is left to run.

    `asyncio.Runner(loop_factory=FakeTimeLoop)` runs an hour of timeouts in a moment.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.elapsed = 0.0

    @override
    def time(self) -> float:
        return self.elapsed


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: FakeTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "nothing would ever happen again"
            self._loop.elapsed += timeout
        return found
