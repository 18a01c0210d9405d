"""Decode streams of a Messages upstream into events, and complete responses as the same events.

Tolerates deviations of compatible servers: blocks that never end or carry their content at the start, null and missing
fields, a missing `message_stop` after a stop reason. Unreadable data ends the stream with `Failed`.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.mappings import decode_finish, is_known_stop_reason
from llmproxy_asgi.translators.anthropic_messages.schema import (
    ABSENT,
    BLOCK,
    DELTA_EVENT,
    EVENT,
    PROTOCOL,
    Block,
    BlockDelta,
    Delta,
    DeltaEvent,
    Event,
    Message,
)
from llmproxy_asgi.translators.anthropic_messages.usage import bedrock_usage, decode_tier, decode_usage, merge_usage
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.events import CallBuilder, CandidateBuilder, EventBuilder, PartBuilder, TextBuilder
from llmproxy_asgi.translators.codec.sse import UNREADABLE, JSONEventDecoder
from llmproxy_asgi.translators.stray_errors import names_problem, read_loosely
from llmproxy_asgi.wire import sse

_DELTA = "content_block_delta"
_TEXT, _REASONING, _ARGUMENTS = ir.TextDelta, ir.ReasoningDelta, ir.ArgumentsDelta
_DELTA_HEAD = f"event: {_DELTA}\ndata: ".encode()


class MessageBuilder(CandidateBuilder):
    """The message: its citations and signatures, which are emitted when their block ends."""

    def __init__(self, number: int, events: EventBuilder[Any]) -> None:
        super().__init__(number, events)
        self.citations: dict[PartBuilder, list[JSONObject]] = {}
        self.signatures: dict[PartBuilder, ir.Seal] = {}

    @override
    def ending(self, part: PartBuilder) -> None:
        if isinstance(part, TextBuilder):  # a citation is of the complete text
            for native in self.citations.pop(part, ()):
                part.cite(decode_citation(native, part.length))
        if (seal := self.signatures.pop(part, None)) is not None:
            part.seal(seal)


class MessagesStreamDecoder(JSONEventDecoder[MessageBuilder]):
    """The decoder of one response."""

    candidate: ClassVar[type[MessageBuilder]] = MessageBuilder
    error = staticmethod(stream_error)
    find_error = staticmethod(error_in)

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        super().__init__(upstream_request, upstream)
        self._message = self._events.candidate(0)
        self._blocks = self._message.parts
        self._usage: JSONObject = {}
        self._ending = Delta()

    def decode_whole(self, message: Message, received_at: datetime) -> list[ir.StreamEvent]:
        """Decode a complete response.

        Raises:
            UpstreamProtocolError: A block can't be read.
        """
        try:
            self._start(message, received_at)
        except UNREADABLE:
            raise UpstreamProtocolError("The upstream's answer holds a block that cannot be read.") from None
        self._usage = message.usage or {}
        self._ending = Delta(
            stop_reason=message.stop_reason, stop_sequence=message.stop_sequence, stop_details=message.stop_details
        )
        self._end()
        return self._events.take()

    @override
    def block(self, block: bytes) -> None:
        lines = sse.only_named(block, _DELTA_HEAD)
        if lines is None:
            super().block(block)
            return
        index: int | None = -1
        part: PartBuilder | None = None
        for data in lines:  # only `content_block_delta` events, the most common case
            try:
                event = DELTA_EVENT.decode(data)
            except UNREADABLE:
                event = DeltaEvent()
            if event.index != index:
                index = event.index
                part = self._blocks.get(index or 0)
            delta = event.delta
            if delta is not None and part is not None and not part.ended:
                kind = part.kind
                if kind is _TEXT:
                    piece = delta.text
                elif kind is _ARGUMENTS:
                    piece = delta.partial_json
                else:
                    piece = delta.thinking if kind is _REASONING and delta.signature is None else None
                if piece:
                    part.append(piece)
                else:
                    self._delta(part, delta, data)
                continue
            self.event(_DELTA, data)
            if self._events.over:
                return
            index = -1

    @override
    def event(self, name: str | None, data: bytes) -> None:
        event = self.decode(EVENT, data)
        if event.type == _DELTA:
            part = self._blocks.get(event.index or 0)
            if part is None or part.ended:
                raise UpstreamProtocolError("The upstream continued a content block that is not open.")
            if event.delta is not None:
                self._delta(part, event.delta, data)
            return
        match event.type:
            case "message_start":
                self._start(event.message or Message())
            case "content_block_start":
                self._start_block(event)
            case "content_block_stop":
                if (part := self._blocks.get(event.index or 0)) is not None:
                    part.end()
            case "message_delta":
                self._update_ending(event)
            case "message_stop":
                self._update_ending(event)
                self._end()
            case _:
                self._other_event(event, name, data)

    def _other_event(self, event: Event, name: str | None, data: bytes) -> None:
        """Decode an error, in the vendor's format or another; pass any other event."""
        error: GatewayError | None = None
        if event.type == "ping":
            return
        if event.type == "error" or (event.type is None and event.error):
            error = stream_error(event.error if type(event.error) is dict else read_loosely(data))
        elif event.type is None or names_problem(event.type):
            error = error_in(data)
        if error is None:
            self._events.passed(PROTOCOL, event.type or name, data)
        else:
            self._events.fail(error)

    @override
    def end(self) -> None:
        if self._events.started and self._ending.stop_reason:
            self._end()
        else:
            super().end()

    # ── the message ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, message: Message, created_at: datetime = ir.UNDATED) -> None:
        if self._events.started:
            return
        self._usage = merge_usage({}, message.usage)
        usage = decode_usage(self._usage) if self._usage else None
        self._events.start(message.id or "", self._upstream.client_model, created_at, usage, decode_tier(self._usage))
        for raw in message.content or ():  # a complete response, maybe framed as a stream
            self._open(BLOCK.decode(raw), raw, None).end()

    def _update_ending(self, event: Event) -> None:
        self._usage = merge_usage(self._usage, event.usage or bedrock_usage(event.metrics))
        delta = event.delta
        if delta is None or not delta.stop_reason:
            return
        # The last known reason wins.
        if is_known_stop_reason(delta.stop_reason) or not is_known_stop_reason(self._ending.stop_reason):
            self._ending = delta

    def _end(self) -> None:
        ending = self._ending
        self._message.finish(decode_finish(ending.stop_reason, ending.stop_sequence, ending.stop_details))
        self._events.end(decode_usage(self._usage) if self._usage else None, decode_tier(self._usage))

    # ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_block(self, event: Event) -> None:
        if event.content_block is ABSENT:
            raise UpstreamProtocolError("The upstream started a content block without content.")
        self._open(BLOCK.decode(event.content_block), event.content_block, event.index or 0)

    def _open(self, block: Block, raw: msgspec.Raw, key: int | None) -> PartBuilder:
        message = self._message
        match block.type:
            case "text":
                part = message.open(ir.Text(text=""), key)
                message.citations[part] = list(block.citations or ())
                if block.text:
                    part.append(block.text)
            case "thinking":
                part = message.open(ir.Reasoning(), key)
                if block.signature:
                    message.signatures[part] = self._seal(block.signature)
                if block.thinking:
                    part.append(block.thinking)
            case "tool_use":
                part = call = message.call(key)
                call.initial = _arguments(block)
                call.start(block.name or "", block.id or "", block.name or "", str(message.count), caller=block.caller)
            case "server_tool_use":
                part = call = message.begin(CallBuilder(message), _server_call(block), key)
                call.initial = _arguments(block)
            case "redacted_thinking":
                seal = self._seal(block.data or "", "redacted")
                part = message.open(ir.Reasoning(redacted=True, seals=(seal,)), key)
            case kind:
                native: JSONObject = msgspec.json.decode(raw, type=dict[str, Any])
                is_result = server_tools.is_result(kind)
                result = server_tools.decode_result(native) if is_result else None
                part = message.open(result or ir.Opaque(protocol=PROTOCOL, kind=kind, data=native), key)
        return part

    def _delta(self, part: PartBuilder, delta: BlockDelta | Delta, data: bytes) -> None:
        kind = part.kind
        if kind is _TEXT:
            piece = delta.text
        elif kind is _ARGUMENTS:
            piece = delta.partial_json
        else:
            piece = delta.thinking if kind is _REASONING else None
        if piece:
            part.append(piece)
        if delta.signature is not None and kind is _REASONING:
            if delta.signature:
                self._message.signatures[part] = self._seal(delta.signature)
        elif delta.citation is not None and kind is _TEXT:
            self._message.citations[part].append(delta.citation)
        elif piece is None:
            self._events.passed(PROTOCOL, _DELTA, data)

    def _seal(self, data: str, kind: Literal["signature", "redacted"] = "signature") -> ir.Seal:
        return ir.Seal(issuer=self._upstream.issuer, model=self._upstream.model, kind=kind, data=data)


def _arguments(block: Block) -> str:
    """Return a call's arguments as the upstream's own JSON text."""
    text = bytes(block.input).decode().strip() if block.input is not ABSENT else ""
    return "" if text == "null" else text


def _server_call(block: Block) -> ir.ServerToolCall:
    """Decode a tool call that the upstream made and ran."""
    return ir.ServerToolCall(
        call_id=block.id or "",
        tool=server_tools.canonical_name(block.name or ""),
        extras={PROTOCOL: {"caller": block.caller} if block.caller else {"name": block.name or ""}},
    )
