"""The calls that are under way, and how they end when the host shuts down.

::

    serving ──drain(window)──▶ draining: no new calls ─┬─ the last one ended ──▶ quiet
                                                       └─ the window is over: the rest is interrupted ──▶ quiet

A call that is interrupted fails like any other, so its caller reads the protocol's own error. No signal is handled
here: whoever owns the process says when it ends.
"""

import asyncio
from types import TracebackType
from typing import Self

from llmproxy_asgi.errors import Unavailable

SHUTTING_DOWN = "shutting_down"
"""The code of the error that calls get then."""
_GRACE = 2.0
"""Seconds that interrupted calls get to say so to their callers."""


class OpenCall:
    """One call, while it is under way. Enter it in the task that serves the call.

    Raises (on entering, and on leaving where it was interrupted):
        Unavailable: The host shuts down.
    """

    __slots__ = ("_calls", "_cancelling", "_interrupted", "_task")

    def __init__(self, calls: "OpenCalls") -> None:
        self._calls = calls
        self._interrupted = False

    def __enter__(self) -> Self:
        if self._calls.draining:
            raise going_down()
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._task = task
        self._cancelling = task.cancelling()
        self._calls.entered(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.left(self)
        if (
            self._interrupted
            and self._task.uncancel() <= self._cancelling
            and isinstance(error, asyncio.CancelledError)
        ):
            interrupted = going_down()
            interrupted.reported = True  # the call has recorded its own end
            raise interrupted from None

    @property
    def is_deserted(self) -> bool:
        """Whether the loop that it ran on was closed over it, so that it will never end."""
        return self._task.get_loop().is_closed()

    def interrupt(self) -> None:
        """End it now; from any thread."""
        self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._calls.holds(self) and not self._interrupted:
            self._interrupted = True
            self._task.cancel()


class OpenCalls:
    """Every call of one gateway that is under way.

    Attributes:
        draining: Whether new ones are refused.
    """

    def __init__(self) -> None:
        self.draining = False
        self._open: set[OpenCall] = set()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def __len__(self) -> int:
        return len(self._open)

    def call(self) -> OpenCall:
        """One call that is about to begin."""
        return OpenCall(self)

    def entered(self, call: OpenCall) -> None:
        """It began."""
        self._open.add(call)

    def left(self, call: OpenCall) -> None:
        """It is over."""
        self._open.discard(call)
        if self._waiting and not self._open:
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def holds(self, call: OpenCall) -> bool:
        """Whether it is under way."""
        return call in self._open

    async def drain(self, window: float) -> None:
        """Refuse new calls, let those under way end, and interrupt what is left of them.

        Args:
            window: Seconds that they get.
        """
        self.draining = True
        self._open -= {call for call in self._open if call.is_deserted}
        if await self._quiet(window):
            return
        for call in list(self._open):
            call.interrupt()
        await self._quiet(_GRACE)

    def reopen(self) -> None:
        """Take calls again."""
        self.draining = False

    async def _quiet(self, seconds: float) -> bool:
        """Wait until there is no call; whether there is none."""
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


def going_down() -> Unavailable:
    """What a caller is told."""
    return Unavailable("This service is shutting down; try again in a moment.", code=SHUTTING_DOWN, retry_after=1.0)
