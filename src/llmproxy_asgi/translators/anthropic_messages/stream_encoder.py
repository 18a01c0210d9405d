"""Encode streams for Anthropic's clients.

Anthropic never interleaves content blocks and its clients rely on it, so overlapping parts are written one after the
other: while one is open, events of the others are queued; when it ends, they are written in the order of `next_held`.
The queue is never larger than what the upstream sent.

Text, thinking and argument fragments are written at once: a prefix that is built once per block, the text as JSON, a
suffix. Sent fragments can't be revoked, so invalid arguments can be corrected only if the start shows it: a call whose
first character is not `{` is buffered and written as an object at its end.
"""

import re
from collections.abc import Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import encode_citation
from llmproxy_asgi.translators.anthropic_messages.errors import error_body
from llmproxy_asgi.translators.anthropic_messages.mappings import encode_stop_reason
from llmproxy_asgi.translators.anthropic_messages.reasoning import (
    encode_signature,
    needs_thinking_block,
    redacted_block,
    redacted_block_for_call,
)
from llmproxy_asgi.translators.anthropic_messages.response_encoder import (
    encode_blocks,
    encode_call_id,
    is_web_search,
    message_start,
    with_searches,
)
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.anthropic_messages.usage import encode_usage, estimated_input
from llmproxy_asgi.translators.base import InboundRequest, StreamEncoder
from llmproxy_asgi.translators.pairing import arguments_raw
from llmproxy_asgi.translators.part_sequencer import next_held
from llmproxy_asgi.wire import sse

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_json = msgspec.json.Encoder().encode
_END = b"}}\n\n"
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b,%b:'

_PartEvent = ir.PartStarted | ir.PartDelta | ir.PartEnded


def _frame(name: str, fields: JSONObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **fields}))


class MessagesStreamEncoder(StreamEncoder):
    """The encoder of one stream."""

    def __init__(self, inbound_request: InboundRequest) -> None:
        self._model = inbound_request.model
        self._size = inbound_request.size
        self._usage: ir.Usage | None = None
        self._usage_reported = False
        self._tier: ir.ServiceTier | None = None
        self._finish: ir.Finish | None = None
        self._blocks = _BlockWriter()
        self._open: _PartEncoder | None = None
        self._open_index = -1
        self._queued: dict[int, list[_PartEvent]] = {}
        self._finished = False

    @override
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is ir.PartDelta and event.index == self._open_index and not event.candidate:
                assert self._open is not None
                self._open.delta(event.delta, out)
            elif not self._finished:
                self._other_event(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _other_event(self, event: ir.StreamEvent, out: list[bytes]) -> None:
        match event:
            case ir.PartStarted(candidate=0) | ir.PartDelta(candidate=0) | ir.PartEnded(candidate=0):
                self._part(event, out)
            case ir.Finished(candidate=0, finish=finish):
                self._finish = finish
            case ir.UsageReported(usage=usage):
                self._usage, self._usage_reported = usage, True
            case ir.Started():
                self._start(event, out)
            case ir.Ended(service_tier=tier):
                self._end(tier, out)
            case ir.Failed(error=error):
                self._finished = True
                self._open, self._open_index = None, -1  # stays open: an incomplete block must not look complete
                out.append(sse.encode(error_body(error), "error"))
            case ir.Passed(protocol=protocol, name=name, data=data):
                if protocol == PROTOCOL and name is not None and _NAME.fullmatch(name):
                    out.append(sse.encode(data, name))
            case _:  # another candidate: Anthropic's responses have one
                pass

    def _start(self, event: ir.Started, out: list[bytes]) -> None:
        self._usage = event.usage
        self._tier = event.service_tier
        usage = event.usage if event.usage and event.usage.input else estimated_input(self._size)
        message = message_start(event.id, event.nonce, self._model or event.model, usage)
        out.append(b"event: message_start\ndata: %b\n\n" % message)

    def _end(self, tier: ir.ServiceTier | None, out: list[bytes]) -> None:
        self._finished = True
        while self._open is not None:
            self._close(None, out)
        blocks = self._blocks
        finish = self._finish or ir.Finish(reason=ir.FinishReason.UNKNOWN)
        usage = self._usage or estimated_input(self._size)
        if not self._usage_reported:
            usage = msgspec.structs.replace(usage, output=max(usage.output, -(-blocks.characters // 4)))
        delta = encode_stop_reason(finish, ir.Refusal(text=blocks.refusal) if blocks.refusal is not None else None)
        usage = with_searches(usage, blocks.web_searches)
        out.append(_frame("message_delta", {"delta": delta, "usage": encode_usage(usage, tier or self._tier)}))
        out.append(_STOP)

    def _part(self, event: _PartEvent, out: list[bytes]) -> None:
        """Write a part's event if the part is open, else queue it."""
        index = event.index
        if index == self._open_index and type(event) is ir.PartEnded:
            self._close(event.part, out)
        elif self._open is None and type(event) is ir.PartStarted:
            self._open_index = index
            self._open = _part_encoder(event.part, self._blocks, out)
        elif type(event) is ir.PartStarted:
            self._queued[index] = [event]
        elif index in self._queued:
            self._queued[index].append(event)

    def _close(self, part: ir.Part | None, out: list[bytes]) -> None:
        """End the open part, then write queued parts up to the first that is still open."""
        assert self._open is not None
        self._open.end(part, out)
        self._open, self._open_index = None, -1
        while self._queued and self._open is None:
            index = next_held(self._queued)
            self._replay(self._queued.pop(index), out)

    def _replay(self, events: list[_PartEvent], out: list[bytes]) -> None:
        for event in events:
            match event:
                case ir.PartStarted(index=index, part=part):
                    self._open_index = index
                    self._open = _part_encoder(part, self._blocks, out)
                case ir.PartDelta(delta=delta):
                    assert self._open is not None
                    self._open.delta(delta, out)
                case ir.PartEnded(part=part):
                    assert self._open is not None
                    self._open.end(part, out)
                    self._open, self._open_index = None, -1


class _BlockWriter:
    """The writer of content blocks; numbers them and counts what was written."""

    __slots__ = ("characters", "count", "refusal", "web_searches")

    def __init__(self) -> None:
        self.count = 0
        self.refusal: str | None = None
        self.characters = 0
        """Characters of content, for an estimate if the upstream reports no usage."""
        self.web_searches = 0

    def start(self, block: JSONObject, out: list[bytes]) -> int:
        """Start a block and return its index."""
        index = self.count
        self.count += 1
        out.append(_frame("content_block_start", {"index": index, "content_block": block}))
        return index

    def stop(self, index: int, out: list[bytes]) -> None:
        """End a block."""
        out.append(
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index,
        )

    def write_block(self, block: JSONObject, out: list[bytes]) -> None:
        """Write a complete block."""
        self.stop(self.start(block, out), out)


class _PartEncoder:
    """The encoder of one part; this base class writes complete blocks, if any, at the part's end."""

    __slots__ = ("_blocks", "_part")

    def __init__(self, part: ir.Part, blocks: _BlockWriter) -> None:
        self._part = part
        self._blocks = blocks

    def delta(self, delta: object, out: list[bytes]) -> None:
        """Encode a delta of the part."""

    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        """End the part; `part` is the upstream's restatement of it, if any."""
        for block in encode_blocks(part or self._part):
            self._blocks.write_block(block, out)


class _TextEncoder(_PartEncoder):
    """The encoder of text and refusals; starts the block with the first text: Anthropic refuses empty text blocks."""

    __slots__ = ("_index", "_prefix")

    def __init__(self, part: ir.Text | ir.Refusal, blocks: _BlockWriter, out: list[bytes]) -> None:
        super().__init__(part, blocks)
        self._index = -1
        self._prefix = b""
        if isinstance(part, ir.Refusal):
            blocks.refusal = part.text
        self._write_text(part.text, out)
        if isinstance(part, ir.Text):
            for citation in part.citations:
                self._write_citation(citation, out)

    def _start_block(self, out: list[bytes]) -> None:
        self._index = self._blocks.start({"type": "text", "text": ""}, out)
        self._prefix = _DELTA % (self._index, b'"text_delta"', b'"text"')

    def _write_text(self, text: str, out: list[bytes]) -> None:
        if not text:
            return
        if self._index < 0:
            self._start_block(out)
        self._blocks.characters += len(text)
        out.append(self._prefix + _json(text) + _END)

    def _write_citation(self, citation: ir.Citation, out: list[bytes]) -> None:
        native = encode_citation(citation)
        if native is None:
            return
        if self._index < 0:
            self._start_block(out)
        delta = {"type": "citations_delta", "citation": native}
        out.append(_frame("content_block_delta", {"index": self._index, "delta": delta}))

    @override
    def delta(self, delta: object, out: list[bytes]) -> None:
        if type(delta) is ir.TextDelta:
            self._write_text(delta.text, out)
        elif type(delta) is ir.RefusalDelta:
            self._blocks.refusal = (self._blocks.refusal or "") + delta.text
            self._write_text(delta.text, out)
        elif type(delta) is ir.CitationDelta:
            self._write_citation(delta.citation, out)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        if self._index < 0 and isinstance(part, ir.Text | ir.Refusal):
            self._write_text(part.text, out)
        if self._index >= 0:
            self._blocks.stop(self._index, out)


class _ThinkingEncoder(_PartEncoder):
    """The encoder of reasoning; starts the block with the first text or at the end, when its type is known."""

    __slots__ = ("_index", "_prefix", "_seals", "_text")

    def __init__(self, part: ir.Reasoning, blocks: _BlockWriter, out: list[bytes]) -> None:
        super().__init__(part, blocks)
        self._index = -1
        self._prefix = b""
        self._seals: list[ir.Seal] = list(part.seals)
        self._write_text(part.text, out)

    def _start_block(self, out: list[bytes]) -> None:
        self._index = self._blocks.start({"type": "thinking", "thinking": "", "signature": ""}, out)
        self._prefix = _DELTA % (self._index, b'"thinking_delta"', b'"thinking"')

    def _write_text(self, text: str, out: list[bytes]) -> None:
        if not text:
            return
        if self._index < 0:
            self._start_block(out)
        self._blocks.characters += len(text)
        out.append(self._prefix + _json(text) + _END)

    @override
    def delta(self, delta: object, out: list[bytes]) -> None:
        if type(delta) is ir.ReasoningDelta:
            self._write_text(delta.text, out)
        elif type(delta) is ir.SealDelta:
            self._seals.append(delta.seal)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        seals = tuple(part.seals) if isinstance(part, ir.Reasoning) and part.seals else tuple(self._seals)
        if self._index < 0 and isinstance(part, ir.Reasoning) and not part.redacted:
            self._write_text(part.text, out)
        if self._index < 0 and needs_thinking_block("", seals):
            self._start_block(out)
        if self._index >= 0:
            signature = encode_signature(seals[0] if seals else None)
            seals = seals[1:]
            fields = {"index": self._index, "delta": {"type": "signature_delta", "signature": signature}}
            out.append(_frame("content_block_delta", fields))
            self._blocks.stop(self._index, out)
        for seal in seals:
            self._blocks.write_block(redacted_block(seal), out)


class _ToolUseEncoder(_PartEncoder):
    """The encoder of a client tool's call."""

    __slots__ = ("_held_arguments", "_index", "_initial_seals", "_late_seals", "_prefix", "_started")

    def __init__(self, part: ir.ToolCall, blocks: _BlockWriter, out: list[bytes]) -> None:
        super().__init__(part, blocks)
        call_id = encode_call_id(part.call_id)
        for seal in part.seals:
            blocks.write_block(redacted_block_for_call(seal, call_id), out)
        block: JSONObject = {"type": "tool_use", "id": call_id, "name": part.name, "input": {}}
        if part.caller:
            block["caller"] = part.caller
        self._index = blocks.start(block, out)
        self._prefix = _DELTA % (self._index, b'"input_json_delta"', b'"partial_json"')
        self._held_arguments = ""
        self._initial_seals = part.seals
        self._late_seals: list[ir.Seal] = []
        self._started = False
        if part.arguments:
            self._write_arguments(part.arguments, out)

    def _write_arguments(self, text: str, out: list[bytes]) -> None:
        self._blocks.characters += len(text)
        if self._started:
            out.append(self._prefix + _json(text) + _END)
            return
        self._held_arguments += text
        if self._part_kind == "function" and self._held_arguments.lstrip()[:1] == "{":
            self._started = True
            out.append(self._prefix + _json(self._held_arguments) + _END)

    @property
    def _part_kind(self) -> str:
        assert isinstance(self._part, ir.ToolCall)
        return self._part.kind

    @override
    def delta(self, delta: object, out: list[bytes]) -> None:
        if type(delta) is ir.ArgumentsDelta:
            if self._started:
                text = delta.text
                self._blocks.characters += len(text)
                out.append(self._prefix + _json(text) + _END)
            else:
                self._write_arguments(delta.text, out)
        elif type(delta) is ir.SealDelta:
            self._late_seals.append(delta.seal)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        if not self._started:
            text = part.arguments if isinstance(part, ir.ToolCall) else self._held_arguments
            arguments = _json({"input": text}) if self._part_kind == "custom" else bytes(arguments_raw(text))
            out.append(self._prefix + _json(arguments.decode()) + _END)
        self._blocks.stop(self._index, out)
        assert isinstance(self._part, ir.ToolCall)
        restated = part.seals if isinstance(part, ir.ToolCall) else ()
        for seal in restated or self._late_seals:
            if seal not in self._initial_seals:
                self._blocks.write_block(redacted_block_for_call(seal, encode_call_id(self._part.call_id)), out)


class _ServerToolUseEncoder(_PartEncoder):
    """The encoder of a call that the upstream ran; writes it at its end."""

    __slots__ = ("_arguments",)

    def __init__(self, part: ir.ServerToolCall, blocks: _BlockWriter) -> None:
        super().__init__(part, blocks)
        self._arguments = part.arguments

    @override
    def delta(self, delta: object, out: list[bytes]) -> None:
        if type(delta) is ir.ArgumentsDelta:
            self._arguments += delta.text

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        call = part if isinstance(part, ir.ServerToolCall) else self._part
        assert isinstance(call, ir.ServerToolCall)
        block = server_tools.encode_call_for_client(call, {})
        if block is None:
            return
        self._blocks.web_searches += is_web_search(call)
        index = self._blocks.start(block, out)
        prefix = _DELTA % (index, b'"input_json_delta"', b'"partial_json"')
        out.append(prefix + _json(bytes(arguments_raw(call.arguments or self._arguments)).decode()) + _END)
        self._blocks.stop(index, out)


def _part_encoder(part: ir.Part, blocks: _BlockWriter, out: list[bytes]) -> _PartEncoder:
    match part:
        case ir.Text() | ir.Refusal():
            return _TextEncoder(part, blocks, out)
        case ir.ToolCall():
            return _ToolUseEncoder(part, blocks, out)
        case ir.Reasoning():
            return _ThinkingEncoder(part, blocks, out)
        case ir.ServerToolCall():
            return _ServerToolUseEncoder(part, blocks)
        case _:
            return _PartEncoder(part, blocks)
