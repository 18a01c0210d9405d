"""A timer that beats while calls come: it measures how late the event loop is, and lets others work now and then.

It starts with a call, holds no task, and rests when nothing has been asked for a while or it is stopped.
"""

import asyncio
from collections.abc import Callable

from llmproxy_asgi.facts import AnyFact, CallFinished, CallStarted

EVERY = 0.5
"""Seconds between two beats."""
_WINDOW = 60
"""Beats after which the worst lateness of the window before is forgotten."""
_IDLE = 120
"""Beats without a call after which it rests."""


class Pulse:
    """Beats while calls come.

    Args:
        also: Done at every beat, and once more when it is stopped. Quick, and it does not raise.
    """

    def __init__(self, also: Callable[[], None] | None = None) -> None:
        self._also = also
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._beats = self._idle = 0
        self._worst = self._worst_before = 0.0

    @property
    def beating(self) -> bool:
        """Whether a beat is due."""
        return self._handle is not None

    def lag(self) -> float:
        """Seconds that the loop was late at worst, in the last half minute to minute."""
        return max(self._worst, self._worst_before)

    def notice(self, fact: AnyFact) -> None:
        """A call keeps it beating."""
        kind = type(fact)
        if kind is CallStarted or kind is CallFinished:
            self._idle = 0
            loop = asyncio.get_running_loop()
            if self._handle is None or self._loop is not loop:
                self.stop()
                self._loop = loop
                self._arm(loop)

    def stop(self) -> None:
        """No further beat; the next call starts it again."""
        if self._handle is not None:
            self._handle.cancel()
            self._rest()

    def _rest(self) -> None:
        self._handle = self._loop = None
        self._worst = self._worst_before = 0.0
        if self._also is not None:
            self._also()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + EVERY
        self._handle = loop.call_at(self._due, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._worst = max(self._worst, loop.time() - self._due)
        self._beats += 1
        self._idle += 1
        if self._beats % _WINDOW == 0:
            self._worst, self._worst_before = 0.0, self._worst
        if self._idle > _IDLE:
            self._rest()
            return
        if self._also is not None:
            self._also()
        self._arm(loop)
