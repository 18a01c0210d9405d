"""Restore the reasoning of tool calls in passthrough, for upstreams that refuse calls without it.

The reasoning is decoded from passed-through responses, and added to the bytes of requests whose caller dropped it.
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
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
_EMPTY = frozenset({b"null", b'""', b"[]"})


def has_calls(inbound_request: InboundRequest) -> bool:
    """Return whether a request may contain earlier calls."""
    return "messages" in inbound_request.raw and _CALLS in bytes(inbound_request.raw["messages"])


def with_reasoning(inbound_request: InboundRequest, request: Request) -> InboundRequest:
    """Add the reasoning that the decoded request has before calls and the original bytes lack.

    All other bytes stay unchanged; return the same object if nothing is missing.
    """
    recorded = [entry_ for message in request.messages if (entry_ := _calls_and_reasoning(message.parts)) is not None]
    entries = elements(inbound_request.raw["messages"])
    changed = False
    for index, entry in enumerate(entries):
        if not recorded or _CALLS not in bytes(entry):
            continue
        message = split_object(entry)
        ids = _ids(message.get("tool_calls"))
        if not ids or ids != recorded[0][0]:
            continue
        _, text = recorded.pop(0)
        if text and all(bytes(message.get(key, b"null")) in _EMPTY for key in _REASONING_FIELDS):
            message["reasoning_content"] = raw(text)
            entries[index] = msgspec.Raw(join_object(message))
            changed = True
    if not changed:
        return inbound_request
    messages = msgspec.Raw(b"[" + b",".join(map(bytes, entries)) + b"]")
    return msgspec.structs.replace(inbound_request, raw={**inbound_request.raw, "messages": messages})


def _calls_and_reasoning(parts: Sequence[Part]) -> tuple[list[object], str] | None:
    """Return the ids of a message's calls and its reasoning; None without calls."""
    ids: list[object] = [part.call_id for part in parts if isinstance(part, ToolCall)]
    text = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return (ids, text) if ids else None


def _ids(calls: msgspec.Raw | None) -> list[object]:
    found = msgspec.json.decode(calls) if calls is not None else None
    return [call.get("id") for call in found if isinstance(call, dict)] if isinstance(found, list) else []


class WatchedPassthroughDecoder(StreamDecoder):
    """A passed-through stream that also emits its parts, all of them directly before its end.

    Args:
        passthrough: The decoder that passes the stream through.
        decoder: The decoder of the passed-through bytes.
    """

    def __init__(self, passthrough: StreamDecoder, decoder: StreamDecoder) -> None:
        self._passthrough = passthrough
        self._decoder = decoder
        self._parts: list[StreamEvent] = []
        self._finished: list[StreamEvent] = []

    @override
    def feed(self, data: bytes) -> Batch:
        return self._with_parts(self._passthrough.feed(data))

    @override
    def close(self) -> Batch:
        return self._with_parts(self._passthrough.close())

    @override
    def broke(self, error: ErrorT) -> ErrorT:
        return self._passthrough.broke(error)

    def _with_parts(self, batch: Batch) -> Batch:
        if batch.raw:
            read = self._decoder.feed(batch.raw).events
            self._parts += [event for event in read if isinstance(event, PartStarted | PartEnded)]
        if not batch.events:
            return batch
        # A finish must follow the parts of its candidate.
        self._finished += [event for event in batch.events if isinstance(event, Finished)]
        events: list[StreamEvent] = [event for event in batch.events if not isinstance(event, Finished)]
        if events and isinstance(events[-1], Ended):
            events[-1:] = [*self._parts, *self._finished, events[-1]]
        return Batch(events, batch.raw)
