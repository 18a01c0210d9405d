"""Responses that go on after their caller has left: each a task of its own, read by whoever attaches.

::

    begin ─▶ kept as queued ─▶ task: engine ─ events ─▶ Run ─▶ readers, each from the event it wants on
                                                        └────▶ kept, with its events, before the last of them is told

A run makes its events itself one by one, numbered from 0, so that every reader sees the same. How many there may be,
and how much of their events is held, is bounded. Runs end by themselves, by `cancel`, or when the gateway closes; they
live in this process alone. Nothing runs here that was not asked for.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import msgspec

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.answers import stream_of
from llmproxy_asgi.call import Call
from llmproxy_asgi.conversation import EMPTY
from llmproxy_asgi.conversation_state.responses import ResponseStore, Status, WireEvent
from llmproxy_asgi.conversation_state.stateful import ConversationTurn
from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import (
    BadRequest,
    CallerError,
    ErrorKind,
    GatewayError,
    InternalError,
    Unavailable,
    UpstreamProtocolError,
)
from llmproxy_asgi.execution.allowance import Allowance
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import MIB
from llmproxy_asgi.translators.base import AnyInbound, Headers, InboundRequest
from llmproxy_asgi.translators.openai_responses import state
from llmproxy_asgi.wire import sse

MOST = 64
"""Runs at once, of everybody."""
MOST_OF_ONE = 8
"""Runs at once, of one owner."""
LARGEST = 16 * MIB
"""Bytes of a run's events that are held; of a longer answer the first ones cannot be told again."""
_WAIT = 5.0
"""Seconds to wait, told to who has too many runs."""

_log = logging.getLogger("llmproxy_asgi.background")


class Run:
    """One response at work, and its events.

    Args:
        turn: Its stored state; already enqueued.
        owner: The owner of the response.
        responses: Stores the response and its events.
    """

    largest = LARGEST

    def __init__(self, turn: ConversationTurn, owner: Owner, responses: ResponseStore) -> None:
        self.turn = turn
        self.responses = responses
        self.owner = owner
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self.ends_as: tuple[Status, GatewayError | None] = ("cancelled", None)
        """What it comes to if its task is cancelled."""
        self.served = False
        """Whether somebody sees to its end: its task, or who cancelled that before its first step."""
        self.ending = False
        """Whether its task is past being cancelled, or was cancelled already."""
        self._events: list[WireEvent] = []
        self._first = 0  # the number of the first event that is held
        self._size = 0
        self._readers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def id(self) -> str:
        """The response's."""
        return self.turn.id

    @property
    def events(self) -> Sequence[WireEvent]:
        """Those that are held."""
        return self._events

    def end(self) -> None:
        """Cancel what is left of its task, once: what the task keeps of its end must not be broken off."""
        if not self.ending and self.task is not None:
            self.ending = True
            self.task.cancel()

    def read(self, *, after: int = -1) -> "Reader":
        """Its events from behind number `after` on, also those that are still to come."""
        return Reader(self, after + 1)

    def tell(self, name: str, data: bytes) -> None:
        """One more event; it gets its number here."""
        number = self._first + len(self._events)
        told = state.with_sequence_number(data, number)
        self._events.append(WireEvent(number=number, name=name, data=msgspec.Raw(told)))
        self._size += len(told)
        if self._size > self.largest:
            self._forget()

    def publish(self, *, over: bool = False) -> None:
        """Let readers see what was told."""
        self.over = over
        readers, self._readers = self._readers, []
        here = asyncio.get_running_loop()
        for loop, more in readers:
            if loop is here:
                more.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and its readers with it
                    loop.call_soon_threadsafe(more.set)

    def more(self) -> asyncio.Event:
        """What is set when there are events behind those of now; for the running loop, whichever one serves the run."""
        more = asyncio.Event()
        self._readers.append((asyncio.get_running_loop(), more))
        return more

    def _forget(self) -> None:
        """Let go of the older half."""
        dropped = len(self._events) // 2
        self._size -= sum(len(bytes(event.data)) for event in self._events[:dropped])
        del self._events[:dropped]
        self._first += dropped

    def since(self, number: int) -> Sequence[WireEvent]:
        """The events held from a number on.

        Raises:
            BadRequest: It is not held any more.
        """
        if number < self._first:
            raise BadRequest(
                "These events are no longer stored (starting_after): retrieve the response without stream.",
                param="starting_after",
            )
        return self._events[number - self._first :]


class Reader:
    """One reader's way through a run's events."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        self._next = number
        run.since(number)

    async def next(self) -> Sequence[WireEvent] | None:
        """The events that came since; None after the last.

        Raises:
            BadRequest: The reader was so slow that they are not held any more.
        """
        while True:
            more = self._run.more()  # before looking: what is published in between must not be missed
            events = self._run.since(self._next)
            if events:
                self._next += len(events)
                return events
            if self._run.over:
                return None
            await more.wait()


class Background:
    """The runs of one gateway.

    Args:
        engine: What serves them.
        most: Runs at once.
        most_of_one: Runs at once of one owner.
    """

    def __init__(self, engine: Engine, *, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._engine = engine
        self._most = most
        self._most_of_one = most_of_one
        self._runs: dict[tuple[Owner, str], Run] = {}
        self._beginning: list[Owner] = []

    async def begin(
        self,
        inbound_request: InboundRequest,
        inbound: AnyInbound,
        grant: Grant,
        *,
        allowance: Allowance | None = None,
        headers: Headers = EMPTY,
        strict: bool = False,
        request_id: str = "",
    ) -> Run:
        """A run for a request that says so; its caller may leave at once. The arguments are those of `Engine.take`.

        Raises:
            CallerError: The request is wrong, there is no such model, this owner has too many runs, or is over a limit.
            Unavailable: There are too many runs, or nothing can be kept.
        """
        owner = grant.owner
        self._admit(owner)
        self._beginning.append(owner)
        call: Call | None = None
        try:
            with self._engine.runtime.open_calls.call():
                call = self._engine.take(
                    inbound_request,
                    inbound,
                    grant,
                    allowance=allowance,
                    headers=headers,
                    strict=strict,
                    request_id=request_id,
                )
                turn = call.turn
                assert turn is not None, "what goes on in the background is kept"
                await call.prepare()
                await call.check()
                await call.admit()
                told = await turn.enqueue()
            run = self._runs[owner, turn.id] = Run(turn, owner, call.responses)
        except BaseException:
            if call is not None:
                call.give_up()
            raise
        finally:
            self._beginning.remove(owner)
        run.tell("response.created", state.lifecycle_event("response.created", told, 0))
        run.tell("response.queued", state.lifecycle_event("response.queued", told, 0))
        run.task = asyncio.create_task(self._serve(run, call, inbound), name=f"background response {turn.id}")
        # Cancelled before its first step, it never enters the call.
        run.task.add_done_callback(lambda _: call.give_up())
        return run

    def find(self, owner: Owner, response_id: str) -> Run | None:
        """The run of a response that is at work."""
        return self._runs.get((owner, response_id))

    async def cancel(self, owner: Owner, response_id: str) -> bool:
        """End a run as cancelled, its upstream let go of; whether it was at work."""
        run = self._runs.get((owner, response_id))
        if run is None or run.task is None:
            return False
        run.end()
        await self._ended(run, run.task)
        return True

    async def forget(self, owner: Owner) -> int:
        """End all runs of an owner as cancelled, whichever event loop they are on; how many were at work."""
        found = 0
        for whose, response_id in list(self._runs):
            run = self._runs.get((whose, response_id))
            if whose != owner or run is None or run.task is None:
                continue
            ending = self.cancel(owner, response_id)
            loop = run.task.get_loop()
            if loop is asyncio.get_running_loop():
                found += await ending
            else:
                found += await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ending, loop))
        return found

    async def aclose(self) -> None:
        """End all runs as failed. Those of another event loop are told to end and not waited for."""
        here = asyncio.get_running_loop()
        waited: list[tuple[Run, asyncio.Task[None]]] = []
        for run in list(self._runs.values()):
            run.ends_as = ("failed", Unavailable("The gateway was shut down before this response was complete."))
            task = run.task
            if task is None:
                continue
            if task.get_loop() is here:
                run.end()
                waited.append((run, task))
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and its tasks with it
                    task.get_loop().call_soon_threadsafe(run.end)
        for run, task in waited:
            await self._ended(run, task)

    async def _ended(self, run: Run, task: asyncio.Task[None]) -> None:
        """Wait for a task that was cancelled; if that was before its first step, it has cleared nothing away."""
        await asyncio.wait([task])
        if not run.served:
            run.served = True
            await self._end(run, *run.ends_as)
            await self._leave(run)

    def _admit(self, owner: Owner) -> None:
        owners = [*self._beginning, *(whose for whose, _ in self._runs)]
        if owners.count(owner) >= self._most_of_one:
            raise CallerError(
                f"Too many background responses of yours are in progress (background): at most {self._most_of_one}.",
                param="background",
                code="rate_limit_exceeded",
                retry_after=_WAIT,
                status=429,
                kind=ErrorKind.RATE_LIMIT,
            )
        if len(owners) >= self._most:
            raise Unavailable(
                "Too many background responses are in progress: try again in a moment.", retry_after=_WAIT
            )

    # ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, run: Run, call: Call, inbound: AnyInbound) -> None:
        """A run from its beginning to its end, whatever that is; never raises."""
        run.served = True
        try:
            await self._answer(run, call, inbound)
        except asyncio.CancelledError:
            await self._end(run, *run.ends_as)
        except GatewayError as error:
            await self._end(run, "failed", error)
        except Exception as error:  # noqa: BLE001  the last stop: a bug of ours ends the run, and is logged
            _log.error("a background response failed unexpectedly", exc_info=error, extra={"response_id": run.id})
            await self._end(run, "failed", InternalError("The gateway failed unexpectedly: its log holds the cause."))
        finally:
            await self._leave(run)

    async def _answer(self, run: Run, call: Call, inbound: AnyInbound) -> None:
        try:
            with self._engine.runtime.open_calls.call():  # so that draining gives it time, and ends it then
                await self._copy(run, call, inbound)
        finally:
            run.ending = True
        if not run.turn.ended:
            raise UpstreamProtocolError("The upstream's stream ended without its end sign.")

    async def _copy(self, run: Run, call: Call, inbound: AnyInbound) -> None:
        turn = run.turn
        async with call:
            await turn.progress()
            stream = stream_of(call, inbound, turn.said)
            while (data := await stream.next()) is not None:
                for frame in sse.decode(data):
                    kind = state.event_type(frame)
                    if kind not in _NOT_TOLD:
                        run.tell(kind, frame.data)
                run.publish()

    async def _end(self, run: Run, status: Status, error: GatewayError | None) -> None:
        """The end of a run that has none of its own."""
        if run.turn.ended:  # and kept: only its last events may not have been told
            return
        told = await run.turn.give_up(status, error)
        kind = "response.failed" if status == "failed" else "response.incomplete"
        run.tell(kind, state.lifecycle_event(kind, told, 0))

    async def _leave(self, run: Run) -> None:
        """Its events are kept, and then found where they are kept."""
        run.publish(over=True)
        responses = run.responses
        try:
            if run.events[0].number == 0 and await responses.is_kept(run.owner, run.id):
                await responses.save_events(run.owner, run.turn.record, run.events)
        except Unavailable as error:
            _log.warning("The events of a response could not be stored: %s", error)
        finally:
            del self._runs[run.owner, run.id]


_NOT_TOLD = frozenset({"", "response.created", "error"})
"""Events of an upstream that a run has its own for."""
