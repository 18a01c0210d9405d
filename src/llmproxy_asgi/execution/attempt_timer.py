"""The timeouts of one attempt (first byte, idle and total), enforced by a single timer.

Nothing is wrapped and nothing is scheduled per read. A wait for the upstream records its start, and a timer compares
and re-arms itself. At a timeout it cancels the owning task, and `timeout_error()` turns that cancellation into an
`UpstreamTooSlow`; any other cancellation is distinguished and passes through. Between waits (while a slow caller is
written to) no timeout cancels anything; the total is checked at the next wait.

The connect timeout is the transport's, which also reports when the request was sent: from then on the first-byte
timeout counts.
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


class AttemptTimer:
    """Bounds the waits of the task that creates it, or that adopted it since. `stop()` must follow.

    It is also the `RequestProgress` of the attempt's request.

    Args:
        timeouts: Seconds, as configured; `connect` itself is enforced by the transport.
    """

    __slots__ = (
        "_cancelling", "_ends_at", "_expired", "_first_byte", "_handle", "_idle", "_limit", "_loop", "_reason",
        "_request_since", "_since", "_task", "_unsent",
    )  # fmt: skip

    def __init__(self, timeouts: Timeouts) -> None:
        self.adopt_current_task()
        self._loop = asyncio.get_running_loop()
        self._first_byte = timeouts.first_byte
        self._idle = timeouts.idle
        # Until the request is sent; a host's transport may not report when that is.
        self._unsent = timeouts.connect + timeouts.first_byte
        self._expired: Reason | None = None
        self._reason: Reason = "first_byte"
        self._limit = self._unsent
        now = self._loop.time()
        self._since: float | None = now
        self._request_since: float | None = now
        self._ends_at = now + timeouts.total
        # Never later than the end of any timeout that may start meanwhile, so that none of them needs to re-arm it.
        first = min(now + timeouts.first_byte, now + timeouts.idle, self._ends_at)
        self._handle = self._loop.call_at(first, self._tick)

    def adopt_current_task(self) -> None:
        """Bound the waits of the running task from now on."""
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._task = task
        self._cancelling = task.cancelling()  # it may have survived a cancellation without `uncancel`

    def connecting(self) -> None:
        """Restart the time for an unsent request, on another connection."""
        self._restart("first_byte", self._unsent)

    def sending(self) -> None:
        """Bound the time in which the upstream reads nothing of a large request."""
        self._restart("sending", self._idle)

    def sent(self) -> None:
        """Start the first-byte timeout, because the whole request was sent."""
        self._restart("first_byte", self._first_byte)

    def _restart(self, reason: Reason, limit: float) -> None:
        self._reason = reason
        self._limit = limit
        self._since = self._request_since = self._loop.time()

    def start_wait(self) -> None:
        """Begin a wait for the upstream.

        Raises:
            UpstreamTooSlow: The call has exceeded its total already.
        """
        now = self._loop.time()
        if now >= self._ends_at:
            raise _timeout("total")
        # Headers are not the first byte of a response: until that arrives, all waits count as one.
        self._since = now if self._request_since is None else self._request_since

    def received(self) -> None:
        """Switch to the idle timeout, because a part of the response has arrived."""
        self._reason = "idle"
        self._limit = self._idle
        self._request_since = None

    def end_wait(self) -> None:
        """End a wait for the upstream."""
        self._since = None

    def stop(self) -> None:
        """Stop the timer."""
        self._handle.cancel()

    def timeout_error(self) -> UpstreamTooSlow | None:
        """Return the error if the timer caused the `CancelledError` just caught; None: re-raise the cancellation."""
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
        shortest = self._idle if self._request_since is None else min(self._first_byte, self._idle)
        self._handle = self._loop.call_at(min(due, now + shortest), self._tick)


def _timeout(reason: Reason) -> UpstreamTooSlow:
    timeout, message = _MESSAGES[reason]
    return UpstreamTooSlow(message, code=f"upstream_{timeout}_timeout")
