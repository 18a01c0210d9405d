"""Scan a passed-through Responses stream for its model, usage, errors and end.

Content is not decoded. The expressions match in the events that end a stream, in possible errors, and in the ends of
items: a stream has about three such frames, and one for each item. The items are kept unchanged: a stream that breaks
off ends with an event that contains the response so far.
"""

import re
from collections.abc import Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamRateLimited, UpstreamRefused
from llmproxy_asgi.translators.base import ErrorT, Upstream
from llmproxy_asgi.translators.openai.errors import FAILED_EVENT, decode_error_object, error_in
from llmproxy_asgi.translators.openai_responses.mappings import (
    MANY_IN_EVENTS,
    PROTOCOL,
    TIER_IN,
    decode_finish,
    decode_usage,
)
from llmproxy_asgi.translators.openai_responses.response_decoder import CALLS
from llmproxy_asgi.translators.openai_responses.response_encoder import failure_object
from llmproxy_asgi.translators.openai_responses.schema import ITEM_DONE, PASSTHROUGH, PassthroughAnswer
from llmproxy_asgi.translators.openai_responses.stream_decoder import ENDINGS, started, status_of
from llmproxy_asgi.translators.passthrough import Inspection, Scan
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.sse import Frame

_NOTHING = Inspection()
_DONE = b"[DONE]"
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})')


class ResponsesScan(Scan):
    """The scan of one stream."""

    # Quotes in texts are escaped, so the same words in a text do not match.
    pattern = (
        re.compile(rb'"response\.(?:completed|incomplete|failed|cancelled|output_item\.done)"'),
        re.compile(rb'error["\r\n]'),
        re.compile(rb"\[DONE\]"),
    )
    model_path = ("response", "model")
    many = MANY_IN_EVENTS

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._ended = False
        self._first = b""
        self._items: dict[int, msgspec.Raw] = {}
        # The last event contains all items, so more bytes than one event may have are not kept.
        self._bytes_left = upstream.max_event

    @override
    def first(self, frame: Frame) -> Sequence[ir.StreamEvent]:
        data = frame.data.strip()
        if not data or data == _DONE:
            return ()
        event = decode_replaced(PASSTHROUGH, data)
        if event.response is None:
            unknown_type = not event.type or names_problem(event.type)
            error = error_in(data, protocol=PROTOCOL) if unknown_type else None
            return (ir.Failed(error),) if error is not None else ()
        self._first = data
        return (started(event.response, self._upstream),)

    @override
    def inspect(self, frame: Frame) -> Inspection:
        data = frame.data.strip()
        if not data or data == _DONE:
            return Inspection(drop=bool(data))
        if frame.event == "error":
            return Inspection((ir.Failed(decode_error_object(read_loosely(data), protocol=PROTOCOL)),))
        event = decode_replaced(PASSTHROUGH, data)
        kind = event.type or frame.event
        if kind == "response.output_item.done":
            done = decode_replaced(ITEM_DONE, data)
            self._bytes_left -= len(data)
            if self._bytes_left >= 0:
                self._items[len(self._items) if done.output_index is None else done.output_index] = done.item
            return _NOTHING
        if kind == "error" or (kind is None and event.error):
            return Inspection((ir.Failed(decode_error_object(read_loosely(data), protocol=PROTOCOL)),))
        if kind not in ENDINGS:
            return _NOTHING
        answer = event.response or PassthroughAnswer()
        status = status_of(kind, answer)
        if status == "failed":
            usage = decode_usage(answer.usage, answer.tool_usage)
            reported = () if usage is None else (ir.UsageReported(usage),)
            return Inspection((*reported, ir.Failed(_failure(answer, data))))
        self._ended = True
        return Inspection(tuple(_ending(answer, status)))

    @override
    def stray_error(self, data: bytes) -> GatewayError | None:
        return error_in(data, protocol=PROTOCOL)

    @override
    def ended(self) -> bool:
        return self._ended

    @override
    def broke(self, error: ErrorT, last: bytes) -> ErrorT:
        if error.native and FAILED_EVENT in error.native:
            return error
        numbers = _NUMBER.findall(last)
        answer = {
            **_read(self._first).get("response", {}),
            "status": "failed",
            "error": failure_object(error),
            "output": [item for _, each in sorted(self._items.items()) if (item := _read(each))],
        }
        event = {"response": answer, "sequence_number": int(numbers[-1]) + 1 if numbers else 0}
        error.native = {**(error.native or {}), FAILED_EVENT: event}
        return error


def _read(found: bytes | msgspec.Raw) -> JSONObject:
    """Decode a passed-through object; return an empty one if it is unreadable."""
    try:
        return msgspec.json.decode(found, type=JSONObject)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _ending(answer: PassthroughAnswer, status: str) -> list[ir.StreamEvent]:
    called = any(item.type in CALLS for item in answer.output or ())
    why = answer.incomplete_details.reason if answer.incomplete_details else None
    events: list[ir.StreamEvent] = [ir.Finished(0, decode_finish(status, why, called=called))]
    usage = decode_usage(answer.usage, answer.tool_usage)
    if usage is not None:
        events.append(ir.UsageReported(usage))
    events.append(ir.Ended(TIER_IN.get(answer.service_tier) if answer.service_tier else None))
    return events


def _failure(answer: PassthroughAnswer, data: bytes) -> UpstreamError:
    """Decode a failure with its original event; replace an error that is not about the request."""
    error = decode_error_object(answer.error or {}, protocol=PROTOCOL)
    event = read_loosely(data)
    if not isinstance(error, UpstreamRefused | UpstreamRateLimited):
        event["response"] = {**(event.get("response") or {}), "error": failure_object(error)}
    error.native = {**(error.native or {}), FAILED_EVENT: event}
    return error
