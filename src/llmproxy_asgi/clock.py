"""The time, as the rest of the house asks for it: real here, turned by hand in tests.

Durations are seconds on a monotonic clock; instants that people or wires see are aware UTC datetimes.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What may be asked of time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps."""

    def now(self) -> datetime:
        """The instant, aware, UTC."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""


class Alarm(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """It will not, any more."""


class AlarmClock(Clock, Protocol):
    """A clock that can also call back, for waits that are no task's."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back after that many seconds, on the running loop."""


class SystemClock:
    """The machine's time."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps."""
        return time.monotonic()

    def now(self) -> datetime:
        """The instant, aware, UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back after that many seconds, on the running loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)


SYSTEM = SystemClock()
