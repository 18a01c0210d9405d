"""Pass streams through where caller and upstream both use generateContent: scan their bytes, reframe if needed.

Nearly every chunk has usage, but only the last one's matters, which also has the finish reason; so the others are not
decoded. Google's own client reads only `data: ` lines and blank lines: a stream that an upstream frames in another way
(event names, no space after the colon, a JSON array) is reframed, and so is every stream for a caller that wants an
array.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import InboundRequest, StreamDecoder, Upstream
from llmproxy_asgi.translators.gemini.errors import error_in
from llmproxy_asgi.translators.gemini.framing import (
    MANY,
    ArrayInboundRequest,
    ChunkSplitter,
    encode_end,
    encode_frame,
    is_filler,
)
from llmproxy_asgi.translators.gemini.grounding import count_searches
from llmproxy_asgi.translators.gemini.mappings import FINISH_IN, MISSING_SIGNATURE, UNSPECIFIED, decode_usage
from llmproxy_asgi.translators.gemini.proto import ProtoNode
from llmproxy_asgi.translators.gemini.schema import CHUNK, Chunk, usage_object
from llmproxy_asgi.translators.gemini.stream_decoder import NO_FINISH_REASON, decode_timestamp, missing_signature_error
from llmproxy_asgi.translators.passthrough import Inspection, PassthroughDecoder, Scan
from llmproxy_asgi.translators.raw_json import replace_model, split_object
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.json_stream import ArrayEncoder
from llmproxy_asgi.wire.sse import Frame, decode
from llmproxy_asgi.wire.surrogates import replace_halves

_NOTHING = ir.Batch((), b"")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_DATA_LINE = b"data: "
_COMMENTS = re.compile(rb"\A(?:[\r\n]|:[^\r\n]*[\r\n])*")
_MODEL_KEY = b'"modelVersion"'


class GeminiScan(Scan):
    """The scan of one stream.

    Args:
        upstream: The stream's upstream.
        candidates: The number of requested candidates.
    """

    many = (MANY,)
    pattern: ClassVar[tuple[re.Pattern[bytes], ...]] = (
        re.compile(rb'"finishReason"\s*:\s*"'),
        re.compile(rb'error(?:"\s*:\s*[^n\s]|[\r\n])'),
        re.compile(rb'"blockReason"\s*:\s*"'),
        re.compile(rb'\{\s*"usageMetadata"'),
        re.compile(rb"\[DONE\]"),
    )
    model_path: ClassVar[tuple[str, ...]] = ("modelVersion",)

    def __init__(self, upstream: Upstream, *, candidates: int = 1) -> None:
        self._upstream = upstream
        self._candidates = candidates
        self._finished: set[int] = set()
        self._blocked = False
        self._counted = False

    @override
    def first(self, frame: Frame) -> Sequence[ir.StreamEvent]:
        if is_filler(frame.data):
            return ()
        chunk = decode_replaced(CHUNK, frame.data)
        if (chunk.error is not None or not chunk.candidates) and (error := error_in(frame.data)) is not None:
            return (ir.Failed(error),)
        native_usage = usage_object(chunk.usage_metadata)
        usage = decode_usage(native_usage) if native_usage else None
        return (
            ir.Started(
                chunk.response_id or "", self._upstream.client_model, decode_timestamp(chunk.create_time), usage
            ),
        )

    @override
    def inspect(self, frame: Frame) -> Inspection:
        if is_filler(frame.data):
            return Inspection(drop=True)  # Google has no such end marker, and its client fails on it
        chunk = decode_replaced(CHUNK, frame.data)
        if (chunk.error is not None or not chunk.candidates) and (error := error_in(frame.data)) is not None:
            return Inspection((ir.Failed(error),))
        events = self._finishes(chunk)
        native_usage = usage_object(chunk.usage_metadata)
        if native_usage:
            self._counted = True
            searches_run = max((count_searches(each.grounding_metadata) for each in chunk.candidates or ()), default=0)
            events.append(ir.UsageReported(decode_usage(native_usage, searches_run)))
        return Inspection(events)

    def _finishes(self, chunk: Chunk) -> list[ir.StreamEvent]:
        events: list[ir.StreamEvent] = []
        for candidate in chunk.candidates or ():
            number, native = candidate.index or 0, candidate.finish_reason
            if native == MISSING_SIGNATURE:
                raise missing_signature_error()
            if native and native.strip() and native != UNSPECIFIED and number not in self._finished:
                self._finished.add(number)
                reason = FINISH_IN.get(native, ir.FinishReason.UNKNOWN)
                events.append(
                    ir.Finished(number, ir.Finish(reason=reason, native=native, message=candidate.finish_message))
                )
        native = (chunk.prompt_feedback or {}).get("blockReason")
        if native and not chunk.candidates and not self._blocked:
            self._blocked = True
            events.append(ir.Finished(0, ir.Finish(reason=ir.FinishReason.CONTENT_FILTER, native=str(native))))
        return events

    @override
    def ended(self) -> bool:
        return self._blocked or len(self._finished) >= self._candidates

    @override
    def late_usage(self, last: bytes) -> Sequence[ir.StreamEvent]:
        if self._counted:
            return ()
        for frame in reversed(decode(last)):
            try:
                native_usage = usage_object(decode_replaced(CHUNK, frame.data).usage_metadata)
            except _UNREADABLE:
                continue
            if native_usage:
                return (ir.UsageReported(decode_usage(native_usage)),)
        return ()

    @override
    def stray_error(self, data: bytes) -> GatewayError | None:
        return error_in(data)

    @override
    def close_error(self) -> GatewayError:
        return UpstreamProtocolError(NO_FINISH_REASON)


class GeminiPassthrough(StreamDecoder):
    """The passthrough of one stream: scans it if both framings are the same, else reframes it."""

    def __init__(self, inbound_request: InboundRequest, upstream: Upstream) -> None:
        self._inbound_request = inbound_request
        self._upstream = upstream
        self._inner: StreamDecoder | None = None
        self._held = b""
        if isinstance(inbound_request, ArrayInboundRequest):
            self._inner = self._reframing()

    @override
    def feed(self, data: bytes) -> ir.Batch:
        if self._inner is None:
            self._held += data
            head = _COMMENTS.sub(b"", self._held)
            if head[:1] in b":" or (len(head) < len(_DATA_LINE) and _DATA_LINE.startswith(head)):
                self._held = head
                if len(head) <= self._upstream.max_event:
                    return _NOTHING  # the line is incomplete
            self._inner = (
                self._reframing() if head[:1] != b":" and not head.startswith(_DATA_LINE) else self._scanning()
            )
            data, self._held = self._held, b""
        return self._inner.feed(data)

    @override
    def close(self) -> ir.Batch:
        if self._inner is None:
            self._inner = self._scanning()
            first_batch = self._inner.feed(self._held)
            ended = self._inner.close()
            return ir.Batch((*first_batch.events, *ended.events), (first_batch.raw or b"") + (ended.raw or b""))
        return self._inner.close()

    def _scan(self) -> GeminiScan:
        return GeminiScan(self._upstream, candidates=_candidates(self._inbound_request))

    def _scanning(self) -> StreamDecoder:
        return PassthroughDecoder(
            self._scan(), client_model=self._upstream.client_model, max_event=self._upstream.max_event
        )

    def _reframing(self) -> StreamDecoder:
        return _ReframingPassthrough(self._inbound_request, self._upstream, self._scan())


class _ReframingPassthrough(StreamDecoder):
    """The passthrough that reframes every chunk; only the model's name in its bytes changes."""

    def __init__(self, inbound_request: InboundRequest, upstream: Upstream, scan: GeminiScan) -> None:
        self._inbound_request = inbound_request
        self._client_model = upstream.client_model
        self._scan = scan
        self._frames = ChunkSplitter(upstream.max_event)
        self._started = False
        self._finished = False
        self._written = False
        if isinstance(inbound_request, ArrayInboundRequest):
            msgspec.structs.force_setattr(
                inbound_request, "array", ArrayEncoder()
            )  # discards an earlier attempt's array

    @override
    def feed(self, data: bytes) -> ir.Batch:
        return self._read(data)

    @override
    def close(self) -> ir.Batch:
        return self._read(None)

    def _read(self, data: bytes | None) -> ir.Batch:
        """Decode a read; None ends the stream."""
        if self._finished:
            return _NOTHING
        events: list[ir.StreamEvent] = []
        chunks: list[bytes] = []
        try:
            for chunk in self._frames.close() if data is None else self._frames.feed(data):
                self._scan_chunk(chunk, events)
                chunks.append(self._with_client_model(chunk))
            if data is None:
                if not (self._started and self._scan.ended()):
                    raise self._scan.close_error()
                events.append(ir.Ended())
        except GatewayError as error:
            events.append(ir.Failed(error))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            events.append(ir.Failed(UpstreamProtocolError("The upstream sent a chunk that cannot be read.")))
        self._finished = bool(events) and isinstance(events[-1], ir.Failed | ir.Ended)
        if self._finished and isinstance(events[-1], ir.Failed) and not self._written:
            return ir.Batch(events, b"")  # an attempt that fails at its start writes nothing
        pieces = [encode_frame(chunk, self._inbound_request) for chunk in chunks]
        self._written |= bool(pieces)
        if data is None and isinstance(events[-1], ir.Ended):
            pieces.append(encode_end(self._inbound_request))
        return ir.Batch(events, b"".join(pieces))

    def _scan_chunk(self, chunk: bytes, events: list[ir.StreamEvent]) -> None:
        frame = Frame(None, chunk, chunk)
        if isinstance(self._inbound_request, ArrayInboundRequest):
            # One invalid chunk would make the array invalid.
            split_object(replace_halves(chunk) or chunk.decode().encode())
        found_events: list[ir.StreamEvent] = []
        if not self._started:
            found_events += self._scan.first(frame)
            self._started = any(isinstance(event, ir.Started) for event in found_events)
        if any(pattern.search(chunk) for pattern in self._scan.pattern):
            found_events += self._scan.inspect(frame).events
        for event in found_events:
            if isinstance(event, ir.Failed):
                raise event.error
            events.append(event)

    def _with_client_model(self, chunk: bytes) -> bytes:
        return with_client_model(chunk, self._client_model)


def with_client_model(chunk: bytes, asked: str) -> bytes:
    """Replace the model's name in a response, if there is one, with the caller's."""
    return replace_model(chunk, asked, key="modelVersion", add=False) if _MODEL_KEY in chunk else chunk


def _candidates(inbound_request: InboundRequest) -> int:
    options = ProtoNode.of_body(inbound_request.raw, "generationConfig")
    count = options.get("candidateCount") if options else None
    return max(1, count.integer()) if count else 1
