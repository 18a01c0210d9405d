"""Encode streams for Anthropic's clients.

Anthropic never interleaves content blocks and its clients rely on it, so overlapping parts are written in sequence.

Text, thinking and argument fragments are written at once: a prefix that is built once per block, the text as JSON, a
suffix. Sent fragments can't be revoked, so invalid arguments can be corrected only if the start shows it: a call whose
first character is not `{` is buffered and written as an object at its end.
"""

import re
from collections.abc import Iterable
from typing import ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError
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
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.parts import CandidateState, PartEncoder, PartWriter
from llmproxy_asgi.translators.pairing import arguments_raw
from llmproxy_asgi.wire import sse

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_json = msgspec.json.Encoder().encode
_END = b"}}\n\n"
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b,%b:'


def _frame(name: str, fields: JSONObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **fields}))


class MessagesStreamEncoder(PartEncoder):
    """The encoder of one stream."""

    one_candidate = True
    sequenced = (ir.PartBase,)

    def __init__(self, inbound_request: InboundRequest) -> None:
        super().__init__()
        self._model = inbound_request.model
        self._size = inbound_request.size
        self.blocks = 0
        """Content blocks so far."""
        self.characters = 0
        """Characters of content, for an estimate if the upstream reports no usage."""
        self.refusal: ir.Refusal | None = None
        self.web_searches = 0

    @override
    def start(self, event: ir.Started) -> None:
        usage = event.usage if event.usage and event.usage.input else estimated_input(self._size)
        message = message_start(event.id, event.nonce, self._model or event.model, usage)
        self.out.append(b"event: message_start\ndata: %b\n\n" % message)

    @override
    def writer(self, candidate: CandidateState, part: ir.Part) -> PartWriter:
        match part:
            case ir.Text() | ir.Refusal():
                return _TextWriter(self, part)
            case ir.ToolCall():
                return _ToolUseWriter(self, part)
            case ir.Reasoning():
                return _ThinkingWriter(self, part)
            case ir.ServerToolCall():
                return _ServerToolUseWriter(self, part)
            case _:
                return _BlockWriter(self, part)

    @override
    def end(self) -> None:
        self.end_open_parts()
        usage = self.usage or estimated_input(self._size)
        if not self.usage_reported:
            usage = msgspec.structs.replace(usage, output=max(usage.output, -(-self.characters // 4)))
        usage = with_searches(usage, self.web_searches)
        delta = encode_stop_reason(self.candidate(0).finish, self.refusal)
        self.out.append(_frame("message_delta", {"delta": delta, "usage": encode_usage(usage, self.tier)}))
        self.out.append(_STOP)

    @override
    def fail(self, error: GatewayError) -> None:
        # An open block stays open: an incomplete block must not look complete.
        self.out.append(sse.encode(error_body(error), "error"))

    @override
    def forward(self, event: ir.Passed) -> None:
        if event.protocol == PROTOCOL and event.name is not None and _NAME.fullmatch(event.name):
            self.out.append(sse.encode(event.data, event.name))


class _BlockWriter(PartWriter):
    """The writer of one part; this base class writes complete blocks, if any, at the part's end."""

    def __init__(self, encoder: MessagesStreamEncoder, part: ir.Part) -> None:
        super().__init__(part, encoder.out)
        self.encoder = encoder
        self.block = -1
        """The index of the part's block, once it has started."""

    def start_block(self, block: JSONObject) -> None:
        """Start a block."""
        self.block = self.encoder.blocks
        self.encoder.blocks += 1
        self.out.append(_frame("content_block_start", {"index": self.block, "content_block": block}))

    def write_delta(self, delta: JSONObject) -> None:
        """Write a delta of the block."""
        self.out.append(_frame("content_block_delta", {"index": self.block, "delta": delta}))

    def stop_block(self) -> None:
        """End the block."""
        self.out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self.block)

    def write_block(self, block: JSONObject) -> None:
        """Write a complete block."""
        self.start_block(block)
        self.stop_block()

    @override
    def end(self, part: ir.Part) -> None:
        for block in encode_blocks(part):
            self.write_block(block)


class _TextWriter(_BlockWriter):
    """The writer of text and refusals; starts the block with the first text: Anthropic refuses empty text blocks."""

    empty: ClassVar[JSONObject] = {"type": "text", "text": ""}
    names: ClassVar[tuple[bytes, bytes]] = (b'"text_delta"', b'"text"')

    @override
    def start(self) -> None:
        self.keeps = isinstance(self.part, ir.Refusal)
        super().start()

    def start_text(self) -> None:
        """Start the block, unless it has started."""
        if self.block < 0:
            self.start_block(self.empty)
            self.prefix, self.suffix = _DELTA % (self.block, *self.names), _END

    @override
    def write(self, text: str) -> None:
        self.start_text()
        self.out.append(self.prefix + _json(text) + _END)

    @override
    def cite(self, citation: ir.Citation) -> None:
        native = encode_citation(citation)
        if native is not None:
            self.start_text()
            self.write_delta({"type": "citations_delta", "citation": native})

    @override
    def end(self, part: ir.Part) -> None:
        self.encoder.characters += self.length
        if isinstance(part, ir.Refusal):
            self.encoder.refusal = msgspec.structs.replace(part, text="".join(self.pieces))
        if self.block >= 0:
            self.stop_block()


class _ThinkingWriter(_TextWriter):
    """The writer of reasoning; starts the block with the first text or at the end, when its type is known."""

    empty: ClassVar[JSONObject] = {"type": "thinking", "thinking": "", "signature": ""}
    names = (b'"thinking_delta"', b'"thinking"')

    @override
    def end(self, part: ir.Part) -> None:
        seals = tuple(self.seals)
        if needs_thinking_block("", seals):
            self.start_text()
        if self.block >= 0:
            self.write_delta({"type": "signature_delta", "signature": encode_signature(seals[0] if seals else None)})
            seals = seals[1:]
        super().end(part)
        for seal in seals:
            self.write_block(redacted_block(seal))


class _ToolUseWriter(_BlockWriter):
    """The writer of a client tool's call."""

    part: ir.ToolCall

    @override
    def start(self) -> None:
        part = self.part
        self._write_seals(part.seals)
        block: JSONObject = {"type": "tool_use", "id": encode_call_id(part.call_id), "name": part.name, "input": {}}
        self.start_block({**block, "caller": part.caller} if part.caller else block)
        super().start()

    def _write_seals(self, seals: Iterable[ir.Seal]) -> None:
        for seal in seals:
            self.write_block(redacted_block_for_call(seal, encode_call_id(self.part.call_id)))

    @override
    def write(self, text: str) -> None:
        if self.part.kind == "function" and text.lstrip()[:1] == "{" and not "".join(self.pieces[:-1]).strip():
            self._write_arguments("".join(self.pieces))
            self.keeps = False

    def _write_arguments(self, text: str) -> None:
        self.prefix, self.suffix = _DELTA % (self.block, b'"input_json_delta"', b'"partial_json"'), _END
        self.out.append(self.prefix + _json(text) + _END)

    @override
    def restate(self, text: str) -> None:
        """Leave them to `end`, which can still correct them."""

    @override
    def end(self, part: ir.Part) -> None:
        self.encoder.characters += self.length
        if not self.prefix:
            text = self.arguments(part)
            arguments = _json({"input": text}) if self.part.kind == "custom" else bytes(arguments_raw(text))
            self._write_arguments(arguments.decode())
        self.stop_block()
        self._write_seals(seal for seal in self.seals if seal not in self.part.seals)


class _ServerToolUseWriter(_BlockWriter):
    """The writer of a call that the upstream ran; writes it at its end."""

    @override
    def end(self, part: ir.Part) -> None:
        assert isinstance(part, ir.ServerToolCall)
        block = server_tools.encode_call_for_client(part, {})
        if block is None:
            return
        self.encoder.web_searches += is_web_search(part)
        self.start_block(block)
        prefix = _DELTA % (self.block, b'"input_json_delta"', b'"partial_json"')
        self.out.append(prefix + _json(bytes(arguments_raw(self.arguments(part))).decode()) + _END)
        self.stop_block()
