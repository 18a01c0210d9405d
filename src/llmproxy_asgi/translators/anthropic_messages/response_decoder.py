"""Answers of an upstream that speaks Messages: the blocks they are made of, and the whole answer."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from llmproxy_asgi.conversation import (
    EMPTY,
    Candidate,
    Finish,
    FinishReason,
    JSONObject,
    Opaque,
    Part,
    Reasoning,
    Response,
    Seal,
    ServerToolCall,
    Text,
    ToolCall,
)
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.errors import error_in, stream_error
from llmproxy_asgi.translators.anthropic_messages.schema import ABSENT, ANSWER, BLOCK, PROTOCOL, Answer, Block
from llmproxy_asgi.translators.anthropic_messages.usage import decode_tier, decode_usage
from llmproxy_asgi.translators.base import Outgoing, Upstream
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.pairing import is_object
from llmproxy_asgi.translators.stray_errors import read_loosely
from llmproxy_asgi.translators.surrogates import decode_replaced

_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "tool_use": FinishReason.TOOL_CALLS,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.CONTEXT_LENGTH,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.PAUSE,
    "compaction": FinishReason.COMPACTION,
}


def is_known(reason: str | None) -> bool:
    """Whether a stop reason has a meaning here."""
    return reason in _REASONS


def decode_finish(
    reason: str | None,
    sequence: str | None,
    details: Mapping[str, Any] | None,
    *,
    called: bool | None = None,
    whole: bool = False,
) -> Finish:
    """Why an answer ended; unknown words stay readable beside `unknown`.

    Args:
        reason: The upstream's word.
        sequence: What stopped it.
        details: What it says of a refusal.
        called: Whether it holds calls, if that is known: some servers say `end_turn` over them, or `tool_use` without.
        whole: Whether those calls are complete, so that a word which is not known asks for them.
    """
    word = _REASONS.get(reason or "", FinishReason.UNKNOWN)
    if called and (word is FinishReason.STOP or (whole and word is FinishReason.UNKNOWN)):
        word = FinishReason.TOOL_CALLS
    elif called is False and word is FinishReason.TOOL_CALLS:
        word = FinishReason.STOP
    explanation = details.get("explanation") if details else None
    category = details.get("category") if details else None
    return Finish(
        reason=word,
        native=reason,
        stop_sequence=sequence,
        message=explanation if isinstance(explanation, str) else None,
        category=category if isinstance(category, str) else None,
    )


class Blocks:
    """Reads blocks of one answer: with the names and ids of the request, and sealed by its upstream."""

    def __init__(self, outgoing: Outgoing, upstream: Upstream) -> None:
        self._outgoing = outgoing
        self._upstream = upstream
        self._calls = 0
        self._ids = DistinctIds(outgoing.nonce)
        self.arguments: list[str] = []
        """Of the calls that were streamed and have ended."""

    @property
    def whole(self) -> bool:
        """Whether the arguments of all calls are complete."""
        return all(map(is_object, self.arguments))

    @property
    def called(self) -> bool:
        """Whether one of them was a call."""
        return self._calls > 0

    def seal(self, data: str, *, redacted: bool = False) -> Seal:
        """State that this upstream made."""
        return Seal(
            issuer=self._upstream.issuer,
            model=self._upstream.model,
            kind="redacted" if redacted else "signature",
            data=data,
        )

    def is_emulated(self, name: str) -> bool:
        """Whether an upstream's call of this name stands for a free-text tool."""
        return name in self._outgoing.emulated

    def call(self, block: Block, arguments: str) -> ToolCall:
        """A call with its arguments as JSON text.

        Raises:
            UpstreamProtocolError: It has no name.
        """
        name = block.name
        if not name:
            raise UpstreamProtocolError("The upstream made a call without a name.")
        self._calls += 1
        emulated = self.is_emulated(name)
        call_id = self._ids.of(block.id or "", name, str(self._calls))
        return ToolCall(
            call_id=self._outgoing.call_ids.get(call_id, call_id),
            name=self._outgoing.names.get(name, name),
            namespace=self._outgoing.namespaces.get(name),
            arguments=unwrapped_input(arguments) if emulated else arguments,
            kind="custom" if emulated else "function",
            caller=block.caller,
        )

    def part(self, raw: msgspec.Raw) -> Part:
        """A whole block."""
        block = BLOCK.decode(raw)
        match block.type:
            case "text":
                return text_part(block)
            case "tool_use":
                return self.call(block, arguments_of(block))
            case "thinking":
                seals = (self.seal(block.signature),) if block.signature else ()
                return Reasoning(text=block.thinking or "", seals=seals)
            case "redacted_thinking":
                return Reasoning(redacted=True, seals=(self.seal(block.data or "", redacted=True),))
            case "server_tool_use":
                return server_call(block, arguments_of(block))
            case kind:
                native = native_block(raw)
                if server_tools.is_result(kind):
                    return server_tools.decode_result(native)
                return Opaque(protocol=PROTOCOL, kind=kind, data=native)


def native_block(raw: msgspec.Raw) -> JSONObject:
    """A block as it is."""
    native: JSONObject = msgspec.json.decode(raw, type=dict[str, Any])
    return native


def arguments_of(block: Block) -> str:
    """A call's arguments, in the upstream's own spelling."""
    text = bytes(block.input).decode().strip() if block.input is not ABSENT else ""
    return "{}" if text in {"", "null"} else text


def text_part(block: Block) -> Text:
    """A text and its citations."""
    text = block.text or ""
    return Text(text=text, citations=tuple(decode_citation(entry, len(text)) for entry in block.citations or ()))


def server_call(block: Block, arguments: str) -> ServerToolCall:
    """A call that the upstream made and ran itself."""
    native = {"caller": block.caller} if block.caller else {"name": block.name or ""}
    return ServerToolCall(
        call_id=block.id or "",
        tool=server_tools.canonical(block.name or ""),
        arguments=arguments,
        extras={PROTOCOL: native},
    )


def decode_answer(body: bytes, outgoing: Outgoing, upstream: Upstream, received_at: datetime) -> Response:
    """A whole answer.

    Raises:
        UpstreamError: It is none, or an error.
    """
    answer = read_answer(body)
    blocks = Blocks(outgoing, upstream)
    try:
        parts = tuple(map(blocks.part, answer.content or ()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UpstreamProtocolError("The upstream's answer holds a block that cannot be read.") from None
    usage = answer.usage or {}
    return Response(
        id=answer.id or "",
        model=upstream.asked,
        created_at=received_at,
        candidates=(
            Candidate(
                parts=parts,
                finish=decode_finish(
                    answer.stop_reason,
                    answer.stop_sequence,
                    answer.stop_details,
                    called=blocks.called,
                    whole=blocks.whole,
                ),
            ),
        ),
        usage=decode_usage(usage),
        service_tier=decode_tier(usage),
        extras={PROTOCOL: {"container": answer.container}} if answer.container else EMPTY,
        nonce=outgoing.nonce,
    )


def read_answer(body: bytes) -> Answer:
    """The top of a whole answer, checked.

    Raises:
        UpstreamError: It is none, or an error.
    """
    try:
        answer = decode_replaced(ANSWER, body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise error_in(body) or UpstreamProtocolError("The upstream's answer cannot be read.") from None
    if answer.error is not None or answer.type == "error":
        raise stream_error(read_loosely(body))
    if answer.content is None and (error := error_in(body)) is not None:
        raise error
    if answer.content is None:
        raise UpstreamProtocolError("The upstream's answer holds no content.")
    return answer
