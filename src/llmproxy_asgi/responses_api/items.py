"""Stored items and responses in the Responses protocol: their ids, headers, lists and events.

Stored items contain the state of their reasoning, because a continuation needs it. Callers see the state if they
requested it.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai_responses.response_encoder import ResponseObject, error_event, failure_object
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.wire import sse

EMPTY_LIST = msgspec.Raw(b"[]")
STATE_FIELD = b'"encrypted_content"'
EVENT_TYPE = re.compile(r"[A-Za-z0-9._-]+")
_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
}

StoredItem = tuple[str, msgspec.Raw]
"""An item's id and the item."""


class ItemHeader(msgspec.Struct):
    """The fields of an item that the gateway reads."""

    type: Any = None
    id: Any = None
    role: Any = None
    content: msgspec.Raw = msgspec.Raw()
    encrypted_content: Any = None


_HEADER = msgspec.json.Decoder(ItemHeader)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


def assign_ids(items: Sequence[msgspec.Raw], response_id: str) -> list[StoredItem]:
    """Return the items with their ids; derive missing and duplicate ids."""
    found: list[StoredItem] = []
    taken: set[str] = set()
    for place, item in enumerate(items):
        header = header_of(item)
        own = header.id if isinstance(header.id, str) and header.id else None
        if own is None or own in taken:
            own = derived(_PREFIXES.get(kind_of(header), "item_"), response_id, "input", str(place), size=40)
        taken.add(own)
        found.append((own, item))
    return found


def encode_input_item(own: str, item: msgspec.Raw, *, with_state: bool) -> msgspec.Raw:
    """Encode an input item for a list: with its id and type, and its content as parts."""
    try:
        values = split_object(item)
    except msgspec.MsgspecError:
        return item
    header = header_of(item)
    kind = kind_of(header)
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
    items = output or items_of(values.get("output", EMPTY_LIST))
    if items:
        values["output"] = raw(list(items) if with_state else [without_state(item) for item in items])
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
    values = members_of(frame.data)
    found = string_of(values.get("type")) if values else None
    return found if found is not None and EVENT_TYPE.fullmatch(found) else ""


def with_sequence_number(data: bytes, number: int) -> bytes:
    """Replace the sequence number in an event's data."""
    return join_object({**split_object(data), "sequence_number": raw(number)})


# ── parts of items ──────────────────────────────────────────────────────────────────────────────────────────────────


def without_state(item: msgspec.Raw) -> msgspec.Raw:
    """Return a reasoning item without its state; other items unchanged."""
    if STATE_FIELD not in bytes(item):
        return item
    values = members_of(item)
    if values is None or bytes(values.get("type", b"")) != b'"reasoning"':
        return item
    values.pop("encrypted_content", None)
    return msgspec.Raw(join_object(values))


def kind_of(header: ItemHeader) -> str:
    """Return the type of an item; items without one are messages."""
    return header.type if isinstance(header.type, str) and header.type else "message"


def header_of(item: msgspec.Raw) -> ItemHeader:
    """Decode the header of an item; empty if the item is unreadable."""
    try:
        return _HEADER.decode(item)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ItemHeader()


def string_of(found: msgspec.Raw | None) -> str | None:
    """Decode a string; None if it is another value."""
    try:
        return None if found is None else msgspec.json.decode(found, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def members_of(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Split an object into its members; None if it is another value."""
    try:
        return split_object(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def items_of(found: msgspec.Raw) -> list[msgspec.Raw]:
    """Split an array into its items; empty if it is another value."""
    try:
        return _ITEMS.decode(found)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
