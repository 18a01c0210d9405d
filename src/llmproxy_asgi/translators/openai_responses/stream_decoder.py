"""Decode an upstream's stream of Responses events.

It tolerates deviations of compatible servers: items without `added` or `done`, one `output_index` for all items,
missing indexes, text in `done` only, all content in the last event. A stream that breaks the protocol ends with
`Failed`; nothing is raised.

The stream ends with `response.completed`, `.incomplete` or `.failed`; `[DONE]` is ignored.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import event_check
from llmproxy_asgi.translators.base import StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.errors import decode_error_object, error_in
from llmproxy_asgi.translators.openai.mappings import dated
from llmproxy_asgi.translators.openai_responses.mappings import (
    MANY_IN_EVENTS,
    PROTOCOL,
    TIER_IN,
    decode_finish,
    decode_usage,
)
from llmproxy_asgi.translators.openai_responses.readers import DELTA_HANDLERS, BrokenStream, DeltaHandler, OutputReader
from llmproxy_asgi.translators.openai_responses.response_decoder import ItemDecoder
from llmproxy_asgi.translators.openai_responses.schema import ANSWER, DELTA_EVENT, EVENT, Answer, Event
from llmproxy_asgi.translators.raw_json import split_object
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.translators.surrogates import SurrogateJoiner, decode_marked
from llmproxy_asgi.wire.sse import EventTooLarge, Frame, FrameSplitter, decode, only_named

_T = TypeVar("_T")
_IS_CROWDED = event_check(*MANY_IN_EVENTS)
_NOTHING = ir.Batch(())
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_BLANK = b"\n\n"
_DELTAS = {
    f"event: {name}".encode(): (f"event: {name}\ndata: ".encode(), handler) for name, handler in DELTA_HANDLERS.items()
}
"""The first lines of frames, with their beginnings and their handlers."""
_BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
ENDINGS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.cancelled": "cancelled",
    "response.failed": "failed",
}
"""The events that end a stream, and the status that each one means."""
_ENDED = frozenset(ENDINGS.values())
_EXTRA_FIELDS = ("input_transformations", "tool_usage", "moderation", "prompt_cache_diagnostics")
"""The fields of a complete response that only this protocol has."""


def status_of(kind: str, answer: Any) -> str:
    """Return the final status of a response; derive it from the last event if the response has none."""
    return answer.status if answer.status in _ENDED else ENDINGS[kind]


def started(answer: Any, upstream: Upstream, nonce: str = "") -> ir.Started:
    """Return the first event, from the first response object (or the fields that passthrough reads of it)."""
    return ir.Started(
        answer.id or derived("resp_", upstream.model, str(answer.created_at), nonce),
        upstream.client_model,
        dated(answer.created_at),
        None,
        TIER_IN.get(answer.service_tier) if answer.service_tier else None,
        ir.EMPTY,
        nonce,
    )


class ResponsesStreamDecoder(StreamDecoder):
    """The decoder of one stream."""

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._upstream = upstream
        self._nonce = upstream_request.nonce
        self._joiner: SurrogateJoiner | None = None
        self._reader = OutputReader(ItemDecoder(upstream_request, upstream))
        self._splitter = FrameSplitter(max_event=upstream.max_event, is_crowded=_IS_CROWDED)
        self._complete = self._splitter.complete
        self._started = False
        self._over = False

    @override
    def feed(self, data: bytes) -> ir.Batch:
        if self._over:
            return _NOTHING
        try:
            block = self._complete(data)
        except EventTooLarge as error:
            return self._failed([], UpstreamProtocolError(f"The upstream sent {error}."))
        if not block:
            return _NOTHING
        known = _DELTAS.get(block[: block.find(b"\n")]) if self._started else None
        if known is not None:
            head, handler = known
            lines = only_named(block, head)
            if lines is not None:
                return self._deltas(lines, handler)
        return self._read(decode(block))

    @override
    def close(self) -> ir.Batch:
        if self._over:
            return _NOTHING
        tail = self._splitter.tail
        batch = self._read(decode(tail + _BLANK)) if tail else _NOTHING
        if self._over:
            return batch
        return self._failed(
            list(batch.events), UpstreamProtocolError("The upstream's stream ended without its end sign.")
        )

    def decode_whole(self, answer: Answer) -> list[ir.StreamEvent]:
        """Decode a complete response into events."""
        events: list[ir.StreamEvent] = []
        self._start(answer, events)
        self._end(answer, answer.status or "completed", events)
        return events

    def _deltas(self, lines: Sequence[bytes], handler: DeltaHandler) -> ir.Batch:
        """Decode the usual read: deltas of one type, each on one line after its event name."""
        events: list[ir.StreamEvent] = []
        reader = self._reader
        try:
            for line in lines:
                try:
                    event = DELTA_EVENT.decode(line)
                except _UNREADABLE:
                    event = self._marked(DELTA_EVENT, line)
                handler(reader, event, events)
        except _UNREADABLE:
            return self._failed(events, UpstreamProtocolError("The upstream sent an event that cannot be read."))
        except BrokenStream as broken:
            return self._failed(events, UpstreamProtocolError(str(broken)))
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def _marked(self, decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
        """Decode an event that contains half of a surrogate pair."""
        event = decode_marked(decoder, data)
        self._joiner = self._joiner or SurrogateJoiner()
        return event

    def _read(self, frames: Sequence[Frame]) -> ir.Batch:
        events: list[ir.StreamEvent] = []
        try:
            for frame in frames:
                if frame.event == "error":
                    found = read_loosely(frame.data)
                    self._failed(events, decode_error_object(found, protocol=PROTOCOL))
                    break
                event = self._decoded(frame)
                if event is None:
                    continue
                self._event(event, frame, events)
                if self._over:
                    break
        except _UNREADABLE:
            return self._failed(events, UpstreamProtocolError("The upstream sent an event that cannot be read."))
        except BrokenStream as broken:
            return self._failed(events, UpstreamProtocolError(str(broken)))
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def _decoded(self, frame: Frame) -> Event | None:
        """Decode a frame; return None for padding and for `[DONE]`."""
        data = frame.data if frame.data[:1] == b"{" else frame.data.strip()
        if not data or data == b"[DONE]":
            return None
        try:
            return EVENT.decode(data)
        except _UNREADABLE:
            return self._marked(EVENT, data)

    def _failed(self, events: list[ir.StreamEvent], error: GatewayError) -> ir.Batch:
        self._over = True
        events.append(ir.Failed(error))
        return ir.Batch(events)

    def _event(self, event: Event, frame: Frame, events: list[ir.StreamEvent]) -> None:
        kind = event.type or frame.event
        if kind in _BEGINNINGS:
            self._start(_answer(event), events)
        elif kind in ENDINGS:
            answer = _answer(event)
            self._end(answer, status_of(kind, answer), events)
        elif kind == "error" or (kind is None and event.error):
            self._failed(events, decode_error_object(read_loosely(frame.data), protocol=PROTOCOL))
        elif (kind is None or names_problem(kind)) and (error := error_in(frame.data, protocol=PROTOCOL)) is not None:
            self._failed(events, error)
        elif kind is not None:
            if not self._started:
                self._start(Answer(), events)
            if not self._reader.feed(kind, event, events):
                events.append(ir.Passed(PROTOCOL, kind, frame.data))

    def _start(self, answer: Answer, events: list[ir.StreamEvent]) -> None:
        if not self._started:
            self._started = True
            events.append(started(answer, self._upstream, self._nonce))

    def _end(self, answer: Answer, status: str, events: list[ir.StreamEvent]) -> None:
        self._start(answer, events)
        reader = self._reader
        usage = decode_usage(answer.usage, answer.tool_usage)
        if status == "failed" or (answer.error and status != "completed"):
            if usage is not None:
                events.append(ir.UsageReported(usage))
            self._failed(events, decode_error_object(answer.error or {}, protocol=PROTOCOL))
            return
        reader.finish(answer.output or (), events)
        why = answer.incomplete_details.reason if answer.incomplete_details else None
        events.append(ir.Finished(0, decode_finish(status, why, called=reader.called, refused=reader.refused)))
        if usage is not None:
            events.append(ir.UsageReported(usage))
        events.append(ir.Ended(TIER_IN.get(answer.service_tier) if answer.service_tier else None))
        self._over = True


def answer_extras(body: bytes) -> ir.Extras:
    """Return the fields of a complete response that only this protocol has."""
    try:
        found = split_object(body)
        kept = {key: value for key in _EXTRA_FIELDS if key in found and (value := msgspec.json.decode(found[key]))}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # a number out of range
        return ir.EMPTY
    return {PROTOCOL: kept} if kept else ir.EMPTY


def _answer(event: Event) -> Answer:
    """Decode the response object of a lifecycle event."""
    data = bytes(event.response)
    return Answer() if data in {b"", b"null"} else ANSWER.decode(data)
