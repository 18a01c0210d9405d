"""Decode a caller's messages."""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.media import data_url, standard_base64
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.mappings import DETAILS, NATIVE_ISSUER, cache_mark, decode_audio, image_source
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.reasoning import (
    GOOGLE_ISSUER,
    decode_details,
    decode_seal,
    google_signature,
)

_CALL_KINDS: tuple[ir.CallKind, ...] = ("function", "custom")
_ROLES = ("developer", "system", "user", "assistant", "tool", "function")


def decode_messages(node: Node) -> tuple[ir.Message, ...]:
    """Decode the messages; adjacent tool results become one message."""
    messages: list[ir.Message] = []
    results: list[ir.ToolResult] = []
    last_call = ""
    entries = node.array()
    if not entries:
        node.fail("must hold at least one message.", code="empty_array")
    for position, entry in enumerate(entries):
        role = entry.required_choice("role", _ROLES)
        if role in {"tool", "function"}:
            results.append(_result(entry, last_call if role == "function" else None))
            continue
        if results:
            messages.append(ir.Message(role="tool", parts=tuple(results)))
            results = []
        if role == "assistant":
            message, last_call = _assistant(entry, position, last_call)
            messages.append(message)
        else:
            messages.append(_plain(entry, role))
    if results:
        messages.append(ir.Message(role="tool", parts=tuple(results)))
    return tuple(messages)


def _plain(node: Node, role: str) -> ir.Message:
    parts, name = _parts(node.need("content")), _name(node)
    if role == "user":
        return ir.Message(role="user", parts=parts, name=name)
    return ir.Message(role="system", authority="developer" if role == "developer" else "system", parts=parts, name=name)


def _name(node: Node) -> str | None:
    return node.optional_text("name") or None


# ── assistant and tool messages ──────────────────────────────────────────────────────────────────────────────────────


def _assistant(node: Node, position: int, last_call: str) -> tuple[ir.Message, str]:
    calls = [_call(entry) for entry in node.optional_array("tool_calls")]
    old = node.get("function_call")
    if old is not None:
        last_call = derived("call_", "function_call", str(position))
        calls.append(_called(old, last_call, "function"))
    reasoning, sealed = _reasoning(node, [call.call_id for call in calls])
    parts: list[ir.Part] = list(reasoning)
    content = node.get("content")
    if content is not None:
        parts += _parts(content)
    if refusal := node.optional_text("refusal"):
        parts.append(ir.Refusal(text=refusal))
    audio = node.optional_object("audio")
    if audio is not None:
        parts.append(ir.Opaque(protocol=PROTOCOL, kind="audio", data=dict(audio)))
    parts += [_with_seals(call, sealed.get(call.call_id, [])) for call in calls]
    return ir.Message(role="assistant", parts=tuple(parts), name=_name(node)), last_call


def _reasoning(node: Node, call_ids: list[str]) -> tuple[list[ir.Reasoning], dict[str, list[ir.Seal]]]:
    details = node.member("reasoning_details")
    reasoning, sealed = decode_details(details, issuer=NATIVE_ISSUER, call_ids=call_ids)
    if not any(part.text for part in reasoning):
        readable = node.get("reasoning_content") or node.get("reasoning")
        if readable is not None and type(readable.value) is str and readable.value:
            if len(reasoning) == 1 and not reasoning[0].redacted:
                reasoning = [ir.Reasoning(text=readable.value, style=reasoning[0].style, seals=reasoning[0].seals)]
            else:
                reasoning.insert(0, ir.Reasoning(text=readable.value))
    return reasoning, sealed


def _call(node: Node) -> ir.ToolCall:
    call_id = node.filled_text("id")
    kind = node.optional_choice("type", _CALL_KINDS) or ("custom" if node.get("custom") else "function")
    call = _called(node.need(kind), call_id, kind)
    blob = google_signature(node.member("extra_content"))
    return _with_seals(call, [decode_seal(blob, issuer=GOOGLE_ISSUER, kind="signature")] if blob else [])


def _called(node: Node, call_id: str, kind: ir.CallKind) -> ir.ToolCall:
    return ir.ToolCall(
        call_id=call_id,
        kind=kind,
        name=node.required_text("name"),
        arguments=node.optional_text("input" if kind == "custom" else "arguments") or "",
    )


def _with_seals(call: ir.ToolCall, seals: list[ir.Seal]) -> ir.ToolCall:
    """Add seals to a call; of the same state in two fields, the more complete one is kept."""
    if not seals:
        return call
    kept = {(seal.issuer, seal.data): seal for seal in (*call.seals, *seals)}
    return msgspec.structs.replace(call, seals=tuple(kept.values()))


def _result(node: Node, call_id: str | None) -> ir.ToolResult:
    if call_id is None:
        call_id = node.required_text("tool_call_id")
    content = node.get("content")
    parts = _parts(content) if content else ()
    return ir.ToolResult(
        call_id=call_id, content=tuple(part for part in parts if isinstance(part, ir.ResultPart)), name=_name(node)
    )


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(content: Node) -> tuple[ir.Part, ...]:
    if type(content.value) is str:
        return (ir.Text(text=content.value),)
    if type(content.value) is not list:
        content.refuse("a string or an array of parts")
    return tuple([_part(node) for node in content.array()])


def _part(node: Node) -> ir.Part:
    if type(node.value) is str:  # some clients mix bare strings in
        return ir.Text(text=node.value)
    kind = node.required_text("type")
    if kind == "text" and len(node.value) == 2:  # the most common part
        return ir.Text(text=node.required_text("text"))
    match kind:
        case "text" | "input_text" | "output_text":
            return ir.Text(text=node.required_text("text"), cache_mark=cache_mark(node))
        case "image_url":
            return _image(node)
        case "input_audio":
            return decode_audio(node)
        case "file":
            return _file(node)
        case "refusal":
            return ir.Refusal(text=node.required_text("refusal"), cache_mark=cache_mark(node))
        case _:
            return ir.Opaque(protocol=PROTOCOL, kind=kind, data=dict(node.object()), cache_mark=cache_mark(node))


def _image(node: Node) -> ir.Media:
    image = node.need("image_url")
    is_flat = type(image.value) is str
    source, media_type = image_source(image if is_flat else image.need("url"))
    return ir.Media(
        kind="image",
        source=source,
        media_type=media_type,
        detail=None if is_flat else image.optional_choice("detail", DETAILS),
        cache_mark=cache_mark(node),
    )


def _file(node: Node) -> ir.Media:
    file = node.need("file")
    source, media_type = _file_source(file)
    return ir.Media(
        kind="document",
        source=source,
        media_type=media_type,
        name=file.optional_text("filename"),
        cache_mark=cache_mark(node),
    )


def _file_source(file: Node) -> tuple[ir.Source, str | None]:
    stored = file.optional_text("file_id")
    if stored is not None:
        return ir.StoredFile(protocol=PROTOCOL, id=stored), None
    inline = file.need("file_data")
    media_type, data = data_url(inline)
    if data is None:
        if inline.text().startswith(("http://", "https://")):
            return ir.Link(url=inline.text()), "application/pdf"
        data = standard_base64(inline.text())
    return ir.InlineData(data=data), media_type or "application/pdf"
