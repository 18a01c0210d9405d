"""One call's dealings with what is kept: the conversation that it goes on from, and the answer that it leaves behind.

::

    request ─ Turn.open ─▶ the same request with its whole conversation ─▶ any upstream
    answer  ─ Turn.tell ─▶ what its caller reads; kept before its last event is handed on

Nothing is kept of an answer that its caller has left before it ended. Who goes on in the background is not its affair.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar

import msgspec

from llmproxy_asgi.custody.responses import Item, ResponseCustody, Status, StoredResponse, check_unfolded, new_id
from llmproxy_asgi.errors import GatewayError, NotFound, Unavailable
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.translators.base import HEAVY_BYTES, Intake, State
from llmproxy_asgi.translators.openai_responses import state as words

_log = logging.getLogger("llmproxy_asgi.custody")
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Turn:
    """One call that goes on from what is kept, or is to be kept itself.

    Args:
        custody: Where.
        owner: Whose call it is.
        intake: As it came; it has a `state`.

    Attributes:
        said: The request, as an encoder of its answer must see it.
        passes_on: Whether it goes on from an answer that only an upstream may know (see `open`).
    """

    __slots__ = ("_custody", "_heavy", "_own", "_owner", "_record", "_saved", "_state", "_telling", "passes_on", "said")

    def __init__(self, custody: ResponseCustody, owner: Owner, intake: Intake) -> None:
        state = intake.state or State()
        if state.store:
            state = msgspec.structs.replace(state, answer_id=new_id())
        self.said = msgspec.structs.replace(intake, state=state)
        self.passes_on = False
        self._state = state
        self._custody = custody
        self._owner = owner
        self._own: list[msgspec.Raw] | None = None
        self._record: StoredResponse | None = None
        self._telling: words.Telling | None = None
        self._saved = False
        self._heavy = intake.heavy

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its caller asked for in vain: that the answer be kept, where none is."""
        return ("dropped:store",) if words.asks_to_be_kept(self.said) and not self._state.store else ()

    async def open(self, *, may_pass_on: bool) -> Intake:
        """The request as it would be if nothing were kept: with all that it goes on from.

        Args:
            may_pass_on: Whether there are upstreams that keep answers for those who call us.

        Raises:
            NotFound: It goes on from nothing that is kept, and may not be passed on.
            BadRequest: The conversation cannot be gone on with, its input cannot be read, or the whole of it is more
                than a request may hold.
            BodyTooLarge: The whole of it is larger than a request may be.
            Unavailable: What is kept cannot be reached.
        """
        before: tuple[msgspec.Raw, ...] = ()
        if self._state.previous_id is not None:
            try:
                before = await self._custody.conversation(self._owner, self._state.previous_id)
            except NotFound:
                if not may_pass_on:
                    raise
                self.passes_on = True
        own: list[msgspec.Raw] | None = None
        if words.refers(self.said):
            own = await self._run(words.own_items, self.said)
            known = await self._custody.items(self._owner, await self._run(words.references, own))
            own = self._own = await self._run(words.resolved, own, known) if known else own
        if before or own is not None:
            size = sum(len(memoryview(each)) for each in (*before, *(own or ())))
            self._heavy = self._heavy or size > HEAVY_BYTES
            custody, param = self._custody, "input" if self._state.previous_id is None else "previous_response_id"
            # Named often enough, one item that is kept becomes as much as one likes.
            check_unfolded(len(before) + len(own or ()), size, custody.bounds, custody.largest, param=param)
        return await self._run(
            words.expanded, self.said, before, own, keeps_previous=self.passes_on, bounds=self._custody.bounds
        )

    async def _run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function, off the event loop where the request is large."""
        if self._heavy:
            return await self._custody.worker.run(function, *args, **kwargs)
        return function(*args, **kwargs)

    def begin(self, *, relayed: bool) -> None:
        """An upstream has begun to answer.

        Args:
            relayed: Whether it answers in the caller's own protocol.
        """
        self._telling = words.Telling(self.said, relayed=relayed) if relayed or self._state.store else None
        if self._telling is not None and self._record is not None:
            self._telling.id = self._record.id

    def concerns(self, data: bytes) -> bool:
        """Whether more of a stream (whole events) must be told by `tell`: hardly ever. Runs once per read."""
        return self._telling is not None and self._telling.concerns(data)

    async def tell(self, data: bytes) -> bytes:
        """More of a stream (whole events), as its caller reads it."""
        telling = self._telling
        if telling is None:
            return data
        if telling.id is None and self._state.store:
            found = telling.first_id(data)
            if found is not None:
                telling.id = await self._free(found)
        told = telling.feed(data)
        if telling.final is not None:
            await self._keep(telling)
        return told

    async def tell_whole(self, body: bytes) -> bytes:
        """A whole answer, as its caller reads it."""
        telling = self._telling
        if telling is None:
            return body
        if telling.id is None and self._state.store:
            telling.id = await self._free(telling.id_of(body))
        self._heavy = self._heavy or len(body) > HEAVY_BYTES
        told = await self._run(telling.whole, body)
        await self._keep(telling)
        return told

    async def _free(self, found: str) -> str:
        """The upstream's own name of its answer, unless that is none or another answer has it already."""
        taken = not found or await self._is_kept(found)
        return new_id() if taken else found

    async def _is_kept(self, found: str) -> bool:
        try:
            return await self._custody.is_kept(self._owner, found)
        except Unavailable:
            return False  # then it will not be kept either

    async def _keep(self, telling: words.Telling) -> None:
        final = telling.final
        if final is None or self._saved or not self._state.store or telling.id is None:
            return
        output = None if final.output is None else [Item(id=found, item=item) for found, item in final.output]
        record = self._record
        if record is None:
            record = await self._run(self._begun, telling.id, "completed")
        if not telling.hides:
            record = msgspec.structs.replace(record, shows_state=True)
        await self._save(record.ended(words.status_of(final.status), output, told=final.told))
        self._saved = True  # not before: who is cancelled meanwhile has kept nothing

    # ── in the background ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def id(self) -> str:
        """What the answer is called, where it is kept from its beginning on."""
        assert self._record is not None, "kept by `enqueue`"
        return self._record.id

    @property
    def ended(self) -> bool:
        """Whether what the answer has come to is kept."""
        return self._saved

    async def enqueue(self) -> bytes:
        """Keep that the answer will come; the object that says so.

        Raises:
            Unavailable: It cannot be kept.
        """
        assert self._state.answer_id is not None, "what goes on in the background is kept"
        self._record = record = await self._run(self._begun, self._state.answer_id, "queued")
        told = self._without_output("queued")
        self._record = record = record.ended("queued", told=told)
        if not await self._custody.save(self._owner, record):
            raise Unavailable("The request is too large to be kept, so nobody could ask for its answer.")
        return told

    async def progress(self) -> None:
        """Keep that it has begun."""
        assert self._record is not None, "kept by `enqueue`"
        self._record = self._record.ended("in_progress", told=self._without_output("in_progress"))
        await self._save(self._record)

    async def give_up(self, status: Status, error: GatewayError | None = None) -> bytes:
        """Keep that there will be no answer; the object that says so."""
        assert self._record is not None, "kept by `enqueue`"
        self._saved = True
        told = self._without_output(status, error)
        await self._save(self._record.ended(status, told=told))
        return told

    @property
    def record(self) -> StoredResponse:
        """What is kept so far."""
        assert self._record is not None, "kept by `enqueue`"
        return self._record

    def _without_output(self, status: Status, error: GatewayError | None = None) -> bytes:
        assert self._record is not None, "kept by `enqueue`"
        created_at: datetime = self._record.created_at
        return words.without_output(self.said, status, answer=self._record.id, created_at=created_at, error=error)

    def _begun(self, response_id: str, status: Status) -> StoredResponse:
        own = self._own if self._own is not None else words.own_items(self.said)
        return self._custody.begin(
            self._owner,
            response_id=response_id,
            status=status,
            previous_id=self._state.previous_id,
            input_items=[Item(id=found, item=item) for found, item in words.numbered(own, response_id)],
            background=self._state.background,
            shows_state=self._state.shows_state,
        )

    async def _save(self, record: StoredResponse) -> None:
        """Keep it; an answer is worth more than its copy, so that a store that fails does not fail the call."""
        try:
            kept = await self._custody.save(self._owner, record, replacing=self._record is not None)
        except Unavailable as error:
            _log.warning("A response could not be kept: %s", error)
            return
        if not kept and self._record is None:
            _log.warning("A response is too large to be kept.", extra={"response_id": record.id})
