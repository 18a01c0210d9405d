"""Where caller and upstream both speak generateContent: what a relay must see, and streams that must be framed anew.

Usage stands in nearly every chunk and counts in the last one, which is the one that tells why it ended; so the others
are not looked at. Google's own client reads nothing but `data: ` lines and blank ones: what an upstream frames in
another way (event names, no space behind the colon, a JSON array) is framed anew, as is everything for a caller who
wants an array.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    Batch,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    Started,
    StreamEvent,
    UsageReported,
)
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import Intake, StreamDecoder, Upstream
from llmproxy_asgi.translators.gemini.errors import error_in
from llmproxy_asgi.translators.gemini.framing import ArrayIntake, ChunkFrames, end, frame, is_blank
from llmproxy_asgi.translators.gemini.grounding import searches
from llmproxy_asgi.translators.gemini.mappings import FINISH_IN, LOST_SIGNATURE, UNSPECIFIED, decode_usage
from llmproxy_asgi.translators.gemini.proto import Proto
from llmproxy_asgi.translators.gemini.schema import CHUNK, Chunk, usage_object
from llmproxy_asgi.translators.gemini.stream_decoder import CUT, lost_signature, moment
from llmproxy_asgi.translators.raw_json import replace_model, split_object
from llmproxy_asgi.translators.relay import Inspection, Relay, Scan
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.json_stream import ArrayEncoder
from llmproxy_asgi.wire.sse import Frame, decode
from llmproxy_asgi.wire.surrogates import replace_halves

_NOTHING = Batch((), b"")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_LINE = b"data: "
_COMMENTS = re.compile(rb"\A(?:[\r\n]|:[^\r\n]*[\r\n])*")
_NAME = b'"modelVersion"'


class ChunkScan(Scan):
    """The eyes for one stream.

    Args:
        upstream: Where it comes from.
        candidates: How many answers were asked for.
    """

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
    def first(self, frame: Frame) -> Sequence[StreamEvent]:
        if is_blank(frame.data):
            return ()
        chunk = decode_replaced(CHUNK, frame.data)
        if (chunk.error is not None or not chunk.candidates) and (error := error_in(frame.data)) is not None:
            return (Failed(error),)
        told = usage_object(chunk.usage_metadata)
        usage = decode_usage(told) if told else None
        return (Started(chunk.response_id or "", self._upstream.asked, moment(chunk.create_time), usage),)

    @override
    def inspect(self, frame: Frame) -> Inspection:
        if is_blank(frame.data):
            return Inspection(drop=True)  # Google has no such end sign, and its client breaks at it
        chunk = decode_replaced(CHUNK, frame.data)
        if (chunk.error is not None or not chunk.candidates) and (error := error_in(frame.data)) is not None:
            return Inspection((Failed(error),))
        events = self._finishes(chunk)
        told = usage_object(chunk.usage_metadata)
        if told:
            self._counted = True
            found = max((searches(each.grounding_metadata) for each in chunk.candidates or ()), default=0)
            events.append(UsageReported(decode_usage(told, found)))
        return Inspection(events)

    def _finishes(self, chunk: Chunk) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for candidate in chunk.candidates or ():
            number, word = candidate.index or 0, candidate.finish_reason
            if word == LOST_SIGNATURE:
                raise lost_signature()
            if word and word.strip() and word != UNSPECIFIED and number not in self._finished:
                self._finished.add(number)
                reason = FINISH_IN.get(word, FinishReason.UNKNOWN)
                events.append(Finished(number, Finish(reason=reason, native=word, message=candidate.finish_message)))
        word = (chunk.prompt_feedback or {}).get("blockReason")
        if word and not chunk.candidates and not self._blocked:
            self._blocked = True
            events.append(Finished(0, Finish(reason=FinishReason.CONTENT_FILTER, native=str(word))))
        return events

    @override
    def ended(self) -> bool:
        return self._blocked or len(self._finished) >= self._candidates

    @override
    def late_usage(self, last: bytes) -> Sequence[StreamEvent]:
        if self._counted:
            return ()
        for found in reversed(decode(last)):
            try:
                told = usage_object(decode_replaced(CHUNK, found.data).usage_metadata)
            except _UNREADABLE:
                continue
            if told:
                return (UsageReported(decode_usage(told)),)
        return ()

    @override
    def stray_error(self, data: bytes) -> GatewayError | None:
        return error_in(data)

    @override
    def close_error(self) -> GatewayError:
        return UpstreamProtocolError(CUT)


class ChunkRelay(StreamDecoder):
    """Relays one stream, by scanning where both framings are the same and by framing it anew elsewhere."""

    def __init__(self, intake: Intake, upstream: Upstream) -> None:
        self._intake = intake
        self._upstream = upstream
        self._inner: StreamDecoder | None = None
        self._held = b""
        if isinstance(intake, ArrayIntake):
            self._inner = self._reframed()

    @override
    def feed(self, data: bytes) -> Batch:
        if self._inner is None:
            self._held += data
            begin = _COMMENTS.sub(b"", self._held)
            if begin[:1] in b":" or (len(begin) < len(_LINE) and _LINE.startswith(begin)):
                self._held = begin
                if len(begin) <= self._upstream.max_event:
                    return _NOTHING  # not a line yet
            self._inner = self._reframed() if begin[:1] != b":" and not begin.startswith(_LINE) else self._scanned()
            data, self._held = self._held, b""
        return self._inner.feed(data)

    @override
    def close(self) -> Batch:
        if self._inner is None:
            self._inner = self._scanned()
            begun = self._inner.feed(self._held)
            ended = self._inner.close()
            return Batch((*begun.events, *ended.events), (begun.raw or b"") + (ended.raw or b""))
        return self._inner.close()

    def _scan(self) -> ChunkScan:
        return ChunkScan(self._upstream, candidates=_candidates(self._intake))

    def _scanned(self) -> StreamDecoder:
        return Relay(self._scan(), asked=self._upstream.asked, max_event=self._upstream.max_event)

    def _reframed(self) -> StreamDecoder:
        return _Reframed(self._intake, self._upstream, self._scan())


class _Reframed(StreamDecoder):
    """Every chunk taken out of its frame and put into the caller's, its bytes kept but for the model's name."""

    def __init__(self, intake: Intake, upstream: Upstream, scan: ChunkScan) -> None:
        self._intake = intake
        self._asked = upstream.asked
        self._scan = scan
        self._frames = ChunkFrames(upstream.max_event)
        self._started = False
        self._over = False
        self._written = False
        if isinstance(intake, ArrayIntake):
            msgspec.structs.force_setattr(intake, "array", ArrayEncoder())  # whatever an earlier try began

    @override
    def feed(self, data: bytes) -> Batch:
        return self._read(data)

    @override
    def close(self) -> Batch:
        return self._read(None)

    def _read(self, data: bytes | None) -> Batch:
        """Take a read; None: the last one was."""
        if self._over:
            return _NOTHING
        events: list[StreamEvent] = []
        chunks: list[bytes] = []
        try:
            for chunk in self._frames.close() if data is None else self._frames.feed(data):
                self._take(chunk, events)
                chunks.append(self._renamed(chunk))
            if data is None:
                if not (self._started and self._scan.ended()):
                    raise self._scan.close_error()
                events.append(Ended())
        except GatewayError as error:
            events.append(Failed(error))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            events.append(Failed(UpstreamProtocolError("The upstream sent a chunk that cannot be read.")))
        self._over = bool(events) and isinstance(events[-1], Failed | Ended)
        if self._over and isinstance(events[-1], Failed) and not self._written:
            return Batch(events, b"")  # a try that failed as it began leaves nothing behind
        pieces = [frame(chunk, self._intake) for chunk in chunks]
        self._written |= bool(pieces)
        if data is None and isinstance(events[-1], Ended):
            pieces.append(end(self._intake))
        return Batch(events, b"".join(pieces))

    def _take(self, chunk: bytes, events: list[StreamEvent]) -> None:
        found = Frame(None, chunk, chunk)
        if isinstance(self._intake, ArrayIntake):
            # One chunk that cannot be read would make the whole array one.
            split_object(replace_halves(chunk) or chunk.decode().encode())
        told: list[StreamEvent] = []
        if not self._started:
            told += self._scan.first(found)
            self._started = any(isinstance(event, Started) for event in told)
        if any(pattern.search(chunk) for pattern in self._scan.pattern):
            told += self._scan.inspect(found).events
        for event in told:
            if isinstance(event, Failed):
                raise event.error
            events.append(event)

    def _renamed(self, chunk: bytes) -> bytes:
        return with_name(chunk, self._asked)


def with_name(chunk: bytes, asked: str) -> bytes:
    """An answer with the model's name as the caller said it, where it says one."""
    return replace_model(chunk, asked, key="modelVersion", add=False) if _NAME in chunk else chunk


def _candidates(intake: Intake) -> int:
    options = Proto.of_body(intake.raw, "generationConfig")
    count = options.get("candidateCount") if options else None
    return max(1, count.integer()) if count else 1
