"""Streams of an upstream that speaks Messages, read into events.

Tolerant of what compatible servers do: blocks that are not ended or carry their content at the start, fields that are
null or left out, `message_stop` left out after a stop reason. What cannot be read ends the stream with `Failed`.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    EMPTY,
    UNDATED,
    ArgumentsDelta,
    Batch,
    CitationDelta,
    Ended,
    Failed,
    Finished,
    JSONObject,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Reasoning,
    ReasoningDelta,
    SealDelta,
    ServerToolCall,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    UsageReported,
)
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.response_decoder import (
    Blocks,
    arguments_of,
    decode_finish,
    is_known,
    server_call,
)
from llmproxy_asgi.translators.anthropic_messages.schema import (
    ABSENT,
    BLOCK,
    DELTA_EVENT,
    EVENT,
    PROTOCOL,
    Answer,
    Block,
    Delta,
    Event,
    Piece,
)
from llmproxy_asgi.translators.anthropic_messages.usage import bedrock_usage, decode_tier, decode_usage, newer
from llmproxy_asgi.translators.base import Outgoing, StreamDecoder, Upstream
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.translators.surrogates import SurrogateJoiner, decode_marked
from llmproxy_asgi.wire import sse

_NOTHING = Batch(events=())
_EMPTY = (b"", b"[DONE]")
"""What some compatible servers send between or after events."""
_SHORT = 10
_DELTA = "content_block_delta"
_ONLY_DELTAS = f"event: {_DELTA}\ndata: ".encode()
_BLANK = b"\n\n"


class _BrokenStream(Exception):
    """What came cannot follow what came before."""


_T = TypeVar("_T")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_BROKEN = (_BrokenStream, UpstreamError, *_UNREADABLE)


class EventStream(StreamDecoder):
    """Reads one stream."""

    def __init__(self, outgoing: Outgoing, upstream: Upstream) -> None:
        self._blocks = Blocks(outgoing, upstream)
        self._asked = upstream.asked
        self._splitter = sse.FrameSplitter(max_event=upstream.max_event)
        self._complete = self._splitter.complete
        self._started = False
        self._over = False
        self._parts = 0
        self._open: dict[int, _Open] = {}
        self._usage: JSONObject = {}
        self._ending = Delta()
        self._nonce = outgoing.nonce
        self._joiner: SurrogateJoiner | None = None

    @override
    def feed(self, data: bytes) -> Batch:
        if self._over:
            return _NOTHING
        try:
            block = self._complete(data)
        except sse.EventTooLarge as error:
            return self._failed([], UpstreamProtocolError(f"The upstream sent {error}."))
        if not block:
            return _NOTHING
        lines = sse.only_named(block, _ONLY_DELTAS)
        return self._read(sse.decode(block)) if lines is None else self._go_on(lines)

    @override
    def close(self) -> Batch:
        if self._over:
            return _NOTHING
        tail = self._splitter.tail
        batch = self._read(sse.decode(tail + _BLANK)) if tail else _NOTHING
        if self._over:
            return batch
        events = list(batch.events)
        if self._started and self._ending.stop_reason:
            self._end(events)
            return Batch(events)
        return self._failed(events, UpstreamProtocolError("The upstream's stream ended without its end sign."))

    def _failed(self, events: list[StreamEvent], error: GatewayError) -> Batch:
        self._over = True
        events.append(Failed(error))
        return Batch(events)

    def _go_on(self, lines: Sequence[bytes]) -> Batch:
        """What a read nearly always is: deltas of the block that is open, and nothing else."""
        events: list[StreamEvent] = []
        try:
            for data in lines:
                try:
                    event = DELTA_EVENT.decode(data)
                except _UNREADABLE:
                    event = self._marked(DELTA_EVENT, data)
                part, delta = self._open.get(event.index or 0), event.delta
                if part is None or delta is None or event.type != _DELTA:
                    self._event(self._marked(EVENT, data), _DELTA, data, events)
                    if self._over:
                        break
                elif not part.delta(delta, events):
                    events.append(Passed(PROTOCOL, _DELTA, data))
        except _BROKEN as error:
            return self._broken(error, events)
        return Batch(events if self._joiner is None else self._joiner.join(events))

    def _marked(self, decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
        """An event, also where a character in it was cut in two."""
        try:
            return decoder.decode(data)
        except _UNREADABLE:
            if (error := error_in(data)) is not None:
                raise error from None
            event = decode_marked(decoder, data)
        self._joiner = self._joiner or SurrogateJoiner()
        return event

    def _read(self, frames: Sequence[sse.Frame]) -> Batch:
        events: list[StreamEvent] = []
        try:
            for frame in frames:
                data = frame.data
                if len(data) < _SHORT and data.strip() in _EMPTY:
                    continue
                if frame.event == "error":
                    self._over = True
                    events.append(Failed(stream_error(read_loosely(data))))
                    break
                self._event(self._marked(EVENT, data), frame.event, data, events)
                if self._over:
                    break
        except _BROKEN as error:
            return self._broken(error, events)
        return Batch(events if self._joiner is None else self._joiner.join(events))

    def _broken(self, error: Exception, events: list[StreamEvent]) -> Batch:
        if isinstance(error, UpstreamError):
            return self._failed(events, error)
        unreadable = "The upstream sent an event that cannot be read."
        told = str(error) if isinstance(error, _BrokenStream) else unreadable
        return self._failed(events, UpstreamProtocolError(told))

    def _event(self, event: Event, name: str | None, data: bytes, events: list[StreamEvent]) -> None:
        if event.type != _DELTA:
            self._other(event, name, data, events)
            return
        part = self._open.get(event.index or 0)
        if part is None:
            raise _BrokenStream("The upstream continued a content block that is not open.")
        if event.delta is not None and not part.delta(event.delta, events):
            events.append(Passed(PROTOCOL, _DELTA, data))

    def _other(self, event: Event, name: str | None, data: bytes, events: list[StreamEvent]) -> None:
        match event.type:
            case "message_start":
                self._start(event.message or Answer(), events)
            case "content_block_start":
                self._block(event, events)
            case "content_block_stop":
                part = self._open.pop(event.index or 0, None)
                if part is not None:
                    part.end(events)
            case "message_delta":
                self._note(event)
            case "message_stop":
                self._note(event)
                self._end(events)
            case "ping":
                pass
            case "error" | None if (error := _error(event, data)) is not None:
                self._over = True
                events.append(Failed(error))
            case kind if names_problem(kind) and (error := error_in(data)) is not None:
                self._over = True
                events.append(Failed(error))
            case _:
                events.append(Passed(PROTOCOL, event.type or name, data))

    def _start(self, message: Answer, events: list[StreamEvent]) -> None:
        if self._started:
            return
        self._started = True
        self._usage = newer({}, message.usage)
        usage = decode_usage(self._usage) if self._usage else None
        tier = decode_tier(self._usage)
        events.append(Started(message.id or "", self._asked, UNDATED, usage, tier, EMPTY, self._nonce))
        for raw in message.content or ():  # an answer that came in one piece and was framed as a stream
            whole = _opened(self._parts, raw, self._blocks, events)
            self._parts += 1
            whole.end(events)

    def _block(self, event: Event, events: list[StreamEvent]) -> None:
        if not self._started:
            raise _BrokenStream("The upstream's stream did not begin with message_start.")
        index = event.index or 0
        if event.content_block is ABSENT:
            raise _BrokenStream("The upstream began a content block that is none.")
        before = self._open.pop(index, None)
        if before is not None:  # as the vendor's client reads it: another block
            before.end(events)
        self._open[index] = _opened(self._parts, event.content_block, self._blocks, events)
        self._parts += 1

    def _note(self, event: Event) -> None:
        self._usage = newer(self._usage, event.usage or bedrock_usage(event.metrics))
        delta = event.delta
        if delta is None or not delta.stop_reason:
            return
        if is_known(delta.stop_reason) or not is_known(self._ending.stop_reason):  # the last word that is known counts
            self._ending = delta

    def _end(self, events: list[StreamEvent]) -> None:
        if not self._started:
            raise _BrokenStream("The upstream's stream did not begin with message_start.")
        for part in self._open.values():
            part.end(events)
        ending = self._ending
        finish = decode_finish(
            ending.stop_reason,
            ending.stop_sequence,
            ending.stop_details,
            called=self._blocks.called,
            whole=self._blocks.whole,
        )
        events.append(Finished(0, finish))
        if self._usage:
            events.append(UsageReported(decode_usage(self._usage)))
        events.append(Ended(decode_tier(self._usage)))
        self._over = True


class _Open:
    """A block that is being read. This one came whole with its start."""

    __slots__ = ("_part", "index")

    def __init__(self, index: int, part: Part, events: list[StreamEvent]) -> None:
        self.index = index
        self._part = part
        events.append(PartStarted(0, index, part))

    def delta(self, delta: Piece | Delta, events: list[StreamEvent]) -> bool:
        """Take a delta; False where it has no meaning here."""
        return False

    def end(self, events: list[StreamEvent]) -> None:
        """The block is complete."""
        events.append(PartEnded(0, self.index, self._part))


class _Text(_Open):
    """Text. Its citations are told at its end, when their span is known."""

    __slots__ = ("_citations", "_length")

    def __init__(self, index: int, block: Block, events: list[StreamEvent]) -> None:
        super().__init__(index, Text(text=""), events)
        self._length = 0
        self._citations: list[JSONObject] = list(block.citations or ())
        if block.text:
            self.delta(Piece(text=block.text), events)

    @override
    def delta(self, delta: Piece | Delta, events: list[StreamEvent]) -> bool:
        text = delta.text
        if text:
            self._length += len(text)
            events.append(PartDelta(0, self.index, TextDelta(text)))
            return True
        if delta.citation is not None:
            self._citations.append(delta.citation)
            return True
        return text is not None

    @override
    def end(self, events: list[StreamEvent]) -> None:
        told = (CitationDelta(decode_citation(native, self._length)) for native in self._citations)
        events.extend(PartDelta(0, self.index, delta) for delta in told)
        events.append(PartEnded(0, self.index))


class _Thinking(_Open):
    """Thinking; its signature is told whole at its end."""

    __slots__ = ("_blocks", "_pieces", "_signature")

    def __init__(self, index: int, block: Block, blocks: Blocks, events: list[StreamEvent]) -> None:
        super().__init__(index, Reasoning(), events)
        self._blocks = blocks
        self._pieces: list[str] = []
        self._signature = block.signature or ""
        if block.thinking:
            self.delta(Piece(thinking=block.thinking), events)

    @override
    def delta(self, delta: Piece | Delta, events: list[StreamEvent]) -> bool:
        if delta.thinking:
            self._pieces.append(delta.thinking)
            events.append(PartDelta(0, self.index, ReasoningDelta(delta.thinking)))
        if delta.signature:
            self._signature = delta.signature
        return delta.thinking is not None or delta.signature is not None

    @override
    def end(self, events: list[StreamEvent]) -> None:
        seals = (self._blocks.seal(self._signature),) if self._signature else ()
        events.extend(PartDelta(0, self.index, SealDelta(seal)) for seal in seals)
        events.append(PartEnded(0, self.index, Reasoning(text="".join(self._pieces), seals=seals)))


class _Call(_Open):
    """A call. One of a free-text tool is read to its end, because its text stands inside JSON."""

    __slots__ = ("_arguments", "_emulated", "_given", "_pieces")

    def __init__(
        self,
        index: int,
        part: ToolCall | ServerToolCall,
        events: list[StreamEvent],
        *,
        given: str,
        emulated: bool = False,
        arguments: list[str] | None = None,
    ) -> None:
        super().__init__(index, part, events)
        self._arguments = None if emulated else arguments
        self._pieces: list[str] = []
        self._given = given
        self._emulated = emulated

    @override
    def delta(self, delta: Piece | Delta, events: list[StreamEvent]) -> bool:
        piece = delta.partial_json
        if piece:
            self._pieces.append(piece)
            if not self._emulated:
                events.append(PartDelta(0, self.index, ArgumentsDelta(piece)))
        return piece is not None

    @override
    def end(self, events: list[StreamEvent]) -> None:
        assert isinstance(self._part, ToolCall | ServerToolCall)
        text = "".join(self._pieces)
        if not text.strip():
            text, told = self._given, False
        else:
            told = not self._emulated
        if self._emulated:
            text = unwrapped_input(text)
        if text and not told:
            events.append(PartDelta(0, self.index, ArgumentsDelta(text)))
        if self._arguments is not None:
            self._arguments.append(text)
        events.append(PartEnded(0, self.index, msgspec.structs.replace(self._part, arguments=text)))


def _error(event: Event, data: bytes) -> GatewayError | None:
    """The error that an event tells, in the vendor's shape or in another; None where it tells none."""
    if event.type == "error" or event.error:
        return stream_error(event.error if type(event.error) is dict else read_loosely(data))
    return error_in(data)


def _opened(index: int, raw: msgspec.Raw, blocks: Blocks, events: list[StreamEvent]) -> _Open:
    block = BLOCK.decode(raw)
    match block.type:
        case "text":
            return _Text(index, block, events)
        case "thinking":
            return _Thinking(index, block, blocks, events)
        case "tool_use":
            emulated = blocks.is_emulated(block.name or "")
            call = msgspec.structs.replace(blocks.call(block, ""), arguments="")
            given = arguments_of(block)
            return _Call(index, call, events, given=given, emulated=emulated, arguments=blocks.arguments)
        case "server_tool_use":
            return _Call(index, server_call(block, ""), events, given=arguments_of(block))
        case _:
            return _Open(index, blocks.part(raw), events)
