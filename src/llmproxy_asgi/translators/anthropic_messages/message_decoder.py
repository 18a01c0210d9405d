"""What callers write in `system` and `messages`, read into messages and parts.

Strict where Anthropic is (types, required fields, roles), and each complaint names the field by its path. Blocks that
we have no word for become `Opaque` parts at their place. One user message that mixes results and other blocks is read
as a tool message followed by a user message.
"""

from collections.abc import Iterable, Sequence

import msgspec

from llmproxy_asgi.conversation import (
    EMPTY,
    CacheLifetime,
    CacheMark,
    Extras,
    InlineData,
    JSONObject,
    Link,
    Media,
    Message,
    Opaque,
    Part,
    PlainText,
    Reasoning,
    ServerToolCall,
    Source,
    StoredFile,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.translators.anthropic_messages import server_tools
from llmproxy_asgi.translators.anthropic_messages.citations import decode_citation
from llmproxy_asgi.translators.anthropic_messages.reasoning import decode_redacted, decode_thinking
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.fields import Node

_LIFETIMES: dict[str, CacheLifetime] = {"5m": "5m", "1h": "1h"}


def decode_system(system: Node) -> Message | None:
    """The leading instruction: its texts stay apart, each with its cache mark."""
    if type(system.value) is str:
        parts: tuple[Part, ...] = (Text(text=system.value),) if system.value else ()
    else:
        parts = tuple(_system_part(block) for block in system.array())
    return Message(role="system", authority="system", parts=parts) if parts else None


def _system_part(block: Node) -> Part:
    kind = block.need("type").text()
    if kind != "text":
        return _opaque(block, kind)
    return _text(block)


def decode_messages(messages: Node) -> Iterable[Message]:
    """All turns in their order."""
    turns = messages.array()
    if not turns:
        messages.fail("at least one message is required.")
    for turn in turns:
        if (plain := _plain(turn.value)) is not None:
            yield plain
            continue
        role = turn.need("role").choice(("user", "assistant", "system"))
        parts = list(_parts(turn.need("content"), role))
        if role == "user":
            yield from _user(turn, parts)
        elif role == "assistant":
            yield Message(role="assistant", parts=_with_seals_of_calls(parts), extras=_extras(turn, _TURN_KEYS))
        else:
            yield _system(turn, parts)


def _plain(turn: object) -> Message | None:
    """A turn of one text, as nearly every one is: all that reading it in full would find."""
    if type(turn) is not dict or len(turn) != 2:
        return None
    role, content = turn.get("role"), turn.get("content")
    if type(content) is not str or role not in ("user", "assistant"):
        return None
    return Message(role=role, parts=(Text(text=content),))


_TURN_KEYS = frozenset({"role", "content"})
_SYSTEM_KEYS = _TURN_KEYS | {"clear_at"}


def _user(turn: Node, parts: list[Part]) -> Iterable[Message]:
    results = tuple(part for part in parts if isinstance(part, ToolResult))
    rest = tuple(part for part in parts if not isinstance(part, ToolResult))
    if results:
        yield Message(role="tool", parts=results)
    if rest or not results:
        yield Message(role="user", parts=rest, extras=_extras(turn, _TURN_KEYS))


def _system(turn: Node, parts: list[Part]) -> Message:
    expires = turn.get("clear_at")
    return Message(
        role="system",
        authority="system",
        parts=tuple(parts),
        expires=expires.text() if expires else None,
        extras=_extras(turn, _SYSTEM_KEYS),
    )


def _with_seals_of_calls(parts: Sequence[Part]) -> tuple[Part, ...]:
    """State that was written before a call because Anthropic's calls cannot carry it goes back on its call."""
    calls = {part.call_id for part in parts if isinstance(part, ToolCall)}
    loose = [part for part in parts if _is_state_alone(part)]
    owned = {part.seals[0].item_id: part.seals for part in loose if part.seals[0].item_id in calls}
    if not owned:
        return tuple(parts)
    kept: list[Part] = []
    for part in parts:
        if _is_state_alone(part) and part.seals[0].item_id in owned:
            continue
        if isinstance(part, ToolCall) and part.call_id in owned:
            seals = tuple(msgspec.structs.replace(seal, item_id=None) for seal in owned[part.call_id])
            kept.append(msgspec.structs.replace(part, seals=seals))
        else:
            kept.append(part)
    return tuple(kept)


def _is_state_alone(part: Part) -> bool:
    return isinstance(part, Reasoning) and not part.text and bool(part.seals)


def _parts(content: Node, role: str) -> Iterable[Part]:
    if type(content.value) is str:
        yield Text(text=content.value)
        return
    if type(content.value) is not list:
        content.refuse("a string or an array")
    for block in content.array():
        value = block.value
        if type(value) is dict and len(value) == 2 and value.get("type") == "text" and type(value.get("text")) is str:
            yield Text(text=value["text"])  # nearly every block; all that `_part` would find
        else:
            yield _part(block, role)


def _part(block: Node, role: str) -> Part:
    kind = block.need("type").text()
    match kind:
        case "text":
            return _text(block)
        case "tool_result":
            if role != "user":
                block.fail("tool results may only stand in user messages.")
            return _tool_result(block)
        case "tool_use" | "thinking" | "redacted_thinking" | "server_tool_use":
            if role != "assistant":
                block.fail(f"{kind} blocks may only stand in assistant messages.")
            return _made_by_model(block, kind)
        case _:
            return _given(block, kind)


def _given(block: Node, kind: str) -> Part:
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


def _made_by_model(block: Node, kind: str) -> Part:
    match kind:
        case "thinking":
            signature = block.get("signature")
            return decode_thinking(block.need("thinking").text(), signature.text() if signature else "")
        case "redacted_thinking":
            return decode_redacted(block.need("data").text())
        case "server_tool_use":
            return ServerToolCall(
                call_id=block.need("id").text(),
                tool=server_tools.canonical(block.need("name").text()),
                arguments=_arguments(block),
                extras=_extras(block, _CALL_KEYS),
                cache_mark=_mark(block),
            )
        case _:
            caller = block.get("caller")
            return ToolCall(
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


def _text(block: Node) -> Text:
    text = block.need("text").text()
    citations = block.get("citations")
    found = citations.array() if citations else []
    return Text(
        text=text,
        citations=tuple(decode_citation(citation.object(), len(text)) for citation in found),
        cache_mark=_mark(block),
        extras=_extras(block, frozenset({"type", "text", "citations", "cache_control"})),
    )


def _image(block: Node) -> Media:
    source, media_type = _source(block.need("source"))
    return Media(
        kind="image",
        source=source,
        media_type=media_type,
        cache_mark=_mark(block),
        extras=_extras(block, frozenset({"type", "source", "cache_control"})),
    )


def _document(block: Node) -> Media | Opaque:
    given = block.need("source")
    keep: JSONObject = {}
    if given.need("type").text() == "content":
        text = _joined(given.need("content"))
        if text is None:
            return _opaque(block, "document")
        source: Source = PlainText(text=text)
        media_type: str | None = "text/plain"
        keep = {"source": given.object()}
    else:
        source, media_type = _source(given)
    title, context = block.get("title"), block.get("context")
    extras = _extras(block, frozenset({"type", "source", "title", "context", "cache_control"}))
    if keep:
        extras = {PROTOCOL: {**extras.get(PROTOCOL, {}), **keep}}
    return Media(
        kind="document",
        source=source,
        media_type=media_type,
        title=title.text() if title else None,
        context=context.text() if context else None,
        cache_mark=_mark(block),
        extras=extras,
    )


def _search_result(block: Node) -> Media:
    texts = [_text(part).text for part in block.need("content").array() if part.need("type").choice(("text",))]
    native = {key: value for key, value in block.object().items() if key != "cache_control"}
    return Media(
        kind="document",
        source=PlainText(text="\n".join(texts)),
        media_type="text/plain",
        title=block.need("title").text(),
        context=block.need("source").text(),
        cache_mark=_mark(block),
        extras={PROTOCOL: native},
    )


def _joined(content: Node) -> str | None:
    """The text of a document that is given in blocks; None where it holds more than text."""
    if type(content.value) is str:
        return content.value
    blocks = content.array()
    if any(block.need("type").text() != "text" for block in blocks):
        return None
    return "\n".join(block.need("text").text() for block in blocks)


def _source(source: Node) -> tuple[Source, str | None]:
    kind = source.need("type").choice(("base64", "url", "file", "text"))
    if kind == "url":
        return Link(url=source.need("url").text()), None
    if kind == "file":
        return StoredFile(protocol=PROTOCOL, id=source.need("file_id").text()), None
    media_type = source.get("media_type")
    if kind == "text":
        return PlainText(text=source.need("data").text()), media_type.text() if media_type else "text/plain"
    return InlineData(data=source.need("data").text()), source.need("media_type").text()


def _tool_result(block: Node) -> ToolResult:
    content = block.get("content")
    failed = block.get("is_error")
    parts = tuple(_parts(content, "user")) if content else ()
    return ToolResult(
        call_id=block.need("tool_use_id").text(),
        content=tuple(_within_result(part) for part in parts if part != _EMPTY_TEXT),
        is_error=failed.boolean() if failed else False,
        cache_mark=_mark(block),
        extras=_extras(block, frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})),
    )


_EMPTY_TEXT = Text(text="")


def _within_result(part: Part) -> Text | Media | Opaque:
    """A part of a result; what elsewhere is a part of the conversation is only told here."""
    if isinstance(part, Text | Media | Opaque):
        return part
    data = part.extras.get(PROTOCOL, {})
    return Opaque(protocol=PROTOCOL, kind=str(data.get("type") or "part"), data=dict(data), cache_mark=part.cache_mark)


def _opaque(block: Node, kind: str) -> Opaque:
    return Opaque(protocol=PROTOCOL, kind=kind, data=block.object())


def decode_mark(control: Node) -> CacheMark:
    """A `cache_control` object."""
    control.need("type").choice(("ephemeral",))
    lifetime = control.get("ttl")
    return CacheMark(lifetime=_LIFETIMES[lifetime.choice(tuple(_LIFETIMES))] if lifetime else None)


def _mark(block: Node) -> CacheMark | None:
    control = block.get("cache_control")
    return decode_mark(control) if control else None


def _extras(block: Node, known: frozenset[str]) -> Extras:
    native = block.object()
    if native.keys() <= known:
        return EMPTY
    rest = {key: value for key, value in native.items() if key not in known}
    return {PROTOCOL: rest}
