"""An admission queue: the capacity that a call needs, and the calls that wait until it is available.

A call is admitted immediately when the queue is empty and capacity is available. Other calls are queued first come,
first served, for a bounded time and in a bounded number; a cancelled wait returns what it took. A call may wait in
several queues and is admitted by the first one that has capacity::

    admit_first((queue A, queue B)) ─┬─ A: a, b, *this call* ...    limiter (time adds capacity), slots (a release does)
                                     └─ B: c, *this call* ...       the first admission removes it from the other queue

There is no task and no sleep: each wait has one future and one or two timers, all on its own event loop. Whatever
returns capacity admits waiting calls in the same step, so capacity never stays unused while a call waits for it.

Threads may share a queue, each with its own event loop, as where a host makes calls by `asyncio.run` in several
threads. Queues that depend on each other share a lock, which is held for a few steps and never across a wait. A wait
on another event loop is resolved there; nothing of an event loop is touched from outside it.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from llmproxy_asgi.clock import Alarm, AlarmClock
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.rate_limit import SLACK, Limiter, plural

UNKNOWN_WAIT = 1.0
"""Seconds to wait that are suggested where only the end of another call adds capacity."""


class Permit:
    """What one admitted call holds. Settle it when its tokens are known, release it when the call ends.

    Each method may be called repeatedly and in any order; only the first release or cancellation counts.
    """

    __slots__ = ("_queue", "_released", "_reserved", "_settled")

    def __init__(self, queue: "AdmissionQueue | None", reserved: float) -> None:
        self._queue = queue
        self._reserved = reserved
        self._settled = False
        self._released = queue is None

    @property
    def counts_tokens(self) -> bool:
        """Whether `settle` has an effect."""
        return self._queue is not None and self._queue.counts_tokens

    def settle(self, tokens: int) -> None:
        """Charge the call with `tokens` in all. A later call replaces an earlier one."""
        queue = self._queue
        if queue is None or not queue.counts_tokens:
            return
        unused, self._reserved = self._reserved - tokens, float(tokens)
        first, self._settled = not self._settled, True
        queue.adjust(unused, last=first and not self._released)

    def release(self) -> None:
        """Return the slot of a call that ended. Reserved tokens that were never settled stay charged."""
        if not self._released and self._queue is not None:
            self._released = True
            self._queue.release(last=not self._settled)

    def cancel(self) -> None:
        """Cancel a permit whose call was never sent: return the call, its tokens and its slot."""
        if not self._released and self._queue is not None:
            self._released = True
            reserved, self._reserved = self._reserved, 0.0
            self._queue.cancel(reserved, last=not self._settled)


class NotAdmitted(Exception):
    """A call was not admitted in time. Never leaves `execution`.

    Args:
        wait: Seconds until capacity is available if no other call comes first; a guess where a slot is missing.
        limit: The limit that was reached, in words.
        timed: Whether time alone adds capacity; else the end of another call does.
    """

    def __init__(self, wait: float, *, limit: str, timed: bool) -> None:
        super().__init__(f"no capacity for {wait:g} s")
        self.wait = wait
        self.limit = limit
        self.timed = timed


UNLIMITED = Permit(None, 0.0)
"""The permit of a call without limits."""


class AdmissionQueue:
    """The capacity that a call needs, and the calls that wait for it.

    Args:
        limiter: Limits of rate; None: there is none.
        slots: A limit of concurrency; None: there is none.
        queue_timeout: Seconds that a call may wait; 0: it is rejected immediately.
        max_queue: How many calls may wait at once.
        clock: Times the waits.
        lock: Guards the queue; shared by queues with the same slots, and by queues that one call may wait in together.
            None: its own.
    """

    __slots__ = (
        "_advancing",
        "_clock",
        "_entries",
        "_limiter",
        "_slots",
        "_unsettled",
        "lock",
        "max_queue",
        "queue_timeout",
    )

    def __init__(
        self,
        limiter: Limiter | None,
        slots: Slots | None,
        *,
        queue_timeout: float,
        max_queue: int,
        clock: AlarmClock,
        lock: "threading.RLock | None" = None,
    ) -> None:
        self.lock = lock or threading.RLock()
        self._limiter = limiter
        self._slots = slots
        self.queue_timeout = queue_timeout
        self.max_queue = max_queue
        self._clock = clock
        self._entries: OrderedDict[_QueueEntry, None] = OrderedDict()
        self._advancing = False
        self._unsettled = 0
        if slots is not None:
            slots.queues.append(self)

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens of a call are limited."""
        return self._limiter is not None and self._limiter.counts_tokens

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return len(self._entries)

    @property
    def oldest(self) -> int | None:
        """The number of the call that has waited longest; None: none waits."""
        return next(iter(self._entries)).number if self._entries else None

    @property
    def is_idle(self) -> bool:
        """Whether the queue is as new, so that it may be forgotten."""
        with self.lock:
            return (
                not self._entries
                and (self._slots is None or self._slots.used == 0)
                and (self._limiter is None or self._limiter.is_full)
            )

    @property
    def lacks_slot(self) -> bool:
        """Whether every slot is in use."""
        return self._slots is not None and not self._slots.free

    def try_admit(self, tokens: int) -> Permit | None:
        """Admit a call if none waits and capacity is available; None: not now.

        Args:
            tokens: The estimated size of the call.
        """
        with self.lock:
            if self._entries:
                self._remove_abandoned()
            if self._entries or self.lacks_slot or (self._limiter is not None and self._limiter.wait(tokens)):
                return None
            return self._admit(tokens)

    def forecast(self, tokens: int) -> float:
        """Return the seconds until a call of `tokens` is admitted after those waiting, if no capacity is returned.

        At least `UNKNOWN_WAIT` where only the end of another call adds capacity, because that time is unknown.
        """
        with self.lock:
            seconds = 0.0
            if self._limiter is not None:
                seconds = self._limiter.forecast([*(other.tokens for other in self._entries), tokens])
            return max(seconds, UNKNOWN_WAIT) if self.lacks_slot else seconds

    def is_worth_waiting(self, tokens: int) -> bool:
        """Return whether the queue has space, and capacity may become available within its timeout."""
        with self.lock:
            if self.queue_timeout <= 0 or len(self._entries) >= self.max_queue:
                return False
            # Running calls may end, or turn out smaller than estimated; beyond that only time helps, and is known.
            return self.lacks_slot or self._unsettled > 0 or self.forecast(tokens) <= self.queue_timeout + SLACK

    def limit_reached(self, tokens: int) -> str:
        """Return the limit that a call of `tokens` would wait for longest, in words (`60 requests per minute`)."""
        with self.lock:
            if self._slots is not None and not self._slots.free:
                return f"{plural(self._slots.limit, 'call')} at once"
            return "" if self._limiter is None else self._limiter.limit_reached(tokens)

    def advance(self) -> None:
        """Admit the waiting calls for which capacity is available."""
        with self.lock:
            if self._advancing or not self._entries:
                return
            self._advancing = True
            try:
                wait = self._admit_waiting()
            finally:
                self._advancing = False
            if wait is not None:
                next(iter(self._entries)).advance_in(wait)

    def adjust(self, unused: float, *, last: bool) -> None:
        """Return reserved tokens that a call did not use; negative: charge those used beyond the reservation."""
        assert self._limiter is not None, "it counts tokens"
        with self.lock:
            self._unsettled -= last
            self._limiter.adjust(unused)
            self.advance()

    def release(self, *, last: bool) -> None:
        """Return the slot of an admitted call that ended."""
        with self.lock:
            self._unsettled -= last and self.counts_tokens
            if self._slots is not None:
                self._slots.release()

    def cancel(self, reserved: float, *, last: bool) -> None:
        """Return everything that an admitted call took, because it was never sent."""
        with self.lock:
            if self._limiter is not None:
                self._limiter.cancel(reserved)
            self.release(last=last)
            self.advance()

    def enqueue(self, entry: "_QueueEntry") -> None:
        """Add an entry at the end; on the event loop of its waiter."""
        with self.lock:
            entry.number = 0 if self._slots is None else self._slots.next_number()
            self._entries[entry] = None
            entry.timeout = self._clock.call_later(self.queue_timeout, entry.expire)
            if len(self._entries) == 1:
                self.advance()

    def remove(self, entry: "_QueueEntry") -> None:
        """Remove an entry, if it is queued."""
        with self.lock:
            if entry in self._entries:
                del self._entries[entry]
                self.advance()

    def holds(self, entry: "_QueueEntry") -> bool:
        """Return whether an entry is queued."""
        return entry in self._entries

    def advance_later(self, seconds: float) -> Alarm:
        """Advance the queue after some seconds, on the running event loop."""
        return self._clock.call_later(seconds, self.advance)

    def _admit_waiting(self) -> float | None:
        """Admit from the head of the queue; return the seconds until the next call, where time alone adds capacity."""
        while self._entries:
            entry = next(iter(self._entries))
            if entry.is_abandoned:
                del self._entries[entry]
                continue
            if self.lacks_slot:
                return None
            wait = 0.0 if self._limiter is None else self._limiter.wait(entry.tokens)
            if wait > 0:
                return wait
            del self._entries[entry]
            permit = self._admit(entry.tokens)
            if not entry.waiter.granted(entry, permit):
                permit.cancel()
        return None

    def _admit(self, tokens: int) -> Permit:
        if self._slots is not None:
            self._slots.take()
        reserved = 0.0 if self._limiter is None else self._limiter.reserve(tokens)
        if self.counts_tokens:
            self._unsettled += 1
        return Permit(self, reserved)

    def _remove_abandoned(self) -> None:
        """Remove entries of event loops that were closed meanwhile: they never remove themselves."""
        if next(iter(self._entries)).is_abandoned:
            self.advance()


async def admit_first(queues: Sequence[AdmissionQueue], tokens: int) -> tuple[int, Permit]:
    """Wait for the first queue that admits a call.

    Args:
        queues: Best first; they share a lock where several threads use them.
        tokens: The estimated size of the call.

    Returns:
        The index of the queue, and the permit.

    Raises:
        NotAdmitted: None had capacity, nor got any while it was worth waiting.
    """
    waiter: _Waiter | None = None
    with queues[0].lock:  # no other call may come between the check and the queueing
        for index, queue in enumerate(queues):
            permit = queue.try_admit(tokens)
            if permit is not None:
                return index, permit
        worth_waiting = [(index, queue) for index, queue in enumerate(queues) if queue.is_worth_waiting(tokens)]
        if worth_waiting:
            waiter = _Waiter(worth_waiting, tokens)
            waiter.enqueue()
    if waiter is not None and (grant := await waiter.wait()) is not None:
        return grant
    with queues[0].lock:
        nearest = min(queues, key=lambda queue: queue.forecast(tokens))
        raise NotAdmitted(nearest.forecast(tokens), limit=nearest.limit_reached(tokens), timed=not nearest.lacks_slot)


class _QueueEntry:
    """A waiting call in one queue."""

    __slots__ = ("alarm", "index", "number", "queue", "timeout", "tokens", "waiter")

    def __init__(self, queue: AdmissionQueue, index: int, tokens: int, waiter: "_Waiter") -> None:
        self.queue = queue
        self.index = index
        self.tokens = tokens
        self.waiter = waiter
        self.number = 0
        self.timeout: Alarm | None = None
        self.alarm: Alarm | None = None
        """Advances the queue when time alone has added the capacity, while this entry is at its head."""

    @property
    def is_abandoned(self) -> bool:
        """Whether the wait ended, or its event loop was closed."""
        return self.waiter.is_over or self.waiter.loop.is_closed()

    def expire(self) -> None:
        """End the wait in this queue at its timeout, unless capacity is available at this very moment."""
        self.timeout = None
        with self.queue.lock:
            self.queue.advance()
            if self.queue.holds(self):
                self.waiter.timed_out(self)

    def advance_in(self, seconds: float) -> None:
        """Advance the queue after some seconds, if this entry is still queued."""
        self.waiter.call_on_loop(lambda: self._set_alarm(seconds))

    def stop_timers(self) -> None:
        """Cancel the timers; on the event loop of the waiter."""
        for alarm in (self.timeout, self.alarm):
            if alarm is not None:
                alarm.cancel()
        self.timeout = self.alarm = None

    def _set_alarm(self, seconds: float) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if self.queue.holds(self):
            self.alarm = self.queue.advance_later(seconds)


class _Waiter:
    """The wait of one call, in one queue or several. It is decided under the queues' lock; the future only wakes."""

    __slots__ = ("_entries", "_future", "_grant", "_lock", "_queued", "loop")

    def __init__(self, queues: Sequence[tuple[int, AdmissionQueue]], tokens: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._lock = queues[0][1].lock
        self._future: asyncio.Future[None] = self.loop.create_future()
        self._grant: tuple[int, Permit] | None = None
        self._entries = [_QueueEntry(queue, index, tokens, self) for index, queue in queues]
        self._queued = list(self._entries)

    @property
    def is_over(self) -> bool:
        """Whether the wait is decided or cancelled."""
        return self._grant is not None or self._future.done()

    def enqueue(self) -> None:
        """Join every queue, until one admits the call."""
        for entry in self._entries:
            if self._grant is not None:
                break  # the queue before admitted it at this very moment
            entry.queue.enqueue(entry)

    async def wait(self) -> tuple[int, Permit] | None:
        """Return the index of the admitting queue and the permit; None: none admitted the call in time."""
        try:
            await self._future
        except asyncio.CancelledError:
            with self._lock:
                grant, self._grant = self._grant, None
            if grant is not None:  # admitted and cancelled at the same moment: the permit would stay unused
                grant[1].cancel()
            raise
        finally:
            self._leave_queues()
            for entry in self._entries:
                entry.stop_timers()
        return self._grant

    def granted(self, entry: _QueueEntry, permit: Permit) -> bool:
        """Accept a permit from a queue; False: the event loop is closed, so the call can't use it."""
        self._grant = (entry.index, permit)
        if not self.call_on_loop(self._wake):
            self._grant = None
            return False
        self._leave_queues()
        return True

    def timed_out(self, entry: _QueueEntry) -> None:
        """Leave one queue; the last timeout ends the wait. On the event loop of the waiter."""
        self._queued.remove(entry)
        entry.queue.remove(entry)
        if not self._queued:
            self._wake()

    def call_on_loop(self, callback: "Callable[[], None]") -> bool:
        """Call back on the waiter's event loop, at once if that is the running one; False: it is closed."""
        if _running_loop() is self.loop:
            callback()
            return True
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True

    def _wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def _leave_queues(self) -> None:
        with self._lock:
            while self._queued:
                entry = self._queued.pop()
                entry.queue.remove(entry)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
