"""Restore the reasoning of tool calls in passthrough, for upstreams that refuse calls without it.

The reasoning is decoded from passed-through responses, and added to the bytes of requests whose caller dropped it.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import ErrorT, InboundRequest, StreamDecoder
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.wire.json_body import elements

_CALLS = b'"tool_calls"'
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
_EMPTY = frozenset({b"null", b'""', b"[]"})


def has_calls(inbound_request: InboundRequest) -> bool:
    """Return whether a request may contain earlier calls."""
    return "messages" in inbound_request.raw and _CALLS in bytes(inbound_request.raw["messages"])


def with_reasoning(inbound_request: InboundRequest, request: ir.Request) -> InboundRequest:
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


def _calls_and_reasoning(parts: Sequence[ir.Part]) -> tuple[list[object], str] | None:
    """Return the ids of a message's calls and its reasoning; None without calls."""
    ids: list[object] = [part.call_id for part in parts if isinstance(part, ir.ToolCall)]
    text = "".join(part.text for part in parts if isinstance(part, ir.Reasoning))
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
        self._parts: list[ir.StreamEvent] = []
        self._finished: list[ir.StreamEvent] = []

    @override
    def feed(self, data: bytes) -> ir.Batch:
        return self._with_parts(self._passthrough.feed(data))

    @override
    def close(self) -> ir.Batch:
        return self._with_parts(self._passthrough.close())

    @override
    def broke(self, error: ErrorT) -> ErrorT:
        return self._passthrough.broke(error)

    def _with_parts(self, batch: ir.Batch) -> ir.Batch:
        if batch.raw:
            read = self._decoder.feed(batch.raw).events
            self._parts += [event for event in read if isinstance(event, ir.PartStarted | ir.PartEnded)]
        if not batch.events:
            return batch
        # A finish must follow the parts of its candidate.
        self._finished += [event for event in batch.events if isinstance(event, ir.Finished)]
        events: list[ir.StreamEvent] = [event for event in batch.events if not isinstance(event, ir.Finished)]
        if events and isinstance(events[-1], ir.Ended):
            events[-1:] = [*self._parts, *self._finished, events[-1]]
        return ir.Batch(events, batch.raw)
