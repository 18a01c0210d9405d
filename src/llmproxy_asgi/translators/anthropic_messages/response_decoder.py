"""Decode responses of a Messages upstream: content blocks, and complete responses."""

from datetime import datetime
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.mappings import decode_finish
from llmproxy_asgi.translators.anthropic_messages.schema import ABSENT, BLOCK, MESSAGE, PROTOCOL, Block, Message
from llmproxy_asgi.translators.anthropic_messages.usage import decode_tier, decode_usage
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.pairing import is_object
from llmproxy_asgi.translators.stray_errors import read_loosely
from llmproxy_asgi.translators.surrogates import decode_replaced


class MessagesBlockDecoder:
    """The content block decoder of one response; restores the request's tool names and ids, and adds seals."""

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._upstream_request = upstream_request
        self._upstream = upstream
        self._calls = 0
        self._ids = DistinctIds(upstream_request.nonce)
        self.arguments: list[str] = []
        """The arguments of the streamed calls that have ended."""

    @property
    def complete(self) -> bool:
        """Return whether the arguments of all calls are complete."""
        return all(map(is_object, self.arguments))

    @property
    def has_calls(self) -> bool:
        """Return whether the response has a tool call."""
        return self._calls > 0

    def seal(self, data: str, *, redacted: bool = False) -> ir.Seal:
        """Create a seal for state of this upstream."""
        return ir.Seal(
            issuer=self._upstream.issuer,
            model=self._upstream.model,
            kind="redacted" if redacted else "signature",
            data=data,
        )

    def is_emulated(self, name: str) -> bool:
        """Return whether the tool of this upstream name emulates a free-text tool."""
        return name in self._upstream_request.emulated

    def call(self, block: Block, arguments: str) -> ir.ToolCall:
        """Decode a tool call with its arguments as JSON text.

        Raises:
            UpstreamProtocolError: The call has no name.
        """
        name = block.name
        if not name:
            raise UpstreamProtocolError("The upstream made a call without a name.")
        self._calls += 1
        emulated = self.is_emulated(name)
        call_id = self._ids.of(block.id or "", name, str(self._calls))
        return ir.ToolCall(
            call_id=self._upstream_request.call_ids.get(call_id, call_id),
            name=self._upstream_request.names.get(name, name),
            namespace=self._upstream_request.namespaces.get(name),
            arguments=unwrapped_input(arguments) if emulated else arguments,
            kind="custom" if emulated else "function",
            caller=block.caller,
        )

    def part(self, raw: msgspec.Raw) -> ir.Part:
        """Decode a complete block."""
        block = BLOCK.decode(raw)
        match block.type:
            case "text":
                return text_part(block)
            case "tool_use":
                return self.call(block, arguments_text(block))
            case "thinking":
                seals = (self.seal(block.signature),) if block.signature else ()
                return ir.Reasoning(text=block.thinking or "", seals=seals)
            case "redacted_thinking":
                return ir.Reasoning(redacted=True, seals=(self.seal(block.data or "", redacted=True),))
            case "server_tool_use":
                return server_call(block, arguments_text(block))
            case kind:
                native = native_block(raw)
                if server_tools.is_result(kind):
                    return server_tools.decode_result(native)
                return ir.Opaque(protocol=PROTOCOL, kind=kind, data=native)


def native_block(raw: msgspec.Raw) -> JSONObject:
    """Decode a block into plain JSON values."""
    native: JSONObject = msgspec.json.decode(raw, type=dict[str, Any])
    return native


def arguments_text(block: Block) -> str:
    """Return a call's arguments as the upstream's own JSON text."""
    text = bytes(block.input).decode().strip() if block.input is not ABSENT else ""
    return "{}" if text in {"", "null"} else text


def text_part(block: Block) -> ir.Text:
    """Decode a text block and its citations."""
    text = block.text or ""
    return ir.Text(text=text, citations=tuple(decode_citation(entry, len(text)) for entry in block.citations or ()))


def server_call(block: Block, arguments: str) -> ir.ServerToolCall:
    """Decode a tool call that the upstream made and ran."""
    native = {"caller": block.caller} if block.caller else {"name": block.name or ""}
    return ir.ServerToolCall(
        call_id=block.id or "",
        tool=server_tools.canonical_name(block.name or ""),
        arguments=arguments,
        extras={PROTOCOL: native},
    )


def decode_response(
    body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, received_at: datetime
) -> ir.Response:
    """Decode a complete response.

    Raises:
        UpstreamError: The body is no response, or is an error.
    """
    response = decode_response_body(body)
    blocks = MessagesBlockDecoder(upstream_request, upstream)
    try:
        parts = tuple(map(blocks.part, response.content or ()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UpstreamProtocolError("The upstream's answer holds a block that cannot be read.") from None
    usage = response.usage or {}
    return ir.Response(
        id=response.id or "",
        model=upstream.client_model,
        created_at=received_at,
        candidates=(
            ir.Candidate(
                parts=parts,
                finish=decode_finish(
                    response.stop_reason,
                    response.stop_sequence,
                    response.stop_details,
                    has_calls=blocks.has_calls,
                    complete=blocks.complete,
                ),
            ),
        ),
        usage=decode_usage(usage),
        service_tier=decode_tier(usage),
        extras={PROTOCOL: {"container": response.container}} if response.container else ir.EMPTY,
        nonce=upstream_request.nonce,
    )


def decode_response_body(body: bytes) -> Message:
    """Decode and check the top level of a complete response; its blocks stay raw.

    Raises:
        UpstreamError: The body is no response, or is an error.
    """
    try:
        response = decode_replaced(MESSAGE, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise error_in(body) or UpstreamProtocolError("The upstream's answer cannot be read.") from None
    if response.error is not None or response.type == "error":
        raise stream_error(read_loosely(body))
    if response.content is None and (error := error_in(body)) is not None:
        raise error
    if response.content is None:
        raise UpstreamProtocolError("The upstream's answer holds no content.")
    return response
