"""Responses that a principal may ask for again, and go on from: the state behind the Responses API, over any upstream.

A record holds what one call asked and what it was answered, in this model's own JSON; the conversation before it is
found by walking from record to record. What the caller's protocol says of them (items, events, the answer as it was
told) is kept beside it as the bytes it was, and never read here.

A response belongs to one owner. For everybody else it does not exist.
"""

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.conversation import EMPTY, Message, Request, Response
from llmproxy_asgi.errors import BadRequest, InternalError, NotFound
from llmproxy_asgi.stores.base import MIB, Bounds, Owner, RecordStore

BOUNDS = Bounds(total_bytes=256 * MIB, owner_bytes=64 * MIB, owner_records=20_000)
LIFETIME = 30 * 24 * 3600.0
"""Seconds that a response is kept."""
DEEPEST = 1_000
"""Responses that one conversation may be made of."""
LARGEST = 64 * MIB
"""Bytes of records that one conversation may be made of."""

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_T = TypeVar("_T")
NEVER_TOLD = msgspec.Raw(b"null")

_ID = re.compile(r"resp_[0-9a-f]{32}", re.ASCII)
_EVENTS = "/events"
_PARAM = "previous_response_id"

_log = logging.getLogger("llmproxy_asgi.custody")


class InputItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a call's input as it was given; whoever keeps it has given it an id."""

    id: str
    item: msgspec.Raw


class WireEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as its caller was told it."""

    number: int
    """Rising, from 0."""
    name: str
    data: msgspec.Raw


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="version", tag=1):
    """One call and its answer."""

    id: str
    owner: Owner
    created_at: datetime
    expires_at: datetime
    status: Status
    request: Request
    """What this call itself said: not what it goes on from."""
    instructions: int = 0
    """How many of the request's first messages hold for this call alone and are not gone on with."""
    response: Response | None = None
    previous_id: str | None = None
    input_items: tuple[InputItem, ...] = ()
    metadata: Mapping[str, str] = EMPTY
    told: msgspec.Raw = NEVER_TOLD
    """The answer as its caller's protocol said it, JSON; `null` until then."""

    def ended(self, status: Status, response: Response | None = None, *, told: bytes = b"null") -> "StoredResponse":
        """The same call with its answer, as far as there is one."""
        return msgspec.structs.replace(self, status=status, response=response, told=msgspec.Raw(told))


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a call's input items."""

    items: tuple[InputItem, ...]
    has_more: bool


class _Said(msgspec.Struct, frozen=True):
    messages: tuple[Message, ...]


class _Link(msgspec.Struct, frozen=True, kw_only=True, tag_field="version", tag=1):
    """What of a record going on from it needs; the rest is skipped over unread."""

    owner: Owner
    request: _Said
    instructions: int = 0
    response: Response | None = None
    previous_id: str | None = None

    def messages(self) -> tuple[Message, ...]:
        """This call's own words, and the answer."""
        said = self.request.messages[self.instructions :]
        candidate = self.response.candidates[0] if self.response and self.response.candidates else None
        if candidate is None or not candidate.parts:
            return said
        return (*said, Message(role="assistant", parts=candidate.parts, phase=candidate.phase))


class _Events(msgspec.Struct, frozen=True, kw_only=True, tag_field="version", tag=1):
    owner: Owner
    events: tuple[WireEvent, ...]


def _plain(value: Any) -> Any:
    """Read-only mappings, which are how nothing is said in some fields."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a stored response cannot hold a {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_RECORD = msgspec.json.Decoder(StoredResponse)
_LINK = msgspec.json.Decoder(_Link)
_TOLD = msgspec.json.Decoder(_Events)


def new_id() -> str:
    """An id that nobody guesses."""
    return "resp_" + secrets.token_hex(16)


def expand(request: Request, history: Sequence[Message], *, instructions: int = 0) -> Request:
    """The request with the conversation that it goes on from, which stands behind the instructions of this call.

    Args:
        request: As it came.
        history: See `ResponseCustody.conversation`.
        instructions: How many of its first messages are instructions for this call alone.
    """
    said = request.messages
    return msgspec.structs.replace(
        request, messages=(*said[:instructions], *history, *said[instructions:]), continues=None
    )


class ResponseCustody:
    """Keeps responses for their owners.

    Every method raises `Unavailable` where the store cannot be reached.

    Args:
        store: Its own; bounded. Whoever made it closes it.
        lifetime: Seconds that a response is kept.
        clock: What dates are told by.
        deepest: Responses that one conversation may be made of.
        largest: Bytes of records that one conversation may be made of.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        lifetime: float = LIFETIME,
        clock: Clock = SYSTEM,
        deepest: int = DEEPEST,
        largest: int = LARGEST,
    ) -> None:
        self._store = store
        self._lifetime = lifetime
        self._clock = clock
        self._deepest = deepest
        self._largest = largest

    def begin(
        self,
        owner: Owner,
        request: Request,
        *,
        response_id: str | None = None,
        status: Status = "in_progress",
        instructions: int = 0,
        input_items: Sequence[InputItem] = (),
    ) -> StoredResponse:
        """The record of a call that begins now; not kept until it is saved.

        Args:
            owner: Whose.
            request: As it came, before it is expanded.
            response_id: See `new_id`; one is made if left out.
            status: What it is until it has ended.
            instructions: How many of the request's first messages are instructions for this call alone.
            input_items: Its input as it was given, in order.
        """
        now = self._clock.now()
        return StoredResponse(
            id=response_id or new_id(),
            owner=owner,
            created_at=now,
            expires_at=now + timedelta(seconds=self._lifetime),
            status=status,
            request=request,
            instructions=instructions,
            previous_id=request.continues,
            input_items=tuple(input_items),
            metadata=request.metadata,
        )

    async def save(self, owner: Owner, record: StoredResponse, *, replacing: bool = False) -> bool:
        """Keep a response, or what has become of it; whether it is kept.

        Args:
            owner: Whose; the record's own.
            record: What.
            replacing: Only if it is still there: one that its owner has deleted meanwhile stays deleted.

        Returns:
            False: it is too large or too old, or was deleted. Then nothing of it is kept.
        """
        left = self._seconds_left(owner, record)
        return await self._store.put(owner, record.id, _ENCODER.encode(record), ttl=left, replacing=replacing)

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        """The response; None where there is none, or it is somebody else's."""
        value = await self._value(owner, response_id)
        if value is None:
            return None
        record = _read(_RECORD, value)
        return record if record is not None and record.owner == owner else None

    async def delete(self, owner: Owner, response_id: str) -> bool:
        """Let go of a response and its events; whether there was one."""
        if _ID.fullmatch(response_id) is None:
            return False
        await self._store.delete(owner, response_id + _EVENTS)
        return await self._store.delete(owner, response_id)

    async def conversation(self, owner: Owner, previous_response_id: str) -> tuple[Message, ...]:
        """All that was said up to a response and in it: inputs, calls, results and reasoning, without instructions.

        Raises:
            NotFound: There is no such response for this owner, or one before it is gone.
            BadRequest: It has no answer (yet), or the conversation is too long.
        """
        turns: list[tuple[Message, ...]] = []
        seen: set[str] = set()
        size = 0
        wanted: str | None = previous_response_id
        while wanted is not None:
            value = await self._value(owner, wanted)
            link = None if value is None else _read(_LINK, value)
            if value is None or link is None or link.owner != owner:
                raise _no_previous(previous_response_id, missing=wanted)
            if wanted in seen:
                raise InternalError("Stored responses go on from each other in a circle.")
            seen.add(wanted)
            size += len(value)
            if len(seen) > self._deepest or size > self._largest:
                raise BadRequest("The conversation that this response ends is too long to go on with.", param=_PARAM)
            if link.response is None:
                raise BadRequest("That response has no answer to go on from.", param=_PARAM)
            turns.append(link.messages())
            wanted = link.previous_id
        return tuple(message for turn in reversed(turns) for message in turn)

    async def input_items(
        self,
        owner: Owner,
        response_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page | None:
        """A page of the input of a call; None where `find` finds none.

        Args:
            owner: Whose.
            response_id: Which.
            after: The id of the item that the page begins behind.
            limit: Items on a page.
            order: `asc`: as they were given; `desc`: the last one first.

        Raises:
            BadRequest: There is no item `after`.
        """
        record = await self.find(owner, response_id)
        if record is None:
            return None
        items = record.input_items if order == "asc" else record.input_items[::-1]
        begin = 0
        if after is not None:
            place = next((at for at, item in enumerate(items) if item.id == after), None)
            if place is None:
                raise BadRequest("There is no such item in this response's input.", param="after")
            begin = place + 1
        return Page(items=items[begin : begin + limit], has_more=len(items) > begin + limit)

    async def save_events(self, owner: Owner, record: StoredResponse, events: Sequence[WireEvent]) -> bool:
        """Keep the events of a response, all that there are so far, beside it; whether they are kept."""
        left = self._seconds_left(owner, record)
        value = _ENCODER.encode(_Events(owner=owner, events=tuple(events)))
        return await self._store.put(owner, record.id + _EVENTS, value, ttl=left)

    async def events(self, owner: Owner, response_id: str, *, after: int = -1) -> tuple[WireEvent, ...] | None:
        """The events that are kept of a response, from behind number `after` on; None where none ever were."""
        value = await self._value(owner, response_id, _EVENTS)
        kept = None if value is None else _read(_TOLD, value)
        if kept is None or kept.owner != owner:
            return None
        return tuple(event for event in kept.events if event.number > after)

    def _seconds_left(self, owner: Owner, record: StoredResponse) -> float:
        if record.owner != owner:
            raise InternalError("A response was to be kept for somebody else.")
        return (record.expires_at - self._clock.now()).total_seconds()

    async def _value(self, owner: Owner, response_id: str, kind: str = "") -> bytes | None:
        """The bytes of a record; what does not look like an id of ours is not even looked for."""
        return await self._store.get(owner, response_id + kind) if _ID.fullmatch(response_id) else None


def _read(decoder: "msgspec.json.Decoder[_T]", value: bytes) -> _T | None:
    """What was kept; None where another version of this program wrote it in another way."""
    try:
        return decoder.decode(value)
    except msgspec.DecodeError as error:
        _log.warning("A stored response cannot be read: %s", error)
        return None


def _no_previous(asked: str, *, missing: str) -> NotFound:
    shown = asked[:100]
    text = f"Previous response with id {shown!r} not found."
    if missing != asked:
        text = f"The conversation before the response {shown!r} is not complete any more."
    return NotFound(text, param=_PARAM, code="previous_response_not_found")
