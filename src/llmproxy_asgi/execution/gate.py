"""A gate: what must be free for a call to pass, and the line of those who wait until it is.

Whoever finds nobody waiting and enough of everything passes at once. Others stand in line, first come first served,
for a bounded time and in bounded number; a caller who leaves gives the place back. One may stand in several lines and
is let in by whichever gate opens first::

    pass_first((gate A, gate B)) ─┬─ line of A ─ a, b, *me* ...    limiter (time opens it) and slots (a release does)
                                  └─ line of B ─ c, *me* ...       the first to let me in takes me out of the other

No task and no sleep: a future and a timer or two for each who waits, all on the waiter's own event loop. What is free
never stays so while somebody waits for it, because whatever gives something back lets in who may come in, at once.

Threads may share a gate: each with an event loop of its own, as where a host makes calls by `asyncio.run` in several
threads. Gates that have to do with each other share a lock, which is held for a few steps and never across a wait. A
waiter on another loop is woken there; nothing of a loop is touched from outside it.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from llmproxy_asgi.clock import Alarm, AlarmClock
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.rate_limit import SLACK, Limiter, plural

A_MOMENT = 1.0
"""Seconds that are told to wait where nobody can know: until one of the calls under way ends."""


class Permit:
    """What one call has taken. Settle it when it is known what was spent, release it when the call is over.

    Every method may be called more than once and in any order; only the first release counts.
    """

    __slots__ = ("_aside", "_gate", "_over", "_settled")

    def __init__(self, gate: "Gate | None", aside: float) -> None:
        self._gate = gate
        self._aside = aside
        self._settled = False
        self._over = gate is None

    @property
    def counts_tokens(self) -> bool:
        """Whether `settle` means anything."""
        return self._gate is not None and self._gate.counts_tokens

    def settle(self, tokens: int) -> None:
        """So many tokens were spent, all in all. Said again, the later word counts."""
        gate = self._gate
        if gate is None or not gate.counts_tokens:
            return
        spare, self._aside = self._aside - tokens, float(tokens)
        first, self._settled = not self._settled, True
        gate.corrected(spare, last=first and not self._over)

    def release(self) -> None:
        """The call is over: its slot is free. What was set aside and never settled counts as spent."""
        if not self._over and self._gate is not None:
            self._over = True
            self._gate.left(last=not self._settled)

    def refund(self) -> None:
        """The call went nowhere: everything is as if it had not come."""
        if not self._over and self._gate is not None:
            self._over = True
            aside, self._aside = self._aside, 0.0
            self._gate.forgotten(aside, last=not self._settled)


class Full(Exception):
    """There is no room, and there was none in time. Never leaves `execution`.

    Args:
        wait: Seconds until there would be some, if nobody else came before; a guess where a slot is lacking.
        limit: Which limit is met, in words.
        timed: Whether time alone makes room; else the end of another call does.
    """

    def __init__(self, wait: float, *, limit: str, timed: bool) -> None:
        super().__init__(f"no room for {wait:g} s")
        self.wait = wait
        self.limit = limit
        self.timed = timed


UNLIMITED = Permit(None, 0.0)
"""The permit of whoever needs none."""


class Gate:
    """What must be free for a call to pass, and who waits for it.

    Args:
        limiter: How many may pass in a time; None: any number.
        slots: How many may be under way; None: any number. Several gates may lead to the same slots.
        queue_timeout: Seconds that a call may wait here.
        max_queue: How many may wait at once.
        clock: Times the waits.
        lock: Guards it; the same one for gates with the same slots, and for gates that a call may wait at together.
            None: one of its own.
    """

    __slots__ = (
        "_advancing",
        "_clock",
        "_limiter",
        "_line",
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
        self._line: OrderedDict[_Place, None] = OrderedDict()
        self._advancing = False
        self._unsettled = 0
        if slots is not None:
            slots.lines.append(self)

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens a call is."""
        return self._limiter is not None and self._limiter.counts_tokens

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    @property
    def oldest(self) -> int | None:
        """The number of whoever has waited longest; None: nobody waits."""
        return next(iter(self._line)).number if self._line else None

    @property
    def is_idle(self) -> bool:
        """Whether it is as if nobody had ever come, so that it may be forgotten."""
        with self.lock:
            return (
                not self._line
                and (self._slots is None or self._slots.used == 0)
                and (self._limiter is None or self._limiter.is_full)
            )

    @property
    def lacks_slot(self) -> bool:
        """Whether as many are under way as may be."""
        return self._slots is not None and not self._slots.free

    def try_pass(self, tokens: int) -> Permit | None:
        """Pass, if nobody waits and there is enough of everything; None: not now.

        Args:
            tokens: How many the call is estimated to be.
        """
        with self.lock:
            if self._line:
                self._tidy()
            if self._line or self.lacks_slot or (self._limiter is not None and self._limiter.wait(tokens)):
                return None
            return self._let_in(tokens)

    def forecast(self, tokens: int) -> float:
        """Seconds until a call of so many tokens passes behind those who wait, if nothing is given back meanwhile.

        Where only the end of another call can make room, nobody knows: it is at least a moment then.
        """
        with self.lock:
            seconds = 0.0
            if self._limiter is not None:
                seconds = self._limiter.forecast([*(other.tokens for other in self._line), tokens])
            return max(seconds, A_MOMENT) if self.lacks_slot else seconds

    def is_worth_waiting(self, tokens: int) -> bool:
        """Whether there is a place in line, and something may happen in time."""
        with self.lock:
            if self.queue_timeout <= 0 or len(self._line) >= self.max_queue:
                return False
            # Calls under way may end, or turn out smaller than estimated; beyond that, time alone helps, and is known.
            return self.lacks_slot or self._unsettled > 0 or self.forecast(tokens) <= self.queue_timeout + SLACK

    def lacking(self, tokens: int) -> str:
        """Which limit a call of so many tokens would have to wait for longest, in words (`60 requests per minute`)."""
        with self.lock:
            if self._slots is not None and not self._slots.free:
                return f"{plural(self._slots.limit, 'call')} at once"
            return "" if self._limiter is None else self._limiter.lacking(tokens)

    def advance(self) -> None:
        """Let in who may come in now."""
        with self.lock:
            if self._advancing or not self._line:
                return
            self._advancing = True
            try:
                wait = self._let_in_line()
            finally:
                self._advancing = False
            if wait is not None:
                next(iter(self._line)).look_again(wait)

    def corrected(self, tokens: float, *, last: bool) -> None:
        """Tokens that were set aside are not needed; less than none: more were."""
        assert self._limiter is not None, "it counts tokens"
        with self.lock:
            self._unsettled -= last
            self._limiter.correct(tokens)
            self.advance()

    def left(self, *, last: bool) -> None:
        """Somebody who passed is done."""
        with self.lock:
            self._unsettled -= last and self.counts_tokens
            if self._slots is not None:
                self._slots.release()

    def forgotten(self, aside: float, *, last: bool) -> None:
        """Somebody who passed never went anywhere."""
        with self.lock:
            if self._limiter is not None:
                self._limiter.forget(aside)
            self.left(last=last)
            self.advance()

    def stand(self, place: "_Place") -> None:
        """Stand in line; on the waiter's own loop."""
        with self.lock:
            place.number = 0 if self._slots is None else self._slots.number()
            self._line[place] = None
            place.patience = self._clock.call_later(self.queue_timeout, place.lose)
            if len(self._line) == 1:
                self.advance()

    def leave(self, place: "_Place") -> None:
        """Stand in line no more."""
        with self.lock:
            if place in self._line:
                del self._line[place]
                self.advance()

    def stands(self, place: "_Place") -> bool:
        """Whether somebody stands in line."""
        return place in self._line

    def ring_later(self, seconds: float) -> Alarm:
        """Look again who may come in, after so long, on the running loop."""
        return self._clock.call_later(seconds, self.advance)

    def _let_in_line(self) -> float | None:
        """Let in from the head of the line; seconds until the next may come in, where time alone keeps it out."""
        while self._line:
            place = next(iter(self._line))
            if place.is_deserted:
                del self._line[place]
                continue
            if self.lacks_slot:
                return None
            wait = 0.0 if self._limiter is None else self._limiter.wait(place.tokens)
            if wait > 0:
                return wait
            del self._line[place]
            permit = self._let_in(place.tokens)
            if not place.turn.won(place, permit):
                permit.refund()
        return None

    def _let_in(self, tokens: int) -> Permit:
        if self._slots is not None:
            self._slots.take()
        aside = 0.0 if self._limiter is None else self._limiter.take(tokens)
        if self.counts_tokens:
            self._unsettled += 1
        return Permit(self, aside)

    def _tidy(self) -> None:
        """Those who wait on a loop that was closed over them will never leave by themselves."""
        if next(iter(self._line)).is_deserted:
            self.advance()


async def pass_first(gates: Sequence[Gate], tokens: int) -> tuple[int, Permit]:
    """Pass whichever gate opens first.

    Args:
        gates: Best first; they share a lock where several threads come here.
        tokens: How many the call is estimated to be.

    Returns:
        Which of the gates it was, and the permit.

    Raises:
        Full: None had room, nor got any while it was worth waiting.
    """
    turn: _Turn | None = None
    with gates[0].lock:  # between looking and standing in line, nobody else comes
        for index, gate in enumerate(gates):
            permit = gate.try_pass(tokens)
            if permit is not None:
                return index, permit
        worth = [(index, gate) for index, gate in enumerate(gates) if gate.is_worth_waiting(tokens)]
        if worth:
            turn = _Turn(worth, tokens)
            turn.stand()
    if turn is not None and (let_in := await turn.wait()) is not None:
        return let_in
    with gates[0].lock:
        full = min(gates, key=lambda gate: gate.forecast(tokens))
        raise Full(full.forecast(tokens), limit=full.lacking(tokens), timed=not full.lacks_slot)


class _Place:
    """Somebody's place in one line."""

    __slots__ = ("alarm", "gate", "index", "number", "patience", "tokens", "turn")

    def __init__(self, gate: Gate, index: int, tokens: int, turn: "_Turn") -> None:
        self.gate = gate
        self.index = index
        self.tokens = tokens
        self.turn = turn
        self.number = 0
        self.patience: Alarm | None = None
        self.alarm: Alarm | None = None
        """Rings when time alone lets it in, while it is the first in line."""

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is there any more to be let in."""
        return self.turn.is_over or self.turn.loop.is_closed()

    def lose(self) -> None:
        """Patience is at its end, unless the way is free this very moment."""
        self.patience = None
        with self.gate.lock:
            self.gate.advance()
            if self.gate.stands(self):
                self.turn.gave_up(self)

    def look_again(self, seconds: float) -> None:
        """It is the first in line, and time alone lets it in."""
        self.turn.on_its_loop(lambda: self._set_alarm(seconds))

    def stop(self) -> None:
        """Nothing rings any more; on the waiter's own loop."""
        for alarm in (self.patience, self.alarm):
            if alarm is not None:
                alarm.cancel()
        self.patience = self.alarm = None

    def _set_alarm(self, seconds: float) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if self.gate.stands(self):
            self.alarm = self.gate.ring_later(seconds)


class _Turn:
    """Somebody's wait, in one line or several. Who decides it holds the gates' lock; the future only wakes."""

    __slots__ = ("_future", "_let_in", "_lock", "_places", "_standing", "loop")

    def __init__(self, gates: Sequence[tuple[int, Gate]], tokens: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._lock = gates[0][1].lock
        self._future: asyncio.Future[None] = self.loop.create_future()
        self._let_in: tuple[int, Permit] | None = None
        self._places = [_Place(gate, index, tokens, self) for index, gate in gates]
        self._standing = list(self._places)

    @property
    def is_over(self) -> bool:
        """Whether it is decided, or was called off."""
        return self._let_in is not None or self._future.done()

    def stand(self) -> None:
        """Stand in every line, until one lets it in."""
        for place in self._places:
            if self._let_in is not None:
                break  # the line before opened this very moment
            place.gate.stand(place)

    async def wait(self) -> tuple[int, Permit] | None:
        """Which gate let it in, and the permit; None: none did in time."""
        try:
            await self._future
        except asyncio.CancelledError:
            with self._lock:
                let_in, self._let_in = self._let_in, None
            if let_in is not None:  # let in and called off in the same moment: nobody is there to use it
                let_in[1].refund()
            raise
        finally:
            self._leave()
            for place in self._places:
                place.stop()
        return self._let_in

    def won(self, place: _Place, permit: Permit) -> bool:
        """A gate lets it in; False: its loop is closed, and nobody can be told."""
        self._let_in = (place.index, permit)
        if not self.on_its_loop(self._wake):
            self._let_in = None
            return False
        self._leave()
        return True

    def gave_up(self, place: _Place) -> None:
        """One line took too long; the last one to do so ends the wait. On the waiter's own loop."""
        self._standing.remove(place)
        place.gate.leave(place)
        if not self._standing:
            self._wake()

    def on_its_loop(self, callback: "Callable[[], None]") -> bool:
        """Call back on the waiter's loop: at once if that is the running one; False: it is closed."""
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

    def _leave(self) -> None:
        """Stand in no line any more."""
        with self._lock:
            while self._standing:
                place = self._standing.pop()
                place.gate.leave(place)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
