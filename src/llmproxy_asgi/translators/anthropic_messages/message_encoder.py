"""Encode messages and parts for a Messages upstream.

Order rules: leading instructions go to `system`; the tool results of a step come first in the user message that follows
it; adjacent messages of one role are merged; the first message is the user's. State of another upstream is dropped with
a warning, never sent as text.
"""

from base64 import b64decode
from binascii import Error as NotBase64
from collections import Counter
from collections.abc import Iterable, Sequence

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import encode_citation, is_foreign
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.foreign_parts import describe_foreign_parts
from llmproxy_asgi.translators.hosted_tools import tool_kind
from llmproxy_asgi.translators.instructions import FIRST_TURN
from llmproxy_asgi.translators.losses import Losses, unread
from llmproxy_asgi.translators.names import CallIds, Renamer
from llmproxy_asgi.translators.pairing import MISSING_RESULT, arguments_object, arguments_raw, drop_empty, pair
from llmproxy_asgi.translators.seals import usable

_IMAGE_SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_LONG_LIFETIMES = frozenset({"30m", "1h", "12h", "24h"})


class MessagesMessageEncoder:
    """The message encoder of one request.

    `messages` and `system` hold the encoded fields; blocks with a cache mark are also listed in `marked`, in the order
    in which the upstream reads them.
    """

    def __init__(self, request: ir.Request, upstream: Upstream, names: Renamer, ids: CallIds, losses: Losses) -> None:
        self._request = request
        self._upstream = upstream
        self._capabilities = upstream.capabilities
        self._names = names
        self._ids = ids
        self._losses = losses
        self.system: list[JSONObject] = []
        self.messages: list[JSONObject] = []
        self.marked: list[JSONObject] = []
        self._postponed: list[JSONObject] = []
        self._role = "system"
        self._calls: Counter[str] = Counter()
        self._results: Counter[str] = Counter()
        self._repeated_ids: dict[str, str] = {}

    @property
    def call_ids(self) -> dict[str, str]:
        """Return a map from the encoded call ids to the caller's; only ids that differ."""
        return {
            upstream_id: self._repeated_ids.get(caller_id, caller_id)
            for upstream_id, caller_id in self._ids.table.items()
        }

    def write(self) -> None:
        """Encode the conversation.

        Raises:
            Unsupported: A part can't be expressed, or the model doesn't continue a trailing assistant message.
            BadRequest: A tool result matches no call.
        """
        paired = pair(drop_empty(self._request.messages, blank=True))
        self._losses.add(*paired.warnings)
        messages = self._without_leading_system(paired.messages)
        for message in messages:
            self._message(message)
        self._flush()
        self._check_last_message()

    # ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _without_leading_system(self, messages: Sequence[ir.Message]) -> Sequence[ir.Message]:
        count = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
        for message in messages[:count]:
            self._warn_about_name(message)
            self.system += self._blocks(message.parts)
        return messages[count:]

    def _message(self, message: ir.Message) -> None:
        self._warn_about_name(message)
        self._role = message.role
        if message.role == "system":
            self._midway_system(message)
            return
        if message.role != "tool":  # tool results come first, directly after the calls
            self._flush()
        self._append("assistant" if message.role == "assistant" else "user", self._blocks(message.parts))

    def _flush(self) -> None:
        """Append postponed instructions as user content."""
        blocks, self._postponed = self._postponed, []
        self._append("user", blocks)

    def _append(self, role: str, blocks: list[JSONObject]) -> None:
        """Append blocks as a message; merge them into the last message if it has the same role."""
        if not blocks:
            return
        if not self.messages and role == "assistant":
            self._add_first_user_turn()
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _add_first_user_turn(self) -> None:
        """Insert a first user message, which the vendor requires."""
        self.messages.append({"role": "user", "content": [{"type": "text", "text": FIRST_TURN}]})
        self._losses.add("emulated:first_user_turn")

    def _midway_system(self, message: ir.Message) -> None:
        """Encode an instruction within the conversation.

        It stays a system message if the model supports that and a user message precedes it; otherwise it becomes
        content of the next user message.
        """
        blocks = self._blocks(message.parts)
        previous_role = self.messages[-1]["role"] if self.messages else None
        if self._capabilities.system_midway and previous_role in {"user", "system"} and not self._postponed:
            native = message.extras.get(PROTOCOL, {})
            if previous_role == "system" and not native and not message.expires:
                self.messages[-1]["content"] += blocks
                return
            if previous_role == "user":
                expires = {"clear_at": message.expires} if message.expires else {}
                self.messages.append({"role": "system", "content": blocks, **expires, **native})
                return
        self._losses.add("downgraded:system_message")
        self._postponed += blocks

    def _check_last_message(self) -> None:
        if self.system and not self.messages:
            self._add_first_user_turn()
        if not self.messages:
            raise refusals.no_messages()
        last = self.messages[-1]
        if last["role"] != "assistant":
            return
        if any(block["type"] == "tool_use" for block in last["content"]):
            raise refusals.unanswered_calls()
        if not self._capabilities.prefill:
            raise refusals.prefill(self._request.model)

    def _warn_about_name(self, message: ir.Message) -> None:
        if message.name:
            self._losses.add("dropped:name")

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _blocks(self, parts: Iterable[ir.Part]) -> list[JSONObject]:
        blocks: list[JSONObject] = []
        for part in parts:
            block = self._block(part)
            if block is None:
                continue
            if part.cache_mark and block["type"] not in {"thinking", "redacted_thinking"}:
                self._mark(block, part.cache_mark)
            blocks.append(block)
        return blocks

    def _mark(self, block: JSONObject, mark: ir.CacheMark) -> None:
        if self._capabilities.cache_marks:
            block["cache_control"] = cache_control(mark)
            self.marked.append(block)

    def _block(self, part: ir.Part) -> JSONObject | None:
        if part.seals and not isinstance(part, ir.Reasoning):
            self._losses.add("dropped:reasoning")  # Anthropic accepts state on thinking blocks only
        match part:
            case ir.Text():
                return self._text(part)
            case ir.Refusal(text=text):
                return {"type": "text", "text": text} if text.strip() else None
            case ir.Reasoning():
                return self._reasoning(part)
            case ir.ToolCall():
                return self._tool_use(part)
            case ir.ToolResult():
                return self._tool_result(part)
            case ir.Media():
                return self._media(part)
            case ir.ServerToolCall() | ir.ServerToolResult():
                return self._server_tool(part)
            case ir.Opaque():
                return self._opaque(part)

    def _text(self, part: ir.Text) -> JSONObject:
        own = [citation for citation in part.citations if PROTOCOL in citation.extras]
        citations = [native for native in map(encode_citation, own) if native and not is_foreign(native)]
        # Only Anthropic's own citations are sent: others lack the index that it checks.
        rest = {"citations": citations} if citations else {}
        return {"type": "text", "text": part.text, **rest, **part.extras.get(PROTOCOL, {})}

    def _reasoning(self, part: ir.Reasoning) -> JSONObject | None:
        seal = next((seal for seal in part.seals if usable(seal, self._upstream)), None)
        if seal is None or seal.kind == "encrypted":
            if part.text or part.seals:
                self._losses.add("dropped:reasoning")
            return None
        return thinking_block(part.text, seal)

    def _tool_use(self, part: ir.ToolCall) -> JSONObject:
        custom = part.kind == "custom"
        return {
            "type": "tool_use",
            "id": self._call_id(part.call_id, self._calls),
            "name": self._names.outward(part.name, part.namespace),
            "input": {"input": part.arguments} if custom else arguments_raw(part.arguments),
            **({"caller": part.caller} if part.caller and self._request.protocol == PROTOCOL else {}),
            **part.extras.get(PROTOCOL, {}),
        }

    def _call_id(self, call_id: str, seen: Counter[str]) -> str:
        """Encode a call's id; derive a new one for each repetition, because Anthropic requires unique ids.

        Args:
            call_id: The caller's id.
            seen: How often each id occurred so far, among the calls or among the results. Calls and results have the
                same order.
        """
        seen[call_id] += 1
        if seen[call_id] < 2:
            return self._ids.outward(call_id)
        key = f"{call_id} {seen[call_id]}"
        self._repeated_ids[key] = call_id
        return self._ids.outward(key)

    def _tool_result(self, part: ir.ToolResult) -> JSONObject:
        content = self._blocks(describe_foreign_parts(part, PROTOCOL, self._losses).content)
        if part.is_error and not content:
            content = [{"type": "text", "text": MISSING_RESULT}]  # an error without content is refused
        return {
            "type": "tool_result",
            "tool_use_id": self._call_id(part.call_id, self._results),
            **({"content": content} if content else {}),
            **({"is_error": True} if part.is_error else {}),
            **part.extras.get(PROTOCOL, {}),
        }

    def _server_tool(self, part: ir.ServerToolCall | ir.ServerToolResult) -> JSONObject | None:
        block = None
        if server_tools.is_foreign_id(part.call_id):
            pass  # Anthropic refuses search results of another vendor
        elif isinstance(part, ir.ServerToolResult):
            block = server_tools.encode_result(part)
        elif self._request.protocol == PROTOCOL or PROTOCOL in part.extras:
            block = server_tools.encode_call(part, arguments_object(part.arguments))
        if block is None:
            self._losses.add(f"dropped:{tool_kind(part.tool)}")
        return block

    def _opaque(self, part: ir.Opaque) -> JSONObject | None:
        if part.protocol == PROTOCOL:
            return dict(part.data)
        warning = unread(part, self._role)
        if self._role != "assistant":
            raise refusals.unsupported_part(part.kind)
        self._losses.add(warning)
        return None

    # ── media ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _media(self, part: ir.Media) -> JSONObject:
        if part.kind == "image":
            if not self._capabilities.images:
                raise refusals.unsupported_input(self._request.model, "image")
            return {
                "type": "image",
                "source": _image_source(part, self._request.model),
                **part.extras.get(PROTOCOL, {}),
            }
        if part.kind != "document":
            raise refusals.unsupported_input(self._request.model, part.kind)
        if not self._capabilities.documents:
            raise refusals.unsupported_input(self._request.model, "document")
        native = part.extras.get(PROTOCOL, {})
        if native.get("type") == "search_result":
            return dict(native)
        title = part.title or part.name
        return {
            "type": "document",
            "source": _document_source(part, self._request.model),
            **({"title": title} if title else {}),
            **({"context": part.context} if part.context else {}),
            **native,
        }


def thinking_block(text: str, seal: ir.Seal) -> JSONObject:
    """Return the thinking block for a seal of this upstream."""
    if seal.kind == "redacted":
        return {"type": "redacted_thinking", "data": seal.data}
    return {"type": "thinking", "thinking": text, "signature": seal.data}


def cache_control(mark: ir.CacheMark) -> JSONObject:
    """Encode a cache mark."""
    if mark.lifetime is None:
        return {"type": "ephemeral"}
    return {"type": "ephemeral", "ttl": "1h" if mark.lifetime in _LONG_LIFETIMES else "5m"}


def _reference_source(source: ir.Link | ir.StoredFile) -> JSONObject:
    if isinstance(source, ir.Link):
        return {"type": "url", "url": source.url}
    if source.protocol != PROTOCOL:
        raise refusals.foreign_reference()
    return {"type": "file", "file_id": source.id}


def _image_source(part: ir.Media, model: str) -> JSONObject:
    match part.source:
        case ir.InlineData(data=data):
            media_type = _detect_image_type(data) or part.media_type
            if media_type not in _IMAGE_TYPES:
                raise refusals.unsupported_format(model, "image", "JPEG, PNG, GIF or WebP")
            return {"type": "base64", "media_type": media_type, "data": data}
        case ir.PlainText():
            raise refusals.unsupported_format(model, "image", "its data")
        case source:
            return _reference_source(source)


def _document_source(part: ir.Media, model: str) -> JSONObject:
    match part.source:
        case ir.PlainText(text=text):
            return {"type": "text", "media_type": "text/plain", "data": text}
        case ir.InlineData(data=data):
            if data.startswith("JVBER") or part.media_type == "application/pdf":  # %PDF
                return {"type": "base64", "media_type": "application/pdf", "data": data}
            return {"type": "text", "media_type": "text/plain", "data": _document_text(part, data, model)}
        case source:
            return _reference_source(source)


def _document_text(part: ir.Media, data: str, model: str) -> str:
    kind = part.media_type or ""
    if kind.startswith("text/") or kind in {"application/json", "application/xml"}:
        try:
            return b64decode(data, validate=True).decode()
        except (NotBase64, ValueError):
            pass
    raise refusals.unsupported_format(model, "document", "PDF or plain text")


def _detect_image_type(data: str) -> str | None:
    """Return the image type by the data's first bytes; callers often send a wrong media type."""
    try:
        head = b64decode(data[:24])
    except (NotBase64, ValueError):
        return None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _IMAGE_SIGNATURES.items() if head.startswith(magic)), None)
