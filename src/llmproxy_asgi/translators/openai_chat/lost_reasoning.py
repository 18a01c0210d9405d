"""Reasoning of tool calls for upstreams that refuse a turn without it, where requests and answers are passed on.

What an answer thought on its way to its calls is read beside the bytes that pass, and put back into the bytes of a
request whose caller has dropped it.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    Batch,
    Ended,
    Finished,
    Part,
    PartEnded,
    PartStarted,
    Reasoning,
    Request,
    StreamEvent,
    ToolCall,
)
from llmproxy_asgi.translators.base import ErrorT, InboundRequest, StreamDecoder
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.wire.json_body import elements

_CALLS = b'"tool_calls"'
_SPOKEN = ("reasoning_content", "reasoning", "reasoning_details")
_EMPTY = frozenset({b"null", b'""', b"[]"})


def has_calls(inbound_request: InboundRequest) -> bool:
    """Whether a request may hold calls of earlier turns."""
    return "messages" in inbound_request.raw and _CALLS in bytes(inbound_request.raw["messages"])


def with_reasoning(inbound_request: InboundRequest, request: Request) -> InboundRequest:
    """The request as it came, with the reasoning that its decoded form has beside calls and its bytes lack.

    The very same where nothing is lacking. All else keeps its bytes.
    """
    turns = [turn for message in request.messages if (turn := _turn(message.parts)) is not None]
    entries = elements(inbound_request.raw["messages"])
    changed = False
    for place, entry in enumerate(entries):
        if not turns or _CALLS not in bytes(entry):
            continue
        message = split_object(entry)
        ids = _ids(message.get("tool_calls"))
        if not ids or ids != turns[0][0]:
            continue
        _, words = turns.pop(0)
        if words and all(bytes(message.get(key, b"null")) in _EMPTY for key in _SPOKEN):
            message["reasoning_content"] = raw(words)
            entries[place] = msgspec.Raw(join_object(message))
            changed = True
    if not changed:
        return inbound_request
    messages = msgspec.Raw(b"[" + b",".join(map(bytes, entries)) + b"]")
    return msgspec.structs.replace(inbound_request, raw={**inbound_request.raw, "messages": messages})


def _turn(parts: Sequence[Part]) -> tuple[list[object], str] | None:
    """The ids of a message's calls, and its reasoning; None where it has no calls."""
    ids: list[object] = [part.call_id for part in parts if isinstance(part, ToolCall)]
    words = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return (ids, words) if ids else None


def _ids(calls: msgspec.Raw | None) -> list[object]:
    found = msgspec.json.decode(calls) if calls is not None else None
    return [call.get("id") for call in found if isinstance(call, dict)] if isinstance(found, list) else []


class WatchedPassthroughDecoder(StreamDecoder):
    """A passed-through stream that also tells its parts, all of them right before its end.

    Args:
        passthrough: Passes the stream on.
        decoder: Reads what was passed on.
    """

    def __init__(self, passthrough: StreamDecoder, decoder: StreamDecoder) -> None:
        self._passthrough = passthrough
        self._decoder = decoder
        self._parts: list[StreamEvent] = []
        self._finished: list[StreamEvent] = []

    @override
    def feed(self, data: bytes) -> Batch:
        return self._watched(self._passthrough.feed(data))

    @override
    def close(self) -> Batch:
        return self._watched(self._passthrough.close())

    @override
    def broke(self, error: ErrorT) -> ErrorT:
        return self._passthrough.broke(error)

    def _watched(self, batch: Batch) -> Batch:
        if batch.raw:
            read = self._decoder.feed(batch.raw).events
            self._parts += [event for event in read if isinstance(event, PartStarted | PartEnded)]
        if not batch.events:
            return batch
        # What a candidate finished with counts behind its parts.
        self._finished += [event for event in batch.events if isinstance(event, Finished)]
        events: list[StreamEvent] = [event for event in batch.events if not isinstance(event, Finished)]
        if events and isinstance(events[-1], Ended):
            events[-1:] = [*self._parts, *self._finished, events[-1]]
        return Batch(events, batch.raw)
