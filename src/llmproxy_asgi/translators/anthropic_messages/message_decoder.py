"""Decode `system` and `messages` of a caller's request into messages and parts.

Strict where Anthropic is (types, required fields, roles); each error names the field's path. Unknown blocks become
`Opaque` parts in the same position. A user message that mixes tool results and other blocks becomes a tool message
followed by a user message.
"""

from collections.abc import Iterable, Sequence

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.reasoning import decode_redacted, decode_thinking
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.fields import Node

_LIFETIMES: dict[str, ir.CacheLifetime] = {"5m": "5m", "1h": "1h"}


def decode_system(system: Node) -> ir.Message | None:
    """Decode the system prompt; its text blocks stay separate parts, each with its cache mark."""
    if type(system.value) is str:
        parts: tuple[ir.Part, ...] = (ir.Text(text=system.value),) if system.value else ()
    else:
        parts = tuple(_system_part(block) for block in system.array())
    return ir.Message(role="system", authority="system", parts=parts) if parts else None


def _system_part(block: Node) -> ir.Part:
    kind = block.need("type").text()
    if kind != "text":
        return _opaque(block, kind)
    return _text(block)


def decode_messages(messages: Node) -> Iterable[ir.Message]:
    """Decode all messages in order."""
    entries = messages.array()
    if not entries:
        messages.fail("at least one message is required.")
    for message in entries:
        if (plain := _plain_message(message.value)) is not None:
            yield plain
            continue
        role = message.need("role").choice(("user", "assistant", "system"))
        parts = list(_parts(message.need("content"), role))
        if role == "user":
            yield from _user(message, parts)
        elif role == "assistant":
            yield ir.Message(role="assistant", parts=_attach_call_seals(parts), extras=_extras(message, _MESSAGE_KEYS))
        else:
            yield _system(message, parts)


def _plain_message(message: object) -> ir.Message | None:
    """Decode a message with string content, the most common kind; None for any other."""
    if type(message) is not dict or len(message) != 2:
        return None
    role, content = message.get("role"), message.get("content")
    if type(content) is not str or role not in ("user", "assistant"):
        return None
    return ir.Message(role=role, parts=(ir.Text(text=content),))


_MESSAGE_KEYS = frozenset({"role", "content"})
_SYSTEM_KEYS = _MESSAGE_KEYS | {"clear_at"}


def _user(message: Node, parts: list[ir.Part]) -> Iterable[ir.Message]:
    results = tuple(part for part in parts if isinstance(part, ir.ToolResult))
    rest = tuple(part for part in parts if not isinstance(part, ir.ToolResult))
    if results:
        yield ir.Message(role="tool", parts=results)
    if rest or not results:
        yield ir.Message(role="user", parts=rest, extras=_extras(message, _MESSAGE_KEYS))


def _system(message: Node, parts: list[ir.Part]) -> ir.Message:
    expires = message.get("clear_at")
    return ir.Message(
        role="system",
        authority="system",
        parts=tuple(parts),
        expires=expires.text() if expires else None,
        extras=_extras(message, _SYSTEM_KEYS),
    )


def _attach_call_seals(parts: Sequence[ir.Part]) -> tuple[ir.Part, ...]:
    """Move state that was encoded before its call back to the call; Anthropic's calls can't carry state."""
    calls = {part.call_id for part in parts if isinstance(part, ir.ToolCall)}
    bare_seals = [part for part in parts if _is_bare_seal(part)]
    seals_by_call = {part.seals[0].item_id: part.seals for part in bare_seals if part.seals[0].item_id in calls}
    if not seals_by_call:
        return tuple(parts)
    kept: list[ir.Part] = []
    for part in parts:
        if _is_bare_seal(part) and part.seals[0].item_id in seals_by_call:
            continue
        if isinstance(part, ir.ToolCall) and part.call_id in seals_by_call:
            seals = tuple(msgspec.structs.replace(seal, item_id=None) for seal in seals_by_call[part.call_id])
            kept.append(msgspec.structs.replace(part, seals=seals))
        else:
            kept.append(part)
    return tuple(kept)


def _is_bare_seal(part: ir.Part) -> bool:
    return isinstance(part, ir.Reasoning) and not part.text and bool(part.seals)


def _parts(content: Node, role: str) -> Iterable[ir.Part]:
    if type(content.value) is str:
        yield ir.Text(text=content.value)
        return
    if type(content.value) is not list:
        content.refuse("a string or an array")
    for block in content.array():
        value = block.value
        if type(value) is dict and len(value) == 2 and value.get("type") == "text" and type(value.get("text")) is str:
            yield ir.Text(text=value["text"])  # the most common block; same result as `_part`
        else:
            yield _part(block, role)


def _part(block: Node, role: str) -> ir.Part:
    kind = block.need("type").text()
    match kind:
        case "text":
            return _text(block)
        case "tool_result":
            if role != "user":
                block.fail("tool results are only allowed in user messages.")
            return _tool_result(block)
        case "tool_use" | "thinking" | "redacted_thinking" | "server_tool_use":
            if role != "assistant":
                block.fail(f"{kind} blocks are only allowed in assistant messages.")
            return _assistant_part(block, kind)
        case _:
            return _content_part(block, kind)


def _content_part(block: Node, kind: str) -> ir.Part:
    match kind:
        case "image":
            return _image(block)
        case "document":
            return _document(block)
        case "search_result":
            return _search_result(block)
        case _ if server_tools.is_result(kind):
            return server_tools.decode_result(block.object())
        case _:
            return _opaque(block, kind)


def _assistant_part(block: Node, kind: str) -> ir.Part:
    match kind:
        case "thinking":
            signature = block.get("signature")
            return decode_thinking(block.need("thinking").text(), signature.text() if signature else "")
        case "redacted_thinking":
            return decode_redacted(block.need("data").text())
        case "server_tool_use":
            return ir.ServerToolCall(
                call_id=block.need("id").text(),
                tool=server_tools.canonical_name(block.need("name").text()),
                arguments=_arguments(block),
                extras=_extras(block, _CALL_KEYS),
                cache_mark=_mark(block),
            )
        case _:
            caller = block.get("caller")
            return ir.ToolCall(
                call_id=block.need("id").text(),
                name=block.need("name").text(),
                arguments=_arguments(block),
                caller=caller.object() if caller else None,
                extras=_extras(block, _CALL_KEYS | {"caller"}),
                cache_mark=_mark(block),
            )


_CALL_KEYS = frozenset({"type", "id", "name", "input", "cache_control"})


def _arguments(block: Node) -> str:
    arguments = block.get("input")
    return msgspec.json.encode(arguments.object() if arguments else {}).decode()


def _text(block: Node) -> ir.Text:
    text = block.need("text").text()
    citations = block.get("citations")
    found = citations.array() if citations else []
    return ir.Text(
        text=text,
        citations=tuple(decode_citation(citation.object(), len(text)) for citation in found),
        cache_mark=_mark(block),
        extras=_extras(block, frozenset({"type", "text", "citations", "cache_control"})),
    )


def _image(block: Node) -> ir.Media:
    source, media_type = _source(block.need("source"))
    return ir.Media(
        kind="image",
        source=source,
        media_type=media_type,
        cache_mark=_mark(block),
        extras=_extras(block, frozenset({"type", "source", "cache_control"})),
    )


def _document(block: Node) -> ir.Media | ir.Opaque:
    source_node = block.need("source")
    native_source: JSONObject = {}
    if source_node.need("type").text() == "content":
        text = _joined_text(source_node.need("content"))
        if text is None:
            return _opaque(block, "document")
        source: ir.Source = ir.PlainText(text=text)
        media_type: str | None = "text/plain"
        native_source = {"source": source_node.object()}
    else:
        source, media_type = _source(source_node)
    title, context = block.get("title"), block.get("context")
    extras = _extras(block, frozenset({"type", "source", "title", "context", "cache_control"}))
    if native_source:
        extras = {PROTOCOL: {**extras.get(PROTOCOL, {}), **native_source}}
    return ir.Media(
        kind="document",
        source=source,
        media_type=media_type,
        title=title.text() if title else None,
        context=context.text() if context else None,
        cache_mark=_mark(block),
        extras=extras,
    )


def _search_result(block: Node) -> ir.Media:
    texts = [_text(part).text for part in block.need("content").array() if part.need("type").choice(("text",))]
    native = {key: value for key, value in block.object().items() if key != "cache_control"}
    return ir.Media(
        kind="document",
        source=ir.PlainText(text="\n".join(texts)),
        media_type="text/plain",
        title=block.need("title").text(),
        context=block.need("source").text(),
        cache_mark=_mark(block),
        extras={PROTOCOL: native},
    )


def _joined_text(content: Node) -> str | None:
    """Return the text of a document's content blocks; None if a block is not text."""
    if type(content.value) is str:
        return content.value
    blocks = content.array()
    if any(block.need("type").text() != "text" for block in blocks):
        return None
    return "\n".join(block.need("text").text() for block in blocks)


def _source(source: Node) -> tuple[ir.Source, str | None]:
    kind = source.need("type").choice(("base64", "url", "file", "text"))
    if kind == "url":
        return ir.Link(url=source.need("url").text()), None
    if kind == "file":
        return ir.StoredFile(protocol=PROTOCOL, id=source.need("file_id").text()), None
    media_type = source.get("media_type")
    if kind == "text":
        return ir.PlainText(text=source.need("data").text()), media_type.text() if media_type else "text/plain"
    return ir.InlineData(data=source.need("data").text()), source.need("media_type").text()


def _tool_result(block: Node) -> ir.ToolResult:
    content = block.get("content")
    failed = block.get("is_error")
    parts = tuple(_parts(content, "user")) if content else ()
    return ir.ToolResult(
        call_id=block.need("tool_use_id").text(),
        content=tuple(_result_part(part) for part in parts if part != _EMPTY_TEXT),
        is_error=failed.boolean() if failed else False,
        cache_mark=_mark(block),
        extras=_extras(block, frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})),
    )


_EMPTY_TEXT = ir.Text(text="")


def _result_part(part: ir.Part) -> ir.Text | ir.Media | ir.Opaque:
    """Return a part as content of a tool result; parts that can't be one become `Opaque`."""
    if isinstance(part, ir.Text | ir.Media | ir.Opaque):
        return part
    data = part.extras.get(PROTOCOL, {})
    return ir.Opaque(
        protocol=PROTOCOL, kind=str(data.get("type") or "part"), data=dict(data), cache_mark=part.cache_mark
    )


def _opaque(block: Node, kind: str) -> ir.Opaque:
    return ir.Opaque(protocol=PROTOCOL, kind=kind, data=block.object())


def decode_mark(control: Node) -> ir.CacheMark:
    """Decode a `cache_control` object."""
    control.need("type").choice(("ephemeral",))
    lifetime = control.get("ttl")
    return ir.CacheMark(lifetime=_LIFETIMES[lifetime.choice(tuple(_LIFETIMES))] if lifetime else None)


def _mark(block: Node) -> ir.CacheMark | None:
    control = block.get("cache_control")
    return decode_mark(control) if control else None


def _extras(block: Node, known: frozenset[str]) -> ir.Extras:
    native = block.object()
    if native.keys() <= known:
        return ir.EMPTY
    rest = {key: value for key, value in native.items() if key not in known}
    return {PROTOCOL: rest}
