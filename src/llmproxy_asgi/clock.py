"""Clocks: the system's, and the interface that tests implement with fake ones.

Durations are seconds on a monotonic clock; instants in messages and on the wire are aware UTC datetimes.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The interface of a clock."""

    def monotonic(self) -> float:
        """Return the seconds since a fixed point; never adjusted."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""


class Alarm(Protocol):
    """A scheduled callback."""

    def cancel(self) -> None:
        """Cancel the callback."""


class AlarmClock(Clock, Protocol):
    """A clock that can also schedule callbacks, for waits without a task."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Schedule a callback on the running event loop after a number of seconds."""


class SystemClock:
    """The system's clock."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Return the seconds since a fixed point; never adjusted."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Schedule a callback on the running event loop after a number of seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback)


SYSTEM = SystemClock()
