"""Decode `system` and `messages` of a caller's request into messages and parts.

Strict where Anthropic is (types, required fields, roles); each error names the field's path. Unknown blocks become
`Opaque` parts in the same position. A user message that mixes tool results and other blocks becomes a tool message
followed by a user message.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.reasoning import decode_redacted, decode_thinking
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.fields import Node

_ROLES = ("user", "assistant", "system")
_LIFETIMES: tuple[ir.CacheLifetime, ...] = ("5m", "1h")
_ASSISTANT_BLOCKS = frozenset({"tool_use", "thinking", "redacted_thinking", "server_tool_use"})
_EMPTY_TEXT = ir.Text(text="")

_MESSAGE_FIELDS = frozenset({"role", "content"})
_SYSTEM_FIELDS = _MESSAGE_FIELDS | {"clear_at"}
_BLOCK_FIELDS = frozenset({"type", "cache_control"})
_TEXT_FIELDS = _BLOCK_FIELDS | {"text", "citations"}
_IMAGE_FIELDS = _BLOCK_FIELDS | {"source"}
_DOCUMENT_FIELDS = _IMAGE_FIELDS | {"title", "context"}
_SERVER_CALL_FIELDS = _BLOCK_FIELDS | {"id", "name", "input"}
_CALL_FIELDS = _SERVER_CALL_FIELDS | {"caller"}
_RESULT_FIELDS = _BLOCK_FIELDS | {"tool_use_id", "content", "is_error"}


def decode_system(system: Node) -> ir.Message | None:
    """Decode the system prompt; its text blocks stay separate parts, each with its cache mark."""
    if type(system.value) is str:
        parts: tuple[ir.Part, ...] = (ir.Text(text=system.value),) if system.value else ()
    else:
        parts = tuple(
            _text(block) if block.required_text("type") == "text" else _opaque(block) for block in system.array()
        )
    return ir.Message(role="system", authority="system", parts=parts) if parts else None


def decode_messages(messages: Node) -> Iterator[ir.Message]:
    """Decode all messages in order."""
    entries = messages.array()
    if not entries:
        messages.fail("at least one message is required.")
    for message in entries:
        if (plain := _plain_message(message.value)) is not None:
            yield plain
            continue
        role = message.required_choice("role", _ROLES)
        parts = tuple(_parts(message.need("content"), role))
        if role == "user":
            yield from _user(message, parts)
        elif role == "assistant":
            extras = message.extras(PROTOCOL, _MESSAGE_FIELDS)
            yield ir.Message(role="assistant", parts=_attach_call_seals(parts), extras=extras)
        else:
            yield ir.Message(
                role="system",
                authority="system",
                parts=parts,
                expires=message.optional_text("clear_at"),
                extras=message.extras(PROTOCOL, _SYSTEM_FIELDS),
            )


def _plain_message(message: object) -> ir.Message | None:
    """Decode a message with string content, the most common kind; None for any other."""
    if type(message) is not dict or len(message) != 2:
        return None
    role, content = message.get("role"), message.get("content")
    if type(content) is not str or role not in ("user", "assistant"):
        return None
    return ir.Message(role=role, parts=(ir.Text(text=content),))


def _user(message: Node, parts: tuple[ir.Part, ...]) -> Iterable[ir.Message]:
    results = tuple(part for part in parts if type(part) is ir.ToolResult)
    rest = tuple(part for part in parts if type(part) is not ir.ToolResult) if results else parts
    if results:
        yield ir.Message(role="tool", parts=results)
    if rest or not results:
        yield ir.Message(role="user", parts=rest, extras=message.extras(PROTOCOL, _MESSAGE_FIELDS))


def _attach_call_seals(parts: tuple[ir.Part, ...]) -> tuple[ir.Part, ...]:
    """Move state that was encoded before its call back to the call; Anthropic's calls can't carry state."""
    if not any(map(_is_bare_seal, parts)):
        return parts
    calls = {part.call_id for part in parts if type(part) is ir.ToolCall}
    seals_by_call = {
        part.seals[0].item_id: part.seals for part in parts if _is_bare_seal(part) and part.seals[0].item_id in calls
    }
    if not seals_by_call:
        return parts
    kept: list[ir.Part] = []
    for part in parts:
        if _is_bare_seal(part) and part.seals[0].item_id in seals_by_call:
            continue
        if type(part) is ir.ToolCall and part.call_id in seals_by_call:
            seals = tuple(msgspec.structs.replace(seal, item_id=None) for seal in seals_by_call[part.call_id])
            kept.append(msgspec.structs.replace(part, seals=seals))
        else:
            kept.append(part)
    return tuple(kept)


def _is_bare_seal(part: ir.Part) -> bool:
    return type(part) is ir.Reasoning and not part.text and bool(part.seals)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(content: Node, role: str) -> Iterable[ir.Part]:
    if type(content.value) is str:
        return (ir.Text(text=content.value),)
    if type(content.value) is not list:
        content.refuse("a string or an array")
    return [_part(block, role) for block in content.array()]


def _part(block: Node, role: str) -> ir.Part:
    kind = block.required_text("type")
    if kind == "text" and len(block.value) == 2:  # the most common block
        return ir.Text(text=block.required_text("text"))
    if kind == "tool_result" and role != "user":
        block.fail("tool results are only allowed in user messages.")
    if kind in _ASSISTANT_BLOCKS and role != "assistant":
        block.fail(f"{kind} blocks are only allowed in assistant messages.")
    decode = _DECODERS.get(kind)
    if decode is not None:
        return decode(block)
    return server_tools.decode_result(block.object()) if server_tools.is_result(kind) else _opaque(block)


def _opaque(block: Node) -> ir.Opaque:
    return ir.Opaque(protocol=PROTOCOL, kind=block.required_text("type"), data=block.object())


def _text(block: Node) -> ir.Text:
    text = block.required_text("text")
    return ir.Text(
        text=text,
        citations=tuple(decode_citation(each.object(), len(text)) for each in block.optional_array("citations")),
        cache_mark=cache_mark(block),
        extras=block.extras(PROTOCOL, _TEXT_FIELDS),
    )


def _image(block: Node) -> ir.Media:
    source, media_type = _source(block.need("source"))
    return ir.Media(
        kind="image",
        source=source,
        media_type=media_type,
        cache_mark=cache_mark(block),
        extras=block.extras(PROTOCOL, _IMAGE_FIELDS),
    )


def _document(block: Node) -> ir.Media | ir.Opaque:
    given = block.need("source")
    extras = block.extras(PROTOCOL, _DOCUMENT_FIELDS)
    if given.required_text("type") == "content":
        text = _joined_text(given.need("content"))
        if text is None:
            return _opaque(block)
        source: ir.Source = ir.PlainText(text=text)
        media_type: str | None = "text/plain"
        extras = {PROTOCOL: {**extras.get(PROTOCOL, {}), "source": given.object()}}
    else:
        source, media_type = _source(given)
    return ir.Media(
        kind="document",
        source=source,
        media_type=media_type,
        title=block.optional_text("title"),
        context=block.optional_text("context"),
        cache_mark=cache_mark(block),
        extras=extras,
    )


def _search_result(block: Node) -> ir.Media:
    texts = [_text(part).text for part in block.required_array("content") if part.required_choice("type", ("text",))]
    return ir.Media(
        kind="document",
        source=ir.PlainText(text="\n".join(texts)),
        media_type="text/plain",
        title=block.required_text("title"),
        context=block.required_text("source"),
        cache_mark=cache_mark(block),
        extras={PROTOCOL: block.rest({"cache_control"})},
    )


def _joined_text(content: Node) -> str | None:
    """Return the text of a document's content blocks; None if a block is not text."""
    if type(content.value) is str:
        return content.value
    blocks = content.array()
    if any(block.required_text("type") != "text" for block in blocks):
        return None
    return "\n".join(block.required_text("text") for block in blocks)


def _source(source: Node) -> tuple[ir.Source, str | None]:
    match source.required_choice("type", ("base64", "url", "file", "text")):
        case "url":
            return ir.Link(url=source.required_text("url")), None
        case "file":
            return ir.StoredFile(protocol=PROTOCOL, id=source.required_text("file_id")), None
        case "text":
            data, media_type = source.required_text("data"), source.optional_text("media_type")
            return ir.PlainText(text=data), "text/plain" if media_type is None else media_type
        case _:
            return ir.InlineData(data=source.required_text("data")), source.required_text("media_type")


def _thinking(block: Node) -> ir.Reasoning:
    return decode_thinking(block.required_text("thinking"), block.optional_text("signature") or "")


def _redacted_thinking(block: Node) -> ir.Reasoning:
    return decode_redacted(block.required_text("data"))


def _server_call(block: Node) -> ir.ServerToolCall:
    return ir.ServerToolCall(
        call_id=block.required_text("id"),
        tool=server_tools.canonical_name(block.required_text("name")),
        arguments=_arguments(block),
        extras=block.extras(PROTOCOL, _SERVER_CALL_FIELDS),
        cache_mark=cache_mark(block),
    )


def _call(block: Node) -> ir.ToolCall:
    return ir.ToolCall(
        call_id=block.required_text("id"),
        name=block.required_text("name"),
        arguments=_arguments(block),
        caller=block.optional_object("caller"),
        extras=block.extras(PROTOCOL, _CALL_FIELDS),
        cache_mark=cache_mark(block),
    )


def _arguments(block: Node) -> str:
    return msgspec.json.encode(block.optional_object("input") or {}).decode()


def _tool_result(block: Node) -> ir.ToolResult:
    content = block.get("content")
    parts = _parts(content, "user") if content else ()
    return ir.ToolResult(
        call_id=block.required_text("tool_use_id"),
        content=tuple(_result_part(part) for part in parts if part != _EMPTY_TEXT),
        is_error=block.optional_boolean("is_error") or False,
        cache_mark=cache_mark(block),
        extras=block.extras(PROTOCOL, _RESULT_FIELDS),
    )


def _result_part(part: ir.Part) -> ir.ResultPart:
    """Return a part as content of a tool result; parts that can't be one become `Opaque`."""
    if isinstance(part, ir.ResultPart):
        return part
    data = part.extras.get(PROTOCOL, {})
    return ir.Opaque(
        protocol=PROTOCOL, kind=str(data.get("type") or "part"), data=dict(data), cache_mark=part.cache_mark
    )


_DECODERS: Mapping[str, Callable[[Node], ir.Part]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "thinking": _thinking,
    "redacted_thinking": _redacted_thinking,
    "server_tool_use": _server_call,
    "tool_use": _call,
    "tool_result": _tool_result,
}
"""The decoders of blocks; other blocks become `Opaque`, or the result of a server tool."""


def decode_mark(control: Node) -> ir.CacheMark:
    """Decode a `cache_control` object."""
    control.required_choice("type", ("ephemeral",))
    return ir.CacheMark(lifetime=control.optional_choice("ttl", _LIFETIMES))


def cache_mark(node: Node) -> ir.CacheMark | None:
    """Decode the cache mark of a block or a tool."""
    control = node.get("cache_control")
    return decode_mark(control) if control else None
