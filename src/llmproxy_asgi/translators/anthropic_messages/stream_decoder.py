"""Decode streams of a Messages upstream into events.

Tolerates deviations of compatible servers: blocks that never end or carry their content at the start, null and missing
fields, a missing `message_stop` after a stop reason. Unreadable data ends the stream with `Failed`.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.mappings import decode_finish, is_known_stop_reason
from llmproxy_asgi.translators.anthropic_messages.response_decoder import (
    MessagesBlockDecoder,
    arguments_text,
    server_call,
)
from llmproxy_asgi.translators.anthropic_messages.schema import (
    ABSENT,
    BLOCK,
    DELTA_EVENT,
    EVENT,
    PROTOCOL,
    Block,
    BlockDelta,
    Delta,
    Event,
    Message,
)
from llmproxy_asgi.translators.anthropic_messages.usage import bedrock_usage, decode_tier, decode_usage, merge_usage
from llmproxy_asgi.translators.base import StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.translators.surrogates import SurrogateJoiner, decode_marked
from llmproxy_asgi.wire import sse

_NOTHING = ir.Batch(events=())
_FILLERS = (b"", b"[DONE]")
"""Data that some compatible servers send between or after events."""
_MIN_DATA = 10
_DELTA = "content_block_delta"
_DELTA_HEAD = f"event: {_DELTA}\ndata: ".encode()
_BLANK = b"\n\n"


class _InvalidStream(Exception):
    """An event is not valid after the events before it."""


_T = TypeVar("_T")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_INVALID = (_InvalidStream, UpstreamError, *_UNREADABLE)


class MessagesStreamDecoder(StreamDecoder):
    """The decoder of one stream."""

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._block_decoder = MessagesBlockDecoder(upstream_request, upstream)
        self._client_model = upstream.client_model
        self._splitter = sse.FrameSplitter(max_event=upstream.max_event)
        self._complete = self._splitter.complete
        self._started = False
        self._finished = False
        self._parts = 0
        self._open_blocks: dict[int, _BlockDecoder] = {}
        self._usage: JSONObject = {}
        self._ending = Delta()
        self._nonce = upstream_request.nonce
        self._joiner: SurrogateJoiner | None = None

    @override
    def feed(self, data: bytes) -> ir.Batch:
        if self._finished:
            return _NOTHING
        try:
            block = self._complete(data)
        except sse.EventTooLarge as error:
            return self._failed([], UpstreamProtocolError(f"The upstream sent {error}."))
        if not block:
            return _NOTHING
        lines = sse.only_named(block, _DELTA_HEAD)
        return self._read(sse.decode(block)) if lines is None else self._read_deltas(lines)

    @override
    def close(self) -> ir.Batch:
        if self._finished:
            return _NOTHING
        tail = self._splitter.tail
        batch = self._read(sse.decode(tail + _BLANK)) if tail else _NOTHING
        if self._finished:
            return batch
        events = list(batch.events)
        if self._started and self._ending.stop_reason:
            self._end(events)
            return ir.Batch(events)
        return self._failed(events, UpstreamProtocolError("The upstream's stream ended without its end sign."))

    def _failed(self, events: list[ir.StreamEvent], error: GatewayError) -> ir.Batch:
        self._finished = True
        events.append(ir.Failed(error))
        return ir.Batch(events)

    def _read_deltas(self, lines: Sequence[bytes]) -> ir.Batch:
        """Decode a read that holds only `content_block_delta` events, the most common case."""
        events: list[ir.StreamEvent] = []
        try:
            for data in lines:
                try:
                    event = DELTA_EVENT.decode(data)
                except _UNREADABLE:
                    event = self._decode_marked(DELTA_EVENT, data)
                part, delta = self._open_blocks.get(event.index or 0), event.delta
                if part is None or delta is None or event.type != _DELTA:
                    self._event(self._decode_marked(EVENT, data), _DELTA, data, events)
                    if self._finished:
                        break
                elif not part.delta(delta, events):
                    events.append(ir.Passed(PROTOCOL, _DELTA, data))
        except _INVALID as error:
            return self._fail_invalid(error, events)
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def _decode_marked(self, decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
        """Decode an event, also one that has half of a surrogate pair."""
        try:
            return decoder.decode(data)
        except _UNREADABLE:
            if (error := error_in(data)) is not None:
                raise error from None
            event = decode_marked(decoder, data)
        self._joiner = self._joiner or SurrogateJoiner()
        return event

    def _read(self, frames: Sequence[sse.Frame]) -> ir.Batch:
        events: list[ir.StreamEvent] = []
        try:
            for frame in frames:
                data = frame.data
                if len(data) < _MIN_DATA and data.strip() in _FILLERS:
                    continue
                if frame.event == "error":
                    self._finished = True
                    events.append(ir.Failed(stream_error(read_loosely(data))))
                    break
                self._event(self._decode_marked(EVENT, data), frame.event, data, events)
                if self._finished:
                    break
        except _INVALID as error:
            return self._fail_invalid(error, events)
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def _fail_invalid(self, error: Exception, events: list[ir.StreamEvent]) -> ir.Batch:
        if isinstance(error, UpstreamError):
            return self._failed(events, error)
        unreadable = "The upstream sent an event that cannot be read."
        message = str(error) if isinstance(error, _InvalidStream) else unreadable
        return self._failed(events, UpstreamProtocolError(message))

    def _event(self, event: Event, name: str | None, data: bytes, events: list[ir.StreamEvent]) -> None:
        if event.type != _DELTA:
            self._other_event(event, name, data, events)
            return
        part = self._open_blocks.get(event.index or 0)
        if part is None:
            raise _InvalidStream("The upstream continued a content block that is not open.")
        if event.delta is not None and not part.delta(event.delta, events):
            events.append(ir.Passed(PROTOCOL, _DELTA, data))

    def _other_event(self, event: Event, name: str | None, data: bytes, events: list[ir.StreamEvent]) -> None:
        match event.type:
            case "message_start":
                self._start(event.message or Message(), events)
            case "content_block_start":
                self._start_block(event, events)
            case "content_block_stop":
                part = self._open_blocks.pop(event.index or 0, None)
                if part is not None:
                    part.end(events)
            case "message_delta":
                self._update_ending(event)
            case "message_stop":
                self._update_ending(event)
                self._end(events)
            case "ping":
                pass
            case "error" | None if (error := _error(event, data)) is not None:
                self._finished = True
                events.append(ir.Failed(error))
            case kind if names_problem(kind) and (error := error_in(data)) is not None:
                self._finished = True
                events.append(ir.Failed(error))
            case _:
                events.append(ir.Passed(PROTOCOL, event.type or name, data))

    def _start(self, message: Message, events: list[ir.StreamEvent]) -> None:
        if self._started:
            return
        self._started = True
        self._usage = merge_usage({}, message.usage)
        usage = decode_usage(self._usage) if self._usage else None
        tier = decode_tier(self._usage)
        events.append(ir.Started(message.id or "", self._client_model, ir.UNDATED, usage, tier, ir.EMPTY, self._nonce))
        for raw in message.content or ():  # a complete response, framed as a stream
            block = _open_block(self._parts, raw, self._block_decoder, events)
            self._parts += 1
            block.end(events)

    def _start_block(self, event: Event, events: list[ir.StreamEvent]) -> None:
        if not self._started:
            raise _InvalidStream("The upstream's stream did not begin with message_start.")
        index = event.index or 0
        if event.content_block is ABSENT:
            raise _InvalidStream("The upstream started a content block without content.")
        replaced = self._open_blocks.pop(index, None)
        if replaced is not None:  # the vendor's client also takes this as a new block
            replaced.end(events)
        self._open_blocks[index] = _open_block(self._parts, event.content_block, self._block_decoder, events)
        self._parts += 1

    def _update_ending(self, event: Event) -> None:
        self._usage = merge_usage(self._usage, event.usage or bedrock_usage(event.metrics))
        delta = event.delta
        if delta is None or not delta.stop_reason:
            return
        # The last known reason wins.
        if is_known_stop_reason(delta.stop_reason) or not is_known_stop_reason(self._ending.stop_reason):
            self._ending = delta

    def _end(self, events: list[ir.StreamEvent]) -> None:
        if not self._started:
            raise _InvalidStream("The upstream's stream did not begin with message_start.")
        for part in self._open_blocks.values():
            part.end(events)
        ending = self._ending
        finish = decode_finish(
            ending.stop_reason,
            ending.stop_sequence,
            ending.stop_details,
            has_calls=self._block_decoder.has_calls,
            complete=self._block_decoder.complete,
        )
        events.append(ir.Finished(0, finish))
        if self._usage:
            events.append(ir.UsageReported(decode_usage(self._usage)))
        events.append(ir.Ended(decode_tier(self._usage)))
        self._finished = True


class _BlockDecoder:
    """The decoder of one block; this base class is for blocks that are complete at their start."""

    __slots__ = ("_part", "index")

    def __init__(self, index: int, part: ir.Part, events: list[ir.StreamEvent]) -> None:
        self.index = index
        self._part = part
        events.append(ir.PartStarted(0, index, part))

    def delta(self, delta: BlockDelta | Delta, events: list[ir.StreamEvent]) -> bool:
        """Decode a delta; False if this kind of block has no such delta."""
        return False

    def end(self, events: list[ir.StreamEvent]) -> None:
        """End the block."""
        events.append(ir.PartEnded(0, self.index, self._part))


class _TextDecoder(_BlockDecoder):
    """The decoder of a text block; emits citations at its end, when their span is known."""

    __slots__ = ("_citations", "_length")

    def __init__(self, index: int, block: Block, events: list[ir.StreamEvent]) -> None:
        super().__init__(index, ir.Text(text=""), events)
        self._length = 0
        self._citations: list[JSONObject] = list(block.citations or ())
        if block.text:
            self.delta(BlockDelta(text=block.text), events)

    @override
    def delta(self, delta: BlockDelta | Delta, events: list[ir.StreamEvent]) -> bool:
        text = delta.text
        if text:
            self._length += len(text)
            events.append(ir.PartDelta(0, self.index, ir.TextDelta(text)))
            return True
        if delta.citation is not None:
            self._citations.append(delta.citation)
            return True
        return text is not None

    @override
    def end(self, events: list[ir.StreamEvent]) -> None:
        deltas = (ir.CitationDelta(decode_citation(native, self._length)) for native in self._citations)
        events.extend(ir.PartDelta(0, self.index, delta) for delta in deltas)
        events.append(ir.PartEnded(0, self.index))


class _ThinkingDecoder(_BlockDecoder):
    """The decoder of a thinking block; emits the complete signature at its end."""

    __slots__ = ("_block_decoder", "_pieces", "_signature")

    def __init__(
        self, index: int, block: Block, block_decoder: MessagesBlockDecoder, events: list[ir.StreamEvent]
    ) -> None:
        super().__init__(index, ir.Reasoning(), events)
        self._block_decoder = block_decoder
        self._pieces: list[str] = []
        self._signature = block.signature or ""
        if block.thinking:
            self.delta(BlockDelta(thinking=block.thinking), events)

    @override
    def delta(self, delta: BlockDelta | Delta, events: list[ir.StreamEvent]) -> bool:
        if delta.thinking:
            self._pieces.append(delta.thinking)
            events.append(ir.PartDelta(0, self.index, ir.ReasoningDelta(delta.thinking)))
        if delta.signature:
            self._signature = delta.signature
        return delta.thinking is not None or delta.signature is not None

    @override
    def end(self, events: list[ir.StreamEvent]) -> None:
        seals = (self._block_decoder.seal(self._signature),) if self._signature else ()
        events.extend(ir.PartDelta(0, self.index, ir.SealDelta(seal)) for seal in seals)
        events.append(ir.PartEnded(0, self.index, ir.Reasoning(text="".join(self._pieces), seals=seals)))


class _ToolUseDecoder(_BlockDecoder):
    """The decoder of a tool call; buffers a free-text tool's arguments, because their text is inside JSON."""

    __slots__ = ("_arguments", "_emulated", "_initial", "_pieces")

    def __init__(
        self,
        index: int,
        part: ir.ToolCall | ir.ServerToolCall,
        events: list[ir.StreamEvent],
        *,
        initial: str,
        emulated: bool = False,
        arguments: list[str] | None = None,
    ) -> None:
        super().__init__(index, part, events)
        self._arguments = None if emulated else arguments
        self._pieces: list[str] = []
        self._initial = initial
        self._emulated = emulated

    @override
    def delta(self, delta: BlockDelta | Delta, events: list[ir.StreamEvent]) -> bool:
        piece = delta.partial_json
        if piece:
            self._pieces.append(piece)
            if not self._emulated:
                events.append(ir.PartDelta(0, self.index, ir.ArgumentsDelta(piece)))
        return piece is not None

    @override
    def end(self, events: list[ir.StreamEvent]) -> None:
        assert isinstance(self._part, ir.ToolCall | ir.ServerToolCall)
        text = "".join(self._pieces)
        if not text.strip():
            text, already_sent = self._initial, False
        else:
            already_sent = not self._emulated
        if self._emulated:
            text = unwrapped_input(text)
        if text and not already_sent:
            events.append(ir.PartDelta(0, self.index, ir.ArgumentsDelta(text)))
        if self._arguments is not None:
            self._arguments.append(text)
        events.append(ir.PartEnded(0, self.index, msgspec.structs.replace(self._part, arguments=text)))


def _error(event: Event, data: bytes) -> GatewayError | None:
    """Return an event's error, in the vendor's format or another; None without an error."""
    if event.type == "error" or event.error:
        return stream_error(event.error if type(event.error) is dict else read_loosely(data))
    return error_in(data)


def _open_block(
    index: int, raw: msgspec.Raw, block_decoder: MessagesBlockDecoder, events: list[ir.StreamEvent]
) -> _BlockDecoder:
    block = BLOCK.decode(raw)
    match block.type:
        case "text":
            return _TextDecoder(index, block, events)
        case "thinking":
            return _ThinkingDecoder(index, block, block_decoder, events)
        case "tool_use":
            emulated = block_decoder.is_emulated(block.name or "")
            call = msgspec.structs.replace(block_decoder.call(block, ""), arguments="")
            initial = arguments_text(block)
            return _ToolUseDecoder(
                index, call, events, initial=initial, emulated=emulated, arguments=block_decoder.arguments
            )
        case "server_tool_use":
            return _ToolUseDecoder(index, server_call(block, ""), events, initial=arguments_text(block))
        case _:
            return _BlockDecoder(index, block_decoder.part(raw), events)
