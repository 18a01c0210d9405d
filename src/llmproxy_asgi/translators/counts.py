"""Counts of tokens as upstreams tell them, and requests cut down to what their counters take."""

from collections.abc import Container

import msgspec

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.raw_json import join_object, split_object


def without(upstream_request: UpstreamRequest, fields: Container[str]) -> UpstreamRequest:
    """A request without some of its top-level fields; all other bytes stay as they are."""
    kept = {key: value for key, value in split_object(upstream_request.body).items() if key not in fields}
    return msgspec.structs.replace(upstream_request, body=join_object(kept), stream=False)


def read_count(body: bytes, key: str) -> int:
    """The count that an answer holds under a key.

    Raises:
        UpstreamProtocolError: It holds none.
    """
    try:
        found = msgspec.json.decode(split_object(body)[key], type=int | str)
        count = int(found)  # Google's JSON may write whole numbers as text
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError):
        raise UpstreamProtocolError("The upstream's answer holds no count of tokens.") from None
    if count < 0:
        raise UpstreamProtocolError("The upstream's answer holds no count of tokens.")
    return count
