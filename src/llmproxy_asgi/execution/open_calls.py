"""The running calls, and their end when the host shuts down.

::

    serving ──drain(window)──▶ draining: no new calls ─┬─ the last one ended ──▶ idle
                                                       └─ the window is over: the rest is interrupted ──▶ idle

An interrupted call fails like any other, so its caller receives the protocol's own error. No signal is handled here:
the owner of the process calls `drain`.
"""

import asyncio
from types import TracebackType
from typing import Self

from llmproxy_asgi.errors import Unavailable

SHUTTING_DOWN = "shutting_down"
"""The code of the error that calls then receive."""
_GRACE = 2.0
"""Seconds that interrupted calls have to send their error."""


class OpenCall:
    """A running call. Enter it in the task that serves the call.

    Raises (on entering, and on exiting if the call was interrupted):
        Unavailable: The host shuts down.
    """

    __slots__ = ("_calls", "_cancelling", "_interrupted", "_task")

    def __init__(self, calls: "OpenCalls") -> None:
        self._calls = calls
        self._interrupted = False

    def __enter__(self) -> Self:
        if self._calls.draining:
            raise shutting_down()
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._task = task
        self._cancelling = task.cancelling()
        self._calls.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.discard(self)
        if (
            self._interrupted
            and self._task.uncancel() <= self._cancelling
            and isinstance(error, asyncio.CancelledError)
        ):
            interrupted = shutting_down()
            interrupted.reported = True  # the call has recorded its own end
            raise interrupted from None

    @property
    def is_abandoned(self) -> bool:
        """Whether its event loop was closed, so that it will never end."""
        return self._task.get_loop().is_closed()

    def interrupt(self) -> None:
        """Interrupt the call; from any thread."""
        self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self in self._calls and not self._interrupted:
            self._interrupted = True
            self._task.cancel()


class OpenCalls:
    """The running calls of one gateway.

    Attributes:
        draining: Whether new calls are refused.
    """

    def __init__(self) -> None:
        self.draining = False
        self._open: set[OpenCall] = set()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def __len__(self) -> int:
        return len(self._open)

    def call(self) -> OpenCall:
        """Return a call to enter."""
        return OpenCall(self)

    def add(self, call: OpenCall) -> None:
        """Add a call that began."""
        self._open.add(call)

    def discard(self, call: OpenCall) -> None:
        """Remove a call that ended."""
        self._open.discard(call)
        if self._waiting and not self._open:
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def __contains__(self, call: OpenCall) -> bool:
        return call in self._open

    async def drain(self, window: float) -> None:
        """Refuse new calls, wait for running ones, and interrupt those that are left.

        Args:
            window: Seconds that running calls have.
        """
        self.draining = True
        self._open -= {call for call in self._open if call.is_abandoned}
        if await self._wait_until_idle(window):
            return
        for call in list(self._open):
            call.interrupt()
        await self._wait_until_idle(_GRACE)

    def reopen(self) -> None:
        """Admit calls again."""
        self.draining = False

    async def _wait_until_idle(self, seconds: float) -> bool:
        """Wait until no call runs, and return whether none does."""
        if not self._open:
            return True
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(seconds):
                while self._open:
                    waiting[1].clear()
                    if self._open:
                        await waiting[1].wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.remove(waiting)
        return True


def shutting_down() -> Unavailable:
    """Return the error of calls during a shutdown."""
    return Unavailable("This service is shutting down; try again in a moment.", code=SHUTTING_DOWN, retry_after=1.0)
