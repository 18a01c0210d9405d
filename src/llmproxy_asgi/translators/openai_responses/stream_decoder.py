"""Decode an upstream's stream of Responses events.

It tolerates deviations of compatible servers: items without `added` or `done`, one `output_index` for all items,
missing indexes, text in `done` only, all content in the last event. A stream that breaks the protocol ends with
`Failed`; nothing is raised.

The stream ends with `response.completed`, `.incomplete` or `.failed`; `[DONE]` is ignored.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.events import CandidateBuilder
from llmproxy_asgi.translators.codec.sse import UNREADABLE, JSONEventDecoder
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
from llmproxy_asgi.translators.openai_responses.readers import DELTA_HANDLERS, DeltaHandler, OutputReader
from llmproxy_asgi.translators.openai_responses.schema import ANSWER, DELTA_EVENT, EVENT, Answer, Event
from llmproxy_asgi.translators.raw_json import split_object
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.wire.sse import only_named

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


class ResponsesStreamDecoder(JSONEventDecoder[CandidateBuilder]):
    """The decoder of one response."""

    candidate: ClassVar[type[CandidateBuilder]] = CandidateBuilder
    many = MANY_IN_EVENTS
    error = staticmethod(partial(decode_error_object, protocol=PROTOCOL))
    find_error = staticmethod(partial(error_in, protocol=PROTOCOL))

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        super().__init__(upstream_request, upstream)
        self._output = self._events.candidate(0)
        self._started = False
        self._reader = OutputReader(self._output, upstream)

    def decode_whole(self, answer: Answer) -> list[ir.StreamEvent]:
        """Decode a complete response into events."""
        self._start(answer)
        self._end(answer, answer.status or "completed")
        return self._events.take()

    @override
    def block(self, block: bytes) -> None:
        known = _DELTAS.get(block[: block.find(b"\n")]) if self._started else None
        if known is not None:
            head, handler = known
            lines = only_named(block, head)
            if lines is not None:
                self._deltas(lines, handler)
                return
        super().block(block)

    def _deltas(self, lines: Sequence[bytes], handler: DeltaHandler) -> None:
        """Decode the usual read: deltas of one type, each on one line after its event name."""
        reader = self._reader
        for line in lines:
            try:
                event = DELTA_EVENT.decode(line)
            except UNREADABLE:
                event = self.repaired(DELTA_EVENT, line)
            handler(reader, event)

    @override
    def event(self, name: str | None, data: bytes) -> None:
        event = self.decode(EVENT, data)
        kind = event.type or name
        if kind in _BEGINNINGS:
            self._start(_answer(event))
        elif kind in ENDINGS:
            answer = _answer(event)
            self._end(answer, status_of(kind, answer))
        elif kind == "error" or (kind is None and event.error):
            self._events.fail(self.error(read_loosely(data)))
        elif (kind is None or names_problem(kind)) and (error := self.find_error(data)) is not None:
            self._events.fail(error)
        elif kind is not None:
            self._start(Answer())
            if not self._reader.feed(kind, event):
                self._events.passed(PROTOCOL, kind, data)

    def _start(self, answer: Answer) -> None:
        if not self._started:
            self._started = True
            self._events.emit(started(answer, self._upstream, self._upstream_request.nonce))

    def _end(self, answer: Answer, status: str) -> None:
        self._start(answer)
        usage = decode_usage(answer.usage, answer.tool_usage)
        if status == "failed" or (answer.error and status != "completed"):
            self._events.usage(usage)
            self._events.fail(self.error(answer.error or {}))
            return
        self._reader.finish(answer.output or ())
        why = answer.incomplete_details.reason if answer.incomplete_details else None
        self._output.finish(decode_finish(status, why))
        self._events.end(usage, TIER_IN.get(answer.service_tier) if answer.service_tier else None)


def answer_extras(body: bytes) -> ir.Extras:
    """Return the fields of a complete response that only this protocol has."""
    try:
        found = split_object(body)
        kept = {key: value for key in _EXTRA_FIELDS if key in found and (value := msgspec.json.decode(found[key]))}
    except UNREADABLE:  # a number out of range
        return ir.EMPTY
    return {PROTOCOL: kept} if kept else ir.EMPTY


def _answer(event: Event) -> Answer:
    """Decode the response object of a lifecycle event."""
    data = bytes(event.response)
    return Answer() if data in {b"", b"null"} else ANSWER.decode(data)
