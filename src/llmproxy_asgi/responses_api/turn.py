"""The stored state of one call: the conversation that it continues, and the response that it stores.

::

    request  ─ ConversationTurn.open ─▶ the same request with its whole conversation ─▶ any upstream
    response ─ ConversationTurn.rewrite ─▶ what the caller reads; stored before its last event is passed on

A response whose caller disconnects before its end is not stored. Running calls in the background is `background`.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar

import msgspec

from llmproxy_asgi.errors import GatewayError, NotFound, Unavailable
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.responses_api.items import assign_ids, encode_without_output
from llmproxy_asgi.responses_api.requests import (
    expand_request,
    has_references,
    input_items,
    references,
    requires_storage,
    resolve_references,
)
from llmproxy_asgi.responses_api.rewriter import ResponseRewriter, status_of
from llmproxy_asgi.responses_api.store import (
    Item,
    ResponseStore,
    Status,
    StoredResponse,
    check_unfolded,
    new_id,
)
from llmproxy_asgi.translators.base import HEAVY_BYTES, InboundRequest, State

_log = logging.getLogger("llmproxy_asgi.conversation_state")
_P = ParamSpec("_P")
_T = TypeVar("_T")


class ConversationTurn:
    """One call that continues a stored response, or is to be stored itself.

    Args:
        responses: Stores responses.
        owner: The call's owner.
        inbound_request: The request as it came; it has a `state`.

    Attributes:
        request: The request, as the response's encoder must see it.
        passes_on: Whether it continues a response that only an upstream may have stored (see `open`).
    """

    __slots__ = (
        "_heavy",
        "_input_items",
        "_owner",
        "_record",
        "_responses",
        "_rewriter",
        "_saved",
        "_state",
        "passes_on",
        "request",
    )

    def __init__(self, responses: ResponseStore, owner: Owner, inbound_request: InboundRequest) -> None:
        call_state = inbound_request.state or State()
        if call_state.store:
            call_state = msgspec.structs.replace(call_state, answer_id=new_id())
        self.request = msgspec.structs.replace(inbound_request, state=call_state)
        self.passes_on = False
        self._state = call_state
        self._responses = responses
        self._owner = owner
        self._input_items: list[msgspec.Raw] | None = None
        self._record: StoredResponse | None = None
        self._rewriter: ResponseRewriter | None = None
        self._saved = False
        self._heavy = inbound_request.heavy

    @property
    def warnings(self) -> tuple[str, ...]:
        """A warning if the caller asked to store the response and it is not stored."""
        return ("dropped:store",) if requires_storage(self.request) and not self._state.store else ()

    async def open(self, *, may_pass_on: bool) -> InboundRequest:
        """Return the request with the whole conversation that it continues.

        Args:
            may_pass_on: Whether upstreams store responses for callers.

        Raises:
            NotFound: The previous response is not stored, and the request may not be passed on.
            BadRequest: The conversation cannot be continued, its input cannot be read, or it has more messages than a
                request may have.
            BodyTooLarge: It is larger than a request may be.
            Unavailable: The store cannot be reached.
        """
        before: tuple[msgspec.Raw, ...] = ()
        if self._state.previous_id is not None:
            try:
                before = await self._responses.conversation(self._owner, self._state.previous_id)
            except NotFound:
                if not may_pass_on:
                    raise
                self.passes_on = True
        own: list[msgspec.Raw] | None = None
        if await self._run(has_references, self.request):
            own = await self._run(input_items, self.request)
            known = await self._responses.items(self._owner, await self._run(references, own))
            own = self._input_items = await self._run(resolve_references, own, known) if known else own
        if before or own is not None:
            size = sum(len(memoryview(each)) for each in (*before, *(own or ())))
            self._heavy = self._heavy or size > HEAVY_BYTES
            responses, param = self._responses, "input" if self._state.previous_id is None else "previous_response_id"
            # References to one stored item, repeated, could unfold to any size.
            check_unfolded(len(before) + len(own or ()), size, responses.bounds, responses.largest, param=param)
        return await self._run(
            expand_request,
            self.request,
            before,
            own,
            keeps_previous=self.passes_on,
            bounds=self._responses.bounds,
        )

    async def _run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function, in a worker thread if the request is large."""
        if self._heavy:
            return await self._responses.worker.run(function, *args, **kwargs)
        return function(*args, **kwargs)

    def begin(self, *, passed_through: bool) -> None:
        """Prepare for the response.

        Args:
            passed_through: Whether it passes through in the caller's protocol.
        """
        self._rewriter = (
            ResponseRewriter(self.request, passed_through=passed_through)
            if passed_through or self._state.store
            else None
        )
        if self._rewriter is not None and self._record is not None:
            self._rewriter.id = self._record.id

    def needs_rewrite(self, data: bytes) -> bool:
        """Whether this part of a stream (whole events) must go through `rewrite`: rarely. Runs once per read."""
        return self._rewriter is not None and self._rewriter.needs_rewrite(data)

    async def rewrite(self, data: bytes) -> bytes:
        """Return this part of a stream (whole events) as the caller reads it."""
        rewriter = self._rewriter
        if rewriter is None:
            return data
        if rewriter.id is None and self._state.store:
            upstream_id = rewriter.first_id(data)
            if upstream_id is not None:
                rewriter.id = await self._response_id(upstream_id)
        response = rewriter.feed(data)
        if rewriter.final is not None:
            await self._store(rewriter)
        return response

    async def rewrite_whole(self, body: bytes) -> bytes:
        """Return a whole response as the caller reads it."""
        rewriter = self._rewriter
        if rewriter is None:
            return body
        if rewriter.id is None and self._state.store:
            rewriter.id = await self._response_id(rewriter.id_of(body))
        self._heavy = self._heavy or len(body) > HEAVY_BYTES
        response = await self._run(rewriter.whole, body)
        await self._store(rewriter)
        return response

    async def _response_id(self, upstream_id: str) -> str:
        """Return the upstream's response id, or a new one if there is none or it is taken."""
        taken = not upstream_id or await self._is_stored(upstream_id)
        return new_id() if taken else upstream_id

    async def _is_stored(self, response_id: str) -> bool:
        try:
            return await self._responses.is_stored(self._owner, response_id)
        except Unavailable:
            return False  # then it will not be stored either

    async def _store(self, rewriter: ResponseRewriter) -> None:
        final = rewriter.final
        if final is None or self._saved or not self._state.store or rewriter.id is None:
            return
        output = None if final.output is None else [Item(id=item_id, item=item) for item_id, item in final.output]
        record = self._record
        if record is None:
            record = await self._run(self._new_record, rewriter.id, "completed")
        if not rewriter.hides:
            record = msgspec.structs.replace(record, shows_state=True)
        await self._save(record.ended(status_of(final.status), output, response=final.response))
        self._saved = True  # not before: a cancelled save stores nothing

    # ── in the background ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def id(self) -> str:
        """The id of a response that is stored from its start."""
        assert self._record is not None, "stored by `enqueue`"
        return self._record.id

    @property
    def ended(self) -> bool:
        """Whether the final response is stored."""
        return self._saved

    async def enqueue(self) -> bytes:
        """Store the response as queued, and return it.

        Raises:
            Unavailable: It cannot be stored.
        """
        assert self._state.answer_id is not None, "background responses are stored"
        self._record = record = await self._run(self._new_record, self._state.answer_id, "queued")
        response = self._without_output("queued")
        self._record = record = record.ended("queued", response=response)
        if not await self._responses.save(self._owner, record):
            raise Unavailable("The request is too large to be stored, so its response could not be retrieved.")
        return response

    async def progress(self) -> None:
        """Store the response as in progress."""
        assert self._record is not None, "stored by `enqueue`"
        self._record = self._record.ended("in_progress", response=self._without_output("in_progress"))
        await self._save(self._record)

    async def abort(self, status: Status, error: GatewayError | None = None) -> bytes:
        """Store that there will be no response, and return its object."""
        assert self._record is not None, "stored by `enqueue`"
        self._saved = True
        response = self._without_output(status, error)
        await self._save(self._record.ended(status, response=response))
        return response

    @property
    def record(self) -> StoredResponse:
        """The record stored so far."""
        assert self._record is not None, "stored by `enqueue`"
        return self._record

    def _without_output(self, status: Status, error: GatewayError | None = None) -> bytes:
        assert self._record is not None, "stored by `enqueue`"
        created_at: datetime = self._record.created_at
        return encode_without_output(self.request, status, answer=self._record.id, created_at=created_at, error=error)

    def _new_record(self, response_id: str, status: Status) -> StoredResponse:
        own = self._input_items if self._input_items is not None else input_items(self.request)
        return self._responses.begin(
            self._owner,
            response_id=response_id,
            status=status,
            previous_id=self._state.previous_id,
            input_items=[Item(id=item_id, item=item) for item_id, item in assign_ids(own, response_id)],
            background=self._state.background,
            shows_state=self._state.shows_state,
        )

    async def _save(self, record: StoredResponse) -> None:
        """Store a record; a store that fails does not fail the call."""
        try:
            stored = await self._responses.save(self._owner, record, replacing=self._record is not None)
        except Unavailable as error:
            _log.warning("A response could not be stored: %s", error)
            return
        if not stored and self._record is None:
            _log.warning("A response is too large to be stored.", extra={"response_id": record.id})
