"""Store responses that a principal may retrieve and continue: the state of the Responses API, over any upstream.

A record holds the input items of one call and the output items of its response, as their bytes; the conversation before
it is found by following the records. Items are never decoded here, so a continued conversation is the one that the
caller would have sent back.

A response belongs to one owner. For all others it does not exist.
"""

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.conversation_state.reasoning import MESSAGE_LIFETIME
from llmproxy_asgi.errors import BadRequest, BodyTooLarge, InternalError, NotFound
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import MIB, RecordStore
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds
from llmproxy_asgi.worker import Worker

LIFETIME = MESSAGE_LIFETIME
"""Seconds that a response is stored: as long as the state of its messages."""
MAX_RESPONSES = 1_000
"""Responses in one conversation at most."""
LARGEST = 32 * MIB
"""Bytes of items in one conversation at most."""
_LARGE = 256 * 1024
"""Bytes of a record up to which it is decoded on the event loop."""

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_T = TypeVar("_T")
NO_RESPONSE = msgspec.Raw(b"null")

_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,128}", re.ASCII)
_ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_EVENTS = "/events"
_ITEM = "item/"
_PARAM = "previous_response_id"

_log = logging.getLogger("llmproxy_asgi.conversation_state")


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output item as it was sent, with its id."""

    id: str
    item: msgspec.Raw


class WireEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it was sent to the caller."""

    number: int
    """Rising, from 0."""
    name: str
    data: msgspec.Raw


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="version", tag=1):
    """One call and its response."""

    id: str
    owner: Owner
    created_at: datetime
    expires_at: datetime
    status: Status
    input_items: tuple[Item, ...] = ()
    """The call's own input: not the conversation before, and not its instructions."""
    output: tuple[Item, ...] | None = None
    """The output; None: there is no response (yet) that could be continued."""
    previous_id: str | None = None
    background: bool = False
    """Whether it runs in the background."""
    shows_state: bool = False
    """Whether its caller asked to read the state of its reasoning."""
    response: msgspec.Raw = NO_RESPONSE
    """The response in the caller's protocol, as JSON without the items of `output`; `null` until it ends."""

    def ended(
        self, status: Status, output: Sequence[Item] | None = None, *, response: bytes | msgspec.Raw = NO_RESPONSE
    ) -> "StoredResponse":
        """Return this record with its response, as far as there is one."""
        items = None if output is None else tuple(output)
        return msgspec.structs.replace(self, status=status, output=items, response=msgspec.Raw(response))


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a call's input items."""

    items: tuple[Item, ...]
    has_more: bool


class _Link(msgspec.Struct, frozen=True, kw_only=True, tag_field="version", tag=1):
    """The fields of a record that continuing it needs; the rest is not decoded."""

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
_EVENTS_DECODER = msgspec.json.Decoder(_Events)


def new_id() -> str:
    """Return a new id that cannot be guessed."""
    return "resp_" + secrets.token_hex(16)


class ResponseStore:
    """Store responses by owner.

    Every method raises `Unavailable` if the store cannot be reached.

    Args:
        store: A bounded store for responses only; its creator closes it.
        lifetime: Seconds that a response is stored.
        clock: Dates records.
        max_responses: Responses in one conversation at most.
        largest: Bytes of items in one conversation at most: those of a request's body.
        bounds: The bounds of a conversation: those of a request.
        worker: Decodes large records.
    """

    def __init__(
        self,
        store: RecordStore,
        *,
        lifetime: float = LIFETIME,
        clock: Clock = SYSTEM,
        max_responses: int = MAX_RESPONSES,
        largest: int = LARGEST,
        bounds: Bounds = DEFAULT_BOUNDS,
        worker: Worker | None = None,
    ) -> None:
        self._store = store
        self._lifetime = lifetime
        self._clock = clock
        self._max_responses = max_responses
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
        """Create the record of a call that starts now; `save` stores it.

        Args:
            owner: The call's owner.
            response_id: The response's id; default: a new one.
            status: The status until it ends.
            previous_id: The response that it continues.
            input_items: Its own input as it was sent, in order.
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
        """Store or update a response; return whether it is stored.

        Args:
            owner: The record's owner.
            record: The record.
            replacing: Store only if it still exists: a response that its owner deleted stays deleted.

        Returns:
            False: it is too large or expired, was deleted, or has an invalid id. Then nothing is stored.
        """
        left = self._seconds_left(owner, record)
        if _ID.fullmatch(record.id) is None:
            return False
        if not await self._store.put(owner, record.id, _ENCODER.encode(record), ttl=left, replacing=replacing):
            return False
        for key in _item_keys(record):
            await self._store.put(owner, key, record.id.encode(), ttl=left)
        return True

    async def is_stored(self, owner: Owner, response_id: str) -> bool:
        """Whether a response with this id is stored."""
        return await self._value(owner, response_id) is not None

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        """Return the response; None if there is none, or it has another owner."""
        value = await self._value(owner, response_id)
        if value is None:
            return None
        record = await self._read(_RECORD, value)
        return record if record is not None and record.owner == owner else None

    async def delete(self, owner: Owner, response_id: str) -> bool:
        """Delete a response and its events; return whether it existed."""
        record = await self.find(owner, response_id)
        if record is None:
            return False
        for key in (*_item_keys(record), response_id + _EVENTS):
            await self._store.delete(owner, key)
        return await self._store.delete(owner, response_id)

    async def forget(self, owner: Owner) -> int:
        """Delete all responses of an owner with their items and events; return how many there were."""
        found, after = 0, ""
        while keys := await self._store.keys(owner, after=after):
            found += sum(_ID.fullmatch(key) is not None for key in keys)
            after = keys[-1]
        await self._store.erase(owner)
        return found

    async def items(self, owner: Owner, ids: Sequence[str]) -> Mapping[str, msgspec.Raw]:
        """Return those of the items that stored responses hold, by id."""
        keys = {_ITEM + found: found for found in ids if _ITEM_ID.fullmatch(found)}
        places = await self._store.get_many(owner, keys.keys())
        found: dict[str, msgspec.Raw] = {}
        for response_id in dict.fromkeys(value.decode() for value in places.values()):
            record = await self.find(owner, response_id)
            if sum(len(memoryview(each)) for each in found.values()) > self.largest:
                break  # a request that needs the rest, too, exceeds the bound
            found |= {each.id: each.item for each in (record.output or () if record is not None else ())}
        return {wanted: found[wanted] for wanted in keys.values() if wanted in found}

    async def conversation(self, owner: Owner, previous_response_id: str) -> tuple[msgspec.Raw, ...]:
        """Return all items of a conversation, up to and including a response.

        Raises:
            NotFound: The owner has no such response, or one before it is gone.
            BadRequest: It has no output (yet), or the conversation has too many responses or items.
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
                raise InternalError("Stored responses continue each other in a circle.")
            seen.add(wanted)
            if len(seen) > self._max_responses:
                raise BadRequest(
                    "The stored conversation is too long to be continued (previous_response_id): start a new one.",
                    param=_PARAM,
                )
            if link.output is None:
                raise BadRequest(
                    "The response has no output to continue from (previous_response_id): continue from another one.",
                    param=_PARAM,
                )
            turn = (*link.input_items, *link.output)
            size += sum(len(memoryview(each.item)) for each in turn)
            count += len(turn)
            # Check before the next record is read: a short request must not cost more than a long one may.
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
        """Return a page of a call's input; None if `find` returns none.

        Args:
            owner: The response's owner.
            response_id: The response's id.
            after: The id of the item before the page.
            limit: Items on a page.
            order: `asc`: as they were sent; `desc`: the last one first.

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
                raise BadRequest(
                    "The item is not in the input of this response (after): send the id of one of its items.",
                    param="after",
                )
            begin = place + 1
        return Page(items=items[begin : begin + limit], has_more=len(items) > begin + limit)

    async def save_events(self, owner: Owner, record: StoredResponse, events: Sequence[WireEvent]) -> bool:
        """Store all events of a response so far; return whether they are stored."""
        left = self._seconds_left(owner, record)
        value = _ENCODER.encode(_Events(owner=owner, events=tuple(events)))
        return await self._store.put(owner, record.id + _EVENTS, value, ttl=left)

    async def events(self, owner: Owner, response_id: str, *, after: int = -1) -> tuple[WireEvent, ...] | None:
        """Return the stored events of a response after number `after`; None if none were stored."""
        value = await self._value(owner, response_id, _EVENTS)
        if value is None:
            return None
        record = await self._read(_EVENTS_DECODER, value)
        if record is None or record.owner != owner:
            return None
        return tuple(event for event in record.events if event.number > after)

    def _seconds_left(self, owner: Owner, record: StoredResponse) -> float:
        if record.owner != owner:
            raise InternalError("A response was to be stored for another owner.")
        return (record.expires_at - self._clock.now()).total_seconds()

    async def _read(self, decoder: "msgspec.json.Decoder[_T]", value: bytes) -> _T | None:
        if len(value) > _LARGE:
            return await self.worker.run(lambda: _read(decoder, value))
        return _read(decoder, value)

    async def _value(self, owner: Owner, response_id: str, kind: str = "") -> bytes | None:
        """Return the bytes of a record; an invalid id is not looked up."""
        return await self._store.get(owner, response_id + kind) if _ID.fullmatch(response_id) else None


def check_unfolded(count: int, size: int, bounds: Bounds, largest: int, *, param: str) -> None:
    """Check that an unfolded request is within the bounds of a request.

    Args:
        count: Its items.
        size: Their bytes.
        bounds: The bounds of a request.
        largest: Bytes of a request at most.
        param: The field that unfolds.

    Raises:
        BadRequest: There are too many items.
        BodyTooLarge: They are too large.
    """
    if count > bounds.messages:
        raise BadRequest(
            f"Too many messages in the stored conversation ({param}): at most {bounds.messages} are allowed "
            f"(limits.messages), and it holds at least {count}.",
            param=param,
            code="array_above_max_length",
        )
    if size > largest:
        raise BodyTooLarge(
            f"The stored conversation is too large ({param}): at most {largest} bytes are allowed (limits.body), and "
            f"it has at least {size}.",
            param=param,
        )


def _item_keys(record: StoredResponse) -> list[str]:
    """Return the keys under which a response's items refer to it."""
    return [_ITEM + each.id for each in record.output or () if _ITEM_ID.fullmatch(each.id)]


def _read(decoder: "msgspec.json.Decoder[_T]", value: bytes) -> _T | None:
    """Decode a record; None if another version wrote it in another format."""
    try:
        return decoder.decode(value)
    except msgspec.DecodeError as error:
        _log.warning("A stored response cannot be read: %s", error)
        return None


def _no_previous(asked: str, *, missing: str) -> NotFound:
    shown = asked[:100]
    text = f"Previous response with id {shown!r} not found."
    if missing != asked:
        text = f"The conversation before the response {shown!r} is incomplete: a response was deleted or has expired."
    return NotFound(text, param=_PARAM, code="previous_response_not_found")
