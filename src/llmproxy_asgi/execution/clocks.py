"""The clocks of one attempt: first byte, idle and total, kept by a single timer.

Nothing is wrapped and nothing is scheduled per read. Whoever waits for the upstream notes since when, and a timer that
re-arms itself compares; when a clock runs out it cancels the owning task, and `verdict()` turns that cancellation into
an `UpstreamTooSlow`. A cancellation from elsewhere is told apart and passes through. While it is not the upstream's
turn (a slow caller is being written to) no clock cancels anything; the total is checked at the next wait.
"""

import asyncio
from typing import Literal

from llmproxy_asgi.errors import UpstreamTooSlow
from llmproxy_asgi.settings import Timeouts

Reason = Literal["first_byte", "idle", "total"]

_MESSAGES: dict[Reason, str] = {
    "first_byte": "The upstream did not begin to answer in time.",
    "idle": "The upstream stopped in the middle of its answer.",
    "total": "The call took longer than it may.",
}


class Clocks:
    """Bounds the waits of the task that makes it, or that it has moved to since. `stop()` must follow.

    Args:
        timeouts: Seconds, as configured; `connect` itself is the transport's to keep.
    """

    __slots__ = (
        "_cancelling", "_ends_at", "_expired", "_handle", "_idle", "_limit", "_loop", "_reason", "_since", "_task",
    )  # fmt: skip

    def __init__(self, timeouts: Timeouts) -> None:
        self.move_here()
        self._loop = asyncio.get_running_loop()
        self._idle = timeouts.idle
        self._expired: Reason | None = None
        self._reason: Reason = "first_byte"
        # Connecting happens inside this wait, under the transport's own clock.
        self._limit = timeouts.connect + timeouts.first_byte
        now = self._loop.time()
        self._since: float | None = now
        self._ends_at = now + timeouts.total
        self._handle = self._loop.call_at(min(now + self._limit, now + timeouts.idle, self._ends_at), self._tick)

    def move_here(self) -> None:
        """It is the running task's waits that are bounded from now on."""
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._task = task
        self._cancelling = task.cancelling()  # it may have outlived a cancellation without taking it back

    def waiting(self) -> None:
        """The upstream's turn begins.

        Raises:
            UpstreamTooSlow: The call is over its total already.
        """
        now = self._loop.time()
        if now >= self._ends_at:
            raise _timeout("total")
        self._since = now

    def began(self) -> None:
        """Something was read of the answer: from now on silence is idleness."""
        self._reason = "idle"
        self._limit = self._idle

    def working(self) -> None:
        """The upstream's turn ends."""
        self._since = None

    def stop(self) -> None:
        """No clock runs any more."""
        self._handle.cancel()

    def verdict(self) -> UpstreamTooSlow | None:
        """Whether the `CancelledError` just caught was a clock's; None: it was somebody else's, let it go on."""
        expired, self._expired = self._expired, None
        if expired is None or self._task.uncancel() > self._cancelling:
            return None
        return _timeout(expired)

    def _tick(self) -> None:
        now = self._loop.time()
        if self._since is None:
            due = now + self._limit
        else:
            due = min(self._since + self._limit, self._ends_at)
            if now >= due:
                self._expired = "total" if now >= self._ends_at else self._reason
                self._task.cancel()
                return
        # Never later than silence from now on would be idleness, so that `began` need not arm it anew.
        self._handle = self._loop.call_at(min(due, now + self._idle), self._tick)


def _timeout(reason: Reason) -> UpstreamTooSlow:
    return UpstreamTooSlow(_MESSAGES[reason], code=f"upstream_{reason}_timeout")
