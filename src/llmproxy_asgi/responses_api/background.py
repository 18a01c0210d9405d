"""Background responses: runs that continue without their client, each in its own task, read by any number of readers.

::

    begin ─▶ stored as queued ─▶ task: engine ─ events ─▶ Run ─▶ readers, each from the event that it asks for
                                                          └────▶ stored, with its events, before the last one is sent

A run numbers its own events from 0, so that all readers see the same stream. The number of runs and the bytes of their
events are bounded. A run ends with its response, by `cancel`, or when the gateway closes; it belongs to this process.
Only requests with `background: true` run here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import msgspec

from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.call import Call
from llmproxy_asgi.conversation import EMPTY
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
from llmproxy_asgi.execution.reservation import Reservation
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.rendering import open_stream
from llmproxy_asgi.responses_api.items import event_type, lifecycle_event, with_sequence_number
from llmproxy_asgi.responses_api.stateful import StatefulResponses
from llmproxy_asgi.responses_api.store import ResponseStore, Status, WireEvent
from llmproxy_asgi.responses_api.turn import ConversationTurn
from llmproxy_asgi.stores.base import MIB
from llmproxy_asgi.translators.base import AnyInbound, Headers, InboundRequest
from llmproxy_asgi.wire import sse

MAX_RUNS = 64
"""Concurrent runs."""
MAX_RUNS_PER_OWNER = 8
"""Concurrent runs of one owner."""
MAX_EVENT_BYTES = 16 * MIB
"""Bytes of a run's events that are kept; of a longer response the first events cannot be read again."""
_RETRY_AFTER = 5.0
"""Seconds until a client with too many runs should retry."""

_log = logging.getLogger("llmproxy_asgi.background")


class Run:
    """A response in progress, and its events.

    Args:
        turn: Its stored state; already enqueued.
        owner: The owner of the response.
        responses: Stores the response and its events.
    """

    max_bytes = MAX_EVENT_BYTES

    def __init__(self, turn: ConversationTurn, owner: Owner, responses: ResponseStore) -> None:
        self.turn = turn
        self.responses = responses
        self.owner = owner
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self.cancelled_as: tuple[Status, GatewayError | None] = ("cancelled", None)
        """The outcome if its task is cancelled."""
        self.is_handled = False
        """Whether its end is being handled: by its task, or by the caller that cancelled it before its first step."""
        self.is_ending = False
        """Whether its task was cancelled already, or may no longer be."""
        self._events: list[WireEvent] = []
        self._first = 0  # the number of the first event that is kept
        self._size = 0
        self._readers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def id(self) -> str:
        """The id of the response."""
        return self.turn.id

    @property
    def events(self) -> Sequence[WireEvent]:
        """The events that are kept."""
        return self._events

    def cancel(self) -> None:
        """Cancel its task, once: a second cancellation would interrupt the storing of its outcome."""
        if not self.is_ending and self.task is not None:
            self.is_ending = True
            self.task.cancel()

    def read(self, *, after: int = -1) -> "Reader":
        """Return a reader of its events after number `after`, present and future."""
        return Reader(self, after + 1)

    def add(self, name: str, data: bytes) -> None:
        """Add an event; it is numbered here."""
        number = self._first + len(self._events)
        numbered = with_sequence_number(data, number)
        self._events.append(WireEvent(number=number, name=name, data=msgspec.Raw(numbered)))
        self._size += len(numbered)
        if self._size > self.max_bytes:
            self._drop_older_half()

    def publish(self, *, ended: bool = False) -> None:
        """Wake the readers of the events added so far."""
        self.ended = ended
        readers, self._readers = self._readers, []
        here = asyncio.get_running_loop()
        for loop, published in readers:
            if loop is here:
                published.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and its readers with it
                    loop.call_soon_threadsafe(published.set)

    def next_publication(self) -> asyncio.Event:
        """Return an event of the running loop that is set at the next `publish`, whichever loop the run is on."""
        published = asyncio.Event()
        self._readers.append((asyncio.get_running_loop(), published))
        return published

    def _drop_older_half(self) -> None:
        dropped = len(self._events) // 2
        self._size -= sum(len(bytes(event.data)) for event in self._events[:dropped])
        del self._events[:dropped]
        self._first += dropped

    def since(self, number: int) -> Sequence[WireEvent]:
        """Return the kept events from a number on.

        Raises:
            BadRequest: They are no longer kept.
        """
        if number < self._first:
            raise BadRequest(
                "These events are no longer stored (starting_after): retrieve the response without stream.",
                param="starting_after",
            )
        return self._events[number - self._first :]


class Reader:
    """One reader's position in a run's events."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        self._next = number
        run.since(number)

    async def next(self) -> Sequence[WireEvent] | None:
        """Return the events since the last call; None after the last.

        Raises:
            BadRequest: The reader was so slow that they are no longer kept.
        """
        while True:
            published = self._run.next_publication()  # first: a publication in between must not be missed
            events = self._run.since(self._next)
            if events:
                self._next += len(events)
                return events
            if self._run.ended:
                return None
            await published.wait()


class Background:
    """All runs of one gateway.

    Args:
        engine: Creates their calls.
        stateful: Creates their turns.
        max_runs: Concurrent runs.
        max_per_owner: Concurrent runs of one owner.
    """

    def __init__(
        self,
        engine: Engine,
        stateful: StatefulResponses,
        *,
        max_runs: int = MAX_RUNS,
        max_per_owner: int = MAX_RUNS_PER_OWNER,
    ) -> None:
        self._engine = engine
        self._stateful = stateful
        self._max_runs = max_runs
        self._max_per_owner = max_per_owner
        self._runs: dict[tuple[Owner, str], Run] = {}
        self._starting: list[Owner] = []

    async def begin(
        self,
        inbound_request: InboundRequest,
        inbound: AnyInbound,
        grant: Grant,
        *,
        reservation: Reservation | None = None,
        headers: Headers = EMPTY,
        strict: bool = False,
        request_id: str = "",
    ) -> Run:
        """Start a run for a background request; it does not need its client. See `Engine.call` for the arguments.

        Raises:
            CallerError: The request is wrong, there is no such model, this owner has too many runs or is over a limit.
            Unavailable: There are too many runs, or the response cannot be stored.
        """
        owner = grant.owner
        self._admit(owner)
        self._starting.append(owner)
        call: Call | None = None
        try:
            with self._engine.runtime.open_calls.call():
                turn = self._stateful.turn(inbound_request, owner, strict=strict)
                call = self._engine.call(
                    turn.request,
                    inbound,
                    grant,
                    reservation=reservation,
                    headers=headers,
                    strict=strict,
                    request_id=request_id,
                ).attach_state(turn)
                await call.prepare()
                await call.check()
                await call.admit()
                response = await turn.enqueue()
            run = self._runs[owner, turn.id] = Run(turn, owner, self._stateful.responses)
        except BaseException:
            if call is not None:
                call.release()
            raise
        finally:
            self._starting.remove(owner)
        run.add("response.created", lifecycle_event("response.created", response, 0))
        run.add("response.queued", lifecycle_event("response.queued", response, 0))
        run.task = asyncio.create_task(self._serve(run, call, inbound), name=f"background response {turn.id}")
        # Cancelled before its first step, it never enters the call.
        run.task.add_done_callback(lambda _: call.release())
        return run

    def find(self, owner: Owner, response_id: str) -> Run | None:
        """Return the run of a response in progress."""
        return self._runs.get((owner, response_id))

    async def cancel(self, owner: Owner, response_id: str) -> bool:
        """Cancel a run and its upstream call; return whether it was in progress."""
        run = self._runs.get((owner, response_id))
        if run is None or run.task is None:
            return False
        run.cancel()
        await self._wait_until_ended(run, run.task)
        return True

    async def forget(self, owner: Owner) -> int:
        """Cancel all runs of an owner, on every event loop; return how many were in progress."""
        found = 0
        for run_owner, response_id in list(self._runs):
            run = self._runs.get((run_owner, response_id))
            if run_owner != owner or run is None or run.task is None:
                continue
            cancelling = self.cancel(owner, response_id)
            loop = run.task.get_loop()
            if loop is asyncio.get_running_loop():
                found += await cancelling
            else:
                found += await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(cancelling, loop))
        return found

    async def aclose(self) -> None:
        """End all runs as failed. Those on another event loop are cancelled, but not waited for."""
        here = asyncio.get_running_loop()
        cancelled: list[tuple[Run, asyncio.Task[None]]] = []
        for run in list(self._runs.values()):
            run.cancelled_as = ("failed", Unavailable("The gateway was shut down before this response was complete."))
            task = run.task
            if task is None:
                continue
            if task.get_loop() is here:
                run.cancel()
                cancelled.append((run, task))
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and its tasks with it
                    task.get_loop().call_soon_threadsafe(run.cancel)
        for run, task in cancelled:
            await self._wait_until_ended(run, task)

    async def _wait_until_ended(self, run: Run, task: asyncio.Task[None]) -> None:
        """Wait for a cancelled task; if it never began to run, do its cleanup."""
        await asyncio.wait([task])
        if not run.is_handled:
            run.is_handled = True
            await self._store_outcome(run, *run.cancelled_as)
            await self._close(run)

    def _admit(self, owner: Owner) -> None:
        owners = [*self._starting, *(run_owner for run_owner, _ in self._runs)]
        if owners.count(owner) >= self._max_per_owner:
            raise CallerError(
                f"Too many background responses of yours are in progress (background): at most {self._max_per_owner}.",
                param="background",
                code="rate_limit_exceeded",
                retry_after=_RETRY_AFTER,
                status=429,
                kind=ErrorKind.RATE_LIMIT,
            )
        if len(owners) >= self._max_runs:
            raise Unavailable(
                "Too many background responses are in progress: try again in a moment.", retry_after=_RETRY_AFTER
            )

    # ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, run: Run, call: Call, inbound: AnyInbound) -> None:
        """Run to the end, whatever the outcome; never raise."""
        run.is_handled = True
        try:
            await self._serve_call(run, call, inbound)
        except asyncio.CancelledError:
            await self._store_outcome(run, *run.cancelled_as)
        except GatewayError as error:
            await self._store_outcome(run, "failed", error)
        except Exception as error:  # noqa: BLE001  a bug ends the run, and is logged
            _log.error("a background response failed unexpectedly", exc_info=error, extra={"response_id": run.id})
            await self._store_outcome(
                run, "failed", InternalError("The gateway failed unexpectedly: its log holds the cause.")
            )
        finally:
            await self._close(run)

    async def _serve_call(self, run: Run, call: Call, inbound: AnyInbound) -> None:
        try:
            with self._engine.runtime.open_calls.call():  # so that draining waits for it, and then ends it
                await self._copy_events(run, call, inbound)
        finally:
            run.is_ending = True
        if not run.turn.ended:
            raise UpstreamProtocolError("The upstream's stream ended without its end sign.")

    async def _copy_events(self, run: Run, call: Call, inbound: AnyInbound) -> None:
        turn = run.turn
        async with call:
            await turn.progress()
            stream = open_stream(call, inbound, turn.request)
            while (data := await stream.next()) is not None:
                for frame in sse.decode(data):
                    kind = event_type(frame)
                    if kind not in _REPLACED:
                        run.add(kind, frame.data)
                run.publish()

    async def _store_outcome(self, run: Run, status: Status, error: GatewayError | None) -> None:
        """Store and publish the outcome of a run without a final response."""
        if run.turn.ended:  # its final response is stored; only its last events may be missing
            return
        response = await run.turn.abort(status, error)
        kind = "response.failed" if status == "failed" else "response.incomplete"
        run.add(kind, lifecycle_event(kind, response, 0))

    async def _close(self, run: Run) -> None:
        """Store the events of an ended run; from now on they are read from the store."""
        run.publish(ended=True)
        responses = run.responses
        try:
            if run.events[0].number == 0 and await responses.is_stored(run.owner, run.id):
                await responses.save_events(run.owner, run.turn.record, run.events)
        except Unavailable as error:
            _log.warning("The events of a response could not be stored: %s", error)
        finally:
            del self._runs[run.owner, run.id]


_REPLACED = frozenset({"", "response.created", "error"})
"""Upstream events that a run replaces by its own."""
