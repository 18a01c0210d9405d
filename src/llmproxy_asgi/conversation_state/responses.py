"""Responses that a principal may ask for again, and go on from: the state behind the Responses API, over any upstream.

A record holds the items that one call gave and the items that it was answered with, as the bytes they were told in; the
conversation before it is found by walking from record to record. What an item says is never read here: whoever speaks
its protocol does that, and so a conversation that is gone on with is the one its caller would have sent back.

A response belongs to one owner. For everybody else it does not exist.
"""

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import BadRequest, BodyTooLarge, InternalError, NotFound
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import MIB, RecordStore
from llmproxy_asgi.stores.base import Bounds as StoreBounds
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds
from llmproxy_asgi.worker import Worker

BOUNDS = StoreBounds(total_bytes=256 * MIB, owner_bytes=64 * MIB, owner_records=20_000)
LIFETIME = 30 * 24 * 3600.0
"""Seconds that a response is kept."""
DEEPEST = 1_000
"""Responses that one conversation may be made of."""
LARGEST = 32 * MIB
"""Bytes of items that one conversation may be made of."""
_LARGE = 256 * 1024
"""Bytes of a record that is read on the event loop."""

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_T = TypeVar("_T")
NEVER_TOLD = msgspec.Raw(b"null")

_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,128}", re.ASCII)
_ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_EVENTS = "/events"
_ITEM = "item/"
_PARAM = "previous_response_id"

_log = logging.getLogger("llmproxy_asgi.custody")


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a call's input, or of its answer, as it was given; whoever keeps it knows its id."""

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
    input_items: tuple[Item, ...] = ()
    """What this call itself said: not what it goes on from, and not what held for it alone."""
    output: tuple[Item, ...] | None = None
    """What it was answered; None: there is no answer (yet) that could be gone on from."""
    previous_id: str | None = None
    background: bool = False
    """Whether it goes on without its caller."""
    shows_state: bool = False
    """Whether its caller asked to read the state of its reasoning."""
    told: msgspec.Raw = NEVER_TOLD
    """The answer as its caller's protocol says it, JSON, but for what stands in `output`; `null` until then."""

    def ended(
        self, status: Status, output: Sequence[Item] | None = None, *, told: bytes | msgspec.Raw = NEVER_TOLD
    ) -> "StoredResponse":
        """The same call with its answer, as far as there is one."""
        kept = None if output is None else tuple(output)
        return msgspec.structs.replace(self, status=status, output=kept, told=msgspec.Raw(told))


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a call's input items."""

    items: tuple[Item, ...]
    has_more: bool


class _Link(msgspec.Struct, frozen=True, kw_only=True, tag_field="version", tag=1):
    """What of a record going on from it needs; the rest is skipped over unread."""

    owner: Owner
    input_items: tuple[Item, ...] = ()
    output: tuple[Item, ...] | None = None
    previous_id: str | None = None


class _Events(msgspec.Struct, frozen=True, kw_only=True, tag_field="version", tag=1):
    owner: Owner
    events: tuple[WireEvent, ...]


_ENCODER = msgspec.json.Encoder()
_RECORD = msgspec.json.Decoder(StoredResponse)
_LINK = msgspec.json.Decoder(_Link)
_TOLD = msgspec.json.Decoder(_Events)


def new_id() -> str:
    """An id that nobody guesses."""
    return "resp_" + secrets.token_hex(16)


class ResponseCustody:
    """Keeps responses for their owners.

    Every method raises `Unavailable` where the store cannot be reached.

    Args:
        store: Its own; bounded. Whoever made it closes it.
        lifetime: Seconds that a response is kept.
        clock: What dates are told by.
        deepest: Responses that one conversation may be made of.
        largest: Bytes of items that one conversation may be made of: those of a request's body.
        bounds: What a conversation may hold: what a request may.
        worker: Where large records are read.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        lifetime: float = LIFETIME,
        clock: Clock = SYSTEM,
        deepest: int = DEEPEST,
        largest: int = LARGEST,
        bounds: Bounds = DEFAULT_BOUNDS,
        worker: Worker | None = None,
    ) -> None:
        self._store = store
        self._lifetime = lifetime
        self._clock = clock
        self._deepest = deepest
        self.largest = largest
        self.bounds = bounds
        self.worker = worker or Worker()

    def begin(
        self,
        owner: Owner,
        *,
        response_id: str | None = None,
        status: Status = "in_progress",
        previous_id: str | None = None,
        input_items: Sequence[Item] = (),
        background: bool = False,
        shows_state: bool = False,
    ) -> StoredResponse:
        """The record of a call that begins now; not kept until it is saved.

        Args:
            owner: Whose.
            response_id: See `new_id`; one is made if left out.
            status: What it is until it has ended.
            previous_id: The response that it goes on from.
            input_items: Its own input as it was given, in order.
            background: See `StoredResponse`.
            shows_state: See `StoredResponse`.
        """
        now = self._clock.now()
        return StoredResponse(
            id=response_id or new_id(),
            owner=owner,
            created_at=now,
            expires_at=now + timedelta(seconds=self._lifetime),
            status=status,
            input_items=tuple(input_items),
            previous_id=previous_id,
            background=background,
            shows_state=shows_state,
        )

    async def save(self, owner: Owner, record: StoredResponse, *, replacing: bool = False) -> bool:
        """Keep a response, or what has become of it; whether it is kept.

        Args:
            owner: Whose; the record's own.
            record: What.
            replacing: Only if it is still there: one that its owner has deleted meanwhile stays deleted.

        Returns:
            False: it is too large or too old, was deleted, or has an id that no response has. Then nothing of it is
            kept.
        """
        left = self._seconds_left(owner, record)
        if _ID.fullmatch(record.id) is None:
            return False
        if not await self._store.put(owner, record.id, _ENCODER.encode(record), ttl=left, replacing=replacing):
            return False
        for key in _item_keys(record):
            await self._store.put(owner, key, record.id.encode(), ttl=left)
        return True

    async def is_kept(self, owner: Owner, response_id: str) -> bool:
        """Whether there is something under this id."""
        return await self._value(owner, response_id) is not None

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        """The response; None where there is none, or it is somebody else's."""
        value = await self._value(owner, response_id)
        if value is None:
            return None
        record = await self._read(_RECORD, value)
        return record if record is not None and record.owner == owner else None

    async def delete(self, owner: Owner, response_id: str) -> bool:
        """Let go of a response and its events; whether there was one."""
        record = await self.find(owner, response_id)
        if record is None:
            return False
        for key in (*_item_keys(record), response_id + _EVENTS):
            await self._store.delete(owner, key)
        return await self._store.delete(owner, response_id)

    async def forget(self, owner: Owner) -> int:
        """Delete every response of an owner, with its items and events; how many there were."""
        found, after = 0, ""
        while keys := await self._store.keys(owner, after=after):
            found += sum(_ID.fullmatch(key) is not None for key in keys)
            after = keys[-1]
        await self._store.erase(owner)
        return found

    async def items(self, owner: Owner, ids: Sequence[str]) -> Mapping[str, msgspec.Raw]:
        """Those of the items that kept answers hold, by their ids."""
        keys = {_ITEM + found: found for found in ids if _ITEM_ID.fullmatch(found)}
        places = await self._store.get_many(owner, keys.keys())
        found: dict[str, msgspec.Raw] = {}
        for response_id in dict.fromkeys(value.decode() for value in places.values()):
            record = await self.find(owner, response_id)
            if sum(len(memoryview(each)) for each in found.values()) > self.largest:
                break  # whoever needs the rest, too, is over the bound
            found |= {each.id: each.item for each in (record.output or () if record is not None else ())}
        return {wanted: found[wanted] for wanted in keys.values() if wanted in found}

    async def conversation(self, owner: Owner, previous_response_id: str) -> tuple[msgspec.Raw, ...]:
        """All that was said up to a response and in it, item by item: inputs, calls, results and reasoning.

        Raises:
            NotFound: There is no such response for this owner, or one before it is gone.
            BadRequest: It has no answer (yet), or the conversation has too many turns or items.
            BodyTooLarge: The conversation is larger than a request may be.
        """
        turns: list[tuple[Item, ...]] = []
        seen: set[str] = set()
        size = count = 0
        wanted: str | None = previous_response_id
        while wanted is not None:
            value = await self._value(owner, wanted)
            if value is None:
                raise _no_previous(previous_response_id, missing=wanted)
            link = await self._read(_LINK, value)
            if link is None or link.owner != owner:
                raise _no_previous(previous_response_id, missing=wanted)
            if wanted in seen:
                raise InternalError("Stored responses go on from each other in a circle.")
            seen.add(wanted)
            if len(seen) > self._deepest:
                raise BadRequest("The conversation that this response ends is too long to go on with.", param=_PARAM)
            if link.output is None:
                raise BadRequest("That response has no answer to go on from.", param=_PARAM)
            turn = (*link.input_items, *link.output)
            size += sum(len(memoryview(each.item)) for each in turn)
            count += len(turn)
            # Before the next record is read: a short request must not cost what a long one may not.
            check_unfolded(count, size, self.bounds, self.largest, param=_PARAM)
            turns.append(turn)
            wanted = link.previous_id
        return tuple(each.item for turn in reversed(turns) for each in turn)

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
        if value is None:
            return None
        kept = await self._read(_TOLD, value)
        if kept is None or kept.owner != owner:
            return None
        return tuple(event for event in kept.events if event.number > after)

    def _seconds_left(self, owner: Owner, record: StoredResponse) -> float:
        if record.owner != owner:
            raise InternalError("A response was to be kept for somebody else.")
        return (record.expires_at - self._clock.now()).total_seconds()

    async def _read(self, decoder: "msgspec.json.Decoder[_T]", value: bytes) -> _T | None:
        if len(value) > _LARGE:
            return await self.worker.run(lambda: _read(decoder, value))
        return _read(decoder, value)

    async def _value(self, owner: Owner, response_id: str, kind: str = "") -> bytes | None:
        """The bytes of a record; what does not look like an id of ours is not even looked for."""
        return await self._store.get(owner, response_id + kind) if _ID.fullmatch(response_id) else None


def check_unfolded(count: int, size: int, bounds: Bounds, largest: int, *, param: str) -> None:
    """Hold what a request unfolds to to the bounds of a request that is sent whole.

    Args:
        count: Its items.
        size: Their bytes.
        bounds: Of a request.
        largest: Bytes of a request.
        param: What unfolds.

    Raises:
        BadRequest: There are too many items.
        BodyTooLarge: They are too large.
    """
    if count > bounds.messages:
        raise BadRequest(
            f"{param} unfolds to too many messages: at least {count} came, and at most {bounds.messages} are taken "
            "(limits.messages).",
            param=param,
            code="array_above_max_length",
        )
    if size > largest:
        raise BodyTooLarge(
            f"{param} unfolds to too much: at least {size} bytes came, and at most {largest} are taken (limits.body).",
            param=param,
        )


def _item_keys(record: StoredResponse) -> list[str]:
    """Where it is written down which response holds an item."""
    return [_ITEM + each.id for each in record.output or () if _ITEM_ID.fullmatch(each.id)]


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
