"""Find the start, usage, end and errors of a Messages stream whose bytes pass through."""

import re
from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamError
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.mappings import decode_finish
from llmproxy_asgi.translators.anthropic_messages.schema import EVENT, Event, Message
from llmproxy_asgi.translators.anthropic_messages.usage import bedrock_usage, decode_tier, decode_usage, merge_usage
from llmproxy_asgi.translators.passthrough import Inspection, Scan
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.sse import Frame

_NOTHING = Inspection()
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class MessagesScan(Scan):
    """The scan of one stream."""

    # The type within the JSON, and the key of an error; quotes in a text are escaped, so text can't match.
    pattern = (re.compile(rb'message_(?:delta|stop)"'), re.compile(rb'error["\r\n]'))
    model_path: ClassVar[tuple[str, ...]] = ("message", "model")
    model_repeats: ClassVar[bool] = False

    def __init__(self, client_model: str) -> None:
        self._client_model = client_model
        self._usage: JSONObject = {}
        self._finished = False
        self._stopped = False

    @override
    def first(self, frame: Frame) -> Sequence[ir.StreamEvent]:
        if frame.event == "error":
            return (ir.Failed(stream_error(read_loosely(frame.data))),)
        event = decode_replaced(EVENT, frame.data)
        if event.type != "message_start":
            error = _error(event, frame.data)
            return (ir.Failed(error),) if error is not None else ()
        message = event.message or Message()
        self._usage = merge_usage({}, message.usage)
        usage = decode_usage(self._usage) if self._usage else None
        return (ir.Started(message.id or "", self._client_model, ir.UNDATED, usage, decode_tier(self._usage)),)

    @override
    def inspect(self, frame: Frame) -> Inspection:
        if frame.event == "error":
            return Inspection((ir.Failed(stream_error(read_loosely(frame.data))),))
        event = decode_replaced(EVENT, frame.data)
        if (error := _error(event, frame.data)) is not None:
            return Inspection((ir.Failed(error),))
        match event.type:
            case "message_delta":
                return Inspection(self._delta(event))
            case "message_stop":
                self._stopped = True
                usage = event.usage or bedrock_usage(event.metrics)
                self._usage = merge_usage(self._usage, usage)
                usage_events = (ir.UsageReported(decode_usage(self._usage)),) if usage else ()
                return Inspection((*usage_events, ir.Ended(decode_tier(self._usage))))
            case _:
                return _NOTHING

    def _delta(self, event: Event) -> Sequence[ir.StreamEvent]:
        events: list[ir.StreamEvent] = []
        delta = event.delta
        if delta is not None and delta.stop_reason and not self._finished:
            self._finished = True
            events.append(ir.Finished(0, decode_finish(delta.stop_reason, delta.stop_sequence, delta.stop_details)))
        if event.usage:
            self._usage = merge_usage(self._usage, event.usage)
            events.append(ir.UsageReported(decode_usage(self._usage)))
        return events

    @override
    def stray_error(self, data: bytes) -> GatewayError | None:
        return error_in(data)

    @override
    def ended(self) -> bool:
        return self._finished or self._stopped

    @override
    def end_sign(self) -> bytes:
        return _STOP


def _error(event: Event, data: bytes) -> UpstreamError | None:
    if event.type not in {None, "error"} and not names_problem(event.type):
        return None
    if type(event.error) is dict and event.error:
        return stream_error(event.error)
    return error_in(data) or (stream_error({}) if event.type == "error" else None)
