"""Scan a passed-through stream of chunks for its start, usage, errors and end.

Content is not decoded. The expressions match finish reasons, usage and errors that are not null, and `[DONE]`; a
stream has about three such frames.
"""

import re
from collections.abc import Sequence

from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.openai.errors import decode_error_object, error_in
from llmproxy_asgi.translators.openai_chat.distinct_calls import BEGINS_CALL, DistinctCalls
from llmproxy_asgi.translators.openai_chat.mappings import FAILED, MANY, PROTOCOL, decode_finish, decode_usage, usage_of
from llmproxy_asgi.translators.openai_chat.schema import PASSTHROUGH, PassthroughChunk
from llmproxy_asgi.translators.openai_chat.stream_decoder import started
from llmproxy_asgi.translators.passthrough import Inspection, Scan
from llmproxy_asgi.translators.stray_errors import read_loosely
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.sse import Frame

_DONE = b"[DONE]"


class ChatScan(Scan):
    """The scan of one stream.

    Args:
        upstream: The upstream.
        keep_usage: Whether the caller requested the usage chunk; else it is removed.
        candidates: The requested number of candidates.
    """

    many = (MANY,)
    pattern = (
        # Without the keys' first quotes: an expression that begins with a rare letter matches faster.
        re.compile(rb'finish_reason"[ \t]*:[ \t]*"'),
        re.compile(rb'usage"[ \t]*:[ \t]*\{'),
        re.compile(rb'error(?:"[ \t]*:[ \t]*[^n \t]|[\r\n])'),
        re.compile(rb"\[DONE\]"),
        BEGINS_CALL,
    )

    def __init__(self, upstream: Upstream, *, keep_usage: bool, candidates: int) -> None:
        self._upstream = upstream
        self._keep_usage = keep_usage
        self._candidates = candidates
        self._finished: set[int] = set()
        self._done = False
        self._calls = DistinctCalls(upstream.client_model)

    @override
    def first(self, frame: Frame) -> Sequence[ir.StreamEvent]:
        data = frame.data.strip()
        if not data or data == _DONE:
            return ()
        chunk = decode_replaced(PASSTHROUGH, data)
        if (chunk.error or not chunk.choices) and (error := error_in(data, protocol=PROTOCOL)) is not None:
            return (ir.Failed(error),)
        return (started(chunk, self._upstream),)

    @override
    def inspect(self, frame: Frame) -> Inspection:
        data = frame.data.strip()
        if data == _DONE:
            self._done = True
            return Inspection((ir.Ended(),))
        if not data:
            return Inspection()
        if frame.event == "error":
            return Inspection((ir.Failed(decode_error_object(read_loosely(data), protocol=PROTOCOL)),))
        chunk = decode_replaced(PASSTHROUGH, data)
        if (chunk.error or not chunk.choices) and (error := error_in(data, protocol=PROTOCOL)) is not None:
            return Inspection((ir.Failed(error),))
        events = self._finishes(chunk)
        repaired = self._calls.take(data) if b'"tool_calls"' in data else None
        self.watching = self._calls.watching
        instead = None if repaired is None else b"data: " + repaired + b"\n\n"
        usage = decode_usage(usage_of(chunk))
        if usage is None:
            return Inspection(events, instead=instead)
        drop = not self._keep_usage and not chunk.choices
        return Inspection((*events, ir.UsageReported(usage)), drop, instead)

    def _finishes(self, chunk: PassthroughChunk) -> Sequence[ir.StreamEvent]:
        events: list[ir.StreamEvent] = []
        for choice in chunk.choices or ():
            index, word = choice.index or 0, choice.finish_reason
            if choice.error or word in FAILED:
                failure = choice.error or FAILED.get(word or "", {})
                return (ir.Failed(decode_error_object(failure, protocol=PROTOCOL)),)
            reason = decode_finish(word) if word else None
            if reason is not None and index not in self._finished:
                self._finished.add(index)
                events.append(ir.Finished(index, ir.Finish(reason=reason, native=word)))
        return events

    @override
    def ended(self) -> bool:
        # A server that ignores `n` sends [DONE] after one candidate.
        return len(self._finished) >= (1 if self._done else self._candidates)

    @override
    def end_sign(self) -> bytes:
        return b"" if self._done else b"data: [DONE]\n\n"

    @override
    def stray_error(self, data: bytes) -> GatewayError | None:
        return error_in(data, protocol=PROTOCOL)
