"""Decode how a request of the Responses protocol uses stored responses; `responses_api` stores them."""

from collections.abc import Mapping

import msgspec

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.base import State
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.openai_responses.mappings import STATE

_NULL = b"null"
_FALSE = b"false"


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
