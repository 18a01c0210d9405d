"""Expand requests that use stored responses to self-contained requests.

A request that continues a stored response is expanded to the complete conversation: the earlier input and output
items are put before the new ones with their original bytes. So everything that reads requests can read it.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.responses_api.items import EMPTY_LIST, header_of
from llmproxy_asgi.translators.base import InboundRequest, State
from llmproxy_asgi.translators.raw_json import raw
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds, OverBounds, contains, count_values

_NULL = b"null"
_FALSE = b"false"
_TRUE = msgspec.Raw(b"true")
_REFERENCE = re.compile(rb'"(?:item_reference|reasoning)"')
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


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
    header = header_of(item)
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
    return given is not None and contains(given, _REFERENCE, len('"item_reference"'))


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
        given = len(memoryview(values.get("input", EMPTY_LIST)))
        values["input"] = raw([*before, *(input_items(inbound_request) if own is None else own)])
        size += max(0, len(memoryview(values["input"])) - given)
        if size > inbound_request.size:
            count += _values_of(values["input"], bounds)
    elif "input" not in values and not keeps_previous and state.previous_id:
        values["input"] = EMPTY_LIST
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
