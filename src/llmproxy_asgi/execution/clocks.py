"""The clocks of one attempt: first byte, idle and total, kept by a single timer.

Nothing is wrapped and nothing is scheduled per read. Whoever waits for the upstream notes since when, and a timer that
re-arms itself compares; when a clock runs out it cancels the owning task, and `verdict()` turns that cancellation into
an `UpstreamTooSlow`. A cancellation from elsewhere is told apart and passes through. While it is not the upstream's
turn (a slow caller is being written to) no clock cancels anything; the total is checked at the next wait.

The connect clock is the transport's, which also says when the request was sent: from then on the first-byte clock runs.
"""

import asyncio
from typing import Literal

from llmproxy_asgi.errors import UpstreamTooSlow
from llmproxy_asgi.settings import Timeouts

Reason = Literal["first_byte", "sending", "idle", "total"]

_MESSAGES: dict[Reason, tuple[str, str]] = {
    "first_byte": ("first_byte", "The upstream did not begin to respond in time."),
    "sending": ("idle", "The upstream stopped reading the request."),
    "idle": ("idle", "The upstream stopped in the middle of its response."),
    "total": ("total", "The call took longer than its time limit."),
}


class Clocks:
    """Bounds the waits of the task that makes it, or that it has moved to since. `stop()` must follow.

    It is the `RequestProgress` of the attempt's request, too.

    Args:
        timeouts: Seconds, as configured; `connect` itself is the transport's to keep.
    """

    __slots__ = (
        "_asked_at", "_cancelling", "_ends_at", "_expired", "_first_byte", "_handle", "_idle", "_limit", "_loop",
        "_reason", "_since", "_task", "_unsent",
    )  # fmt: skip

    def __init__(self, timeouts: Timeouts) -> None:
        self.move_here()
        self._loop = asyncio.get_running_loop()
        self._first_byte = timeouts.first_byte
        self._idle = timeouts.idle
        # Until the request is sent; a host's transport may not say when that is.
        self._unsent = timeouts.connect + timeouts.first_byte
        self._expired: Reason | None = None
        self._reason: Reason = "first_byte"
        self._limit = self._unsent
        now = self._loop.time()
        self._since: float | None = now
        self._asked_at: float | None = now
        self._ends_at = now + timeouts.total
        # Never later than any clock that may start meanwhile would end, so that none of them need arm it anew.
        first = min(now + timeouts.first_byte, now + timeouts.idle, self._ends_at)
        self._handle = self._loop.call_at(first, self._tick)

    def move_here(self) -> None:
        """It is the running task's waits that are bounded from now on."""
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._task = task
        self._cancelling = task.cancelling()  # it may have outlived a cancellation without taking it back

    def connecting(self) -> None:
        """The request has yet to be sent, on another connection."""
        self._restart("first_byte", self._unsent)

    def sending(self) -> None:
        """A piece of a large request is being written: what is bounded is how long the upstream reads none of it."""
        self._restart("sending", self._idle)

    def sent(self) -> None:
        """The whole request was sent: the first-byte clock starts."""
        self._reason = "first_byte"
        self._limit = self._first_byte
        self._since = self._asked_at = self._loop.time()

    def _restart(self, reason: Reason, limit: float) -> None:
        self._reason = reason
        self._limit = limit
        self._since = self._asked_at = self._loop.time()

    def waiting(self) -> None:
        """The upstream's turn begins.

        Raises:
            UpstreamTooSlow: The call is over its total already.
        """
        now = self._loop.time()
        if now >= self._ends_at:
            raise _timeout("total")
        # Headers are not the first byte of an answer: until that is there, all waits are one.
        self._since = now if self._asked_at is None else self._asked_at

    def began(self) -> None:
        """Something was read of the answer: from now on silence is idleness."""
        self._reason = "idle"
        self._limit = self._idle
        self._asked_at = None

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
        shortest = self._idle if self._asked_at is None else min(self._first_byte, self._idle)
        self._handle = self._loop.call_at(min(due, now + shortest), self._tick)


def _timeout(reason: Reason) -> UpstreamTooSlow:
    clock, message = _MESSAGES[reason]
    return UpstreamTooSlow(message, code=f"upstream_{clock}_timeout")
