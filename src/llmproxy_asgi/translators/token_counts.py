"""Token counts from upstreams' counters, and requests reduced to what the counters accept."""

from collections.abc import Container

import msgspec

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.raw_json import join_object, split_object


def without(upstream_request: UpstreamRequest, fields: Container[str]) -> UpstreamRequest:
    """Return a request without some of its top-level fields; all other bytes are unchanged."""
    kept = {key: value for key, value in split_object(upstream_request.body).items() if key not in fields}
    return msgspec.structs.replace(upstream_request, body=join_object(kept), stream=False)


def read_count(body: bytes, key: str) -> int:
    """Return the count under a key of an answer.

    Raises:
        UpstreamProtocolError: There is none.
    """
    try:
        found = msgspec.json.decode(split_object(body)[key], type=int | str)
        count = int(found)  # Google's JSON may write whole numbers as text
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError):
        raise UpstreamProtocolError("The upstream's answer holds no count of tokens.") from None
    if count < 0:
        raise UpstreamProtocolError("The upstream's answer holds no count of tokens.")
    return count
