"""The stored responses of the Responses protocol: how requests refer to them, and how they are encoded again.

A request that continues a stored response is expanded to the complete conversation: the earlier input and output
items are put before the new ones with their original bytes. So everything that reads requests can read it.

Stored items contain the state of their reasoning, because a continuation needs it. Callers see the state if they
requested it. `conversation_state` stores the responses; nothing is stored here.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from llmproxy_asgi.errors import BadRequest, GatewayError, Unsupported
from llmproxy_asgi.translators.base import InboundRequest, State
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai_responses.mappings import STATE, is_answer_id
from llmproxy_asgi.translators.openai_responses.response_encoder import ResponseObject, error_event, failure_object
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.wire import sse
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds, OverBounds, count_values

_NULL = b"null"
_FALSE = b"false"
_TRUE = msgspec.Raw(b"true")
_EMPTY = msgspec.Raw(b"[]")
_REFERENCE = re.compile(rb'"(?:item_reference|reasoning)"')
_BLOB = b'"encrypted_content"'
_KIND = re.compile(r"[A-Za-z0-9._-]+")
_RESPONSE = b'"response"'
"""A key: in the strings of a stream, quotes are escaped."""
_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
}
ENDINGS: Mapping[str, str] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
"""Events that end a stream, and the status of a response without one."""
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_STATUSES: Mapping[str, Status] = {word: word for word in get_args(Status)}
_CONTINUABLE = frozenset({"completed", "incomplete"})

StoredItem = tuple[str, msgspec.Raw]
"""An item's id and the item."""


class FinalResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The final state of a response, as it is stored."""

    status: str
    response: bytes
    """The response object with an empty output."""
    output: tuple[StoredItem, ...] | None
    """The output items; None if the response can't be continued."""


class _Item(msgspec.Struct):
    type: Any = None
    id: Any = None
    role: Any = None
    content: msgspec.Raw = msgspec.Raw()
    encrypted_content: Any = None


_ITEM = msgspec.json.Decoder(_Item)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


def status_of(word: str) -> Status:
    """Return a response's status; unknown ones count as completed."""
    return _STATUSES.get(word, "completed")


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_state(values: Mapping[str, msgspec.Raw], *, counting: bool = False) -> State | None:
    """Decode how a request uses stored responses; return None if it uses none and is not to be stored.

    Args:
        values: The request's top-level values, whose types were checked.
        counting: Whether the request only counts tokens.

    Raises:
        BadRequest: Fields exclude each other.
    """
    said = {key: bytes(value) for key in ("store", "background") if (value := values.get(key)) is not None}
    store = said.get("store", _NULL) != _FALSE and not counting
    background = said.get("background") == b"true" and not counting
    previous = Node.of(values, "previous_response_id") if "previous_response_id" in values else None
    previous_id = previous.text() or None if previous else None
    if background and not store:
        raise BadRequest(
            "A background response must be stored (background): leave out `store: false`.", param="background"
        )
    if previous_id and bytes(values.get("conversation", _NULL)) != _NULL:
        raise BadRequest(
            "`conversation` cannot be combined with it (previous_response_id): send one of the two.",
            param="previous_response_id",
        )
    given = values.get("input")
    refers = given is not None and b'"item_reference"' in bytes(given)
    if not (store or background or previous_id or refers):
        return None
    include = Node.of(values, "include") if "include" in values else None
    shows = include is not None and any(entry.value == STATE for entry in include.array())
    return State(store=store, previous_id=previous_id, background=background, shows_state=shows)


def requires_storage(inbound_request: InboundRequest) -> bool:
    """Return whether a request has an explicit `store: true`."""
    return bytes(inbound_request.raw.get("store", _NULL)) == b"true"


def without_storage(inbound_request: InboundRequest, *, strict: bool) -> InboundRequest:
    """Return the request for a gateway without storage.

    Args:
        inbound_request: The original request.
        strict: Whether to refuse an explicit `store: true`.

    Raises:
        BadRequest: The request needs storage.
    """
    state = inbound_request.state or State()
    if strict and requires_storage(inbound_request):
        raise Unsupported(
            "This gateway stores no responses, by its setting `store: never` (store): send false.", param="store"
        )
    if state.background:
        raise BadRequest(
            "This gateway stores no responses, by its setting `store: never` (background): wait for the response.",
            param="background",
        )
    if state.previous_id is not None:
        raise BadRequest(
            "This gateway stores no responses, by its setting `store: never` (previous_response_id): send the whole "
            "conversation as input.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return msgspec.structs.replace(inbound_request, state=msgspec.structs.replace(state, store=False))


def input_items(inbound_request: InboundRequest) -> list[msgspec.Raw]:
    """Return the items of a request's own input with their original bytes.

    Raises:
        BadRequest: The input is unreadable.
    """
    given = inbound_request.raw.get("input")
    if given is None or bytes(given) == _NULL:
        return []
    try:
        if memoryview(given)[0] == ord('"'):
            text = msgspec.json.decode(given, type=str)
            part = {"type": "input_text", "text": text}
            return [raw({"type": "message", "role": "user", "content": [part]})]
        return _ITEMS.decode(given)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest("input cannot be read.", param="input", code="invalid_value") from None


def references(items: Sequence[msgspec.Raw]) -> list[str]:
    """Return the ids of referenced items and of reasoning items without state."""
    return [found for item in items if (found := _referred(item)) is not None]


def _referred(item: msgspec.Raw) -> str | None:
    if _REFERENCE.search(bytes(item)) is None:
        return None
    header = _header(item)
    bare = header.type == "item_reference" or (header.type == "reasoning" and not header.encrypted_content)
    return header.id if bare and isinstance(header.id, str) else None


def resolve_references(items: Sequence[msgspec.Raw], known: Mapping[str, msgspec.Raw]) -> list[msgspec.Raw]:
    """Replace references by the known items."""
    if not known:
        return list(items)
    return [known.get(_referred(item) or "", item) for item in items]


def has_references(inbound_request: InboundRequest) -> bool:
    """Return whether a request's input may contain item references."""
    given = inbound_request.raw.get("input")
    return given is not None and _REFERENCE.search(given) is not None


def expand_request(
    inbound_request: InboundRequest,
    before: Sequence[msgspec.Raw] = (),
    own: Sequence[msgspec.Raw] | None = None,
    *,
    keeps_previous: bool = False,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> InboundRequest:
    """Return the self-contained request, without storage: with the complete conversation as input.

    Args:
        inbound_request: The original request.
        before: The items of the conversation that it continues.
        own: The items to use instead of its own input.
        keeps_previous: Whether `previous_response_id` remains.
        bounds: The bounds on its size.

    Raises:
        BadRequest: It has more JSON values than the bounds allow, or its input is unreadable.
    """
    size, count = inbound_request.size, inbound_request.values
    values, state = dict(inbound_request.raw), inbound_request.state or State()
    values.pop("background", None)
    if not keeps_previous:
        values.pop("previous_response_id", None)
    if bytes(values.get("store", _NULL)) != _FALSE:
        values.pop("store", None)
    if before or own is not None:
        given = len(memoryview(values.get("input", _EMPTY)))
        values["input"] = raw([*before, *(input_items(inbound_request) if own is None else own)])
        size += max(0, len(memoryview(values["input"])) - given)
        if size > inbound_request.size:
            count += _values_of(values["input"], bounds)
    elif "input" not in values and not keeps_previous and state.previous_id:
        values["input"] = _EMPTY
    stream = inbound_request.stream
    if state.background:
        values["stream"], stream = _TRUE, True
    state = msgspec.structs.replace(state, needs_state=state.store)
    return msgspec.structs.replace(inbound_request, raw=values, stream=stream, state=state, size=size, values=count)


def _values_of(items: msgspec.Raw, bounds: Bounds) -> int:
    try:
        return count_values(bytes(items), bounds)
    except OverBounds as error:
        raise BadRequest(f"Together with the conversation that it continues (input): {error}", param="input") from None


# ── stored items ─────────────────────────────────────────────────────────────────────────────────────────────────────


def assign_ids(items: Sequence[msgspec.Raw], response_id: str) -> list[StoredItem]:
    """Return the items with their ids; derive missing and duplicate ids."""
    found: list[StoredItem] = []
    taken: set[str] = set()
    for place, item in enumerate(items):
        header = _header(item)
        own = header.id if isinstance(header.id, str) and header.id else None
        if own is None or own in taken:
            own = derived(_PREFIXES.get(_kind(header), "item_"), response_id, "input", str(place), size=40)
        taken.add(own)
        found.append((own, item))
    return found


def encode_input_item(own: str, item: msgspec.Raw, *, with_state: bool) -> msgspec.Raw:
    """Encode an input item for a list: with its id and type, and its content as parts."""
    try:
        values = split_object(item)
    except msgspec.MsgspecError:
        return item
    header = _header(item)
    kind = _kind(header)
    values = {
        "id": raw(own),
        "type": raw(kind),
        **{key: each for key, each in values.items() if key not in {"id", "type"}},
    }
    if kind == "message":
        content = memoryview(header.content)
        if content and content[0] == ord('"'):
            part = "output_text" if header.role == "assistant" else "input_text"
            said: dict[str, Any] = {"type": part, "text": msgspec.json.decode(header.content)}
            values["content"] = raw([{**said, "annotations": []} if part == "output_text" else said])
        values.setdefault("status", raw("completed"))
    if kind == "reasoning" and not with_state:
        values.pop("encrypted_content", None)
    return msgspec.Raw(join_object(values))


def encode_stored(response: msgspec.Raw, output: Sequence[msgspec.Raw], *, with_state: bool) -> bytes:
    """Encode a stored response."""
    values = split_object(response)
    items = output or _items(values.get("output", _EMPTY))
    if items:
        values["output"] = raw(list(items) if with_state else [_without_state(item) for item in items])
    return join_object(values)


def encode_page(items: Sequence[msgspec.Raw], *, first: str | None, last: str | None, has_more: bool) -> bytes:
    """Encode a page of a response's input items."""
    page = {"object": "list", "data": list(items), "first_id": first, "last_id": last, "has_more": has_more}
    return msgspec.json.encode(page)


def encode_deleted(response_id: str) -> bytes:
    """Encode the confirmation that a response was deleted."""
    return msgspec.json.encode({"id": response_id, "object": "response", "deleted": True})


def encode_without_output(
    inbound_request: InboundRequest,
    status: str,
    *,
    answer: str,
    created_at: datetime,
    error: GatewayError | None = None,
) -> bytes:
    """Encode a response without output: queued, started, cancelled, or failed before it started."""
    found = ResponseObject(inbound_request, answer=answer, model=inbound_request.model, created_at=created_at)
    return found.encode(status, (), error=failure_object(error) if error is not None else None)


def lifecycle_event(kind: str, response: bytes, number: int) -> bytes:
    """Encode the data of a lifecycle event."""
    return msgspec.json.encode({"type": kind, "response": msgspec.Raw(response), "sequence_number": number})


def encode_error_event(error: GatewayError) -> bytes:
    """Encode the last event for a client that can't receive the rest of a response."""
    return sse.encode(msgspec.json.encode(error_event(error)), event="error")


def event_type(frame: sse.Frame) -> str:
    """Return an event's type from its data, as compatible servers omit its name; empty without one."""
    values = _members(frame.data)
    found = _string(values.get("type")) if values else None
    return found if found is not None and _KIND.fullmatch(found) else ""


def with_sequence_number(data: bytes, number: int) -> bytes:
    """Replace the sequence number in an event's data."""
    return join_object({**split_object(data), "sequence_number": raw(number)})


# ── rewriting ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ResponseRewriter:
    """The rewriter of one response for its caller; it also records the final state.

    The upstream request has no storage fields, so the upstream reports that nothing is stored; the rewriter reports
    the caller's values. It reads only lifecycle events, and events with state that the caller did not request.

    Args:
        said: The caller's original request.
        passed_through: Whether the response comes from an upstream with this protocol.

    Attributes:
        id: The response's id; None for the upstream's id that is not known yet.
        final: The final state, after the last event.
        hides: Whether to remove reasoning state that only the gateway requested. The state of other vendors'
            responses remains, as callers send it back.
    """

    __slots__ = ("_echo", "_passed_through", "final", "hides", "id")

    def __init__(self, said: InboundRequest, *, passed_through: bool) -> None:
        state = said.state or State()
        self._passed_through = passed_through
        self.hides = passed_through and state.store and not state.shows_state
        self._echo = {
            "store": raw(state.store),
            "background": raw(state.background),
            "previous_response_id": raw(state.previous_id),
        }
        self.id: str | None = None if passed_through else state.answer_id
        self.final: FinalResponse | None = None

    def first_id(self, data: bytes) -> str | None:
        """Return the upstream's response id: empty if it is invalid, None if the data has none."""
        for frame in sse.decode(data) if _RESPONSE in data else ():
            values = _members(frame.data)
            if values is not None and "response" in values:
                return _own_id(_members(values["response"])) or ""
        return None

    def id_of(self, body: bytes) -> str:
        """Return the id of a complete upstream response; empty if it is invalid."""
        return _own_id(_members(body)) or ""

    def feed(self, data: bytes) -> bytes:
        """Rewrite complete frames."""
        if not self.concerns(data):
            return data
        return b"".join(self._frame(frame) for frame in sse.decode(data))

    def concerns(self, data: bytes) -> bool:
        """Return whether frames may need rewriting."""
        return _RESPONSE in data or (self.hides and _BLOB in data)

    def whole(self, body: bytes) -> bytes:
        """Rewrite a complete response."""
        values = split_object(body)
        return join_object(self._edited(values, "completed", ends=True))

    def _frame(self, frame: sse.Frame) -> bytes:
        if not self.concerns(frame.data):
            return frame.raw
        values = _members(frame.data)
        if values is None:
            return frame.raw
        answer = _members(values.get("response", b""))
        if answer is not None:
            kind = event_type(frame) or frame.event or ""
            status = ENDINGS.get(kind)
            values["response"] = msgspec.Raw(
                join_object(self._edited(answer, status or "in_progress", ends=bool(status)))
            )
        elif self.hides and "item" in values:
            values["item"] = _without_state(values["item"])
        event = frame.event if frame.event and _KIND.fullmatch(frame.event) else None
        return sse.encode(join_object(values), event=event)

    def _edited(self, answer: dict[str, msgspec.Raw], status: str, *, ends: bool) -> dict[str, msgspec.Raw]:
        if self.id is not None:
            answer["id"] = raw(self.id)
        if self._passed_through:
            answer |= self._echo
        output = _items(answer.get("output", _EMPTY))
        if ends:
            self._end(answer, status, output)
        if self.hides and output:
            answer["output"] = raw([_without_state(item) for item in output])
        return answer

    def _end(self, answer: dict[str, msgspec.Raw], status: str, output: list[msgspec.Raw]) -> None:
        reported = _string(answer.get("status"))
        word = status if reported is None else reported
        kept = {**answer, "output": _EMPTY} if output else answer
        continuable = word in _CONTINUABLE
        self.final = FinalResponse(
            status=word,
            response=join_object(kept if continuable else answer),
            output=tuple(_identified(output)) if continuable else None,
        )


def _identified(output: Sequence[msgspec.Raw]) -> list[StoredItem]:
    found = ((_header(item).id, item) for item in output)
    return [(own if isinstance(own, str) else "", item) for own, item in found]


def _own_id(answer: Mapping[str, msgspec.Raw] | None) -> str | None:
    found = _string(answer.get("id")) if answer else None
    return found if isinstance(found, str) and is_answer_id(found) else None


def _without_state(item: msgspec.Raw) -> msgspec.Raw:
    if _BLOB not in bytes(item):
        return item
    values = _members(item)
    if values is None or bytes(values.get("type", b"")) != b'"reasoning"':
        return item
    values.pop("encrypted_content", None)
    return msgspec.Raw(join_object(values))


def _kind(header: _Item) -> str:
    return header.type if isinstance(header.type, str) and header.type else "message"


def _header(item: msgspec.Raw) -> _Item:
    try:
        return _ITEM.decode(item)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Item()


def _string(found: msgspec.Raw | None) -> str | None:
    try:
        return None if found is None else msgspec.json.decode(found, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _members(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    try:
        return split_object(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _items(found: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        return _ITEMS.decode(found)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
