"""Measure how late the event loop runs timers, with a timer that ticks while calls are made.

The first call starts the timer. It uses no task, and ends when it is stopped or after a minute without a call.
"""

import asyncio
from collections.abc import Callable

from llmproxy_asgi.facts import AnyFact, CallFinished, CallStarted

INTERVAL = 0.5
"""Seconds between two ticks."""
_WINDOW = 60
"""Ticks per measuring window; the worst lag of this window and of the one before is reported."""
_IDLE = 120
"""Ticks without a call after which the timer ends."""


class EventLoopMonitor:
    """Tick while calls are made, and measure the event loop's lag.

    Args:
        on_tick: Called at every tick, and once more when the timer ends. It must be quick and must not raise.
    """

    def __init__(self, on_tick: Callable[[], None] | None = None) -> None:
        self._on_tick = on_tick
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ticks = self._idle = 0
        self._worst = self._worst_before = 0.0

    @property
    def running(self) -> bool:
        """Whether a tick is scheduled."""
        return self._handle is not None

    def lag(self) -> float:
        """Return the worst lag of the last 30 to 60 seconds, in seconds."""
        return max(self._worst, self._worst_before)

    def notice(self, fact: AnyFact) -> None:
        """Start the timer, or keep it running, when a call starts or finishes."""
        kind = type(fact)
        if kind is CallStarted or kind is CallFinished:
            self._idle = 0
            loop = asyncio.get_running_loop()
            if self._handle is None or self._loop is not loop:
                self.stop()
                self._loop = loop
                self._schedule(loop)

    def stop(self) -> None:
        """Cancel the timer; the next call starts it again."""
        if self._handle is not None:
            self._handle.cancel()
            self._reset()

    def _reset(self) -> None:
        self._handle = self._loop = None
        self._worst = self._worst_before = 0.0
        if self._on_tick is not None:
            self._on_tick()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + INTERVAL
        self._handle = loop.call_at(self._due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._worst = max(self._worst, loop.time() - self._due)
        self._ticks += 1
        self._idle += 1
        if self._ticks % _WINDOW == 0:
            self._worst, self._worst_before = 0.0, self._worst
        if self._idle > _IDLE:
            self._reset()
            return
        if self._on_tick is not None:
            self._on_tick()
        self._schedule(loop)
